"""What Linux tells of the processes below this one: which they are, and how much memory they hold."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

END_TIMEOUT_S = 5.0
"""Limit on ending children; a process that a file system holds back does not end."""


def children(pid: int | None = None) -> set[int]:
    """Process ids of the children of a process, of this one if none is named; none where the kernel does not tell."""
    found: set[int] = set()
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid or os.getpid()}/task"):
            with suppress(OSError):
                found.update(map(int, Path(f"/proc/{pid or os.getpid()}/task/{task}/children").read_text().split()))
    return found


def end_children() -> None:
    """Kill and reap all children, and as a subreaper their children too, which become its own when those end."""
    deadline = time.monotonic() + END_TIMEOUT_S
    while time.monotonic() < deadline:
        for pid in children():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.002)  # not a wait for one child: the list may have missed it


def tree_memory_kb(roots: Iterable[int], limit_kb: int) -> int:
    """Memory in kB that some processes and all below them hold together, where they may hold more than a limit.

    Anonymous and shared memory count, files do not. What a process holds by itself is none of this function's business,
    since a resource limit caps that: a single process without shared memory holds 0 kB here.

    Args:
        roots: process ids.
        limit_kb: up to this sum, memory that several processes share counts for each of them, which is quickly read;
            a higher sum is made out exactly.
    """
    pids = list(roots)
    found = set(pids)
    for pid in pids:
        below = children(pid) - found
        found |= below
        pids.extend(below)
    resident = [_fields_kb(pid, "status", ("RssAnon:", "RssShmem:")) or (0, 0) for pid in pids]
    if len(pids) == 1 and resident[0][1] == 0:
        return 0
    total = sum(map(sum, resident))
    if total <= limit_kb:
        return total
    exact = sum(map(_held_kb, pids))
    # Of processes that end while they are read, one after the other holds what they shared: read once more.
    return exact if exact <= limit_kb else min(exact, sum(map(_held_kb, pids)))


def _held_kb(pid: int) -> int:
    """What a process holds, its share of what it shares; nothing once it has ended."""
    exact = _fields_kb(pid, "smaps_rollup", ("Pss_Anon:", "Pss_Shmem:"))
    return sum(exact or _fields_kb(pid, "status", ("RssAnon:", "RssShmem:")) or (0, 0))


def _fields_kb(pid: int, file: str, names: tuple[str, str]) -> tuple[int, int] | None:
    """Two fields of a file of ``/proc``; None where they cannot be read, as of a process that has ended."""
    with suppress(OSError):
        lines = (line.split() for line in Path(f"/proc/{pid}/{file}").read_text().splitlines())
        values = {fields[0]: int(fields[1]) for fields in lines if fields[0] in names}
        if len(values) == len(names):
            return values[names[0]], values[names[1]]
    return None
