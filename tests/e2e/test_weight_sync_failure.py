"""A weight sync that fails stops the training with its cause; verl alone would wait for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.pipeline import Assets, Run

pytestmark = pytest.mark.timeout(600)


@pytest.mark.parametrize(
    ("failure", "cause"), [("raises", "injected: shared memory is full"), ("dies", "EngineDeadError")]
)
def test_training_stops_with_the_cause(failure: str, cause: str, assets: Assets, tmp_path: Path) -> None:
    overrides = [
        "algorithm.adv_estimator=grpo", "critic.enable=false", "actor_rollout_ref.rollout.n=2",
        "actor_rollout_ref.actor.use_kl_loss=false", "trainer.total_training_steps=3",
        "actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls=tests.e2e.failing_extension.FailingExtension",
    ]  # fmt: skip
    run = Run(tmp_path, assets, overrides, environment={"FAIL_SYNC": failure, "HYDRA_FULL_ERROR": "1"})
    log = run.fail()
    assert "Training Progress" in log  # it got as far as the first step
    assert cause in log
