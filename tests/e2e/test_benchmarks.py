"""Each benchmark runs as its docstring says, at its quickest, and writes what it found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.pipeline import REPOSITORY

pytestmark = pytest.mark.timeout(600)


def run(tmp_path: Path, script: str, *arguments: str) -> dict[str, Any]:
    """The figures of a quick run."""
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "benchmarks" / script), "--quick", "--out", str(out), *arguments],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=570,
    )  # fmt: skip
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    figures: dict[str, Any] = json.loads(out.read_text())
    return figures


def test_overhead(tmp_path: Path) -> None:
    figures = run(tmp_path, "overhead.py")
    assert set(figures["cpu_us_per_turn"]) == set(figures["late_ms"]) == {"1", "64", "256"}
    assert all(value > 0 for row in figures["cpu_us_by_tokens"].values() for value in row.values())
    assert {goal["goal"].split(",")[0] for goal in figures["goals"]} >= {"p99 stall at 256 episodes"}


def test_before_after_of_the_same_commit(tmp_path: Path) -> None:
    figures = run(tmp_path, "before_after.py", "--before", "HEAD")["figures"]
    assert all(row["before"] > 0 and row["after"] > 0 for row in figures.values())


def test_lock_step(tmp_path: Path) -> None:
    figures = run(tmp_path, "lock_step.py", "--arms", "loop", "lock")
    (repeat,) = figures["repeats"]
    # The engine's own count of steps, and the one without an engine.
    for arm in ("loop", "lock"):
        assert repeat[arm]["steps"] == pytest.approx(repeat[arm]["counted_steps"], rel=0.1)
    assert figures["ratios"]["lock"]["steps"] > 1.5


def test_stop_at_answer(tmp_path: Path) -> None:
    ratios = run(tmp_path, "stop_at_answer.py")["ratios"]
    saved = [ratios["goes on after its answer"][every]["sampled"] for every in ("16", "64", "256")]
    assert saved == sorted(saved)
    assert saved[0] < 0.9
    assert all(row["sampled"] == pytest.approx(1, abs=0.02) for row in ratios["ends with its answer"].values())


def test_retokenise(tmp_path: Path) -> None:
    figures = run(tmp_path, "retokenise.py")
    for model in ("tiny", "bpe"):
        for found in figures[model].values():
            assert 0 <= found["conversations"]["share"] <= 1
            assert found["attempts"]["sequences"] >= found["conversations"]["sequences"]
    assert figures["bpe"]["temperature 1"]["conversations"]["share"] > 0


def test_scaling(tmp_path: Path) -> None:
    figures = run(tmp_path, "scaling.py")
    simulation = figures["simulation"]
    assert (simulation["returned"], simulation["failed"]) == (simulation["episodes"], 0)
    assert simulation["messages"]["acquired"] == simulation["requests_expected"] > 0


def test_engine_gets_the_very_requests_again(tmp_path: Path) -> None:
    figures = run(tmp_path, "engine.py", "--tiny")
    assert figures["prefix_cache"]["agent loop"]["of_known_in_whole_blocks"] == pytest.approx(1, abs=0.02)
    (turn,) = figures["repeats"]
    assert turn["agent loop"]["tokens"] == turn["raw"]["tokens"] == turn["raw in order"]["tokens"] > 0


def test_evaluation(tmp_path: Path) -> None:
    figures = run(tmp_path, "evaluation.py", "--tiny")
    assert figures["throughput"]["ratio"] > 0
    assert figures["protocols"]["nested_to_largest"] > 0


def test_verifier(tmp_path: Path) -> None:
    figures = run(tmp_path, "verifier.py")
    assert figures["judged"] == figures["answers"] > 100
    assert figures["math-verify in-process"]["ratio"] > 0


def test_step_time(tmp_path: Path) -> None:
    (size,) = run(tmp_path, "step_time.py")["sizes"].values()
    assert size["attempts"] >= 32
    assert all(seconds > 0 for seconds in size["package_cpu_s"].values())
    assert 0 < size["package_share"] < size["package_wall_share"] < 1
