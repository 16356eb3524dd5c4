"""The ``math`` verifier against math-verify called in-process and against verl's math-verify path, in one run.

    python benchmarks/verifier.py                      # the cases of tests/verifier_cases.jsonl, 4 times over
    python benchmarks/verifier.py --data ../shared/data   # and the golds of math500, amc23, aime24, gsm8k
    python benchmarks/verifier.py --quick --out verifier.json

All three judge the same answers in the same order. Each is warm (workers started, sympy imported) before the clock
starts. Agreement is with the verdicts of the cases file, whose NO_ANSWER cases are left out.
"""

import argparse
import asyncio
import json
import logging
import random
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_multiattempt.math_verifier import MathVerifier
from verl_multiattempt.math_verifier.decide import decide_exactly, published_gold
from verl_multiattempt.math_verifier.rounding import Tolerance
from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Outcome, Question

REPOSITORY = Path(__file__).resolve().parents[1]
NUM_VERL_THREADS = 8
"""Callers of verl's path at once; its own pool has four processes."""


NUM_EPISODES = 256
"""Episodes open at once, each with one verification at a time."""


@dataclass(frozen=True)
class Case:
    """An answer and the gold it is judged by."""

    answer: str
    gold: str
    correct: bool | None
    """None where the file does not say: a gold of ``--data`` as answer to another question."""

    @property
    def text(self) -> str:
        return f"So the answer is \\boxed{{{self.answer}}}."


def cases_of_file(path: Path) -> list[Case]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        Case(row["answer"], str(row["gold"]), row["verdict"] == "CORRECT")
        for row in rows
        if "answer" in row and row["verdict"] != "NO_ANSWER"
    ]


def cases_of_golds(folder: Path, generator: random.Random) -> list[Case]:
    """Each gold as the answer to its own question, and to another one of its file."""
    cases = []
    for name in ("math500", "amc23", "aime24", "gsm8k_test"):
        rows = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        golds = [published_gold(row["answer"]) for row in rows]
        others = generator.sample(golds, len(golds))
        cases += [Case(gold, gold, True) for gold in golds]
        cases += [Case(other, gold, None) for gold, other in zip(golds, others, strict=True)]
    return cases


async def ours(cases: list[Case], num_workers: int) -> tuple[float, list[bool], float]:
    """Seconds, decisions, and the longest time for which the event loop was blocked, in seconds."""
    verifier = MathVerifier(VerifierSettings(num_workers=num_workers))
    await asyncio.gather(*[verifier.verify("\\boxed{x^2}", Question(ground_truth="2x")) for _ in range(50)])
    blocked = 0.0

    async def tick() -> None:
        nonlocal blocked
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            blocked = max(blocked, time.perf_counter() - before - 0.001)

    ticker = asyncio.create_task(tick())

    decisions = [False] * len(cases)
    numbered = iter(enumerate(cases))

    async def episode() -> None:
        """One of the episodes that are open at a time; each judges the next answer there is."""
        for number, case in numbered:
            await asyncio.sleep(0)  # as after a generation: other episodes run in between
            verdict = await verifier.verify(case.text, Question(ground_truth=case.gold))
            decisions[number] = verdict.outcome is Outcome.CORRECT

    started = time.perf_counter()
    await asyncio.gather(*[episode() for _ in range(NUM_EPISODES)])
    seconds = time.perf_counter() - started
    ticker.cancel()
    await verifier.close()
    return seconds, decisions, blocked


async def latencies(cases: list[Case], num_workers: int) -> tuple[list[float], list[float]]:
    """Milliseconds of single calls, one after the other: those of the exact path, and those of a worker."""
    verifier = MathVerifier(VerifierSettings(num_workers=num_workers))
    await verifier.verify("\\boxed{x^2}", Question(ground_truth="2x"))
    exact: list[float] = []
    worker: list[float] = []
    for case in cases:
        is_exact = decide_exactly(case.answer.strip(), case.gold.strip(), Tolerance()) is not None
        started = time.perf_counter()
        await verifier.verify(case.text, Question(ground_truth=case.gold))
        (exact if is_exact else worker).append(1e3 * (time.perf_counter() - started))
    await verifier.close()
    return exact, worker


def in_process(cases: list[Case]) -> tuple[float, list[bool]]:
    """math-verify as its documentation has it, the gold wrapped in ``$``."""
    from math_verify import parse, verify

    def decide(case: Case) -> bool:
        return bool(verify(parse(f"${case.gold}$"), parse(case.text)))

    return timed(lambda: [decide(case) for case in cases], warm_up=lambda: decide(cases[0]))


def verl_path(cases: list[Case]) -> tuple[float, list[bool]]:
    """``verl.utils.reward_score.math_verify.compute_score`` from threads, as verl's reward workers call it."""
    from verl.utils.reward_score.math_verify import compute_score

    def decide(case: Case) -> bool:
        return compute_score(case.text, case.gold) > 0

    with ThreadPoolExecutor(NUM_VERL_THREADS) as threads:
        return timed(
            lambda: list(threads.map(decide, cases)),
            warm_up=lambda: list(threads.map(decide, cases[:1] * 4 * NUM_VERL_THREADS)),
        )


def timed(work: Callable[[], list[bool]], warm_up: Callable[[], object]) -> tuple[float, list[bool]]:
    warm_up()
    started = time.perf_counter()
    decisions = work()
    return time.perf_counter() - started, decisions


def agreement(cases: list[Case], decisions: list[bool]) -> str:
    known = [(case, decision) for case, decision in zip(cases, decisions, strict=True) if case.correct is not None]
    right = sum(case.correct == decision for case, decision in known)
    accepted = sum(decision and not case.correct for case, decision in known)
    return f"{100 * right / len(known):5.1f} % ({accepted} wrong answers accepted)"


def percentile(values: list[float], share: float) -> float:
    return statistics.quantiles(values, n=1000, method="inclusive")[round(1000 * share) - 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, default=REPOSITORY / "tests" / "verifier_cases.jsonl")
    parser.add_argument(
        "--data", type=Path, help="folder with math500.jsonl, amc23.jsonl, aime24.jsonl, gsm8k_test.jsonl"
    )
    parser.add_argument("--repeat", type=int, default=4, help="times that the cases are judged (default: 4)")
    parser.add_argument("--workers", type=int, default=2, help="verifier processes (default: 2)")
    parser.add_argument("--quick", action="store_true", help="the cases once")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.repeat = 1
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)

    generator = random.Random(0)
    cases = cases_of_file(arguments.cases)
    if arguments.data:
        cases += cases_of_golds(arguments.data, generator)
    generator.shuffle(cases)
    mixed = cases * arguments.repeat

    seconds, decisions, blocked = asyncio.run(ours(mixed, arguments.workers))
    exact, worker = asyncio.run(latencies(cases, arguments.workers))
    rates = {f"math verifier, {arguments.workers} workers": (len(mixed) / seconds, decisions[: len(cases)])}
    for name, run in (("math-verify in-process", in_process), ("verl's math_verify", verl_path)):
        seconds, decisions = run(cases)
        rates[name] = (len(cases) / seconds, decisions)
    reference = next(iter(rates.values()))[0]

    print(f"{len(cases)} answers, Python {sys.version.split()[0]}")
    print(f"{'':28}{'answers/s':>10}{'ratio':>8}   agreement")
    figures: dict[str, Any] = {"answers": len(cases), "judged": len(mixed), "blocked_ms": 1e3 * blocked}
    for name, (rate, decisions) in rates.items():
        figures[name] = {"answers_per_s": rate, "ratio": reference / rate, "agreement": agreement(cases, decisions)}
        print(f"{name:28}{rate:10.0f}{reference / rate:7.1f}x   {agreement(cases, decisions)}")
    for name, values in (("exact path", exact), ("in a worker", worker)):
        share = len(values) / len(cases)
        p50, p99 = percentile(values, 0.5), percentile(values, 0.99)
        figures[name] = {"share": share, "p50_ms": p50, "p99_ms": p99}
        print(f"one call, {name} ({share:.0%}): p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    print(f"event loop blocked for at most {1e3 * blocked:.1f} ms while {len(mixed)} answers were judged")
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
