"""Writes the report of `compare_tiny.sh`: tables with intervals over seeds, figures, the difference of the two arms.

    python recipes/compare_tiny_report.py --out outputs/compare_tiny --seeds 1 2 3 --seconds 2400

Reads ``OUT/seed-<seed>/evaluation/<arm>-<mode>/results.json`` and the arms' ``metrics.jsonl``; writes ``OUT/report.md``
and ``OUT/figures``.
"""

from __future__ import annotations

import argparse
import difflib
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "tiny_math"))
from task import MODULUS, class_counts

ATTEMPTS = (1, 2, 3, 4, 5)
MODES = {"greedy": "greedy", "sampled": "temperature 1"}
ARMS = {"warm": "warm start", "single": "single", "multi": "multi"}
NO_REPEATS = {"warm-no-repeats": "warm start", "multi-no-repeats": "multi"}
WHOLE_RUN = "whole run"
"""What `compare_tiny.sh` writes into ``times.tsv`` at its end."""
T_975 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}
"""97.5 % quantile of Student's t by degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over seeds with its 95 % interval."""

    mean: float
    half_width: float | None
    """None with a single seed."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """From one value a seed; the interval is Student's."""
        n = len(values)
        half = T_975.get(n - 1, 1.96) * statistics.stdev(values) / math.sqrt(n) if n > 1 else None
        return cls(statistics.fmean(values), half)

    def percent(self) -> str:
        """As ``53.1 ± 1.2 %``."""
        return self._text(f"{100 * self.mean:.1f}") + " %"

    def points(self) -> str:
        """As ``+15.3 ± 2.1 points``, of percent."""
        return self._text(f"{100 * self.mean:+.1f}") + " points"

    def _text(self, mean: str) -> str:
        return mean if self.half_width is None else f"{mean} ± {100 * self.half_width:.1f}"


class Results:
    """The evaluations of all seeds."""

    def __init__(self, out: Path, seeds: Sequence[int]):
        self.out, self.seeds = out, seeds

    def curve(self, seed: int, arm: str, mode: str) -> Mapping[str, Any]:
        """What ``results.json`` says of one evaluation (see `verl_multiattempt.evaluation`)."""
        folder = self.out / f"seed-{seed}" / "evaluation" / f"{arm}-{mode}"
        curves = json.loads((folder / "results.json").read_text(encoding="utf-8"))["curves"]
        curve: Mapping[str, Any] = curves["paper"]["tiny_math"]
        return curve

    def accuracy(self, arm: str, mode: str, k: int, seeds: Sequence[int] | None = None) -> list[float]:
        """accuracy@k, one value a seed."""
        return [self.curve(seed, arm, mode)["accuracy"][str(k)]["value"] for seed in seeds or self.seeds]

    def rate(self, name: str, arm: str, mode: str, seeds: Sequence[int] | None = None) -> list[float]:
        """``refinement`` or ``repeat`` of the second attempt, one value a seed that had any."""
        values = (self.curve(seed, arm, mode)[name].get("2") for seed in seeds or self.seeds)
        return [value for value in values if value is not None]


def fixed_order_accuracy(answers_odd: Iterable[tuple[int, bool]], attempts: int) -> float:
    """The share of questions that the best fixed order of guesses solves, which knows whether the result is odd."""
    counts = class_counts()
    order = {odd: sorted((c for c in range(MODULUS) if c % 2 == odd), key=lambda c: -counts[c]) for odd in (0, 1)}
    solved = [answer in order[int(odd)][:attempts] for answer, odd in answers_odd]
    return sum(solved) / len(solved)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def accuracy_table(results: Results, mode: str, fixed: Mapping[int, float]) -> list[str]:
    """accuracy@k of the arms in one mode."""
    rows = [
        [f"`{name}`", *(Estimate.of(results.accuracy(arm, mode, k)).percent() for k in ATTEMPTS)]
        for arm, name in ARMS.items()
    ]
    rows.append(["best fixed order of guesses", *(f"{100 * fixed[k]:.1f} %" for k in ATTEMPTS)])
    return table(["", *(f"accuracy@{k}" for k in ATTEMPTS)], rows)


def rate_table(results: Results) -> list[str]:
    """What the second attempt does, after a first that was wrong."""

    def cell(name: str, arm: str, mode: str) -> str:
        values = results.rate(name, arm, mode)
        return Estimate.of(values).percent() if values else "-"

    head = ["", *(f"{what}, {mode}" for mode in MODES.values() for what in ("repeats the first", "is correct"))]
    rows = [
        [f"`{name}`", *(cell(rate, arm, mode) for mode in MODES for rate in ("repeat", "refinement"))]
        for arm, name in ARMS.items()
    ]
    return table(head, rows)


def rate(results: Results, name: str, arm: str) -> str:
    """What `Results.rate` gives for greedy answers, in words."""
    values = results.rate(name, arm, "greedy")
    return Estimate.of(values).percent() if values else "none"


def gains(results: Results, mode: str) -> dict[str, Estimate]:
    """accuracy@2 less accuracy@1, by arm; and multi's less single's, paired by seed."""
    gain = {
        arm: [b - a for a, b in zip(results.accuracy(arm, mode, 1), results.accuracy(arm, mode, 2), strict=True)]
        for arm in ("single", "multi")
    }
    paired = [multi - single for single, multi in zip(gain["single"], gain["multi"], strict=True)]
    return {**{arm: Estimate.of(values) for arm, values in gain.items()}, "difference": Estimate.of(paired)}


def seed_table(results: Results) -> list[str]:
    """Greedy accuracy@k of every seed."""
    rows = [
        [str(seed), f"`{name}`", *(f"{100 * results.accuracy(arm, 'greedy', k, [seed])[0]:.1f}" for k in ATTEMPTS),
         *(f"{100 * value:.0f}" for value in results.rate("repeat", arm, "greedy", [seed]) or [math.nan])]
        for seed in results.seeds for arm, name in ARMS.items()
    ]  # fmt: skip
    return table(["seed", "", *(f"@{k}" for k in ATTEMPTS), "repeats, 2nd"], rows)


def no_repeats_table(results: Results) -> list[str]:
    """The first seed's arms from a warm start without dialogues that ask to repeat an answer."""
    first = results.seeds[:1]
    rows = [
        [f"`{name}`", MODES[mode], *(f"{100 * results.accuracy(arm, mode, k, first)[0]:.1f} %" for k in ATTEMPTS),
         *(f"{100 * value:.0f} %" for value in results.rate("repeat", arm, mode, first) or [math.nan])]
        for arm, name in NO_REPEATS.items() for mode in MODES
    ]  # fmt: skip
    return table(["", "", *(f"accuracy@{k}" for k in ATTEMPTS), "repeats the first"], rows)


def config_difference(out: Path) -> list[str]:
    """Lines of the composed configurations that differ between the arms."""
    single, multi = ((out / f"{arm}.yaml").read_text(encoding="utf-8").splitlines() for arm in ("single", "multi"))
    lines = difflib.unified_diff(single, multi, "single", "multi", lineterm="", n=0)
    return [line for line in lines if not line.startswith("@@")]


def draw_figures(out: Path, seeds: Sequence[int]) -> list[str]:
    """Draw with ``multiattempt plot``; the names of the PNG files that are shown, relative to ``out``."""
    paths = [
        str(out / f"seed-{seed}" / "evaluation" / f"{arm}-{mode}") for arm in ARMS for mode in MODES for seed in seeds
    ]
    training = [
        f"{arm}={out / f'seed-{seed}' / arm / 'metrics.jsonl'}" for arm in ("single", "multi") for seed in seeds
    ]
    plot = [sys.executable, "-m", "verl_multiattempt", "plot", *paths, "--width", "7"]
    together = ["--panel-by", "temperature", "--training", *training, "--smooth", "5"]
    subprocess.run([*plot, *together, "--out", str(out / "figures")], check=True)
    subprocess.run([*plot, "--panel-by", "arm", "--out", str(out / "figures" / "arms")], check=True)
    return [f"figures/{name}.png" for name in ("accuracy", "arms/accuracy", "retries", "training")]


def report(out: Path, seeds: Sequence[int], seconds: int) -> str:
    """The report's Markdown; ``seconds`` are those of this call of the script."""
    results = Results(out, seeds)
    rows = pq.read_table(out / f"seed-{seeds[0]}" / "val.parquet").to_pylist()
    answers = [int(row["reward_model"]["ground_truth"]) for row in rows]
    fixed = {k: fixed_order_accuracy(((answer, bool(answer % 2)) for answer in answers), k) for k in ATTEMPTS}
    greedy = gains(results, "greedy")
    settings = dict(item.split("=") for item in (out / "settings").read_text().split())
    times = [line.split("\t") for line in (out / "times.tsv").read_text().splitlines()]
    minutes = (seconds + sum(int(time) for name, time in times if name == WHOLE_RUN)) / 60
    of_seeds = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    episodes = int(settings["STEPS"]) * int(settings["EPISODES"])
    interval = (
        "± is the half width of Student's 95 % interval over seeds." if len(seeds) > 1 else "One seed: no interval."
    )
    text = [
        "# Single- against multi-attempt training, in miniature",
        "",
        f"Made by `recipes/compare_tiny.sh` in {minutes:.0f} minutes on {os.cpu_count()} CPU cores, no accelerator "
        f"(Python {platform.python_version()}, commit `{commit()}`): {of_seeds}; in each, both arms start from the "
        f"same warm start and train with PPO and a critic on {episodes:,} episodes ({settings['STEPS']} steps) each. "
        f"Evaluation: {len(rows):,} held-out questions, a separate run for each number of allowed attempts. {interval}",
        "",
        f"**A second attempt adds {greedy['multi'].points()} to the accuracy of the model trained with "
        f"several attempts, and {greedy['single'].points()} to that of the model trained with one; the difference is "
        f"{greedy['difference'].points()}** (greedy).",
        "",
        f"After a wrong first answer the second is correct in {rate(results, 'refinement', 'multi')} of the cases "
        f"(`single`: {rate(results, 'refinement', 'single')}), and is the first again in "
        f"{rate(results, 'repeat', 'multi')} (`single`: {rate(results, 'repeat', 'single')}).",
        "",
        "## Accuracy@k, greedy",
        "",
        *accuracy_table(results, "greedy", fixed),
        "",
        "## Accuracy@k, temperature 1",
        "",
        *accuracy_table(results, "sampled", fixed),
        "",
        "The best fixed order of guesses knows whether the product is odd and nothing else: 0, 2, 4 or 3, 1, 5. That "
        "is what training can reach with so small a model. The warm start at temperature 1 gains by its diversity "
        "alone, which single-attempt training removes.",
        "",
        "## The second attempt, after a wrong first",
        "",
        *rate_table(results),
        "",
        "## Figures",
        "",
        *(f"![{Path(name).stem.replace('_', ' ')}]({name})" for name in draw_figures(out, seeds)),
        "",
        "## What this shows, and what it does not",
        "",
        "It shows that PPO over several attempts teaches a model to use the feedback: it eliminates the answers that "
        "were wrong, where a model trained with one attempt gives them again. It does not show better arithmetic: "
        "what so small a model can know of a product is whether it is odd, which caps accuracy@1 by design. The "
        "paper's claim on mathematics needs its scale: see `recipes/README.md`.",
        "",
        "## Without the repeat dialogues",
        "",
        f"The warm start has dialogues that ask to repeat an answer. Seed {seeds[0]} without them, the same "
        "training of `multi`:",
        "",
        *no_repeats_table(results),
        "",
        "## The arms differ by this alone",
        "",
        "The composed configurations (`COMPOSE=1 examples/tiny_math/train.sh …`), compared:",
        "",
        "```diff",
        *config_difference(out),
        "```",
        "",
        "## Every seed, greedy (%)",
        "",
        *seed_table(results),
        "",
        "## Time of the stages",
        "",
        *table(["stage", "seconds"], sorted(row for row in times if row[0] != WHOLE_RUN)),
        "",
    ]
    return "\n".join(text)


def commit() -> str:
    """The commit of the working tree, marked where it was changed."""
    here = Path(__file__).resolve().parent
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of compare_tiny.sh")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--seconds", type=int, default=0, help="of the run so far, beside those in times.tsv")
    args = parser.parse_args(argv)
    path = args.out / "report.md"
    path.write_text(report(args.out.resolve(), args.seeds, args.seconds), encoding="utf-8")
    print(f"report: {path}")


if __name__ == "__main__":
    main()
