"""Lets the real replay buffers sample first steps in a process set up as verl's trainer; its log is standard error."""

from __future__ import annotations

import sys
from typing import Any

import ray
import transfer_queue as tq
import verl  # noqa: F401  (loads the plugin, as verl's driver does)
from omegaconf import OmegaConf
from verl.utils.logging_utils import configure_verl_logging
from verl.workers.rollout.replica import get_rollout_replica_class

from tests.adapters.harness import compose_config
from tests.adapters.sampler_probe import put
from verl_multiattempt.adapters.sampler import make_replay_buffer
from verl_multiattempt.episode import Attempt, Episode, Stop
from verl_multiattempt.verifier import Outcome, Verdict


def rollout(max_attempts: int) -> dict[str, Any]:
    """The extra fields of a rollout of this package."""
    attempt = Attempt(text="", verdict=Verdict(outcome=Outcome.CORRECT), stop=Stop.END_OF_TURN, num_tokens=3)
    return {"multiattempt": Episode(max_attempts=max_attempts, attempts=[attempt]).to_record()}


# For each run the rollouts of its steps' one prompt.
RUNS: dict[str, list[list[dict[str, Any]]]] = {
    "multi": [[rollout(1), rollout(4)], [rollout(1), rollout(1)]],
    "one": [[rollout(1), rollout(1)]] * 2,
    "single": [[{"min_global_steps": 1}] * 2] * 2,
}


def main() -> None:
    configure_verl_logging()
    get_rollout_replica_class("vllm")  # quietens the root logger
    config = compose_config()
    OmegaConf.update(config, "actor_rollout_ref.rollout.n", 2)
    OmegaConf.resolve(config)
    ray.init(num_cpus=16, include_dashboard=False, log_to_driver=False)
    tq.init(config.transfer_queue)
    for mode in ("sync", "colocate_async"):
        for case, steps in RUNS.items():
            print(f"RUN {mode} {case}", file=sys.stderr, flush=True)
            buffer = make_replay_buffer(
                trainer_mode=mode, sampler_kwargs=config.trainer.v1.sampler.sampler_kwargs, trainer_config={},
                max_off_policy_threshold=None, max_off_policy_strategy="drop", refill_fn=lambda count: None,
            )  # fmt: skip
            for step, rollouts in enumerate(steps, start=1):
                put("train", f"{case}{step}", "finished", rollouts)
                batch, _ = buffer.sample(global_steps=step, partition_id="train", batch_size=1)
                tq.kv_clear(partition_id="train", keys=batch.keys)
    ray.shutdown()


if __name__ == "__main__":
    main()
