"""How full an evaluation keeps the engine, and what the nested protocol costs.

    python benchmarks/evaluate.py                 # 512 questions of up to 5 attempts, 4 repeats
    python benchmarks/evaluate.py --quick

One vLLM engine, in this process. An evaluation runs on it (`verl_multiattempt.evaluation.runner`: episodes, verifier,
log and all); its requests are written down and then given to the same engine again, all at once and bare: the same
prompts, and exactly as many tokens of each (ignore_eos). Both forget the prefix cache first, and take turns. The figure
is the ratio of tokens/s; goal: at least 0.95. The model is the tiny example's without training, sampled at
temperature 1: its answers have lengths that differ widely and are never right, so that every episode uses all its
attempts.

The second figure is greedy, with the example's warm-started model: sampled tokens of the nested protocol's one run
against the paper protocol's run of the largest k (goal: at most 1.05), and against all its runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl_multiattempt.evaluation.engine import Conversation, Sampling
from verl_multiattempt.evaluation.plan import plan_runs
from verl_multiattempt.evaluation.questions import Questions
from verl_multiattempt.evaluation.resume import RunLog
from verl_multiattempt.evaluation.runner import Runner
from verl_multiattempt.evaluation.settings import EvaluationSettings
from verl_multiattempt.evaluation.vllm_engine import VllmEngine
from verl_multiattempt.feedback import Message
from verl_multiattempt.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[1]
ATTEMPTS = (1, 2, 3, 4, 5)
TOKENS_PER_ATTEMPT = 128
MAX_OPEN = 64
"""Episodes open at once, and the engine's largest batch; few, so that the last episodes of an evaluation, when there is
nothing more to fill the batch with, count for little."""
MAX_TOKENS = len(ATTEMPTS) * (TOKENS_PER_ATTEMPT + 32)


@dataclass(slots=True)
class Request:
    """What an evaluation asked of the engine, and how much it got."""

    ids: list[int]
    num_tokens: int
    seed: int


@dataclass
class Started:
    """An engine that several runners share: they neither start nor end it."""

    engine: VllmEngine
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.feedback_role = self.engine.feedback_role
        self.opening_placement = self.engine.opening_placement
        self.max_open = self.engine.max_open
        sample = self.engine.sample

        async def recorded(ids: list[int], max_tokens: int, **request: Any) -> Any:
            sampled = await sample(ids, max_tokens, **request)
            self.requests.append(Request(ids, len(sampled.ids), request["seed"]))
            return sampled

        self.engine.sample = recorded  # type: ignore[method-assign]

    async def start(self, openings: Iterable[list[Message]] = (), *, max_tokens: int | None = None) -> None:
        """Nothing is to be done."""

    async def close(self) -> None:
        """Not yet."""

    def open(self, *, seed: int, request_id: str, sampling: Sampling) -> Conversation:
        return self.engine.open(seed=seed, request_id=request_id, sampling=sampling)

    def as_plain_text(self, text: str) -> str:
        return self.engine.as_plain_text(text)

    def describe(self) -> dict[str, Any]:
        return self.engine.describe()


async def evaluate(started: Started, settings: EvaluationSettings, data: Path, folder: Path) -> tuple[int, float]:
    """Run an evaluation; sampled tokens, and seconds from its first request to its end."""
    started.requests.clear()
    questions = Questions([data], settings.limit)
    folder.mkdir(parents=True)
    runner = Runner(settings, questions, [RunLog(folder, run, questions) for run in plan_runs(settings)], started)
    await started.engine._llm.reset_prefix_cache()
    began = time.perf_counter()
    await runner.run()
    seconds = time.perf_counter() - began
    if runner.num_failed or runner.num_left:
        sys.exit(f"{runner.num_failed} episodes failed; the last: {runner.last_failure}")
    return sum(request.num_tokens for request in started.requests), seconds


async def replay(started: Started, requests: list[Request], temperature: float) -> float:
    """Give the engine the same requests, bare; seconds."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    llm = started.engine._llm

    async def one(number: int, request: Request) -> None:
        params = SamplingParams(
            max_tokens=request.num_tokens, temperature=temperature, ignore_eos=True, detokenize=False,
            seed=request.seed if temperature > 0 else None, output_kind=RequestOutputKind.FINAL_ONLY,
        )  # fmt: skip
        async for output in llm.generate({"prompt_token_ids": request.ids}, params, f"raw-{number}-{time.time_ns()}"):
            if len(output.outputs[0].token_ids) != request.num_tokens:
                sys.exit(f"the raw engine gave {len(output.outputs[0].token_ids)} tokens for {request.num_tokens}")

    await llm.reset_prefix_cache()
    began = time.perf_counter()
    await asyncio.gather(*(one(number, request) for number, request in enumerate(requests)))
    return time.perf_counter() - began


def settings_for(model: Path, data: Path, *, protocols: tuple[str, ...], questions: int, temperature: float,
                 tokens_per_attempt: int) -> EvaluationSettings:  # fmt: skip
    return EvaluationSettings(
        model=str(model), data=(str(data),), protocols=protocols, attempts=ATTEMPTS, limit=questions,
        temperature=temperature, max_tokens=MAX_TOKENS, engine={"kind": "vllm"},
        task=Settings(max_tokens_per_attempt=tokens_per_attempt, min_tokens_per_attempt=1),
    )  # fmt: skip


async def throughput(folder: Path, made: Path, data: Path, questions: int, repeats: int) -> dict[str, Any]:
    """Tokens/s of the evaluation and of the raw engine, in turns."""
    settings = settings_for(made / "model", data, protocols=("nested",), questions=questions,
                            temperature=1.0, tokens_per_attempt=TOKENS_PER_ATTEMPT)  # fmt: skip
    started = Started(VllmEngine(settings.model, settings.task, max_model_len=1024, max_open=MAX_OPEN))
    await started.engine.start()
    pairs = []
    try:
        for repeat in range(repeats + 1):
            tokens, seconds = await evaluate(started, settings, data, folder / f"throughput-{repeat}")
            raw_seconds = await replay(started, list(started.requests), settings.temperature)
            if repeat:  # the first is a warm-up
                pairs.append((tokens / seconds, tokens / raw_seconds))
                print(f"evaluation {pairs[-1][0]:8,.0f} tokens/s   raw engine {pairs[-1][1]:8,.0f} tokens/s   "
                      f"ratio {pairs[-1][0] / pairs[-1][1]:.3f}", flush=True)  # fmt: skip
        requests = len(started.requests)
    finally:
        await started.engine.close()
    return {
        "questions": questions,
        "requests": requests,
        "sampled_tokens": tokens,
        "evaluation_tokens_per_s": [pair[0] for pair in pairs],
        "raw_tokens_per_s": [pair[1] for pair in pairs],
        "ratio": statistics.median(pair[0] / pair[1] for pair in pairs),
    }


async def protocol_tokens(folder: Path, warm: Path, data: Path, questions: int) -> dict[str, Any]:
    """Sampled tokens of the nested protocol and of the paper's."""
    model = warm / "model"
    sampled: dict[str, int] = {}
    started = None
    try:
        for protocol, attempts in [("nested", ATTEMPTS), *(("paper", (k,)) for k in ATTEMPTS)]:
            settings = EvaluationSettings(
                model=str(model), data=(str(data),), protocols=(protocol,), attempts=attempts, limit=questions,
                max_tokens=MAX_TOKENS, engine={"kind": "vllm"},
                task=Settings(max_tokens_per_attempt=8, min_tokens_per_attempt=8),
            )  # fmt: skip
            if started is None:
                started = Started(VllmEngine(str(model), settings.task, max_model_len=1024))
                await started.engine.start()
            name = f"{protocol}-{max(attempts)}"
            sampled[name], _ = await evaluate(started, settings, data, folder / name)
    finally:
        if started is not None:
            await started.engine.close()
    nested, largest = sampled[f"nested-{max(ATTEMPTS)}"], sampled[f"paper-{max(ATTEMPTS)}"]
    every = sum(tokens for name, tokens in sampled.items() if name.startswith("paper"))
    return {"sampled_tokens": sampled, "nested_to_largest": nested / largest, "nested_to_all": nested / every}


def make(folder: Path, steps: int) -> Path:
    """The tiny example with so many steps of warm start."""
    command = [sys.executable, str(REPOSITORY / "examples/tiny_math/make.py"), "--out", str(folder), "--seed", "1",
               "--steps", str(steps)]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder made by examples/tiny_math/make.py; default: made now")
    parser.add_argument("--questions", type=int, default=512, help="questions (default 512)")
    parser.add_argument(
        "--repeats", type=int, default=4, help="turns that are timed, after one that is not (default 4)"
    )
    parser.add_argument("--quick", action="store_true", help="256 questions, 1 repeat")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args()
    if args.quick:
        args.questions, args.repeats = 256, 1
    for name in ("questions", "repeats"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1; got {getattr(args, name)}")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        warm = args.data.resolve() if args.data else make(folder / "warm", 60)
        data = warm / "val.parquet"
        figures = {
            "throughput": asyncio.run(throughput(folder, make(folder / "untrained", 0), data, args.questions,
                                                 args.repeats)),
            "protocols": asyncio.run(protocol_tokens(folder, warm, data, args.questions)),
        }  # fmt: skip
    print(f"evaluation / raw engine: {figures['throughput']['ratio']:.3f}   (goal: at least 0.95)")
    print(
        f"nested / paper, k = {max(ATTEMPTS)}: {figures['protocols']['nested_to_largest']:.3f}   (goal: at most 1.05)"
    )
    print(f"nested / paper, all k: {figures['protocols']['nested_to_all']:.3f}")
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
