"""Puts rollouts into a real TransferQueue as verl's agent-loop worker does, and prints what the replay buffers say."""

from __future__ import annotations

import json
from typing import Any

import ray
import torch
import transfer_queue as tq
import verl  # noqa: F401  (loads the plugin, as verl's driver does)
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from tests.adapters.harness import compose_config
from verl_multiattempt.adapters.sampler import make_replay_buffer
from verl_multiattempt.episode import Attempt, Episode, Stop
from verl_multiattempt.verifier import Outcome, Verdict


def record(*outcomes: Outcome) -> dict[str, Any]:
    attempts = [
        Attempt(text="", verdict=Verdict(outcome=outcome), stop=Stop.END_OF_TURN, num_tokens=10) for outcome in outcomes
    ]
    return Episode(max_attempts=5, attempts=attempts, num_context_tokens=5).to_record()


def put(partition: str, uid: str, status: str, extra_fields: list[dict[str, Any]]) -> None:
    """One prompt with its rollouts."""
    tag = {"is_prompt": True, "status": status, "global_steps": 1}
    tq.kv_batch_put(keys=[uid], partition_id=partition, tags=[tag])
    if extra_fields:
        ids = [torch.ones(3 + i, dtype=torch.int64) for i in range(len(extra_fields))]
        fields = [{"responses": ids[i], "extra_fields": extra} for i, extra in enumerate(extra_fields)]
        tq.kv_batch_put(
            keys=[f"{uid}_{i}_0" for i in range(len(fields))], partition_id=partition,
            fields=list_of_dict_to_tensordict(fields), tags=[{"status": "success", "global_steps": 1}] * len(fields),
        )  # fmt: skip


def main() -> None:
    config = compose_config()
    OmegaConf.update(config, "actor_rollout_ref.rollout.n", 2)
    OmegaConf.update(config, "multiattempt.max_attempts", 3)
    OmegaConf.resolve(config)
    ray.init(num_cpus=16, include_dashboard=False, log_to_driver=False)
    tq.init(config.transfer_queue)

    def make(mode: str, **trainer_config: Any) -> ReplayBuffer:
        return make_replay_buffer(
            trainer_mode=mode, sampler_kwargs=config.trainer.v1.sampler.sampler_kwargs, trainer_config=trainer_config,
            max_off_policy_threshold=None, max_off_policy_strategy="drop", refill_fn=None,
        )  # fmt: skip

    right, wrong = Outcome.CORRECT, Outcome.INCORRECT
    answers: dict[str, Any] = {}
    for mode in ("sync", "colocate_async"):
        buffer = make(mode)
        # Two prompts of two rollouts; of the second one only one was finished.
        put("train", "a", "finished", [{"multiattempt": record(right)}, {"multiattempt": record(wrong, wrong, right)}])
        put("train", "b", "failure" if mode == "sync" else "finished", [{"multiattempt": record(wrong, wrong)}])
        batch, metrics = buffer.sample(global_steps=1, partition_id="train", batch_size=2)
        answers[mode] = {"keys": sorted(batch.keys), "metrics": metrics}
        put("val", "c", "finished", [{"multiattempt": record(right)}] * 2)
        batch, metrics = buffer.sample(global_steps=1, partition_id="val", batch_size=1)
        answers[f"{mode} val"] = {"keys": sorted(batch.keys), "metrics": metrics}
        put("train", "d", "finished", [{"min_global_steps": 1}, {"min_global_steps": 1}])
        batch, metrics = buffer.sample(global_steps=1, partition_id="train", batch_size=1)
        answers[f"{mode} single turn"] = {"keys": sorted(batch.keys), "metrics": metrics}
        tq.kv_clear(partition_id="train", keys=["a_0_0", "a_1_0", "b_0_0", "d_0_0", "d_1_0"])
        tq.kv_clear(partition_id="val", keys=["c_0_0", "c_1_0"])
    # A step of several batches: verl trains on each as it comes.
    buffer = make("separate_async", parameter_sync_step=2)
    for name, step, outcomes in (("e", 7, (wrong, wrong, wrong)), ("f", 7, (wrong, right)), ("g", 8, (right,))):
        put("train", name, "finished", [{"multiattempt": record(*outcomes)}] * 2)
        _, answers[f"batch {name}"] = buffer.sample(global_steps=step, partition_id="train", batch_size=1)
    print("ANSWER " + json.dumps(answers))
    ray.shutdown()


if __name__ == "__main__":
    main()
