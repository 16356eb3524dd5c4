from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.usefixtures("chromium")
def test_benchmark_of_the_page_measures_every_opening(tmp_path: Path) -> None:
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / "view_page.py"), "--quick", "--out", str(out)],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert set(figures) == {"100", "1000"}
    for row in figures.values():
        assert all(row[f"{name}, ms"]["median"] > 0 for name in ("list drawn", "page read", "episode shown"))
