"""The table that compares two evaluations: `evaluate.py --compare before.json after.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from task import best_accuracy

Run = Mapping[str, Any]


def read_runs(path: Path) -> dict[int, Run]:
    """Reads the runs of a result file, by allowance.

    Raises:
        ValueError: the file is not a result of evaluate.py.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        return {int(k): run for k, run in result["runs"].items()}
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"--compare must name result files of evaluate.py --out; got {str(path)!r} ({error!r})"
        ) from error


def _cell(run: Run) -> str:
    low, high = run["accuracy_95"]
    return f"{100 * run['accuracy']:5.1f} % [{100 * low:4.1f}, {100 * high:4.1f}]"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f} %"


def comparison(
    before: Mapping[int, Run], after: Mapping[int, Run], *, checkpoint: str | None = None, log: str | None = None
) -> list[str]:
    """Returns the lines of the table.

    Args:
        before: runs by allowance (see `read_runs`).
        after: as many, of the trained model.
        checkpoint: where the trained model is, to be printed.
        log: where the training's log is, to be printed.

    Raises:
        ValueError: the two have not the same allowances.
    """
    if set(before) != set(after):
        raise ValueError(
            f"--compare must name results of the same --attempts; got {sorted(before)!r} and {sorted(after)!r}"
        )
    counts = sorted({run["n"] for run in (*before.values(), *after.values())})
    lines = [
        f"held-out questions: {' or '.join(map(str, counts))}; [95 % interval]; one run for each k, which allows k",
        "",
        f"{'':<10}  {'accuracy':^43}  {'':>12}  {'attempts used':^13}  {'repeated answers':^16}",
        f"{'':<10}  {'before':^20}   {'after':^20}  {'parity alone':>12}  {'before  after':^13}  {'before  after':^16}",
    ]
    for k in sorted(before):
        old, new = before[k], after[k]
        lines.append(
            f"{f'accuracy@{k}':<10}  {_cell(old):>20}   {_cell(new):>20}  {100 * best_accuracy(k):>10.1f} %"
            f"  {old['attempts_used']:>6.2f} {new['attempts_used']:>6.2f}"
            f"  {_share(old['repeat']):>7} {_share(new['repeat']):>7}"
        )
    lines += ["", "parity alone: the most that is expected of a model that knows whether the result is odd, no more"]
    lines += [f"{name}: {where}" for name, where in (("checkpoint", checkpoint), ("log", log)) if where]
    return lines


def print_comparison(paths: Sequence[Path], *, checkpoint: str | None, log: str | None) -> None:
    """Prints the comparison of two result files.

    Raises:
        ValueError: a file is not a result, or the two do not fit.
    """
    before, after = map(read_runs, paths)
    print("\n".join(comparison(before, after, checkpoint=checkpoint, log=log)))
