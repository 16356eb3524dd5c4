"""The stage prepare of the paper-scale recipes, from a small server that speaks the hub's protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.adapters.test_recipes import MULTI, run_script
from tests.dataset_hub import DatasetHub, serving
from verl_multiattempt.data.benchmarks import RECIPES

NAMES = ("math_train", "aime24", "amc23", "math500", "minerva", "olympiadbench")
LEVELS = (1, 3, 5)


def repository(name: str) -> dict[str, bytes]:
    """A dataset of three questions with the columns that the published one has."""
    split = RECIPES[name].split
    rows: list[dict[str, Any]] = []
    for number, level in enumerate(LEVELS):
        row: dict[str, Any] = {"problem": f"{name}: what is {number} + {number}?", "answer": str(2 * number)}
        if name == "olympiadbench":
            row = {"question": row["problem"], "final_answer": [row["answer"]]}
        rows.append({**row, "level": f"Level {level}"} if name == "math_train" else row)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    readme = f"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: {split}\n    path: {split}*\n---\n"
    return {"README.md": readme.encode(), f"{split}.jsonl": lines.encode()}


@pytest.fixture
def hub() -> Iterator[DatasetHub]:
    with serving({RECIPES[name].hub: repository(name) for name in NAMES}) as server:
        yield server


def test_prepare_makes_what_train_and_evaluate_take_and_keeps_what_is_there(hub: DatasetHub, tmp_path: Path) -> None:
    out = tmp_path / "out"
    environment = {"DRY_RUN": "0", "STAGES": "prepare", "TRAIN": "", "VAL": "", "HF_HOME": str(tmp_path / "home"),
                   "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "NO_PROXY": "*",
                   "HF_HUB_OFFLINE": "0"}  # fmt: skip
    done = run_script(MULTI, tmp_path, out, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    made = {path.stem: path for path in (out / "data").glob("*.parquet")}
    assert sorted(made) == sorted(NAMES)
    for name, path in made.items():
        table = pq.read_table(path)
        assert set(table.column("data_source").to_pylist()) == {name}
        assert table.num_rows == (2 if name == "math_train" else 3)  # of MATH, levels 3 to 5
    before, asked = {path: path.read_bytes() for path in (out / "data").iterdir()}, len(hub.requests)
    made["minerva"].unlink()
    nowhere = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "empty")}
    done = run_script(MULTI, tmp_path, out, **{**environment, **nowhere})
    assert done.returncode == 1
    assert "got 'math-ai/minervamath'" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(hub.requests) == asked
    assert {path: path.read_bytes() for path in (out / "data").iterdir()} == {
        path: content for path, content in before.items() if path != made["minerva"]
    }
    done = run_script(MULTI, tmp_path, out, **environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in (out / "data").iterdir()} == {path.name for path in before}
    assert made["minerva"].read_bytes() == before[made["minerva"]]
