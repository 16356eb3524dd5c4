"""The shell scripts of examples/extending: other verl tasks, trained multi-attempt by the real pipeline."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer
from verl.utils.reward_score import gsm8k

from tests.e2e.pipeline import PROBE_CONFIG, PROBE_SAMPLER, REPOSITORY, Assets, Run

sys.path.insert(0, str(REPOSITORY / "examples" / "extending"))

import code_task

pytestmark = pytest.mark.timeout(1500)

STEPS = 3


@dataclass
class ScriptRun(Run):
    """A run whose command is one of the example's shell scripts."""

    script: str = ""

    def command(self) -> list[str]:
        return [
            "bash", str(REPOSITORY / "examples" / "extending" / self.script),
            f"actor_rollout_ref.rollout.agent.agent_loop_config_path={PROBE_CONFIG}",
            f"trainer.v1.sampler.custom_sampler.path={PROBE_SAMPLER}",
            "trainer.logger=[console,file]", f"trainer.total_training_steps={STEPS}", *self.overrides,
        ]  # fmt: skip


def run_script(script: str, folder: Path, *overrides: str, **environment: str) -> ScriptRun:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = {"OUT": str(folder), "MODEL": "", "PATH": path, **environment}
    return ScriptRun(folder, Assets(folder), overrides, environment=settings, script=script).finish()


@pytest.fixture(scope="module")
def gsm8k_run(benchmark_data: Path, tmp_path_factory: pytest.TempPathFactory) -> ScriptRun:
    rows = str(benchmark_data / "gsm8k_test.jsonl")
    return run_script("gsm8k.sh", tmp_path_factory.mktemp("gsm8k"), TRAIN=rows, VAL=rows)


@pytest.fixture(scope="module")
def code_run(tmp_path_factory: pytest.TempPathFactory) -> ScriptRun:
    # In the pool here; GSM8K's function runs in threads, as by default.
    overrides = ["multiattempt.min_attempts=2", "+multiattempt.verifier.kwargs.run_in=pool"]
    return run_script("code.sh", tmp_path_factory.mktemp("code"), *overrides)


def rows_by_index(run: ScriptRun) -> dict[int, dict[str, Any]]:
    rows = pq.read_table(run.folder / "train.parquet").to_pylist()
    return {row["extra_info"]["index"]: row for row in rows}


def attempts_of(run: ScriptRun) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Each attempt of the training with its row."""
    rows = rows_by_index(run)
    return [(rows[r["index"]], attempt) for r in run.rollouts() for attempt in r["record"]["attempts"]]


def check_metrics(run: ScriptRun) -> None:
    metrics = run.metrics()
    assert sorted(step for step in metrics if step) == [1, 2, 3]
    for step in range(1, STEPS + 1):
        assert metrics[step]["multiattempt/episodes"] == 8
        assert metrics[step]["actor/grad_norm"] > 0
        assert math.isfinite(metrics[step]["critic/vf_loss"])
        assert abs(metrics[step]["rollout_corr/k3_kl"]) < 1e-3
        episodes = [r["record"] for r in run.rollouts() if r["step"] == step]
        solved = sum(record["attempts"][-1]["outcome"] == "CORRECT" for record in episodes)
        assert metrics[step]["multiattempt/accuracy"] == pytest.approx(solved / 8)


def test_gsm8k_trains_on_the_verdicts_of_verls_own_function(gsm8k_run: ScriptRun) -> None:
    check_metrics(gsm8k_run)
    seen = Counter()
    for row, attempt in attempts_of(gsm8k_run):
        answer = gsm8k.extract_solution(attempt["text"])
        right = gsm8k.compute_score(attempt["text"], row["reward_model"]["ground_truth"]) == 1
        expected = "NO_ANSWER" if answer is None else "CORRECT" if right else "INCORRECT"
        assert attempt["outcome"] == expected, attempt
        assert (attempt["answer"] or "").replace(",", "") == (answer or "")
        seen[expected] += 1
    assert seen["INCORRECT"] >= 5, seen
    assert seen["NO_ANSWER"] >= 1, seen
    # Right ones come by chance, if at all: the model was warm-started on answers drawn at random.


def test_gsm8k_prompts_ask_for_verls_format_and_not_for_a_box(gsm8k_run: ScriptRun) -> None:
    tokenizer = AutoTokenizer.from_pretrained(gsm8k_run.folder / "model")
    prompts = [tokenizer.decode(r["prompt_ids"]) for r in gsm8k_run.rollouts()]
    assert len(prompts) == 8 * STEPS
    for prompt in prompts:
        assert "boxed" not in prompt
        assert 'the final answer after "####"' in prompt


def test_code_trains_on_the_verdicts_of_the_tests(code_run: ScriptRun) -> None:
    check_metrics(code_run)
    seen = Counter()
    for row, attempt in attempts_of(code_run):
        score = code_task.compute_score("", attempt["text"], row["reward_model"]["ground_truth"])
        right = score["score"] == 1
        expected = "NO_ANSWER" if score["answer"] is None else "CORRECT" if right else "INCORRECT"
        assert attempt["outcome"] == expected, attempt
        assert attempt["answer"] == score["answer"]
        assert attempt["verifier_feedback"] == score["feedback"]
        seen[expected] += 1
    assert seen["INCORRECT"] >= 5, seen
    assert seen["NO_ANSWER"] >= 1, seen
    # Right ones come by chance, if at all: the model was warm-started on answers drawn at random.


def test_code_feedback_with_the_failing_test_is_what_the_model_saw(code_run: ScriptRun) -> None:
    tokenizer = AutoTokenizer.from_pretrained(code_run.folder / "model")
    failing_tests = 0
    for rollout in code_run.rollouts():
        attempts = rollout["record"]["attempts"]
        assert len(rollout["attempts"]) == len(attempts)
        for number, attempt in enumerate(attempts[:-1]):
            text = attempt["verifier_feedback"]
            assert attempt["feedback"].startswith(f"{text}\nYour answer is incorrect. You have ")
            # The ids with which the engine was asked for the next attempt.
            next_prompt = tokenizer.decode(rollout["attempts"][number + 1]["prompt_ids"])
            assert text in next_prompt
            failing_tests += text.startswith("Test failed: f(")
    assert failing_tests >= 3
