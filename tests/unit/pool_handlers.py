"""Handlers that the tests of the worker pool run in its workers: what verification code may do, good and bad."""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

Handle = Callable[[Any], Any]


def actions() -> Handle:
    """Requests are ``(name of a function below, its arguments…)``."""
    return lambda request: globals()[f"do_{request[0]}"](*request[1:])


def adder(to_add: int) -> Handle:
    return lambda number: number + to_add


def failing() -> Handle:
    raise LookupError("no such\nthing")


def not_a_factory() -> int:
    return 5


def exiting_server() -> Handle:
    os._exit(7)


def flaky(marker: str) -> Handle:
    """Cannot be loaded the first time."""
    if not Path(marker).exists():
        Path(marker).touch()
        raise OSError("not yet")
    return lambda request: request


def threaded() -> Handle:
    """Its loading starts a thread, so the server must not fork."""
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    return actions()


def endless() -> Handle:
    """Is never loaded."""
    time.sleep(3600)
    return actions()


def stillborn() -> Handle:
    """Its workers end before they are ready."""
    os.register_at_fork(after_in_child=lambda: os._exit(3))
    return actions()


def counted_failure(path: str) -> Handle:
    """Cannot be loaded, and leaves a mark each time."""
    do_append(path, "x")
    raise LookupError("never")


def do_echo(value: Any) -> Any:
    return value


def do_length(value: Any) -> int:
    return len(value)


def do_pid() -> int:
    return os.getpid()


def do_sleep(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def do_huge_power() -> int:
    """One C call that takes hours and never looks at signals."""
    return (7 ** (10**7)) ** (10**5) % 10


def do_raise(text: str) -> None:
    raise ValueError(text)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def do_raise_unprintable() -> None:
    raise Unprintable


def do_recurse(depth: int) -> int:
    return 0 if depth == 0 else 1 + do_recurse(depth - 1)


def do_recurse_through_c() -> None:
    """Each call takes C stack, and the interpreter is told not to count."""
    sys.setrecursionlimit(2**30)

    def deeper(depth: int) -> int:
        return max([depth + 1], key=deeper)

    deeper(0)


def do_crash() -> None:
    ctypes.string_at(0)


def do_exit(status: int) -> None:
    sys.exit(status)


def do_hard_exit(status: int) -> None:
    os._exit(status)


def do_kill_self(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(3600)


def do_kill_above(generations: int, path: str) -> None:
    """Kill the server (1) or its guard (2), with a child in a session of its own."""
    Path(path).write_text(str(do_leave_child(3600, True)))
    victim = os.getpid()
    for _ in range(generations):
        victim = int(Path(f"/proc/{victim}/stat").read_text().rsplit(")", 1)[1].split()[1])
    assert "verifier_server" in Path(f"/proc/{victim}/cmdline").read_text()  # and not the program itself
    os.kill(victim, signal.SIGKILL)
    time.sleep(3600)


def do_fill_memory(megabytes: int) -> int:
    held = []
    for _ in range(megabytes // 16):
        held.append(b"x" * (16 * 2**20))
    return len(held)


def do_fill_memory_and_report(megabytes: int) -> int:
    """The largest resident size in MB that the worker reached."""
    try:
        do_fill_memory(megabytes)
    except MemoryError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return -1


def _hold_shared_memory(megabytes: int) -> None:
    memory = mmap.mmap(-1, megabytes * 2**20)
    for page in range(0, len(memory), mmap.PAGESIZE):
        memory[page] = 1
    time.sleep(3600)


def do_fill_shared_memory(megabytes: int) -> None:
    """Memory that the limit on a process's data does not know of."""
    _hold_shared_memory(megabytes)


def do_fill_memory_in_children(number: int, megabytes: int, own_session: bool) -> None:
    """Each child holds what a process may hold; none waits for the request to be over."""
    code = f"import time; held = b'x' * ({megabytes} * 2**20); time.sleep(3600)"
    for _ in range(number):
        subprocess.Popen([sys.executable, "-c", code], start_new_session=own_session)
    time.sleep(3600)


def do_leave_growing_child(megabytes: int, daemon: bool) -> int:
    """What is too much is there only after the reply; a daemon's parent has ended by then."""
    child = os.fork()
    if child == 0:
        if daemon:
            os.setsid()
            if os.fork():
                os._exit(0)
        time.sleep(0.3)
        _hold_shared_memory(megabytes)
    if daemon:
        os.waitpid(child, 0)
    return child


def do_share_memory_with_children(megabytes: int, number: int, seconds: float) -> int:
    """The children hold the same pages, not as much again."""
    held = b"x" * (megabytes * 2**20)
    pids = []
    for _ in range(number):
        pids.append(os.fork())
        if pids[-1] == 0:
            time.sleep(seconds)
            os._exit(0)
    for pid in pids:
        os.waitpid(pid, 0)
    return len(held) >> 20


def do_print(text: str) -> str:
    print(text)
    os.write(1, text.encode() + b"\n")
    subprocess.run(["echo", text], check=True)
    return "printed"


def do_read_stdin() -> str:
    return sys.stdin.read()


def _sockets() -> list[int]:
    found = []
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        with suppress(OSError):  # the listing's own
            if os.readlink(f"/proc/self/fd/{descriptor}").startswith("socket:"):
                found.append(descriptor)
    return found


def do_sockets() -> int:
    return len(_sockets())


def do_write_to_pool(data: bytes) -> str:
    for descriptor in _sockets():
        os.write(descriptor, data)
    return "written"


def do_close_all() -> None:
    os.closerange(0, 1000)
    time.sleep(3600)


def do_leave_child(seconds: int, own_session: bool) -> int:
    """A process that outlives the request."""
    return subprocess.Popen(["sleep", str(seconds)], start_new_session=own_session).pid


def do_hang_with_child(path: str, own_session: bool) -> None:
    Path(path).write_text(str(do_leave_child(3600, own_session)))
    time.sleep(3600)


def do_die_while_child_holds_socket() -> None:
    """The child keeps a copy of the worker's socket, so the pool sees no end of file."""
    if os.fork() == 0:
        os.setpgid(0, 0)
        time.sleep(3600)
    os._exit(9)


def do_append(path: str, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


def do_environment(name: str) -> str | None:
    return os.environ.get(name)
