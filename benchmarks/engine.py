"""What the agent loop costs beside the engine: rollouts on a real vLLM engine against the same requests bare.

    python benchmarks/engine.py                 # a model of 31M parameters, 128 episodes at once, 6 repeats
    python benchmarks/engine.py --tiny          # the tiny example's of 0.6M
    python benchmarks/engine.py --quick --out engine.json

vLLM runs on the CPU stack (or on an accelerator, where there is one). `MultiAttemptAgentLoop` is made and run as verl's
worker does it, for all episodes at once; the server that it asks is in this process and passes verl's sampling
parameters to vLLM's `AsyncLLM`, without Ray. Then the engine gets the requests that the episodes made once more, bare
(`engine_replay.py`), twice: all at once, as no episodes can ask, and each attempt when the one before it has ended. The
three take turns in going first. Two figures:

- tokens/s of the agent loop by those of the raw engine both ways (goal: at least 0.95), and the same of CPU time;
- prefix-cache hits of attempts 2 and later, as vLLM reports them with each request: of the tokens that the engine has
  computed in the attempt before, how many it takes from its cache (goal: at least 0.95 of those in whole blocks). Their
  sum with that of the first attempts has to be what vLLM's own counter of the scheduler says.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from engine_replay import (
    RAW,
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
from in_process import Bench, Limits, metric_value

from verl_multiattempt.evaluation.vllm_engine import VllmEngine
from verl_multiattempt.settings import Settings

LIMITS = Limits(attempts=5, tokens_per_attempt=128, response_length=5 * (128 + 32), max_model_len=1024)


async def roll_out(bench: Bench, recorder: Recorder, episodes: int, repeat: int) -> tuple[list[Request], float]:
    """The requests of a rollout, and seconds from the first of them to the end."""
    recorder.requests = []
    await recorder.llm.reset_prefix_cache()
    trained = await bench.run(episodes, repeat)
    seconds = time.perf_counter() - recorder.first_at
    if trained != num_sampled(recorder.requests):
        sys.exit(f"the loop must keep what was sampled, {num_sampled(recorder.requests)} tokens; got {trained}")
    return recorder.requests, seconds


async def measure(model: Path, data: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Tokens/s of the agent loop and of the raw engine, in turns."""
    engine = VllmEngine(
        str(model), Settings(), max_model_len=LIMITS.max_model_len,
        engine_args={"max_num_seqs": args.max_num_seqs, "disable_log_stats": False},
    )  # fmt: skip
    await engine.start()
    config, pids = engine._llm.vllm_config, engine.process_ids()
    bench = Bench(engine, data, LIMITS)
    turns: list[dict[str, Any]] = []
    rates: dict[str, Any] = {}
    try:
        await bench.start_verifier()
        recorder = Recorder(engine._llm, lambda request_id: request_id.partition("#")[0])
        requests, _ = await roll_out(bench, recorder, 2 * args.max_num_seqs, args.repeats)
        for repeat in range(args.repeats):
            turn: dict[str, Any] = {}
            # Each goes first in turn; a replay that comes before the rollout is of the repeat before.
            kinds = ("agent loop", *RAW)
            for kind in (*kinds[repeat % 3 :], *kinds[: repeat % 3]):
                cpu, counted = CpuTime(pids), metric_value("prefix_cache_hits")
                if kind in RAW:
                    seconds, answered = await recorder.replay(requests, in_order=kind == "raw in order")
                else:
                    requests, seconds = await roll_out(bench, recorder, args.episodes, repeat)
                    answered = requests
                turn[kind] = cpu.per_token(num_sampled(answered), seconds)
                cached, counted = (
                    sum(request.num_cached for request in answered),
                    metric_value("prefix_cache_hits") - counted,
                )
                if cached != counted:
                    sys.exit(
                        f"{kind}: the requests' cached tokens must add up to vLLM's counter, {counted}; got {cached}"
                    )
                rates[kind] = {**hit_rate(answered, config.cache_config.block_size).to_json(), "vllm_counter": counted}
            turn["load_average"] = machine()["load_average"]
            turns.append(turn)
            show(turn)
    finally:
        await engine.close()
        await bench.close()
    return {
        "episodes": args.episodes, "max_num_seqs": args.max_num_seqs, "requests": len(requests),
        "block_size": config.cache_config.block_size, "repeats": turns, "prefix_cache": rates,
        "ratio": {raw: statistics.median(rate_ratio(turn, raw) for turn in turns) for raw in RAW},
        "cpu_ratio": {raw: statistics.median(cpu_ratio(turn, raw) for turn in turns) for raw in RAW},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--episodes", type=int, default=128, help="episodes at once (default 128)")
    parser.add_argument("--max-num-seqs", type=int, default=16, help="the engine's largest batch (default 16)")
    parser.add_argument("--repeats", type=int, default=6, help="turns that are timed, after a warm-up (default 6)")
    parser.add_argument("--tiny", action="store_true", help="the tiny example's model of 0.6M parameters")
    parser.add_argument("--quick", action="store_true", help="48 episodes, 1 repeat")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args()
    if args.quick:
        args.episodes, args.repeats = 48, 1
    os.environ.setdefault("OMP_NUM_THREADS", str(engine_threads()))
    for name in ("episodes", "repeats", "max_num_seqs"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1; got {getattr(args, name)}")
    logging.disable(logging.WARNING)

    figures: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model"
        figures["parameters"] = make_tiny(Path(name)) if args.tiny else make_model(model)
        data = make_questions(
            Path(name) / "questions.parquet", max(args.episodes, 2 * args.max_num_seqs), short=args.tiny
        )
        figures.update(asyncio.run(measure(model, data, args)))
    hits, replayed = (figures["prefix_cache"][kind] for kind in ("agent loop", "raw"))
    for raw, words in zip(RAW, ("all at once", "each attempt after the one before it"), strict=True):
        print(f"agent loop / raw engine, {words}: {figures['ratio'][raw]:.3f}   (goal: at least 0.95); by CPU time "
              f"{figures['cpu_ratio'][raw]:.3f}")  # fmt: skip
    print(f"prefix-cache hits of attempts 2 and later: {hits['of_known']:.3f} of the tokens known, "
          f"{hits['of_known_in_whole_blocks']:.3f} of those in whole blocks   (goal: at least 0.95); of the requests "
          f"replayed {replayed['of_known_in_whole_blocks']:.3f}")  # fmt: skip
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
