"""A pool of worker processes with a time limit enforced from outside, a memory cap and eager replacement.

One fork server (`verl_multiattempt.verifier_server`) loads the handler once and forks the workers, so nothing is
forked from the caller's process, and a worker that is late, dies or runs out of memory is replaced in milliseconds.
Everything on this side runs as callbacks of one event loop, none of which waits.

A handler is a factory named ``package.module:function``; what it returns takes one request (anything that pickles) and
returns a value (anything that JSON holds), in the main thread of a worker::

    def length_checker(limit):  # called once, in the fork server: load what is slow to load here
        return lambda text: len(text) <= limit

    pool = WorkerPool("my_package.checks:length_checker", {"limit": 3}, num_workers=2, timeout_s=5, memory_limit_mb=512)
    reply = await pool.call("text")  # Reply(value=False, fault=None, ...)
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import os
import pickle
import reprlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from verl_multiattempt.verifier_crew import Crew, Worker
from verl_multiattempt.verifier_queue import CallQueue
from verl_multiattempt.verifier_worker import describe, module_path

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What became of one call."""

    value: Any = None
    """What the handler's callable returned, by way of JSON."""
    fault: str | None = None
    """None; or ``timeout``, ``died``, ``memory``, or ``error`` (the callable raised, or could not be asked)."""
    detail: str | None = None
    """What happened, for the log; None without a fault."""
    seconds: float = 0.0
    """Wall time, waiting for a worker included."""


@dataclass(slots=True, kw_only=True)
class PoolStats:
    """What happened so far. Each call that was answered is in ``calls`` and, with a fault, in one of the next four."""

    calls: int = 0
    timeouts: int = 0
    deaths: int = 0
    over_memory: int = 0
    errors: int = 0
    recycled: int = 0
    """Workers replaced after ``recycle_after`` calls."""
    replaced: int = 0
    """Workers replaced for any other reason; also those that died idle, or whose caller was cancelled."""


_COUNTERS = {"timeout": "timeouts", "died": "deaths", "memory": "over_memory", "error": "errors"}


@dataclass(slots=True, eq=False, kw_only=True)
class _Job:
    """A call under way."""

    payload: bytes
    answer: asyncio.Future[Reply]
    started: float
    worker: Worker | None = None

    def finish(self, *, value: Any = None, fault: str | None = None, detail: str | None = None) -> None:
        if not self.answer.done():
            seconds = time.perf_counter() - self.started
            self.answer.set_result(Reply(value=value, fault=fault, detail=detail, seconds=seconds))


class WorkerPool:
    """Worker processes that run a handler's callable, one request at a time each.

    The processes are started by the first call, on the loop that runs then; the pool belongs to that loop and its
    thread, with whose end Linux ends the processes. A closed pool stays closed: a call is then answered with the fault
    ``error``.

    Args:
        handler: ``package.module:function``, a factory; what it returns takes a request and returns a JSON-able value.
        handler_kwargs: the factory's arguments; they must pickle, and name nothing of the main script.
        num_workers: worker processes.
        timeout_s: hard limit on one request, from the moment it is sent to a worker.
        memory_limit_mb: cap on the private memory of a worker, what the handler loaded included, which binds at once;
            and on the memory, shared memory included, that a worker and the processes it started hold together, which
            the fork server looks at five times a second. Files in a memory file system do not count.
        recycle_after: requests after which a worker is replaced.
        queue_size: calls that may wait for a worker; further callers wait before they are queued.

    Raises:
        ValueError: a setting is out of range, or ``handler_kwargs`` cannot be pickled.
    """

    def __init__(
        self,
        handler: str,
        handler_kwargs: Mapping[str, Any] | None = None,
        *,
        num_workers: int,
        timeout_s: float,
        memory_limit_mb: int,
        recycle_after: int = 10_000,
        queue_size: int = 1024,
    ):
        _check(handler, num_workers, timeout_s, memory_limit_mb, recycle_after, queue_size)
        try:
            kwargs = pickle.dumps(dict(handler_kwargs or {}))
        except Exception as error:
            raise ValueError(f"handler_kwargs must pickle; got {describe(error)}. Pass plain values.") from error
        self._setup = (handler, kwargs, memory_limit_mb)
        self._num_workers, self._timeout_s, self._recycle_after = num_workers, timeout_s, recycle_after
        self.stats = PoolStats()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._crew: Crew | None = None
        self._closed = False
        self._broken: str | None = None  # why no worker can be had
        self._queue: CallQueue[_Job] = CallQueue(queue_size)
        self._idle: list[Worker] = []  # the last one used is used first: its caches are warm
        self._requests = itertools.count(1)

    @property
    def num_ready(self) -> int:
        """Workers that are up, busy ones included."""
        return len(self.worker_pids)

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers that are up."""
        workers = self._crew.workers.values() if self._crew else ()
        return [worker.pid for worker in workers if worker.is_ready and worker.pid is not None]

    @property
    def server_pid(self) -> int | None:
        """Process id of the fork server; None while there is none."""
        return self._crew.server.pid if self._crew and self._crew.server else None

    async def call(self, request: Any) -> Reply:
        """Have a worker handle a request. What happens there, whatever it is, comes back as a `Reply`.

        A call whose task is cancelled is dropped from the queue, or its worker is ended and replaced.

        Raises:
            RuntimeError: the pool is used from a second event loop.
        """
        started = time.perf_counter()
        loop = self._own_loop()
        reply = await self._ask(request, loop.create_future(), started)
        self._count(reply, request)
        return reply

    async def close(self) -> None:
        """End the processes; calls under way are answered with the fault ``died``. May be called again.

        Raises:
            RuntimeError: the pool is used from a second event loop.
        """
        self._closed = True
        if self._loop is None:
            return
        self._own_loop()
        self._answer_queue("died", "the pool was closed")
        if self._crew is not None:
            await self._crew.stop("the pool was closed")

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError(
                "a WorkerPool must be used from one event loop; got a second one. Make one for each loop."
            )
        if self._crew is None and not self._closed:
            self._crew = self._start_crew(loop)
        return loop

    def _start_crew(self, loop: asyncio.AbstractEventLoop) -> Crew:
        # Only now: what the caller has put on its path until here counts.
        setup = pickle.dumps((module_path(), os.environ.get("PYTHONPATH"), *self._setup))
        crew = Crew(
            loop,
            setup,
            self._num_workers,
            on_ready=self._worker_ready,
            on_reply=self._worker_replied,
            on_down=self._worker_down,
            on_ended=self._worker_ended,
            on_over_memory=self._worker_over_memory,
            on_broken=self._crew_broken,
        )
        crew.start_server()
        return crew

    # Calls.

    async def _ask(self, request: Any, answer: asyncio.Future[Reply], started: float) -> Reply:
        job = _Job(payload=b"", answer=answer, started=started)
        if self._closed:
            job.finish(fault="error", detail="the pool is closed")
            return answer.result()
        await self._queue.take_place()
        try:
            if self._closed:
                job.finish(fault="died", detail="the pool was closed")
            elif self._broken is not None:
                job.finish(fault="error", detail=self._broken)
                assert self._crew is not None
                self._crew.retry()
            else:
                job.payload = pickle.dumps(request, protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            job.finish(fault="error", detail=f"the request cannot be pickled: {describe(error)}")
        if answer.done():
            self._queue.give_place()
            return answer.result()
        self._queue.append(job)
        self._dispatch()
        try:
            return await answer
        except asyncio.CancelledError:
            self._abandon(job)
            raise

    def _abandon(self, job: _Job) -> None:
        if not self._queue.remove(job) and job.worker is not None:
            self._replace(job.worker)

    def _dispatch(self) -> None:
        while self._queue and self._idle:
            worker, job = self._idle.pop(), self._queue.first()
            assert worker.channel is not None
            assert self._loop is not None
            worker.request = next(self._requests)
            if not worker.channel.send(worker.request, job.payload):
                self._lose(worker, None)  # dead already: the request was not seen there
                continue
            self._queue.pop()
            worker.job, job.worker, job.payload = job, worker, b""
            worker.timer = self._loop.call_later(self._timeout_s, self._late, worker)

    def _answer_queue(self, fault: str, detail: str) -> None:
        while self._queue:
            self._queue.pop().finish(fault=fault, detail=detail)

    def _count(self, reply: Reply, request: Any) -> None:
        self.stats.calls += 1
        if reply.fault is None:
            return
        counter = _COUNTERS[reply.fault]
        count = getattr(self.stats, counter) + 1
        setattr(self.stats, counter, count)
        if count <= 10 or count % 100 == 0:
            logger.warning("Verification fault %r, number %d: %s; request %s", reply.fault, count, reply.detail,
                           reprlib.repr(request)[:300])  # fmt: skip

    # What happens to workers.

    def _worker_ready(self, worker: Worker) -> None:
        self._idle.append(worker)
        self._dispatch()

    def _worker_replied(self, worker: Worker, number: int, reply: bytes) -> None:
        job, kind, content = worker.job, *_parse(reply)
        if job is None or number != worker.request or kind is None:
            self._lose(worker, f"the worker sent what is no reply: {reply[:40]!r}")
            return
        worker.disarm()
        worker.job = job.worker = None
        if kind == "memory":
            job.finish(fault="memory", detail=content)
            self._replace(worker)
            return
        if kind == "error":
            job.finish(fault="error", detail=content)
        else:
            job.finish(value=content)
        if worker.num_done >= self._recycle_after:
            self._replace(worker, is_recycled=True)
        else:
            self._worker_ready(worker)

    def _late(self, worker: Worker) -> None:
        job, worker.job = worker.job, None
        job.finish(fault="timeout", detail=f"no reply within {self._timeout_s:g} s")
        self._replace(worker)

    def _replace(self, worker: Worker, *, is_recycled: bool = False) -> None:
        assert self._crew is not None
        if self._crew.retire(worker):
            self.stats.recycled += is_recycled
            self.stats.replaced += not is_recycled

    def _lose(self, worker: Worker, reason: str | None) -> None:
        assert self._crew is not None
        self._crew.lose(worker, reason)

    def _worker_down(self, worker: Worker, reason: str | None) -> None:
        self.stats.replaced += not self._closed
        if worker in self._idle:
            self._idle.remove(worker)
        if worker.job is not None and reason is not None:
            worker.job.finish(fault="died", detail=reason)

    def _worker_ended(self, worker: Worker, how: str) -> None:
        if worker.job is not None:
            worker.job.finish(fault="died", detail=f"the worker ended ({how})")
            worker.job = None

    def _worker_over_memory(self, worker: Worker, detail: str) -> None:
        if worker.job is None:  # what an earlier request left behind grew
            self._lose(worker, None)
            return
        worker.job.finish(fault="memory", detail=detail)
        worker.job = None
        self._replace(worker)

    def _crew_broken(self, reason: str | None) -> None:
        self._broken = reason
        if reason is not None:
            self._answer_queue("error", reason)


def _parse(reply: bytes) -> tuple[str | None, Any]:
    """A reply's kind (``value``, ``error`` or ``memory``) and content; None for what is no reply."""
    try:
        ((kind, content),) = json.loads(reply).items()
    except (ValueError, AttributeError, RecursionError):
        return None, None
    if kind == "value" or (kind in ("error", "memory") and isinstance(content, str)):
        return kind, content
    return None, None


def _check(
    handler: str, num_workers: int, timeout_s: float, memory_limit_mb: int, recycle_after: int, queue_size: int
) -> None:
    module, colon, name = handler.partition(":")
    if not (module and colon and name.isidentifier()):
        raise ValueError(f"handler must be package.module:function; got {handler!r}. Name the factory.")
    if not timeout_s > 0:
        raise ValueError(f"timeout_s must be above 0; got {timeout_s!r}. It is a number of seconds.")
    counts = {"num_workers": num_workers, "memory_limit_mb": memory_limit_mb, "recycle_after": recycle_after}
    for field, value in {**counts, "queue_size": queue_size}.items():
        if not (isinstance(value, int) and value >= 1):
            raise ValueError(f"{field} must be a whole number above 0; got {value!r}. Take 1 or more.")
