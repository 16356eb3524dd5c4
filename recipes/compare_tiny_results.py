"""What `compare_tiny_report.py` reads of the evaluations, and the intervals that it states."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from task import MODULUS, class_counts
from verl_multiattempt.plots.lines import t_quantile
from verl_multiattempt.record import read_episodes
from verl_multiattempt.verifier import Outcome

ATTEMPTS = (1, 2, 3, 4, 5)
MODE_FOLDERS = {"greedy": "temperature-0", "sampled": "temperature-1"}
"""Of `multiattempt evaluate --temperature 0 1`."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its 95 % interval, Student's."""

    mean: float
    half_width: float | None
    """None with a single seed."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """From one value a seed."""
        n = len(values)
        half = t_quantile(n - 1) * statistics.stdev(values) / math.sqrt(n) if n > 1 else None
        return cls(statistics.fmean(values), half)

    @property
    def is_positive(self) -> bool:
        """Whether the whole interval is above zero."""
        return self.half_width is not None and self.mean > self.half_width

    def percent(self) -> str:
        """Of a share: as ``53.1 % [51.9, 54.3]``; the interval ends where shares do."""
        text = f"{100 * self.mean:.1f} %"
        if self.half_width is None:
            return text
        low, high = max(0.0, self.mean - self.half_width), min(1.0, self.mean + self.half_width)
        return f"{text} [{100 * low:.1f}, {100 * high:.1f}]"

    def points(self) -> str:
        """Of a difference of shares: as ``+15.3 ± 2.1 points``."""
        half = "" if self.half_width is None else f" ± {100 * self.half_width:.1f}"
        return f"{100 * self.mean:+.1f}{half} points"


@dataclass(frozen=True, slots=True)
class Retry:
    """A second attempt after a first that gave a wrong answer."""

    first: str
    second: str | None
    """None: no answer."""


class Results:
    """The evaluations of all seeds: ``OUT/seed-<seed>/evaluation/<arm>/<folder of a mode>``, with a run for every k."""

    def __init__(self, out: Path, seeds: Sequence[int]):
        self.out, self.seeds = out, seeds

    def folder(self, seed: int, arm: str, mode: str) -> Path:
        """Where an evaluation lies."""
        return self.out / f"seed-{seed}" / "evaluation" / arm / MODE_FOLDERS[mode]

    def metrics(self, seed: int, arm: str, mode: str, k: int) -> Mapping[str, float]:
        """The metrics of the run that allows k attempts (see `verl_multiattempt.metrics`)."""
        metrics: Mapping[str, float] = _read(self.folder(seed, arm, mode) / "results.json")["runs"][f"paper-{k}"][
            "benchmarks"]["tiny_math"]["metrics"]  # fmt: skip
        return metrics

    def values(self, name: str, arm: str, mode: str, k: int, seeds: Sequence[int] | None = None) -> list[float]:
        """One metric of the runs that allow k attempts, one value a seed that has it."""
        found = (self.metrics(seed, arm, mode, k).get(name) for seed in seeds or self.seeds)
        return [value for value in found if value is not None]

    def gains(self, arm: str, mode: str) -> list[float]:
        """What the second attempt solves of all questions in the runs that allow two, one value a seed."""
        first, both = (self.values(f"accuracy@{k}", arm, mode, 2) for k in (1, 2))
        return [b - a for a, b in zip(first, both, strict=True)]

    def allowances(self, arm: str, mode: str, k: int = 2) -> list[float]:
        """Accuracy of the runs that allow k attempts less that of those that allow one, one value a seed."""
        one, several = (self.values("accuracy", arm, mode, allowed) for allowed in (1, k))
        return [b - a for a, b in zip(one, several, strict=True)]

    def allowance_difference(self, mode: str, k: int) -> Estimate:
        """`allowances` of `multi` less those of `single`."""
        single, multi = (self.allowances(arm, mode, k) for arm in ("single", "multi"))
        return Estimate.of([b - a for a, b in zip(single, multi, strict=True)])

    def retries(self, seed: int, arm: str, mode: str, k: int) -> Counter[Retry]:
        """How often which second answer followed which wrong first one in the run that allows k attempts."""
        counts: Counter[Retry] = Counter()
        for recorded in read_episodes(self.folder(seed, arm, mode) / f"paper-{k}"):
            attempts = recorded.episode.attempts
            if len(attempts) > 1 and attempts[0].verdict.outcome is Outcome.INCORRECT:
                first, second = (attempt.verdict.answer for attempt in attempts[:2])
                counts[Retry(str(first), second)] += 1
        return counts


@cache
def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def share_of_commonest(retries: Mapping[Retry, int]) -> float | None:
    """The share of second answers that are the commonest second answer, whatever the first; None without retries."""
    if not retries:
        return None
    seconds: Counter[str | None] = Counter()
    for retry, count in retries.items():
        seconds[retry.second] += count
    return max(seconds.values()) / sum(seconds.values())


def fixed_order_accuracy(answers_odd: Iterable[tuple[int, bool]], attempts: int) -> float:
    """The share of questions that the best fixed order of guesses solves, which knows whether the result is odd."""
    counts = class_counts()
    order = {odd: sorted((c for c in range(MODULUS) if c % 2 == odd), key=lambda c: -counts[c]) for odd in (0, 1)}
    solved = [answer in order[int(odd)][:attempts] for answer, odd in answers_odd]
    return sum(solved) / len(solved)
