r"""``MathVerifier``: what is quickly decided here and now, the rest in worker processes."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache
from typing import Any

from verl_multiattempt.math_verifier.decide import decide_exactly, find_answer, published_gold
from verl_multiattempt.math_verifier.rounding import Tolerance
from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Outcome, Question, Verdict
from verl_multiattempt.verifier_pool import WorkerPool

MAX_INLINE_CHARS = 20_000
"""A longer attempt is searched for its box by a worker, so that the event loop never waits for it."""


NUM_INLINE = 16
"""Decisions in one iteration of the event loop: when hundreds of attempts end at once, it must run other things too."""


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
        if isinstance(relative_tolerance, bool) or not 0 <= relative_tolerance <= 0.01:
            raise ValueError(
                "multiattempt.verifier.kwargs.relative_tolerance must be from 0 to 0.01; "
                f"got {relative_tolerance!r}. The default is 1e-4."
            )
        self._tolerance = Tolerance(relative=relative_tolerance)
        self._turns = _Turns(NUM_INLINE)
        self.pool = WorkerPool(
            "verl_multiattempt.math_verifier.decide:make_handler",
            {"relative_tolerance": relative_tolerance},
            num_workers=settings.num_workers,
            timeout_s=settings.timeout_s,
            memory_limit_mb=settings.memory_limit_mb,
            recycle_after=settings.recycle_after,
            queue_size=settings.queue_size,
        )

    async def verify(self, text: str, question: Question) -> Verdict:
        """See `verl_multiattempt.verifier.Verifier`. A gold that is a list holds alternatives: any of them is right."""
        started = time.perf_counter()
        await self._turns.take()
        golds = golds_of(question.ground_truth)
        if golds is None:
            got = f"{question.ground_truth!r:.200}"
            wrong = f"reward_model.ground_truth must be text, a number or a list of them; got {got}"
            return Verdict(outcome=Outcome.ERROR, detail=wrong)
        if len(text) > MAX_INLINE_CHARS:
            verdict = await self._ask_worker(text, golds, is_attempt=True)
        else:
            answer, feedback = find_answer(text)
            if answer is None:
                verdict = Verdict(outcome=Outcome.NO_ANSWER, feedback=feedback)
            else:
                verdict = await self._decide(answer, golds)
        return replace(verdict, seconds=time.perf_counter() - started)

    async def _decide(self, answer: str, golds: tuple[str, ...]) -> Verdict:
        undecided = []
        for gold in golds:
            decision = decide_exactly(answer, gold, self._tolerance)
            if decision:
                return Verdict(outcome=Outcome.CORRECT, answer=answer)
            if decision is None:
                undecided.append(gold)
        if not undecided:
            return Verdict(outcome=Outcome.INCORRECT, answer=answer)
        return await self._ask_worker(answer, tuple(undecided), is_attempt=False)

    async def _ask_worker(self, text: str, golds: tuple[str, ...], *, is_attempt: bool) -> Verdict:
        reply = await self.pool.call((text, list(golds), is_attempt))
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
    """Lets ``size`` callers pass in each iteration of the event loop; the others wait, first come first served."""

    def __init__(self, size: int):
        self._size = self._left = size
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def take(self) -> None:
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # the last one is closed, and what was planned there never runs
            self._loop, self._left = loop, self._size
            self._waiting.clear()
        if self._left == self._size:
            loop.call_soon(self._renew, loop)
        if self._left and not self._waiting:
            self._left -= 1
            return
        turn = loop.create_future()
        self._waiting.append(turn)
        await turn

    def _renew(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left = self._size
        while self._waiting and self._left:
            turn = self._waiting.popleft()
            if not turn.done():  # its caller was cancelled
                turn.set_result(None)
                self._left -= 1
        if self._left < self._size:
            loop.call_soon(self._renew, loop)


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
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            return None
        if gold := _gold_text(str(value)):
            golds.append(gold)
    return tuple(golds) or None


@lru_cache(maxsize=2048)
def _gold_text(text: str) -> str:
    return published_gold(text).strip()
