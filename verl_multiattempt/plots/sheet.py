"""A figure as data: what its panels show and what stands around them. `draw` makes the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from verl_multiattempt.plots.lines import Line
from verl_multiattempt.plots.style import PUBLISHED

MAX_BANDS = 4
"""Panels with more lines that have an interval show it as bars: that many bands over each other cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    percent: bool = True
    """Values are shares, drawn in percent."""
    every_x: bool = True
    """x counts attempts: each place has its tick. False: steps."""
    y_group: str = ""
    """Panels of one group have the same y axis."""

    @property
    def bars(self) -> bool:
        """Whether intervals are drawn as bars, side by side, instead of bands."""
        drawn = [line for line in self.lines if has_interval(line)]
        return self.every_x and (len(drawn) > MAX_BANDS or all(len(line.points) == 1 for line in drawn))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """One figure."""

    name: str
    """Of its files, without the ending."""
    title: str
    caption: str
    panels: tuple[Panel, ...]
    columns: int | None = None
    """Panels in a row; None: as many as the width allows."""
    notes: tuple[str, ...] = ()
    """What was left out or is not alike, for the terminal."""
    together_with: tuple[str, ...] = ()
    """Arms of all figures that are made together, so that an arm looks the same in each."""

    @property
    def lines(self) -> list[Line]:
        """All lines of all panels."""
        return [line for panel in self.panels for line in panel.lines]

    @property
    def arms(self) -> list[str]:
        """The arms in their order; published ones are not among them."""
        return list(dict.fromkeys(line.arm for line in self.lines if line.kind != PUBLISHED))

    @property
    def palette(self) -> list[str]:
        """The arms by whose order colours and markers are given."""
        return list(dict.fromkeys([*self.together_with, *self.arms]))

    @property
    def kinds(self) -> list[str]:
        """The kinds of runs."""
        return list(dict.fromkeys(line.kind for line in self.lines if line.kind != PUBLISHED))

    @property
    def published(self) -> list[str]:
        """The names of the published lines."""
        return list(dict.fromkeys(line.arm for line in self.lines if line.kind == PUBLISHED))

    def seeds(self, arm: str) -> str:
        """`` (5 seeds)``, or nothing where the arm is a single run."""
        counts = {line.num_seeds for line in self.lines if line.arm == arm and line.kind != PUBLISHED}
        if max(counts) == 1:
            return ""
        least, most = min(counts), max(counts)
        return f" ({most} seeds)" if least == most else f" ({least} to {most} seeds)"


def has_interval(line: Line) -> bool:
    """Whether some point of the line has an interval."""
    return any(point.low is not None for point in line.points)


def interval_caption(panels: Sequence[Panel], single: str) -> str:
    """What the bands are.

    Args:
        panels: of the figure.
        single: what the interval of a line is that is one run.
    """
    lines = [line for panel in panels for line in panel.lines]
    drawn = {
        "bars" if panel.bars or len(line.points) == 1 else "bands"
        for panel in panels
        for line in panel.lines
        if has_interval(line)
    }
    shape = " and ".join(sorted(drawn, reverse=True)).capitalize()
    of_seeds = any(has_interval(line) and line.num_seeds > 1 for line in lines)
    of_single = any(has_interval(line) and line.num_seeds == 1 for line in lines)
    if of_seeds and of_single:
        return f"{shape}: 95\N{NO-BREAK SPACE}% interval: over seeds (t) around their mean, of a single run {single}."
    if of_seeds:
        return f"Lines: mean over seeds. {shape}: 95\N{NO-BREAK SPACE}% t-interval over seeds."
    return f"{shape}: 95\N{NO-BREAK SPACE}% interval {single}." if of_single else ""
