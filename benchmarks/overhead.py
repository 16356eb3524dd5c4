"""What an episode costs besides the model: the package's agent loop beside verl's own, on a server that only pretends.

    python benchmarks/overhead.py                     # 1, 64, 1,024 and 4,096 episodes at a time
    python benchmarks/overhead.py --quick --out overhead.json

The server answers with `--tokens` tokens of a wrong answer (or a tool call) and no model runs; everything else is what
runs in training: verl's loop classes, chat template, verifier. Four loops in turns in one process: this package's with
5 attempts, verl's ToolAgentLoop with 5 assistant turns, verl's SingleTurnAgentLoop with its one, and this package's
with one attempt (which alone bears what an episode costs once, as the single turn does). Four figures:

- CPU time of a turn, where the server answers at once (median of rounds; an attempt is a turn), by episodes at a time;
- the same by number of tokens;
- how late the event loop is, where answers come after 0.5 to 2 s as from an engine: asked every millisecond; a stall
  counts for each of the milliseconds in which it would have held up a caller. The start is told apart: like verl, it
  makes all episodes in one go, so the loop stalls until each has asked for its first answer. The part of Python's
  garbage collector (its pauses within the longest stall, and its longest pause) is told, too;
- memory of an open episode, by tracemalloc: before its last attempt, and at its peak.

What verl's worker does around each loop (hydra makes it, the output is padded) is in none of them. At the end, the
goals and whether they are met.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import random
import statistics
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# First, so that verl finds its platform.
import verl  # noqa: F401
from omegaconf import OmegaConf, open_dict
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.tools.base_tool import BaseTool
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

from verl_multiattempt.adapters.agent_loop import MultiAttemptAgentLoop, freeze_heap
from verl_multiattempt.adapters.compose import compose_training_config

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "tiny_math"))
from make import make_tokenizer

TURNS = 5
WRONG = "so the answer is \\boxed{7}"
CALL = '<tool_call>{"name": "check", "arguments": {"answer": "7"}}</tool_call>'
FEEDBACK = "Your answer is incorrect. You have 3 attempts left."
LOOPS = ("multiattempt", "tool", "single", "one attempt")
OWN = ("multiattempt", "one attempt")
PROBE_S = 0.001
STALL_GOAL_MS, STALL_GOAL_AT = 20.0, 1024
LINEAR = 1.2
"""What is linear may grow by no more than this factor, by unit of what it is linear in."""


@dataclass
class PretendedServer:
    """Answers every request with the same tokens."""

    ids: list[int]
    latency_s: tuple[float, float] | None = None
    """Answers come after a time drawn from this range; None: at once."""
    barrier: Callable[[str], Any] | None = None
    """Awaited with the episode's request id before each answer."""
    on_request: Callable[[str], None] | None = None
    """Called with the episode's request id as a request comes."""
    seed: int = 0

    def __post_init__(self) -> None:
        self.logprobs = [-0.5] * len(self.ids)
        self.random = random.Random(self.seed)

    async def generate(self, request_id: str, *, prompt_ids: Sequence[int], **_: Any) -> TokenOutput:
        """Verl's interface of a rollout server."""
        if self.on_request is not None:
            self.on_request(request_id)
        await asyncio.sleep(self.random.uniform(*self.latency_s) if self.latency_s else 0)
        if self.barrier is not None:
            await self.barrier(request_id)
        return TokenOutput(
            token_ids=list(self.ids), log_probs=list(self.logprobs), stop_reason="completed", num_preempted=0
        )


class CheckTool(BaseTool):
    """Says what the feedback says."""

    async def execute(
        self, instance_id: str, parameters: dict[str, Any], **kwargs: Any
    ) -> tuple[ToolResponse, float, dict[str, Any]]:
        """Return the feedback's text."""
        return ToolResponse(text=FEEDBACK), 0.0, {}


def make_tool() -> CheckTool:
    schema = {
        "type": "function",
        "function": {
            "name": "check", "description": "Checks an answer.",
            "parameters": {"type": "object", "properties": {"answer": {"type": "string", "description": "the answer"}},
                           "required": ["answer"]},
        },
    }  # fmt: skip
    stdout, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115 - verl prints the schema
    try:
        return CheckTool({}, OpenAIFunctionToolSchema.model_validate(schema))
    finally:
        sys.stdout.close()
        sys.stdout = stdout


@dataclass
class CollectorClock:
    """Pauses of Python's garbage collector while it is open."""

    pauses: list[tuple[float, float]] = field(default_factory=list)
    """Start and end of each, by ``time.perf_counter``."""
    _started: float = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._started = now
        else:
            self.pauses.append((self._started, now))

    def __enter__(self) -> CollectorClock:
        gc.callbacks.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        gc.callbacks.remove(self)

    def longest_ms(self) -> float:
        """The longest pause."""
        return max((end - start for start, end in self.pauses), default=0.0) * 1e3

    def within_ms(self, start: float, end: float) -> float:
        """Pauses between two times."""
        return sum(max(0.0, min(end, b) - max(start, a)) for a, b in self.pauses) * 1e3


def lateness(
    stalls: Sequence[tuple[float, float]], all_asked_at: float
) -> tuple[dict[str, float], tuple[float, float]]:
    """How late a timer of every `PROBE_S` was called, in seconds.

    Args:
        stalls: when it was due, and when it was called; at least two once all are under way.
        all_asked_at: when the last episode had asked for its first answer.

    Returns:
        The longest at the start (0 where it was over before a timer was due: nobody would have waited); median, 99th
        percentile and longest once all are under way; and the longest stall itself.
    """
    under_way = [(due, called) for due, called in stalls if called > all_asked_at + PROBE_S]
    # A caller that comes within a stall waits for the rest of it.
    late = [called - due - n * PROBE_S for due, called in under_way for n in range(1 + int((called - due) / PROBE_S))]
    longest = max(under_way, key=lambda stall: stall[1] - stall[0])
    return {
        "start": max((called - due for due, called in stalls if due < all_asked_at), default=0.0),
        "p50": statistics.median(late), "p99": statistics.quantiles(late, n=100)[98], "max": longest[1] - longest[0],
    }, longest  # fmt: skip


class Bench:
    """The four loops over one configuration."""

    def __init__(self) -> None:
        self.tokenizer = make_tokenizer()
        self.config = compose_training_config(["+recipe=multiattempt", "+platform=cpu", "data.train_files=none",
                                               "data.val_files=none", "actor_rollout_ref.model.path=none"])  # fmt: skip
        with open_dict(self.config):
            self.config.multiattempt.distribution = "fixed"
            self.config.multiattempt.max_attempts = TURNS
            self.config.data.max_response_length = self.config.actor_rollout_ref.rollout.response_length = 10**6
            self.config.actor_rollout_ref.rollout.multi_turn.max_assistant_turns = TURNS
            self.config.actor_rollout_ref.rollout.multi_turn.format = "hermes"
            self.config.actor_rollout_ref.rollout.max_model_len = None
        OmegaConf.resolve(self.config)  # as verl's main_ppo does: to resolve a key anew takes longer than an attempt
        self.tool = make_tool()
        self.context = {
            name: DictConfigWrap(node) for name, node in (("trainer", self.config), ("data", self.config.data))
        }

    def answer(self, name: str, tokens: int) -> list[int]:
        """One answer of the pretended model, of so many tokens."""
        end = self.tokenizer.encode((CALL if name == "tool" else WRONG) + self.tokenizer.eos_token,
                                    add_special_tokens=False)  # fmt: skip
        words = self.tokenizer.encode("compute the question is incorrect ", add_special_tokens=False)
        return [*(words * tokens)[: max(0, tokens - len(end))], *end]

    def turns(self, name: str) -> int:
        """Turns of the model in an episode."""
        return TURNS if name in ("multiattempt", "tool") else 1

    def episode(self, name: str, server: PretendedServer, number: int) -> Any:
        """The coroutine of one episode, its loop made anew as verl does."""
        arguments = {
            "trainer_config": self.context["trainer"], "server_manager": server, "tokenizer": self.tokenizer,
            "processor": None, "dataset_cls": RLHFDataset, "data_config": self.context["data"],
            "hf_model_type": "qwen2",
        }  # fmt: skip
        verls = {"tool": ToolAgentLoop, "single": SingleTurnAgentLoop}
        loop = verls.get(name, MultiAttemptAgentLoop)(**arguments, tools=ToolListWrap([self.tool]))
        row = {
            "raw_prompt": [{"role": "user", "content": f"Compute {100 + number % 900}*345 mod 6 = ?"}],
            "data_source": "bench", "reward_model": {"ground_truth": "3"},
            "extra_info": {"index": number, "max_attempts": self.turns(name)},
            "uid": str(number), "session_id": 0, "global_steps": 1,
        }  # fmt: skip
        return loop.run({"temperature": 1.0, "logprobs": True}, **row)

    async def run(self, name: str, server: PretendedServer, at_once: int, episodes: int) -> None:
        """Run ``episodes`` with ``at_once`` open at a time; every one must use all its turns."""
        numbers = iter(range(episodes))

        async def lane() -> None:
            for number in numbers:
                output = await self.episode(name, server, number)
                got = sum(output.response_mask)
                if got != self.turns(name) * len(server.ids):
                    raise RuntimeError(f"{name}: an episode must have all its turns; got {got} tokens")

        await asyncio.gather(*(lane() for _ in range(at_once)))

    async def cpu_us(self, name: str, tokens: int, at_once: int, episodes: int) -> float:
        """Microseconds of CPU time of a turn."""
        server = PretendedServer(self.answer(name, tokens))
        gc.collect()
        started = time.process_time()
        await self.run(name, server, at_once, episodes)
        return (time.process_time() - started) / (episodes * self.turns(name)) * 1e6

    async def cpu_medians(self, tokens: int, at_once: int, episodes: int, rounds: int) -> dict[str, float]:
        """`cpu_us` of each loop, in turns: the median of the rounds."""
        times: dict[str, list[float]] = {name: [] for name in LOOPS}
        for _ in range(rounds):
            for name in LOOPS:
                times[name].append(await self.cpu_us(name, tokens, at_once, episodes))
        return {name: statistics.median(values) for name, values in times.items()}

    async def lateness_ms(
        self, name: str, tokens: int, at_once: int, latency_s: tuple[float, float]
    ) -> dict[str, float]:
        """How late the event loop calls a timer, while ``at_once`` episodes are under way."""
        stalls: list[tuple[float, float]] = []  # when the timer was due, and when it was called
        asked: set[str] = set()
        begun, ended = asyncio.Event(), asyncio.Event()
        all_asked_at = float("inf")

        def on_request(request_id: str) -> None:
            nonlocal all_asked_at
            asked.add(request_id)
            if len(asked) == at_once and all_asked_at == float("inf"):
                all_asked_at = time.perf_counter()

        async def probe() -> None:
            begun.set()
            while not ended.is_set():
                due = time.perf_counter() + PROBE_S
                await asyncio.sleep(PROBE_S)
                stalls.append((due, time.perf_counter()))

        gc.unfreeze()  # each loop in the heap of its own worker process
        freeze_heap() if name in OWN else gc.collect()
        server = PretendedServer(self.answer(name, tokens), latency_s=latency_s, on_request=on_request)
        with CollectorClock() as collector:
            watching = asyncio.create_task(probe())
            await begun.wait()
            started = time.perf_counter()
            await self.run(name, server, at_once, at_once)
            seconds = time.perf_counter() - started
            ended.set()
            await watching
        found, longest = lateness(stalls, all_asked_at)
        return {
            **{name: seconds_late * 1e3 for name, seconds_late in found.items()},
            "collector_in_max": collector.within_ms(*longest), "collector_longest": collector.longest_ms(),
            "seconds": seconds,
        }  # fmt: skip

    async def bytes_per_episode(self, name: str, tokens: int, at_once: int) -> dict[str, float]:
        """Bytes for each of ``at_once`` episodes: held while all wait for their last turn's answer, and at the peak."""
        everyone, released = asyncio.Event(), asyncio.Event()
        num_requests: Counter[str] = Counter()

        async def barrier(request_id: str) -> None:
            num_requests[request_id] += 1
            if num_requests[request_id] == self.turns(name):
                if num_requests.total() == at_once * self.turns(name):
                    everyone.set()
                await released.wait()

        answer = self.answer(name, tokens)
        await self.run(name, PretendedServer(answer), 1, 1)
        gc.collect()
        tracemalloc.start()
        server = PretendedServer(answer, barrier=barrier)
        running = asyncio.create_task(self.run(name, server, at_once, at_once))
        waiting = asyncio.create_task(everyone.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():  # without the barrier: its error
            await running
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        released.set()
        await running
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return {"held": held / at_once, "peak": peak / at_once}


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures; printed as they come."""
    bench = Bench()
    for name in LOOPS:  # what the first episode of a process loads and caches
        await bench.cpu_us(name, args.tokens, 1, 8)
    figures: dict[str, Any] = {"tokens": args.tokens}
    ratios = "microseconds, and its ratio to this package's attempt"
    print(f"CPU time of a turn of {args.tokens} tokens by episodes at a time, {ratios}")
    header("at a time")
    figures["cpu_us_per_turn"] = {
        at_once: cpu_row(
            at_once, await bench.cpu_medians(args.tokens, at_once, max(at_once, args.episodes), args.rounds)
        )
        for at_once in args.at_once
    }
    print(f"\nCPU time of a turn by its tokens, 64 episodes at a time, {ratios}")
    header("tokens")
    figures["cpu_us_by_tokens"] = {
        tokens: cpu_row(tokens, await bench.cpu_medians(tokens, 64, max(64, args.episodes // 4), args.rounds))
        for tokens in args.cpu_tokens
    }
    print("\nevent loop late, milliseconds: start | p50 p99 max once all are under way (of max: in the collector); "
          f"answers after {args.latency[0]} to {args.latency[1]} s")  # fmt: skip
    header("at a time", width=34)
    figures["late_ms"] = {}
    for at_once in args.at_once:
        late = {name: await bench.lateness_ms(name, args.tokens, at_once, tuple(args.latency)) for name in LOOPS}
        figures["late_ms"][at_once] = late
        print(f"{at_once:>10,}" + "".join(late_cell(values) for values in late.values()), flush=True)
    pauses = ", ".join(
        f"{name} {max(late[name]['collector_longest'] for late in figures['late_ms'].values()):.0f}" for name in LOOPS
    )
    print(f"longest pause of the garbage collector in these, milliseconds: {pauses}")

    print(f"\nmemory of an open episode, kB: held before its last answer, and at its peak; {args.memory_episodes} at a "
          f"time by an attempt's tokens, then with {args.tokens} tokens by episodes at a time")  # fmt: skip
    header("tokens")
    figures["bytes_by_tokens"] = {}
    for tokens in args.memory_tokens:
        used = {name: await bench.bytes_per_episode(name, tokens, args.memory_episodes) for name in LOOPS}
        figures["bytes_by_tokens"][tokens] = used
        memory_row(tokens, used)
    header("at a time")
    figures["bytes_by_episodes"] = {}
    for at_once in args.at_once:
        used = {name: await bench.bytes_per_episode(name, args.tokens, at_once) for name in LOOPS}
        figures["bytes_by_episodes"][at_once] = used
        memory_row(at_once, used)
    figures["goals"] = goals(figures)
    return figures


def header(first: str, width: int = 22) -> None:
    """The line with the loops' names."""
    print(f"{first:>10}" + "".join(f"{name:>{width}}" for name in LOOPS))


def cpu_row(first: int, medians: dict[str, float]) -> dict[str, float]:
    """Print a line; returns ``medians``."""
    own = medians["multiattempt"]
    print(
        f"{first:>10,}" + "".join(f"{medians[name]:>14.0f} {medians[name] / own:>6.2f}x" for name in LOOPS), flush=True
    )
    return medians


def memory_row(first: int, used: dict[str, dict[str, float]]) -> None:
    """Print a line."""
    cells = (f"{one['held'] / 1e3:>13.1f} {one['peak'] / 1e3:>8.1f}" for one in used.values())
    print(f"{first:>10,}" + "".join(cells), flush=True)


def late_cell(late: dict[str, float]) -> str:
    in_collector = f"({late['collector_in_max']:.0f})"
    return f"{late['start']:>9.0f} |{late['p50']:>5.1f}{late['p99']:>7.1f}{late['max']:>6.0f}{in_collector:>6}"


def goals(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Print whether each goal is met; returns them."""

    def own(table: str) -> dict[int, Any]:
        return {size: row["multiattempt"] for size, row in figures[table].items()}

    cpu, by_tokens = own("cpu_us_per_turn"), own("cpu_us_by_tokens")
    memory = {tokens: used["peak"] for tokens, used in own("bytes_by_tokens").items()}
    ratio = max(row["multiattempt"] / row["tool"] for row in figures["cpu_us_per_turn"].values())
    found = [("an attempt's CPU time : that of ToolAgentLoop's turn, the worst", ratio, 1.0)]
    at = max((size for size in figures["late_ms"] if size <= STALL_GOAL_AT), default=min(figures["late_ms"]))
    found.append((f"p99 stall at {at:,} episodes, ms", figures["late_ms"][at]["multiattempt"]["p99"], STALL_GOAL_MS))
    if len(cpu) > 1:
        *fewer, most = sorted(cpu)
        base = 64 if 64 in fewer else fewer[-1]
        text = f"time linear in episodes: an attempt at {most:,} : at {base:,} at a time"
        found.append((text, cpu[most] / cpu[base], LINEAR))
    for text, table in (("CPU time linear in tokens", by_tokens), ("peak memory linear in tokens", memory)):
        if len(table) > 2:
            first, *_, before, most = sorted(table)
            text = f"{text}: a further token to {most:,} : to {before:,}"
            found.append((text, slope(table, before, most) / slope(table, first, before), LINEAR))
    print(f"\n{'goal':<70}{'got':>8}{'at most':>9}")
    for text, got, limit in found:
        print(f"{text:<70}{got:>8.2f}{limit:>9.2f}   {'met' if got <= limit else 'NOT MET'}")
    return [{"goal": text, "got": got, "at_most": limit, "met": got <= limit} for text, got, limit in found]


def slope(table: dict[int, float], start: int, end: int) -> float:
    """What a further token adds between two sizes."""
    return (table[end] - table[start]) / (end - start)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 64, 1024, 4096], help="episodes at a time")
    parser.add_argument("--episodes", type=int, default=512, help="episodes of a round, at least")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=256, help="of an attempt")
    parser.add_argument("--cpu-tokens", type=int, nargs="+", default=[64, 256, 1024, 4096], help="of an attempt")
    parser.add_argument("--latency", type=float, nargs=2, default=(0.5, 2.0), metavar=("FROM", "TO"), help="seconds")
    parser.add_argument("--memory-tokens", type=int, nargs="+", default=[64, 256, 1024], help="of an attempt")
    parser.add_argument("--memory-episodes", type=int, default=32)
    parser.add_argument("--quick", action="store_true", help="1, 64 and 256 at a time, one round")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args(argv)
    if args.quick:
        args.at_once, args.episodes, args.rounds = [1, 64, 256], 128, 1
    logging.disable(logging.WARNING)
    figures = asyncio.run(measure(args))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
