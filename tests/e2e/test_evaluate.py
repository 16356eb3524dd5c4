"""The command ``multiattempt evaluate`` with vLLM on the CPU: killed, interrupted, gone on from."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from math import comb
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.pipeline import PPO_STEPS, REPOSITORY, Assets, Run

pytestmark = pytest.mark.timeout(900)

QUESTIONS, MOST = 60, 3
NUM_EPISODES = QUESTIONS * (1 + MOST + 1)  # nested, samples, no_feedback


def command(assets: Assets, out: Path, *arguments: str) -> list[str]:
    return [
        sys.executable, "-m", "verl_multiattempt", "evaluate", "--model", str(assets.model),
        "--data", str(assets.folder / "val.parquet"), "--out", str(out), "--limit", str(QUESTIONS),
        "--attempts", "1", str(MOST), "--max-tokens", "120", "--max-tokens-per-attempt", "8",
        "--set", "min_tokens_per_attempt=8", "--concurrency", "16", *arguments,
    ]  # fmt: skip


SAMPLED = ("--temperature", "1", "--controls", "samples", "no_feedback")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


def finish(arguments: list[str], timeout_s: float = 250) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        arguments, cwd=REPOSITORY, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=timeout_s,
    )  # fmt: skip
    print(done.stdout, done.stderr)
    return done


def num_lines(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.glob("*/episodes-*.jsonl"))


def signal_when(
    arguments: list[str], number: signal.Signals, reached: Callable[[], bool], log: Path, timeout_s: float = 250
) -> int:
    """Start a command in a process group of its own and send it a signal as soon as ``reached``; its exit status."""
    deadline = time.monotonic() + timeout_s
    with log.open("w") as output:
        process = subprocess.Popen(
            arguments, cwd=REPOSITORY, env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
        try:
            while not reached():
                assert process.poll() is None, f"ended by itself:\n{log.read_text()[-4000:]}"
                assert time.monotonic() < deadline, f"not reached in time:\n{log.read_text()[-4000:]}"
                time.sleep(0.02)
            process.send_signal(number)
            return process.wait(max(1.0, deadline - time.monotonic()))
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: timeless(item) for name, item in value.items() if name not in ("seconds", "started_at")}
    return value


def results_text(out: Path) -> str:
    """results.json as it is, but for times."""
    return json.dumps(timeless(json.loads((out / "results.json").read_text())), indent=2)


@pytest.fixture(scope="module")
def whole(assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that nothing interrupted."""
    out = tmp_path_factory.mktemp("evaluate") / "whole"
    done = finish(command(assets, out, *SAMPLED))
    assert done.returncode == 0
    assert "nested: 3 attempts allowed" in done.stdout
    return out


def test_all_episodes_are_logged_and_the_figures_are_theirs(whole: Path) -> None:
    assert num_lines(whole) == NUM_EPISODES
    results = json.loads((whole / "results.json").read_text())
    for kind, folder in {"nested": "nested-3", "samples": "samples", "no_feedback": "no_feedback-3"}.items():
        solved: dict[str, list[int | None]] = {}
        sampled = 0
        for path in (whole / folder).glob("episodes-*.jsonl"):
            for line in path.read_text().splitlines():
                episode = json.loads(line)
                outcomes = [attempt["outcome"] for attempt in episode["attempts"]]
                at = outcomes.index("CORRECT") + 1 if "CORRECT" in outcomes else None
                solved.setdefault(episode["question_id"], []).append(at)
                sampled += sum(attempt["num_tokens"] for attempt in episode["attempts"])
        assert len(solved) == QUESTIONS
        for k in (1, MOST):
            if kind == "samples":
                right = [sum(at is not None for at in found) for found in solved.values()]
                share = sum(1 - comb(MOST - c, k) / comb(MOST, k) for c in right) / QUESTIONS
            else:
                share = sum(at is not None and at <= k for found in solved.values() for at in found) / QUESTIONS
            assert results["curves"][kind]["mean"]["accuracy"][str(k)]["value"] == pytest.approx(share)
        assert results["runs"][folder]["benchmarks"]["tiny_math"]["tokens"]["sampled"] == sampled
    # A warm start of 60 steps knows some answers.
    assert 0.05 < results["curves"]["nested"]["mean"]["accuracy"]["3"]["value"] < 1
    assert results["engine"]["kind"] == "vllm"


def test_killed_at_a_random_point_and_run_again_equals_uninterrupted(
    whole: Path, assets: Assets, tmp_path: Path
) -> None:
    seed = random.randrange(1000)
    point = random.Random(seed).randrange(1, NUM_EPISODES)
    print(f"seed {seed}: killed after {point} of {NUM_EPISODES} episodes")
    out = tmp_path / "killed"
    arguments = command(assets, out, *SAMPLED)
    status = signal_when(arguments, signal.SIGKILL, lambda: num_lines(out) >= point, tmp_path / "log.txt")
    assert status == -signal.SIGKILL
    assert not (out / "results.json").exists()
    ended = num_lines(out)
    assert point <= ended < NUM_EPISODES
    done = finish(arguments)
    assert done.returncode == 0
    assert f"of which {ended:,} are done" in done.stderr
    assert num_lines(out) == NUM_EPISODES  # none was run twice
    assert results_text(out) == results_text(whole)


def test_ctrl_c_says_how_to_go_on(assets: Assets, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log.txt"
    status = signal_when(command(assets, out, *SAMPLED), signal.SIGINT, lambda: num_lines(out) >= 10, log)
    text = log.read_text()
    assert status == 130, text[-3000:]
    assert f"episodes are in {out}; the same command goes on from there" in text
    assert "Traceback" not in text


def test_other_settings_in_the_same_folder_are_refused_with_the_difference(whole: Path, assets: Assets) -> None:
    before = (whole / "results.json").read_bytes()
    done = finish(command(assets, whole, *SAMPLED, "--top-p", "0.5"))
    assert done.returncode == 2
    assert "top_p: 1.0 there, 0.5 now" in done.stderr
    assert "Traceback" not in done.stderr
    assert (whole / "results.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--samples", "3"], "multiattempt evaluate: --samples must be 1 at temperature 0"),
        (["--data", "math501"], "'math501'"),
        (["--set", "stop_at_answer=perhaps"], "multiattempt.stop_at_answer must be true or false; got 'perhaps'"),
        (["--base-url", "http://localhost:1", "--dtype", "float16"], "--dtype must go without the engine openai"),
    ],
)
def test_bad_argument_is_one_sentence_and_status_2(
    assets: Assets, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    done = finish(command(assets, tmp_path / "out", *arguments))
    assert done.returncode == 2
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_episodes_can_be_read_with_view(whole: Path) -> None:
    done = finish(
        [sys.executable, "-m", "verl_multiattempt", "view", str(whole / "nested-3"), "--text", "--limit", "1"]
    )
    assert done.returncode == 0
    assert "tiny_math/" in done.stdout


def attempts_of(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Text and outcome of each attempt, by question."""
    lines = (line for path in folder.glob("episodes-*.jsonl") for line in path.read_text().splitlines())
    return {
        episode["question_id"]: [(attempt["text"], attempt["outcome"]) for attempt in episode["attempts"]]
        for episode in map(json.loads, lines)
    }


@pytest.mark.parametrize("trained", [False, True], ids=["before training", "after training"])
def test_greedy_both_protocols_agree_at_the_largest_k(
    trained: bool, assets: Assets, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    out, arguments = tmp_path / "out", ["--protocol", "nested", "paper"]
    if trained:
        run: Run = request.getfixturevalue("ppo_run")
        arguments += ["--model", str(run.folder / "checkpoints")]
    done = finish(command(assets, out, *arguments), timeout_s=400)
    assert done.returncode == 0
    results = json.loads((out / "results.json").read_text())
    nested, paper = (results["curves"][kind]["mean"]["accuracy"] for kind in ("nested", "paper"))
    # The same opening, so the same episodes, question by question.
    episodes = attempts_of(out / f"nested-{MOST}")
    assert len(episodes) == QUESTIONS
    assert attempts_of(out / f"paper-{MOST}") == episodes
    assert nested[str(MOST)]["value"] == paper[str(MOST)]["value"]
    assert any(len(attempts) > 1 for attempts in episodes.values())
    # Another opening where one attempt is allowed; its figure is of that run alone.
    first = attempts_of(out / "paper-1")
    assert {len(attempts) for attempts in first.values()} == {1}
    assert paper["1"]["value"] == sum(attempts[0][1] == "CORRECT" for attempts in first.values()) / QUESTIONS
    assert nested["1"]["value"] == sum(attempts[0][1] == "CORRECT" for attempts in episodes.values()) / QUESTIONS
    if trained:
        assert results["label"].endswith(f"/global_step_{PPO_STEPS}")
        loaded = Path(results["engine"]["model"])  # merged, or saved whole beside the shards
        assert loaded.parent == out / "model" or loaded.match(f"global_step_{PPO_STEPS}/actor/huggingface")
        assert results["model"] == arguments[-1]
    else:
        assert results["label"] == "/".join(assets.model.parts[-2:])
    assert results["identity"]["model_fingerprint"]
