"""What ``--model`` may name: hub names, folders, verl's checkpoints; merging itself is tested in tests/adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from verl_multiattempt.evaluation.checkpoint import resolve_model


def make_model(folder: Path, *, weights: str | None = "model.safetensors") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    if weights:
        (folder / weights).write_bytes(b"")
    return folder


def make_checkpoint(run: Path, step: int, *, world_size: int = 2, shards: int = 2, weights: bool = False) -> Path:
    actor = run / f"global_step_{step}" / "actor"
    make_model(actor / "huggingface", weights="model.safetensors" if weights else None)
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": world_size}))
    for rank in range(shards):
        (actor / f"model_world_size_{world_size}_rank_{rank}.pt").write_bytes(b"")
    (run / "latest_checkpointed_iteration.txt").write_text(f"{step}\n")
    return actor


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-0.5B-Instruct", "gpt2", "org_1/a.b-c"])
def test_a_hub_name_passes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_model(name, tmp_path / "cache") == name
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["./gone", "/gone/model", "a/b/c", "../x", ""])
def test_a_path_that_is_not_there_is_no_hub_name(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if not name:
        (tmp_path / "file").touch()
        name = str(tmp_path / "file")
    with pytest.raises(ValueError, match="model must be a"):
        resolve_model(name, tmp_path / "cache")


@pytest.mark.parametrize("weights", ["model.safetensors", "model-00001-of-00002.safetensors", "pytorch_model.bin"])
def test_a_models_folder_passes(weights: str, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", weights=weights)
    assert resolve_model(str(folder), tmp_path / "cache") == str(folder)


@pytest.mark.parametrize("below", ["", "global_step_3", "global_step_3/actor", "global_step_3/actor/huggingface"])
def test_weights_beside_the_shards_are_taken(below: str, tmp_path: Path) -> None:
    actor = make_checkpoint(tmp_path / "run", 3, weights=True)
    assert resolve_model(str(tmp_path / "run" / below), tmp_path / "cache") == str(actor / "huggingface")


def test_the_latest_checkpoint_of_a_run_is_taken(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "run" / "checkpoints", 3, weights=True)
    actor = make_checkpoint(tmp_path / "run" / "checkpoints", 12, weights=True)
    assert resolve_model(str(tmp_path / "run"), tmp_path / "cache") == str(actor / "huggingface")


def test_a_latest_checkpoint_that_was_deleted_is_told(tmp_path: Path) -> None:
    make_checkpoint(tmp_path, 3, weights=True)
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("7")
    with pytest.raises(ValueError, match="must name a checkpoint beside it; got '7', and no folder global_step_7"):
        resolve_model(str(tmp_path), tmp_path / "cache")


def test_missing_shards_are_named(tmp_path: Path) -> None:
    actor = make_checkpoint(tmp_path, 3, world_size=4, shards=2)
    (actor / "huggingface" / "config.json").unlink()
    with pytest.raises(ValueError, match="must be complete") as error:
        resolve_model(str(tmp_path), tmp_path / "cache")
    for name in ("model_world_size_4_rank_2.pt", "model_world_size_4_rank_3.pt", "huggingface/config.json"):
        assert name in str(error.value)
    assert "rank_1.pt" not in str(error.value)


def test_a_broken_fsdp_config_is_told(tmp_path: Path) -> None:
    (make_checkpoint(tmp_path, 3) / "fsdp_config.json").write_text("{}")
    with pytest.raises(ValueError, match="must give the world_size"):
        resolve_model(str(tmp_path), tmp_path / "cache")


def test_the_critic_is_refused(tmp_path: Path) -> None:
    make_model(tmp_path / "critic" / "huggingface", weights=None)
    with pytest.raises(ValueError, match="must be the actor's checkpoint"):
        resolve_model(str(tmp_path / "critic"), tmp_path / "cache")


def test_megatrons_checkpoint_gets_the_command_that_merges_it(tmp_path: Path) -> None:
    (tmp_path / "actor" / "model" / "huggingface").mkdir(parents=True)
    with pytest.raises(ValueError, match="--backend megatron"):
        resolve_model(str(tmp_path), tmp_path / "cache")


def test_a_folder_with_nothing_of_the_kind_says_what_is_missing(tmp_path: Path) -> None:
    make_model(tmp_path, weights=None)
    with pytest.raises(ValueError, match=r"neither weights nor fsdp_config\.json"):
        resolve_model(str(tmp_path), tmp_path / "cache")
