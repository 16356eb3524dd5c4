"""Runs a model's code on the arguments of some tests and writes what it returned. A child process of code_task.py.

Reads one JSON object from standard input: ``code``, ``function``, ``calls`` (a list of argument lists) and the limits.
Writes JSON lines to standard output: first the precautions that are active, then one line for each call, in order. It
knows no expected value, so there is nothing in this process that the code could forge: see code_task.py.
"""

import json
import os
import resource
import signal
import struct
import sys
from typing import Any, NoReturn

NOBODY = 65534
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = (
    0x00020000, 0x08000000, 0x10000000, 0x20000000, 0x40000000,
)  # fmt: skip
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 16384, 1 << 18
MAX_LINE_CHARS = 65536
MAX_FILE_BYTES = 2**20
PROC_MOUNTS = ((b"proc", 0), (b"tmpfs", MS_RDONLY))  # the second where a container forbids the first
# What short functions import; loaded beforehand where the user nobody may not read the standard library.
COMMON_MODULES = (
    "array", "bisect", "calendar", "cmath", "collections", "contextlib", "copy", "dataclasses", "datetime", "decimal",
    "enum", "fractions", "functools", "hashlib", "heapq", "itertools", "math", "operator", "random", "re",
    "statistics", "string", "struct", "textwrap", "time", "typing",
)  # fmt: skip


def unshare() -> bool:
    """Leave the network and the reach of other processes behind, where the kernel permits it."""
    # Only root may do it without a user namespace, in which it would be root no more.
    user = 0 if os.geteuid() == 0 else CLONE_NEWUSER
    return call_kernel("unshare", user | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWPID | CLONE_NEWIPC)


def hide_processes() -> bool:
    """In new namespaces: have ``/proc`` show their processes alone, or nothing at all."""
    # First no mount may reach the other side any more.
    if not call_kernel("mount", None, b"/", None, MS_REC | MS_PRIVATE, None):
        return False
    flags = MS_NOSUID | MS_NODEV | MS_NOEXEC
    return any(call_kernel("mount", kind, b"/proc", kind, flags | more, None) for kind, more in PROC_MOUNTS)


def give_up_capabilities() -> bool:
    """Without root, too, the new namespaces gave this process the right to mount there: it could uncover ``/proc``."""
    pr_set_no_new_privs, version_3 = 38, 0x20080522
    header = struct.pack("=Ii", version_3, 0)
    return call_kernel("prctl", pr_set_no_new_privs, 1, 0, 0, 0) and call_kernel("capset", header, bytes(24))


def call_kernel(name: str, *arguments: Any) -> bool:
    """Whether a function of the C library did what it was asked to."""
    try:
        import ctypes

        return bool(getattr(ctypes.CDLL(None), name)(*arguments) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def world_readable(path: str) -> bool:
    """Whether any user may read ``path``: all folders on the way may be searched."""
    while os.stat(path).st_mode & 0o005 == 0o005:
        if path == os.path.dirname(path):
            return True
        path = os.path.dirname(path)
    return False


def become_nobody() -> bool:
    """Give up root: with it go other users' files, signals to other processes, and exemption from limits."""
    if os.geteuid() != 0:
        return False
    if not world_readable(os.path.realpath(os.path.dirname(os.__file__))):
        for name in COMMON_MODULES:
            __import__(name)
    os.chown(".", NOBODY, NOBODY)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    return True


def set_limits(cpu_s: int, memory_mb: int) -> None:
    limits = {
        resource.RLIMIT_CPU: cpu_s,
        resource.RLIMIT_AS: memory_mb * 2**20,
        resource.RLIMIT_FSIZE: MAX_FILE_BYTES,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_NPROC: 0,  # no further process or thread
        resource.RLIMIT_CORE: 0,
    }
    for name, value in limits.items():
        _, hard = resource.getrlimit(name)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(name, (value, value))


def describe(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException:  # the code's own exception class
        text = ""
    name = type(error).__name__
    return (f"{name}: {text}" if text else name).splitlines()[0][:500]


def answer(function: Any, arguments: list[Any]) -> dict[str, Any]:
    """What the call returned, or the last line of what it raised."""
    try:
        value = function(*arguments)
    except BaseException as error:  # SystemExit is no way to pass
        return {"error": describe(error)}
    try:
        line = json.dumps({"value": value}, allow_nan=False)
    except BaseException:
        return {"error": f"it returned {type(value).__name__}, which is no plain value"}
    return {"value": value} if len(line) < MAX_LINE_CHARS else {"error": "it returned a value of more than 64 kB"}


def run_calls(request: dict[str, Any], output: int, active: dict[str, bool]) -> NoReturn:
    def write(line: dict[str, Any]) -> None:
        os.write(output, (json.dumps(line) + "\n").encode())

    write(active)
    namespace: dict[str, Any] = {"__name__": "solution"}
    try:
        exec(compile(request["code"], "solution", "exec"), namespace)
        function = namespace[request["function"]]
    except BaseException as error:
        missing = isinstance(error, KeyError) and error.args == (request["function"],)
        write({"load_error": f"it defines no {request['function']}" if missing else describe(error)})
        os._exit(0)
    for number, arguments in enumerate(request["calls"]):
        write({"call": number, **answer(function, arguments)})
    os._exit(0)


def main() -> None:
    request = json.load(sys.stdin)
    output = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    active = {"namespaces": unshare()}
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    # In the namespaces, the first process; when it ends, the kernel ends all others in there.
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        active["hidden"] = active["namespaces"] and hide_processes()
        active["nobody"] = become_nobody()
        active["hidden"] = give_up_capabilities() and active["hidden"]
        set_limits(request["cpu_s"], request["memory_mb"])
        run_calls(request, output, active)
    os.close(output)
    signal.sigtimedwait([signal.SIGCHLD], request["time_limit_s"])
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
