"""What the fixes that the benchmarks asked for have changed: the package before and after them, in turns in one run.

    python benchmarks/before_after.py                    # against the commit before the first of them
    python benchmarks/before_after.py --before v0.1.0    # against any other commit of the clone
    python benchmarks/before_after.py --quick --out before_after.json

Measured with the means of `overhead.py` (a server that only pretends, verl's loop classes, no model), in a process of
its own for each state of the package:

- CPU time of an attempt, 64 episodes at a time, of 256 and of 4,096 tokens;
- the same with ``stop_at_answer``, where the answer comes last, so that the text is searched after each slice of 64;
- the event loop's p99 and longest stall with 4,096 episodes under way;
- CPU time of the reward manager for an episode of five attempts.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
BEFORE = "181cf9f^"
SHORT, LONG, SLICE, AT_ONCE = 256, 4096, 64, 64
ROWS = {
    "short": f"CPU of an attempt of {SHORT} tokens, us",
    "long": f"CPU of an attempt of {LONG:,} tokens, us",
    "sliced": f"CPU of an attempt of {LONG:,} tokens, stop_at_answer every {SLICE}, us",
    "stall_p99": "event loop's p99 stall, ms",
    "stall_max": "event loop's longest stall, ms",
    "reward": "CPU of the reward manager for an episode, us",
}


def measure(episodes: int, at_once: int) -> dict[str, float]:
    """The figures of the package that this process imports."""
    # First, so that verl finds its platform.
    import verl  # noqa: F401

    from verl_multiattempt.adapters import agent_loop

    if not hasattr(agent_loop, "freeze_heap"):  # the package did not do it then
        setattr(agent_loop, "freeze_heap", gc.collect)  # noqa: B010 - of another type than today's
    import numpy as np
    import torch
    from omegaconf import open_dict
    from overhead import Bench, PretendedServer
    from verl import DataProto
    from verl.workers.rollout.replica import TokenOutput

    from verl_multiattempt.adapters.reward_manager import MultiAttemptRewardManager

    @dataclass
    class SlicingServer(PretendedServer):
        """Gives no more tokens than it is asked for, and the rest of the answer when asked again."""

        given: dict[str, int] = field(default_factory=dict)

        async def generate(self, request_id: str, *, prompt_ids: Sequence[int], **rest: Any) -> TokenOutput:
            """Verl's interface of a rollout server."""
            await asyncio.sleep(0)
            start = self.given.get(request_id, 0)
            ids = self.ids[start : start + rest["sampling_params"]["max_tokens"]]
            self.given[request_id] = (start + len(ids)) % len(self.ids)
            return TokenOutput(
                token_ids=ids, log_probs=self.logprobs[: len(ids)], stop_reason="completed", num_preempted=0
            )

    def sliced_bench() -> Any:
        bench = Bench()
        with open_dict(bench.config):
            bench.config.multiattempt.stop_at_answer = True
            bench.config.multiattempt.stop_at_answer_every = SLICE
        return bench

    async def cpu_us(bench: Any, server: Any, count: int) -> float:
        await asyncio.gather(bench.episode("multiattempt", server, 0))  # what the first episode loads
        gc.collect()
        started = time.process_time()
        for start in range(0, count, AT_ONCE):
            numbers = range(start, min(start + AT_ONCE, count))
            outputs = await asyncio.gather(*(bench.episode("multiattempt", server, number) for number in numbers))
            # Where the text is searched for the answer, the end of the turn after it is not sampled.
            least = bench.turns("multiattempt") * (len(server.ids) - 1)
            if any(sum(output.response_mask) < least for output in outputs):
                raise RuntimeError("an episode must have all its attempts")
        return (time.process_time() - started) / (count * bench.turns("multiattempt")) * 1e6

    async def reward_us(bench: Any, count: int = 2000) -> float:
        answer = PretendedServer(bench.answer("multiattempt", SHORT))
        output = await bench.episode("multiattempt", answer, 0)
        length = len(output.response_ids)
        data = DataProto.from_dict(  # as verl's worker makes it of a finished episode
            tensors={name: torch.ones(1, length, dtype=torch.int64) for name in (
                "prompts", "responses", "attention_mask", "input_ids", "position_ids", "response_mask")},
            non_tensors={
                "tool_extra_fields": np.array([output.extra_fields], dtype=object),
                "data_source": np.array(["bench"], dtype=object),
                "reward_model": np.array([{"ground_truth": "3"}], dtype=object),
            },
        )  # fmt: skip
        manager = MultiAttemptRewardManager(bench.config, bench.tokenizer, None)
        await manager.run_single(data)
        started = time.process_time()
        for _ in range(count):
            await manager.run_single(data)
        return (time.process_time() - started) / count * 1e6

    async def figures() -> dict[str, float]:
        bench, found = Bench(), {}
        found["reward"] = await reward_us(bench)
        for name, tokens in (("short", SHORT), ("long", LONG)):
            server = PretendedServer(bench.answer("multiattempt", tokens))
            found[name] = await cpu_us(bench, server, episodes * (1 if tokens == LONG else 4))
        late = await bench.lateness_ms("multiattempt", SHORT, at_once, (0.5, 2.0))
        found |= {"stall_p99": late["p99"], "stall_max": late["max"]}
        bench = sliced_bench()
        server = SlicingServer(bench.answer("multiattempt", LONG))
        return {**found, "sliced": await cpu_us(bench, server, max(1, episodes // 4))}

    logging.disable(logging.WARNING)
    return asyncio.run(figures())


def child(package: Path, args: argparse.Namespace) -> dict[str, float]:
    """`measure` in a process that imports the package from this folder."""
    command = [sys.executable, __file__, "--measure", str(package), "--episodes", str(args.episodes), "--at-once",
               str(args.at_once)]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(package)}, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"measuring {package} failed:\n{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def unpack(revision: str, folder: Path) -> None:
    """The package as it was at a commit."""
    archive = subprocess.run(["git", "archive", revision, "verl_multiattempt", "hydra_plugins"], cwd=REPOSITORY,
                             capture_output=True)  # fmt: skip
    if archive.returncode:
        sys.exit(f"--before must name a commit of this clone; got {revision!r}: {archive.stderr.decode().strip()}")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default=BEFORE, metavar="COMMIT", help=f"to compare with (default {BEFORE})")
    parser.add_argument("--repeats", type=int, default=3, help="of each, in turns (default 3)")
    parser.add_argument("--episodes", type=int, default=64, help="of 4,096 tokens an attempt (default 64)")
    parser.add_argument("--at-once", type=int, default=4096, help="episodes under way for the stalls (default 4,096)")
    parser.add_argument("--quick", action="store_true", help="1 repeat, 16 episodes, 128 under way")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.repeats, args.episodes, args.at_once = 1, 16, 128
    for name in ("repeats", "episodes", "at_once"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1; got {getattr(args, name)}")
    if args.measure:
        import verl_multiattempt

        if Path(verl_multiattempt.__file__).parents[1] != args.measure:
            sys.exit(f"the package must come from {args.measure}; got {verl_multiattempt.__file__}")
        print(json.dumps(measure(args.episodes, args.at_once)))
        return

    with tempfile.TemporaryDirectory() as name:
        before = Path(name).resolve()
        unpack(args.before, before)
        runs = [
            {state: child(folder, args) for state, folder in (("before", before), ("after", REPOSITORY))}
            for _ in range(args.repeats)
        ]
    print(f"{'median of ' + str(args.repeats):<72}{'before':>10}{'after':>10}{'ratio':>8}")
    figures = {}
    for key, label in ROWS.items():
        found = {state: statistics.median(run[state][key] for run in runs) for state in ("before", "after")}
        figures[key] = {**found, "ratio": found["before"] / found["after"]}
        print(f"{label:<72}{found['before']:>10,.1f}{found['after']:>10,.1f}{figures[key]['ratio']:>7.1f}x")
    if args.out:
        args.out.write_text(json.dumps({"before": args.before, "figures": figures, "runs": runs}, indent=2) + "\n")


if __name__ == "__main__":
    main()
