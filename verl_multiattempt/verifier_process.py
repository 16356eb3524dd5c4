"""The pool's side of its processes: the fork server's control socket, and a worker's socket. No call here blocks."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from verl_multiattempt.verifier_server import FORK, KILL, MESSAGE
from verl_multiattempt.verifier_worker import HEADER, MAX_REPLY_BYTES, child_environment, setup_file

GUARD_TIMEOUT_S = 2.0
"""Limit on the guard's ending what it guards; past it the guard is killed, too, and the server ends by itself."""


class ForkServer:
    """A fork server process with its guard (see `verl_multiattempt.verifier_guard`), started at once.

    Linux ends both when the thread that started them ends (PR_SET_PDEATHSIG), so that thread must be the event loop's.

    Args:
        loop: the running event loop.
        setup: what `verl_multiattempt.verifier_worker.load_handler` takes.
        on_message: called with kind, worker's number, text and, for STARTED, the worker's socket.
        on_lost: called once when the server has ended or closed its socket, unless `stop` was called before.

    Raises:
        OSError: the process could not be started.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        setup: bytes,
        on_message: Callable[[bytes, int, str, socket.socket | None], None],
        on_lost: Callable[[], None],
    ):
        self._loop, self._on_message, self._on_lost = loop, on_message, on_lost
        self.pid: int | None = None
        """The server's process id; None until it has loaded the handler."""
        self._killed_at: float | None = None
        self._control, theirs = map(_above_standard, socket.socketpair())
        command = [sys.executable, "-m", "verl_multiattempt.verifier_server"]
        command += ["server", str(theirs.fileno()), str(os.getpid())]
        log = _log_descriptor()
        try:
            with theirs, setup_file(setup) as stdin:
                self._process = subprocess.Popen(
                    command,
                    stdin=stdin,
                    stdout=log,
                    stderr=log,
                    env=child_environment(),
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,  # a terminal's signals are the parent's
                )
        except BaseException:
            self._control.close()
            raise
        self._control.setblocking(False)
        loop.add_reader(self._control, self._readable)

    @property
    def ended(self) -> bool:
        """Whether the server, its guard and all that they started have ended; asking reaps them."""
        return self._process.poll() is not None

    def fork(self, number: int) -> None:
        """Ask for a worker with that number; STARTED or ENDED answers."""
        self._send(FORK, number)

    def kill_worker(self, number: int) -> None:
        """Have a worker killed; ENDED answers. Nothing happens if it has ended already."""
        self._send(KILL, number)

    def stop(self) -> None:
        """Let the server end its workers, what they left behind, and itself; it is not heard of again."""
        if self._control.fileno() == -1:
            return
        self._loop.remove_reader(self._control)
        with suppress(OSError):  # the server has ended
            self._control.shutdown(socket.SHUT_RDWR)  # unlike close, this is seen whoever else has a copy
        self._control.close()

    def kill(self) -> None:
        """Have the guard kill the server and all below it, at once; call again until it has `ended`."""
        self.stop()
        if self.ended:
            return
        if self._killed_at is None:
            self._killed_at = time.monotonic()
            self._process.send_signal(signal.SIGTERM)
            self._process.send_signal(signal.SIGCONT)  # should someone have stopped it
        elif time.monotonic() - self._killed_at > GUARD_TIMEOUT_S:
            self._process.kill()

    def _send(self, kind: bytes, number: int) -> None:
        try:
            self._control.send(MESSAGE.pack(kind, number, b""))
        except OSError:  # ended, or stuck so long that the socket is full
            self._loop.call_soon(self._lost)

    def _readable(self) -> None:
        # All that has come: after the loop was held up, no time limit may fire for want of a message that is here.
        while self._control.fileno() != -1 and self._read_message():
            pass

    def _read_message(self) -> bool:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._control, MESSAGE.size, 1)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            message, descriptors = b"", []
        channel = None
        if descriptors:
            channel = _above_standard(socket.socket(fileno=descriptors[0]))
            channel.set_inheritable(False)
        if len(message) < MESSAGE.size:
            self._lost()
            return False
        kind, number, text = MESSAGE.unpack(message)
        self._on_message(kind, number, text.rstrip(b"\0").decode(errors="replace"), channel)
        return True

    def _lost(self) -> None:
        if self._control.fileno() != -1:
            self.stop()
            self._on_lost()


class Channel:
    """The pool's end of one worker's socket.

    Args:
        loop: the running event loop.
        channel: the socket, which this object closes.
        on_reply: called with the request's number and the reply's bytes.
        on_broken: called once when the worker sent what is no reply, with the reason, or closed its end, with None.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        channel: socket.socket,
        on_reply: Callable[[int, bytes], None],
        on_broken: Callable[[str | None], None],
    ):
        self._loop, self._socket, self._on_reply, self._on_broken = loop, channel, on_reply, on_broken
        self._incoming, self._outgoing, self._writing = bytearray(), memoryview(b""), False
        channel.setblocking(False)
        loop.add_reader(channel, self._readable)

    def send(self, number: int, request: bytes) -> bool:
        """Send a request without waiting; what the socket does not take now follows as the worker reads.

        Returns:
            False if the worker had closed its end before: it has seen nothing of the request.
        """
        self._outgoing = memoryview(HEADER.pack(len(request), number) + request)
        return self._write()

    def close(self) -> None:
        """Close the socket; nothing is called after that."""
        if self._socket.fileno() != -1:
            self._loop.remove_reader(self._socket)
            self._stop_writing()
            self._socket.close()

    def _write(self) -> bool:
        try:
            self._outgoing = self._outgoing[self._socket.send(self._outgoing) :]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self._stop_writing()  # reading tells that the worker has gone
            return False
        if not self._outgoing:
            self._stop_writing()
        elif not self._writing:
            self._writing = True
            self._loop.add_writer(self._socket, self._write)
        return True

    def _stop_writing(self) -> None:
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._socket)

    def _readable(self) -> None:
        try:
            data = self._socket.recv(2**18)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._break(None)
            return
        self._incoming += data
        while self._socket.fileno() != -1 and len(self._incoming) >= HEADER.size:
            length, number = HEADER.unpack_from(self._incoming)
            end = HEADER.size + length
            if length > MAX_REPLY_BYTES:
                self._break(f"the worker sent what is no reply: {bytes(self._incoming[:40])!r}")
                return
            if len(self._incoming) < end:
                return
            reply = bytes(self._incoming[HEADER.size : end])
            del self._incoming[:end]
            self._on_reply(number, reply)

    def _break(self, reason: str | None) -> None:
        self.close()
        self._on_broken(reason)


def _above_standard(opened: socket.socket) -> socket.socket:
    """The socket under a descriptor above 2: where a program closed a standard one, others print to what took it."""
    if opened.fileno() > 2:
        return opened
    with opened:
        return socket.socket(fileno=fcntl.fcntl(opened, fcntl.F_DUPFD_CLOEXEC, 3))


def _log_descriptor() -> int:
    """Standard error, where what handlers print goes; nowhere if the program was started without or closed it."""
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return subprocess.DEVNULL if sys.__stderr__ is None else 2
