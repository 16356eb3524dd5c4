"""What the tests of the preflight share: a model folder, data files and a config that passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from omegaconf import DictConfig, OmegaConf

from tests.adapters.harness import compose_config
from tests.tokenizers import CHATML, make_tokenizer
from verl_multiattempt import cpu

Row = dict[str, Any]


def good_row(**changes: Any) -> Row:
    """A row in verl's format."""
    return {
        "data_source": "test",
        "prompt": [{"role": "user", "content": "Compute 12*34 mod 6 = ?"}],
        "reward_model": {"style": "rule", "ground_truth": "0"},
        "extra_info": {"index": 0},
        **changes,
    }


def write_rows(path: Path, rows: list[Row]) -> Path:
    """Write ``rows`` as the file's suffix says."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder with a tokenizer of the given chat template and the config of a small Qwen2 model, without weights."""
    made: dict[str | None, Path] = {}

    def make(template: str | None = CHATML) -> Path:
        if template not in made:
            folder = tmp_path_factory.mktemp("model")
            tokenizer = make_tokenizer(template or CHATML)
            tokenizer.save_pretrained(folder)
            if template is None:
                (folder / "chat_template.jinja").unlink()
            config = {
                "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": len(tokenizer),
                "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
                "num_key_value_heads": 2, "max_position_embeddings": 1024, "tie_word_embeddings": False,
            }  # fmt: skip
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
            made[template] = folder
        return made[template]

    return make


@pytest.fixture(scope="session")
def data_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A parquet file of three good rows."""
    return write_rows(tmp_path_factory.mktemp("data") / "good.parquet", [good_row()] * 3)


@pytest.fixture
def good_config(
    model_dir: Callable[..., Path], data_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., DictConfig]:
    """Makes a config that passes the preflight on this machine, with the given keys changed."""
    if cpu.find_accelerator() is not None:
        monkeypatch.setattr(cpu, "check_cpu_platform", lambda: None)

    def make(changes: dict[str, Any] | None = None) -> DictConfig:
        config = compose_config()
        basis = {
            "actor_rollout_ref.model.path": str(model_dir()),
            "data.train_files": str(data_file),
            "data.val_files": str(data_file),
            "data.train_batch_size": 1,
        }
        for key, value in {**basis, **(changes or {})}.items():
            OmegaConf.update(config, key, value, force_add=True)
        return config

    return make
