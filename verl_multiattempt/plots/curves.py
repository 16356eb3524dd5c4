"""The figures of evaluations: mean accuracy, accuracy by benchmark, refinement and repeat rates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from verl_multiattempt.plots import wording
from verl_multiattempt.plots.lines import Arm, Line, Point, accuracy_line, make_arms, mode_name, rate_line
from verl_multiattempt.plots.read import KINDS, MEAN, Results
from verl_multiattempt.plots.sheet import Panel, Sheet, interval_caption
from verl_multiattempt.plots.style import PUBLISHED, shown

PANEL_CHOICES = ("none", "temperature", "arm")
RETRIED_KINDS = ("nested", "paper", "no_feedback")
"""Kinds in which an attempt can follow another."""
RATES = ("refinement", "repeat")
_OF_SINGLE = "over questions"

Groups = Sequence[tuple[str, Sequence[Arm]]]
"""The arms of each panel, with what the panel is called beside its benchmark."""


def evaluation_sheets(
    results: Sequence[Results], references: Sequence[Line] = (), panel_by: str = "none"
) -> list[Sheet]:
    """The figures that ``results`` give.

    Args:
        results: of the same label: seeds of one arm.
        references: published accuracies, drawn into the figure of the mean.
        panel_by: ``temperature``: a panel for each way of sampling; ``arm``: one for each label and way of sampling;
            ``none``: all in one.

    Raises:
        ValueError: seeds of an arm do not go together.
    """
    arms = make_arms(results)
    modes = sorted({arm.temperature for arm in arms}, key=lambda t: (t is None, t or 0))
    groups: Groups = [("", arms)]
    columns = None
    if panel_by == "arm":
        labels = [arm.label for arm in arms]
        arms = sorted(arms, key=lambda arm: (labels.index(arm.label), modes.index(arm.temperature)))
        groups = [(f"{arm.label}, {arm.mode}" if len(modes) > 1 else arm.label, [arm]) for arm in arms]
        columns = len(modes) if len(modes) > 1 else None
    elif panel_by == "temperature":
        groups = [(mode_name(mode), [arm for arm in arms if arm.temperature == mode]) for mode in modes]
    elif len(modes) > 1:
        arms = [replace(arm, label=f"{arm.label}, {arm.mode}") for arm in arms]
        groups = [("", arms)]
    sheets = [
        _accuracy_sheet(groups, arms, references, columns),
        _benchmark_sheet(groups, arms),
        _retry_sheet(groups, arms),
    ]
    return [sheet for sheet in sheets if sheet is not None]


def _accuracy_sheet(
    groups: Groups, arms: Sequence[Arm], references: Sequence[Line], columns: int | None
) -> Sheet | None:
    panels = [
        _accuracy_panel(mode, lines, "all", references)
        for mode, members in groups
        if (lines := _accuracy_lines(members, MEAN))
    ]
    if not panels:
        return None
    text = f"{_measure(panels)}, {wording.mean_of(arms)} ({wording.num_questions(arms, MEAN)} questions)"
    caption = [wording.only_kind(panels), interval_caption(panels, _OF_SINGLE)]
    if len(wording.benchmark_sets(arms)) > 1:
        caption.append("Not every line is the mean of the same benchmarks.")
    if references:
        caption.append("Grey: published figures, not measured here.")
    return Sheet(
        name="accuracy", title=wording.title(panels, text), caption=wording.sentences(caption), panels=tuple(panels),
        columns=columns or len(panels), notes=tuple(wording.notes(arms)),
    )  # fmt: skip


def _benchmark_sheet(groups: Groups, arms: Sequence[Arm]) -> Sheet | None:
    benchmarks = list(
        dict.fromkeys(name for arm in arms for one in arm.results for kind in KINDS for name in one.benchmarks(kind))
    )
    if not benchmarks:
        return None
    panels = []
    for benchmark in benchmarks:
        for mode, members in groups:
            aside = f", {mode}" if mode else f" (n = {wording.num_questions(members, benchmark)})"
            panels.append(_accuracy_panel(shown(benchmark) + aside, _accuracy_lines(members, benchmark), benchmark))
    caption = [
        wording.only_kind(panels),
        interval_caption(panels, _OF_SINGLE),
        "n: questions." if len(groups) == 1 else "",
        "Each benchmark has its own y axis." if len(benchmarks) > 1 else "",
    ]
    return Sheet(
        name="benchmarks", title=wording.title(panels, f"{_measure(panels)} by benchmark"),
        caption=wording.sentences(caption), panels=tuple(panels), columns=len(groups) if len(groups) > 1 else None,
    )  # fmt: skip


def _retry_sheet(groups: Groups, arms: Sequence[Arm]) -> Sheet | None:
    panels = [
        Panel(
            title=rate.capitalize() + (f", {mode}" if mode else ""), x_label="attempt k",
            y_label="share of retries (%)", lines=_rate_lines(members, rate), y_group=rate,
        )
        for mode, members in groups
        for rate in RATES
    ]  # fmt: skip
    lines = [line for panel in panels for line in panel.lines]
    if not lines:
        return None
    text = f"retries after a wrong answer, {wording.mean_of(arms)} ({wording.num_questions(arms, MEAN)} questions)"
    caption = [
        wording.only_kind(panels),
        "Refinement: share of the retries at attempt k that are correct; repeat: that give an earlier answer again.",
        interval_caption(panels, ""),
        "A single run has no interval here." if any(line.num_seeds == 1 for line in lines) else "",
    ]
    return Sheet(
        name="retries", title=wording.title(panels, text), caption=wording.sentences(caption), panels=tuple(panels),
        columns=len(RATES),
    )  # fmt: skip


def _accuracy_lines(arms: Iterable[Arm], benchmark: str) -> tuple[Line, ...]:
    found = (accuracy_line(arm, kind, benchmark) for arm in arms for kind in KINDS)
    return tuple(line for line in found if line is not None)


def _rate_lines(arms: Iterable[Arm], rate: str) -> tuple[Line, ...]:
    found = (rate_line(arm, kind, MEAN, rate) for arm in arms for kind in RETRIED_KINDS)
    return tuple(line for line in found if line is not None)


def _accuracy_panel(title: str, lines: tuple[Line, ...], y_group: str, references: Sequence[Line] = ()) -> Panel:
    kinds = {line.kind for line in lines}
    x_label, y_label = "allowed attempts k", "accuracy@k (%)"
    if "samples" in kinds:
        alone = kinds == {"samples"}
        x_label = "independent samples k" if alone else "attempts or samples k"
        y_label = "pass@k (%)" if alone else "solved (%)"
    return Panel(title=title, x_label=x_label, y_label=y_label, lines=(*lines, *references), y_group=y_group)


def _measure(panels: Sequence[Panel]) -> str:
    kinds = {line.kind for panel in panels for line in panel.lines} - {PUBLISHED}
    if kinds == {"samples"}:
        return "pass@k"
    return "accuracy@k and pass@k" if "samples" in kinds else "accuracy@k"


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
