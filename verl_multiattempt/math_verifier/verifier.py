r"""``MathVerifier``: what is quickly decided here and now, the rest in worker processes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from typing import Any

from verl_multiattempt.math_verifier.decide import decide_exactly, find_answer, normal_answer, published_gold
from verl_multiattempt.math_verifier.rounding import Tolerance
from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Outcome, Question, Verdict
from verl_multiattempt.verifier_pool import WorkerPool

logger = logging.getLogger(__name__)

MAX_INLINE_CHARS = 20_000
"""A longer attempt is searched for its box by a worker, so that the event loop never waits for it."""
INLINE_S = 0.004
"""Time for decisions in one iteration of the event loop: when hundreds of attempts end at once, it must run other
things too."""
LEAST_TURNS = 4
"""Decisions that an iteration lets pass whatever they take."""
MAX_INLINE_BRACES = 400
"""The same for one with more braces."""


class MathVerifier:
    r"""Decides the answer in the last complete ``\boxed{}`` of an attempt against the gold.

    Args:
        settings: the pool's size and limits.
        relative_tolerance: largest relative difference of a decimal of at least four digits that stands for a value it
            is not exactly (0.3333 for 1/3); 0 asks for exact values. Whole numbers are always compared exactly.

    Raises:
        ValueError: ``relative_tolerance`` is not in [0, 0.01].
    """

    def __init__(self, settings: VerifierSettings, *, relative_tolerance: float = 1e-4):
        self.check_arguments(relative_tolerance)
        self._tolerance = Tolerance(relative=relative_tolerance)
        self._turns = _Turns(INLINE_S)
        self.pool = WorkerPool(
            "verl_multiattempt.math_verifier.decide:make_handler",
            {"relative_tolerance": relative_tolerance},
            num_workers=settings.num_workers,
            timeout_s=settings.timeout_s,
            memory_limit_mb=settings.memory_limit_mb,
            recycle_after=settings.recycle_after,
            queue_size=settings.queue_size,
        )

    @staticmethod
    def check_arguments(relative_tolerance: float = 1e-4) -> None:
        """Refuse what cannot work, in the driver and before any worker starts.

        Raises:
            ValueError: see the class.
        """
        is_number = isinstance(relative_tolerance, int | float) and not isinstance(relative_tolerance, bool)
        if not (is_number and 0 <= relative_tolerance <= 0.01):
            raise ValueError(
                "multiattempt.verifier.kwargs.relative_tolerance must be from 0 to 0.01; "
                f"got {relative_tolerance!r}. The default is 1e-4."
            )

    async def verify(self, text: str, question: Question) -> Verdict:
        """See `verl_multiattempt.verifier.Verifier`. A gold that is a list holds alternatives: any of them is right."""
        started = time.perf_counter()
        await self._turns.take()
        begun = time.perf_counter()
        try:
            decision = self._decide_here(text, question.ground_truth)
        except Exception as error:  # of a gold that is no plain value, say
            logger.exception("A verification failed")
            decision = Verdict(
                outcome=Outcome.ERROR, detail=f"{type(error).__name__}: {str(error)[:300]}", fault="error"
            )
        self._turns.spend(time.perf_counter() - begun)
        verdict = decision if isinstance(decision, Verdict) else await self._ask_worker(*decision)
        normal = None if verdict.answer is None else normal_answer(verdict.answer)
        return replace(verdict, normal_answer=normal, seconds=time.perf_counter() - started)

    def _decide_here(self, text: str, ground_truth: Any) -> Verdict | tuple[str, list[str], bool]:
        """The verdict, or what to ask a worker."""
        golds = golds_of(ground_truth)
        if golds is None:
            got = f"{ground_truth!r:.200}"
            wrong = f"reward_model.ground_truth must be text, a number or a list of them; got {got}"
            return Verdict(outcome=Outcome.ERROR, detail=wrong)
        if len(text) > MAX_INLINE_CHARS or text.count("{") > MAX_INLINE_BRACES:
            return text, list(golds), True
        answer, feedback = find_answer(text)
        if answer is None:
            return Verdict(outcome=Outcome.NO_ANSWER, feedback=feedback)
        undecided = []
        for gold in golds:
            decision = decide_exactly(answer, gold, self._tolerance)
            if decision:
                return Verdict(outcome=Outcome.CORRECT, answer=answer)
            if decision is None:
                undecided.append(gold)
        if not undecided:
            return Verdict(outcome=Outcome.INCORRECT, answer=answer)
        return answer, undecided, False

    async def _ask_worker(self, text: str, golds: list[str], is_attempt: bool) -> Verdict:
        reply = await self.pool.call((text, golds, is_attempt))
        outcome = outcome_of(reply.fault, reply.value and reply.value["correct"])
        if not is_attempt:
            return Verdict(outcome=outcome, answer=text, detail=reply.detail, fault=reply.fault)
        if reply.value is None:
            return Verdict(outcome=outcome, detail=reply.detail, fault=reply.fault)
        answer, feedback = reply.value["answer"], reply.value["feedback"]
        return Verdict(outcome=Outcome.NO_ANSWER if answer is None else outcome, answer=answer, feedback=feedback)

    async def close(self) -> None:
        """End the worker processes; verifications under way end as ERROR."""
        await self.pool.close()


class _Turns:
    """Lets callers pass until they have spent ``budget_s`` of an iteration of the event loop; the others wait.

    Of those, each further iteration lets as many pass as its budget will hold by what decisions took lately: a waiting
    caller runs an iteration after it was let pass, so one at a time would make of a queue one decision an iteration.
    """

    def __init__(self, budget_s: float):
        self._budget_s = budget_s
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deadline = 0.0
        """When this iteration's budget is spent; 0 between iterations in which nobody passed."""
        self._typical_s = budget_s / LEAST_TURNS
        """What a decision takes; a running mean."""

    async def take(self) -> None:
        """Wait for a turn; `spend` is called when it is over, with no await in between."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the last one is closed, and what was planned there never runs
            self._loop, self._deadline = loop, 0.0
            self._waiting.clear()
        if not self._deadline:
            self._deadline = time.perf_counter() + self._budget_s
            loop.call_soon(self._renew, loop)
        if not self._waiting and time.perf_counter() < self._deadline:
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def spend(self, seconds: float) -> None:
        """Take note of what a turn took."""
        self._typical_s += (seconds - self._typical_s) / 16

    def _renew(self, loop: asyncio.AbstractEventLoop) -> None:
        self._deadline = 0.0
        if self._waiting:
            self._deadline = time.perf_counter() + self._budget_s
            loop.call_soon(self._renew, loop)
            self._pass(max(LEAST_TURNS, int(self._budget_s / max(self._typical_s, 1e-6))))

    def _pass(self, count: int) -> None:
        while self._waiting and count:
            turn = self._waiting.popleft()
            if not turn.done():  # its caller was cancelled
                turn.set_result(None)
                count -= 1


def outcome_of(fault: str | None, correct: bool | None) -> Outcome:
    """The outcome for a worker's reply."""
    if fault is None:
        return Outcome.CORRECT if correct else Outcome.INCORRECT
    return Outcome.TIMEOUT if fault == "timeout" else Outcome.ERROR


def golds_of(ground_truth: Any) -> tuple[str, ...] | None:
    """The gold texts of a row's ``ground_truth``; None where it is neither text, a number nor a list of them."""
    if hasattr(ground_truth, "tolist"):  # numpy scalars and arrays, as parquet files give them
        ground_truth = ground_truth.tolist()
    values: Iterable[Any] = ground_truth if isinstance(ground_truth, list | tuple) else [ground_truth]
    golds = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
            return None
        if gold := _gold_text(str(value)):
            golds.append(gold)
    return tuple(golds) or None


@lru_cache(maxsize=2048)
def _gold_text(text: str) -> str:
    return published_gold(text).strip()
