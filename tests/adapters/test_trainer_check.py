"""What verl would find out in the middle of a run is refused before it, for the reasons that verl itself has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.trainer.ppo.ray_trainer import compute_advantage
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.seqlen_balancing import rearrange_micro_batches
from verl.utils.tracking import Tracking

from verl_multiattempt.adapters.preflight import find_problems
from verl_multiattempt.adapters.trainer_check import trainer_problems

MakeConfig = Callable[..., DictConfig]
ACTOR, REF, ROLLOUT = "actor_rollout_ref.actor.", "actor_rollout_ref.ref.", "actor_rollout_ref.rollout."
ESTIMATOR = "algorithm.adv_estimator"
GRPO = {ESTIMATOR: "grpo", ROLLOUT + "n": 4}
DYNAMIC = {ACTOR + "use_dynamic_bsz": True}
ACTOR_LIMIT = ACTOR + "ppo_max_token_len_per_gpu"
REF_LIMIT = REF + "log_prob_max_token_len_per_gpu"
ROLLOUT_LIMIT = ROLLOUT + "log_prob_max_token_len_per_gpu"
CRITIC_LIMIT = "critic.ppo_infer_max_token_len_per_gpu"


def told(config: DictConfig) -> list[str]:
    """The keys of the problems."""
    return [problem.split(" must ")[0] for problem in trainer_problems(config)]


# The estimator.


def test_values_without_a_critic(good_config: MakeConfig) -> None:
    (problem,) = find_problems(good_config({"critic.enable": False}))
    assert problem.startswith(
        "critic.enable must be null or true where algorithm.adv_estimator is gae, which needs the critic's values; got "
    )


@pytest.mark.parametrize("changes", [{"critic.enable": None}, {"critic.enable": True}, GRPO | {"critic.enable": False}])
def test_estimator_that_has_what_it_needs(good_config: MakeConfig, changes: dict[str, Any]) -> None:
    assert find_problems(good_config(changes)) == []


@pytest.mark.parametrize("estimator", ["remax", "optimal_token_baseline", "tir_optimal_token_baseline"])
def test_estimator_that_the_v1_trainer_has_no_figures_for(good_config: MakeConfig, estimator: str) -> None:
    (problem,) = find_problems(good_config({ESTIMATOR: estimator, ROLLOUT + "n": 4}))
    assert problem.startswith(
        f"algorithm.adv_estimator must be one that verl's trainer V1 has the figures for; got {estimator!r}, "
    )


@pytest.mark.parametrize(
    ("estimator", "error"),
    [("gae", KeyError), ("remax", TypeError), ("optimal_token_baseline", AssertionError),
     ("tir_optimal_token_baseline", AssertionError)],
)  # fmt: skip
def test_verl_fails_at_these_estimators_with_what_the_trainer_has(estimator: str, error: type[Exception]) -> None:
    tensors = {name: torch.zeros(2, 4) for name in ("token_level_rewards", "old_log_probs", "ref_log_prob")}
    data = DataProto.from_single_dict({**tensors, "response_mask": torch.ones(2, 4)})
    data.non_tensor_batch["uid"] = np.array(["a", "a"], dtype=object)
    with pytest.raises(error):
        compute_advantage(data, adv_estimator=estimator, config=OmegaConf.create({}))  # type: ignore[arg-type]


# Micro batches of so many tokens. The longest sequence of `good_config` has 512 + 512 tokens.


def test_verl_stops_at_a_sequence_longer_than_a_micro_batch() -> None:
    data = TensorDict({"attention_mask": torch.ones(2, 600), "input_ids": torch.zeros(2, 600)}, batch_size=2)
    with pytest.raises(AssertionError, match="max_token_len must be greater than the sequence length"):
        rearrange_micro_batches(data, max_token_len=599)
    assert len(rearrange_micro_batches(data, max_token_len=600)[0]) == 2


@pytest.mark.parametrize(("limit", "wrong"), [(1023, True), (1024, False)])
def test_micro_batch_that_must_hold_the_longest_sequence(good_config: MakeConfig, limit: int, wrong: bool) -> None:
    problems = find_problems(good_config({**DYNAMIC, ACTOR_LIMIT: limit}))
    assert len(problems) == wrong  # one, although those of reference policy and rollout follow it
    assert not wrong or problems[0] == (
        f"{ACTOR_LIMIT} must be at least 1024, the longest prompt with its response (1024 tokens), since verl puts "
        "whole sequences into micro batches of so many tokens (with use_dynamic_bsz) and stops at the first that is "
        f"longer; got 1023. Set {ACTOR_LIMIT}=1024 or more, or lower data.max_response_length."
    )


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({ACTOR_LIMIT: 512}, []),  # no dynamic batches
        ({**DYNAMIC, REF_LIMIT: 512}, [REF_LIMIT]),
        ({**DYNAMIC, ROLLOUT_LIMIT: 512}, [ROLLOUT_LIMIT]),
        ({**DYNAMIC, ACTOR_LIMIT: 512, ROLLOUT_LIMIT: 511}, [ACTOR_LIMIT, ROLLOUT_LIMIT]),
        ({**DYNAMIC, ROLLOUT_LIMIT: 512, "algorithm.rollout_correction.bypass_mode": True}, []),
        ({REF + "log_prob_use_dynamic_bsz": True, REF_LIMIT: 512}, [REF_LIMIT]),
        # With a LoRA adapter the actor is its own reference policy.
        ({**DYNAMIC, REF_LIMIT: 512, "actor_rollout_ref.model.lora_rank": 8}, []),
        ({**DYNAMIC, REF_LIMIT: 512, ACTOR + "use_kl_loss": False}, []),
        ({**DYNAMIC, ACTOR_LIMIT: 512, ROLLOUT + "max_model_len": 512}, []),
        ({**DYNAMIC, ACTOR_LIMIT: 512, ACTOR + "fsdp_config.ulysses_sequence_parallel_size": 2,
          REF_LIMIT: 1024, ROLLOUT_LIMIT: 511}, [ROLLOUT_LIMIT]),
        ({**DYNAMIC, ACTOR_LIMIT: 512, ACTOR + "ulysses_sequence_parallel_size": 2}, []),
        ({CRITIC_LIMIT: 1023}, [CRITIC_LIMIT]),
        ({CRITIC_LIMIT: 512, "critic.fsdp.ulysses_sequence_parallel_size": 2}, []),
        ({CRITIC_LIMIT: 512, "critic.ulysses_sequence_parallel_size": 2}, [CRITIC_LIMIT]),
        ({CRITIC_LIMIT: 512, "critic.fsdp.use_dynamic_bsz": False}, []),
        ({CRITIC_LIMIT: 512, **GRPO}, []),
        # The critic's limit is none of its other ones.
        ({"critic.use_dynamic_bsz": True, "critic.ppo_max_token_len_per_gpu": 512}, []),
        ({"data.max_response_length": 32768 - 512}, []),
        ({"data.max_response_length": 32768 - 511}, [CRITIC_LIMIT]),
        ({"data.max_response_length": "many"}, []),
        ({**DYNAMIC, ACTOR_LIMIT: 512, ACTOR + "strategy": "of_another_kind"}, []),
    ],
    ids=str,
)  # fmt: skip
def test_limits_that_the_run_will_use(good_config: MakeConfig, changes: dict[str, Any], keys: list[str]) -> None:
    assert told(good_config(changes)) == keys


def test_key_that_verls_yaml_does_not_have_is_to_be_added(good_config: MakeConfig) -> None:
    (problem,) = trainer_problems(good_config({"data.max_response_length": 40_000}))
    assert f"; got 32768. Set +{CRITIC_LIMIT}=40512 or more" in problem


def test_verls_critic_has_dynamic_batches_whatever_its_config_says(good_config: MakeConfig) -> None:
    # The reason for looking at its limit in any case: use_dynamic_bsz is not handed on to the engine.
    config = good_config({"critic.use_dynamic_bsz": False, "critic.ppo_micro_batch_size_per_gpu": 1})
    config.critic.model = None
    critic = omega_conf_to_dataclass(config.critic)
    assert (critic.engine.use_dynamic_bsz, critic.ppo_infer_max_token_len_per_gpu) == (True, 32768)


# The logger, and the figure by which groups are filtered.


@pytest.mark.parametrize("names", ["console", ["console", "tensorboard"], ["tracking"], None])
def test_loggers_that_verl_has(good_config: MakeConfig, names: Any) -> None:
    assert told(good_config({"trainer.logger": names})) == []


def test_logger_that_verl_does_not_have(good_config: MakeConfig) -> None:
    names = ["console", "tensorbord"]
    (problem,) = find_problems(good_config({"trainer.logger": names}))
    assert problem.startswith("trainer.logger must name backends of verl (wandb, ")
    assert problem.endswith("; got 'tensorbord'. Correct or remove it.")
    with pytest.raises(AssertionError, match="tensorbord is not supported"):
        Tracking("project", "experiment", names)


FILTERED = {**GRPO, "algorithm.filter_groups.enable": True}


@pytest.mark.parametrize("metric", ["reward", "acc", "acc_within_5", "attempts_used"])
def test_figure_that_the_reward_manager_reports(good_config: MakeConfig, metric: str) -> None:
    config = good_config({**FILTERED, "algorithm.filter_groups.metric": metric})
    assert find_problems(config) == []


@pytest.mark.parametrize("metric", ["accuracy", "acc_within_6", "score", "seq_reward"])
def test_figure_that_no_episode_has(good_config: MakeConfig, metric: str) -> None:
    (problem,) = find_problems(good_config({**FILTERED, "algorithm.filter_groups.metric": metric}))
    assert problem.startswith("algorithm.filter_groups.metric must be one of reward, acc, acc_within_1, ")
    assert problem.endswith(f"; got {metric!r}. Set it to acc, say.")


def test_figure_does_not_matter_where_nothing_is_filtered(good_config: MakeConfig) -> None:
    assert find_problems(good_config({"algorithm.filter_groups.metric": "accuracy"})) == []
