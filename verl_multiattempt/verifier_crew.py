"""Keeps a number of workers up: starts the fork server and the workers, and replaces whichever ends, at once."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from socket import socket
from subprocess import SubprocessError
from typing import Any

from verl_multiattempt.verifier_process import Channel, ForkServer
from verl_multiattempt.verifier_server import ENDED, FAILED, OVER_MEMORY, READY, STARTED, STOPPED
from verl_multiattempt.verifier_worker import describe

logger = logging.getLogger(__name__)

LOAD_TIMEOUT_S = 120.0
"""Limit on loading the handler; generous, since many processes start at once on a busy machine."""
SERVER_TIMEOUT_S = 10.0
"""Limit on the fork server's starting or ending a worker; past it the server is replaced."""
CLOSE_TIMEOUT_S = 5.0
"""Limit on the fork server's ending in order; past it it is killed."""
SERVER_START_DELAYS_S = (0.0, 0.5, 2.0)
"""Waits before a lost server is started again, while no worker came up in between; then the crew gives up for now."""
RETRY_DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Least time from giving up until a call makes the crew start a server again; the last one holds from then on."""
MAX_FAILED_STARTS = 10
"""Workers that may end, one after the other, before any of them is ready."""
NUM_FREE_STARTS = 5
"""Workers that may end, one after the other, with no request sent to them, until their replacement is delayed."""


@dataclass(slots=True, eq=False, kw_only=True)
class Worker:
    """A worker, from the order to start it to the news that it has ended."""

    number: int
    pid: int | None = None
    channel: Channel | None = None
    is_ready: bool = False
    num_done: int = 0
    timer: asyncio.TimerHandle | None = None
    """Limits what the worker is at: starting, a request, or ending."""
    job: Any = None
    """For the pool: the call it works on."""
    request: int = 0
    """For the pool: the number of the last request sent to it; 0 if there was none."""

    def disarm(self) -> None:
        """Stop the timer."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Crew:
    """The workers and their fork server.

    Args:
        loop: the running event loop, to whose thread the processes are tied.
        setup: what `verl_multiattempt.verifier_worker.load_handler` takes.
        num_workers: how many to keep up.
        on_ready: a worker can take requests.
        on_reply: a worker sent a reply to a request, with that number.
        on_down: a worker that was ready is lost; the text says why, None that it ended by itself.
        on_ended: a worker that was ready has ended; the text says how.
        on_over_memory: a worker holds too much with what it started, and is being ended; the text says so.
        on_broken: no worker can be had, for the reason given; None takes that back.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        setup: bytes,
        num_workers: int,
        *,
        on_ready: Callable[[Worker], None],
        on_reply: Callable[[Worker, int, bytes], None],
        on_down: Callable[[Worker, str | None], None],
        on_ended: Callable[[Worker, str], None],
        on_over_memory: Callable[[Worker, str], None],
        on_broken: Callable[[str | None], None],
    ):
        self._loop, self._setup, self._num_workers = loop, setup, num_workers
        self._on_ready, self._on_reply, self._on_down = on_ready, on_reply, on_down
        self._on_ended, self._on_over_memory, self._on_broken = on_ended, on_over_memory, on_broken
        self._numbers = itertools.count(1)
        self.workers: dict[int, Worker] = {}
        """Those that are starting or ready."""
        self._ending: dict[int, Worker] = {}
        self.server: ForkServer | None = None
        self._old_servers: list[ForkServer] = []  # not reaped yet
        self._is_serving = False  # the server has loaded the handler
        self._timer: asyncio.TimerHandle | None = None  # limits the server's loading, or waits for its next start
        self._fill_timer: asyncio.TimerHandle | None = None
        self._num_lost_servers = 0  # since a worker was last ready
        self._retry_at: float | None = None  # the loop's time; None while the crew has not given up
        self._num_failed_starts = 0  # since a worker was last ready
        self._num_fruitless = 0  # workers lost with no request sent to them, since a reply

    # The server.

    def start_server(self) -> None:
        """Start the fork server; the workers follow when it has loaded the handler."""
        self._retry_at = None
        try:
            self.server = ForkServer(self._loop, self._setup, self._on_message, self._server_ended)
        except (OSError, ValueError, SubprocessError) as error:
            self._lose_server(f"the fork server cannot be started: {describe(error)}")
            return
        late = f"the handler was not loaded within {LOAD_TIMEOUT_S:g} s"
        self._timer = self._loop.call_later(LOAD_TIMEOUT_S, partial(self._lose_server, late, is_broken=True))

    def retry(self) -> None:
        """Start the fork server again if the crew has given up and not tried for a while."""
        if self._retry_at is not None and self._loop.time() >= self._retry_at:
            self.start_server()

    def _on_message(self, kind: bytes, number: int, text: str, channel: socket | None) -> None:
        if kind == READY:
            self._server_ready(int(text), number)
        elif kind == FAILED:
            self._lose_server(f"the handler cannot be loaded: {text}", is_broken=True)
        elif kind == STARTED:
            self._worker_started(number, int(text), channel)
        elif kind == ENDED:
            self._worker_ended(number, text)
        elif kind == STOPPED and number in self.workers and self.workers[number].job is None:
            self.lose(self.workers[number], None)  # at once, not when the next request is late
        elif kind == OVER_MEMORY and number in self.workers:
            self._on_over_memory(self.workers[number], text)

    def _server_ready(self, pid: int, num_threads: int) -> None:
        assert self.server is not None
        self.server.pid = pid
        self._cancel_timers()
        self._is_serving = True
        if num_threads > 1:
            logger.warning(
                "Workers are not forked, each loads the handler: it left the fork server with %d threads", num_threads
            )
        self._fill()

    def _server_ended(self) -> None:
        self._lose_server("the fork server ended")

    def _lose_server(self, reason: str, *, is_broken: bool = False) -> None:
        """Drop the server with its workers; start another, at once if workers came up in this one."""
        self._num_lost_servers += 1
        logger.warning("The verifier's fork server is replaced: %s", reason)
        is_last = self._num_lost_servers > len(SERVER_START_DELAYS_S)
        if is_broken or is_last:
            self._on_broken(reason)
        self._drop_server(reason)
        if is_last:
            num_retries = self._num_lost_servers - len(SERVER_START_DELAYS_S) - 1
            self._retry_at = self._loop.time() + RETRY_DELAYS_S[min(num_retries, len(RETRY_DELAYS_S) - 1)]
        else:
            delay_s = SERVER_START_DELAYS_S[self._num_lost_servers - 1]
            self._timer = self._loop.call_later(delay_s, self.start_server)
        self._reap_servers()

    def _drop_server(self, reason: str, *, in_order: bool = False) -> None:
        self._cancel_timers()
        self._is_serving = False
        if self.server is not None:
            (self.server.stop if in_order else self.server.kill)()
            self._old_servers.append(self.server)
            self.server = None
        lost, self.workers = list(self.workers.values()), {}
        for worker in lost:
            self._disconnect(worker, reason)
        for worker in [*lost, *self._ending.values()]:
            worker.disarm()
            self._on_ended(worker, reason)
        self._ending.clear()

    def _cancel_timers(self) -> None:
        for timer in (self._timer, self._fill_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._fill_timer = None

    def _reap_servers(self) -> None:
        self._old_servers = [server for server in self._old_servers if not server.ended]
        for server in self._old_servers:
            server.kill()
        if self._old_servers:
            self._loop.call_later(0.02, self._reap_servers)

    async def stop(self, reason: str) -> None:
        """End all processes and wait until they have ended."""
        self._drop_server(reason, in_order=True)
        deadline = time.monotonic() + CLOSE_TIMEOUT_S
        while self._old_servers:
            await asyncio.sleep(0.002)
            if time.monotonic() > deadline:
                for server in self._old_servers:
                    server.kill()
            self._old_servers = [server for server in self._old_servers if not server.ended]

    # The workers.

    def _fill(self) -> None:
        self._fill_timer = None
        while self.server is not None and self._is_serving and len(self.workers) < self._num_workers:
            worker = Worker(number=next(self._numbers))
            self.workers[worker.number] = worker
            self._limit(worker, "the fork server did not start a worker")
            self.server.fork(worker.number)

    def _refill(self) -> None:
        """Replace at once, unless workers end by themselves one after the other: then within a second."""
        excess = min(self._num_fruitless - self._num_workers - NUM_FREE_STARTS, 5)
        if excess <= 0:
            self._fill()
        elif self._fill_timer is None:
            self._fill_timer = self._loop.call_later(0.025 * 2**excess, self._fill)

    def _limit(self, worker: Worker, what: str) -> None:
        reason = f"{what} within {SERVER_TIMEOUT_S:g} s"
        worker.timer = self._loop.call_later(SERVER_TIMEOUT_S, self._lose_server, reason)

    def _worker_started(self, number: int, pid: int, channel: socket | None) -> None:
        worker = self.workers.get(number)
        if worker is None:
            if channel is not None:
                channel.close()
            return
        if channel is None:  # this process has no descriptor left: try again a little later
            self._num_fruitless = max(self._num_fruitless, self._num_workers + NUM_FREE_STARTS + 2)
            self.retire(worker)
            return
        worker.disarm()
        worker.pid = pid
        worker.channel = Channel(self._loop, channel, partial(self._received, worker), partial(self.lose, worker))
        late = f"the worker did not load the handler within {LOAD_TIMEOUT_S:g} s"
        worker.timer = self._loop.call_later(LOAD_TIMEOUT_S, self.lose, worker, late)

    def _received(self, worker: Worker, number: int, reply: bytes) -> None:
        if worker.is_ready:
            worker.num_done += 1
            self._num_fruitless = 0
            self._on_reply(worker, number, reply)
            return
        worker.is_ready = True  # the first message says no more than that
        worker.disarm()
        self._num_failed_starts = self._num_lost_servers = 0
        self._on_broken(None)
        self._on_ready(worker)

    def lose(self, worker: Worker, reason: str | None) -> None:
        """A worker ended unasked, or cannot be trusted any more: replace it."""
        if self.workers.get(worker.number) is not worker:
            return
        if worker.request == 0:
            self._num_fruitless += 1
        if not worker.is_ready:
            self._num_failed_starts += 1
        self.retire(worker, reason, is_lost=True)

    def retire(self, worker: Worker, reason: str | None = None, *, is_lost: bool = False) -> bool:
        """End a worker and replace it.

        Returns:
            False if that was done before.
        """
        if self.workers.pop(worker.number, None) is None:
            return False
        self._ending[worker.number] = worker
        self._disconnect(worker, reason, is_lost=is_lost)
        self._limit(worker, "the fork server did not end a worker")
        if self.server is not None:
            self.server.kill_worker(worker.number)
        self._refill()
        return True

    def _disconnect(self, worker: Worker, reason: str | None, *, is_lost: bool = True) -> None:
        worker.disarm()
        if worker.channel is not None:
            worker.channel.close()
        if worker.is_ready and is_lost:
            self._on_down(worker, reason)
        worker.is_ready = False

    def _worker_ended(self, number: int, how: str) -> None:
        if number in self.workers:  # its socket does not tell: something else holds it open
            self.lose(self.workers[number], None)
        worker = self._ending.pop(number, None)
        if worker is None:
            return
        worker.disarm()
        self._on_ended(worker, how)
        if self._num_failed_starts >= MAX_FAILED_STARTS:
            self._num_failed_starts = 0
            self._lose_server(f"workers end before they are ready ({how})", is_broken=True)
