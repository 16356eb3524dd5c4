from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.e2e.pipeline import PPO_OVERRIDES, REPOSITORY, Assets, Run


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    """The tiny example with a short warm start: some answers are right, some wrong, some without a box."""
    folder: Path = tmp_path_factory.mktemp("tiny_math")
    command = [sys.executable, "examples/tiny_math/make.py", "--out", str(folder), "--seed", "1", "--steps", "60"]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    return Assets(folder)


@pytest.fixture(scope="session")
def ppo_run(assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An uninterrupted run with checkpoints, and validation before it on rows whose own allowance is 1."""
    folder = tmp_path_factory.mktemp("whole")
    rows = pq.read_table(assets.folder / "val.parquet").slice(0, 16).to_pylist()
    for row in rows:
        row["extra_info"]["max_attempts"] = 1
    table = type(pq.read_table(assets.folder / "val.parquet")).from_pylist(rows)
    pq.write_table(table, folder / "val.parquet")
    overrides = [*PPO_OVERRIDES, f"data.val_files={folder / 'val.parquet'}", "trainer.val_before_train=true"]
    return Run(folder, assets, overrides, probe=True).finish()
