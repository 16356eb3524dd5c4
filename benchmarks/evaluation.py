"""How full an evaluation keeps the engine, and what the nested protocol costs.

    python benchmarks/evaluation.py                 # a model of 31M parameters, 384 questions, 4 repeats
    python benchmarks/evaluation.py --tiny          # the tiny example's of 0.6M
    python benchmarks/evaluation.py --quick

One vLLM engine, in this process. An evaluation runs on it (`verl_multiattempt.evaluation.runner`: episodes, verifier,
log and all); its requests are written down and then given to the same engine again, all at once and bare
(`engine_replay.py`): the same prompts, sampling parameters and largest batch, and exactly as many tokens of each. Both
forget the prefix cache first, the verifier's processes are up before, and the two take turns in going first. The figure
is the ratio of tokens/s, goal: at least 0.95; beside it the ratio of CPU time, by process, which other load on the
machine touches less. The model is without training, sampled at temperature 1: its answers have lengths that differ
widely and are never right, so that every episode uses all its attempts.

The second figure is greedy, with the tiny example's warm-started model: sampled tokens of the nested protocol's one run
against the paper protocol's run of the largest k (goal: at most 1.05), and against all its runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from engine_replay import (
    CpuTime,
    Recorder,
    Request,
    cpu_ratio,
    engine_threads,
    hit_rate,
    machine,
    make_model,
    make_questions,
    make_tiny,
    num_sampled,
    rate_ratio,
    show,
)

from verl_multiattempt.evaluation.plan import plan_runs
from verl_multiattempt.evaluation.questions import Questions
from verl_multiattempt.evaluation.resume import RunLog
from verl_multiattempt.evaluation.runner import Runner
from verl_multiattempt.evaluation.settings import EvaluationSettings
from verl_multiattempt.evaluation.vllm_engine import VllmEngine
from verl_multiattempt.settings import Settings
from verl_multiattempt.verifier import Question, Verifier, make_verifier

ATTEMPTS = (1, 2, 3, 4, 5)
TOKENS_PER_ATTEMPT = 128
MAX_OPEN = 20
"""Episodes open at once; few against the questions, so that the last episodes of an evaluation, when there is nothing
more to fill the batch with, count for little."""
MAX_TOKENS = len(ATTEMPTS) * (TOKENS_PER_ATTEMPT + 32)
MAX_MODEL_LEN = 1024


class Started:
    """An engine and a verifier that run, for several runners."""

    def __init__(self, engine: VllmEngine, verifier: Verifier):
        self.engine, self.verifier = engine, verifier
        self.recorder = Recorder(engine._llm, lambda request_id: request_id.partition("#")[0])

    @classmethod
    async def make(cls, settings: EvaluationSettings, **arguments: Any) -> Started:
        """Start both."""
        engine = VllmEngine(settings.model, settings.task, max_model_len=MAX_MODEL_LEN, **arguments)
        await engine.start()
        verifier = make_verifier(settings.task.verifier)
        # Not decided without a worker, so that all is loaded.
        await verifier.verify("\\boxed{\\frac{x+1}{3}}", Question(ground_truth="\\frac{2x-1}{6}"))
        return cls(engine, verifier)

    async def end(self) -> None:
        """End both."""
        await self.engine.close()
        await self.verifier.close()


async def evaluate(
    started: Started, settings: EvaluationSettings, data: Path, folder: Path
) -> tuple[list[Request], float]:
    """Run an evaluation; its requests, and the seconds from the first one to the end."""
    questions = Questions([data], settings.limit)
    folder.mkdir(parents=True)
    logs = [RunLog(folder, run, questions) for run in plan_runs(settings)]
    runner = Runner(settings, questions, logs, started.engine)
    recorder = started.recorder
    recorder.requests = []
    await started.engine._llm.reset_prefix_cache()
    await runner.run(started.verifier)
    seconds = time.perf_counter() - recorder.first_at
    if runner.num_failed or runner.num_left:
        sys.exit(f"{runner.num_failed} episodes failed; the last: {runner.last_failure}")
    return recorder.requests, seconds


def settings_for(model: Path, data: Path, **changes: Any) -> EvaluationSettings:
    task = Settings(**changes.pop("task", {"max_tokens_per_attempt": TOKENS_PER_ATTEMPT, "min_tokens_per_attempt": 1}))
    return EvaluationSettings(model=str(model), data=(str(data),), max_tokens=MAX_TOKENS, engine={"kind": "vllm"},
                              task=task, **{"attempts": ATTEMPTS, **changes})  # fmt: skip


async def throughput(folder: Path, model: Path, data: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Tokens/s of the evaluation and of the raw engine, in turns."""
    settings = settings_for(model, data, limit=args.questions, temperature=1.0)
    batch = {} if args.max_num_seqs is None else {"max_num_seqs": args.max_num_seqs}
    started = await Started.make(settings, max_open=args.max_open, engine_args=batch)
    config = started.engine._llm.vllm_config
    pids = started.engine.process_ids()
    turns: list[dict[str, Any]] = []
    rates: dict[str, Any] = {}
    try:
        warm = settings_for(model, data, limit=2 * args.max_open, temperature=1.0)
        await evaluate(started, warm, data, folder / "warm")
        requests: list[Request] = []
        for repeat in range(args.repeats):
            turn: dict[str, Any] = {}
            # In odd repeats the replay, of the requests of the repeat before, goes first.
            for kind in ("evaluation", "raw") if repeat % 2 == 0 else ("raw", "evaluation"):
                if kind == "evaluation":
                    cpu = CpuTime(pids)
                    requests, seconds = await evaluate(started, settings, data, folder / f"repeat-{repeat}")
                    answered = requests
                else:
                    cpu = CpuTime(pids)
                    seconds, answered = await started.recorder.replay(requests)
                rates[kind] = hit_rate(answered, config.cache_config.block_size).to_json()
                turn[kind] = cpu.per_token(num_sampled(answered), seconds)
            turn["load_average"] = machine()["load_average"]
            turns.append(turn)
            show(turn)
        seconds, _ = await started.recorder.replay(requests, logprobs=None)
        without = num_sampled(requests) / seconds
    finally:
        await started.end()
    return {
        "questions": args.questions,
        "max_open": args.max_open,
        "max_num_seqs": config.scheduler_config.max_num_seqs,
        "requests": len(requests),
        "repeats": turns,
        "raw_tokens_per_s_without_logprobs": without,
        "prefix_cache": rates,
        "ratio": statistics.median(map(rate_ratio, turns)),
        "cpu_ratio": statistics.median(map(cpu_ratio, turns)),
    }


async def protocol_tokens(folder: Path, model: Path, data: Path, questions: int) -> dict[str, Any]:
    """Sampled tokens of the nested protocol and of the paper's."""
    sampled: dict[str, int] = {}
    started = None
    try:
        for protocol, attempts in [("nested", ATTEMPTS), *(("paper", (k,)) for k in ATTEMPTS)]:
            settings = settings_for(model, data, protocols=(protocol,), attempts=attempts, limit=questions,
                                    task={"max_tokens_per_attempt": 8, "min_tokens_per_attempt": 8})  # fmt: skip
            if started is None:
                started = await Started.make(settings)
            name = f"{protocol}-{max(attempts)}"
            requests, _ = await evaluate(started, settings, data, folder / name)
            sampled[name] = num_sampled(requests)
    finally:
        if started is not None:
            await started.end()
    nested, largest = sampled[f"nested-{max(ATTEMPTS)}"], sampled[f"paper-{max(ATTEMPTS)}"]
    return {
        "questions": questions,
        "sampled_tokens": sampled,
        "nested_to_largest": nested / largest,
        "nested_to_all": nested / sum(count for name, count in sampled.items() if name.startswith("paper")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=384, help="questions (default 384)")
    parser.add_argument("--max-open", type=int, default=MAX_OPEN, help=f"episodes open at once (default {MAX_OPEN})")
    parser.add_argument("--max-num-seqs", type=int, help="the engine's largest batch (default: the package's choice)")
    parser.add_argument("--repeats", type=int, default=4, help="turns that are timed, after a warm-up (default 4)")
    parser.add_argument("--tiny", action="store_true", help="the tiny example's model of 0.6M parameters")
    parser.add_argument("--only", choices=("throughput", "protocols"), help="leave the other figure out")
    parser.add_argument("--quick", action="store_true", help="160 questions, 1 repeat")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args()
    if args.quick:
        args.questions, args.repeats = 160, 1
    os.environ.setdefault("OMP_NUM_THREADS", str(engine_threads()))
    for name in ("questions", "repeats", "max_open"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1; got {getattr(args, name)}")

    figures: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.only != "protocols":
            model, data = folder / "untrained/model", folder / "untrained/val.parquet"
            figures["parameters"] = make_tiny(folder / "untrained") if args.tiny else make_model(model)
            make_questions(data, max(args.questions, 2 * args.max_open), short=args.tiny)
            figures["throughput"] = asyncio.run(throughput(folder, model, data, args))
        if args.only != "throughput":
            make_tiny(folder / "warm", 60)
            figures["protocols"] = asyncio.run(
                protocol_tokens(folder, folder / "warm/model", folder / "warm/val.parquet", min(args.questions, 1000))
            )
    if "throughput" in figures:
        found = figures["throughput"]
        print(f"evaluation / raw engine: {found['ratio']:.3f}   (goal: at least 0.95); by CPU time "
              f"{found['cpu_ratio']:.3f}")  # fmt: skip
    if "protocols" in figures:
        found = figures["protocols"]
        print(f"nested / paper, k = {max(ATTEMPTS)}: {found['nested_to_largest']:.3f}   (goal: at most 1.05)")
        print(f"nested / paper, all k: {found['nested_to_all']:.3f}")
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
