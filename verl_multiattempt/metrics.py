"""Episodes to a flat dict of ``multiattempt/<name>`` numbers.

The one definition of every figure, for training, validation and evaluation (`MetricsAccumulator`). Each is a number or
a ratio of two sums over the episodes given; one that has no episode, attempt or group to stand on is left out. The
README's table of metrics says how to read them.

Names: training logs ``multiattempt/<name>``; validation ``multiattempt/val/<name>`` over all its episodes and, always,
``multiattempt/val/<source>/<name>`` of each data source, so that the curve of one benchmark has the same key whether or
not others are validated beside it. ``<source>`` is the row's ``data_source`` as `source_keys` spells it.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from verl_multiattempt.episode import Attempt, Episode, Stop
from verl_multiattempt.reward import episode_reward
from verl_multiattempt.settings import RewardSettings
from verl_multiattempt.verifier import FAULTS, Outcome, Verdict

PREFIX = "multiattempt/"
LARGEST_K = 32
"""The figures by attempt (``@k``) and by allowance (``/allowance_k``) go on to this k where rows allow more attempts
than the settings do: a row that allows a million must not make a million figures."""


def episode_metrics(
    episodes: Iterable[Episode],
    reward: RewardSettings,
    max_attempts: int,
    groups: Sequence[Hashable] | None = None,
) -> dict[str, float]:
    """All figures of ``episodes``.

    Args:
        episodes: see `MetricsAccumulator.add`.
        reward: see `MetricsAccumulator`.
        max_attempts: see `MetricsAccumulator`.
        groups: for each episode, what names its prompt; the rollouts of one prompt share it. None: no figures of
            groups.

    Returns:
        Flat metrics; empty without episodes.

    Raises:
        ValueError: ``groups`` is not as long as ``episodes``.
    """
    accumulator = MetricsAccumulator(reward, max_attempts)
    if groups is None:
        for episode in episodes:
            accumulator.add(episode)
        return accumulator.figures()
    episodes = list(episodes)
    if len(groups) != len(episodes):
        raise ValueError(f"groups must be as many as the episodes ({len(episodes)}); got {len(groups)}")
    for episode, group in zip(episodes, groups, strict=True):
        accumulator.add(episode, group)
    return accumulator.figures()


@dataclass(slots=True)
class _Mean:
    total: float = 0
    count: int = 0

    def add(self, value: float) -> None:
        self.total += value
        self.count += 1


@dataclass(slots=True)
class _Group:
    """The rollouts of one prompt."""

    reward: float
    """Of the first."""
    size: int = 0
    num_solved: int = 0
    same_reward: bool = True


class MetricsAccumulator:
    """Takes episodes one at a time and keeps sums, so its memory does not grow with them; only with their groups.

    Args:
        reward: the reward scheme.
        max_attempts: the settings' largest allowance. The figures by attempt and by allowance go on to the largest
            allowance of the episodes, which rows may set higher (``extra_info.max_attempts``), but not beyond
            `LARGEST_K` or ``max_attempts``, whichever is more.
    """

    def __init__(self, reward: RewardSettings, max_attempts: int):
        self._reward = reward
        self._largest_k = max(max_attempts, LARGEST_K)
        self._means: dict[str, _Mean] = {}
        self._maxima: dict[str, float] = {}
        self._sums: dict[str, float] = {"episodes": 0, "attempts": 0, "attempts_cut": 0, "control_token_stops": 0}
        self._sums |= {f"verdicts/{outcome.value.lower()}": 0 for outcome in Outcome}
        self._sums |= {f"verifier_faults/{fault}": 0 for fault in FAULTS}
        self._groups: dict[Hashable, _Group] = {}

    def add(self, episode: Episode, group: Hashable | None = None) -> None:
        """Take an episode.

        Args:
            episode: an ended episode with at least one attempt.
            group: what names its prompt; the rollouts of one prompt share it. None: of no group.
        """
        reward = episode_reward(episode, self._reward)
        self._sums["episodes"] += 1
        self._add_outcome(episode)
        self._add_allowance(episode, reward)
        self._add_retries(episode)
        for k, attempt in enumerate(episode.attempts, start=1):
            self._add_attempt(attempt, k)
        # A share of sums: the model's tokens count as 0, those between its attempts as 1.
        share = self._means.setdefault("context_tokens/share", _Mean())
        share.total += episode.num_context_tokens
        share.count += episode.num_context_tokens + sum(attempt.num_tokens for attempt in episode.attempts)
        if group is not None:
            self._add_to_group(group, episode.solved, reward)

    def figures(self) -> dict[str, float]:
        """Flat metrics of the episodes so far, sorted by name; empty without episodes."""
        if not self._sums["episodes"]:
            return {}
        figures = {
            **self._sums,
            **self._maxima,
            **{name: mean.total / max(1, mean.count) for name, mean in self._means.items()},
            **self._group_figures(),
        }
        return {PREFIX + name: float(figures[name]) for name in sorted(figures, key=_by_number)}

    def _mean(self, name: str, value: float) -> None:
        mean = self._means.get(name)
        if mean is None:
            mean = self._means[name] = _Mean()
        mean.add(value)

    def _max(self, name: str, value: float) -> None:
        self._maxima[name] = max(value, self._maxima.get(name, value))

    def _add_outcome(self, episode: Episode) -> None:
        self._mean("accuracy", episode.solved)
        # A smaller allowance says nothing about k attempts.
        for k in range(1, min(episode.max_attempts, self._largest_k) + 1):
            self._mean(f"accuracy@{k}", episode.solved_within(k))
        self._mean("answered", episode.answered)
        self._mean("undecided", episode.undecided)
        self._mean("truncated", episode.truncated)

    def _add_allowance(self, episode: Episode, reward: float) -> None:
        allowance, used = episode.max_attempts, episode.attempts_used
        self._mean("max_attempts/mean", allowance)
        self._max("max_attempts/max", allowance)
        self._mean("attempts_used/mean", used)
        self._max("attempts_used/max", used)
        self._mean("attempts_used/solved" if episode.solved else "attempts_used/unsolved", used)
        self._mean("reward/mean", reward)
        if allowance <= self._largest_k:
            self._mean(f"attempts_used/allowance_{allowance}", used)
            self._mean(f"reward/allowance_{allowance}", reward)

    def _add_retries(self, episode: Episode) -> None:
        """What became of the attempts after the first; the one before a retry was not correct, or it would be last."""
        comparable = _comparable_retries(episode)
        for i in range(1, episode.attempts_used):
            flags = {"refinement": episode.attempts[i].verdict.outcome is Outcome.CORRECT}
            if i <= comparable:
                flags["repeat"] = repeats(episode, i)
            for name, flag in flags.items():
                self._mean(name, flag)
                if i + 1 <= self._largest_k:
                    self._mean(f"{name}@{i + 1}", flag)

    def _add_attempt(self, attempt: Attempt, k: int) -> None:
        verdict = attempt.verdict
        self._sums["attempts"] += 1
        self._sums[f"verdicts/{verdict.outcome.value.lower()}"] += 1
        if verdict.fault in FAULTS:
            self._sums[f"verifier_faults/{verdict.fault}"] += 1
        self._mean("verification_s/mean", verdict.seconds)
        self._max("verification_s/max", verdict.seconds)
        self._mean("tokens_per_attempt/mean", attempt.num_tokens)
        self._max("tokens_per_attempt/max", attempt.num_tokens)
        if k <= self._largest_k:
            self._mean(f"tokens_per_attempt@{k}", attempt.num_tokens)
        cut = attempt.stop is Stop.ATTEMPT_LIMIT
        self._sums["attempts_cut"] += cut
        self._mean("attempts_cut_share", cut)
        self._sums["control_token_stops"] += attempt.stop is Stop.CONTROL_TOKEN

    def _add_to_group(self, name: Hashable, solved: bool, reward: float) -> None:
        group = self._groups.setdefault(name, _Group(reward))
        group.size += 1
        group.num_solved += solved
        group.same_reward = group.same_reward and reward == group.reward

    def _group_figures(self) -> dict[str, float]:
        """Figures of the prompts with at least two rollouts; of a single one there is nothing to compare."""
        groups = [group for group in self._groups.values() if group.size > 1]
        if not groups:
            return {}
        return {
            "groups/mixed": sum(0 < group.num_solved < group.size for group in groups) / len(groups),
            "groups/all_solved": sum(group.num_solved == group.size for group in groups) / len(groups),
            "groups/none_solved": sum(group.num_solved == 0 for group in groups) / len(groups),
            "groups/same_reward": sum(group.same_reward for group in groups) / len(groups),
        }


def repeats(episode: Episode, i: int) -> bool:
    """Whether attempt ``i`` (from 0) gives the answer of an earlier attempt of the episode again."""
    verdict = episode.attempts[i].verdict
    return any(verdict.same_answer(earlier.verdict) for earlier in episode.attempts[:i])


def comparable(episode: Episode, i: int) -> bool:
    """Whether it is known of attempt ``i`` (from 0) that it repeats an earlier answer, or that it does not.

    So it is where the answers of this attempt and of all before it are known. NO_ANSWER is known: there is none, so it
    repeats none and is repeated by none. After any other outcome without an answer (a reward function that tells a
    score only, a verification that failed before the answer was found) nothing is known. The rule looks at what is
    before the attempt, not at whether it repeats, so that the share over the comparable ones is not skewed.
    """
    return 0 < i <= _comparable_retries(episode)


def _comparable_retries(episode: Episode) -> int:
    """The last attempt (from 0) up to which every answer is known; below 1: no retry can be compared."""
    for i, attempt in enumerate(episode.attempts):
        if not _answer_known(attempt.verdict):
            return i - 1
    return len(episode.attempts) - 1


def _answer_known(verdict: Verdict) -> bool:
    unknown = verdict.answer is None and verdict.normal_answer is None
    return verdict.outcome is Outcome.NO_ANSWER or not unknown


def source_keys(data_sources: Iterable[str]) -> dict[str, str]:
    """For each ``data_source`` the part of a metric's name that stands for it.

    Letters, digits, ``_``, ``.`` and ``-`` are kept and anything else becomes ``_`` (a slash would part the name in
    the loggers' panels, and some loggers refuse other characters); no name is ``unknown``, as with verl. Where two
    sources would become one, a source that is spelled so keeps it and the other gets a number.
    """
    keys: dict[str, str] = {}
    spelled = {source: re.sub(r"[^\w.-]", "_", source) or "unknown" for source in data_sources}
    for source, plain in sorted(spelled.items(), key=lambda item: (item[0] != item[1], item)):
        key, number = plain, 1
        while key in keys.values():
            number += 1
            key = f"{plain}_{number}"
        keys[source] = key
    return keys


def _by_number(name: str) -> tuple[str, int]:
    """Sorts ``accuracy@10`` after ``accuracy@9``."""
    match = re.fullmatch(r"(.*\D)(\d+)", name)
    return (match[1], int(match[2])) if match else (name, 0)
