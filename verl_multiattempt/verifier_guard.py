"""The guard of the fork server: a process above it that does nothing but end whatever the server leaves behind.

The pool starts the guard, the guard forks the server. When the server ends, however, its workers and all that they
started become the guard's children, those in sessions of their own included, and the guard ends them. When the pool's
process ends, the guard ends the server, also one that is stopped. When the guard itself is killed, the server ends its
workers and what they started in order. Only a worker that kills both, one right after the other, leaves something.
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn

from verl_multiattempt.verifier_linux import end_children
from verl_multiattempt.verifier_worker import become_subreaper, die_with_parent

_SIGNALS = (signal.SIGTERM, signal.SIGCHLD)


def fork_guarded(parent_pid: int, control: int) -> int:
    """Fork. The child returns and is guarded by the parent, which does not return and ends after the child.

    Args:
        parent_pid: of the pool, with whose end the guard ends the child.
        control: descriptor of the server's socket, which is to close with the server.

    Returns:
        The guard's process id.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # they are waited for
    die_with_parent(parent_pid, signal.SIGTERM)
    become_subreaper()
    guard_pid = os.getpid()
    server_pid = os.fork()
    if server_pid:
        _guard(server_pid, control)
    os.setpgid(0, 0)  # no signal to a group reaches both
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    die_with_parent(guard_pid)
    return guard_pid


def _guard(server_pid: int, control: int) -> NoReturn:
    status = 1
    try:
        os.close(control)
        while (ended := _ended(server_pid)) is None:
            if signal.sigwait(_SIGNALS) == signal.SIGTERM:
                os.kill(server_pid, signal.SIGKILL)
        status = ended
        end_children()
    finally:
        os._exit(status if status >= 0 else 128 - status)  # a server killed by signal n counts as 128 + n


def _ended(server_pid: int) -> int | None:
    """Reap what has ended; the server's exit status once that has."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == server_pid:
            return os.waitstatus_to_exitcode(status)
        if pid == 0:
            return None
