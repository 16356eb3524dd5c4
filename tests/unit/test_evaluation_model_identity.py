"""A folder's results are of one model: whatever of it changes is noticed, whatever the checkpoint's form."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation_engine import ScriptedEngine, question_row, write_questions
from verl_multiattempt.cli_errors import UsageError
from verl_multiattempt.evaluation.command import evaluate
from verl_multiattempt.evaluation.model_identity import commits, default_label, fingerprint
from verl_multiattempt.evaluation.settings import EvaluationSettings
from verl_multiattempt.settings import Settings

SMALL = ("config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json", "chat_template.jinja",
         "vocab.txt", "modeling.py", "additional_chat_templates/tool.jinja")  # fmt: skip


def make_model(folder: Path, *, weights: bytes | None = bytes(1000)) -> Path:
    (folder / "additional_chat_templates").mkdir(parents=True)
    for name in SMALL:
        (folder / name).write_text("{}")
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    return folder


def make_checkpoint(run: Path, *, merged: bool, step: int = 1) -> Path:
    """A checkpoint of verl's: shards, or weights saved beside them."""
    actor = run / f"global_step_{step}" / "actor"
    make_model(actor / "huggingface", weights=bytes(1000) if merged else None)
    (actor / "fsdp_config.json").write_text('{"world_size": 1}')
    if not merged:
        (actor / "model_world_size_1_rank_0.pt").write_bytes(bytes(1000))
    return actor


def run(model: str | Path, tmp_path: Path, **engine: Any) -> dict[str, Any]:
    data = tmp_path / "q.parquet"
    if not data.exists():
        write_questions(data, [question_row(1), question_row(2)])
    settings = EvaluationSettings(
        model=str(model), data=(str(data),), attempts=(1, 2), task=Settings(max_attempts=2),
        engine={"kind": "vllm", **engine},
    )  # fmt: skip
    assert evaluate(settings, tmp_path / "out", lambda _: ScriptedEngine()) == 0
    return json.loads((tmp_path / "out" / "results.json").read_text())


def flip(path: Path, at: int = 500) -> None:
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["model.safetensors", *SMALL])
def test_a_models_file_that_changed_is_refused(name: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model")
    first = run(model, tmp_path)
    assert run(model, tmp_path) == first
    flip(model / name)
    with pytest.raises(UsageError, match=r"model_fingerprint: '[0-9a-f]{64}' there, '[0-9a-f]{64}' now"):
        run(model, tmp_path)


@pytest.mark.parametrize(
    ("merged", "name"),
    [
        (True, "huggingface/model.safetensors"),
        (True, "huggingface/chat_template.jinja"),
        (False, "model_world_size_1_rank_0.pt"),
        (False, "huggingface/tokenizer.json"),
    ],
)
@pytest.mark.parametrize("named", ["run", "run/global_step_1", "run/global_step_1/actor"])
def test_a_checkpoints_file_that_changed_is_refused(merged: bool, name: str, named: str, tmp_path: Path) -> None:
    actor = make_checkpoint(tmp_path / "run", merged=merged)
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text("1")
    first = run(tmp_path / named, tmp_path)
    assert first["identity"]["model_fingerprint"]
    flip(actor / name)
    with pytest.raises(UsageError, match="model_fingerprint"):
        run(tmp_path / named, tmp_path)


def test_a_run_that_has_gone_on_is_another_model(tmp_path: Path) -> None:
    for step in (1, 2):
        actor = make_checkpoint(tmp_path / "run", merged=False, step=step)
        (actor / "model_world_size_1_rank_0.pt").write_bytes(bytes([step]) * 1000)
    latest = tmp_path / "run" / "latest_checkpointed_iteration.txt"
    latest.write_text("1")
    run(tmp_path / "run", tmp_path)
    latest.write_text("2")
    with pytest.raises(UsageError, match="model_fingerprint"):
        run(tmp_path / "run", tmp_path)


def test_a_folder_without_weights_is_refused_before_anything_runs(tmp_path: Path) -> None:
    make_model(tmp_path / "model", weights=None)
    with pytest.raises(UsageError, match=r"--model must be a folder with config\.json and weights"):
        run(tmp_path / "model", tmp_path)


def test_a_tokenizer_of_its_own_that_changed_is_refused(tmp_path: Path) -> None:
    tokenizer = make_model(tmp_path / "tokenizer", weights=None)
    run("org/name", tmp_path, tokenizer=str(tokenizer))
    flip(tokenizer / "chat_template.jinja")
    with pytest.raises(UsageError, match="tokenizer_fingerprint"):
        run("org/name", tmp_path, tokenizer=str(tokenizer))


def test_files_that_are_not_loaded_do_not_count(tmp_path: Path) -> None:
    model = make_model(tmp_path / "a")
    before = fingerprint(model, [model / "model.safetensors"])
    (model / "README.md").write_text("new")
    (model / "results.json").write_text("{}")
    assert fingerprint(model, [model / "model.safetensors"]) == before
    copied = shutil.copytree(model, tmp_path / "b")
    assert fingerprint(copied, [copied / "model.safetensors"]) == before


def test_large_weights_are_read_in_pieces_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verl_multiattempt.evaluation.model_identity._WHOLE_BYTES", 2**20)
    model = make_model(tmp_path / "a", weights=None)
    path = model / "model.safetensors"
    with path.open("wb") as file:
        file.truncate(2**31)  # sparse
    seen = {fingerprint(model, [path])}
    for at in (0, 2**31 - 1):
        with path.open("r+b") as file:
            file.seek(at)
            file.write(b"x")
        seen.add(fingerprint(model, [path]))
    assert len(seen) == 3


@pytest.fixture
def download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Put a commit into an empty cache of the hub, as its client does."""
    cache = tmp_path / "hub"
    cache.mkdir()
    import huggingface_hub.file_download

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))

    def put(name: str, commit: str) -> None:
        folder = cache / f"models--{name.replace('/', '--')}"
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "snapshots" / commit / "config.json").write_text("{}")
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)

    return put


def test_a_hub_models_commit_is_recorded_once_it_is_known(tmp_path: Path, download: Callable[[str, str], None]) -> None:
    def settings() -> dict[str, Any]:
        return json.loads((tmp_path / "out" / "settings.json").read_text())

    assert run("org/name", tmp_path)["identity"]["model_commit"] is None
    assert settings()["model_commit"] is None
    download("org/name", "a" * 40)
    assert run("org/name", tmp_path)["identity"]["model_commit"] == "a" * 40
    assert settings()["model_commit"] == "a" * 40
    download("org/name", "b" * 40)
    with pytest.raises(UsageError, match=f"model_commit: '{'a' * 40}' there, '{'b' * 40}' now"):
        run("org/name", tmp_path)


def test_a_servers_model_has_no_commit_of_ours(tmp_path: Path, download: Callable[[str, str], None]) -> None:
    download("org/name", "a" * 40)
    settings = EvaluationSettings(model="org/name", data=("q",), engine={"kind": "openai", "tokenizer": "org/name"})
    assert commits(settings) == {"model_commit": None, "tokenizer_commit": "a" * 40}


def test_the_default_label_tells_runs_apart(tmp_path: Path) -> None:
    for run_name in ("expA", "expB"):
        actor = make_checkpoint(tmp_path / run_name / "checkpoints", merged=run_name == "expA", step=100)
        (tmp_path / run_name / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("100")
        for folder in (actor, actor.parent, actor / "huggingface", tmp_path / run_name, tmp_path / run_name / "."):
            assert default_label(str(folder)) == f"{run_name}/global_step_100"
    make_model(tmp_path / "seed1" / "model")
    assert default_label(str(tmp_path / "seed1" / "model") + "/") == "seed1/model"
    assert default_label("Qwen/Qwen2.5-Math-1.5B") == "Qwen/Qwen2.5-Math-1.5B"
    assert default_label("/models/of/the/server") == "the/server"
