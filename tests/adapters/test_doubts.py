"""What is allowed and yet often not meant is said in one line: before the start, or at the first training step."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig

from tests.adapters.conftest import good_row, write_rows
from verl_multiattempt.adapters.doubts import drawn_allowances, first_step_doubt, wiring_doubts
from verl_multiattempt.adapters.preflight import find_problems, inspect_config
from verl_multiattempt.adapters.router import router_config_path
from verl_multiattempt.episode import Attempt, Episode, Stop
from verl_multiattempt.settings import Settings
from verl_multiattempt.verifier import Outcome, Verdict

MakeConfig = Callable[..., DictConfig]
ROLLOUT = "actor_rollout_ref.rollout."
ESTIMATOR = "algorithm.adv_estimator"
GRPO = {ESTIMATOR: "grpo", ROLLOUT + "n": 4}


def warnings_of(config: DictConfig) -> list[str]:
    found = inspect_config(config)
    assert found.problems == []
    return found.warnings


def test_the_recipe_leaves_no_doubt(good_config: MakeConfig) -> None:
    assert warnings_of(good_config()) == []


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        ({ROLLOUT + "agent.default_agent_loop": "single_turn_agent"},
         "actor_rollout_ref.rollout.agent.default_agent_loop is single_turn_agent: episodes have one attempt "),
        ({"trainer.v1.sampler.custom_sampler.path": "pkg://mine"},
         "trainer.v1.sampler.custom_sampler.path is pkg://mine: "),
        ({"trainer.v1.trainer_mode": "colocate_async"}, "trainer.v1.trainer_mode is colocate_async: "),
        ({ROLLOUT + "name": "sglang"}, "actor_rollout_ref.rollout.name is sglang: "),
        ({"skip.rollout_tq.enable": True}, "skip.rollout_tq.enable is true: "),
        ({"algorithm.gamma": 0.99}, "algorithm.gamma is 0.99: verl discounts by token, "),
        ({"data.custom_cls.path": "mine.py"}, "data.custom_cls is set, so the rows are not checked before the start"),
    ],
    ids=lambda value: None if isinstance(value, str) else str(value),
)  # fmt: skip
def test_choice_that_is_said_aloud(good_config: MakeConfig, changes: dict[str, Any], start: str) -> None:
    (warning,) = warnings_of(good_config(changes))
    assert warning.startswith(start)


def test_more_episodes_than_the_load_balancer_remembers(good_config: MakeConfig) -> None:
    many = {"data.train_batch_size": 2501, ROLLOUT + "n": 4}
    warnings = router_warnings(good_config(many))
    assert [w.partition(":")[0] for w in warnings] == [
        "data.train_batch_size times actor_rollout_ref.rollout.n is 10004, and verl's load balancer remembers 10000 "
        "conversations"
    ]
    assert warnings[0].endswith(f"set actor_rollout_ref.rollout.router_config_path={router_config_path()}")
    assert Path(router_config_path()).is_file()
    assert router_warnings(good_config({**many, "data.train_batch_size": 2500})) == []
    assert router_warnings(good_config({**many, ROLLOUT + "router_config_path": router_config_path()})) == []


def router_warnings(config: DictConfig) -> list[str]:
    return [warning for warning in wiring_doubts(config) if "load balancer" in warning]


def test_warnings_are_logged_before_the_start_in_one_line_each(
    good_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    assert find_problems(good_config({"algorithm.gamma": 0.5, "multiattempt.max_attempts": 1})) == []
    assert [message.split(" is ")[0] for message in caplog.messages] == [
        "verl_multiattempt: algorithm.gamma",
        "verl_multiattempt: multiattempt.max_attempts",
    ]


@pytest.mark.parametrize(("target", "known"), [
    ("verl_multiattempt.adapters.agent_loop.MultiAttemptAgentLoop", True),
    ("tests.e2e.probe.ProbeAgentLoop", True),
    ("verl.experimental.agent_loop.single_turn_agent_loop.SingleTurnAgentLoop", False),
    ("no.such.Loop", False),
])  # fmt: skip
def test_loop_of_another_file_under_this_name(
    good_config: MakeConfig, tmp_path: Path, target: str, known: bool
) -> None:
    path = tmp_path / "loops.yaml"
    path.write_text(f"- name: multiattempt\n  _target_: {target}\n", encoding="utf-8")
    warnings = warnings_of(good_config({ROLLOUT + "agent.agent_loop_config_path": str(path)}))
    assert [target in warning for warning in warnings] == ([] if known else [True])


# Estimators that compare the rollouts of a prompt.


@pytest.mark.parametrize(
    ("changes", "start"),
    [
        (GRPO, None),  # scope auto is group
        ({**GRPO, "multiattempt.scope": "group"}, None),
        ({**GRPO, "multiattempt.scope": "rollout"},
         "multiattempt.scope is rollout and algorithm.adv_estimator is grpo: "),
        ({**GRPO, "multiattempt.scope": "rollout", "multiattempt.distribution": "fixed"}, None),
        ({**GRPO, "multiattempt.scope": "rollout", "multiattempt.min_attempts": 5}, None),
        ({**GRPO, ESTIMATOR: "gae", "multiattempt.scope": "rollout"}, None),
        ({**GRPO, ESTIMATOR: "rloo", ROLLOUT + "n": 1},
         "algorithm.adv_estimator is rloo, which compares the rollouts of a prompt, "),
    ],
    ids=str,
)  # fmt: skip
def test_group_relative_estimator(good_config: MakeConfig, changes: dict[str, Any], start: str | None) -> None:
    warnings = warnings_of(good_config(changes))
    assert len(warnings) == (start is not None)
    assert not start or warnings[0].startswith(start)


# A reward function that tells no answer.


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [({}, True), ({"answer_pattern": "boxed"}, False), ({"answer_key": "pred"}, False), ({"answer_key": None}, True)],
    ids=str,
)
def test_reward_function_whose_answers_are_not_known_has_no_repeat_rate(
    good_config: MakeConfig, tmp_path: Path, kwargs: dict[str, Any], said: bool
) -> None:
    (tmp_path / "mine.py").write_text("def compute_score(**row): return 1", encoding="utf-8")
    verifier = {"multiattempt.verifier.name": "compute_score",
                "multiattempt.verifier.kwargs": {"path": str(tmp_path / "mine.py"), **kwargs}}  # fmt: skip
    warnings = warnings_of(good_config(verifier))
    assert len(warnings) == said
    assert not said or "multiattempt/repeat and repeat@k are not logged; set +multiattempt.ver" in warnings[0]


# Training that cannot have a second attempt.

SINGLE = "multiattempt.max_attempts is 1: training is single-attempt"
WEIGHTED = "multiattempt.weights allow 1 attempt only: training is single-attempt"
ROWS = "every row of data.train_files has extra_info.max_attempts 1, which overrides the settings: training is single-"


def weighted(*weights: float) -> dict[str, Any]:
    return {"multiattempt.distribution": "weighted", "multiattempt.weights": list(weights),
            "multiattempt.max_attempts": len(weights)}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "allowances", "start"),
    [
        ({"multiattempt.max_attempts": 1}, [None], SINGLE),
        ({"multiattempt.max_attempts": 1, "multiattempt.distribution": "fixed"}, [None, 1], SINGLE),
        ({"multiattempt.max_attempts": 1, "multiattempt.val_max_attempts": 3}, [None], SINGLE),
        ({"multiattempt.max_attempts": 1}, [None, 2], None),
        ({"multiattempt.max_attempts": 1}, [2], None),
        (weighted(1, 0, 0), [None], WEIGHTED),
        (weighted(0.9, 0.1, 0), [None], None),
        ({}, [1, 1], ROWS),
        ({}, [1, None], None),
        ({}, [1, 2], None),
        ({ROLLOUT + "agent.default_agent_loop": "single_turn_agent", "multiattempt.max_attempts": 1}, [None],
         "actor_rollout_ref.rollout.agent.default_agent_loop is single_turn_agent"),
    ],
    ids=str,
)  # fmt: skip
def test_single_attempt_training(
    good_config: MakeConfig, tmp_path: Path, changes: dict[str, Any], allowances: list[int | None], start: str | None
) -> None:
    rows = [good_row(extra_info={"index": i, "max_attempts": allowance}) for i, allowance in enumerate(allowances)]
    path = write_rows(tmp_path / "train.jsonl", rows)
    warnings = warnings_of(good_config({"data.train_files": str(path), **changes}))
    assert len(warnings) == (start is not None)
    assert not start or warnings[0].startswith(start)


def test_validation_rows_of_one_attempt_do_not_matter(good_config: MakeConfig, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "val.jsonl", [good_row(extra_info={"max_attempts": 1})])
    assert warnings_of(good_config({"data.val_files": str(path)})) == []


@pytest.mark.parametrize(
    ("settings", "allowances"),
    [
        (Settings(), [1, 2, 3, 4, 5]),
        (Settings(min_attempts=2, max_attempts=2), [2]),
        (Settings(distribution="fixed", max_attempts=3), [3]),
        (Settings(distribution="weighted", min_attempts=2, max_attempts=4, weights=(0.5, 0, 0.5)), [2, 4]),
    ],
)
def test_drawn_allowances(settings: Settings, allowances: list[int]) -> None:
    assert drawn_allowances(settings) == allowances


# The first training step.


def episodes(*allowances: int) -> list[Episode]:
    return [Episode(max_attempts=allowance) for allowance in allowances]


@pytest.mark.parametrize(
    ("allowances", "num_rollouts", "start"),
    [
        ((1, 2), 2, None),
        ((1, 1), 2, "all 2 episodes of the first step were allowed 1 attempt: training is single-attempt; look at "),
        ((), 2, "none of the 2 rollouts of the first step is an episode: another agent loop ran; look at "),
        ((1, 2), 3, "1 of the 3 rollouts of the first step are no episodes: another agent loop ran; look at "),
    ],
)
def test_first_step(allowances: tuple[int, ...], num_rollouts: int, start: str | None) -> None:
    doubt = first_step_doubt(episodes(*allowances), num_rollouts)
    assert (doubt is None) == (start is None)
    assert not start or (doubt is not None and doubt.startswith(start) and "\n" not in doubt)


def tried(max_attempts: int, *outcomes: Outcome, truncated: bool = False) -> Episode:
    episode = Episode(max_attempts=max_attempts)
    for outcome in outcomes:
        episode.add(Attempt(text="", verdict=Verdict(outcome=outcome), stop=Stop.END_OF_TURN))
    episode.truncated = truncated
    return episode


FULL = tried(5, Outcome.INCORRECT, truncated=True)
SOLVED = tried(5, Outcome.CORRECT)


@pytest.mark.parametrize(
    ("of_the_step", "num_full"),
    [
        ([FULL, FULL, SOLVED, tried(1, Outcome.INCORRECT)], 2),
        ([FULL, tried(5, Outcome.INCORRECT, Outcome.INCORRECT, truncated=True)], None),
        ([FULL, tried(5, Outcome.INCORRECT, Outcome.CORRECT)], None),
        ([SOLVED, SOLVED], None),
        ([SOLVED, tried(1, Outcome.INCORRECT, truncated=True)], None),
    ],
)
def test_first_step_without_room_for_a_second_attempt(of_the_step: list[Episode], num_full: int | None) -> None:
    doubt = first_step_doubt(of_the_step, len(of_the_step))
    assert (doubt is None) == (num_full is None)
    assert not num_full or (doubt or "").startswith(
        f"none of the {num_full} unsolved episodes of the first step that were allowed several attempts had a second "
        "one, since their conversations were full: training is single-attempt; raise data.max_response_length"
    )


@pytest.fixture(scope="module")
def said(repository: Path) -> dict[str, list[str]]:
    """What the real replay buffers log at their first steps, on a real TransferQueue, by run."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.adapters.first_step_probe"],
        cwd=repository, env={**os.environ, "VERL_PLATFORM": "cpu"}, capture_output=True, text=True, timeout=280,
        check=True,
    )  # fmt: skip
    logged: dict[str, list[str]] = {}
    for line in done.stderr.splitlines():
        if line.startswith("RUN "):
            logged[line.removeprefix("RUN ")] = []
        elif logged and "multiattempt: " in line:
            logged[list(logged)[-1]].append(line[line.index("multiattempt: ") :])
    return logged


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_first_step_of_a_run(said: dict[str, list[str]], mode: str) -> None:
    starts = {case: [line.split(";")[0] for line in said[f"{mode} {case}"]] for case in ("multi", "one", "single")}
    assert starts == {
        "multi": [],
        # Once, although the second step is like the first.
        "one": ["multiattempt: all 2 episodes of the first step were allowed 1 attempt: training is single-attempt"],
        "single": ["multiattempt: none of the 2 rollouts of the first step is an episode: another agent loop ran"],
    }
