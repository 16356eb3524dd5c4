from __future__ import annotations

from typing import Any

import pytest

from verl_multiattempt.evaluation.plan import episode_seed, plan_runs
from verl_multiattempt.evaluation.settings import EvaluationSettings, differences
from verl_multiattempt.settings import Settings


def make(**changes: Any) -> EvaluationSettings:
    return EvaluationSettings(**{"model": "m", "data": ("q.parquet",), **changes})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": ""}, "model must be a name on the hub or a folder; got ''"),
        ({"data": ()}, "data must name at least one parquet file or benchmark; got []"),
        ({"protocols": ("nest",)}, "protocols must be of nested, paper; got 'nest'"),
        ({"protocols": ("paper", "paper")}, "protocols must name each one once; got ['paper', 'paper']"),
        ({"protocols": ()}, "protocols must not be empty where there is no control; got []"),
        ({"controls": ("feedback",)}, "controls must be of samples, no_feedback; got 'feedback'"),
        ({"attempts": ()}, "attempts must be integers of at least 1; got []"),
        ({"attempts": (0, 1)}, "attempts must be integers of at least 1; got [0, 1]"),
        ({"attempts": (2, 1)}, "attempts must rise without repeats; got [2, 1]"),
        ({"attempts": (True,)}, "attempts must be integers of at least 1; got [True]"),
        ({"temperature": -1}, "temperature must be a finite number of at least 0; got -1"),
        ({"temperature": float("nan")}, "temperature must be a finite number of at least 0; got nan"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1; got 0"),
        ({"samples": 0}, "samples must be an integer of at least 1; got 0"),
        ({"samples": 2}, "samples must be 1 at temperature 0, where all samples of a question are equal; got 2. "
                         "Set a temperature, such as --temperature 1."),
        ({"controls": ("samples",)}, "controls must not hold samples at temperature 0, where all samples of a question "
                                     "are equal; got ['samples']. Set a temperature, such as --temperature 1."),
        ({"max_tokens": 0}, "max_tokens must be an integer of at least 1; got 0"),
        ({"limit": 0}, "limit must be an integer of at least 1; got 0"),
        ({"concurrency": -3}, "concurrency must be an integer of at least 1; got -3"),
        ({"seed": -1}, "seed must be an integer of at least 0; got -1"),
    ],
)  # fmt: skip
def test_value_that_cannot_work_is_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the sentence is compared below)
        make(**changes)
    assert str(caught.value) == sentence


def test_nested_is_one_run_and_paper_is_one_for_each_k() -> None:
    nested, paper = plan_runs(make()), plan_runs(make(protocols=("paper",), attempts=(1, 3)))
    assert [(run.name, run.max_attempts, run.ks, run.samples) for run in nested] == [
        ("nested-5", 5, (1, 2, 3, 4, 5), 1)
    ]
    assert [(run.name, run.max_attempts, run.ks) for run in paper] == [("paper-1", 1, (1,)), ("paper-3", 3, (3,))]
    assert {run.measure for run in [*nested, *paper]} == {"accuracy@k"}


def test_controls_cost_at_most_as_many_attempts_as_the_nested_run() -> None:
    settings = make(controls=("samples", "no_feedback"), temperature=1.0, samples=3, attempts=(1, 4))
    nested, samples, silent = plan_runs(settings)
    assert (samples.name, samples.max_attempts, samples.samples, samples.measure) == ("samples", 1, 12, "pass@k")
    assert (silent.name, silent.max_attempts, silent.samples, silent.feedback) == ("no_feedback-4", 4, 3, False)
    assert {run.max_attempts * run.samples for run in (nested, samples, silent)} == {12}


def test_seed_is_of_the_episode_alone_and_fits_every_engine() -> None:
    seeds = {
        episode_seed(seed, run, question, rollout)
        for seed in (0, 1) for run in ("nested-5", "samples") for question in ("a/1", "a/2") for rollout in (0, 1)
    }  # fmt: skip
    assert len(seeds) == 16
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert episode_seed(0, "nested-5", "a/1", 0) == episode_seed(0, "nested-5", "a/1", 0)


def test_differences_are_those_that_change_a_result() -> None:
    before = make(engine={"kind": "vllm", "dtype": "auto"}).to_json()
    task = Settings.from_mapping({"stop_at_answer": True})
    now = make(temperature=0.7, label="new", concurrency=3, task=task, engine={"kind": "vllm"}).to_json()
    assert differences(before, before) == []
    assert differences(before, now) == [
        "engine.dtype: 'auto' there, nothing now",
        "task.stop_at_answer: False there, True now",
        "temperature: 0.0 there, 0.7 now",
    ]
