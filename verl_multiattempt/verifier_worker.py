"""A worker process of `verl_multiattempt.verifier_pool.WorkerPool`: takes requests from its socket, one at a time.

Requests come as pickles from the pool, which is trusted; replies are JSON, since what ran in a worker is not.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import mmap
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, NoReturn

HEADER = struct.Struct("!QQ")
"""Before each request and reply: its length in bytes, the request's number (0: the worker is ready)."""
MAX_REPLY_BYTES = 2**20
MAX_ERROR_CHARS = 500
STACK_BYTES = 64 * 2**20
RECURSION_LIMIT = 10_000
"""Deep expressions need it; 64 MiB of stack hold that many calls also where each takes C stack (Python 3.10)."""

Handle = Callable[[Any], Any]


def die_with_parent(parent_pid: int, signal_number: int = signal.SIGKILL) -> None:
    """Have Linux send a signal to this process when its parent ends; end at once if it has ended already.

    Of use to handlers that start processes of their own. Elsewhere than on Linux only the second part is done.
    """
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        prctl(pr_set_pdeathsig, signal_number)
    if os.getppid() != parent_pid:
        os._exit(1)


def prctl(option: int, value: int) -> None:
    """Linux's call of that name; nothing where there is none."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def become_subreaper() -> None:
    """Have what dead descendants leave behind become this process's children; nothing where there is no such call."""
    pr_set_child_subreaper = 36
    prctl(pr_set_child_subreaper, 1)


def describe(error: BaseException) -> str:
    """``Type: text`` on one line, bounded."""
    try:
        text = " ".join(str(error)[:MAX_ERROR_CHARS].split())
    except BaseException as unprintable:  # str() of an exception is code of the handler's too
        text = f"(its text raised {type(unprintable).__name__})"
    return f"{type(error).__name__}: {text}"[:MAX_ERROR_CHARS]


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


def load_handler(setup: bytes) -> tuple[Handle, int]:
    """Import what the pool named and call it.

    Args:
        setup: pickle of the pool's ``(sys.path, PYTHONPATH, handler, pickled handler_kwargs, memory_limit_mb)``.

    Returns:
        The callable that takes requests, and the memory limit in MB.
    """
    path, python_path, handler, kwargs, memory_limit_mb = pickle.loads(setup)
    sys.path[:] = path
    os.environ.pop("PYTHONPATH", None)  # it served to start this process; what the handler starts gets the user's
    if python_path is not None:
        os.environ["PYTHONPATH"] = python_path
    module, _, name = handler.partition(":")
    handle = getattr(importlib.import_module(module), name)(**pickle.loads(kwargs))
    if not callable(handle):
        raise TypeError(f"handler {handler} must return a callable; got {handle!r:.100}. Name the factory.")
    return handle, memory_limit_mb


def limit_memory(megabytes: int) -> None:
    """Cap this process's memory: private writable memory, else (where that does not bind) its address space."""

    def limit(kind: int) -> None:
        hard = resource.getrlimit(kind)[1]
        capped = size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(kind, (capped, capped))

    size = megabytes * 2**20
    limit(resource.RLIMIT_DATA)
    try:
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError):
        return  # refused, as it must be: the cap binds
    limit(resource.RLIMIT_AS)


def _work(channel: socket.socket, handle: Handle, memory_limit_mb: int, server_pid: int) -> NoReturn:
    """Be a worker until the pool closes the channel."""
    die_with_parent(server_pid)
    for ignored_or_default in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(ignored_or_default, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with suppress(ValueError, OSError):  # where the hard limit is lower
        resource.setrlimit(resource.RLIMIT_STACK, (STACK_BYTES, resource.getrlimit(resource.RLIMIT_STACK)[1]))
        sys.setrecursionlimit(RECURSION_LIMIT)
    limit_memory(memory_limit_mb)
    out_of_memory = json.dumps({"memory": f"over {memory_limit_mb} MB"}).encode()  # made while there is memory
    channel.sendall(HEADER.pack(2, 0) + b"{}")
    while True:
        length, number = HEADER.unpack(_receive(channel, HEADER.size))
        try:
            reply = _handle(handle, channel, length)
        except MemoryError:
            reply = out_of_memory
        channel.sendall(HEADER.pack(len(reply), number) + reply)


def _handle(handle: Handle, channel: socket.socket, length: int) -> bytes:
    try:
        reply = json.dumps({"value": handle(pickle.loads(_receive(channel, length)))}).encode()
        if len(reply) > MAX_REPLY_BYTES:
            raise ValueError(
                f"a reply must have at most {MAX_REPLY_BYTES} bytes as JSON; got {len(reply)}. Return less."
            )
    except (MemoryError, SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # asyncio's CancelledError is no Exception, and no reason to end
        reply = json.dumps({"error": describe(error)}).encode()
    return reply


def _receive(channel: socket.socket, length: int) -> bytearray:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        received = channel.recv_into(view)
        if not received:
            os._exit(0)  # the pool has gone
        view = view[received:]
    return data


def run_worker(channel: socket.socket, handle: Handle, memory_limit_mb: int, server_pid: int) -> NoReturn:
    """`_work`, left by no way but the end of the process: in a forked worker the server's frames lie below."""
    status = 1
    try:
        _work(channel, handle, memory_limit_mb, server_pid)
    except SystemExit as stop:
        status = stop.code & 0xFF if isinstance(stop.code, int) else int(stop.code is not None)
    except ConnectionError:
        pass  # the pool has gone
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(status)
