from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest

from verl_multiattempt.evaluation.statistics import (
    Estimate,
    accuracy,
    exact_limits,
    independent,
    mean_of,
    pass_at_k,
    tally_of,
)

REPEATS = 1000


def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample() -> None:
    for n in range(1, 9):
        for c in range(n + 1):
            samples = [True] * c + [False] * (n - c)
            for k in range(1, n + 1):
                subsets = [any(subset) for subset in itertools.combinations(samples, k)]
                assert pass_at_k(n, c, k) == pytest.approx(sum(subsets) / len(subsets), abs=1e-12)


def test_pass_at_k_is_unbiased() -> None:
    share, n, k = 0.3, 6, 4
    chances = [math.comb(n, c) * share**c * (1 - share) ** (n - c) for c in range(n + 1)]
    expected = sum(chance * pass_at_k(n, c, k) for c, chance in enumerate(chances))
    assert expected == pytest.approx(1 - (1 - share) ** k)


@pytest.mark.parametrize(("n", "c", "k"), [(3, 1, 4), (3, 4, 2), (3, -1, 2), (3, 1, 0)])
def test_pass_at_k_refuses_what_cannot_be(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="pass@k must have"):
        pass_at_k(n, c, k)


def test_tally_counts_the_episodes_solved_within_each_k() -> None:
    assert tally_of([1, None, 3, 3], (1, 2, 4)) == (4, 1, 1, 3)
    assert tally_of([], (1, 2)) == (0, 0, 0)


def test_interval_is_the_percentile_bootstrap_over_questions() -> None:
    tallies = Counter({(2, 2): 9, (2, 1): 6, (2, 0): 15})
    estimate = accuracy(tallies, 0, [0])
    assert estimate is not None
    assert estimate.value == 24 / 60
    # The textbook's way: draw questions, not kinds of questions.
    shares = np.array([share for (_, solved), count in tallies.items() for share in [solved / 2] * count])
    drawn = np.random.default_rng(1).choice(shares, size=(40_000, len(shares))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert (estimate.low, estimate.high) == (pytest.approx(low, abs=0.02), pytest.approx(high, abs=0.02))


def test_same_seed_gives_the_same_interval_whatever_the_order_of_the_tallies() -> None:
    tallies = {(1, 1): 11, (1, 0): 9}
    first, again, other = (accuracy(t, 0, s) for t, s in (
        (tallies, [3, 4]), (dict(reversed(tallies.items())), [3, 4]), (tallies, [3, 5])
    ))  # fmt: skip
    assert first is not None
    assert again is not None
    assert other is not None
    assert (first.low, first.high) == (again.low, again.high)
    assert not np.array_equal(first.replicates, other.replicates)


def covered(estimate: Estimate | None, truth: float) -> bool:
    assert estimate is not None
    return estimate.low <= truth <= estimate.high


def chances(questions: int, share: float) -> np.ndarray:
    """Of each number of right answers."""
    counts = np.arange(questions + 1)
    factorials = np.array([math.lgamma(count + 1) for count in counts])
    ways = factorials[-1] - factorials - factorials[::-1]
    return np.exp(ways + counts * math.log(share) + (questions - counts) * math.log1p(-share))


@pytest.mark.parametrize(("questions", "highest_mean"), [(30, 0.976), (40, 0.973), (500, 0.96)])
def test_exact_coverage_of_single_samples_is_never_below_95_percent(questions: int, highest_mean: float) -> None:
    edges = []
    for right in range(questions + 1):
        tallies = {tally: n for tally, n in {(1, 1): right, (1, 0): questions - right}.items() if n}
        estimate = accuracy(tallies, 0, [right])
        assert estimate is not None
        edges.append((estimate.low, estimate.high))
    low, high = np.array(edges).T
    shares = np.linspace(0.005, 0.995, 991)
    coverage = np.array([chances(questions, p)[(low <= p) & (p <= high)].sum() for p in shares])
    assert coverage.min() >= 0.95
    assert coverage.mean() <= highest_mean  # no wider than it must be


def test_exact_limits_are_the_tables() -> None:
    # Clopper and Pearson, as R's binom.test gives them.
    assert exact_limits(5, 30) == (pytest.approx(0.05642, abs=1e-5), pytest.approx(0.34721, abs=1e-5))
    assert exact_limits(0, 30) == (0, pytest.approx(1 - 0.025 ** (1 / 30)))
    assert exact_limits(500, 500) == (pytest.approx(0.025 ** (1 / 500)), 1)


@pytest.mark.parametrize("share", [0.02, 0.06, 0.94, 0.98])
def test_coverage_of_several_samples_where_few_questions_are_right_or_wrong(share: float) -> None:
    generator = np.random.default_rng(3)
    hits = 0
    for repeat in range(REPEATS):
        hardness = generator.beta(share / 2, (1 - share) / 2, size=40)  # most questions are all right or all wrong
        tallies = Counter((4, int(solved)) for solved in generator.binomial(4, hardness))
        hits += covered(accuracy(tallies, 0, [repeat]), share)
    assert hits / REPEATS >= 0.94


@pytest.mark.parametrize("shares", [(0.03, 0.97), (0.05, 0.05), (0.02, 0.5)])
def test_coverage_of_the_mean_over_benchmarks_near_0_and_1(shares: tuple[float, float]) -> None:
    generator = np.random.default_rng(4)
    hits = 0
    for repeat in range(REPEATS):
        solved = [int(generator.binomial(30, share)) for share in shares]
        estimates = [accuracy({(1, 1): s, (1, 0): 30 - s}, 0, [repeat, i]) for i, s in enumerate(solved)]
        hits += covered(mean_of([estimate for estimate in estimates if estimate]), sum(shares) / 2)
    assert hits / REPEATS >= 0.94


@pytest.mark.parametrize(("questions", "share"), [(100, 0.5), (200, 0.3), (500, 0.8)])
def test_coverage_of_single_samples(questions: int, share: float) -> None:
    generator = np.random.default_rng(questions)
    hits = 0
    for repeat, solved in enumerate(generator.binomial(questions, share, size=REPEATS).tolist()):
        hits += covered(accuracy({(1, 1): solved, (1, 0): questions - solved}, 0, [repeat]), share)
    assert 0.935 <= hits / REPEATS <= 0.98


def clustered(generator: np.random.Generator, questions: int, samples: int) -> Counter[tuple[int, ...]]:
    """Questions differ in how hard they are: the samples of one are alike."""
    chances = generator.beta(0.5, 0.75, size=questions)
    return Counter((samples, int(solved)) for solved in generator.binomial(samples, chances))


def test_coverage_of_several_samples_of_a_question() -> None:
    generator = np.random.default_rng(7)
    truth = 0.5 / 1.25
    estimates = [accuracy(clustered(generator, 150, 8), 0, [repeat]) for repeat in range(REPEATS)]
    assert 0.93 <= sum(covered(estimate, truth) for estimate in estimates) / REPEATS <= 0.97
    # Taken for independent, the samples would claim far too much.
    naive = 1.96 * math.sqrt(truth * (1 - truth) / (150 * 8))
    assert np.mean([estimate.high - estimate.low for estimate in estimates if estimate]) > 1.5 * 2 * naive


def test_coverage_of_pass_at_k() -> None:
    generator = np.random.default_rng(8)
    # E[1 - (1 - p)^4] of p ~ Beta(a, b)
    a, b = 0.5, 0.75
    truth = 1 - math.prod((b + i) / (a + b + i) for i in range(4))
    estimates = [independent(clustered(generator, 150, 8), 4, [repeat]) for repeat in range(REPEATS)]
    assert 0.93 <= sum(covered(estimate, truth) for estimate in estimates) / REPEATS <= 0.97


def test_coverage_of_the_mean_over_benchmarks_of_different_sizes() -> None:
    generator = np.random.default_rng(9)
    benchmarks = [(60, 0.3), (90, 0.55), (600, 0.75)]
    truth = np.mean([share for _, share in benchmarks])
    hits = 0
    for repeat in range(REPEATS):
        estimates = []
        for place, (questions, share) in enumerate(benchmarks):
            solved = int(generator.binomial(questions, share))
            estimate = accuracy({(1, 1): solved, (1, 0): questions - solved}, 0, [repeat, place])
            assert estimate is not None
            estimates.append(estimate)
        hits += covered(mean_of(estimates), float(truth))
    assert 0.93 <= hits / REPEATS <= 0.97


@pytest.mark.parametrize("questions", [1, 5, 30, 500])
def test_all_wrong_or_all_right_does_not_claim_certainty(questions: int) -> None:
    wrong, right = accuracy({(4, 0): questions}, 0, [0]), accuracy({(4, 4): questions}, 0, [0])
    assert wrong is not None
    assert right is not None
    assert wrong.value == wrong.low == 0
    assert right.value == right.high == 1
    exact = 1 - 0.025 ** (1 / questions)  # Clopper and Pearson's limit of no success
    assert wrong.high == pytest.approx(exact, rel=0.2)
    assert 1 - right.low == pytest.approx(exact, rel=0.2)


def test_one_question_with_some_samples_right_has_a_wide_interval() -> None:
    estimate = accuracy({(4, 1): 1}, 0, [0])
    assert estimate is not None
    assert estimate.value == 0.25
    assert estimate.low < 0.1
    assert estimate.high > 0.75


def test_mean_with_a_benchmark_that_is_all_wrong_is_wider_than_without_its_doubt() -> None:
    wrong, other = accuracy({(1, 0): 5}, 0, [1]), accuracy({(1, 1): 250, (1, 0): 250}, 0, [2])
    assert wrong is not None
    assert other is not None
    mean = mean_of([wrong, other])
    assert mean.value == 0.25
    assert mean.high - mean.low > (other.high - other.low) / 2
    assert mean.low <= mean.value <= mean.high


def test_questions_without_episodes_or_with_too_few_samples_are_left_out() -> None:
    assert accuracy({(0, 0): 3}, 0, [0]) is None
    assert independent({(2, 1): 5}, 3, [0]) is None
    estimate = independent({(4, 4): 5, (2, 0): 100}, 3, [0])
    assert estimate is not None
    assert estimate.value == 1


def test_failed_episodes_count_in_no_figure() -> None:
    estimate = accuracy({(2, 2): 1, (1, 0): 1}, 0, [0])
    assert estimate is not None
    assert estimate.value == 2 / 3
