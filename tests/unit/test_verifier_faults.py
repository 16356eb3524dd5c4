r"""``MathVerifier`` while its processes are killed and stopped at random: every verdict is accounted for."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

import pytest

from tests.unit.test_verifier_pool import kill_at_random, new_processes, processes, until
from verl_multiattempt.math_verifier import MathVerifier
from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Outcome, Question, Verdict

pytestmark = pytest.mark.filterwarnings("error")

NUM_ANSWERS = 10_000
TIME_LIMIT_S = 40.0
LONG = "Let us see. " * 2_000
"""Longer than what is searched for a box on the event loop."""

Kind = tuple[float, str, str, Outcome | None]
# share, attempt, gold (both for a number k), outcome without a fault; None: any but CORRECT
KINDS: dict[str, Kind] = {
    "right": (0.49, r"\boxed{{{k}}}", "{k}", Outcome.CORRECT),
    "wrong": (0.334, r"\boxed{{{k}1}}", "{k}", Outcome.INCORRECT),
    "no box": (0.10, "It is {k}.", "{k}", Outcome.NO_ANSWER),
    "right, to compute": (0.03, r"\boxed{{(x+{k})^2}}", "x^2+2*{k}x+{k}^2", Outcome.CORRECT),
    "wrong, to compute": (0.02, r"\boxed{{(x+{k})^2}}", "x^2+2*{k}x+{k}^2+1", Outcome.INCORRECT),
    "right, long": (0.01, LONG + r"\boxed{{{k}}}", "{k}", Outcome.CORRECT),
    "no box, long": (0.01, LONG, "{k}", Outcome.NO_ANSWER),
    "hostile power": (0.002, r"\boxed{{9^{{9^{{9^{{9^{k}}}}}}}}}", "5", None),
    "hostile depth": (0.002, r"\boxed{{" + "(" * 3_000 + "{k}" + ")" * 3_000 + "+x}}", "x", None),
    "hostile integral": (0.002, r"\boxed{{\int_0^1 e^{{x^{k}}}\sin(x^{{x}})dx}}", r"\sqrt{{2}}", None),
}
FAULTS = {"timeout": Outcome.TIMEOUT, "died": Outcome.ERROR, "memory": Outcome.ERROR, "error": Outcome.ERROR}


async def test_10_000_answers_while_workers_are_killed_are_all_accounted_for() -> None:
    chance = random.Random(1)
    kinds = chance.choices(list(KINDS), [kind[0] for kind in KINDS.values()], k=NUM_ANSWERS)
    before = processes()
    verifier = MathVerifier(VerifierSettings(num_workers=2, timeout_s=1.0, memory_limit_mb=512, recycle_after=50))

    async def verify(kind: str, number: int) -> Verdict:
        _, text, gold, _ = KINDS[kind]
        return await verifier.verify(text.format(k=number), Question(ground_truth=gold.format(k=number)))

    await verify("right, to compute", 2)
    await until(lambda: verifier.pool.num_ready == 2)
    started = time.monotonic()
    done = asyncio.Event()
    killer = asyncio.create_task(kill_at_random(verifier.pool, chance, done, 0.6))
    verdicts = await asyncio.gather(*(verify(kind, k % 90 + 3) for k, kind in enumerate(kinds)))
    done.set()
    kills = await killer
    assert time.monotonic() - started < TIME_LIMIT_S

    faults: Counter[str] = Counter(verdict.fault for verdict in verdicts if verdict.fault is not None)
    for kind, verdict in zip(kinds, verdicts, strict=True):
        expected = KINDS[kind][3]
        if verdict.fault is not None:
            assert verdict.outcome is FAULTS[verdict.fault], (kind, verdict)
            assert verdict.detail, (kind, verdict)
            assert kind not in ("right", "wrong", "no box"), (kind, verdict)  # decided without a worker
        elif expected is None:
            assert verdict.outcome in (Outcome.INCORRECT, Outcome.NO_ANSWER), (kind, verdict)
        else:
            assert verdict.outcome is expected, (kind, verdict)
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    assert sum(outcomes.values()) == len(verdicts) == NUM_ANSWERS
    assert outcomes[Outcome.TIMEOUT] == faults["timeout"]
    assert outcomes[Outcome.ERROR] == faults["died"] + faults["memory"] + faults["error"]
    stats = verifier.pool.stats
    assert (stats.timeouts, stats.deaths) == (faults["timeout"], faults["died"])
    assert (stats.over_memory, stats.errors) == (faults["memory"], faults["error"])
    assert stats.calls > 0.05 * NUM_ANSWERS  # the workers had something to do
    assert faults["died"] > 0
    assert faults.total() < 0.02 * NUM_ANSWERS
    assert min(kills["SIGKILL"], kills["SIGSTOP"], kills["server"]) >= 1, kills

    await asyncio.sleep(0.2)  # the killer may have struck a moment ago
    await until(lambda: verifier.pool.num_ready == 2)
    late = [await verify("right, to compute", k) for k in range(2, 12)]
    assert {verdict.outcome for verdict in late} <= {Outcome.CORRECT, Outcome.TIMEOUT}  # 1 s may be short for one
    assert Outcome.CORRECT in {verdict.outcome for verdict in late}
    await verifier.close()
    assert not new_processes(before)
