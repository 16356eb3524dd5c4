"""From results and training logs to the lines of a figure: the arms, their seeds, the bands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import sqrt

from verl_multiattempt.evaluation.settings import NOT_COMPARED, differences
from verl_multiattempt.plots.read import MEAN, Curve, Results

OF_A_SEED = (*NOT_COMPARED, "model", "seed", "temperature", "data", "engine.base_url", "engine.tokenizer",
             "engine.tensor_parallel_size")  # fmt: skip
"""Settings that seeds of one arm may differ in. The temperature makes arms of its own, data are compared by content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One place of a line."""

    x: int
    value: float
    low: float | None = None
    """Lower end of the 95 % interval; None: there is none."""
    high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a panel."""

    arm: str
    kind: str
    """Of `read.KINDS`; empty in training curves."""
    points: tuple[Point, ...]
    num_seeds: int
    """Runs that it is the mean of; 1: the interval is the results' own, over questions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """The results of one label, sampled in one way: the seeds."""

    label: str
    temperature: float | None
    results: tuple[Results, ...]

    @property
    def mode(self) -> str:
        """How answers were sampled, in words."""
        return mode_name(self.temperature)


def mode_name(temperature: float | None) -> str:
    """How answers were sampled, in words."""
    if temperature is None:
        return "temperature not stated"
    return "greedy" if temperature == 0 else f"T={temperature:g}"


def make_arms(results: Sequence[Results]) -> list[Arm]:
    """The arms, in the order in which their labels come first.

    Raises:
        ValueError: two seeds of an arm were not evaluated on the same benchmarks or not in the same way, so that they
            have no common mean.
    """
    members: dict[tuple[str, float | None], list[Results]] = {}
    for one in results:
        members.setdefault((one.label, one.temperature), []).append(one)
    for (label, _), seeds in members.items():
        for seed in seeds[1:]:
            _require_same_runs(label, seeds[0], seed)
            _require_same_settings(label, seeds[0], seed)
    return [
        Arm(label=label, temperature=temperature, results=tuple(seeds))
        for (label, temperature), seeds in members.items()
    ]


def _require_same_runs(label: str, first: Results, other: Results) -> None:
    for what, of_first, of_other in [
        ("kinds of runs", sorted(first.curves), sorted(other.curves)),
        *(
            (f"benchmarks ({kind})", sorted(first.benchmarks(kind)), sorted(other.benchmarks(kind)))
            for kind in first.curves
        ),
    ]:
        if of_first != of_other:
            raise ValueError(
                f"results of one label are seeds of one arm and must have the same {what}; of {label!r} "
                f"{first.path} has {', '.join(of_first)}, {other.path} has {', '.join(of_other)}. Give them "
                "different labels (`multiattempt evaluate --label`) or evaluate on the same."
            )


def _require_same_settings(label: str, first: Results, other: Results) -> None:
    found = [f"settings.{one}" for one in differences(first.settings, other.settings, besides=OF_A_SEED)]
    if first.data and other.data:
        found += ["the questions' files (identity.data_sha256)"] if first.data != other.data else []
    else:
        found += differences(
            {"settings.data": first.settings.get("data")}, {"settings.data": other.settings.get("data")}
        )
    if found:
        raise ValueError(
            f"results of one label are seeds of one arm and must differ in model and seed alone; of {label!r} "
            f"{first.path} (there) and {other.path} (now) differ in {'; '.join(found)}. Give them different labels "
            "(`multiattempt evaluate --label`, which changes no episode)."
        )


def members(arms: Sequence[Arm]) -> list[str]:
    """Lines of text that say which results are taken as seeds of which arm."""
    lines = []
    for arm in arms:
        count = len(arm.results)
        lines.append(f"{arm.label} ({arm.mode}): " + (f"{count} results, taken as seeds" if count > 1 else "1 result"))
        for one in arm.results:
            seed = one.settings.get("seed")
            lines.append(f"  {one.path} (model {one.model}" + (f", seed {seed})" if seed is not None else ")"))
    return lines


def curve_of(results: Results, kind: str, benchmark: str) -> Curve | None:
    """The curve, if there is one; the mean of a single benchmark is that benchmark's."""
    curves = results.curves.get(kind, {})
    if benchmark == MEAN and MEAN not in curves and len(curves) == 1:
        return next(iter(curves.values()))
    return curves.get(benchmark)


def accuracy_line(arm: Arm, kind: str, benchmark: str) -> Line | None:
    """Accuracy against allowed attempts, as shares.

    One file gives its own interval, over questions; several give their mean and the t-interval over them.
    """
    curves = [curve for one in arm.results if (curve := curve_of(one, kind, benchmark))]
    if not curves:
        return None
    if len(curves) == 1:
        points = tuple(Point(x=k, value=e.value, low=e.low, high=e.high) for k, e in curves[0].accuracy.items())
    else:
        points = mean_points([{k: e.value for k, e in curve.accuracy.items()} for curve in curves], bounds=(0, 1))
    return Line(arm=arm.label, kind=kind, points=points, num_seeds=len(curves)) if points else None


def rate_line(arm: Arm, kind: str, benchmark: str, rate: str) -> Line | None:
    """Refinement or repeat rate against the attempt, as shares; with an interval only where there are seeds."""
    curves = [curve for one in arm.results if (curve := curve_of(one, kind, benchmark))]
    points = mean_points([getattr(curve, rate) for curve in curves], bounds=(0, 1)) if curves else ()
    return Line(arm=arm.label, kind=kind, points=points, num_seeds=len(curves)) if points else None


def mean_points(seeds: Sequence[Mapping[int, float]], bounds: tuple[float, float] | None = None) -> tuple[Point, ...]:
    """The mean over seeds and its 95 % t-interval, at each place that all seeds have.

    Args:
        seeds: for each seed its values by place.
        bounds: what the quantity lies between by definition; intervals end there.
    """
    common = sorted(set(seeds[0]).intersection(*seeds[1:]))
    return tuple(_mean_point(x, [seed[x] for seed in seeds], bounds) for x in common)


def _mean_point(x: int, values: list[float], bounds: tuple[float, float] | None) -> Point:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return Point(x=x, value=mean)
    deviation = sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = t_quantile(len(values) - 1) * deviation / sqrt(len(values))
    low, high = mean - half, mean + half
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Point(x=x, value=mean, low=low, high=high)


@cache
def t_quantile(degrees_of_freedom: int) -> float:
    """The 97.5 % quantile of Student's t: half the width of a 95 % interval, in standard errors."""
    import mpmath

    def outside(t: float) -> float:
        x = degrees_of_freedom / (degrees_of_freedom + t * t)
        return mpmath.betainc(degrees_of_freedom / 2, 0.5, 0, x, regularized=True) - 0.05

    return float(mpmath.findroot(outside, (1.9, 13), solver="anderson"))


def missing_places(seeds: Sequence[Mapping[int, object]]) -> list[int]:
    """Places that some seeds have and others have not, so that no mean is drawn there."""
    return sorted(set(seeds[0]).union(*seeds[1:]) - set(seeds[0]).intersection(*seeds[1:]))
