"""GRPO with groups of 4 on two data-parallel ranks and two vLLM replicas."""

from __future__ import annotations

import math
from collections import defaultdict

import pytest

from tests.e2e.pipeline import Assets, Run

pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def run(assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> Run:
    overrides = [
        "algorithm.adv_estimator=grpo", "critic.enable=false", "actor_rollout_ref.rollout.n=4",
        "trainer.n_gpus_per_node=2", "trainer.total_training_steps=2", "data.train_batch_size=8",
        "actor_rollout_ref.actor.ppo_mini_batch_size=8", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16",
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
        groups[rollout["step"], rollout["uid"]].append(rollout)
    assert len(groups) == 16
    for rollouts in groups.values():
        assert sorted(r["session_id"] for r in rollouts) == [0, 1, 2, 3]
        assert len({r["record"]["max_attempts"] for r in rollouts}) == 1
    assert len({rollouts[0]["record"]["max_attempts"] for rollouts in groups.values()}) > 1
