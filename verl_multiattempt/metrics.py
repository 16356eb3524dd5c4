"""Episodes to a flat dict of ``multiattempt/<name>`` numbers, one definition for training and evaluation."""

from __future__ import annotations

from collections.abc import Sequence

from verl_multiattempt.episode import Episode, Stop
from verl_multiattempt.reward import episode_reward
from verl_multiattempt.settings import RewardSettings
from verl_multiattempt.verifier import FAULTS, Outcome

PREFIX = "multiattempt/"


def episode_metrics(episodes: Sequence[Episode], reward: RewardSettings, max_attempts: int) -> dict[str, float]:
    """Means over ``episodes``.

    Args:
        episodes: ended episodes, each with at least one attempt.
        reward: the reward scheme, for ``reward/mean``.
        max_attempts: largest k of ``accuracy@k``, the share solved within k attempts of the episodes that were allowed
            at least k; absent where no episode was.

    Returns:
        Flat metrics; empty without episodes.
    """
    if not episodes:
        return {}
    attempts = [attempt for episode in episodes for attempt in episode.attempts]
    num_context = sum(episode.num_context_tokens for episode in episodes)
    metrics = {
        "episodes": float(len(episodes)),
        "accuracy": _share([episode.solved for episode in episodes]),
        "answered": _share([episode.answered for episode in episodes]),
        "truncated": _share([episode.truncated for episode in episodes]),
        "undecided": _share([episode.undecided for episode in episodes]),
        "reward/mean": sum(episode_reward(episode, reward) for episode in episodes) / len(episodes),
        "max_attempts/mean": sum(episode.max_attempts for episode in episodes) / len(episodes),
        "max_attempts/max": float(max(episode.max_attempts for episode in episodes)),
        "attempts_used/mean": len(attempts) / len(episodes),
        "attempts_used/max": float(max(episode.attempts_used for episode in episodes)),
        "tokens_per_attempt/mean": sum(attempt.num_tokens for attempt in attempts) / max(1, len(attempts)),
        "context_tokens/share": num_context / max(1, num_context + sum(attempt.num_tokens for attempt in attempts)),
        "attempts_cut": float(sum(attempt.stop is Stop.ATTEMPT_LIMIT for attempt in attempts)),
        "control_token_stops": float(sum(attempt.stop is Stop.CONTROL_TOKEN for attempt in attempts)),
        "verification_s/mean": sum(attempt.verdict.seconds for attempt in attempts) / max(1, len(attempts)),
        "verification_s/max": max((attempt.verdict.seconds for attempt in attempts), default=0.0),
    }
    for k in range(1, max_attempts + 1):
        allowed = [episode.solved_within(k) for episode in episodes if episode.max_attempts >= k]
        if allowed:
            metrics[f"accuracy@{k}"] = _share(allowed)
    for outcome in Outcome:
        count = sum(attempt.verdict.outcome is outcome for attempt in attempts)
        metrics[f"verdicts/{outcome.value.lower()}"] = float(count)
    for fault in FAULTS:
        metrics[f"verifier_faults/{fault}"] = float(sum(attempt.verdict.fault == fault for attempt in attempts))
    retries = [(episode, i) for episode in episodes for i in range(1, episode.attempts_used)]
    if retries:
        metrics["refinement"] = _share(
            [episode.attempts[i].verdict.outcome is Outcome.CORRECT for episode, i in retries]
        )
        metrics["repeat"] = _share([repeats(episode, i) for episode, i in retries])
    return {PREFIX + name: value for name, value in metrics.items()}


def repeats(episode: Episode, i: int) -> bool:
    """Whether attempt ``i`` gives the answer of an earlier attempt again, as written."""
    answer = episode.attempts[i].verdict.answer
    return answer is not None and any(earlier.verdict.answer == answer for earlier in episode.attempts[:i])


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)
