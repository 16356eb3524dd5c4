"""Episodes to a flat dict of ``multiattempt/<name>`` numbers.

The one definition of every figure, for training, validation and evaluation. Each is a number or a ratio of two sums
over the episodes given; one that has no episode, attempt or group to stand on is left out. The README's table of
metrics says how to read them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from verl_multiattempt.episode import Attempt, Episode, Stop
from verl_multiattempt.reward import episode_reward
from verl_multiattempt.settings import RewardSettings
from verl_multiattempt.verifier import FAULTS, Outcome

PREFIX = "multiattempt/"

Figures = dict[str, float | None]
"""Values by name without the prefix; None where there is nothing to average."""


def episode_metrics(
    episodes: Sequence[Episode],
    reward: RewardSettings,
    max_attempts: int,
    groups: Sequence[Hashable] | None = None,
) -> dict[str, float]:
    """All figures of ``episodes``.

    Args:
        episodes: ended episodes, each with at least one attempt.
        reward: the reward scheme.
        max_attempts: largest k of the figures by attempt (``@k``) and by allowance (``/allowance_k``).
        groups: for each episode, what names its prompt; the rollouts of one prompt share it. None: no figures of
            groups.

    Returns:
        Flat metrics; empty without episodes.

    Raises:
        ValueError: ``groups`` is not as long as ``episodes``.
    """
    if groups is not None and len(groups) != len(episodes):
        raise ValueError(f"groups must be as many as the episodes ({len(episodes)}); got {len(groups)}")
    if not episodes:
        return {}
    attempts = [attempt for episode in episodes for attempt in episode.attempts]
    figures: Figures = {
        "episodes": len(episodes),
        "attempts": len(attempts),
        **_outcomes(episodes, max_attempts),
        **_retries(episodes, max_attempts),
        **_attempts_used(episodes, max_attempts),
        **_rewards(episodes, reward, max_attempts),
        **_verifications(attempts),
        **_tokens(episodes, attempts, max_attempts),
        **(_groups(episodes, reward, groups) if groups is not None else {}),
    }
    return {PREFIX + name: float(value) for name, value in figures.items() if value is not None}


def _outcomes(episodes: Sequence[Episode], max_attempts: int) -> Figures:
    return {
        "accuracy": _mean(episode.solved for episode in episodes),
        **{
            # A smaller allowance says nothing about k attempts.
            f"accuracy@{k}": _mean(episode.solved_within(k) for episode in episodes if episode.max_attempts >= k)
            for k in range(1, max_attempts + 1)
        },
        "answered": _mean(episode.answered for episode in episodes),
        "undecided": _mean(episode.undecided for episode in episodes),
        "truncated": _mean(episode.truncated for episode in episodes),
    }


def _retries(episodes: Sequence[Episode], max_attempts: int) -> Figures:
    """What became of the attempts after the first; the one before a retry was not correct, or it would be the last."""
    retries = [(episode, i) for episode in episodes for i in range(1, episode.attempts_used)]
    refined = [(i, episode.attempts[i].verdict.outcome is Outcome.CORRECT) for episode, i in retries]
    repeated = [(i, repeats(episode, i)) for episode, i in retries]
    figures: Figures = {"refinement": _mean(flag for _, flag in refined), "repeat": _mean(flag for _, flag in repeated)}
    for k in range(2, max_attempts + 1):
        figures[f"refinement@{k}"] = _mean(flag for i, flag in refined if i == k - 1)
        figures[f"repeat@{k}"] = _mean(flag for i, flag in repeated if i == k - 1)
    return figures


def repeats(episode: Episode, i: int) -> bool:
    """Whether attempt ``i`` (from 0) gives the answer of an earlier attempt of the episode again."""
    verdict = episode.attempts[i].verdict
    return any(verdict.same_answer(earlier.verdict) for earlier in episode.attempts[:i])


def _attempts_used(episodes: Sequence[Episode], max_attempts: int) -> Figures:
    return {
        "max_attempts/mean": _mean(episode.max_attempts for episode in episodes),
        "max_attempts/max": max(episode.max_attempts for episode in episodes),
        "attempts_used/mean": _mean(episode.attempts_used for episode in episodes),
        "attempts_used/max": max(episode.attempts_used for episode in episodes),
        "attempts_used/solved": _mean(episode.attempts_used for episode in episodes if episode.solved),
        "attempts_used/unsolved": _mean(episode.attempts_used for episode in episodes if not episode.solved),
        **{
            f"attempts_used/allowance_{k}": _mean(e.attempts_used for e in episodes if e.max_attempts == k)
            for k in range(1, max_attempts + 1)
        },
    }


def _rewards(episodes: Sequence[Episode], reward: RewardSettings, max_attempts: int) -> Figures:
    rewards = [(episode.max_attempts, episode_reward(episode, reward)) for episode in episodes]
    return {
        "reward/mean": _mean(value for _, value in rewards),
        **{
            f"reward/allowance_{k}": _mean(value for allowance, value in rewards if allowance == k)
            for k in range(1, max_attempts + 1)
        },
    }


def _verifications(attempts: Sequence[Attempt]) -> Figures:
    verdicts = [attempt.verdict for attempt in attempts]
    return {
        **{f"verdicts/{outcome.value.lower()}": sum(v.outcome is outcome for v in verdicts) for outcome in Outcome},
        **{f"verifier_faults/{fault}": sum(v.fault == fault for v in verdicts) for fault in FAULTS},
        "verification_s/mean": _mean(verdict.seconds for verdict in verdicts),
        "verification_s/max": max((verdict.seconds for verdict in verdicts), default=None),
    }


def _tokens(episodes: Sequence[Episode], attempts: Sequence[Attempt], max_attempts: int) -> Figures:
    num_sampled = sum(attempt.num_tokens for attempt in attempts)
    num_context = sum(episode.num_context_tokens for episode in episodes)
    return {
        "tokens_per_attempt/mean": _mean(attempt.num_tokens for attempt in attempts),
        "tokens_per_attempt/max": max((attempt.num_tokens for attempt in attempts), default=None),
        **{
            f"tokens_per_attempt@{k}": _mean(e.attempts[k - 1].num_tokens for e in episodes if e.attempts_used >= k)
            for k in range(1, max_attempts + 1)
        },
        "context_tokens/share": num_context / max(1, num_context + num_sampled),
        "attempts_cut": sum(attempt.stop is Stop.ATTEMPT_LIMIT for attempt in attempts),
        "attempts_cut_share": _mean(attempt.stop is Stop.ATTEMPT_LIMIT for attempt in attempts),
        "control_token_stops": sum(attempt.stop is Stop.CONTROL_TOKEN for attempt in attempts),
    }


def _groups(episodes: Sequence[Episode], reward: RewardSettings, groups: Sequence[Hashable]) -> Figures:
    """Figures of the prompts with at least two rollouts; of a single one there is nothing to compare."""
    members: dict[Hashable, list[Episode]] = {}
    for episode, group in zip(episodes, groups, strict=True):
        members.setdefault(group, []).append(episode)
    compared = [group for group in members.values() if len(group) > 1]
    num_solved = [(sum(episode.solved for episode in group), len(group)) for group in compared]
    return {
        "groups/mixed": _mean(0 < solved < size for solved, size in num_solved),
        "groups/all_solved": _mean(solved == size for solved, size in num_solved),
        "groups/none_solved": _mean(solved == 0 for solved, _ in num_solved),
        "groups/same_reward": _mean(len({episode_reward(e, reward) for e in group}) == 1 for group in compared),
    }


def _mean(values: Iterable[float]) -> float | None:
    """The mean; None without values."""
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None
