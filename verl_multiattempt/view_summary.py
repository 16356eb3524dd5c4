"""The numbers and plots above the viewer's list: `metrics.episode_metrics`, over all episodes and by step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from verl_multiattempt.episode import Episode
from verl_multiattempt.metrics import PREFIX, comparable, episode_metrics
from verl_multiattempt.record import RecordedEpisode
from verl_multiattempt.settings import RewardSettings

MAX_POINTS = 40
"""Points of a plot over steps; beyond it, neighbouring steps are pooled."""
MAX_K = 64
"""Largest k of the figures; no run allows that many attempts, but a log may say so."""
MIN_STEPS_TO_COMPARE = 6
"""From this many steps on, the accuracy at k is drawn for the first and for the last third of them."""

NUMBERS = (
    ("accuracy", "accuracy", "share"),
    ("accuracy@1", "accuracy at 1", "share"),
    ("refinement", "retries correct", "share"),
    ("repeat", "retries that repeat", "share"),
    ("answered", "episodes answered", "share"),
    ("attempts_used/mean", "attempts used", "count"),
    ("tokens_per_attempt/mean", "tokens an attempt", "count"),
    ("truncated", "truncated", "share"),
    ("undecided", "undecided", "share"),
)
"""Metric, label and unit of the numbers shown."""


class Summary:
    """Takes the episodes of a log as they are read, and keeps of each what the metrics need, not its texts."""

    def __init__(self) -> None:
        self.num_episodes = 0
        self._splits: dict[str, dict[int, list[tuple[Episode, float]]]] = {"training": {}, "validation": {}}

    def counting(self, episodes: Iterable[RecordedEpisode]) -> Iterator[RecordedEpisode]:
        """The episodes, each taken into the summary as it goes by."""
        for recorded in episodes:
            self.num_episodes += 1
            steps = self._splits["validation" if recorded.validate else "training"]
            steps.setdefault(recorded.step, []).append((_without_texts(recorded.episode), recorded.reward))
            yield recorded

    @property
    def steps(self) -> list[int]:
        """All steps with episodes, ascending."""
        return sorted({step for steps in self._splits.values() for step in steps})

    def to_json(self) -> dict[str, Any]:
        """What the page draws, for training and for validation, where there are episodes of it."""
        return {name: _split(dict(sorted(steps.items()))) for name, steps in self._splits.items() if steps}


def _split(steps: dict[int, list[tuple[Episode, float]]]) -> dict[str, Any]:
    taken = [pair for pairs in steps.values() for pair in pairs]
    episodes = [episode for episode, _ in taken]
    max_attempts = min(MAX_K, max(episode.max_attempts for episode in episodes))
    overall = _metrics(episodes, max_attempts)
    numbers = [
        {"label": "episodes", "key": "episodes in the log", "value": len(episodes), "unit": "count"},
        {"label": "steps", "key": "steps with episodes in the log", "value": len(steps), "unit": "count"},
        {"label": "reward", "key": "mean reward", "value": sum(reward for _, reward in taken) / len(taken),
         "unit": "count"},
    ]  # fmt: skip
    numbers += [
        {"label": label, "key": PREFIX + name, "value": overall[name], "unit": unit}
        for name, label, unit in NUMBERS
        # A server that only gives text may not say how many tokens it was.
        if name in overall and (overall[name] or name != "tokens_per_attempt/mean")
    ]
    return {
        "numbers": numbers,
        "ks": sorted({1, min(2, max_attempts), max_attempts}),
        "by_k": [_by_k(part, max_attempts) for part in _parts(steps)],
        "retries_by_k": _retries_by_k(episodes, overall, max_attempts),
        "by_step": _by_step(steps, max_attempts),
        "steps_per_point": _steps_per_point(steps),
    }


def _parts(steps: dict[int, list[tuple[Episode, float]]]) -> list[dict[int, list[Episode]]]:
    """The first and the last third of the steps, or all where there are few."""
    episodes = {step: [episode for episode, _ in pairs] for step, pairs in steps.items()}
    if len(steps) < MIN_STEPS_TO_COMPARE:
        return [episodes]
    third = len(steps) // 3
    ordered = list(episodes.items())
    return [dict(ordered[:third]), dict(ordered[-third:])]


def _by_k(steps: dict[int, list[Episode]], max_attempts: int) -> dict[str, Any]:
    episodes = [episode for group in steps.values() for episode in group]
    values = _metrics(episodes, max_attempts)
    counts = _counts(episodes, max_attempts)
    points = [
        {"k": k, "share": values[f"accuracy@{k}"], "count": counts[f"accuracy@{k}"]}
        for k in range(1, max_attempts + 1)
        if f"accuracy@{k}" in values
    ]
    return {"first": min(steps), "last": max(steps), "points": points}


def _retries_by_k(episodes: list[Episode], overall: dict[str, float], max_attempts: int) -> list[dict[str, Any]]:
    """Of each k with an attempt; ``repeat`` only where answers are known, which a reward function need not tell."""
    points = []
    for k in range(2, max_attempts + 1):
        shares = {name: overall[f"{name}@{k}"] for name in ("repeat", "refinement") if f"{name}@{k}" in overall}
        if shares:
            points.append({"k": k, **shares, "count": sum(episode.attempts_used >= k for episode in episodes)})
    return points


def _by_step(steps: dict[int, list[tuple[Episode, float]]], max_attempts: int) -> list[dict[str, Any]]:
    numbers = list(steps)
    width = _steps_per_point(steps)
    points = []
    for start in range(0, len(numbers), width):
        pooled = numbers[start : start + width]
        episodes = [episode for step in pooled for episode, _ in steps[step]]
        counts = _counts(episodes, max_attempts)
        values = {name: value for name, value in _metrics(episodes, max_attempts).items() if name in counts}
        points.append({"first": pooled[0], "last": pooled[-1], "values": values, "counts": counts})
    return points


def _steps_per_point(steps: dict[int, Any]) -> int:
    return -(-len(steps) // MAX_POINTS)


def _counts(episodes: Sequence[Episode], max_attempts: int) -> dict[str, int]:
    """What each plotted share is a share of."""
    retries = sum(max(0, episode.attempts_used - 1) for episode in episodes)
    allowed = {
        f"accuracy@{k}": sum(episode.max_attempts >= k for episode in episodes) for k in range(1, max_attempts + 1)
    }
    compared = sum(comparable(episode, i) for episode in episodes for i in range(1, episode.attempts_used))
    return {"repeat": compared, "refinement": retries, **allowed}


def _metrics(episodes: Sequence[Episode], max_attempts: int) -> dict[str, float]:
    # The reward is taken from the log: the run may have been rewarded by other settings than the default ones.
    flat = episode_metrics(episodes, RewardSettings(), max_attempts)
    return {name.removeprefix(PREFIX): value for name, value in flat.items()}


def _without_texts(episode: Episode) -> Episode:
    attempts = [
        replace(attempt, text="", feedback=None, verdict=replace(attempt.verdict, feedback=None, detail=None))
        for attempt in episode.attempts
    ]
    return replace(episode, attempts=attempts)
