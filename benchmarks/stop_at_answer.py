"""What ``multiattempt.stop_at_answer`` saves where the model goes on after its answer, and what its slices cost.

    python benchmarks/stop_at_answer.py                # 256 episodes, slices of 16, 64 and 256 tokens, 2 repeats
    python benchmarks/stop_at_answer.py --ramble 512   # a model that goes on for longer
    python benchmarks/stop_at_answer.py --quick --out stop_at_answer.json

`MultiAttemptAgentLoop` over one vLLM engine with the tiny example's model; where the answer is and where the attempt
ends follows a plan (`planned_tokens.py`). Two plans with the same attempts up to the answer:

- the model goes on after its answer (`--ramble`): tokens and time with ``stop_at_answer``, by those without;
- it ends its turn right after the answer, so that nothing can be saved: the time with slices by that without is what
  slicing costs. Each slice is a request, whose prompt is looked up in the prefix cache and computed from the last whole
  block on (32 tokens here), and the places in the batch are given out anew.

All are ratios to the run without ``stop_at_answer`` of the same process and plan. What follows a plan has one token
more or less at the end of an attempt: with ``stop_at_answer`` the end of a turn is cut off and the loop inserts it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine_replay import engine_threads, machine
from length_plan import PlannedEpisode, add_options, describe, plan_of, without_ramble
from planned_engine import (
    EngineCounts,
    PlannedBench,
    make_planned_model,
    start_engine,
)

from verl_multiattempt.evaluation.vllm_engine import VllmEngine

OFF = "off"
COMPARED = ("seconds", "sampled", "steps", "prompt_computed")


async def run_settings(
    engine: VllmEngine, folder: Path, plan: Sequence[PlannedEpisode], every: int | None
) -> dict[str, Any]:
    """A rollout with slices of so many tokens, from an empty prefix cache; None: without ``stop_at_answer``."""
    settings = {} if every is None else {"stop_at_answer": True, "stop_at_answer_every": every}
    planned = PlannedBench(engine, folder, plan, **settings)
    try:
        await planned.bench.start_verifier()
        await engine._llm.reset_prefix_cache()
        counts = EngineCounts()
        outputs = await planned.run(range(len(plan)))
        figures = counts.figures()
    finally:
        await planned.bench.close()
    planned.check([planned.verdicts(output) for output in outputs])
    return {**figures, "trained": sum(sum(output.response_mask) for output in outputs),
            "requests": planned.num_requests}  # fmt: skip


def by_off(runs: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Each run's figures by those of the run without ``stop_at_answer``."""
    return {
        name: {key: run[key] / max(1e-9, runs[OFF][key]) for key in COMPARED}
        for name, run in runs.items()
        if name != OFF
    }


def show(title: str, runs: dict[str, dict[str, Any]]) -> None:
    print(f"{title:<26} {'seconds':>8} {'sampled':>8} {'steps':>7} {'computed':>9} {'requests':>9}   "
          "by off: time, sampled, steps")  # fmt: skip
    found = by_off(runs)
    for name, run in runs.items():
        of = found.get(name)
        label = "without stop_at_answer" if name == OFF else f"slices of {name}"
        ratio = f"{of['seconds']:5.2f} {of['sampled']:5.2f} {of['steps']:5.2f}" if of else ""
        print(f"  {label:<24} {run['seconds']:8.1f} {run['sampled']:8,} {run['steps']:7,} {run['prompt_computed']:9,} "
              f"{run['requests']:9,}   {ratio}", flush=True)  # fmt: skip


async def measure(
    folder: Path, plans: Mapping[str, Sequence[PlannedEpisode]], args: argparse.Namespace
) -> dict[str, Any]:
    """Every plan with every slice, in turns on one engine."""
    engine = await start_engine(make_planned_model(folder), max_num_seqs=args.max_num_seqs)
    repeats: list[dict[str, dict[str, dict[str, Any]]]] = []
    try:
        slices: list[int | None] = [None, *args.slices]
        short = next(iter(plans.values()))[: args.max_num_seqs]
        await run_settings(engine, folder, short, None)  # warms up
        for repeat in range(args.repeats):
            repeats.append({})
            for title, plan in plans.items():
                order = slices if repeat % 2 == 0 else slices[::-1]
                found = {every: await run_settings(engine, folder, plan, every) for every in order}
                repeats[-1][title] = {str(every or OFF): found[every] for every in slices}
                show(title, repeats[-1][title])
            print(f"{'':<26} load average {machine()['load_average'][0]}", flush=True)
    finally:
        await engine.close()
    return {"repeats": repeats, "ratios": {title: medians([one[title] for one in repeats]) for title in plans}}


def medians(repeats: Sequence[dict[str, dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Of the ratios, over the repeats."""
    found = [by_off(runs) for runs in repeats]
    return {name: {key: statistics.median(one[name][key] for one in found) for key in COMPARED} for name in found[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=256, help="all at once (default 256)")
    parser.add_argument("--max-num-seqs", type=int, default=64, help="the engine's largest batch (default 64)")
    parser.add_argument("--slices", type=int, nargs="+", default=[16, 64, 256], help="tokens (default 16 64 256)")
    parser.add_argument("--ramble", type=float, default=112,
                        help="median of the tokens after the answer, lognormal, too (default 112)")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=2, help="the order is turned round each time (default 2)")
    add_options(parser, median=112, limit=1536)
    parser.add_argument("--quick", action="store_true", help="32 episodes, 16 in a batch, 1 repeat")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args()
    if args.quick:
        args.episodes, args.max_num_seqs, args.repeats = 32, 16, 1
    for name in ("episodes", "max_num_seqs", "repeats"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1; got {getattr(args, name)}")
    if min(args.slices) < 1 or args.ramble <= 0:
        parser.error(f"--slices and --ramble must be above 0; got {args.slices} and {args.ramble:g}")
    rambling = plan_of(args, parser, ramble=args.ramble).draw(args.episodes, args.seed)
    plans = {"goes on after its answer": rambling, "ends with its answer": without_ramble(rambling)}
    os.environ.setdefault("OMP_NUM_THREADS", str(engine_threads()))
    logging.disable(logging.WARNING)

    figures: dict[str, Any] = {"machine": machine(), "plans": {name: describe(plan) for name, plan in plans.items()},
                               "options": vars(args) | {"out": None}}  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        figures.update(asyncio.run(measure(Path(name), plans, args)))
    for title, found in figures["ratios"].items():
        for every, of in found.items():
            print(f"{title}, slices of {every}: {of['sampled']:.2f} of the tokens, {of['seconds']:.2f} of the time")
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
