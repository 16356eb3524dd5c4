"""verl's replay buffer, which logs the figures of the episodes that pass through it, in training and validation."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from verl_multiattempt.adapters.agent_loop import RECORD_FIELD
from verl_multiattempt.adapters.doubts import first_step_doubt
from verl_multiattempt.episode import Episode
from verl_multiattempt.metrics import PREFIX, episode_metrics, source_keys
from verl_multiattempt.settings import RewardSettings

# Under verl's own logger: where verl loads vLLM in this process, only that one is heard below ERROR.
logger = logging.getLogger(f"verl.{__name__}")

VALIDATION = "val"
"""verl's partition of validation, and what its figures are logged under: ``multiattempt/val/...``."""


@dataclass(slots=True)
class _Collected:
    """The episodes of a step's batches, until all of them are there; then their figures are ratios of whole sums."""

    step: int
    num_batches: int = 0
    num_failed: int = 0
    """Rollouts that could not be finished."""
    num_finished: int = 0
    """Rollouts that were, episodes or not."""
    episodes: list[Episode] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    """verl's uid of each episode's prompt."""
    data_sources: list[str] = field(default_factory=list)

    def add(self, batch: KVBatchMeta, num_rollouts: int) -> None:
        """Take a batch for which ``num_rollouts`` were started."""
        self.num_batches += 1
        self.num_failed += num_rollouts - len(batch.keys)
        self.num_finished += len(batch.keys)
        if not batch.keys:
            return
        names = ["extra_fields", "data_source"] if batch.partition_id == VALIDATION else ["extra_fields"]
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=names)
        sources = data.pop("data_source").tolist() if "data_source" in data else [""] * len(batch.keys)
        for key, extra, source in zip(batch.keys, data.pop("extra_fields").tolist(), sources, strict=True):
            record = extra.get(RECORD_FIELD) if isinstance(extra, dict) else None
            if record is not None:
                self.episodes.append(Episode.from_record(record))
                self.groups.append(key.rsplit("_", 2)[0])
                self.data_sources.append("" if source is None else str(source))

    def figures(self, reward: RewardSettings, max_attempts: int, data_source: str | None = None) -> dict[str, float]:
        """The metrics of the episodes, or of those from one data source."""
        chosen = [i for i, source in enumerate(self.data_sources) if data_source in (None, source)]
        episodes, groups = [self.episodes[i] for i in chosen], [self.groups[i] for i in chosen]
        return episode_metrics(episodes, reward, max_attempts, groups)


class _EpisodeMetrics:
    """Adds figures to ``sample()``; put before a replay buffer class of verl."""

    reward: RewardSettings
    max_attempts: int
    val_max_attempts: int
    rollouts_per_prompt: int
    val_rollouts_per_prompt: int
    batches_per_step: int
    refill_fn: Any
    warned: frozenset[str] = frozenset()
    first_step_seen: bool = False
    _training: _Collected | None = None
    _validation: _Collected | None = None

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """Sample as verl does; the metrics gain ``multiattempt/...`` for training, and validation is logged."""
        batch, metrics = super().sample(global_steps, partition_id, batch_size)  # type: ignore[misc]
        if partition_id == VALIDATION:
            self._validation = _started(self._validation, global_steps)
            self._validation.add(batch, batch_size * self.val_rollouts_per_prompt)
            # verl itself fails on a batch without a rollout, so no further one will come.
            self._log_validation(self._validation, is_last=not batch.keys)
            return batch, metrics
        return batch, {**metrics, **self._training_metrics(batch, global_steps, batch_size)}

    def _training_metrics(self, batch: KVBatchMeta, global_steps: int, batch_size: int) -> dict[str, float]:
        """The figures of the step, with its last batch; nothing with the others.

        verl averages what the batches of a step bring by rules of its own, which are wrong for ratios.
        """
        self._training = collected = _started(self._training, global_steps)
        collected.add(batch, batch_size * self.rollouts_per_prompt)
        if collected.num_batches < self.batches_per_step:
            return {}
        self._training = None
        self._look_at_first_step(collected)
        figures = collected.figures(self.reward, self.max_attempts)
        return {**figures, f"{PREFIX}failed_episodes": float(collected.num_failed)}

    def _log_validation(self, collected: _Collected, *, is_last: bool = False) -> None:
        """Log when the last batch is there: all episodes together, and those of each data source.

        verl discards the metrics of a validation batch, and of what the reward manager reports it logs means over
        episodes alone. So this goes to the trainer's logger, for the step that verl itself logs after the validation.
        The trainer is the one that gave ``refill_fn``, its only tie to a replay buffer.
        """
        trainer: Any = getattr(self.refill_fn, "__self__", None)
        if not (hasattr(trainer, "logger") and hasattr(trainer, "val_dataloader")):
            self._warn(f"validation is not logged: a trainer with logger and val_dataloader is needed; got {trainer!r}")
            return
        if collected.num_batches < len(trainer.val_dataloader) and not is_last:
            return
        self._validation = None
        if not collected.num_finished:
            logger.error("multiattempt: all %d rollouts of the validation at step %d failed; the agent-loop workers' "
                         "log says why", collected.num_failed, collected.step)  # fmt: skip
        figures = collected.figures(self.reward, self.val_max_attempts)
        figures[f"{PREFIX}failed_episodes"] = float(collected.num_failed)
        for source, key in source_keys(collected.data_sources).items():
            of_source = collected.figures(self.reward, self.val_max_attempts, source)
            figures.update({f"{PREFIX}{key}/{name.removeprefix(PREFIX)}": of_source[name] for name in of_source})
        trainer.logger.log(
            data={f"{PREFIX}{VALIDATION}/{name.removeprefix(PREFIX)}": value for name, value in figures.items()},
            step=collected.step,
        )

    def _look_at_first_step(self, collected: _Collected) -> None:
        """Say in one line where the run is not multi-attempt; a step of which nothing was finished tells nothing."""
        if self.first_step_seen or not collected.num_finished:
            return
        self.first_step_seen = True
        if doubt := first_step_doubt(collected.episodes, collected.num_finished):
            logger.warning("multiattempt: %s", doubt)

    def _warn(self, text: str) -> None:
        if text not in self.warned:
            self.warned |= {text}
            logger.warning("multiattempt: %s", text)


def _started(collected: _Collected | None, step: int) -> _Collected:
    return collected if collected is not None and collected.step == step else _Collected(step)


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
    buffer.val_max_attempts = int(options["val_max_attempts"] or options["max_attempts"])
    buffer.rollouts_per_prompt = int(options["rollouts_per_prompt"])
    buffer.val_rollouts_per_prompt = int(options["val_rollouts_per_prompt"])
    buffer.batches_per_step = int((kwargs.get("trainer_config") or {}).get("parameter_sync_step", 1))
    return buffer
