"""The worker pool with its real processes: whatever happens in them, each call is answered and the pool recovers."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from verl_multiattempt import verifier_crew
from verl_multiattempt.verifier_pool import PoolStats, Reply, WorkerPool

# Sockets and processes that are not closed in order would show as warnings.
pytestmark = pytest.mark.filterwarnings("error")

HANDLERS = "tests.unit.pool_handlers"
PATIENT_S = 30.0
RECOVERY_S = 1.0


def processes(of: psutil.Process | None = None) -> set[int]:
    """Servers, workers, what they started, and zombies of all these, below this process."""
    return {child.pid for child in (of or psutil.Process()).children(recursive=True)}


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def until(condition: Callable[[], bool], timeout_s: float = PATIENT_S) -> float:
    """Wait for a condition; the seconds that it took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, "it did not happen in time"
        await asyncio.sleep(0.002)
    return time.monotonic() - started


@asynccontextmanager
async def make_pool(
    handler: str = "actions", kwargs: dict[str, Any] | None = None, **settings: Any
) -> AsyncIterator[WorkerPool]:
    """A pool, of two workers if nothing else is said; afterwards nothing of it may be left, not even a zombie."""
    before = processes()
    defaults = {"num_workers": 2, "timeout_s": PATIENT_S, "memory_limit_mb": 128}
    pool = WorkerPool(f"{HANDLERS}:{handler}", kwargs, **(defaults | settings))
    try:
        yield pool
    finally:
        await pool.close()
    assert not new_processes(before)


def new_processes(before: set[int]) -> set[int]:
    """Processes below this one that came since; what an older one started (another test's Ray) is not the pool's."""
    found, unseen = set(), psutil.Process().children()
    while unseen:
        process = unseen.pop()
        if process.pid not in before:
            found.add(process.pid)
            with suppress(psutil.NoSuchProcess):
                unseen += process.children()
    return found


async def bring_up(pool: WorkerPool, num_workers: int = 2) -> None:
    assert (await pool.call(("echo", 1))).value == 1
    await until(lambda: pool.num_ready == num_workers)


def patience_s() -> float:
    """`RECOVERY_S`; more on a machine with other work, which is late by itself."""
    return RECOVERY_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


async def assert_recovers(pool: WorkerPool, num_workers: int = 2) -> None:
    """At full strength within a second, with so many processes and no more, and right again."""
    await until(lambda: pool.num_ready == num_workers, patience_s())
    replies = await asyncio.gather(*(pool.call(("echo", k)) for k in range(2 * num_workers)))
    assert [(reply.value, reply.fault) for reply in replies] == [(k, None) for k in range(2 * num_workers)]
    assert pool.server_pid is not None
    server = psutil.Process(pool.server_pid)
    await until(lambda: {child.pid for child in server.children()} == set(pool.worker_pids))


# Calls.


async def test_call_returns_what_the_callable_returned_by_way_of_json() -> None:
    async with make_pool() as pool:
        reply = await pool.call(("echo", {"a": (1, 2.5, None, "é\ud800")}))
        assert reply.value == {"a": [1, 2.5, None, "é\ud800"]}
        assert (reply.fault, reply.detail) == (None, None)
        assert 0 < reply.seconds < PATIENT_S
        assert pool.stats == PoolStats(calls=1)


async def test_handler_gets_its_arguments() -> None:
    async with make_pool("adder", {"to_add": 5}) as pool:
        assert (await pool.call(37)).value == 42


async def test_handler_is_found_on_the_callers_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "handler_of_mine.py").write_text("def make():\n    return str.upper\n")
    monkeypatch.syspath_prepend(tmp_path)
    pool = WorkerPool("handler_of_mine:make", num_workers=1, timeout_s=PATIENT_S, memory_limit_mb=256)
    assert (await pool.call("yes")).value == "YES"
    await pool.close()


async def test_300_calls_at_once_each_get_their_own_answer() -> None:
    async with make_pool() as pool:
        replies = await asyncio.gather(*(pool.call(("echo", k)) for k in range(300)))
        assert [reply.value for reply in replies] == list(range(300))
        assert pool.stats == PoolStats(calls=300)


async def test_workers_work_side_by_side() -> None:
    async with make_pool() as pool:
        await bring_up(pool)
        started = time.monotonic()
        await asyncio.gather(*(pool.call(("sleep", 0.5)) for _ in range(2)))
        assert 0.5 <= time.monotonic() - started < 0.95
        pids = await asyncio.gather(*(pool.call(("pid",)) for _ in range(2)))
        assert {reply.value for reply in pids} <= set(pool.worker_pids)


async def test_requests_of_many_megabytes_pass() -> None:
    async with make_pool() as pool:
        replies = await asyncio.gather(*(pool.call(("length", b"x" * (k * 2**20))) for k in range(9)))
        assert [reply.value for reply in replies] == [k * 2**20 for k in range(9)]


async def test_what_a_handler_prints_goes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    async with make_pool() as pool:
        assert (await pool.call(("print", "spoken"))).value == "printed"
        assert (await pool.call(("read_stdin",))).value == ""
        await assert_recovers(pool)
        assert pool.stats.replaced == 0
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("spoken") == 3


async def test_worker_has_no_socket_but_its_own() -> None:
    async with make_pool(num_workers=3) as pool:
        await bring_up(pool, 3)
        replies = await asyncio.gather(*(pool.call(("sockets",)) for _ in range(6)))
        assert [reply.value for reply in replies] == [1] * 6


async def test_environment_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    async with make_pool() as pool:
        assert (await pool.call(("environment", "PYTHONPATH"))).value == "/somewhere"
        assert (await pool.call(("environment", "OMP_NUM_THREADS"))).value == "1"
    monkeypatch.delenv("PYTHONPATH")
    async with make_pool() as pool:
        assert (await pool.call(("environment", "PYTHONPATH"))).value is None


async def test_recursion_of_9000_calls_is_no_fault() -> None:
    async with make_pool() as pool:
        assert (await pool.call(("recurse", 9_000))).value == 9_000


# Faults of requests. The pool recovers within a second from each.


class Exploding:
    """Pickles, and raises when it is unpickled."""

    def __reduce__(self) -> Any:
        return (int, ("no number",))


FRAME_OF_NO_REQUEST = (2).to_bytes(8, "big") + (10**6).to_bytes(8, "big") + b"{}"
FRAME_OF_NO_JSON = (3).to_bytes(8, "big") + (1).to_bytes(8, "big") + b"\xff{["

OVER_WITH_OTHERS = "over 128 MB with shared memory and what it started"

FAULTS: dict[str, tuple[Any, str, str, int]] = {
    # request, fault, detail, workers replaced
    "raises": (("raise", "a\nb"), "error", "ValueError: a b", 0),
    "raises at length": (("raise", "x" * 10**6), "error", "ValueError: x{400,500}", 0),
    "raises what cannot be told": (
        ("raise_unprintable",),
        "error",
        r"Unprintable: \(its text raised RuntimeError\)",
        0,
    ),
    "recurses": (("recurse", 10**6), "error", "RecursionError: .*", 0),
    "returns no JSON": (("echo", {1, 2}), "error", "TypeError: .* not JSON serializable", 0),
    "returns 2 MB": (("echo", "x" * 2**21), "error", "ValueError: a reply must have at most 1048576 bytes .*", 0),
    "cannot be pickled": (("echo", lambda: 0), "error", "the request cannot be pickled: .*", 0),
    "cannot be unpickled": (Exploding(), "error", "ValueError: invalid literal .*", 0),
    "exits": (("exit", 3), "died", r"the worker ended \(exit status 3\)", 1),
    "exits hard": (("hard_exit", 4), "died", r"the worker ended \(exit status 4\)", 1),
    "killed": (("kill_self", signal.SIGKILL), "died", r"the worker ended \(signal 9, Killed\)", 1),
    "terminated": (("kill_self", signal.SIGTERM), "died", r"the worker ended \(signal 15, Terminated\)", 1),
    "crashes": (("crash",), "died", r"the worker ended \(signal 11, .*\)", 1),
    "closes its socket": (("close_all",), "died", r"the worker ended \(signal 9, Killed\)", 1),
    "dies, its socket held open": (("die_while_child_holds_socket",), "died", r"the worker ended \(exit status 9\)", 1),
    "writes garbage": (("write_to_pool", b"garbage" * 9), "died", "the worker sent what is no reply: b'garbageg.*", 1),
    "writes one byte": (("write_to_pool", b"\0"), "died", "the worker sent what is no reply: .*", 1),
    "answers another request": (("write_to_pool", FRAME_OF_NO_REQUEST), "died", "the worker sent what is no .*", 1),
    "writes no JSON": (("write_to_pool", FRAME_OF_NO_JSON), "died", "the worker sent what is no reply: .*", 1),
    "sleeps": (("sleep", 3600), "timeout", "no reply within 1 s", 1),
    "hangs in C": (("huge_power",), "timeout", "no reply within 1 s", 1),
    "stopped": (("kill_self", signal.SIGSTOP), "timeout", "no reply within 1 s", 1),
    "fills memory": (("fill_memory", 4096), "memory", "over 128 MB", 1),
    "fills shared memory": (("fill_shared_memory", 256), "memory", OVER_WITH_OTHERS, 1),
    "fills memory in children": (("fill_memory_in_children", 3, 60, False), "memory", OVER_WITH_OTHERS, 1),
    "fills memory in sessions": (("fill_memory_in_children", 3, 60, True), "memory", OVER_WITH_OTHERS, 1),
    "is bigger than memory": (("length", b"x" * (150 * 2**20)), "memory", "over 128 MB", 1),
}


@pytest.mark.parametrize("name", FAULTS)
async def test_fault_is_told_and_the_pool_recovers(name: str) -> None:
    request, fault, detail, num_replaced = FAULTS[name]
    async with make_pool(timeout_s=1.0 if fault == "timeout" else PATIENT_S) as pool:
        await bring_up(pool)
        before = pool.worker_pids
        reply = await pool.call(request)
        assert (reply.fault, reply.value) == (fault, None)
        assert re.fullmatch(detail, reply.detail or ""), reply.detail
        await assert_recovers(pool)
        assert len(set(pool.worker_pids) - set(before)) == num_replaced
        assert (pool.stats.replaced, pool.stats.recycled) == (num_replaced, 0)
        counts = {"timeout": "timeouts", "died": "deaths", "memory": "over_memory", "error": "errors"}
        assert {kind: getattr(pool.stats, counts[kind]) for kind in counts} == {k: int(k == fault) for k in counts}


async def test_overflow_of_the_c_stack_is_a_fault() -> None:
    async with make_pool() as pool:
        await bring_up(pool)
        reply = await pool.call(("recurse_through_c",))
        assert reply.fault == "died" or (reply.detail or "").startswith("RecursionError: ")  # from Python 3.12 on
        await assert_recovers(pool)


async def test_resident_memory_stays_under_the_cap() -> None:
    async with make_pool() as pool:
        reply = await pool.call(("fill_memory_and_report", 4096))
        assert 64 < reply.value <= 128 + 32  # pages of mapped libraries are not counted


async def test_memory_that_children_share_counts_once() -> None:
    async with make_pool() as pool:
        assert (await pool.call(("share_memory_with_children", 60, 4, 1.0))).value == 60
        assert pool.stats.replaced == 0


@pytest.mark.parametrize("daemon", [False, True])
async def test_what_a_request_left_behind_is_capped_too(daemon: bool) -> None:
    async with make_pool(num_workers=1) as pool:
        await bring_up(pool, 1)
        assert (await pool.call(("leave_growing_child", 256, daemon))).fault is None
        assert pool.server_pid is not None
        server = psutil.Process(pool.server_pid)
        if daemon:
            await until(lambda: len(processes(server)) == 1)
        else:
            await until(lambda: pool.stats.replaced == 1)
        await assert_recovers(pool, 1)
        assert pool.stats.replaced == int(not daemon)  # a daemon is no worker's any more, and is ended alone


def test_where_the_cap_on_data_does_not_bind_the_address_space_is_capped() -> None:
    code = """
import resource
from verl_multiattempt import verifier_worker
resource.RLIMIT_DATA = resource.RLIMIT_CORE
verifier_worker.limit_memory(1000)
try:
    b"x" * 2**31
except MemoryError:
    print(resource.getrlimit(resource.RLIMIT_AS)[0] == 1000 * 2**20)
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "True\n"


async def test_timeout_is_not_spent_in_the_queue() -> None:
    async with make_pool(num_workers=1, timeout_s=1.0) as pool:
        replies = await asyncio.gather(*(pool.call(("sleep", 0.3)) for _ in range(4)))
        assert [reply.fault for reply in replies] == [None] * 4
        assert replies[-1].seconds >= 1.2


async def test_timeout_is_kept() -> None:
    async with make_pool(timeout_s=1.0) as pool:
        await bring_up(pool)
        reply = await pool.call(("sleep", 3600))
        assert 1.0 <= reply.seconds < 1.5


@pytest.mark.parametrize("own_session", [False, True])
async def test_what_a_killed_worker_started_ends_too(tmp_path: Path, own_session: bool) -> None:
    async with make_pool(timeout_s=1.0) as pool:
        note = tmp_path / "pid"
        assert (await pool.call(("hang_with_child", str(note), own_session))).fault == "timeout"
        await until(lambda: ended(int(note.read_text())), patience_s())
        await assert_recovers(pool)


async def test_faults_are_logged_with_bounds(caplog: pytest.LogCaptureFixture) -> None:
    async with make_pool() as pool:
        for _ in range(120):
            await pool.call(("raise", "x" * 10**5))
    logged = [record.getMessage() for record in caplog.records if "Verification fault" in record.getMessage()]
    assert len(logged) == 11  # ten, and the hundredth
    assert "'error', number 100: ValueError: xxx" in logged[-1]
    assert max(map(len, logged)) < 1000


# Faults from outside.


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
async def test_idle_worker_that_dies_or_stops_is_replaced_at_once(number: signal.Signals) -> None:
    async with make_pool(timeout_s=5.0) as pool:
        await bring_up(pool)
        victim = pool.worker_pids[1]
        os.kill(victim, number)
        await until(lambda: victim not in pool.worker_pids, patience_s())
        await assert_recovers(pool)
        assert pool.stats == PoolStats(calls=5, replaced=1)


async def test_worker_killed_during_a_verification() -> None:
    async with make_pool() as pool:
        await bring_up(pool)
        hanging = [asyncio.create_task(pool.call(("sleep", 3600))) for _ in range(2)]
        await asyncio.sleep(0.1)
        for pid in pool.worker_pids:
            os.kill(pid, signal.SIGKILL)
        for reply in await asyncio.gather(*hanging):
            assert (reply.fault, reply.detail) == ("died", "the worker ended (signal 9, Killed)")
        await assert_recovers(pool)
        assert (pool.stats.deaths, pool.stats.replaced) == (2, 2)


async def test_many_deadly_requests_in_a_row_do_not_slow_the_pool() -> None:
    async with make_pool() as pool:
        await bring_up(pool)
        started = time.monotonic()
        for _ in range(30):
            assert (await pool.call(("hard_exit", 1))).fault == "died"
        assert time.monotonic() - started < 6.0  # with the delay for workers that end by themselves: over ten seconds
        await assert_recovers(pool)


async def test_workers_that_die_idle_one_after_the_other_are_replaced_within_a_second() -> None:
    async with make_pool() as pool:
        await bring_up(pool)
        for _ in range(12):
            victim = pool.worker_pids[0]
            os.kill(victim, signal.SIGKILL)
            await until(lambda victim=victim: victim not in pool.worker_pids)
            await until(lambda: pool.num_ready == 2, 1.5)
        assert pool.stats.replaced == 12
        await assert_recovers(pool)


async def test_call_right_after_a_kill_goes_to_a_living_worker() -> None:
    async with make_pool() as pool:
        await bring_up(pool)
        for _ in range(10):
            for victim in pool.worker_pids:
                os.kill(victim, signal.SIGKILL)
                while not ended(victim):
                    time.sleep(0.001)  # not asyncio.sleep: the loop must not see the end before the call
            assert (await pool.call(("echo", 7))).value == 7
            await assert_recovers(pool)


async def test_ctrl_c_is_not_for_workers() -> None:
    async with make_pool() as pool:
        await bring_up(pool)
        before = pool.worker_pids
        for pid in [*before, pool.server_pid]:
            assert pid is not None
            os.kill(pid, signal.SIGINT)
        await assert_recovers(pool)
        assert pool.worker_pids == before


async def test_server_killed_in_mid_work() -> None:
    async with make_pool() as pool:
        await bring_up(pool)
        server, before = pool.server_pid, pool.worker_pids
        waiting = [asyncio.create_task(pool.call(("sleep", 3600))) for _ in range(2)]
        waiting += [asyncio.create_task(pool.call(("echo", k))) for k in range(5)]
        await asyncio.sleep(0.1)
        assert server is not None
        os.kill(server, signal.SIGKILL)
        replies = await asyncio.gather(*waiting)
        assert [(reply.fault, reply.value) for reply in replies] == [("died", None)] * 2 + [(None, k) for k in range(5)]
        assert replies[0].detail == "the fork server ended"
        await assert_recovers(pool)
        assert pool.server_pid != server
        await until(lambda: all(ended(pid) for pid in before))


@pytest.mark.parametrize("generations", [1, 2])
async def test_worker_that_kills_the_server_or_its_guard_leaves_nothing(tmp_path: Path, generations: int) -> None:
    async with make_pool() as pool:
        await bring_up(pool)
        note, server = tmp_path / "pid", pool.server_pid
        reply = await pool.call(("kill_above", generations, str(note)))
        assert reply.fault == "died"
        assert "the fork server ended" in (reply.detail or "")
        await until(lambda: ended(int(note.read_text())), patience_s())
        await until(lambda: pool.server_pid not in (None, server))
        await assert_recovers(pool)


async def test_guard_that_is_stopped_holds_nothing_up() -> None:
    async with make_pool() as pool:
        await bring_up(pool)
        assert pool.server_pid is not None
        guard = psutil.Process(pool.server_pid).parent()
        assert guard is not None
        guard.suspend()
        os.kill(pool.server_pid, signal.SIGKILL)
        await until(lambda: not guard.is_running(), 5.0)
        await until(lambda: pool.num_ready == 2)
        await assert_recovers(pool)


async def test_server_that_does_not_answer_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier_crew, "SERVER_TIMEOUT_S", 0.3)
    async with make_pool() as pool:
        await bring_up(pool)
        server = pool.server_pid
        assert server is not None
        os.kill(server, signal.SIGSTOP)
        reply = await pool.call(("exit", 0))
        assert reply.fault == "died"
        assert re.search(r"the fork server did not (start|end) a worker within 0.3 s", reply.detail or "")
        await until(lambda: pool.num_ready == 2)
        await assert_recovers(pool)
        assert pool.server_pid != server


async def test_server_that_is_stopped_is_killed_by_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier_crew, "CLOSE_TIMEOUT_S", 0.3)
    async with make_pool() as pool:
        await bring_up(pool)
        assert pool.server_pid is not None
        workers = pool.worker_pids
        os.kill(pool.server_pid, signal.SIGSTOP)
    await until(lambda: all(ended(pid) for pid in workers))


# Handlers that cannot be had.


@pytest.mark.parametrize(
    ("handler", "detail"),
    [
        ("no_such_module:make", "ModuleNotFoundError: No module named 'no_such_module'"),
        (f"{HANDLERS}:nothing", f"AttributeError: module '{HANDLERS}' has no attribute 'nothing'"),
        (f"{HANDLERS}:failing", "LookupError: no such thing"),
        (
            f"{HANDLERS}:not_a_factory",
            f"TypeError: handler {HANDLERS}:not_a_factory must return a callable; got 5. Name the factory.",
        ),
    ],
)
async def test_handler_that_cannot_be_loaded_is_an_error_of_each_call(handler: str, detail: str) -> None:
    pool = WorkerPool(handler, num_workers=2, timeout_s=PATIENT_S, memory_limit_mb=256)
    replies = [*await asyncio.gather(*(pool.call(k) for k in range(3))), await pool.call(3)]
    expected = ("error", f"the handler cannot be loaded: {detail}")
    assert [(reply.fault, reply.detail) for reply in replies] == [expected] * 4
    assert replies[3].seconds < 0.1
    await pool.close()


async def test_loading_is_not_repeated_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier_crew, "SERVER_START_DELAYS_S", (0.0, 0.05, 0.05))
    note = tmp_path / "loads"
    async with make_pool("counted_failure", {"path": str(note)}) as pool:
        assert (await pool.call(0)).fault == "error"
        await until(lambda: len(note.read_text()) == 4)
        for _ in range(20):
            assert (await pool.call(0)).detail == "the handler cannot be loaded: LookupError: never"
        await asyncio.sleep(0.4)
        assert len(note.read_text()) == 4
        await asyncio.sleep(0.6)  # it has been given up for a second
        replies = [await pool.call(0) for _ in range(20)]
        assert max(reply.seconds for reply in replies) < 0.1
        await until(lambda: len(note.read_text()) == 5)
        await asyncio.sleep(1.0)  # and now for two
        for _ in range(20):
            assert (await pool.call(0)).fault == "error"
        await asyncio.sleep(0.4)
        assert len(note.read_text()) == 5


async def test_handler_that_loads_later_mends_the_pool(tmp_path: Path) -> None:
    async with make_pool("flaky", {"marker": str(tmp_path / "marker")}) as pool:
        assert (await pool.call(5)).detail == "the handler cannot be loaded: OSError: not yet"
        await until(lambda: pool.num_ready == 2)
        assert (await pool.call(5)).value == 5


@pytest.mark.parametrize(
    ("handler", "detail"),
    [
        ("exiting_server", "the fork server ended"),
        ("stillborn", r"workers end before they are ready \(exit status 3\)"),
    ],
)
async def test_processes_that_die_at_their_start(handler: str, detail: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier_crew, "SERVER_START_DELAYS_S", (0.0, 0.05, 0.05))
    async with make_pool(handler) as pool:
        replies = await asyncio.gather(*(pool.call(("echo", k)) for k in range(3)))
        for reply in [*replies, await pool.call(0)]:
            assert reply.fault == "error"
            assert re.fullmatch(detail, reply.detail or ""), reply.detail


async def test_server_that_cannot_be_started_is_an_error_of_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    async with make_pool() as pool:
        for _ in range(2):
            reply = await pool.call(("echo", 1))
            assert reply.fault == "error"
            assert (reply.detail or "").startswith("the fork server cannot be started: FileNotFoundError: ")
        monkeypatch.undo()
        await asyncio.sleep(verifier_crew.RETRY_DELAYS_S[0])
        assert (await pool.call(("echo", 1))).fault == "error"  # at once, but it makes the pool try
        await until(lambda: pool.num_ready == 2)
        await assert_recovers(pool)


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


async def test_short_want_of_descriptors_at_the_start_is_waited_out() -> None:
    async with make_pool() as pool:
        with no_descriptor_left():
            call = asyncio.create_task(pool.call(("echo", 1)))
            await asyncio.sleep(0.3)
        assert (await call).value == 1
        await until(lambda: pool.num_ready == 2)
        await assert_recovers(pool)


async def test_want_of_descriptors_while_workers_die_is_waited_out() -> None:
    async with make_pool() as pool:
        await bring_up(pool)
        with no_descriptor_left():
            for pid in pool.worker_pids:
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.5)
            assert pool.num_ready == 0
        assert (await pool.call(("echo", 1))).value == 1
        await until(lambda: pool.num_ready == 2)
        await assert_recovers(pool)


async def test_pool_recovers_from_an_outage_in_which_it_gave_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier_crew, "SERVER_START_DELAYS_S", (0.0, 0.05, 0.05))
    monkeypatch.setattr(verifier_crew, "RETRY_DELAYS_S", (0.1, 0.2))
    async with make_pool() as pool:
        await bring_up(pool)
        server = pool.server_pid
        assert server is not None
        with no_descriptor_left():
            os.kill(server, signal.SIGKILL)
            await asyncio.sleep(0.5)
            for _ in range(8):  # each of which makes it try, in vain
                reply = await pool.call(("echo", 1))
                assert "the fork server cannot be started: OSError: [Errno 24]" in (reply.detail or "")
                assert (reply.fault, reply.seconds < 0.1) == ("error", True)
                await asyncio.sleep(0.1)
        await asyncio.sleep(0.2)
        assert (await pool.call(("echo", 1))).fault == "error"
        await until(lambda: pool.num_ready == 2)
        await assert_recovers(pool)


CLOSED = f"""
import asyncio, sys
from verl_multiattempt.verifier_pool import WorkerPool
async def main():
    pool = WorkerPool("{HANDLERS}:actions", num_workers=1, timeout_s=60, memory_limit_mb=256)
    replies = [await pool.call(request) for request in (("print", "spoken"), ("exit", 1), ("echo", 5))]
    await pool.close()
    with open(sys.argv[1], "w") as file:
        file.write(repr([reply.value if reply.fault is None else reply.fault for reply in replies]))
asyncio.run(main())
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_program_without_standard_descriptors(closed: str, tmp_path: Path, repository: Path) -> None:
    told = tmp_path / "told"
    shell = ["sh", "-c", f'"$@" {closed}', "sh", sys.executable, "-c", CLOSED, str(told)]
    done = subprocess.run(shell, cwd=repository, timeout=60, capture_output=True, text=True)
    assert told.read_text() == "['printed', 'died', 5]"
    assert done.stdout == ""
    assert done.stderr.count("spoken") == (0 if "2>" in closed else 3)


async def test_handler_that_starts_threads_gets_workers_that_are_not_forked(caplog: pytest.LogCaptureFixture) -> None:
    async with make_pool("threaded", timeout_s=5.0) as pool:
        await bring_up(pool)
        os.kill(pool.worker_pids[0], signal.SIGKILL)
        await asyncio.sleep(0.1)
        for request, fault in [(("exit", 1), "died"), (("fill_memory", 4096), "memory"), (("raise", ""), "error")]:
            assert (await pool.call(request)).fault == fault
        await until(lambda: pool.num_ready == 2)
        await assert_recovers(pool)
        assert (await pool.call(("sockets",))).value == 1
        assert pool.stats.replaced == 3
    logged = [record.getMessage() for record in caplog.records if "not forked" in record.getMessage()]
    assert logged == ["Workers are not forked, each loads the handler: it left the fork server with 2 threads"]


# Queue, recycling, cancellation.


class CountsPickling:
    num_pickled = 0

    def __reduce__(self) -> Any:
        CountsPickling.num_pickled += 1
        return (tuple, (["sleep", 0.05],))


async def test_queue_is_bounded_and_the_others_wait() -> None:
    async with make_pool(num_workers=1, queue_size=3) as pool:
        await bring_up(pool, 1)
        hanging = asyncio.create_task(pool.call(("sleep", 0.5)))
        await asyncio.sleep(0.1)
        CountsPickling.num_pickled = 0
        waiting = [asyncio.create_task(pool.call(CountsPickling())) for _ in range(10)]
        await asyncio.sleep(0.1)
        assert CountsPickling.num_pickled == 3  # a call's request is pickled when it is queued
        assert [reply.fault for reply in await asyncio.gather(hanging, *waiting)] == [None] * 11


async def test_worker_is_recycled() -> None:
    async with make_pool(num_workers=1, recycle_after=3) as pool:
        pids = [(await pool.call(("pid",))).value for _ in range(10)]
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3, 1]
        await assert_recovers(pool, 1)
        assert (pool.stats.recycled, pool.stats.replaced) == (4, 0)


async def test_cancelled_call_gives_its_worker_back() -> None:
    async with make_pool() as pool:
        await bring_up(pool)
        before = pool.worker_pids
        hanging = [asyncio.create_task(pool.call(("sleep", 3600))) for _ in range(2)]
        waiting = asyncio.create_task(pool.call(("echo", 5)))
        await asyncio.sleep(0.1)
        for task in hanging:
            task.cancel()
        assert all(
            isinstance(e, asyncio.CancelledError) for e in await asyncio.gather(*hanging, return_exceptions=True)
        )
        assert (await waiting).value == 5
        await assert_recovers(pool)
        assert not set(pool.worker_pids) & set(before)
        assert pool.stats == PoolStats(calls=6, replaced=2)


async def test_call_cancelled_while_it_waits_is_not_run(tmp_path: Path) -> None:
    note = tmp_path / "note"
    async with make_pool(num_workers=1, queue_size=4) as pool:
        await bring_up(pool, 1)
        hanging = asyncio.create_task(pool.call(("sleep", 0.3)))
        await asyncio.sleep(0.05)
        many = [asyncio.create_task(pool.call(("append", str(note), str(k)))) for k in range(8)]
        await asyncio.sleep(0.05)  # four are queued, four wait for room
        for task in many[::2]:
            task.cancel()
        done = await asyncio.gather(hanging, *many, return_exceptions=True)
        assert [isinstance(one, Reply) for one in done] == [True] + [False, True] * 4
        assert sorted(note.read_text()) == ["1", "3", "5", "7"]
        await assert_recovers(pool, 1)
        assert pool.stats.replaced == 0


async def test_the_loop_does_not_wait_for_a_worker_that_does_not_read() -> None:
    async with make_pool(timeout_s=1.0) as pool:
        await bring_up(pool)
        stuck = asyncio.create_task(pool.call(("kill_self", signal.SIGSTOP)))
        await asyncio.sleep(0.1)
        gaps, last = [], time.monotonic()
        big = [asyncio.create_task(pool.call(("length", b"x" * 2**23))) for _ in range(4)]
        while not (stuck.done() and all(task.done() for task in big)):
            await asyncio.sleep(0.001)
            gaps.append(time.monotonic() - last)
            last = time.monotonic()
        assert stuck.result().fault == "timeout"
        assert [task.result().value for task in big] == [2**23] * 4
        assert max(gaps) < 0.5


# Closing, loops, parents.


async def test_close_may_be_called_at_any_time_and_again() -> None:
    pool = WorkerPool(f"{HANDLERS}:actions", num_workers=1, timeout_s=1.0, memory_limit_mb=256)
    await pool.close()  # before anything was started
    assert (await pool.call(("echo", 1))).detail == "the pool is closed"
    async with make_pool() as pool:
        starting = asyncio.create_task(pool.call(("echo", 1)))
        await asyncio.sleep(0)
        await asyncio.gather(pool.close(), pool.close())
        assert ((await starting).fault, starting.result().detail) == ("died", "the pool was closed")
    async with make_pool() as pool:
        await bring_up(pool)
        workers = pool.worker_pids
        await asyncio.gather(pool.close(), pool.close())
        await pool.close()
        assert not any(psutil.pid_exists(pid) for pid in workers)
        assert (pool.num_ready, pool.server_pid) == (0, None)


async def test_calls_under_way_are_answered_when_the_pool_is_closed() -> None:
    async with make_pool(queue_size=2) as pool:
        await bring_up(pool)
        waiting = [asyncio.create_task(pool.call(("sleep", 3600))) for _ in range(8)]  # 2 run, 2 are queued, 4 wait
        await asyncio.sleep(0.1)
        await pool.close()
        replies = await asyncio.gather(*waiting)
        assert [(reply.fault, reply.detail) for reply in replies] == [("died", "the pool was closed")] * 8
        late = await pool.call(("echo", 1))
        assert (late.fault, late.detail) == ("error", "the pool is closed")
        assert pool.stats == PoolStats(calls=10, deaths=8, errors=1)


@pytest.mark.parametrize("own_session", [False, True])
async def test_close_ends_what_workers_started(own_session: bool) -> None:
    async with make_pool() as pool:
        children = [(await pool.call(("leave_child", 3600, own_session))).value for _ in range(2)]
        assert not any(ended(pid) for pid in children)
    assert all(ended(pid) for pid in children)


SECOND_LOOP = f"""
import asyncio
from verl_multiattempt.verifier_pool import WorkerPool
pool = WorkerPool("{HANDLERS}:actions", num_workers=1, timeout_s=60, memory_limit_mb=256)
print(asyncio.run(pool.call(("pid",))).value)
for use in (lambda: pool.call(("echo", 7)), pool.close):
    try:
        asyncio.run(use())
    except RuntimeError as error:
        print(error)
"""


async def test_second_event_loop_is_refused_and_a_pool_left_open_ends_with_its_process(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SECOND_LOOP], capture_output=True, text=True, timeout=60, check=True, cwd=repository
    )
    refusal = "a WorkerPool must be used from one event loop; got a second one. Make one for each loop."
    worker, *refusals = done.stdout.splitlines()
    assert refusals == [refusal, refusal]
    await until(lambda: ended(int(worker)), 5.0)


PARENT = f"""
import asyncio, json, psutil, sys
from verl_multiattempt.verifier_pool import WorkerPool
async def main():
    pool = WorkerPool("{HANDLERS}:" + sys.argv[1], num_workers=4, timeout_s=3600, memory_limit_mb=256)
    own_session = sys.argv[3] == "True"
    requests = [("sleep", 3600), ("huge_power",), ("hang_with_child", sys.argv[2], own_session)]  # one worker is idle
    tasks = [asyncio.create_task(pool.call(request)) for request in requests]
    while pool.num_ready < 4 or len(psutil.Process().children(recursive=True)) < 7:
        await asyncio.sleep(0.01)
    pids = [child.pid for child in psutil.Process().children(recursive=True)]
    print(json.dumps([pool.server_pid, pids]), flush=True)
    await asyncio.gather(*tasks)
asyncio.run(main())
"""


@pytest.mark.parametrize("is_server_stopped", [False, True])
@pytest.mark.parametrize("own_session", [False, True])
@pytest.mark.parametrize("handler", ["actions", "threaded"])
async def test_no_orphan_when_the_parent_is_killed(
    handler: str, own_session: bool, is_server_stopped: bool, tmp_path: Path, repository: Path
) -> None:
    command = [sys.executable, "-c", PARENT, handler, str(tmp_path / "pid"), str(own_session)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=repository)
    with parent:
        assert parent.stdout is not None
        server, pids = json.loads(await asyncio.to_thread(parent.stdout.readline))
        assert len(pids) == 7  # the guard, the server, four workers and a worker's child
        assert not any(ended(pid) for pid in pids)
        if is_server_stopped:
            os.kill(server, signal.SIGSTOP)
        parent.kill()
    await until(lambda: all(ended(pid) for pid in pids), 5.0)


LOADING = f"""
import asyncio, json, psutil
from verl_multiattempt.verifier_pool import WorkerPool
async def main():
    pool = WorkerPool("{HANDLERS}:endless", num_workers=1, timeout_s=1, memory_limit_mb=256)
    task = asyncio.create_task(pool.call(1))
    while len(psutil.Process().children(recursive=True)) < 2:
        await asyncio.sleep(0.01)
    print(json.dumps([child.pid for child in psutil.Process().children(recursive=True)]), flush=True)
    await task
asyncio.run(main())
"""


async def test_server_that_is_loading_ends_when_the_parent_is_killed(repository: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", LOADING], stdout=subprocess.PIPE, cwd=repository) as parent:
        assert parent.stdout is not None
        pids = json.loads(await asyncio.to_thread(parent.stdout.readline))  # the guard and the server
        await asyncio.sleep(1.0)
        assert not any(ended(pid) for pid in pids)
        parent.kill()
    await until(lambda: all(ended(pid) for pid in pids), 5.0)


# Settings.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"handler": "checks.length"}, "handler must be package.module:function; got 'checks.length'. "),
        ({"num_workers": 0}, "num_workers must be a whole number above 0; got 0. "),
        ({"timeout_s": 0}, "timeout_s must be above 0; got 0. "),
        ({"memory_limit_mb": 1.5}, "memory_limit_mb must be a whole number above 0; got 1.5. "),
        ({"recycle_after": -1}, "recycle_after must be a whole number above 0; got -1. "),
        ({"queue_size": 0}, "queue_size must be a whole number above 0; got 0. "),
        ({"handler_kwargs": {"key": print, "other": lambda: 0}}, "handler_kwargs must pickle; got "),
    ],
)  # fmt: skip
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    right = {"handler": f"{HANDLERS}:actions", "num_workers": 1, "timeout_s": 1.0, "memory_limit_mb": 256}
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        WorkerPool(**(right | settings))
    assert re.fullmatch(r"\w+ must .+; got .+\. [A-Z][^.]+\.", str(caught.value))


# Everything at once.

NUM_CALLS = 10_000
MIX: dict[str, tuple[float, Any, str | None]] = {
    # share, the request, its fault; any that reaches a worker may also be hit by the killer, and die or hang
    "echo": (0.951, ..., None),
    "raises": (0.02, ("raise", "text"), "error"),
    "exits": (0.01, ("exit", 1), "died"),
    "is killed": (0.006, ("kill_self", signal.SIGKILL), "died"),
    "recurses": (0.006, ("recurse", 10**6), "error"),
    "fills memory": (0.003, ("fill_memory", 4096), "memory"),
    "hangs": (0.003, ("sleep", 3600), "timeout"),
    "cannot be pickled": (0.001, lambda: 0, "error"),
}


async def kill_at_random(
    pool: WorkerPool, chance: random.Random, done: asyncio.Event, max_pause_s: float = 0.3
) -> Counter[str]:
    kills: Counter[str] = Counter()
    while not done.is_set():
        await asyncio.sleep(chance.uniform(0.0, max_pause_s))
        if pool.worker_pids:
            number = chance.choices([signal.SIGKILL, signal.SIGSTOP], [0.8, 0.2])[0]
            with suppress(ProcessLookupError):  # it has just ended by itself
                os.kill(chance.choice(pool.worker_pids), number)
                kills[number.name] += 1
        if kills.total() == 10 and pool.server_pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pool.server_pid, signal.SIGKILL)
            kills["server"] += 1
    return kills


async def test_10_000_calls_with_faults_at_random_are_all_accounted_for() -> None:
    chance = random.Random(0)
    kinds = chance.choices(list(MIX), [share for share, _, _ in MIX.values()], k=NUM_CALLS)
    requests = [("echo", k) if kind == "echo" else MIX[kind][1] for k, kind in enumerate(kinds)]
    async with make_pool(timeout_s=0.3, memory_limit_mb=128, recycle_after=50) as pool:
        await bring_up(pool)
        done = asyncio.Event()
        killer = asyncio.create_task(kill_at_random(pool, chance, done))
        replies = await asyncio.gather(*(pool.call(request) for request in requests))
        done.set()
        kills = await killer

        assert len(replies) == NUM_CALLS
        seen: Counter[str | None] = Counter(reply.fault for reply in replies)
        for k, (kind, reply) in enumerate(zip(kinds, replies, strict=True)):
            possible = {MIX[kind][2]} | ({"died", "timeout"} if kind != "cannot be pickled" else set())
            assert reply.fault in possible, (kind, reply)
            assert reply.value == (k if kind == "echo" and reply.fault is None else None)
            assert (reply.detail is None) == (reply.fault is None)
        assert seen.keys() == {None, "timeout", "died", "memory", "error"}
        assert seen[None] > 0.9 * NUM_CALLS
        assert min(kills["SIGKILL"], kills["SIGSTOP"], kills["server"]) >= 1, kills

        await until(lambda: pool.num_ready == 2, patience_s())
        stats = replace(pool.stats)
        assert stats.calls == NUM_CALLS + 1
        assert (stats.timeouts, stats.deaths) == (seen["timeout"], seen["died"])
        assert (stats.over_memory, stats.errors) == (seen["memory"], seen["error"])
        assert stats.replaced >= seen["timeout"] + seen["memory"] + seen["died"]
        assert stats.recycled > 0
        late = [await pool.call(("echo", 5)) for _ in range(10)]  # 0.3 s may be short for one on a busy machine
        assert {reply.value for reply in late if reply.fault is None} == {5}
        assert {reply.fault for reply in late} <= {None, "timeout"}
