"""Checkpoints are merged by verl's own merger, in one step or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

from tests.tokenizers import make_tokenizer
from verl_multiattempt.evaluation.checkpoint import resolve_model


def make_checkpoint(run: Path) -> tuple[Path, Qwen2ForCausalLM]:
    """What verl saves with one worker, less the optimiser, and without weights beside it."""
    actor, tokenizer = run / "global_step_4" / "actor", make_tokenizer()
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=False,
    ))  # fmt: skip
    model.config.architectures = ["Qwen2ForCausalLM"]
    model.config.save_pretrained(actor / "huggingface")
    tokenizer.save_pretrained(actor / "huggingface")
    torch.save(model.state_dict(), actor / "model_world_size_1_rank_0.pt")
    (actor / "fsdp_config.json").write_text(json.dumps({"FSDP_version": 2, "world_size": 1}))
    return actor, model


def test_a_checkpoint_is_merged_once_and_again_when_it_has_changed(tmp_path: Path) -> None:
    actor, model = make_checkpoint(tmp_path / "run")
    cache = tmp_path / "cache"
    merged = resolve_model(str(tmp_path / "run" / "global_step_4"), cache)
    loaded = AutoModelForCausalLM.from_pretrained(merged).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(loaded[name].float(), value.bfloat16().float()), name
    assert AutoTokenizer.from_pretrained(merged).chat_template
    assert [path.name for path in cache.iterdir()] == [Path(merged).name]

    made = (Path(merged) / "config.json").stat().st_mtime_ns
    assert resolve_model(str(actor), cache) == merged
    assert (Path(merged) / "config.json").stat().st_mtime_ns == made

    torch.save({name: value + 1 for name, value in model.state_dict().items()}, actor / "model_world_size_1_rank_0.pt")
    assert resolve_model(str(actor), cache) != merged


def test_a_merge_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    actor, _ = make_checkpoint(tmp_path / "run")
    (actor / "model_world_size_1_rank_0.pt").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"its merger ended with status 1: .*Error"):
        resolve_model(str(actor), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
