"""``MathVerifier``: outcomes, golds as data sets give them, feedback on the format, faults of the pool."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy
import pytest
import pytest_asyncio

from verl_multiattempt.math_verifier import MathVerifier
from verl_multiattempt.math_verifier.verifier import _Turns
from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Outcome, Question, Verdict, verify_all


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def verifier() -> AsyncIterator[MathVerifier]:
    verifier = MathVerifier(VerifierSettings(num_workers=1, timeout_s=10))
    yield verifier
    await verifier.close()


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def verify(verifier: MathVerifier, text: str, gold: Any) -> Verdict:
    return await verifier.verify(text, Question(ground_truth=gold))


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        (r"It is \boxed{\frac{1}{2}}.", Outcome.CORRECT),
        (r"It is \boxed{0.5}.", Outcome.CORRECT),
        (r"It is \boxed{2}.", Outcome.INCORRECT),
        (r"First \boxed{\frac12}, no: \boxed{3}", Outcome.INCORRECT),
        ("It is 1/2.", Outcome.NO_ANSWER),
    ],
)
async def test_the_last_box_decides(verifier: MathVerifier, text: str, outcome: Outcome) -> None:
    assert (await verify(verifier, text, r"\frac{1}{2}")).outcome is outcome


@pytest.mark.parametrize(
    "gold",
    [
        27,
        27.0,
        "27",
        "27.0",
        "$27$",
        r"\boxed{27}",
        "so 20 + 7 = 27\n#### 27",
        numpy.float64(27.0),
        numpy.int64(27),
        ["26", "27"],
        numpy.array(["27"], dtype=object),
    ],
    ids=repr,
)
async def test_golds_as_data_sets_give_them(verifier: MathVerifier, gold: Any) -> None:
    assert (await verify(verifier, r"\boxed{27}", gold)).outcome is Outcome.CORRECT
    assert (await verify(verifier, r"\boxed{270}", gold)).outcome is Outcome.INCORRECT


@pytest.mark.parametrize("gold", [None, True, {"a": 1}, [], "", [None]], ids=repr)
async def test_a_gold_that_is_none_is_an_error_that_names_the_field(verifier: MathVerifier, gold: Any) -> None:
    verdict = await verify(verifier, r"\boxed{27}", gold)
    assert verdict.outcome is Outcome.ERROR
    assert verdict.detail is not None
    assert "reward_model.ground_truth must" in verdict.detail


@pytest.mark.parametrize(
    ("text", "feedback"),
    [
        ("5", r"No \boxed{} answer was found."),
        (r"\boxed{5", r"The \boxed{ was not closed"),
        (r"\boxed{}", r"The \boxed{} was empty."),
    ],
)
async def test_feedback_on_the_format(verifier: MathVerifier, text: str, feedback: str) -> None:
    verdict = await verify(verifier, text, "5")
    assert verdict.outcome is Outcome.NO_ANSWER
    assert verdict.feedback is not None
    assert verdict.feedback.startswith(feedback)


async def test_a_decided_answer_gives_no_feedback_that_could_tell_the_gold(verifier: MathVerifier) -> None:
    assert (await verify(verifier, r"\boxed{6}", "5")).feedback is None


class Strange:
    """A gold that cannot even be shown."""

    def __repr__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize("gold", [Strange(), 10**5000], ids=["strange", "huge"])
async def test_a_gold_that_raises_is_an_error(verifier: MathVerifier, gold: Any) -> None:
    verdict = await verify(verifier, r"\boxed{27}", gold)
    assert (verdict.outcome, verdict.fault) == (Outcome.ERROR, "error")


async def test_a_long_attempt_is_searched_by_a_worker(verifier: MathVerifier) -> None:
    before = verifier.pool.stats.calls
    verdict = await verify(verifier, r"\boxed{5}" + " so" * 10_000, "5")
    assert (verdict.outcome, verdict.answer) == (Outcome.CORRECT, "5")
    verdict = await verify(verifier, "{}" * 10_000, "5")
    assert verdict.outcome is Outcome.NO_ANSWER
    assert verdict.feedback is not None
    assert verifier.pool.stats.calls == before + 2


async def test_what_needs_algebra_goes_to_a_worker_and_the_rest_does_not(verifier: MathVerifier) -> None:
    before = verifier.pool.stats.calls
    await verify(verifier, r"\boxed{0.50}", r"\frac{1}{2}")
    assert verifier.pool.stats.calls == before
    verdict = await verify(verifier, r"\boxed{(x+1)^2}", "x^2+2x+1")
    assert verdict.outcome is Outcome.CORRECT
    assert verifier.pool.stats.calls == before + 1


async def test_math_verify_is_asked_about_what_this_package_does_not_read(verifier: MathVerifier) -> None:
    assert (await verify(verifier, r"\boxed{\int_0^1 x dx}", r"\frac{1}{2}")).outcome is Outcome.CORRECT
    assert (await verify(verifier, r"\boxed{\int_0^1 x dx}", r"\frac{1}{3}")).outcome is Outcome.INCORRECT


async def test_a_batch_keeps_its_order(verifier: MathVerifier) -> None:
    items = [(rf"\boxed{{{k}}}", Question(ground_truth="3")) for k in range(6)]
    outcomes = [verdict.outcome for verdict in await verify_all(verifier, items)]
    assert [outcome is Outcome.CORRECT for outcome in outcomes] == [k == 3 for k in range(6)]


async def test_hundreds_of_answers_at_once_leave_the_event_loop_room_for_other_work(verifier: MathVerifier) -> None:
    async def iterations() -> int:
        count = 0
        while not batch.done():
            await asyncio.sleep(0)
            count += 1
        return count

    batch = asyncio.ensure_future(verify_all(verifier, [(r"\boxed{1/2}", Question(ground_truth="0.5"))] * 3000))
    count = await iterations()
    assert {verdict.outcome for verdict in await batch} == {Outcome.CORRECT}
    assert count > 10  # all in one iteration without turns


async def test_a_queue_passes_by_as_many_an_iteration_as_its_budget_holds() -> None:
    turns = _Turns(0.004)
    for _ in range(200):
        turns.spend(0.0001)
    loop = asyncio.get_running_loop()
    turns._loop, turns._deadline = loop, 1e-9  # this iteration's budget is spent: all must wait
    callers = asyncio.gather(*(turns.take() for _ in range(1000)))
    loop.call_soon(turns._renew, loop)
    count = 0
    while not callers.done():
        await asyncio.sleep(0)
        count += 1
    assert 1000 / 40 <= count < 1000 / 30  # 40 decisions of 0.1 ms in 4 ms


async def test_a_caller_that_gives_up_while_it_waits_for_its_turn_holds_up_nobody(verifier: MathVerifier) -> None:
    calls = [asyncio.ensure_future(verify(verifier, r"\boxed{1}", "1")) for _ in range(200)]
    await asyncio.sleep(0)
    for call in calls[:-1]:
        call.cancel()
    assert (await asyncio.wait_for(calls[-1], 10)).outcome is Outcome.CORRECT


@pytest.mark.asyncio
async def test_a_verification_that_takes_too_long_is_a_timeout() -> None:
    verifier = MathVerifier(VerifierSettings(num_workers=1, timeout_s=0.5))
    try:
        answer = r"\sum_{k=1}^{10^{9}} \sin(k^k) \sum_{j=1}^{10^9} \cos(j^j)"
        verdict = await verify(verifier, rf"\boxed{{{answer}}}", r"\sum_{k=1}^{10^9} \tan(k^k)")
        assert verdict.outcome in (Outcome.TIMEOUT, Outcome.INCORRECT)
        assert verdict.seconds < 30
        assert (await verify(verifier, r"\boxed{2x}", "x+x")).outcome is Outcome.CORRECT
    finally:
        await verifier.close()


@pytest.mark.asyncio
async def test_a_closed_verifier_answers_with_an_error_and_does_not_hang() -> None:
    verifier = MathVerifier(VerifierSettings(num_workers=1))
    await verifier.close()
    await verifier.close()
    verdict = await asyncio.wait_for(verify(verifier, r"\boxed{2x}", "x+x"), 10)
    assert verdict.outcome is Outcome.ERROR
