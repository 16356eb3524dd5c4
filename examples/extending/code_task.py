"""A reward function of verl for small programming tasks: runs the tests of the row on the model's code.

    reward.custom_reward_function.path=examples/extending/code_task.py multiattempt.verifier.name=compute_score

The code runs in a child process (code_runner.py) that gets the arguments of the tests and never what they should
return; this process compares. So there is nothing for the code to forge: it may end the process, redefine ``==`` or
write to every open file, and passes by returning the right values alone. What the child may do is limited as far as the
kernel permits; README.md says what it is not protected from.

    python examples/extending/code_task.py     # says which precautions are active on this machine
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RUNNER = Path(__file__).with_name("code_runner.py")
MAX_OUTPUT_BYTES = 2**20
MAX_VALUE_CHARS = 200
START_LIMIT_S = 10.0
"""For starting the child on a busy machine; the time limit is the code's alone."""
NO_CODE = "No Python code was found. Put the function in a ```python block."
_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


class SandboxError(RuntimeError):
    """The child did not start; the code is not to blame."""


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: str,
    extra_info: dict[str, Any] | None = None,
    *,
    time_limit_s: float = 2.0,
    memory_limit_mb: int = 512,
) -> dict[str, Any]:
    """Score an attempt by the share of the tests that pass.

    Args:
        data_source: of the row; not used.
        solution_str: what the model wrote.
        ground_truth: JSON text with ``function``, its name, and ``tests``: a list of
            ``{"args": [...], "returns": ...}``.
        extra_info: of the row; not used.
        time_limit_s: for all tests together; below ``multiattempt.verifier.timeout_s``.
        memory_limit_mb: address space of the child.

    Returns:
        ``score`` from 0 to 1; ``answer``, the code, None where there is none; ``feedback``, the first test that failed.

    Raises:
        SandboxError: the child did not start.
    """
    task = json.loads(ground_truth)
    code = extract_code(solution_str, task["function"])
    if code is None:
        return {"score": 0.0, "answer": None, "feedback": NO_CODE}
    lines = run(code, task, time_limit_s=time_limit_s, memory_limit_mb=memory_limit_mb)
    results = [lines[number] if number < len(lines) else {} for number in range(len(task["tests"]))]
    passed = [
        "value" in result and same(test["returns"], result["value"])
        for test, result in zip(task["tests"], results, strict=True)
    ]
    feedback = None
    if lines and "load_error" in lines[0]:
        feedback = f"The code cannot be used: {lines[0]['load_error']}"
    elif not all(passed):
        first = passed.index(False)
        feedback = explain(task["function"], task["tests"][first], results[first])
    return {"score": sum(passed) / len(passed), "answer": code, "feedback": feedback}


def extract_code(text: str, function: str) -> str | None:
    """The last code block; without one, the whole text where it defines the function."""
    blocks = _BLOCK.findall(text)
    if blocks:
        return blocks[-1].strip() or None
    return text if re.search(rf"^def {re.escape(function)}\b", text, re.MULTILINE) else None


def explain(function: str, test: dict[str, Any], result: dict[str, Any]) -> str:
    """The first failing test in a sentence; its values are cut where they are long."""
    call = f"{function}({', '.join(map(show, test['args']))})"
    if "error" in result:
        happened = str(result["error"])[:MAX_VALUE_CHARS]
    elif "value" in result:
        happened = f"it returned {show(result['value'])}"
    else:
        happened = "it did not end in time, or ended the program"
    return f"Test failed: {call} should return {show(test['returns'])}; {happened}."


def show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "..."


def same(expected: Any, got: Any) -> bool:
    """Equality of JSON values: True is not 1, floats may differ in the last digits, tuples have become lists."""
    if isinstance(expected, bool) or isinstance(got, bool) or expected is None or isinstance(expected, str):
        return type(expected) is type(got) and expected == got
    if isinstance(expected, list):
        return isinstance(got, list) and len(expected) == len(got) and all(map(same, expected, got))
    if isinstance(expected, dict):
        return isinstance(got, dict) and expected.keys() == got.keys() and all(same(expected[k], got[k]) for k in got)
    if isinstance(expected, float) or isinstance(got, float):
        try:
            return math.isclose(expected, got, rel_tol=1e-9, abs_tol=1e-12)
        except (TypeError, OverflowError):
            return False
    return type(got) is int and expected == got


def run(code: str, task: dict[str, Any], *, time_limit_s: float, memory_limit_mb: int) -> list[dict[str, Any]]:
    """What the child wrote of each call, in order, as far as it came.

    Raises:
        SandboxError: the child did not start.
    """
    request = {
        "code": code, "function": task["function"], "calls": [test["args"] for test in task["tests"]],
        "time_limit_s": time_limit_s, "cpu_s": math.ceil(time_limit_s) + 1, "memory_mb": memory_limit_mb,
    }  # fmt: skip
    _, lines = start(request)
    return lines


def start(request: dict[str, Any]) -> tuple[dict[str, bool], list[dict[str, Any]]]:
    """Run the child: its precautions, and its lines."""
    with tempfile.TemporaryDirectory(prefix="code-task-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(RUNNER)], cwd=folder, env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(request).encode())
                process.stdin.close()
            output = read(process.stdout.fileno(), START_LIMIT_S + request["time_limit_s"])
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()  # type: ignore[union-attr]
    first, _, rest = output.partition(b"\n")
    try:
        active = dict(json.loads(first))
    except (ValueError, TypeError) as error:
        raise SandboxError(f"the child that runs the code must start; got exit status {process.returncode}") from error
    return active, parse(rest)


def read(descriptor: int, limit_s: float) -> bytes:
    """What comes until the end, the time limit, or more than anyone needs."""
    deadline = time.monotonic() + limit_s
    output = bytearray()
    poll = select.poll()  # not select, which knows no descriptor above 1023
    poll.register(descriptor, select.POLLIN)
    while len(output) < MAX_OUTPUT_BYTES:
        ready = poll.poll(max(0.0, 1000 * (deadline - time.monotonic())))
        chunk = os.read(descriptor, 65536) if ready else b""
        if not chunk:
            break
        output += chunk
    return bytes(output)


def parse(output: bytes) -> list[dict[str, Any]]:
    """The lines that are whole and in order; what the code itself wrote between them ends the list."""
    lines: list[dict[str, Any]] = []
    for raw in output.split(b"\n")[:-1]:
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):
            break
        if not isinstance(line, dict) or (line.get("call") != len(lines) and "load_error" not in line):
            break
        lines.append(line)
    return lines


def main() -> None:
    request = {"code": "", "function": "f", "calls": [], "time_limit_s": 5, "cpu_s": 5, "memory_mb": 512}
    active, _ = start(request)
    yes = {True: "yes", False: "no"}
    print(f"no network, other processes out of reach:  {yes[active['namespaces']]}")
    print(f"other processes out of sight (own /proc):  {yes[active['hidden']]}")
    print(f"a user without rights (nobody):            {yes[active['nobody']]}")


if __name__ == "__main__":
    main()
