"""The figures of evaluations: mean accuracy, accuracy by benchmark, refinement and repeat rates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from verl_multiattempt.plots.draw import shown
from verl_multiattempt.plots.lines import (
    Arm, Line, Point, accuracy_line, curve_of, make_arms, missing_places, mode_name, rate_line,
)  # fmt: skip
from verl_multiattempt.plots.read import KINDS, MEAN, Results
from verl_multiattempt.plots.sheet import Panel, Sheet, interval_caption
from verl_multiattempt.plots.style import KIND_LABELS, PUBLISHED

PANEL_CHOICES = ("none", "temperature")
RETRIED_KINDS = ("nested", "paper", "no_feedback")
"""Kinds in which an attempt can follow another."""
_OF_SINGLE = "over questions (bootstrap)"


def evaluation_sheets(
    results: Sequence[Results], references: Sequence[Line] = (), panel_by: str = "none"
) -> list[Sheet]:
    """The figures that ``results`` give.

    Args:
        results: of the same label: seeds of one arm.
        references: published accuracies, drawn into the figure of the mean.
        panel_by: ``temperature``: a panel for each way of sampling; ``none``: all in one.

    Raises:
        ValueError: seeds of an arm do not go together.
    """
    arms = make_arms(results)
    modes = sorted({arm.temperature for arm in arms}, key=lambda t: (t is None, t or 0))
    groups: list[tuple[str, list[Arm]]] = [("", arms)]
    if panel_by == "temperature":
        groups = [(mode_name(mode), [arm for arm in arms if arm.temperature == mode]) for mode in modes]
    names = _names(arms, panel_by)
    sheets = [
        _accuracy_sheet(groups, names, references),
        _benchmark_sheet(groups, names),
        _retry_sheet(groups, names),
    ]
    return [sheet for sheet in sheets if sheet is not None]


def _names(arms: Sequence[Arm], panel_by: str) -> dict[tuple[str, float | None], str]:
    """What each arm is called in a legend: with its way of sampling where there are several."""
    stated = panel_by == "none" and len({arm.temperature for arm in arms}) > 1
    return {(arm.label, arm.temperature): f"{arm.label}, {arm.mode}" if stated else arm.label for arm in arms}


Names = dict[tuple[str, float | None], str]
Groups = Sequence[tuple[str, Sequence[Arm]]]


def _lines(arms: Iterable[Arm], names: Names, benchmark: str) -> tuple[Line, ...]:
    found = [(arm, line) for arm in arms for kind in KINDS if (line := accuracy_line(arm, kind, benchmark)) is not None]
    return tuple(_named(line, names[arm.label, arm.temperature]) for arm, line in found)


def _named(line: Line, name: str) -> Line:
    return Line(arm=name, kind=line.kind, points=line.points, num_seeds=line.num_seeds)


def _accuracy_sheet(groups: Groups, names: Names, references: Sequence[Line]) -> Sheet | None:
    panels = [
        Panel(
            title=mode, **_accuracy_axes(lines), y_group="all",
            lines=lines + tuple(references),
        )
        for mode, arms in groups
        if (lines := _lines(arms, names, MEAN))
    ]  # fmt: skip
    if not panels:
        return None
    arms = [arm for _, members in groups for arm in members]
    sets = {tuple(sorted(one.benchmarks(kind))) for arm in arms for one in arm.results for kind in one.curves}
    notes = [*_left_out(arms, names), *_unlike_questions(arms)]
    caption = interval_caption(panels, _OF_SINGLE)
    if len(sets) > 1:
        few = "Not every line is the mean of the same benchmarks"
        caption += f" {few}."
        notes.append(f"accuracy: {few[0].lower()}{few[1:]}: " + "; ".join(
            f"{names[arm.label, arm.temperature]} ({kind}) of {', '.join(arm.results[0].benchmarks(kind))}"
            for arm in arms for kind in arm.results[0].curves
        ) + ".")  # fmt: skip
    if references:
        caption += " Grey: published figures, not measured here."
    return Sheet(
        name="accuracy", title=f"{_whose(panels)}{_measure(panels)}, {_of(arms)} ({_questions(arms, MEAN)} questions)",
        caption=_one_kind(panels) + caption,
        panels=tuple(panels), columns=len(panels), notes=tuple(notes),
    )  # fmt: skip


def _benchmark_sheet(groups: Groups, names: Names) -> Sheet | None:
    arms = [arm for _, members in groups for arm in members]
    benchmarks = list(dict.fromkeys(
        name for arm in arms for one in arm.results for kind in KINDS for name in one.benchmarks(kind)
    ))  # fmt: skip
    panels: list[Panel] = []
    for benchmark in benchmarks:
        for mode, members in groups:
            title = shown(benchmark) + (f", {mode}" if mode else f" (n = {_questions(members, benchmark)})")
            lines = _lines(members, names, benchmark)
            panels.append(Panel(title=title, **_accuracy_axes(lines), y_group=benchmark, lines=lines))
    if not benchmarks:
        return None
    caption = interval_caption(panels, _OF_SINGLE)
    if len(groups) == 1:
        caption += " n: questions."
    if len(benchmarks) > 1:
        caption += " Each benchmark has its own y axis."
    return Sheet(
        name="benchmarks", title=f"{_whose(panels)}{_measure(panels)} by benchmark", caption=_one_kind(panels) + caption,
        panels=tuple(panels), columns=len(groups) if len(groups) > 1 else None,
    )  # fmt: skip


def _retry_sheet(groups: Groups, names: Names) -> Sheet | None:
    panels: list[Panel] = []
    for mode, arms in groups:
        for rate in ("refinement", "repeat"):
            lines = tuple(
                _named(line, names[arm.label, arm.temperature])
                for arm in arms
                for kind in RETRIED_KINDS
                if (line := rate_line(arm, kind, MEAN, rate)) is not None
            )
            title = rate.capitalize() + (f", {mode}" if mode else "")
            panels.append(
                Panel(title=title, x_label="attempt k", y_label="share of retries (%)", lines=lines, y_group=rate)
            )
    if not any(panel.lines for panel in panels):
        return None
    arms = [arm for _, members in groups for arm in members]
    caption = (
        "Refinement: share of the retries at attempt k that are correct; repeat: that give an earlier answer again. "
    )
    caption += interval_caption(panels, "")
    if any(line.num_seeds == 1 for panel in panels for line in panel.lines):
        caption += " A single run has no interval here."
    return Sheet(
        name="retries", title=f"{_whose(panels)}retries after a wrong answer, {_of(arms)} ({_questions(arms, MEAN)} questions)",
        caption=_one_kind(panels) + caption.strip(), panels=tuple(panels), columns=2,
    )  # fmt: skip


def _accuracy_axes(lines: Iterable[Line]) -> dict[str, str]:
    kinds = {line.kind for line in lines}
    if kinds == {"samples"}:
        return {"x_label": "independent samples k", "y_label": "pass@k (%)"}
    if "samples" in kinds:
        return {"x_label": "attempts or samples k", "y_label": "solved (%)"}
    return {"x_label": "allowed attempts k", "y_label": "accuracy@k (%)"}


def _measure(panels: Sequence[Panel]) -> str:
    kinds = {line.kind for panel in panels for line in panel.lines} - {PUBLISHED}
    if kinds == {"samples"}:
        return "pass@k"
    return "accuracy@k and pass@k" if "samples" in kinds else "accuracy@k"


def _whose(panels: Sequence[Panel]) -> str:
    """The arm, where the legend does not name it: where there is only one."""
    arms = {line.arm for panel in panels for line in panel.lines if line.kind != PUBLISHED}
    return f"{shown(arms.pop())}: " if len(arms) == 1 else ""


def _one_kind(panels: Sequence[Panel]) -> str:
    """The kind of runs, where the legend does not name it: where there is only one, and several arms."""
    lines = [line for panel in panels for line in panel.lines if line.kind != PUBLISHED]
    kinds, arms = {line.kind for line in lines}, {line.arm for line in lines}
    if len(kinds) > 1 or len(arms) == 1:
        return ""
    return f"All lines: {KIND_LABELS[kinds.pop()]}. "


def _of(arms: Iterable[Arm]) -> str:
    names = {name for arm in arms for one in arm.results for kind in one.curves for name in one.benchmarks(kind)}
    return shown(names.pop()) if len(names) == 1 else f"mean of {len(names)} benchmarks"


def _questions(arms: Iterable[Arm], benchmark: str) -> str:
    counts = {
        curve.questions
        for arm in arms
        for one in arm.results
        for kind in one.curves
        if (curve := curve_of(one, kind, benchmark)) is not None
    }
    if not counts:
        return "0"
    least, most = min(counts), max(counts)
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def _unlike_questions(arms: Sequence[Arm]) -> list[str]:
    """A note for each benchmark of which not every evaluation took the same number of questions."""
    counts: dict[str, dict[int, str]] = {}
    for arm in arms:
        for one in arm.results:
            for kind in one.curves:
                for name in one.benchmarks(kind):
                    counts.setdefault(name, {}).setdefault(one.curves[kind][name].questions, str(one.path))
    return [
        f"{name}: not every evaluation has the same number of questions: "
        + ", ".join(f"{number:,} in {path}" for number, path in sorted(found.items()))
        + "."
        for name, found in counts.items()
        if len(found) > 1
    ]


def _left_out(arms: Iterable[Arm], names: Names) -> list[str]:
    """A note for each line of which some places are not drawn, because not all seeds have them."""
    notes = []
    for arm in arms:
        for kind in arm.results[0].curves:
            for name in arm.results[0].curves[kind]:
                if places := missing_places([one.curves[kind][name].accuracy for one in arm.results]):
                    notes.append(
                        f"{names[arm.label, arm.temperature]} ({kind}, {name}): k = {', '.join(map(str, places))} "
                        "is not drawn, because not all of its seeds have it."
                    )
    return notes


def read_reference(text: str) -> Line:
    """The published line of ``LABEL=45.6,52.5,...``: accuracies in percent with 1, 2, ... allowed attempts.

    Raises:
        ValueError: the text is not of this form.
    """
    label, sign, numbers = text.rpartition("=")
    try:
        values = [float(number) for number in numbers.split(",")]
    except ValueError:
        values = []
    if not sign or not label.strip() or not values or not all(0 <= value <= 100 for value in values):
        raise ValueError(
            "reference must be LABEL=P1,P2,..., accuracies in percent with 1, 2, ... allowed attempts; "
            f"got {text!r}. An example: --reference 'paper, multi-attempt=45.6,52.5,51.7'"
        )
    points = tuple(Point(x=k, value=value / 100) for k, value in enumerate(values, start=1))
    return Line(arm=label, kind=PUBLISHED, points=points, num_seeds=1)
