"""The ``math`` verifier: math-verify in worker processes with a time limit enforced from outside.

A worker is a plain child process (see `verl_multiattempt.verifier_worker`) spoken to over pipes by the event loop, so
nothing is forked from a process with threads and no thread of the caller waits. A worker that is late, dies or
answers nonsense is killed and replaced; that verification ends as TIMEOUT or ERROR.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import subprocess
import sys
import time
from contextlib import suppress

from verl_multiattempt.answer import extract_answer
from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Outcome, Question, Verdict

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 120.0
"""Seconds a worker may take to import sympy; generous, since many start at once on a busy machine."""
MAX_ANSWER_CHARS = 20_000
"""A longer answer is INCORRECT without a look: no gold is near that long, and parsing would eat the time limit."""
_INTEGER = re.compile(r"[+-]?\d{1,18}")
NO_ANSWER_FEEDBACK = "No \\boxed{} answer was found."


class WorkerError(RuntimeError):
    """A verifier process could not be started or ended unexpectedly."""


class _Worker:
    """One verifier process and its pipes."""

    def __init__(self, process: asyncio.subprocess.Process):
        self._process = process

    @classmethod
    async def start(cls, memory_limit_mb: int) -> _Worker:
        command = [sys.executable, "-m", "verl_multiattempt.verifier_worker", str(memory_limit_mb)]
        # One thread each: a pool of workers must not multiply BLAS threads.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, limit=2**20
        )
        worker = cls(process)
        try:
            await asyncio.wait_for(worker._read(), START_TIMEOUT_S)
        except BaseException as error:
            await worker.kill()
            if isinstance(error, asyncio.TimeoutError | WorkerError):
                raise WorkerError(f"a verifier process did not start: {error!r}") from error
            raise
        return worker

    async def _read(self) -> dict[str, object]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise WorkerError(f"the verifier process ended (exit status {await self._process.wait()})")
        try:
            return dict(json.loads(line))
        except ValueError as error:
            raise WorkerError(f"the verifier process answered {line[:100]!r}") from error

    async def ask(self, answer: str, gold: str) -> dict[str, object]:
        assert self._process.stdin is not None
        request = json.dumps({"answer": answer, "gold": gold}) + "\n"
        try:
            self._process.stdin.write(request.encode())
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError) as error:
            raise WorkerError("the verifier process ended") from error
        return await self._read()

    @property
    def ended(self) -> bool:
        """Whether the process is known to have ended; its pipe tells earlier than its exit status."""
        assert self._process.stdout is not None
        return self._process.returncode is not None or self._process.stdout.at_eof()

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


class MathVerifier:
    r"""Decides answers in ``\boxed{}`` by math-verify. The exact cases are decided without a worker.

    Args:
        settings: number of workers, time limit, memory limit.
    """

    def __init__(self, settings: VerifierSettings):
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle: asyncio.Queue[_Worker | None] = asyncio.Queue()
        self._closing = asyncio.Lock()
        self.num_replaced = 0
        """Workers that had to be killed and replaced."""

    async def verify(self, text: str, question: Question) -> Verdict:
        """See `verl_multiattempt.verifier.Verifier`."""
        started = time.perf_counter()
        gold = question.ground_truth
        if isinstance(gold, bool) or not isinstance(gold, str | int | float):
            return Verdict(outcome=Outcome.ERROR, detail=f"the gold must be text or a number; got {gold!r:.200}")
        answer = extract_answer(text)
        if answer is None:
            return Verdict(outcome=Outcome.NO_ANSWER, feedback=NO_ANSWER_FEEDBACK)
        outcome, detail = decide_exactly(answer, str(question.ground_truth)), None
        if outcome is None:
            outcome, detail = await self._ask_worker(answer, str(question.ground_truth))
        return Verdict(outcome=outcome, answer=answer, detail=detail, seconds=time.perf_counter() - started)

    async def _ask_worker(self, answer: str, gold: str) -> tuple[Outcome, str | None]:
        self._bind_to_loop()
        worker = await self._idle.get()
        # From here on the slot goes back whatever happens, filled or empty (None: start one when it is needed).
        try:
            if worker is not None and worker.ended:  # killed while it was idle, by the kernel for instance
                worker, self.num_replaced = None, self.num_replaced + 1
            if worker is None:
                worker = await _Worker.start(self._settings.memory_limit_mb)
            reply = await asyncio.wait_for(worker.ask(answer, gold), self._settings.timeout_s)
        except BaseException as error:
            if worker is not None:
                # The slot is emptied first: a cancellation may come while the worker is killed.
                late, worker, self.num_replaced = worker, None, self.num_replaced + 1
                await late.kill()
            if isinstance(error, asyncio.TimeoutError):
                detail = f"no verdict within {self._settings.timeout_s:g} s"
                logger.warning("Verification timed out (%s): answer %.200r, gold %.200r", detail, answer, gold)
                return Outcome.TIMEOUT, detail
            if isinstance(error, WorkerError | OSError):
                logger.warning("Verification failed (%s): answer %.200r, gold %.200r", error, answer, gold)
                return Outcome.ERROR, str(error)
            raise
        finally:
            self._idle.put_nowait(worker)
        if "error" in reply:
            return Outcome.ERROR, str(reply["error"])
        return (Outcome.CORRECT if reply["correct"] else Outcome.INCORRECT), None

    def _bind_to_loop(self) -> None:
        """Fill the slots at the first call: pipes belong to the event loop that runs then."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            for _ in range(self._settings.num_workers):
                self._idle.put_nowait(None)
        elif self._loop is not loop:
            raise RuntimeError(
                "a MathVerifier must be used from one event loop; got a second one. Make one for each loop."
            )

    async def close(self) -> None:
        """Kill the workers; running verifications end first."""
        if self._loop is None:
            return
        async with self._closing:
            # All slots are taken before one is given back: an empty slot given back could be taken here again.
            num_taken = 0
            try:
                for _ in range(self._settings.num_workers):
                    worker = await self._idle.get()
                    num_taken += 1
                    if worker is not None:
                        await worker.kill()
            finally:
                for _ in range(num_taken):
                    self._idle.put_nowait(None)


def decide_exactly(answer: str, gold: str) -> Outcome | None:
    """Decide the cases that need no algebra: equal text, or two plain integers; None for the others."""
    answer, gold = _plain(answer), _plain(gold)
    if answer == gold:
        return Outcome.CORRECT
    if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(gold):
        return Outcome.CORRECT if int(answer) == int(gold) else Outcome.INCORRECT
    if len(answer) > MAX_ANSWER_CHARS:
        return Outcome.INCORRECT
    return None


def _plain(text: str) -> str:
    return text.strip().strip("$").strip()
