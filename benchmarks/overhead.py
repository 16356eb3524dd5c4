"""What an episode costs besides the model: the package's agent loop beside verl's own, on a server that only pretends.

    python benchmarks/overhead.py                     # 1, 64, 1,024 and 4,096 episodes at a time
    python benchmarks/overhead.py --quick --out overhead.json

The server answers with `--tokens` tokens of a wrong answer (or a tool call) and no model runs; everything else is what
runs in training: verl's loop classes, chat template, verifier. Three loops in turns in one process: this package's with
5 attempts, verl's ToolAgentLoop with 5 assistant turns, verl's SingleTurnAgentLoop with its one. Four figures:

- CPU time of a turn, where the server answers at once (median of rounds; an attempt is a turn);
- the same by number of tokens, and by episodes at a time (is it linear?);
- how late the event loop is, where answers come after 0.5 to 2 s as from an engine: looked at every millisecond;
- memory of an open episode, before its last attempt, by tracemalloc.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# First, so that verl finds its platform.
import verl  # noqa: F401
from omegaconf import open_dict
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.experimental.agent_loop.tool_agent_loop import ToolAgentLoop
from verl.tools.base_tool import BaseTool
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

from verl_multiattempt.adapters.agent_loop import MultiAttemptAgentLoop
from verl_multiattempt.adapters.compose import compose_training_config

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "tiny_math"))
from make import make_tokenizer

TURNS = 5
WRONG = "so the answer is \\boxed{7}"
CALL = '<tool_call>{"name": "check", "arguments": {"answer": "7"}}</tool_call>'
FEEDBACK = "Your answer is incorrect. You have 3 attempts left."
LOOPS = ("multiattempt", "tool", "single")
PROBE_S = 0.001


@dataclass
class PretendedServer:
    """Answers every request with the same tokens."""

    ids: list[int]
    latency_s: tuple[float, float] | None = None
    """Answers come after a time drawn from this range; None: at once."""
    barrier: Callable[[str], Any] | None = None
    """Awaited with the episode's request id before each answer."""
    seed: int = 0

    def __post_init__(self) -> None:
        self.logprobs = [-0.5] * len(self.ids)
        self.random = random.Random(self.seed)

    async def generate(self, request_id: str, *, prompt_ids: Sequence[int], **_: Any) -> TokenOutput:
        """Verl's interface of a rollout server."""
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


class Bench:
    """The three loops over one configuration.

    Args:
        tokens: of one answer of the pretended model.
    """

    def __init__(self, tokens: int):
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
        self.tool = make_tool()
        self.answers = {name: self._answer(name, tokens) for name in LOOPS}
        self.context = {
            name: DictConfigWrap(node) for name, node in (("trainer", self.config), ("data", self.config.data))
        }

    def _answer(self, name: str, tokens: int) -> list[int]:
        end = self.tokenizer.encode((CALL if name == "tool" else WRONG) + self.tokenizer.eos_token,
                                    add_special_tokens=False)  # fmt: skip
        words = self.tokenizer.encode("compute the question is incorrect ", add_special_tokens=False)
        return [*(words * tokens)[: max(0, tokens - len(end))], *end]

    def turns(self, name: str) -> int:
        """Turns of the model in an episode."""
        return 1 if name == "single" else TURNS

    def episode(self, name: str, server: PretendedServer, number: int) -> Any:
        """The coroutine of one episode, its loop made anew as verl does."""
        arguments = {
            "trainer_config": self.context["trainer"], "server_manager": server, "tokenizer": self.tokenizer,
            "processor": None, "dataset_cls": RLHFDataset, "data_config": self.context["data"],
            "hf_model_type": "qwen2",
        }  # fmt: skip
        classes = {"multiattempt": MultiAttemptAgentLoop, "tool": ToolAgentLoop, "single": SingleTurnAgentLoop}
        loop = classes[name](**arguments, tools=ToolListWrap([self.tool]))
        row = {
            "raw_prompt": [{"role": "user", "content": f"Compute {100 + number % 900}*345 mod 6 = ?"}],
            "data_source": "bench", "reward_model": {"ground_truth": "3"}, "extra_info": {"index": number},
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

    async def cpu_us(self, name: str, at_once: int, episodes: int) -> float:
        """Microseconds of CPU time of a turn."""
        server = PretendedServer(self.answers[name])
        gc.collect()
        started = time.process_time()
        await self.run(name, server, at_once, episodes)
        return (time.process_time() - started) / (episodes * self.turns(name)) * 1e6

    async def lateness_ms(self, name: str, at_once: int, latency_s: tuple[float, float]) -> dict[str, float]:
        """How late the event loop calls a timer, while ``at_once`` episodes are under way."""
        late: list[float] = []
        ended = asyncio.Event()

        async def probe() -> None:
            while not ended.is_set():
                started = time.perf_counter()
                await asyncio.sleep(PROBE_S)
                late.append((time.perf_counter() - started - PROBE_S) * 1e3)

        watching = asyncio.create_task(probe())
        started = time.perf_counter()
        await self.run(name, PretendedServer(self.answers[name], latency_s=latency_s), at_once, at_once)
        seconds = time.perf_counter() - started
        ended.set()
        await watching
        return {
            "p50": statistics.median(late), "p99": statistics.quantiles(late, n=100)[98], "max": max(late),
            "seconds": seconds,
        }  # fmt: skip

    async def bytes_per_episode(self, name: str, at_once: int) -> float:
        """Bytes held for each of ``at_once`` episodes, all of which wait for their last turn's answer."""
        everyone, released = asyncio.Event(), asyncio.Event()
        num_requests: Counter[str] = Counter()

        async def barrier(request_id: str) -> None:
            num_requests[request_id] += 1
            if num_requests[request_id] == self.turns(name):
                if num_requests.total() == at_once * self.turns(name):
                    everyone.set()
                await released.wait()

        await self.run(name, PretendedServer(self.answers[name]), 1, 1)
        gc.collect()
        tracemalloc.start()
        server = PretendedServer(self.answers[name], barrier=barrier)
        running = asyncio.create_task(self.run(name, server, at_once, at_once))
        waiting = asyncio.create_task(everyone.wait())
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():  # without the barrier: its error
            await running
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        released.set()
        await running
        return held / at_once


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures; printed as they come."""
    figures: dict[str, Any] = {"tokens": args.tokens, "cpu_us_per_turn": {}, "late_ms": {}, "bytes_per_episode": {}}
    bench = Bench(args.tokens)
    for name in LOOPS:  # what the first episode of a process loads and caches
        await bench.cpu_us(name, 1, 8)
    print(f"CPU time of a turn of {args.tokens} tokens, microseconds, and its ratio to this package's attempt")
    print(f"{'at a time':>10}" + "".join(f"{name:>22}" for name in LOOPS))
    for at_once in args.at_once:
        episodes = max(at_once, args.episodes)
        rounds: dict[str, list[float]] = {name: [] for name in LOOPS}
        for _ in range(args.rounds):
            for name in LOOPS:
                rounds[name].append(await bench.cpu_us(name, at_once, episodes))
        medians = {name: statistics.median(values) for name, values in rounds.items()}
        figures["cpu_us_per_turn"][at_once] = medians
        own = medians["multiattempt"]
        print(
            f"{at_once:>10,}" + "".join(f"{medians[name]:>14.0f} {medians[name] / own:>6.2f}x" for name in LOOPS),
            flush=True,
        )

    print(
        f"\n{'':>10}event loop late, milliseconds (p50, p99, max); "
        f"answers after {args.latency[0]} to {args.latency[1]} s"
    )
    for at_once in args.at_once:
        late = {name: await bench.lateness_ms(name, at_once, tuple(args.latency)) for name in LOOPS}
        figures["late_ms"][at_once] = late
        print(
            f"{at_once:>10,}" + "".join(f"{v['p50']:>8.1f} {v['p99']:>6.1f} {v['max']:>6.0f}" for v in late.values()),
            flush=True,
        )

    print("\nmemory of an open episode before its last answer, kB, and bytes a token of its model")
    print(f"{'tokens':>10}" + "".join(f"{name:>22}" for name in LOOPS))
    for tokens in args.memory_tokens:
        sized = Bench(tokens)
        held = {name: await sized.bytes_per_episode(name, args.memory_episodes) for name in LOOPS}
        figures["bytes_per_episode"][tokens] = held
        cells = (f"{held[n] / 1e3:>14.1f} {held[n] / (tokens * max(1, sized.turns(n) - 1)):>7.1f}" for n in LOOPS)
        print(f"{tokens:>10,}" + "".join(cells), flush=True)
    return figures


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--at-once", type=int, nargs="+", default=[1, 64, 1024, 4096], help="episodes at a time")
    parser.add_argument("--episodes", type=int, default=512, help="episodes of a round, at least")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=256, help="of an attempt")
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
