"""The fork server of `verl_multiattempt.verifier_pool.WorkerPool`: a process that starts, ends and reaps the workers.

``python -m verl_multiattempt.verifier_server server FD PARENT_PID`` loads the handler once and then forks a worker in
milliseconds whenever it is asked to. It has one thread, so the fork is safe; where the handler's import started
threads, it spawns fresh processes instead, which load the handler themselves. It is the parent of the workers, so it
alone kills and reaps them, and no process id is used after it was reaped.

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
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from verl_multiattempt.verifier_worker import Handle, describe, die_with_parent, load_handler, prctl, run_worker

MESSAGE = struct.Struct("=cI507s")
"""Between pool and server: kind, worker's number, text. One size, so that a read is a message."""
FORK, KILL = b"F", b"K"  # pool -> server
READY, FAILED, STARTED, ENDED, STOPPED = b"R", b"E", b"S", b"X", b"P"  # server -> pool; STARTED brings a socket


class _Server:
    """Starts, kills and reaps workers as the pool says, and reports each that ended."""

    def __init__(self, control: socket.socket, setup: bytes, handle: Handle, memory_limit_mb: int):
        self._control, self._setup, self._handle, self._memory_limit_mb = control, setup, handle, memory_limit_mb
        self._workers: dict[int, int] = {}  # process id -> the pool's number of it
        self._own_children = _children()  # what the handler's factory started
        self._num_threads = _num_threads()
        self._woken, self._wake = os.pipe()

    def run(self) -> None:
        """Serve until the pool's end of the control socket closes, or SIGTERM."""
        os.set_blocking(self._wake, False)
        os.set_blocking(self._woken, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        pr_set_child_subreaper = 36  # what a dead worker leaves behind becomes a child of the server, which ends it
        prctl(pr_set_child_subreaper, 1)
        gc.collect()
        gc.freeze()  # keeps the handler's pages shared with the workers
        _send(self._control, READY, 0, "" if self._num_threads == 1 else f"{self._num_threads} threads")
        control = self._control.fileno()
        try:
            while True:
                readable, _, _ = select.select([control, self._woken], [], [])
                if self._woken in readable:
                    os.read(self._woken, 4096)
                    self._reap()
                if control in readable and not self._obey():
                    return
        finally:
            self._end_all()

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
        for pid in _children() - self._own_children - self._workers.keys():
            with suppress(ProcessLookupError):
                if os.getpgid(pid) not in self._workers:  # a living worker's business
                    os.kill(pid, signal.SIGKILL)

    def _end_all(self) -> None:
        for pid in self._workers:
            _kill_group(pid)
        while self._workers:
            self._workers.pop(os.waitpid(-1, 0)[0], None)
        while left_behind := _children():  # a child's children become the server's in turn
            for pid in left_behind:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)


def module_path() -> list[str]:
    """``sys.path`` without what Python ignores there."""
    return [entry for entry in sys.path if isinstance(entry, str)]


def child_environment() -> dict[str, str]:
    """The environment in which a server or worker is started: this process's modules, and one thread for BLAS."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(module_path())}


def setup_file(setup: bytes) -> IO[bytes]:
    """A nameless file with what a server or worker reads from its standard input."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(setup)
    file.seek(0)
    return file


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


def _children() -> set[int]:
    with suppress(OSError):
        return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}
    return set()


def _num_threads() -> int:
    with suppress(OSError):
        return len(os.listdir("/proc/self/task"))
    return threading.active_count()


def main() -> None:
    """Serve as ``sys.argv`` says: ``server`` or ``worker``, the socket's descriptor, the parent's process id."""
    role, descriptor, parent_pid = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    die_with_parent(parent_pid)
    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)
    setup = sys.stdin.buffer.read()
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what handlers print goes to the log
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        handle, memory_limit_mb = load_handler(setup)
    except BaseException as error:
        if role == "server":
            _send(channel, FAILED, 0, describe(error))
        raise
    if role == "worker":
        run_worker(channel, handle, memory_limit_mb, parent_pid)
    # From here on the server can end its workers in order, with all that they started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    die_with_parent(parent_pid, signal.SIGTERM)
    _Server(channel, setup, handle, memory_limit_mb).run()


if __name__ == "__main__":
    main()
