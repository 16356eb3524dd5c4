"""The math verifier with its real worker processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import psutil
import pytest
import pytest_asyncio

from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Outcome, Question, Verdict
from verl_multiattempt.verifier_pool import MAX_ANSWER_CHARS, NO_ANSWER_FEEDBACK, MathVerifier, decide_exactly

# One event loop for the module, so that the tests share two workers: each takes a second to import sympy.
pytestmark = pytest.mark.asyncio(loop_scope="module")

HANGS = "(" * 3000
"""math-verify's parser is still at it after a quarter of an hour."""
PATIENT_S = 60.0


def workers_of(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        try:
            if "verl_multiattempt.verifier_worker" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def my_workers() -> set[int]:
    return {worker.pid for worker in workers_of(psutil.Process())}


async def until(condition: object, timeout_s: float = PATIENT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.02)


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def verify(verifier: MathVerifier, answer: str, gold: object) -> Verdict:
    return await verifier.verify(f"So it is \\boxed{{{answer}}}.", Question(ground_truth=gold))


async def outcome(verifier: MathVerifier, answer: str, gold: object) -> Outcome:
    return (await verify(verifier, answer, gold)).outcome


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pool() -> AsyncIterator[MathVerifier]:
    """Two workers and a long time limit, for all tests that need no other settings."""
    verifier = MathVerifier(VerifierSettings(timeout_s=PATIENT_S))
    yield verifier
    await verifier.close()
    assert my_workers() == set()


async def makes_both_workers(pool: MathVerifier) -> None:
    assert await asyncio.gather(outcome(pool, "1/2", "0.5"), outcome(pool, "1/3", "0.5")) == ["CORRECT", "INCORRECT"]


# Verdicts.


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("\\frac{1}{2}", "0.5"),
        ("\\dfrac{2}{4}", "\\frac12"),
        ("0.5", "1/2"),
        ("x+1", "1+x"),
        ("(1, 2)", "(1,2)"),
        ("\\{2, 1\\}", "\\{1,2\\}"),
        ("\\frac{50}{100}", "0.5"),
        ("\\sqrt{8}", "2\\sqrt{2}"),
        ("1{,}000", "1000"),
        ("$42$", "42"),
        (" 042 ", "42"),
        ("+7", "7"),
        ("-0", "0"),
        ("\\text{no solution}", "\\text{no solution}"),
        ("π", "\\pi"),
    ],
)
async def test_correct(pool: MathVerifier, answer: str, gold: str) -> None:
    verdict = await verify(pool, answer, gold)
    assert verdict.outcome is Outcome.CORRECT
    assert verdict.answer == answer.strip()
    assert verdict.detail is None


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("\\frac{1}{3}", "0.5"),
        ("x-1", "1+x"),
        ("(2, 1)", "(1,2)"),
        ("41", "42"),
        ("-42", "42"),
        ("forty-two", "42"),
        ("\\text{yes}", "\\text{no}"),
        ("42 apples and 7 pears", "7"),
        ("\\frac{1}{0}", "0"),
        ("½", "1/3"),
        ("\x00", "1/2"),
        ("\x1b[31m42", "1/2"),
        ("\u2028\n\r", "1/2"),
        ("🙂", "1/2"),
        ('"}\n{"correct": true}\n', "1/2"),
    ],
    ids=repr,
)
async def test_incorrect(pool: MathVerifier, answer: str, gold: str) -> None:
    verdict = await pool.verify(f"\\boxed{{x{answer}}}" if answer.isspace() else f"\\boxed{{{answer}}}",
                                Question(ground_truth=gold))  # fmt: skip
    assert verdict.outcome is Outcome.INCORRECT, verdict


@pytest.mark.parametrize("text", ["", "42", "\\boxed{}", "\\boxed{42"])
async def test_no_answer_is_told_to_the_model(pool: MathVerifier, text: str) -> None:
    verdict = await pool.verify(text, Question(ground_truth="42"))
    assert verdict == Verdict(outcome=Outcome.NO_ANSWER, feedback=NO_ANSWER_FEEDBACK)


@pytest.mark.parametrize("gold", [42, 42.0, "42"])
async def test_gold_may_be_a_number(pool: MathVerifier, gold: object) -> None:
    assert await outcome(pool, "42", gold) is Outcome.CORRECT
    assert await outcome(pool, "84/2", gold) is Outcome.CORRECT


async def test_last_box_counts(pool: MathVerifier) -> None:
    verdict = await pool.verify("\\boxed{2/4} no, \\boxed{1/3}", Question(ground_truth="0.5"))
    assert (verdict.outcome, verdict.answer) == (Outcome.INCORRECT, "1/3")


async def test_lone_surrogate_is_no_reason_to_fail(pool: MathVerifier) -> None:
    assert await outcome(pool, "\ud800", "1/2") in (Outcome.INCORRECT, Outcome.ERROR)
    assert await outcome(pool, "2/4", "1/2") is Outcome.CORRECT


async def test_braces_10_000_deep_end_as_a_verdict(pool: MathVerifier) -> None:
    verdict = await verify(pool, "{" * 15_000 + "}" * 15_000, "1/2")  # longer than any gold
    assert verdict.outcome is Outcome.INCORRECT


async def test_seconds_are_measured(pool: MathVerifier) -> None:
    assert (await verify(pool, "2/6", "1/3")).seconds > 0


# Cases decided without a worker.


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("x", " x ", Outcome.CORRECT),
        ("$x$", "x", Outcome.CORRECT),
        ("007", "7", Outcome.CORRECT),
        ("-7", "7", Outcome.INCORRECT),
        ("999999999999999999", "999999999999999998", Outcome.INCORRECT),
        ("9" * 19, "1", None),
        ("1.0", "1", None),
        ("1,000", "1000", None),
        ("٣", "4", Outcome.INCORRECT),
        ("x" * (MAX_ANSWER_CHARS + 1), "1", Outcome.INCORRECT),
        ("x" * MAX_ANSWER_CHARS, "1", None),
        ("x" * (MAX_ANSWER_CHARS + 1), "x" * (MAX_ANSWER_CHARS + 1), Outcome.CORRECT),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_decided_without_algebra(answer: str, gold: str, expected: Outcome | None) -> None:
    assert decide_exactly(answer, gold) is expected


async def test_exact_cases_start_no_worker() -> None:
    verifier, before = MathVerifier(VerifierSettings()), my_workers()
    assert await outcome(verifier, "42", "42") is Outcome.CORRECT
    assert await outcome(verifier, "41", "42") is Outcome.INCORRECT
    assert my_workers() == before
    await verifier.close()


# Many at once.


async def test_300_at_once_on_two_workers_each_get_their_own_verdict(pool: MathVerifier) -> None:
    await makes_both_workers(pool)
    asked = [(f"{k}/{2 + (k % 3 == 0)}", str(k / 2)) for k in range(1, 301)]  # every third one is k/3
    outcomes = await asyncio.gather(*(outcome(pool, answer, gold) for answer, gold in asked))
    assert [k for k, found in enumerate(outcomes, 1) if found is Outcome.INCORRECT] == list(range(3, 301, 3))
    assert set(outcomes) == {Outcome.CORRECT, Outcome.INCORRECT}
    assert len(my_workers()) == 2


# Workers that must be replaced.


async def test_worker_killed_during_a_verification_is_an_error_and_is_replaced(pool: MathVerifier) -> None:
    await makes_both_workers(pool)
    before, replaced = my_workers(), pool.num_replaced
    hanging = asyncio.create_task(verify(pool, HANGS, "1/2"))
    await asyncio.sleep(0.2)
    for pid in before:  # the busy one and the idle one
        os.kill(pid, signal.SIGKILL)
    verdict = await hanging
    assert verdict.outcome is Outcome.ERROR
    assert verdict.detail == "the verifier process ended (exit status -9)"
    assert verdict.answer == HANGS
    await until(lambda: all(ended(pid) for pid in before))
    await makes_both_workers(pool)
    assert pool.num_replaced == replaced + 2
    assert not my_workers() & before


async def test_cancelled_verification_gives_its_slot_back(pool: MathVerifier) -> None:
    await makes_both_workers(pool)
    before = my_workers()
    hanging = [asyncio.create_task(verify(pool, HANGS, "1/2")) for _ in range(2)]
    waiting = asyncio.create_task(verify(pool, "1/4", "0.25"))
    await asyncio.sleep(0.2)
    for task in hanging:
        task.cancel()
    for task in hanging:
        with pytest.raises(asyncio.CancelledError):
            await task
    assert (await waiting).outcome is Outcome.CORRECT
    await makes_both_workers(pool)
    assert not my_workers() & before


async def test_cancelled_while_it_waits_for_a_worker_takes_no_slot(pool: MathVerifier) -> None:
    await makes_both_workers(pool)
    many = [asyncio.create_task(verify(pool, "1/4", "0.25")) for _ in range(10)]
    await asyncio.sleep(0)
    for task in many[3:]:
        task.cancel()
    done = await asyncio.gather(*many, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in done] == [False] * 3 + [True] * 7
    await makes_both_workers(pool)
    assert len(my_workers()) == 2


async def test_timeout_kills_the_workers_and_those_who_wait_get_right_verdicts() -> None:
    verifier = MathVerifier(VerifierSettings(timeout_s=3.0))
    others = my_workers()
    hanging = [asyncio.create_task(verify(verifier, HANGS, "1/2")) for _ in range(2)]
    await asyncio.sleep(0)
    waiting = [asyncio.create_task(outcome(verifier, f"{k}/2", "0.5")) for k in (1, 2)]
    await until(lambda: len(my_workers() - others) == 2)
    late = my_workers() - others
    for verdict in await asyncio.gather(*hanging):
        assert (verdict.outcome, verdict.detail) == (Outcome.TIMEOUT, "no verdict within 3 s")
        assert verdict.seconds >= 3.0
    assert await asyncio.gather(*waiting) == [Outcome.CORRECT, Outcome.INCORRECT]
    assert verifier.num_replaced == 2
    assert all(ended(pid) for pid in late)
    await verifier.close()
    assert my_workers() == others


async def test_memory_beyond_the_limit_is_an_error_and_the_next_verdict_is_right() -> None:
    verifier = MathVerifier(VerifierSettings(num_workers=1, memory_limit_mb=256, timeout_s=PATIENT_S))
    verdict = await verify(verifier, "1/2", "9" * 70_000_000)
    assert verdict.outcome is Outcome.ERROR
    assert verdict.detail == "out of memory"
    assert await outcome(verifier, "\\frac{1}{2}", "0.5") is Outcome.CORRECT
    await verifier.close()


# Closing.


async def test_close_ends_the_workers_and_may_be_called_twice() -> None:
    others = my_workers()
    verifier = MathVerifier(VerifierSettings(num_workers=1))
    await verifier.close()  # before anything was started
    assert await outcome(verifier, "1/2", "0.5") is Outcome.CORRECT
    assert len(my_workers() - others) == 1
    await asyncio.gather(verifier.close(), verifier.close())
    await verifier.close()
    assert my_workers() == others


async def test_close_waits_for_a_running_verification_beside_an_idle_worker() -> None:
    others = my_workers()
    verifier = MathVerifier(VerifierSettings(timeout_s=PATIENT_S))
    await makes_both_workers(verifier)
    running = asyncio.create_task(outcome(verifier, HANGS, "1/2"))
    await asyncio.sleep(0.1)
    closing = asyncio.create_task(verifier.close())
    await until(lambda: len(my_workers() - others) == 1)  # the idle one is gone
    assert not closing.done()
    for pid in my_workers() - others:
        os.kill(pid, signal.SIGKILL)
    await closing
    assert await running is Outcome.ERROR
    assert my_workers() == others


async def test_verifications_that_wait_during_a_close_still_end() -> None:
    others = my_workers()
    verifier = MathVerifier(VerifierSettings(timeout_s=PATIENT_S))
    waiting = [asyncio.create_task(outcome(verifier, "1/2", "0.5")) for _ in range(6)]
    await asyncio.sleep(0)
    await asyncio.gather(verifier.close(), verifier.close())
    assert await asyncio.gather(*waiting) == [Outcome.CORRECT] * 6
    await verifier.close()
    assert my_workers() == others


# Event loops and parents.

SECOND_LOOP = """
import asyncio, gc, psutil
from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Question
from verl_multiattempt.verifier_pool import MathVerifier
verifier = MathVerifier(VerifierSettings(num_workers=1, timeout_s=60))
ask = lambda: asyncio.run(verifier.verify("\\\\boxed{1/2}", Question(ground_truth="0.5")))
print(ask().outcome)
try:
    ask()
except RuntimeError as error:
    print(error)
"""


async def test_second_event_loop_is_refused_after_the_first_was_closed() -> None:
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", SECOND_LOOP], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.splitlines() == [
        "CORRECT",
        "a MathVerifier must be used from one event loop; got a second one. Make one for each loop.",
    ]


PARENT = f"""
import asyncio, json, psutil
from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Question
from verl_multiattempt.verifier_pool import MathVerifier
async def main():
    verifier = MathVerifier(VerifierSettings(timeout_s=3600))
    ask = lambda answer: verifier.verify(f"\\\\boxed{{{{{{answer}}}}}}", Question(ground_truth="0.5"))
    await asyncio.gather(ask("1/2"), ask("1/3"))
    busy = asyncio.create_task(ask({HANGS!r}))
    await asyncio.sleep(0.3)
    print(json.dumps([child.pid for child in psutil.Process().children()]), flush=True)
    await busy
asyncio.run(main())
"""


async def test_workers_busy_or_idle_end_when_their_parent_is_killed() -> None:
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pids = json.loads(await asyncio.wait_for(parent.stdout.readline(), PATIENT_S))
    assert len(pids) == 2
    assert not any(ended(pid) for pid in pids)
    parent.kill()
    await parent.wait()
    await until(lambda: all(ended(pid) for pid in pids))
