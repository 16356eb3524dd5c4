"""What processes hold together, read while they live and end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from verl_multiattempt import verifier_linux
from verl_multiattempt.verifier_linux import tree_memory_kb

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

HELD_KB = 40 << 10


FORKING = f"""
import os, signal, sys
held = b"x" * {HELD_KB << 10}
pids = []
for _ in range(int(sys.argv[1])):
    pids.append(os.fork())
    if pids[-1] == 0:
        signal.pause()
print(*pids, flush=True)
sys.stdin.read()
for pid in pids:
    os.kill(pid, signal.SIGKILL)
"""
"""In a small process of its own: what is forked here shares whatever other tests have left."""


@contextmanager
def sharing_children(number: int) -> Iterator[list[int]]:
    """Processes that share `HELD_KB` with the one that made them."""
    command = [sys.executable, "-c", FORKING, str(number)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        yield list(map(int, parent.stdout.readline().split()))


def test_shared_memory_counts_once_where_the_sum_is_above_the_limit() -> None:
    with sharing_children(4) as pids:
        together = tree_memory_kb(pids, limit_kb=HELD_KB)
        assert tree_memory_kb(pids, limit_kb=1 << 30) >= 4 * HELD_KB  # not made out exactly
    assert together < 2 * HELD_KB


def test_process_that_ends_while_it_is_read_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's view of it is gone between the first reading, of all, and the exact one."""
    with sharing_children(4) as pids:
        read = verifier_linux._fields_kb
        rough: set[int] = set()

        def ended_since(pid: int, file: str, names: tuple[str, str]) -> tuple[int, int] | None:
            if pid in rough:
                return None
            rough.add(pid)
            return read(pid, file, names)

        monkeypatch.setattr(verifier_linux, "_fields_kb", ended_since)
        assert tree_memory_kb(pids, limit_kb=HELD_KB) == 0


def test_an_exact_sum_above_the_limit_is_made_out_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    with sharing_children(2) as pids:
        sums = iter([3 * HELD_KB, 3 * HELD_KB, HELD_KB, 0])
        monkeypatch.setattr(verifier_linux, "_held_kb", lambda pid: next(sums))
        assert tree_memory_kb(pids, limit_kb=HELD_KB) == HELD_KB
        assert Path(f"/proc/{pids[0]}").exists()
