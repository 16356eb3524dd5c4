"""The figure of training: what the trainer logged, by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

from verl_multiattempt.plots.lines import Line, mean_points
from verl_multiattempt.plots.scalars import Scalars, read_scalars
from verl_multiattempt.plots.sheet import Panel, Sheet, interval_caption


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A panel of the figure."""

    key: str
    title: str
    y_label: str
    bounds: tuple[float, float] | None = None
    """Between which the quantity lies by definition; (0, 1): a share, drawn in percent."""


METRICS = (
    Metric(key="multiattempt/reward/mean", title="Reward", y_label="mean of an episode"),
    Metric(key="multiattempt/accuracy", title="Accuracy", y_label="episodes solved (%)", bounds=(0, 1)),
    Metric(key="multiattempt/refinement", title="Refinement", y_label="retries that correct (%)", bounds=(0, 1)),
    Metric(key="multiattempt/repeat", title="Repeated answers", y_label="share of retries (%)", bounds=(0, 1)),
    Metric(key="multiattempt/attempts_used/mean", title="Attempts used", y_label="mean of an episode", bounds=(1, inf)),
    Metric(key="response_length/mean", title="Response length", y_label="tokens, all attempts", bounds=(0, inf)),
)


def read_runs(arguments: Sequence[str]) -> dict[str, list[Scalars]]:
    """The runs of ``LABEL=PATH`` arguments by label, in their order; several of one label are seeds.

    Raises:
        ValueError: an argument or its log is not right, or a path is given twice.
    """
    runs: dict[str, list[Scalars]] = {}
    paths: set[str] = set()
    for argument in arguments:
        label, sign, path = argument.partition("=")
        if not sign or not label.strip() or not path:
            raise ValueError(f"training must be LABEL=PATH, a name and the log of a run; got {argument!r}.")
        if path in paths:
            raise ValueError(f"training must name each log once; got {path!r} twice.")
        paths.add(path)
        runs.setdefault(label, []).append(read_scalars(path, [metric.key for metric in METRICS]))
    return runs


def training_sheet(runs: Mapping[str, Sequence[Scalars]], smooth: int = 1) -> Sheet:
    """The training curves.

    Args:
        runs: for each arm the scalars of its seeds.
        smooth: steps of a centred moving average; 1: none.
    """
    panels = [
        Panel(
            title=metric.title, x_label="training step", y_label=metric.y_label, lines=lines,
            percent=metric.bounds == (0, 1), every_x=False,
        )
        for metric in METRICS
        if (lines := tuple(
            line for label, seeds in runs.items() if (line := _line(label, seeds, metric, smooth)) is not None
        ))
    ]  # fmt: skip
    caption = interval_caption(panels, "")
    counts = {len(seeds) for seeds in runs.values()}
    if 2 in counts:
        caption += " That of two seeds may leave the panel."
    if 1 in counts:
        caption += " A single run has no interval."
    caption += f" Moving average over {smooth} steps." if smooth > 1 else " Every step, not smoothed."
    return Sheet(
        name="training", title="Training: means over the episodes of each step", caption=caption.strip(),
        panels=tuple(panels), notes=tuple(_notes(runs)),
    )  # fmt: skip


def moving_average(values: Mapping[int, float], width: int) -> dict[int, float]:
    """The mean of the ``width`` logged steps around each step; near an end of as many on both sides as there are."""
    steps = sorted(values)
    averaged = {}
    for i, step in enumerate(steps):
        reach = min(width // 2, i, len(steps) - 1 - i)
        window = steps[i - reach : i + reach + 1]
        averaged[step] = sum(values[s] for s in window) / len(window)
    return averaged


def _line(label: str, seeds: Sequence[Scalars], metric: Metric, smooth: int) -> Line | None:
    logged = [moving_average(seed.get(metric.key, {}), smooth) for seed in seeds]
    points = mean_points(logged, bounds=metric.bounds)
    return Line(arm=label, kind="", points=points, num_seeds=len(seeds)) if points else None


def _notes(runs: Mapping[str, Sequence[Scalars]]) -> list[str]:
    notes = []
    for label, seeds in runs.items():
        if missing := [metric.key for metric in METRICS if not all(seed.get(metric.key) for seed in seeds)]:
            notes.append(f"{label}: {', '.join(missing)} not drawn, because not all of its runs logged it.")
        last = [max(step for steps in seed.values() for step in steps) for seed in seeds]
        if min(last) != max(last):
            notes.append(
                f"{label}: drawn up to step {min(last)}, because not all of its seeds have the steps up to {max(last)}."
            )
    return notes
