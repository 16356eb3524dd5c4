from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from tests.adapters.harness import compose_config
from verl_multiattempt.adapters.sampler import _Collected, make_replay_buffer
from verl_multiattempt.settings import RewardSettings

MODES = ("sync", "colocate_async")


def make(trainer_mode: str = "sync", **changes: Any) -> ReplayBuffer:
    """The replay buffer as verl's trainer makes it (trainer_base.py, _build_replay_buffer)."""
    config = compose_config()
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    sampler = config.trainer.v1.sampler
    return make_replay_buffer(
        trainer_mode=trainer_mode,
        trainer_config=config.trainer.v1.get(trainer_mode, {}),
        max_off_policy_threshold=sampler.max_off_policy_threshold,
        max_off_policy_strategy=sampler.max_off_policy_strategy,
        sampler_kwargs=sampler.sampler_kwargs,
        refill_fn=lambda count: None,
    )


# How it is made.


def test_mode_decides_between_verls_two_buffers() -> None:
    assert isinstance(make("sync"), ReplayBuffer)
    assert not isinstance(make("sync"), ReplayBufferAsync)
    assert isinstance(make("colocate_async"), ReplayBufferAsync)


def test_it_polls_ten_times_a_second() -> None:
    assert [make(mode).poll_interval for mode in MODES] == [0.1, 0.1]
    assert make(trainer__v1__sampler__sampler_kwargs__poll_interval_s=3).poll_interval == 3.0


def test_settings_reach_it_through_the_recipe() -> None:
    buffer = make(multiattempt__max_attempts=3, multiattempt__reward__correct=7, actor_rollout_ref__rollout__n=4)
    assert buffer.max_attempts == 3  # type: ignore[attr-defined]
    assert buffer.reward == RewardSettings(correct=7)  # type: ignore[attr-defined]
    assert buffer.rollouts_per_prompt == 4  # type: ignore[attr-defined]
    assert (buffer.val_max_attempts, buffer.val_rollouts_per_prompt) == (3, 1)  # type: ignore[attr-defined]
    buffer = make(multiattempt__val_max_attempts=2, actor_rollout_ref__rollout__val_kwargs__n=8)
    assert (buffer.val_max_attempts, buffer.val_rollouts_per_prompt) == (2, 8)  # type: ignore[attr-defined]


def test_mode_says_how_many_batches_a_step_has() -> None:
    assert [make(mode).batches_per_step for mode in (*MODES, "separate_async")] == [1, 1, 4]  # type: ignore[attr-defined]


def verls_own(trainer_mode: str = "sync", **changes: Any) -> ReplayBuffer:
    """What verl itself would build for these keys, without a custom sampler."""
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    class Trainer(PPOTrainer):
        def on_sample_end(self, *args: Any, **kwargs: Any) -> None: ...
        def on_step_end(self, *args: Any, **kwargs: Any) -> None: ...

    config = compose_config()
    for key, value in {**changes, "trainer__v1__sampler__custom_sampler__path": None}.items():
        OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    trainer = Trainer.__new__(Trainer)
    trainer.config, trainer.trainer_mode = config, trainer_mode
    return trainer._build_replay_buffer()


FILTERED = {"algorithm__filter_groups__enable": True, "algorithm__filter_groups__metric": "acc"}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data__train_batch_size": 8},
        {"data__train_batch_size": 8, "data__gen_batch_size": 4},
        {**FILTERED, "data__train_batch_size": 8},
        {**FILTERED, "algorithm__filter_groups__max_inflight_gen_batches": 3},
        {"algorithm__filter_groups__enable": False, "algorithm__filter_groups__metric": "acc"},
        {"trainer__v1__sampler__sync_refill_failed_groups": True},
    ],
    ids=str,
)
def test_it_is_set_up_as_verls_own_but_for_the_poll(mode: str, changes: dict[str, Any]) -> None:
    ours, theirs = vars(make(mode, **changes)), vars(verls_own(mode, **changes))
    kept = {"poll_interval", "reward", "max_attempts", "val_max_attempts", "rollouts_per_prompt",
            "val_rollouts_per_prompt", "batches_per_step", "refill_fn"}  # fmt: skip
    assert {key: value for key, value in ours.items() if key not in kept} == {
        key: value for key, value in theirs.items() if key not in kept
    }


@pytest.mark.parametrize("mode", MODES)
def test_filtering_without_a_metric_is_refused_as_by_verl(mode: str) -> None:
    unnamed = {"algorithm__filter_groups__enable": True, "algorithm__filter_groups__metric": None}
    with pytest.raises(ValueError, match=r"algorithm\.filter_groups\.metric must be set"):
        verls_own(mode, **unnamed)
    with pytest.raises(ValueError, match=r"algorithm\.filter_groups\.metric must be set"):
        make(mode, **unnamed)


def test_validation_that_cannot_be_logged_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    buffer = make()
    buffer.refill_fn = lambda count: None  # of no trainer
    for step in (1, 2):
        buffer._log_validation(_Collected(step))  # type: ignore[attr-defined]
    assert [record.getMessage()[:39] for record in caplog.records] == ["multiattempt: validation is not logged:"]


# What it says of the rollouts in a real TransferQueue.


@pytest.fixture(scope="module")
def answers(repository: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.adapters.sampler_probe"],
        cwd=repository, capture_output=True, text=True, timeout=280, check=True,
    )  # fmt: skip
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    answers = json.loads(line.removeprefix("ANSWER "))
    assert isinstance(answers, dict)
    return answers


@pytest.mark.parametrize("mode", MODES)
def test_training_batch_brings_its_episodes_metrics(answers: dict[str, Any], mode: str) -> None:
    # Three rollouts: correct at once; correct at the third attempt; two wrong attempts. A fourth one failed.
    assert answers[mode]["keys"] == ["a_0_0", "a_1_0", "b_0_0"]
    metrics = answers[mode]["metrics"]
    expected = {
        "episodes": 3,
        "failed_episodes": 1,
        "accuracy": 2 / 3,
        "accuracy@1": 1 / 3,
        "accuracy@2": 1 / 3,
        "accuracy@3": 2 / 3,
        "attempts_used/mean": 2,
        "refinement": 1 / 3,
        "groups/all_solved": 1,  # the other group has one rollout left
        "reward/mean": (1 + 1 - 0.5) / 3,
        "context_tokens/share": 15 / 75,
    }
    assert {name: metrics[f"multiattempt/{name}"] for name in expected} == pytest.approx(expected)
    # multiattempt.max_attempts is 3 there; the rows allow 5.
    assert [metrics["multiattempt/accuracy@5"], "multiattempt/accuracy@6" in metrics] == pytest.approx([2 / 3, False])


def test_step_of_several_batches_brings_the_figures_of_all_its_episodes_with_the_last(answers: dict[str, Any]) -> None:
    # verl averages what the batches of a step bring, and a mean of ratios is another number.
    assert answers["batch e"] == {}
    figures = answers["batch f"]
    assert (figures["multiattempt/episodes"], figures["multiattempt/failed_episodes"]) == (4, 0)
    assert figures["multiattempt/refinement"] == 2 / 6
    assert figures["multiattempt/groups/all_solved"] == 1 / 2
    assert answers["batch g"] == {}  # of the next step


@pytest.mark.parametrize("mode", MODES)
def test_validation_batch_brings_none(answers: dict[str, Any], mode: str) -> None:
    assert answers[f"{mode} val"] == {"keys": ["c_0_0", "c_1_0"], "metrics": {}}


@pytest.mark.parametrize("mode", MODES)
def test_batch_of_verls_single_turn_loop_brings_none_and_passes(answers: dict[str, Any], mode: str) -> None:
    assert answers[f"{mode} single turn"]["keys"] == ["d_0_0", "d_1_0"]
    assert answers[f"{mode} single turn"]["metrics"] == {"multiattempt/failed_episodes": 0}
