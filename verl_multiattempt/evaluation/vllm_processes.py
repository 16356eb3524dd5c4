"""Starting vLLM's processes so that none of them outlives this one, and none hears of its Ctrl-C."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from verl_multiattempt.verifier_linux import children

SHUTDOWN_TIMEOUT_S = 30.0
WATCH_INTERVAL_S = 0.05
# Reads process ids, and ends these when nothing more can come: the process at the other end of the pipe is gone.
# A pidfd stays that process's, also when its id is given to another.
_GUARD = """
import os, signal, sys, time
found = []
for line in sys.stdin:
    try:
        found.append(os.pidfd_open(int(line)))
    except OSError:
        pass
for wait_s, number in ((5, signal.SIGTERM), (0, signal.SIGKILL)):
    alive = False
    for process in found:
        try:
            signal.pidfd_send_signal(process, number)
            alive = True
        except OSError:
            pass
    if alive:
        time.sleep(wait_s)
"""


class Processes:
    """The processes of one vLLM engine."""

    def __init__(self) -> None:
        self._others = set(multiprocessing.active_children())
        self._own: list[Any] = []
        self._guard: subprocess.Popen[str] | None = None
        self._told = children()

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Whatever process is started meanwhile is this engine's."""
        if hasattr(os, "pidfd_open"):  # Linux
            self._guard = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _GUARD], stdin=subprocess.PIPE, text=True, start_new_session=True
            )
            self._told.add(self._guard.pid)
        started = threading.Event()
        watch = threading.Thread(target=self._watch, args=(started,), daemon=True)
        watch.start()
        # vLLM's processes inherit the mask: Ctrl-C is this process's, which then ends them in order. It still gets it,
        # through the thread.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            started.set()
            watch.join()
            self._own = list(set(multiprocessing.active_children()) - self._others)

    def _watch(self, started: threading.Event) -> None:
        last = False
        while not last:
            last = started.wait(WATCH_INTERVAL_S)
            new = children() - self._told
            self._told |= new
            if self._guard is not None and self._guard.stdin is not None and new:
                self._guard.stdin.write("".join(f"{pid}\n" for pid in new))
                self._guard.stdin.flush()

    def ids(self) -> list[int]:
        """Their ids."""
        return [process.pid for process in self._own]

    def end(self) -> None:
        """See them off, after vLLM's own shutdown; those that do not end are killed."""
        for process in self._own:
            process.join(SHUTDOWN_TIMEOUT_S)
            if process.is_alive():
                process.kill()
                process.join()
        self._own = []
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None


@contextlib.contextmanager
def environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Set what is unset, and afterwards leave the environment as it was.

    vLLM itself sets variables, LD_PRELOAD among them, which the verifier's processes would inherit.
    """
    before = dict(os.environ)
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)
