"""The fork server of `verl_multiattempt.verifier_pool.WorkerPool`: a process that starts, ends and reaps the workers.

``python -m verl_multiattempt.verifier_server server FD PARENT_PID`` puts itself under a guard
(`verl_multiattempt.verifier_guard`), loads the handler once and then forks a worker in milliseconds whenever it is
asked to. It has one thread, so the fork is safe; where the handler's import started threads, it spawns fresh processes
instead, which load the handler themselves. It is the parent of the workers, so it alone kills and reaps them, and no
process id is used after it was reaped.

A worker's socket has one end in the worker and one in the pool, and nowhere else: it closes when the worker ends.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

from verl_multiattempt.verifier_guard import fork_guarded
from verl_multiattempt.verifier_linux import children, end_children, tree_memory_kb
from verl_multiattempt.verifier_worker import (
    Handle,
    become_subreaper,
    child_environment,
    describe,
    die_with_parent,
    load_handler,
    run_worker,
    setup_file,
)

MESSAGE = struct.Struct("=cI507s")
"""Between pool and server: kind, worker's number, text. One size, so that a read is a message."""
FORK, KILL = b"F", b"K"  # pool -> server
# server -> pool; STARTED brings a socket
READY, FAILED, STARTED, ENDED, STOPPED, OVER_MEMORY = b"R", b"E", b"S", b"X", b"P", b"M"
WATCH_INTERVAL_S = 0.2
"""Between two looks at the memory of the workers and what they started."""


class _Server:
    """Starts, kills and reaps workers as the pool says, and reports each that ended."""

    def __init__(self, control: socket.socket, setup: bytes, handle: Handle, memory_limit_mb: int, *, guard_pid: int):
        self._control, self._setup, self._handle, self._memory_limit_mb = control, setup, handle, memory_limit_mb
        self._guard_pid = guard_pid
        self._workers: dict[int, int] = {}  # process id -> the pool's number of it
        self._own_children = children()  # what the handler's factory started
        self._num_threads = _num_threads()
        self._woken, self._wake = os.pipe()
        self._is_stopping = False
        self._next_watch = 0.0

    def run(self) -> None:
        """Serve until the pool's end of the control socket closes, or SIGTERM."""
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # From here on the server ends in order, with all that its workers started. The signal raises nothing: it may
        # come again while they are being ended.
        signal.signal(signal.SIGTERM, self._stop)
        die_with_parent(self._guard_pid, signal.SIGTERM)
        become_subreaper()  # what a dead worker leaves behind becomes a child of the server, which ends it
        gc.collect()
        gc.freeze()  # keeps the handler's pages shared with the workers
        _send(self._control, READY, self._num_threads, str(os.getpid()))
        control = self._control.fileno()
        try:
            while not self._is_stopping:
                timeout_s = WATCH_INTERVAL_S if self._workers else None
                readable, _, _ = select.select([control, self._woken], [], [], timeout_s)
                if self._woken in readable:
                    os.read(self._woken, 4096)
                    self._reap()
                if control in readable and not self._obey():
                    return
                if time.monotonic() >= self._next_watch:
                    self._watch_memory()
        finally:
            for pid in self._workers:
                _kill_group(pid)
            end_children()

    def _stop(self, *_: object) -> None:
        self._is_stopping = True  # the signal ends the wait too, by its byte in the pipe

    def _obey(self) -> bool:
        try:
            message = self._control.recv(MESSAGE.size, socket.MSG_WAITALL)
        except ConnectionError:
            return False
        if len(message) < MESSAGE.size:
            return False
        kind, number, _ = MESSAGE.unpack(message)
        if kind == FORK:
            try:
                self._start(number)
            except OSError as error:
                _send(self._control, ENDED, number, f"not started, {describe(error)}")
        elif kind == KILL:
            for pid, known in self._workers.items():
                if known == number:
                    _kill_group(pid)
        return True

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            pid = self._fork(ours, theirs) if self._num_threads == 1 else self._spawn(theirs)
            with suppress(OSError):  # the worker does so too; whichever comes first
                os.setpgid(pid, pid)
            self._workers[pid] = number
            _send(self._control, STARTED, number, str(pid), [ours.fileno()])

    def _fork(self, ours: socket.socket, theirs: socket.socket) -> int:
        server_pid = os.getpid()
        sys.stdout.flush()
        pid = os.fork()
        if pid:
            return pid
        try:  # the worker: nothing of the server's may stay open in it, and it never comes back into this loop
            signal.set_wakeup_fd(-1)
            for descriptor in (self._woken, self._wake, ours.detach(), self._control.detach()):
                os.close(descriptor)
            os.setpgid(0, 0)
            run_worker(theirs, self._handle, self._memory_limit_mb, server_pid)
        finally:
            os._exit(1)

    def _spawn(self, theirs: socket.socket) -> int:
        theirs.set_inheritable(True)
        command = [sys.executable, "-m", "verl_multiattempt.verifier_server"]
        command += ["worker", str(theirs.fileno()), str(os.getpid())]
        with setup_file(self._setup) as file:
            stdin = [(os.POSIX_SPAWN_DUP2, file.fileno(), 0)]
            return os.posix_spawn(sys.executable, command, child_environment(), file_actions=stdin, setpgroup=0)

    def _reap(self) -> None:
        while (changed := _changed_child()) is not None:
            pid = changed.si_pid
            number = self._workers.get(pid)
            if changed.si_code == os.CLD_STOPPED:
                os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOHANG)  # seen
                if number is not None:
                    _send(self._control, STOPPED, number, "")
                continue
            _kill_group(pid)  # it is not reaped yet, so the number is still its own
            self._workers.pop(pid, None)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            self._end_strays()
            if number is not None:
                how = f"exit status {status}" if status >= 0 else f"signal {-status}, {signal.strsignal(-status)}"
                _send(self._control, ENDED, number, how)

    def _end_strays(self) -> None:
        """Kill what ended workers left behind, processes that had left the worker's group included."""
        for pid in self._strays():
            with suppress(ProcessLookupError):
                if os.getpgid(pid) not in self._workers:  # a living worker's business
                    os.kill(pid, signal.SIGKILL)

    def _strays(self) -> set[int]:
        return children() - self._own_children - self._workers.keys()

    def _watch_memory(self) -> None:
        """End workers that hold too much together with what they started, which no resource limit says of a process."""
        self._next_watch = time.monotonic() + WATCH_INTERVAL_S
        trees = defaultdict(list, {pid: [pid] for pid in self._workers})
        for pid in self._strays():  # their parents have ended
            with suppress(ProcessLookupError):
                group = os.getpgid(pid)
                trees[group if group in self._workers else pid].append(pid)
        limit_kb = self._memory_limit_mb * 1024
        for root, pids in trees.items():
            if tree_memory_kb(pids, limit_kb) <= limit_kb:
                continue
            if root in self._workers:
                told = f"over {self._memory_limit_mb} MB with shared memory and what it started"
                _send(self._control, OVER_MEMORY, self._workers[root], told)
            _kill_group(root)


def _send(control: socket.socket, kind: bytes, number: int, text: str, descriptors: Sequence[int] = ()) -> None:
    message = MESSAGE.pack(kind, number, text.encode(errors="replace"))
    with suppress(ConnectionError):  # the pool has gone; the next read tells
        if descriptors:
            socket.send_fds(control, [message], descriptors)
        else:
            control.sendall(message)


def _kill_group(pid: int) -> None:
    for kill in (os.kill, os.killpg):
        with suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def _changed_child() -> os.waitid_result | None:
    """A child that has ended and is not reaped yet, or has been stopped by a signal."""
    try:
        return os.waitid(os.P_ALL, 0, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None


def _num_threads() -> int:
    with suppress(OSError):
        return len(os.listdir("/proc/self/task"))
    return threading.active_count()


def main() -> None:
    """Serve as ``sys.argv`` says: ``server`` or ``worker``, the socket's descriptor, the parent's process id."""
    role, descriptor, parent_pid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    if role == "server":
        parent_pid = fork_guarded(parent_pid, descriptor)
    else:
        die_with_parent(parent_pid)
    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)
    setup = sys.stdin.buffer.read()
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        handle, memory_limit_mb = load_handler(setup)
    except BaseException as error:
        if role == "server":
            _send(channel, FAILED, 0, describe(error))
        raise
    if role == "worker":
        run_worker(channel, handle, memory_limit_mb, parent_pid)
    _Server(channel, setup, handle, memory_limit_mb, guard_pid=parent_pid).run()


if __name__ == "__main__":
    main()
