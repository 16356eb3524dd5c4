"""The figures as a table of plain text, which a terminal, a file and a pipe show alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from verl_multiattempt.evaluation.questions import MEAN
from verl_multiattempt.view_text import printable

_TITLES = {
    "nested": "nested: {most} attempts allowed in one run, accuracy@k read off it",
    "paper": "paper: a run for each k, whose opening allows k attempts",
    "samples": "samples (control): pass@k, from {samples} single attempts",
    "no_feedback": "no_feedback (control): as nested, with nothing said between attempts",
}
_MAX_NAME = 32


def results_table(results: Mapping[str, Any]) -> str:
    """The curves of ``results.json`` as text, with a row for each benchmark and, if these are several, their mean."""
    return "\n\n".join(_kind_table(kind, curves) for kind, curves in results["curves"].items())


def _kind_table(kind: str, curves: Mapping[str, Any]) -> str:
    benchmarks = [name for name in curves if name != MEAN]
    shown = [*benchmarks, MEAN] if len(benchmarks) > 1 else benchmarks
    ks = list(dict.fromkeys(k for name in shown for k in curves[name]["accuracy"]))
    rates = [rate for rate in ("refinement", "repeat") if rate in curves[MEAN]]
    lines: list[list[str]] = [["", "questions", *(f"@{k}" for k in ks), *rates]]
    for name in shown:
        lines += _rows(name, curves[name], ks, rates)
    if not ks:
        return f"{kind}: no figures, for no episode has ended"
    title = _TITLES[kind].format(most=ks[-1], samples=curves[MEAN]["samples"])
    return f"{title}; in %, with 95 % intervals\n{_aligned(lines)}"


def _rows(name: str, curve: Mapping[str, Any], ks: Sequence[str], rates: Sequence[str]) -> list[list[str]]:
    points = [curve["accuracy"].get(k) for k in ks]
    values = ["-" if point is None else f"{100 * point['value']:.1f}" for point in points]
    edges = ["" if point is None else f"{100 * point['low']:.1f}-{100 * point['high']:.1f}" for point in points]
    overall = [curve[f"{rate}_all"] for rate in rates]
    title = printable(name)
    return [
        [
            title if len(title) <= _MAX_NAME else title[: _MAX_NAME - 3] + "...",
            f"{curve['questions']:,}",
            *values,
            *("-" if rate is None else f"{100 * rate:.1f}" for rate in overall),
        ],
        ["", "", *edges, *("" for _ in rates)],
    ]


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns of one width each: the first to the left, the others to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
