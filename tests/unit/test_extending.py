"""The examples of examples/extending: data, the child process that runs code, and what cannot be cheated there."""

from __future__ import annotations

import inspect
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "extending"
sys.path.insert(0, str(EXAMPLE))

import code_data  # noqa: E402
import code_task  # noqa: E402
import gsm8k_data  # noqa: E402
from verl_multiattempt.adapters.compute_score import ComputeScoreVerifier  # noqa: E402
from verl_multiattempt.settings import VerifierSettings  # noqa: E402
from verl_multiattempt.verifier import Outcome, Question, Verifier, make_verifier  # noqa: E402

TASK = {"function": "f", "tests": [{"args": [n], "returns": n + 1} for n in (1, 2, 5, -3)]}
FIRST_FAILS = "Test failed: f(1) should return 2; "


def score(code: str, task: dict[str, Any] = TASK, **kwargs: Any) -> dict[str, Any]:
    return code_task.compute_score("", f"```python\n{code}\n```", json.dumps(task), {}, **kwargs)


# Finding the code.


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\na\n```", "a"),
        ("```py\na\n```\n```python\nb = 1\nc\n``` end", "b = 1\nc"),
        ("```\na\n```", "a"),
        ("cut short: ```python\na", "a"),
        ("def f(x):\n    return 1", "def f(x):\n    return 1"),
        ("def g(x):\n    return 1", None),
        ("I would define def f", None),
        ("```python\n\n```", None),
        ("", None),
    ],
)
def test_code_is_the_last_block_or_the_whole_text(text: str, code: str | None) -> None:
    assert code_task.extract_code(text, "f") == code


def test_attempt_without_code_has_no_answer_and_is_told_how() -> None:
    result = code_task.compute_score("", "I do not know.", json.dumps(TASK))
    assert result == {"score": 0.0, "answer": None, "feedback": code_task.NO_CODE}


# Right and wrong code.


def test_right_code_passes_all_tests() -> None:
    assert score("def f(x):\n    return x + 1") == {
        "score": 1.0, "answer": "def f(x):\n    return x + 1", "feedback": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("code", "passed", "feedback"),
    [
        ("def f(x): return 2", 0.25, "Test failed: f(2) should return 3; it returned 2."),
        ("def f(x): return abs(x) + 1", 0.75, "Test failed: f(-3) should return -2; it returned 4."),
        ("def f(x): return 1 / (x - 1) and x + 1", 0.75, FIRST_FAILS + "ZeroDivisionError: division by zero."),
        ("def f(x): print(x + 1)", 0, FIRST_FAILS + "it returned None."),
        ("def f(x): raise ValueError('a\\nb')", 0, FIRST_FAILS + "ValueError: a."),
        ("def f(x): raise ValueError", 0, FIRST_FAILS + "ValueError."),
        ("def f(): return 2", 0, FIRST_FAILS + "TypeError: f() takes 0 positional arguments but 1 was given."),
        ("def f(x): return {x + 1}", 0, FIRST_FAILS + "it returned set, which is no plain value."),
        ("def f(x): return float('nan')", 0, FIRST_FAILS + "it returned float, which is no plain value."),
        ("def f(x): return f(x)", 0, FIRST_FAILS + "RecursionError: maximum recursion depth exceeded."),
        ("def f(x): return 'a' * 10**6", 0, FIRST_FAILS + "it returned a value of more than 64 kB."),
        ("def g(x): return 1", 0, "The code cannot be used: it defines no f"),
        ("f = 1 / 0", 0, "The code cannot be used: ZeroDivisionError: division by zero"),
        ("def f(x: return 1", 0, "The code cannot be used: SyntaxError: "),
    ],
)
def test_feedback_is_the_first_failing_test(code: str, passed: float, feedback: str) -> None:
    result = score(code)
    assert result["score"] == passed
    assert result["feedback"].startswith(feedback)
    assert len(result["feedback"]) < 1000


def test_long_values_are_cut_in_the_feedback() -> None:
    task = {"function": "f", "tests": [{"args": ["a" * 5000], "returns": "b" * 5000}]}
    feedback = score("def f(x): return 'c' * 5000", task)["feedback"]
    assert len(feedback) < 3 * code_task.MAX_VALUE_CHARS + 100


def test_standard_library_can_be_imported() -> None:
    assert score("import math, re, itertools\ndef f(x): return math.floor(x + 1)")["score"] == 1


@pytest.mark.parametrize(
    ("expected", "got", "equal"),
    [
        (1, 1, True), (1, 1.0, True), (1.0, 1, True), (0.3, 0.1 + 0.2, True), (1, True, False), (True, 1, False),
        (None, None, True), (None, 0, False), ("1", 1, False), (1, "1", False), ([1, [2]], [1, [2]], True),
        ([1], [1, 2], False), ([], {}, False), ({"a": 1}, {"a": 1.0}, True), ({"a": 1}, {"b": 1}, False),
        (1.5, "1.5", False), (1.5, [1.5], False), (1.5, 10**400, False), (1.5, None, False), (0, None, False),
    ],
)  # fmt: skip
def test_equality_of_values(expected: Any, got: Any, equal: bool) -> None:
    assert code_task.same(expected, got) is equal


# Cheats: none of them passes, each is over in time, and the next attempt is decided rightly.

ALWAYS_EQUAL = """
class Anything(int):
    def __eq__(self, other): return True
    def __hash__(self): return 0
def f(x): return Anything(0)
"""
FORGED_LINES = """
import os
lines = b''.join(b'{"call": %d, "value": %d}\\n' % (n, n) for n in range(4))
for descriptor in range(3, 32):
    try: os.write(descriptor, lines)
    except OSError: pass
os._exit(0)
"""
PATCHED_JSON = """
import json
json.dumps = lambda *a, **k: '{"value": true, "passed": true}'
json.JSONEncoder.encode = json.dumps
def f(x): return 'whatever'
"""
PATCHED_RUNNER = """
import sys
main = sys.modules['__main__']
main.answer = lambda function, arguments: {"value": True}
def f(x): return True
"""
SEARCH_OF_EXPECTED = """
import gc, sys
def f(x):
    frame = sys._getframe()
    while frame:
        for value in frame.f_locals.values():
            if isinstance(value, dict) and 'tests' in value:
                return value['tests'][0]['returns']
        frame = frame.f_back
    return None
"""


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "import sys\ndef f(x): sys.exit(0)",
        "def f(x): raise SystemExit(0)",
        "print('passed'); print('{\"call\": 0, \"value\": 2}')\ndef f(x): return None",
        ALWAYS_EQUAL, FORGED_LINES, PATCHED_JSON, PATCHED_RUNNER, SEARCH_OF_EXPECTED,
        "import builtins\nbuiltins.all = lambda *_: True\nbuiltins.__eq__ = None\ndef f(x): return 0",
        "import os\nfor d in range(3, 32):\n    try: os.write(d, b'garbage\\n' * 1000)\n    except OSError: pass\n"
        "def f(x): return 0",
        "import os\nfor d in range(3, 32):\n    try: os.write(d, b'[' * 60000 + b'\\n')\n    except OSError: pass\n"
        "def f(x): return 0",
        "import ctypes\nctypes.string_at(0)",
    ],
)  # fmt: skip
def test_cheat_does_not_pass(code: str) -> None:
    result = score(code)
    assert result["score"] <= 0.25  # one of the four may be hit by chance: True is not 2, but Anything(0) is 0
    assert result["feedback"]


def test_numbers_that_only_claim_to_be_equal_are_what_they_are() -> None:
    assert score(ALWAYS_EQUAL)["feedback"] == FIRST_FAILS + "it returned 0."


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "def f(x):\n    while True: pass",
        "def f(x):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass",
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n    except Exception: pass\n"
        "while True: pass",
        "import os\nos.setsid()\nwhile True: pass",
        "import os, time\ndef f(x):\n    os.close(1)\n    time.sleep(60)",
    ],
)  # fmt: skip
def test_code_that_does_not_end_is_ended(code: str) -> None:
    started = time.monotonic()
    result = score(code, time_limit_s=0.5)
    assert result["score"] == 0
    assert result["feedback"].endswith("it did not end in time, or ended the program.")
    assert time.monotonic() - started < 8  # on a busy machine; the limit is 0.5 s
    assert left_behind() == []


def left_behind() -> list[str]:
    """Command lines of children of this code that still run."""
    lines = subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in lines if "code_runner.py" in line and not line.startswith("Z")]


FORK_BOMB = """
import os
def f(x):
    for _ in range(12):  # bounded: 2**12 processes at worst
        os.fork()
    return x + 1
"""


def test_fork_bomb_makes_no_process() -> None:
    result = score(FORK_BOMB)
    assert result["score"] == 0
    assert "Resource temporarily unavailable" in result["feedback"]
    assert left_behind() == []


@pytest.mark.parametrize(
    ("code", "happened"),
    [
        ("def f(x): return len(bytearray(2**31)) and x + 1", "MemoryError"),
        ("def f(x):\n    a = [0]\n    while True: a += a", "MemoryError"),
        ("import _thread\ndef f(x):\n    _thread.start_new_thread(print, ())\n    return x + 1", "RuntimeError"),
        ("def f(x):\n    open('big', 'wb').write(bytes(2**22))\n    return x + 1", "OSError"),
        ("def f(x):\n    a = [open('a', 'w') for _ in range(100)]\n    return x + 1", "OSError"),
    ],
)
def test_limits(code: str, happened: str) -> None:
    result = score(code)
    assert result["score"] == 0
    assert happened in result["feedback"]


def test_huge_output_is_not_kept() -> None:
    result = score("def f(x):\n    print('x' * 10**7)\n    return x + 1")
    assert result["score"] == 1
    started = time.monotonic()
    assert score(FLOOD)["score"] == 0
    assert time.monotonic() - started < 12


def test_environment_and_folder_are_empty_and_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    task = {"function": "f", "tests": [{"args": [], "returns": [[], False]}]}
    code = "import os\ndef f():\n    open('mine', 'w').write('x')\n    os.remove('mine')\n" \
           "    return [os.listdir('.'), 'SECRET_TOKEN' in os.environ]"  # fmt: skip
    assert score(code, task)["score"] == 1
    where = {"function": "f", "tests": [{"args": [], "returns": ""}]}
    feedback = score("import os\ndef f(): return os.getcwd()", where)["feedback"]
    folder = re.search(r"it returned '(.+)'", feedback).group(1)  # type: ignore[union-attr]
    assert "code-task-" in folder
    assert not Path(folder).exists()


CONNECT = r"""
import ctypes
def f():
    libc = ctypes.CDLL(None, use_errno=True)
    socket = libc.socket(2, 1, 0)
    libc.connect(socket, b"\x02\x00\x00\x01\x7f\x00\x00\x01" + bytes(8), 16)  # 127.0.0.1, port 1
    return ctypes.get_errno()
"""
KILL = """
import os
def f(pid):
    try:
        os.kill(pid, 0)
    except OSError as error:
        return type(error).__name__
"""
OTHER_PROCESSES = """
import ctypes, os
def f():
    ctypes.CDLL(None).umount2(b"/proc", 2)  # what was there before may lie below
    own = str(os.getpid())
    return [open(f"/proc/{name}/cmdline").read() for name in os.listdir("/proc") if name.isdigit() and name != own]
"""
FLOOD = """
import os
def f(x):
    while True:
        for descriptor in range(32):
            try: os.write(descriptor, b'x' * 65536)
            except OSError: pass
"""


NO_CALLS = {"code": "", "function": "f", "calls": [], "time_limit_s": 5, "cpu_s": 5, "memory_mb": 512}


def test_precautions_that_this_machine_permits_are_active() -> None:
    active, _ = code_task.start(NO_CALLS)
    assert active["nobody"] == (os.geteuid() == 0)
    if active["nobody"]:
        task = {"function": "f", "tests": [{"args": [], "returns": [65534, 65534]}]}
        assert score("import os\ndef f(): return [os.getuid(), os.geteuid()]", task)["score"] == 1
    if active["namespaces"]:
        # Neither the interpreter that asks nor any server is within reach.
        task = {"function": "f", "tests": [{"args": [os.getpid()], "returns": "ProcessLookupError"}]}
        assert score(KILL, task)["feedback"] is None
        task = {"function": "f", "tests": [{"args": [], "returns": 101}]}  # ENETUNREACH
        assert score(CONNECT, task)["feedback"] is None
    if active["hidden"]:
        task = {"function": "f", "tests": [{"args": [], "returns": []}]}
        assert score(OTHER_PROCESSES, task)["feedback"] is None
    if os.geteuid() == 0:  # others may be forbidden to mount there
        assert active["hidden"] == active["namespaces"]


def test_processes_are_hidden_where_a_container_forbids_a_proc_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runner = (EXAMPLE / "code_runner.py").read_text()
    (tmp_path / "runner.py").write_text(runner.replace('(b"proc", 0)', '(b"no such file system", 0)'))
    monkeypatch.setattr(code_task, "RUNNER", tmp_path / "runner.py")
    active, _ = code_task.start(NO_CALLS)
    if os.geteuid() == 0:
        assert active["hidden"] == active["namespaces"]
    if active["hidden"]:
        task = {"function": "f", "tests": [{"args": [], "returns": []}]}
        assert score("import os\ndef f(): return os.listdir('/proc')", task)["feedback"] is None


def test_child_that_cannot_start_is_an_error_and_no_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(code_task, "RUNNER", tmp_path / "none.py")
    with pytest.raises(code_task.SandboxError, match="the child that runs the code must start; got exit status"):
        score("def f(x): return x + 1")


def test_precautions_are_shown_by_the_script() -> None:
    script = [sys.executable, str(EXAMPLE / "code_task.py")]
    done = subprocess.run(script, capture_output=True, text=True, check=True)
    assert re.fullmatch(
        r"no network, .*: +(yes|no)\nother processes .*: +(yes|no)\na user .*: +(yes|no)\n", done.stdout
    )


# As a verifier, with the keys of code.sh.


@pytest.mark.parametrize("run_in", ["thread", "pool"])
async def test_as_a_verifier(run_in: str) -> None:
    kwargs = {"path": str(EXAMPLE / "code_task.py"), "answer_key": "answer", "run_in": run_in}
    verifier = make_verifier(VerifierSettings(name="compute_score", timeout_s=30, kwargs=kwargs))
    question = Question(ground_truth=json.dumps(TASK), data_source="extending/code")
    right = await verifier.verify("```python\ndef f(x): return x + 1\n```", question)
    wrong = await verifier.verify("```python\ndef f(x): return x\n```", question)
    none = await verifier.verify("Hm.", question)
    assert [v.outcome for v in (right, wrong, none)] == [Outcome.CORRECT, Outcome.INCORRECT, Outcome.NO_ANSWER]
    assert wrong.feedback == FIRST_FAILS + "it returned 1."
    await verifier.close()


# The data sets.


def test_every_task_is_solved_by_its_solution_and_not_by_those_of_its_family() -> None:
    rng = random.Random(0)
    tasks = code_data.all_tasks(("number", "text", "list"))
    assert len(tasks) == 96
    for task in tasks:
        tests = task.tests(rng)
        functions = {other: code_data.to_function(other) for other in (task.expression, *task.others)}
        solved = [e for e, f in functions.items() if all(f(test["args"][0]) == test["returns"] for test in tests)]
        assert solved == [task.expression]
    for task, other in zip(tasks[::8], tasks[1::8], strict=True):  # the first two of each family, in the child
        ground_truth = {"function": "f", "tests": task.tests(rng)}
        assert score(task.solution, ground_truth)["score"] == 1, task
        assert score(other.solution, ground_truth)["score"] < 1, task


def test_code_data_rows_and_splits(tmp_path: Path) -> None:
    code_data.main(["--out", str(tmp_path), "--seed", "4"])
    train, val = (pq.read_table(tmp_path / f"{name}.parquet").to_pylist() for name in ("train", "val"))
    assert (len(train), len(val)) == (80, 16)
    questions = {row["prompt"][0]["content"] for row in train + val}
    assert len(questions) == 96
    for index, row in enumerate(train):
        assert (row["data_source"], row["ability"], row["extra_info"]["index"]) == ("extending/code", "code", index)
        tests = json.loads(row["reward_model"]["ground_truth"])["tests"]
        assert len({json.dumps(test["args"]) for test in tests}) == code_data.NUM_TESTS
        assert all(code_task.same(test["returns"], json.loads(json.dumps(test["returns"]))) for test in tests)


@pytest.mark.parametrize(
    ("answer", "number"), [("a\n#### 18", "18"), ("#### 1,234", "1234"), ("#### -5 ", "-5"), ("1 #### 2\n#### $3", "3")]
)
def test_gold_of_gsm8k(answer: str, number: str) -> None:
    assert gsm8k_data.gold(answer) == number


@pytest.mark.parametrize("answer", ["18", "####", "#### "])
def test_gsm8k_row_without_an_answer(answer: str) -> None:
    with pytest.raises(ValueError, match="answer must end with #### and a number; got "):
        gsm8k_data.gold(answer)


async def test_gsm8k_rows_are_decided_by_verls_own_function(benchmark_data: Path, tmp_path: Path) -> None:
    raw = str(benchmark_data / "gsm8k_test.jsonl")
    gsm8k_data.main(["--train", raw, "--val", raw, "--out", str(tmp_path), "--limit", "200"])
    rows = pq.read_table(tmp_path / "train.parquet").to_pylist()
    assert len(rows) == 200
    kwargs = {"answer_pattern": "#### (-?[0-9.,]+)"}
    verifier: Verifier = make_verifier(VerifierSettings(name="compute_score", kwargs=kwargs))
    for row in rows:
        question = Question(ground_truth=row["reward_model"]["ground_truth"], data_source=row["data_source"])
        published = await verifier.verify(row["extra_info"]["answer"], question)
        assert published.outcome is Outcome.CORRECT, row
        other = await verifier.verify(f"#### {int(question.ground_truth) + 1}", question)
        assert other.outcome is Outcome.INCORRECT
        assert row["prompt"][0]["content"].endswith(gsm8k_data.INSTRUCTION)
    assert (await verifier.verify("18", question)).outcome is Outcome.NO_ANSWER
    await verifier.close()


# The README's verifier.


@pytest.mark.parametrize(
    ("text", "tolerance", "outcome", "feedback"),
    [
        ("\\boxed{7}", 0, Outcome.CORRECT, None),
        ("\\boxed{6}", 0, Outcome.INCORRECT, "Higher."),
        ("\\boxed{8}", 0, Outcome.INCORRECT, "Lower."),
        ("\\boxed{8}", 1, Outcome.CORRECT, None),
        ("8", 1, Outcome.NO_ANSWER, "Put a whole number in \\boxed{}."),
        ("\\boxed{8.0}", 1, Outcome.NO_ANSWER, "Put a whole number in \\boxed{}."),
    ],
)
async def test_verifier_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, tolerance: int, outcome: Outcome, feedback: str | None
) -> None:
    (source,) = re.findall(r"^```python\n(.*?)^```$", (EXAMPLE / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "guess.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "guess", raising=False)
    verifier = make_verifier(VerifierSettings(name="guess.GuessVerifier", kwargs={"tolerance": tolerance}))
    verdict = await verifier.verify(text, Question(ground_truth="7"))
    assert (verdict.outcome, verdict.feedback) == (outcome, feedback)
    await verifier.close()


def test_readme_has_the_reward_functions_arguments_with_their_defaults() -> None:
    table = (EXAMPLE / "README.md").read_text().split("verifier.kwargs.`")[1].split("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", table, re.MULTILINE))
    parameters = inspect.signature(ComputeScoreVerifier).parameters
    from_verls_keys = {"settings", "path", "name", "reward_kwargs"}
    assert set(rows) == set(parameters) - from_verls_keys
    for name, default in rows.items():
        if name != "no_answer_feedback":
            value = parameters[name].default
            assert default.strip("`") == ("null" if value is None else str(value))
