"""Estimates of the figures by k, and how far they can be trusted.

A question's samples are not independent of each other, so an interval comes of resampling questions, each with all its
samples (a clustered bootstrap), and for the mean over benchmarks, questions within each benchmark (stratified).

Only what a question contributes matters to a sum over resampled questions, and few contributions differ: with one
sample, the attempt that solved it or none. So questions are counted by contribution, and a resample is one draw from a
multinomial distribution over these. It is the same bootstrap, in memory that does not grow with the questions.

Percentiles of a bootstrap are too narrow where few questions are right or wrong (at the worst they hold the truth in
86 % of cases), and for single samples the exact limits of a binomial share are known (Clopper and Pearson). There an
interval reaches as far as both.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

NUM_RESAMPLES = 2000
CONFIDENCE = 0.95
FEW = 10
"""Fewer questions than these that are right, or wrong, are too few for percentiles of a bootstrap."""

Tally = tuple[int, ...]
"""Of one question: its episodes, and how many of them were solved within each k, ``(n, c_1, ... c_K)``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its interval."""

    value: float
    low: float
    high: float
    replicates: np.ndarray
    """The figure of each resample, ``[NUM_RESAMPLES]``."""


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate of the chance that one of ``k`` independent samples is right (arXiv 2107.03374, eq. 1).

    Args:
        n: samples, at least ``k``.
        c: how many of them are right.
        k: how many are allowed.

    Raises:
        ValueError: there are less samples than ``k``, or ``c`` cannot be.
    """
    if not (1 <= k <= n and 0 <= c <= n):
        raise ValueError(f"pass@k must have 1 <= k <= n and 0 <= c <= n; got k={k!r}, n={n!r}, c={c!r}")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def accuracy(tallies: Mapping[Tally, int], position: int, seed: Sequence[int]) -> Estimate | None:
    """The share of episodes solved within k.

    Args:
        tallies: how many questions have which tally.
        position: of k in the tallies, from 0.
        seed: of the resampling.

    Returns:
        The estimate; None without episodes.
    """
    parts = {tally: (float(tally[1 + position]), float(tally[0])) for tally in tallies if tally[0]}
    return _estimate(tallies, parts, seed)


def independent(tallies: Mapping[Tally, int], k: int, seed: Sequence[int]) -> Estimate | None:
    """pass@k of the questions that have at least ``k`` samples.

    Args:
        tallies: how many questions have which tally ``(n, c)``.
        k: how many samples are allowed.
        seed: of the resampling.

    Returns:
        The estimate; None where no question has as many samples.
    """
    parts = {tally: (pass_at_k(tally[0], tally[1], k), 1.0) for tally in tallies if tally[0] >= k}
    return _estimate(tallies, parts, seed)


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """The mean over benchmarks, each of which counts the same whatever its size."""
    value = math.fsum(estimate.value for estimate in estimates) / len(estimates)
    return _with_interval(value, np.mean([estimate.replicates for estimate in estimates], axis=0))


def _estimate(
    tallies: Mapping[Tally, int], parts: Mapping[Tally, tuple[float, float]], seed: Sequence[int]
) -> Estimate | None:
    """A ratio of two sums over questions, to which each tally contributes ``parts``."""
    if not parts:
        return None
    kinds = sorted(parts)  # so that nothing depends on the order of the log
    counts = np.array([tallies[kind] for kind in kinds], dtype=np.int64)
    above, below = (np.array([parts[kind][i] for kind in kinds]) for i in (0, 1))
    value = math.fsum(counts * above) / math.fsum(counts * below)
    generator, num_questions = np.random.default_rng(list(seed)), int(counts.sum())
    drawn = generator.multinomial(num_questions, counts / num_questions, size=NUM_RESAMPLES)
    replicates = (drawn * above).sum(axis=1) / (drawn * below).sum(axis=1)
    estimate = _with_interval(value, replicates)
    shares = above / below
    few = min(value, 1 - value) * num_questions < FEW
    if not few and not all(share in (0, 1) for share in shares):
        return estimate
    # Part of a question counts as none of it below, and as all of it above.
    fewest, most = math.floor(value * num_questions + 1e-9), math.ceil(value * num_questions - 1e-9)
    low, high = exact_limits(fewest, num_questions)[0], exact_limits(most, num_questions)[1]
    return Estimate(
        value=value,
        low=min(low, estimate.low),
        high=max(high, estimate.high),
        replicates=_doubtful(fewest, most, num_questions, generator) if few else replicates,
    )


def exact_limits(right: int, questions: int) -> tuple[float, float]:
    """Clopper and Pearson's 95 % limits of a share: each is wrong in at most 2.5 % of cases, whatever the share.

    Args:
        right: how many questions are right.
        questions: of how many.
    """
    return 1 - _upper_limit(questions - right, questions), _upper_limit(right, questions)


@cache
def _upper_limit(right: int, questions: int) -> float:
    """The share at which ``right`` or fewer of the questions are right in 2.5 % of cases."""
    if right == questions:
        return 1.0
    steps = np.arange(1, right + 1)
    ways = np.concatenate(([0.0], np.cumsum(np.log(questions - steps + 1) - np.log(steps))))  # log of the binomials
    counts = np.arange(right + 1)
    low, high = right / questions, 1.0
    while high - low > 1e-12:
        share = (low + high) / 2
        chance = np.exp(ways + counts * math.log(share) + (questions - counts) * math.log1p(-share)).sum()
        low, high = (share, high) if chance > (1 - CONFIDENCE) / 2 else (low, share)
    return high


def _doubtful(fewest: int, most: int, questions: int, generator: np.random.Generator) -> np.ndarray:
    """Replicates, for means over benchmarks, whose percentiles are the exact limits."""
    # The limits at any confidence are percentiles of these Beta distributions.
    lower = generator.beta(fewest, questions - fewest + 1, size=NUM_RESAMPLES) if fewest else np.zeros(NUM_RESAMPLES)
    upper = (
        generator.beta(most + 1, questions - most, size=NUM_RESAMPLES) if most < questions else np.ones(NUM_RESAMPLES)
    )
    half = NUM_RESAMPLES // 2
    return generator.permutation(np.concatenate((np.sort(lower)[:half], np.sort(upper)[half:])))


def _with_interval(value: float, replicates: np.ndarray) -> Estimate:
    tail = (1 - CONFIDENCE) / 2
    low, high = (float(edge) for edge in np.quantile(replicates, [tail, 1 - tail]))
    return Estimate(value=value, low=min(low, value), high=max(high, value), replicates=replicates)


def tally_of(solved_at: Sequence[int | None], ks: Sequence[int]) -> Tally:
    """The tally of a question.

    Args:
        solved_at: of each of its episodes, the attempt that was right, from 1; None where none was.
        ks: the k to count.
    """
    found = Counter(solved_at)
    return (len(solved_at), *(sum(count for at, count in found.items() if at is not None and at <= k) for k in ks))
