"""verl's replay buffer, with the episodes' metrics merged into the training log."""

from __future__ import annotations

import logging
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from verl_multiattempt.adapters.agent_loop import RECORD_FIELD
from verl_multiattempt.episode import Episode
from verl_multiattempt.metrics import episode_metrics
from verl_multiattempt.settings import RewardSettings

logger = logging.getLogger(__name__)


class _EpisodeMetrics:
    """Adds metrics to ``sample()``; put before a replay buffer class of verl."""

    reward: RewardSettings
    max_attempts: int
    rollouts_per_prompt: int
    warned: bool = False

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """Sample as verl does; the metrics gain ``multiattempt/...`` for training batches."""
        batch, metrics = super().sample(global_steps, partition_id, batch_size)  # type: ignore[misc]
        if partition_id == "val":
            return batch, metrics  # verl's validation discards them and averages reward_extra_info
        failed = batch_size * self.rollouts_per_prompt - len(batch.keys)
        return batch, {**metrics, **self._metrics_of(batch), "multiattempt/failed_episodes": float(failed)}

    def _metrics_of(self, batch: KVBatchMeta) -> dict[str, float]:
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
        fields = [getattr(value, "data", value) for value in data["extra_fields"]]
        records = [f[RECORD_FIELD] for f in fields if isinstance(f, dict) and RECORD_FIELD in f]
        if not records and not self.warned:
            self.warned = True
            logger.warning("multiattempt: no rollout of this batch is an episode; is another agent loop configured?")
        return episode_metrics([Episode.from_record(record) for record in records], self.reward, self.max_attempts)


class MultiAttemptReplayBuffer(_EpisodeMetrics, ReplayBuffer):
    """For ``trainer.v1.trainer_mode=sync``."""


class MultiAttemptReplayBufferAsync(_EpisodeMetrics, ReplayBufferAsync):
    """For verl's asynchronous trainer modes."""


def make_replay_buffer(trainer_mode: str, sampler_kwargs: Any, **kwargs: Any) -> ReplayBuffer:
    """Build the replay buffer; set as ``trainer.v1.sampler.custom_sampler.name``.

    verl gives a custom sampler less than its own (``trainer_base.py`` ``_build_replay_buffer``), so the recipe passes
    on through ``sampler_kwargs`` what group filtering needs.

    Args:
        trainer_mode: ``trainer.v1.trainer_mode``.
        sampler_kwargs: ``trainer.v1.sampler.sampler_kwargs`` of the recipe.
        **kwargs: verl's other arguments.
    """
    options = dict(sampler_kwargs)
    synchronous = trainer_mode == "sync"
    filter_groups = options.get("filter_groups") or {}
    filter_metric = filter_groups.get("metric") if filter_groups.get("enable") else None
    if filter_groups.get("enable") and not filter_metric:
        raise ValueError("algorithm.filter_groups.metric must be set where groups are filtered; got None. "
                         "Set it to acc, say.")  # fmt: skip
    refill_failed = bool(options.get("sync_refill_failed_groups"))
    arguments: dict[str, Any] = {
        "poll_interval": float(options["poll_interval_s"]),
        "filter_groups_metric": filter_metric,
        "sync_refill_failed_groups": refill_failed,
    }
    if synchronous:
        one_by_one = filter_metric is not None or refill_failed
        arguments["train_batch_size"] = options["train_batch_size"]
        arguments["gen_batch_size"] = 1 if one_by_one else options.get("gen_batch_size") or options["train_batch_size"]
        arguments["max_inflight_gen_batches"] = filter_groups.get("max_inflight_gen_batches") or 1
    buffer_class = MultiAttemptReplayBuffer if synchronous else MultiAttemptReplayBufferAsync
    buffer = buffer_class(trainer_mode=trainer_mode, sampler_kwargs=sampler_kwargs, **arguments, **kwargs)
    buffer.reward = RewardSettings(**options["reward"])
    buffer.max_attempts = int(options["max_attempts"])
    buffer.rollouts_per_prompt = int(options["rollouts_per_prompt"])
    return buffer
