"""GRPO with groups of 4 on two data-parallel ranks and two vLLM replicas."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import pytest

from tests.e2e.pipeline import Assets, Run
from verl_multiattempt.episode import Episode
from verl_multiattempt.metrics import episode_metrics
from verl_multiattempt.settings import RewardSettings

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def run(assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> Run:
    overrides = [
        "algorithm.adv_estimator=grpo", "critic.enable=false", "actor_rollout_ref.rollout.n=4",
        "trainer.n_gpus_per_node=2", "trainer.total_training_steps=2", "data.train_batch_size=8",
        "actor_rollout_ref.actor.ppo_mini_batch_size=8", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16",
        # Validation before the first step and after the last one, in three batches, two rollouts a question.
        "trainer.val_before_train=true", "trainer.test_freq=2", "data.val_max_samples=20", "data.val_batch_size=8",
        "actor_rollout_ref.rollout.val_kwargs.n=2", "multiattempt.val_max_attempts=3",
    ]  # fmt: skip
    return Run(tmp_path_factory.mktemp("grpo"), assets, overrides, probe=True).finish()


def test_trains_two_steps_on_two_replicas(run: Run) -> None:
    metrics = run.metrics()
    for step in (1, 2):
        assert math.isfinite(metrics[step]["actor/pg_loss"])
        assert metrics[step]["multiattempt/episodes"] == 32
        assert abs(metrics[step]["rollout_corr/k3_kl"]) < 1e-3
        assert "critic/vf_loss" not in metrics[step]


def test_rollouts_of_a_prompt_share_their_allowance(run: Run) -> None:
    groups = defaultdict(list)
    for rollout in run.rollouts():
        if not rollout["validate"]:
            groups[rollout["step"], rollout["uid"]].append(rollout)
    assert len(groups) == 16
    for rollouts in groups.values():
        assert sorted(r["session_id"] for r in rollouts) == [0, 1, 2, 3]
        assert len({r["record"]["max_attempts"] for r in rollouts}) == 1
    assert len({rollouts[0]["record"]["max_attempts"] for rollouts in groups.values()}) > 1


def figures_of(rollouts: list[dict[str, Any]], max_attempts: int) -> dict[str, float]:
    """The metrics of the rollouts' own records."""
    episodes = [Episode.from_record(rollout["record"]) for rollout in rollouts]
    return episode_metrics(episodes, RewardSettings(), max_attempts, [rollout["uid"] for rollout in rollouts])


@pytest.mark.parametrize("step", [1, 2])
def test_training_logs_the_figures_of_the_steps_episodes(run: Run, step: int) -> None:
    rollouts = [r for r in run.rollouts() if r["step"] == step and not r["validate"]]
    logged = {name: value for name, value in run.metrics()[step].items()
              if name.startswith("multiattempt/") and "/val/" not in name}  # fmt: skip
    assert logged == pytest.approx({**figures_of(rollouts, 5), "multiattempt/failed_episodes": 0})
    assert logged["multiattempt/refinement"] > 0
    assert "multiattempt/groups/mixed" in logged


@pytest.mark.parametrize("step", [0, 2])
def test_validation_logs_the_figures_of_its_episodes_before_and_after_training(run: Run, step: int) -> None:
    rollouts = [r for r in run.rollouts() if r["step"] == step and r["validate"]]
    assert len(rollouts) == 40
    logged = {name.replace("/val/", "/"): value for name, value in run.metrics()[step].items()
              if name.startswith("multiattempt/val/")}  # fmt: skip
    figures = figures_of(rollouts, 3)
    of_source = {name.replace("multiattempt/", "multiattempt/tiny_math/"): value for name, value in figures.items()}
    assert logged == pytest.approx({**figures, **of_source, "multiattempt/failed_episodes": 0})
    assert logged["multiattempt/accuracy"] == pytest.approx(run.metrics()[step]["val-core/tiny_math/acc/mean@2"])


def test_tensorboard_holds_every_figure_of_every_step(run: Run) -> None:
    written, logged = run.tensorboard(), run.metrics()
    for step in (0, 1, 2):
        names = [name for name in logged[step] if name.startswith("multiattempt/")]
        assert len(names) > 40
        assert {name: written[step][name] for name in names} == pytest.approx({n: logged[step][n] for n in names})
