"""Reward schemes: from an episode to its reward."""

from __future__ import annotations

from verl_multiattempt.episode import Episode
from verl_multiattempt.settings import RewardSettings


def episode_reward(episode: Episode, settings: RewardSettings) -> float:
    """The reward of scheme ``paper`` (arXiv 2503.04808, section 3).

    ``correct * attempt_discount ** (attempts_used - 1)`` if an attempt was correct, else ``answered`` if some attempt
    gave an answer in the asked format, else ``unanswered``.
    """
    if episode.solved:
        return settings.correct * settings.attempt_discount ** (episode.attempts_used - 1)
    return settings.answered if episode.answered else settings.unanswered


def attempt_rewards(episode: Episode, settings: RewardSettings) -> list[float]:
    """The reward of each attempt, ``[attempts_used]``; scheme ``paper`` gives all of it to the last one."""
    if not episode.attempts:
        return []
    return [0.0] * (episode.attempts_used - 1) + [episode_reward(episode, settings)]
