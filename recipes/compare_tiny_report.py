"""Writes the report of `compare_tiny.sh`: tables with intervals over seeds, figures, the difference of the two arms.

    python recipes/compare_tiny_report.py --out outputs/compare_tiny --seeds 1 2 3 --seconds 2400

Reads ``OUT/seed-<seed>/evaluation/<arm>`` and the arms' ``metrics.jsonl`` and ``config.yaml``; writes ``OUT/report.md``
and ``OUT/figures``. What the report concludes depends on what was measured.
"""

from __future__ import annotations

import argparse
import difflib
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow.parquet as pq
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "tiny_math"))
from compare_tiny_results import ATTEMPTS, Estimate, Results, Retry, fixed_order_accuracy, share_of_commonest

MODES = {"greedy": "greedy", "sampled": "temperature 1"}
ARMS = {"warm": "warm start", "single": "single", "multi": "multi"}
NO_REPEATS = {"warm-no-repeats": "warm start", "multi-no-repeats": "multi"}
WHOLE_RUN = "whole run"
"""What `compare_tiny.sh` writes into ``times.tsv`` at its end."""
ONE_ORDER = 0.95
"""From this share of second answers on that are the same one, they do not depend on the first."""
FIGURES = {
    "accuracy": "Accuracy against the number of allowed attempts, a panel for each way of sampling",
    "arms/accuracy": "The same, a panel for each arm and way of sampling",
    "retries": "Share of the retries that are correct, and that repeat an earlier answer, where 5 attempts are allowed",
    "training": "Training; the arms' rewards are of different numbers of attempts, and a single attempt has no retries",
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    return [
        "| " + " | ".join(head) + " |",
        "|" + " --- |" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]


def percent(values: Sequence[float]) -> str:
    """A share over seeds, or ``-`` where no seed has it."""
    return Estimate.of(values).percent() if values else "-"


def accuracy_table(results: Results, mode: str, fixed: Mapping[int, float]) -> list[str]:
    """accuracy@k of the arms in one mode."""
    rows = [
        [f"`{name}`", *(percent(results.values("accuracy", arm, mode, k)) for k in ATTEMPTS)]
        for arm, name in ARMS.items()
    ]
    rows.append(["best fixed order of guesses", *(f"{100 * fixed[k]:.1f} %" for k in ATTEMPTS)])
    return table(["", *(f"accuracy@{k}" for k in ATTEMPTS)], rows)


def rate_table(results: Results, name: str) -> list[str]:
    """``repeat`` or ``refinement`` of the second attempt after a wrong first, by the number of allowed attempts."""
    rows = [
        [f"`{shown}`", words, *(percent(results.values(f"{name}@2", arm, mode, k)) for k in ATTEMPTS[1:])]
        for arm, shown in ARMS.items() for mode, words in MODES.items()
    ]  # fmt: skip
    return table(["", "", *(f"{k} allowed" for k in ATTEMPTS[1:])], rows)


def order_table(results: Results) -> list[str]:
    """Which second answer follows which first one, of each seed, where two attempts are allowed."""

    def cell(seed: int, arm: str) -> str:
        found = results.retries(seed, arm, "greedy", 2)
        shown = found.most_common(3)
        rest = sum(found.values()) - sum(count for _, count in shown)
        return ", ".join([*map(_transition, shown), *([f"others {rest}"] if rest else [])]) or "-"

    rows = [[str(seed), *(cell(seed, arm) for arm in ARMS)] for seed in results.seeds]
    return table(["seed", *(f"`{name}`" for name in ARMS.values())], rows)


def _transition(item: tuple[Retry, int]) -> str:
    retry, count = item
    return f"{retry.first} → {'none' if retry.second is None else retry.second} ({count})"


def commonest_shares(results: Results, arm: str) -> list[float]:
    """The share of second answers that are their run's commonest, of every seed and k >= 2, greedy."""
    shares = (share_of_commonest(results.retries(seed, arm, "greedy", k)) for seed in results.seeds
              for k in ATTEMPTS[1:])  # fmt: skip
    return [share for share in shares if share is not None]


def seed_table(results: Results) -> list[str]:
    """Greedy accuracy@k of every seed, and how often its second attempt repeats where two are allowed."""
    rows = [
        [str(seed), f"`{name}`",
         *(f"{100 * results.values('accuracy', arm, 'greedy', k, [seed])[0]:.1f}" for k in ATTEMPTS),
         *([f"{100 * value:.0f}" for value in results.values("repeat@2", arm, "greedy", 2, [seed])] or ["-"])]
        for seed in results.seeds for arm, name in ARMS.items()
    ]  # fmt: skip
    return table(["seed", "", *(f"@{k}" for k in ATTEMPTS), "repeats, 2 allowed"], rows)


def no_repeats_table(results: Results) -> list[str]:
    """The first seed's arms from a warm start without dialogues that ask to repeat an answer."""
    first = results.seeds[:1]
    rows = [
        [f"`{name}`", words,
         *(f"{100 * results.values('accuracy', arm, mode, k, first)[0]:.1f} %" for k in ATTEMPTS),
         percent(results.values("repeat@2", arm, mode, 2, first))]
        for arm, name in NO_REPEATS.items() for mode, words in MODES.items()
    ]  # fmt: skip
    return table(["", "", *(f"accuracy@{k}" for k in ATTEMPTS), "repeats, 2 allowed"], rows)


def config_difference(folder: Path) -> list[str]:
    """Lines of the two arms' configurations that differ, as composed before each was trained."""
    single, multi = ((folder / arm / "config.yaml").read_text().splitlines() for arm in ("single", "multi"))
    lines = difflib.unified_diff(single, multi, "single", "multi", lineterm="", n=0)
    return [line for line in lines if not line.startswith("@@")]


def draw_figures(out: Path, seeds: Sequence[int]) -> Iterator[str]:
    """Draw with ``multiattempt plot``; the figures as Markdown."""
    results = Results(out, seeds)
    paths = [str(results.folder(seed, arm, mode)) for arm in ARMS for mode in MODES for seed in seeds]
    training = [
        f"{arm}={out / f'seed-{seed}' / arm / 'metrics.jsonl'}" for arm in ("single", "multi") for seed in seeds
    ]
    plot = [sys.executable, "-m", "verl_multiattempt", "plot", *paths, "--width", "7"]
    together = ["--panel-by", "temperature", "--training", *training, "--smooth", "5"]
    subprocess.run([*plot, *together, "--out", str(out / "figures")], check=True)
    subprocess.run([*plot, "--panel-by", "arm", "--out", str(out / "figures" / "arms")], check=True)
    for name, text in FIGURES.items():
        yield from (f"{text}:", "", f"![{text}](figures/{name}.png)", "")


def headline(results: Results) -> list[str]:
    """What a second attempt adds, and whether that is more for one arm than for the other."""
    lines = []
    for mode, words in MODES.items():
        single, multi = results.gains("single", mode), results.gains("multi", mode)
        difference = Estimate.of([m - s for s, m in zip(single, multi, strict=True)])
        verdict = (
            "more" if difference.is_positive else "by these seeds not certainly more"
            if difference.half_width is not None else "of one seed, without an interval"
        )  # fmt: skip
        lines.append(
            f"- {words}: the second of two attempts solves {Estimate.of(multi).points()} of the questions with "
            f"`multi`, the model trained with several attempts, {Estimate.of(single).points()} with `single`: "
            f"**a difference of {difference.points()}** ({verdict}). Allowed two attempts instead of one, the accuracy "
            f"changes by {Estimate.of(results.allowances('multi', mode)).points()} and "
            f"{Estimate.of(results.allowances('single', mode)).points()}."
        )
    return lines


def allowance_table(results: Results) -> list[str]:
    """What each number of allowed attempts adds to the accuracy with one."""
    rows = []
    for mode, words in MODES.items():
        for arm in ("multi", "single"):
            cells = (Estimate.of(results.allowances(arm, mode, k)).points() for k in ATTEMPTS[1:])
            rows.append([words, f"`{arm}`", *cells])
        rows.append([words, "difference", *(results.allowance_difference(mode, k).points() for k in ATTEMPTS[1:])])
    return table(["", "", *(f"{k} allowed" for k in ATTEMPTS[1:])], rows)


def conclusion(results: Results) -> str:
    """What was learned, as far as it was measured."""
    gains = zip(results.gains("single", "greedy"), results.gains("multi", "greedy"), strict=True)
    better = Estimate.of([multi - single for single, multi in gains]).is_positive
    shares = commonest_shares(results, "multi")
    text = (
        "Trained with several attempts, the model's second attempt solves more than that of the model trained with "
        "one. " if better else
        "That a second attempt solves more after training with several attempts is not shown by these seeds alone: the "
        "interval of the difference holds zero, or there is none. "
    )  # fmt: skip
    above = [k for k in ATTEMPTS[2:] if results.allowance_difference("greedy", k).is_positive]
    if above and not better:
        text += (
            f"With {', '.join(map(str, above))} attempts allowed instead of one its greedy accuracy rises more, and "
            "the interval of that difference is above zero. "
        )
    if not shares:
        return text
    low, high = (f"{100 * share:.0f}" for share in (min(shares), max(shares)))
    text += (
        f"Of its greedy second answers after a wrong first, {high if low == high else f'{low} to {high}'} % (in each "
        "seed, by number of allowed attempts) are one and the same, whatever the first was. "
    )
    if min(shares) >= ONE_ORDER:
        text += (
            "So what was learned is an order of answers, one for each attempt, and not to look at the answer that was "
            "wrong: for this task, in which the model can know no more than whether the result is odd, that is enough."
        )
    else:
        text += "Where that is not nearly all, the second answer depends on the first, or on the question."
    return text


def introduction(out: Path, seeds: Sequence[int], questions: int, seconds: int) -> str:
    """How the report was made."""
    settings = dict(item.split("=", 1) for item in (out / "settings").read_text().split())
    steps, episodes = int(settings["STEPS"]), int(settings["EPISODES"])
    config = OmegaConf.load(out / f"seed-{seeds[0]}" / "single" / "config.yaml")
    epochs = OmegaConf.select(config, "critic.ppo_epochs")
    alone = max(
        0, OmegaConf.select(config, "trainer.critic_warmup") - 1
    )  # steps count from 1, and that one is the actor's
    interval = (
        "Intervals are Student's 95 % intervals over seeds (± their half width)." if len(seeds) > 1 else
        "One seed: no intervals."
    )  # fmt: skip
    return (
        f"Made by `recipes/compare_tiny.sh` (commit `{settings['COMMIT']}`) in {seconds / 60:.0f} minutes on "
        f"{os.cpu_count()} CPU cores, no accelerator, Python {platform.python_version()}. {len(seeds)} "
        f"seed{'s' if len(seeds) > 1 else ''}: {', '.join(map(str, seeds))}. In each, both arms start from the same "
        f"warm start and train with PPO and a critic on {steps * episodes:,} episodes ({steps} steps of {epochs} "
        f"pass{'es' if epochs > 1 else ''}, in the first {alone} the critic alone). "
        f"Evaluation: {questions:,} held-out questions, a run for each number of allowed attempts. " + interval
    )


def report(out: Path, seeds: Sequence[int], seconds: int) -> str:
    """The report's Markdown; ``seconds`` are those of this call of the script."""
    results = Results(out, seeds)
    rows = pq.read_table(out / f"seed-{seeds[0]}" / "val.parquet").to_pylist()
    answers = [int(row["reward_model"]["ground_truth"]) for row in rows]
    fixed = {k: fixed_order_accuracy(((answer, bool(answer % 2)) for answer in answers), k) for k in ATTEMPTS}
    times = [line.split("\t") for line in (out / "times.tsv").read_text().splitlines()]
    seconds += sum(int(time) for name, time in times if name == WHOLE_RUN)
    text = [
        "# Single- against multi-attempt training, in miniature", "",
        introduction(out, seeds, len(rows), seconds), "",
        *headline(results), "",
        conclusion(results), "",
        "It is no better arithmetic, by design: what so small a model can know of a product is whether it is odd, "
        "which caps accuracy@1. The paper's claim on mathematics needs its scale: see `recipes/README.md`.", "",
        "## What allowed attempts add to the accuracy with one", "", *allowance_table(results), "",
        "## Accuracy@k, greedy", "", *accuracy_table(results, "greedy", fixed), "",
        "## Accuracy@k, temperature 1", "", *accuracy_table(results, "sampled", fixed), "",
        "The best fixed order of guesses knows whether the product is odd and nothing else: 0, 2, 4 or 3, 1, 5. That "
        "is what training can reach with so small a model. The warm start at temperature 1 gains by its diversity "
        "alone, which single-attempt training removes.", "",
        "## The second attempt, after a wrong first", "",
        "Share that repeats the first answer:", "", *rate_table(results, "repeat"), "",
        "Share that is correct:", "", *rate_table(results, "refinement"), "",
        "First and second answer, greedy, two attempts allowed (how often):", "", *order_table(results), "",
        "## Figures", "", *draw_figures(out, seeds),
        "Bands are cut where shares end.", "",
        "## Without the repeat dialogues", "",
        f"The warm start has dialogues that ask to repeat an answer. Seed {seeds[0]} without them, the same training "
        "of `multi` (one seed, and no `single`):", "", *no_repeats_table(results), "",
        "## The arms differ by this alone", "",
        "Their configurations as composed before the training (`config.yaml` of each), compared:", "",
        "```diff", *config_difference(out / f"seed-{seeds[0]}"), "```", "",
        "## Every seed, greedy (%)", "", *seed_table(results), "",
        "## Time of the stages", "",
        *table(["stage", "seconds"], sorted(row for row in times if row[0] != WHOLE_RUN)), "",
    ]  # fmt: skip
    return "\n".join(text)


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
