"""Against lock step: the agent loop, and the schedule of the paper's code, on one engine with one plan of lengths.

    python benchmarks/lock_step.py                     # 1,024 episodes, all six schedules, 2 repeats
    python benchmarks/lock_step.py --arms loop lock    # the two only
    python benchmarks/lock_step.py --quick --out lock_step.json

Lock step (`lock_step_schedule.py`): batches of 256 conversations one after the other, rounds of at most 64 new tokens
with a barrier after each, the conversation re-submitted as text. Against it `MultiAttemptAgentLoop`, run as verl runs
it, all episodes at once. Between the two: lock step with all episodes in one batch, lock step with ids for text, and
the agent loop with 256 episodes at a time, which is what one engine is given where as many engines share the rollout as
it has batches (the paper's run: 1,024 episodes on 4 engines).

All ask one vLLM engine for the same: the tiny example's model, the same questions, and for each attempt the same number
of tokens and the same verdict, which a logits processor forces (`planned_tokens.py`); nothing else is not as it is in
training. The lengths are lognormal, cut by the limit of an episode. All ask for log-probabilities, as verl does, so
that the schedules alone differ; the paper's code does not, which is an arm of its own. The model's text is such that
encoding it again gives the same tokens: what re-tokenising changes is measured by `retokenise.py`.

Ratios are of wall clock, and of engine steps. The first depends on how much longer a step takes with more sequences in
it, and is measured here, too; on a GPU, where decoding is bound by reading the weights, a step of 256 sequences takes
little longer than one of 1, and the ratio is nearer to that of the steps. That one does not depend on the hardware,
and is counted without an engine, too (`schedule_steps.py`), also for attempts `--longer` times as long.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine_replay import engine_threads, machine
from length_plan import PlannedEpisode, add_options, describe, plan_of
from lock_step_schedule import BATCH_SIZE, SLICE, LockStep
from planned_engine import (
    EngineCounts,
    PlannedBench,
    make_planned_model,
    start_engine,
    step_times,
)
from schedule_steps import lock_steps, loop_steps

ARMS = {
    "loop": "agent loop, all at once",
    "loop-batches": "agent loop, batch after batch",
    "lock": "lock step",
    "lock-ids": "lock step, ids for text",
    "lock-bare": "lock step, no log-probabilities",
    "lock-one": "lock step, one batch",
}


async def run_arm(arm: str, planned: PlannedBench, args: argparse.Namespace) -> dict[str, Any]:
    """One schedule, from an empty prefix cache; its figures.

    Raises:
        RuntimeError: it did not follow the plan.
    """
    numbers = range(len(planned.plan))
    await planned.engine._llm.reset_prefix_cache()
    extra: dict[str, Any] = {}
    if arm.startswith("lock"):
        schedule = LockStep(planned, batch_size=len(numbers) if arm == "lock-one" else args.batch_size,
                            slice_tokens=args.slice, as_text=arm != "lock-ids",
                            logprobs=arm != "lock-bare")  # fmt: skip
        counts = EngineCounts()
        conversations = await schedule.run(numbers)
        figures = counts.figures()
        verdicts = [one.verdicts for one in conversations]
        extra["rounds"] = schedule.rounds
    else:
        size = args.batch_size if arm == "loop-batches" else len(numbers)
        counts, outputs = EngineCounts(), []
        for start in numbers[::size]:
            outputs += await planned.run(numbers[start : start + size])
        figures = counts.figures()
        verdicts = [planned.verdicts(output) for output in outputs]
    planned.check(verdicts)
    check_sampled(planned.plan, figures["sampled"])
    extra["counted_steps"] = counted_steps(planned.plan, args)[arm]
    return {**figures, **extra, "ms_a_step": 1e3 * figures["seconds"] / max(1, figures["steps"])}


def check_sampled(plan: Sequence[PlannedEpisode], sampled: float) -> None:
    """That as many tokens were sampled as planned; in lock step the end of a turn may go unsampled.

    Raises:
        RuntimeError: there were others.
    """
    planned = describe(plan)
    if not planned["tokens"] - planned["attempts"] <= sampled <= planned["tokens"]:
        raise RuntimeError(f"the engine must sample {planned['tokens']} tokens, less at most one of each attempt; "
                           f"got {sampled}")  # fmt: skip


def counted_steps(plan: Sequence[PlannedEpisode], args: argparse.Namespace) -> dict[str, int]:
    """Engine steps of each schedule, counted without an engine."""
    places, size = args.max_num_seqs, args.batch_size
    starts = range(0, len(plan), size)
    return {
        "loop": loop_steps(plan, places),
        "loop-batches": sum(loop_steps(plan[start : start + size], places) for start in starts),
        "lock": lock_steps(plan, places, size, args.slice),
        "lock-ids": lock_steps(plan, places, size, args.slice),
        "lock-bare": lock_steps(plan, places, size, args.slice),
        "lock-one": lock_steps(plan, places, len(plan), args.slice),
    }


def ratios(arms: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each other schedule by the agent loop's: wall clock and engine steps."""
    return {
        arm: {name: figures[name] / arms["loop"][name] for name in ("seconds", "steps")}
        for arm, figures in arms.items()
        if arm != "loop"
    }


def show(arms: dict[str, dict[str, Any]]) -> None:
    print(f"{'':<32} {'seconds':>8} {'steps':>7} {'counted':>8} {'batch':>6} {'ms/step':>8} {'sampled':>8} "
          f"{'computed':>9} {'cached':>9}   by the agent loop's: time, steps")  # fmt: skip
    found = ratios(arms)
    for arm, one in arms.items():
        of = found.get(arm)
        print(f"{ARMS[arm]:<32} {one['seconds']:8.1f} {one['steps']:7,} {one['counted_steps']:8,} "
              f"{one['mean_batch']:6.1f} "
              f"{one['ms_a_step']:8.2f} {one['sampled']:8,} {one['prompt_computed']:9,} {one['prompt_cached']:9,}   "
              + (f"{of['seconds']:5.2f} {of['steps']:6.2f}" if of else ""))  # fmt: skip
    print(f"{'':<32} load average {machine()['load_average'][0]}", flush=True)


async def measure(folder: Path, plan: Sequence[PlannedEpisode], args: argparse.Namespace) -> dict[str, Any]:
    """The schedules in turns on one engine."""
    engine = await start_engine(make_planned_model(folder), max_num_seqs=args.max_num_seqs)
    planned = PlannedBench(engine, folder, plan)
    repeats: list[dict[str, dict[str, Any]]] = []
    try:
        await planned.bench.start_verifier()
        times = await step_times(engine, [size for size in (1, 16, 64, 256) if size <= args.max_num_seqs])
        print("a step with so many sequences: "
              + ", ".join(f"{size}: {value:.2f} ms" for size, value in times.items()), flush=True)  # fmt: skip
        for repeat in range(args.repeats):
            order = args.arms if repeat % 2 == 0 else args.arms[::-1]
            found = {arm: await run_arm(arm, planned, args) for arm in order}
            repeats.append({arm: found[arm] for arm in args.arms})
            show(repeats[-1])
    finally:
        await planned.bench.close()
        await engine.close()
    return {"step_ms_by_batch": times, "repeats": repeats, "ratios": median_ratios(repeats)}


def median_ratios(repeats: Sequence[dict[str, dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Over the repeats."""
    found = [ratios(one) for one in repeats]
    return {
        arm: {name: statistics.median(one[arm][name] for one in found) for name in ("seconds", "steps")}
        for arm in found[0]
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=1024, help="of the rollout (default 1,024, the paper's)")
    parser.add_argument("--batch-size", type=int, default=BATCH_SIZE, help=f"of lock step (default {BATCH_SIZE})")
    parser.add_argument("--slice", type=int, default=SLICE, help=f"most tokens of a round (default {SLICE})")
    parser.add_argument("--max-num-seqs", type=int, default=256, help="the engine's largest batch (default 256)")
    parser.add_argument("--repeats", type=int, default=2, help="the order is turned round each time (default 2)")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM",
                        help="; ".join(f"{name}: {text}" for name, text in ARMS.items()))  # fmt: skip
    parser.add_argument("--longer", type=int, default=4, help="see above (default 4)")
    add_options(parser, median=112, limit=768)
    parser.add_argument("--quick", action="store_true", help="64 episodes in batches of 16, 1 repeat")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args()
    if args.quick:
        args.episodes, args.batch_size, args.max_num_seqs, args.repeats = 64, 16, 16, 1
    for name in ("episodes", "batch_size", "slice", "max_num_seqs", "repeats", "longer"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1; got {getattr(args, name)}")
    args.arms = list(dict.fromkeys(["loop", *args.arms]))
    plan = plan_of(args, parser).draw(args.episodes, args.seed)
    os.environ.setdefault("OMP_NUM_THREADS", str(engine_threads()))
    logging.disable(logging.WARNING)

    figures: dict[str, Any] = {"machine": machine(), "plan": describe(plan), "options": vars(args) | {"out": None}}
    print(", ".join(f"{name} {value:,.0f}" for name, value in figures["plan"].items()), flush=True)
    with tempfile.TemporaryDirectory() as name:
        figures.update(asyncio.run(measure(Path(name), plan, args)))
    longer = plan_of(args, parser, scale=args.longer).draw(args.episodes, args.seed)
    steps = counted_steps(longer, args)
    figures["longer"] = {"plan": describe(longer), "counted_steps": steps}
    print(f"steps by the agent loop's where attempts are {args.longer} times as long: "
          + ", ".join(f"{ARMS[arm]} {steps[arm] / steps['loop']:.2f}" for arm in ARMS if arm != "loop"))  # fmt: skip
    if "lock" in figures["ratios"]:
        lock = figures["ratios"]["lock"]
        print(f"lock step / agent loop: {lock['seconds']:.2f} by wall clock (goal: at least 3), {lock['steps']:.2f} by "
              "engine steps")  # fmt: skip
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
