from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.pipeline import REPOSITORY, Assets


@pytest.fixture(scope="session")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    """The tiny example with a short warm start: some answers are right, some wrong, some without a box."""
    folder: Path = tmp_path_factory.mktemp("tiny_math")
    command = [sys.executable, "examples/tiny_math/make.py", "--out", str(folder), "--seed", "1", "--steps", "60"]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    return Assets(folder)
