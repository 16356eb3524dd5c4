"""Keys of verl's config that would make it run something else, each refused in one sentence before Ray starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from verl.utils.config import omega_conf_to_dataclass

from verl_multiattempt.adapters.preflight import find_problems
from verl_multiattempt.adapters.wiring import loop_targets

MakeConfig = Callable[..., DictConfig]
ROLLOUT = "actor_rollout_ref.rollout."
RECIPE = "Leave it as +recipe=multiattempt sets it."


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("reward.reward_manager.source", "register", "importlib"),
        ("reward.reward_manager.module.path", "mine.py", "pkg://verl_multiattempt.adapters.reward_manager"),
        ("trainer.v1.sampler.custom_sampler.name", "Mine", "make_replay_buffer"),
    ],
)
def test_class_of_another_module(good_config: MakeConfig, key: str, value: str, expected: str) -> None:
    assert find_problems(good_config({key: value})) == [f"{key} must be {expected}; got {value!r}. {RECIPE}"]


def test_another_reward_manager_altogether_is_one_problem(good_config: MakeConfig) -> None:
    changes = {"name": "dapo", "source": "register", "module.path": None}
    (problem,) = find_problems(good_config({f"reward.reward_manager.{key}": value for key, value in changes.items()}))
    assert problem.startswith("reward.reward_manager.name must be MultiAttemptRewardManager; got 'dapo'.")


@pytest.mark.parametrize(
    ("key", "value", "new"),
    [
        ("custom_reward_function.path", "mine.py", "reward.custom_reward_function.path"),
        ("custom_reward_function.name", "mine", "reward.custom_reward_function.name"),
        ("reward_model.reward_manager", "dapo", "reward.reward_manager.name"),
        ("reward_model.reward_loop_source", "importlib", "reward.reward_manager.source"),
        ("reward_model.enable", False, "reward.reward_model.enable"),
        ("reward_model.num_workers", 2, "reward.num_workers"),
        ("sandbox_fusion.url", "http://sandbox", "reward.sandbox_fusion.url"),
    ],
)
def test_key_that_verl_no_longer_reads(good_config: MakeConfig, key: str, value: Any, new: str) -> None:
    (problem,) = find_problems(good_config({key: value}))
    assert problem == f"{key} must be null, since verl's trainer no longer reads it; got {value!r}. Set {new} instead."


@pytest.mark.parametrize("mode", ["sync", "batch"])
def test_rollout_mode(good_config: MakeConfig, mode: str) -> None:
    (problem,) = find_problems(good_config({ROLLOUT + "mode": mode}))
    assert problem == (
        f"{ROLLOUT}mode must be async, the only one that verl has; got {mode!r}. Remove it from the command."
    )


def test_verl_finds_a_removed_rollout_mode_only_in_its_workers(good_config: MakeConfig) -> None:
    # The reason for the check of our own: the driver does not make this dataclass.
    with pytest.raises(Exception, match="Rollout mode 'sync' has been removed"):
        omega_conf_to_dataclass(good_config({ROLLOUT + "mode": "sync"}).actor_rollout_ref.rollout)


@pytest.mark.parametrize("name", ["prompt", "response"])
def test_length_of_the_rollout_that_is_not_the_datas(good_config: MakeConfig, name: str) -> None:
    (problem,) = find_problems(good_config({f"{ROLLOUT}{name}_length": 100}))
    source = f"data.max_{name}_length"
    assert problem == f"{ROLLOUT}{name}_length must be {source} (512); got 100. Set {source} alone."


@pytest.mark.parametrize("key", ["max_assistant_turns", "max_user_turns"])
def test_turn_limits_of_verls_tool_agent(good_config: MakeConfig, key: str) -> None:
    (problem,) = find_problems(good_config({f"{ROLLOUT}multi_turn.{key}": 3}))
    assert problem == (
        f"{ROLLOUT}multi_turn.{key} must be null, since an episode's turns follow from its attempts; got 3. "
        "Set multiattempt.max_attempts instead."
    )


@pytest.mark.parametrize("key", ["tool_config_path", "function_tool_path"])
def test_tools_that_no_attempt_would_call(good_config: MakeConfig, key: str) -> None:
    (problem,) = find_problems(good_config({f"{ROLLOUT}multi_turn.{key}": "tools.yaml"}))
    assert problem == (
        f"{ROLLOUT}multi_turn.{key} must be null, since an attempt calls no tools; got 'tools.yaml'. Remove it."
    )


def test_single_turn_baseline_may_have_turn_limits(good_config: MakeConfig) -> None:
    changes = {ROLLOUT + "agent.default_agent_loop": "single_turn_agent", ROLLOUT + "multi_turn.max_user_turns": 1}
    assert find_problems(good_config(changes)) == []


def test_groups_filtered_by_nothing(good_config: MakeConfig) -> None:
    groups = {"algorithm.filter_groups.enable": True, "algorithm.filter_groups.metric": None}
    assert find_problems(good_config(groups)) == [
        "algorithm.filter_groups.metric must be set where groups are filtered; got None. Set it to acc, say."
    ]
    assert find_problems(good_config({**groups, "algorithm.filter_groups.metric": "acc"})) == []


# The model's context.


def test_conversation_longer_than_the_model_holds(good_config: MakeConfig) -> None:
    lengths = {"data.max_prompt_length": 512, "data.max_response_length": 513}  # the model of the tests holds 1024
    (problem,) = find_problems(good_config(lengths))
    assert problem == (
        "data.max_prompt_length + data.max_response_length must be at most the model's max_position_embeddings (1024), "
        "where the engine ends every conversation; got 512 + 513. Lower them, or set "
        "actor_rollout_ref.rollout.max_model_len=1024."
    )
    assert find_problems(good_config({**lengths, ROLLOUT + "max_model_len": 1024})) == []


def test_engine_length_longer_than_the_model_holds(good_config: MakeConfig) -> None:
    (problem,) = find_problems(good_config({ROLLOUT + "max_model_len": 1025}))
    assert problem == (
        "actor_rollout_ref.rollout.max_model_len must be at most the model's max_position_embeddings (1024); got 1025. "
        "Lower it."
    )


# Files of agent loops.


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("- name: multiattempt\n  _target_: x.Y\n- name: b\n  _target_: c.D\n", {"multiattempt": "x.Y", "b": "c.D"}),
        ("a: 1\n", {}),
    ],
)
def test_agent_loops_of_a_file(tmp_path: Path, text: str, targets: dict[str, str]) -> None:
    (tmp_path / "loops.yaml").write_text(text, encoding="utf-8")
    assert loop_targets(str(tmp_path / "loops.yaml")) == targets


def test_agent_loops_of_no_file(tmp_path: Path) -> None:
    assert loop_targets(str(tmp_path / "none.yaml")) == {}
