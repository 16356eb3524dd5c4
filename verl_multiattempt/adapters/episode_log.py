"""The episode log as the agent loop fills it: where it lies, and how a finished episode becomes a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from verl_multiattempt.chat.decode import decode_segments
from verl_multiattempt.chat.tokens import TokenStream
from verl_multiattempt.episode import Episode
from verl_multiattempt.record import RecordedEpisode
from verl_multiattempt.record_writer import EpisodeWriter, Render, check_directory
from verl_multiattempt.settings import Settings

LOGGED_FIELD = "multiattempt_logged"
"""Field of the batch: how many rollouts of the row go into the log (set by `verl_multiattempt.adapters.manager`)."""


def log_directory(config: DictConfig, settings: Settings) -> Path:
    """Absolute path of the log's folder."""
    folder = settings.record.dir or Path(config.trainer.default_local_dir) / "episodes"
    return Path(folder).expanduser().absolute()


def check_log_directory(config: DictConfig, settings: Settings) -> None:
    """Check that the log, where it is on, can be written from this process.

    Raises:
        ValueError: it cannot.
    """
    if settings.record.enabled:
        # As given: an address such as s3://bucket would become a local path.
        remote = settings.record.dir is not None and "://" in settings.record.dir
        check_directory(str(settings.record.dir) if remote else log_directory(config, settings))


def make_writer(config: DictConfig, settings: Settings) -> EpisodeWriter | None:
    """The writer of this process; None where the log is off. Trouble with its folder is reported when it writes."""
    return EpisodeWriter(log_directory(config, settings)) if settings.record.enabled else None


def is_logged(row: Mapping[str, Any]) -> bool:
    """Whether the rollout that gets these fields of a row goes into the log."""
    return int(row.get("session_id", 0)) < int(row.get(LOGGED_FIELD, 0))


def render_episode(
    row: Mapping[str, Any],
    *,
    episode: Episode,
    stream: TokenStream,
    tokenizer: Any,
    messages: Sequence[Mapping[str, Any]],
    index: int | str | None,
    reward: float,
    validate: bool,
    started_at: float,
    seconds: float,
) -> Render:
    """How to make the record of an ended episode: decoding its tokens is left to the thread that calls the result.

    Args:
        row: the fields that verl gave the agent loop.
        episode: the episode; it must not change any more, and neither must ``stream`` and ``messages``.
        stream: its tokens.
        tokenizer: decodes them.
        messages: the opening messages.
        index: the row's, as in its question id.
        reward: the episode's reward.
        validate: whether it is validation.
        started_at: Unix time at which it began.
        seconds: how long it took.
    """
    truth = (row.get("reward_model") or {}).get("ground_truth")

    def render() -> RecordedEpisode:
        return RecordedEpisode(
            episode=episode,
            step=int(row.get("global_steps", -1)),
            rollout=int(row.get("session_id", 0)),
            validate=validate,
            data_source=str(row.get("data_source", "")),
            index=index,
            ground_truth=truth,
            reward=reward,
            started_at=started_at,
            seconds=seconds,
            messages=[{"role": str(m.get("role")), "content": str(m.get("content"))} for m in messages],
            segments=decode_segments(tokenizer, stream.segments()),
        )

    return render
