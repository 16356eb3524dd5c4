"""What stands around the figures of evaluations, and what the terminal is told beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from verl_multiattempt.plots.lines import Arm, curve_of, missing_places
from verl_multiattempt.plots.sheet import Panel
from verl_multiattempt.plots.style import KIND_LABELS, PUBLISHED, shown


def title(panels: Sequence[Panel], text: str) -> str:
    """``text`` with the arm, where the legend does not name it: where there is only one."""
    arms = {line.arm for panel in panels for line in panel.lines if line.kind != PUBLISHED}
    return f"{shown(arms.pop())}: {text}" if len(arms) == 1 else text[0].upper() + text[1:]


def only_kind(panels: Sequence[Panel]) -> str:
    """The kind of runs, where the legend does not name it: where there is only one, and several arms."""
    lines = [line for panel in panels for line in panel.lines if line.kind != PUBLISHED]
    kinds, arms = {line.kind for line in lines}, {line.arm for line in lines}
    return f"All lines: {KIND_LABELS[kinds.pop()]}." if len(kinds) == 1 and len(arms) > 1 else ""


def sentences(parts: Iterable[str]) -> str:
    """Those that are not empty."""
    return " ".join(part for part in parts if part)


def benchmark_sets(arms: Iterable[Arm]) -> set[frozenset[str]]:
    """The sets of benchmarks that means are of; more than one cannot be compared without a word."""
    return {frozenset(one.benchmarks(kind)) for arm in arms for one in arm.results for kind in one.curves}


def mean_of(arms: Iterable[Arm]) -> str:
    """What the mean is over."""
    sets = benchmark_sets(arms)
    if len(sets) > 1:
        return "mean over benchmarks"
    names = sets.pop()
    return shown(next(iter(names))) if len(names) == 1 else f"mean of {len(names)} benchmarks"


def num_questions(arms: Iterable[Arm], benchmark: str) -> str:
    """Number of questions of a benchmark or of the mean; a range where evaluations differ."""
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


def notes(arms: Sequence[Arm]) -> list[str]:
    """What of the results is not drawn, or cannot be compared as it stands."""
    found = [*_left_out(arms), *_unlike_questions(arms)]
    if len(benchmark_sets(arms)) > 1:
        parts = dict.fromkeys(
            f"{arm.label} ({kind}) of {', '.join(arm.results[0].benchmarks(kind))}"
            for arm in arms
            for kind in arm.results[0].curves
        )
        found.append(f"not every line is the mean of the same benchmarks: {'; '.join(parts)}.")
    return found


def _left_out(arms: Iterable[Arm]) -> list[str]:
    """A note for each line of which some places are not drawn, because not all seeds have them."""
    return [
        f"{arm.label} ({kind}, {name}): k = {', '.join(map(str, places))} is not drawn, because not all of its seeds "
        "have it."
        for arm in arms
        for kind in arm.results[0].curves
        for name in arm.results[0].curves[kind]
        if (places := missing_places([one.curves[kind][name].accuracy for one in arm.results]))
    ]


def _unlike_questions(arms: Iterable[Arm]) -> list[str]:
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
