"""The comparison of single- and multi-attempt training, scaled down to two steps of eight episodes and one seed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.pipeline import REPOSITORY

pytestmark = pytest.mark.timeout(1500)

SEED, STEPS, EPISODES, QUESTIONS = 3, 2, 8, 24
ARMS = {"single": 1, "multi": 5}
EVALUATED = ("warm", "single", "multi", "warm-no-repeats", "multi-no-repeats")


def command(out: Path, *arguments: str, **settings: object) -> dict[str, Any]:
    """Arguments of `subprocess.Popen`."""
    values = {"SEEDS": SEED, "STEPS": STEPS, "EPISODES": EPISODES, "QUESTIONS": QUESTIONS, "OUT": out, **settings}
    environment = {
        **os.environ, **{name: str(value) for name, value in values.items()},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    script = str(REPOSITORY / "recipes" / "compare_tiny.sh")
    return {"args": ["bash", script, *arguments], "env": environment, "cwd": out.parent}


def compare(out: Path, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(**command(out, *arguments, **settings), capture_output=True, text=True, check=False)


def processes_of(out: Path) -> list[str]:
    """Command lines that name the folder."""
    lines = (" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"]))
    return [line for line in lines if str(out) in line]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished comparison, which was ended once in the middle of a training."""
    folder: Path = tmp_path_factory.mktemp("compare") / "out"
    with subprocess.Popen(**command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        while not (folder / f"seed-{SEED}" / "single" / "train.log").exists():
            assert first.poll() is None
            time.sleep(0.5)
        busy = compare(folder)
        first.terminate()
        assert first.wait(120) == 130
    assert busy.returncode == 2
    assert "OUT must not be in use by another call" in busy.stderr
    deadline = time.monotonic() + 60
    while processes_of(folder):
        assert time.monotonic() < deadline, processes_of(folder)
        time.sleep(1)
    assert not (folder / "done" / f"seed-{SEED}" / "train-single").exists()
    done = compare(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_arms_have_the_same_episodes_and_differ_in_the_allowance(out: Path) -> None:
    for arm, most in ARMS.items():
        lines = (out / f"seed-{SEED}" / arm / "metrics.jsonl").read_text().splitlines()
        steps = [json.loads(line)["data"] for line in lines]
        assert [step["multiattempt/episodes"] for step in steps] == [EPISODES] * STEPS
        assert max(step["multiattempt/max_attempts/max"] for step in steps) <= most
    (difference,) = re.findall(r"```diff\n(.*?)```", (out / "report.md").read_text(), flags=re.DOTALL)
    changed = [line for line in difference.splitlines() if re.match(r"[+-] ", line)]
    assert changed == ["-  max_attempts: 1", "+  max_attempts: 5"]


def test_every_model_is_evaluated_both_ways_and_the_report_says_it(out: Path) -> None:
    report = (out / "report.md").read_text()
    for model in EVALUATED:
        for temperature in (0, 1):
            path = out / f"seed-{SEED}" / "evaluation" / model / f"temperature-{temperature}" / "results.json"
            results = json.loads(path.read_text())
            accuracy = results["curves"]["paper"]["tiny_math"]["accuracy"]
            assert set(accuracy) == {"1", "2", "3", "4", "5"}
            assert results["settings"]["temperature"] == temperature
            if model == "warm":
                cells = " | ".join(f"{100 * accuracy[k]['value']:.1f} %" for k in "12345")  # one seed: no intervals
                assert f"| `warm start` | {cells} |" in report
    for name in re.findall(r"!\[[^]]*\]\(([^)]*)\)", report):
        assert (out / name).read_bytes().startswith(b"\x89PNG")


def test_a_second_call_repeats_nothing(out: Path) -> None:
    times = (out / "times.tsv").read_text().splitlines()
    done = compare(out)
    assert done.returncode == 0, done.stdout + done.stderr
    after = (out / "times.tsv").read_text().splitlines()
    assert after[: len(times)] == times
    assert [line.split("\t")[0] for line in after[len(times) :]] == ["whole run"]


def test_other_settings_in_the_same_folder_are_refused(out: Path) -> None:
    done = compare(out, STEPS=STEPS + 1)
    assert done.returncode == 2
    assert "OUT must be of a run with the same settings" in done.stderr


@pytest.mark.parametrize(
    ("argument", "settings", "message"),
    [
        ("--fast", {}, "the argument must be --quick or absent; got '--fast'"),
        ("--quick", {"JOBS": "two"}, "JOBS must be a number of at least 1; got 'two'"),
    ],
)
def test_what_cannot_be_run_is_refused_at_once(
    tmp_path: Path, argument: str, settings: dict[str, str], message: str
) -> None:
    done = compare(tmp_path / "out", argument, **settings)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_failed_stage_is_shown_with_the_end_of_its_log(tmp_path: Path) -> None:
    # 6 episodes do not make 4 equal mini-batches: the training stops before it starts anything.
    out = tmp_path / "out"
    (out / "done" / f"seed-{SEED}").mkdir(parents=True)
    for name in ("warm-start", "warm-start-no-repeats"):
        (out / "done" / f"seed-{SEED}" / name).touch()
    for folder in (out / f"seed-{SEED}", out / f"seed-{SEED}" / "no-repeats"):
        (folder / "model").mkdir(parents=True)
    done = compare(out, EPISODES=6)
    assert done.returncode == 1
    assert f"seed-{SEED}/train-single" in done.stderr
    assert "EPISODES must be a multiple of 4" in done.stderr
    assert "run it again to go on" in done.stderr
