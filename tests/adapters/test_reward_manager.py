from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl import DataProto
from verl.utils.import_utils import load_extern_object

from tests.adapters.harness import compose_config
from tests.tokenizers import make_tokenizer
from verl_multiattempt.adapters.reward_manager import MultiAttemptRewardManager, reward_extra_info
from verl_multiattempt.episode import Attempt, Episode, Stop
from verl_multiattempt.verifier import Outcome, Verdict

TOKENIZER = make_tokenizer()
END = TOKENIZER.eos_token_id


def manager(**changes: Any) -> MultiAttemptRewardManager:
    config = compose_config()
    for key, value in {"multiattempt.val_max_attempts": 3, **changes}.items():
        OmegaConf.update(config, key.replace("__", "."), value)
    # As verl's RewardLoopWorker makes it.
    return MultiAttemptRewardManager(config, TOKENIZER, None, reward_router_address=None, reward_model_tokenizer=None)


def rollout(text: str, *, extra_fields: dict[str, Any] | None = None, gold: Any = "42", padding: int = 0) -> DataProto:
    """A rollout as verl's worker hands it over (agent_loop.py, _compute_score)."""
    prompt = torch.tensor([TOKENIZER.encode("Compute 6*7")])
    response = torch.tensor([TOKENIZER.encode(text, add_special_tokens=False)], dtype=torch.int64)
    attention = torch.ones(1, prompt.shape[1] + response.shape[1], dtype=torch.int64)
    if padding:
        response = torch.nn.functional.pad(response, (0, padding), value=TOKENIZER.pad_token_id)
        attention = torch.nn.functional.pad(attention, (0, padding))
    batch = TensorDict(
        {"prompts": prompt, "responses": response, "attention_mask": attention,
         "input_ids": torch.cat([prompt, response], dim=1)}, batch_size=1,
    )  # fmt: skip
    row = {"data_source": "test", "reward_model": {"style": "rule", "ground_truth": gold}, "extra_info": {"index": 3}}
    non_tensor = {key: np.array([value]) for key, value in row.items()}
    non_tensor["tool_extra_fields"] = np.array([extra_fields if extra_fields is not None else {}], dtype=object)
    return DataProto(batch=batch, non_tensor_batch=non_tensor)


def episode(*outcomes: Outcome, max_attempts: int = 3, truncated: bool = False) -> Episode:
    attempts = [Attempt(text="", verdict=Verdict(outcome=outcome), stop=Stop.END_OF_TURN) for outcome in outcomes]
    return Episode(max_attempts=max_attempts, attempts=attempts, truncated=truncated)


def test_recipe_loads_it_by_verls_own_loader() -> None:
    module = compose_config().reward.reward_manager
    assert load_extern_object(module.module.path, module.name) is MultiAttemptRewardManager


# Rollouts with a record.


async def test_reward_is_that_of_the_record() -> None:
    record = episode(Outcome.INCORRECT, Outcome.CORRECT).to_record()
    result = await manager(multiattempt__reward__attempt_discount=0.5).run_single(
        rollout("irrelevant", extra_fields={"multiattempt": record})
    )
    assert result == {
        "reward_score": 0.5,
        "reward_extra_info": {
            "acc": 1.0, "acc_within_1": 0.0, "acc_within_2": 1.0, "acc_within_3": 1.0, "answered": 1.0,
            "attempts_used": 2.0, "max_attempts": 3.0, "truncated": 0.0, "timeouts": 0.0, "errors": 0.0,
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("outcomes", "reward"), [([Outcome.INCORRECT], -0.5), ([Outcome.NO_ANSWER], -1.0), ([Outcome.TIMEOUT], -0.5)]
)
async def test_text_is_never_searched_where_there_is_a_record(outcomes: list[Outcome], reward: float) -> None:
    # The feedback in a response is not the model's: here it even holds the right answer.
    data = rollout("the answer is \\boxed{42}<|im_end|>", extra_fields={"multiattempt": episode(*outcomes).to_record()})
    result = await manager().run_single(data)
    assert result["reward_score"] == reward
    assert result["reward_extra_info"]["acc"] == 0.0


async def test_of_several_outputs_the_last_one_counts() -> None:
    first = rollout("x", extra_fields={"multiattempt": episode(Outcome.NO_ANSWER).to_record()})
    last = rollout("x", extra_fields={"multiattempt": episode(Outcome.CORRECT).to_record()})
    assert (await manager().run_single(DataProto.concat([first, last])))["reward_score"] == 1.0
    assert (await manager().run_single(DataProto.concat([last, first])))["reward_score"] == -1.0


async def test_record_of_another_schema_is_refused() -> None:
    record = {**episode(Outcome.CORRECT).to_record(), "schema": 99}
    with pytest.raises(ValueError, match="schema must be 2; got 99"):
        await manager().run_single(rollout("x", extra_fields={"multiattempt": record}))


# Rollouts of verl's single-turn loop.


@pytest.mark.parametrize(
    ("text", "reward", "acc", "truncated"),
    [
        ("so \\boxed{42}<|im_end|>", 1.0, 1.0, 0.0),
        ("so \\boxed{41}<|im_end|>", -0.5, 0.0, 0.0),
        ("so 42<|im_end|>", -1.0, 0.0, 0.0),
        ("so \\boxed{42", -1.0, 0.0, 1.0),
        ("so \\boxed{41} and", -0.5, 0.0, 1.0),
        ("so \\boxed{42} and", 1.0, 1.0, 0.0),
    ],
)
@pytest.mark.parametrize("padding", [0, 7])
async def test_response_without_a_record_is_verified(
    text: str, reward: float, acc: float, truncated: float, padding: int
) -> None:
    for extra_fields in ({}, {"turn_scores": []}):
        made = manager()
        result = await made.run_single(rollout(text, extra_fields=extra_fields, padding=padding))
        info = result["reward_extra_info"]
        assert (result["reward_score"], info["acc"], info["truncated"]) == (reward, acc, truncated)
        assert (info["attempts_used"], info["max_attempts"]) == (1.0, 1.0)


async def test_response_that_needs_algebra_is_verified_by_a_worker() -> None:
    made = manager(multiattempt__verifier__timeout_s=60.0)
    result = await made.run_single(rollout("so \\boxed{\\frac{84}{2}}<|im_end|>"))
    assert result["reward_score"] == 1.0
    assert made._verifier is not None
    await made._verifier.close()


async def test_control_tokens_are_no_part_of_the_text() -> None:
    assert (await manager().run_single(rollout("\\boxed{4<|tool|>2}<|im_end|>")))["reward_score"] == 1.0


async def test_empty_response_has_no_answer() -> None:
    assert (await manager().run_single(rollout("")))["reward_score"] == -1.0


@pytest.mark.parametrize("gold", [None])
async def test_missing_ground_truth_is_refused(gold: Any) -> None:
    with pytest.raises(ValueError, match=r"reward_model\.ground_truth must be in every row; got "):
        await manager().run_single(rollout("\\boxed{42}<|im_end|>", gold=gold))


# What validation averages.


def test_every_episode_gives_the_same_keys() -> None:
    made = [episode(Outcome.CORRECT, max_attempts=1), episode(*[Outcome.ERROR] * 5, max_attempts=9, truncated=True)]
    first, second = (reward_extra_info(one, 4) for one in made)
    assert list(first) == list(second)
    assert {type(value) for value in first.values()} == {float}
    assert [key for key in first if key.startswith("acc_within_")] == [f"acc_within_{k}" for k in (1, 2, 3, 4)]


def test_undecided_attempts_are_counted() -> None:
    info = reward_extra_info(episode(Outcome.TIMEOUT, Outcome.ERROR, Outcome.TIMEOUT), 3)
    assert (info["timeouts"], info["errors"], info["acc"], info["answered"]) == (2.0, 1.0, 0.0, 1.0)


def test_k_goes_to_validations_own_allowance() -> None:
    assert manager().settings.val_max_attempts == 3


# Failures of the verifier on rollouts without a record.


class Raising:
    """A verifier with a bug."""

    def __init__(self, settings: Any):
        pass

    async def verify(self, text: str, question: Any) -> Verdict:
        raise KeyError("a bug")

    async def close(self) -> None:
        pass


async def test_verifier_that_raises_is_an_error_as_in_the_agent_loop() -> None:
    result = await manager(multiattempt__verifier__name=f"{__name__}.Raising").run_single(rollout("\\boxed{42}"))
    assert result["reward_score"] == -0.5
    assert (result["reward_extra_info"]["errors"], result["reward_extra_info"]["acc"]) == (1, 0)


async def test_failed_verification_fails_the_rollout_where_asked() -> None:
    changes = {
        "multiattempt__verifier__name": f"{__name__}.Raising",
        "multiattempt__reward__on_verifier_failure": "fail",
    }
    with pytest.raises(RuntimeError, match=r"a verification failed and .* is fail: KeyError"):
        await manager(**changes).run_single(rollout("\\boxed{42}"))
