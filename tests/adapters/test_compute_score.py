"""verl's reward functions as verifiers: what they may return, how long they may take, where they run."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from tests.adapters.harness import compose_config
from verl_multiattempt.adapters import compute_score as module
from verl_multiattempt.adapters.agent_loop import read_settings
from verl_multiattempt.adapters.compute_score import ComputeScoreVerifier, plain
from verl_multiattempt.adapters.function_loader import check_source
from verl_multiattempt.adapters.reward_function import ResultError, read_score
from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Outcome, Question, Verifier, make_verifier

RUN_IN = ("thread", "pool")
KEY = "multiattempt.verifier.kwargs."
FUNCTION = "reward.custom_reward_function."
WITH_REMEDY = r"[\w.]+ must .+; got .+\. (Leave|Give|Take|Remove|Mend|Define|Change|There is no such file;) .+"
MakeVerifier = Callable[..., ComputeScoreVerifier]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[MakeVerifier]:
    """Makes a verifier from the text of a reward function's file."""
    made: list[ComputeScoreVerifier] = []

    def make(source: str | None = None, *, timeout_s: float = 5.0, num_workers: int = 1, **kwargs: Any) -> Any:
        if source is not None:
            path = tmp_path / f"function{len(made)}.py"
            path.write_text(source, encoding="utf-8")
            kwargs["path"] = str(path)
        made.append(ComputeScoreVerifier(VerifierSettings(timeout_s=timeout_s, num_workers=num_workers), **kwargs))
        return made[-1]

    yield make
    for verifier in made:
        await verifier.close()
        await verifier.close()


def returning(expression: str, head: str = "") -> str:
    """A file whose function returns ``expression``."""
    return f"{head}\ndef compute_score(data_source, solution_str, ground_truth, extra_info):\n    return {expression}\n"


QUESTION = Question(ground_truth="7", data_source="mine", extra_info={"index": 3})

# What a function may return.


@pytest.mark.parametrize(
    ("result", "score"),
    [
        (1, 1.0), (0.25, 0.25), (True, 1.0), (False, 0.0), (-1, -1.0), (np.float32(0.5), 0.5), (np.bool_(True), 1.0),
        (np.array(1), 1.0), (np.array([2.0]), 2.0), (torch.tensor(0.5), 0.5), (torch.tensor([[1]]), 1.0),
        ((True, {"case": 1}), 1.0), ([0.5, "why"], 0.5), ({"score": 1, "acc": 0}, 1.0), ({"score": np.int64(1)}, 1.0),
    ],
    ids=repr,
)  # fmt: skip
def test_score_is_read(result: Any, score: float) -> None:
    assert read_score(result) == score


@pytest.mark.parametrize(
    "result",
    [
        None, "1", "", {}, {"acc": 1.0}, {"score": None}, {"score": "1"}, float("nan"), float("inf"), (), [], ("1",),
        1j, np.array([1.0, 2.0]), np.float64("nan"), torch.tensor([1.0, 2.0]), object, "x" * 10**6,
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_what_is_no_finite_number_is_refused_in_a_sentence(result: Any) -> None:
    with pytest.raises(ResultError) as caught:
        read_score(result)
    assert str(caught.value).startswith(
        "a reward function must return a finite number, a tuple that begins with one, or a dict with one under score; "
    )
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("run_in", RUN_IN)
@pytest.mark.parametrize(
    ("score", "threshold", "outcome"),
    [
        (1.0, 1.0, Outcome.CORRECT), (0.99, 1.0, Outcome.INCORRECT), (0.5, 0.5, Outcome.CORRECT),
        (-0.5, -1, Outcome.CORRECT), (float("nan"), 0.0, Outcome.ERROR),
    ],
)  # fmt: skip
async def test_threshold(make: MakeVerifier, run_in: str, score: float, threshold: float, outcome: Outcome) -> None:
    verifier = make(returning(f"float('{score}')"), threshold=threshold, run_in=run_in)
    verdict = await verifier.verify("text", QUESTION)
    assert verdict.outcome is outcome
    assert verdict.seconds > 0
    assert (verdict.detail is not None) == (outcome is Outcome.ERROR)
    assert isinstance(verifier, Verifier)


# What it is called with.


@pytest.mark.parametrize("run_in", RUN_IN)
async def test_function_gets_verls_arguments_and_its_own(make: MakeVerifier, run_in: str) -> None:
    source = """
import json
def mine(data_source, solution_str, ground_truth, extra_info, *, bonus):
    seen = json.dumps([data_source, solution_str, ground_truth, extra_info, bonus])
    extra_info["seen"] = True
    return {"score": 1, "feedback": seen}
"""
    verifier = make(source, name="mine", reward_kwargs={"bonus": 2}, run_in=run_in)
    for _ in range(2):  # what a function writes into extra_info is not there the next time
        verdict = await verifier.verify("text é\0", QUESTION)
        assert json.loads(str(verdict.feedback)) == ["mine", "text é\0", "7", {"index": 3}, 2]
    assert QUESTION.extra_info == {"index": 3}


async def test_numpys_values_reach_the_pool_as_plain_ones(make: MakeVerifier) -> None:
    source = returning("{'score': 1, 'feedback': repr([ground_truth, extra_info])}")
    question = Question(
        ground_truth=np.array(["a", "b"], dtype=object),
        extra_info={"index": np.int64(4), "tests": np.array([{"x": np.float32(0.5)}], dtype=object), "t": (1, 2)},
    )
    verdict = await make(source, run_in="pool").verify("", question)
    assert verdict.feedback == "[['a', 'b'], {'index': 4, 'tests': [{'x': 0.5}], 't': [1, 2]}]"
    assert json.loads(json.dumps(plain(question.extra_info))) == plain(question.extra_info)


async def test_in_a_thread_the_row_is_passed_as_the_dataset_gave_it(make: MakeVerifier) -> None:
    question = Question(ground_truth=np.array([1, 2]), extra_info={})
    source = returning("{'score': 1, 'feedback': type(ground_truth).__name__}")
    assert (await make(source).verify("", question)).feedback == "ndarray"


# verl's own function.


@pytest.mark.parametrize("run_in", RUN_IN)
async def test_verls_own_function_by_data_source(make: MakeVerifier, run_in: str) -> None:
    verifier = make(run_in=run_in)
    question = Question(ground_truth="18", data_source="openai/gsm8k")
    assert (await verifier.verify("so #### 18", question)).outcome is Outcome.CORRECT
    assert (await verifier.verify("so #### 19", question)).outcome is Outcome.INCORRECT


async def test_data_source_that_verl_does_not_know(make: MakeVerifier) -> None:
    verdict = await make().verify("1", QUESTION)
    assert verdict.outcome is Outcome.ERROR
    assert verdict.detail == (
        "ValueError: data_source must be one that verl's default_compute_score knows; got 'mine'. "
        "Set reward.custom_reward_function.path to a function of your own."
    )


async def test_not_implemented_of_ones_own_function_is_its_own(make: MakeVerifier) -> None:
    source = "def compute_score(**row):\n    raise NotImplementedError('later')"
    assert (await make(source).verify("1", QUESTION)).detail == "NotImplementedError: later"


@pytest.mark.parametrize(
    "source",
    ["openai/gsm8k", "lighteval/MATH", "math_dapo", "aime2024", "numina_olympiads", "codecontests", "searchR1_nq"],
)
def test_check_of_a_data_source_decides_nothing(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any, **kwargs: Any) -> None:
        raise SystemExit("a process was started or a server asked")

    monkeypatch.setattr("multiprocessing.Manager", forbidden)
    monkeypatch.setattr("requests.post", forbidden)
    monkeypatch.setattr("subprocess.Popen", forbidden)
    check_source(source, {})
    check_source(source, {"sandbox_fusion_url": "http://localhost:1/run_code", "memory_limit_mb": 1024})


def test_check_of_an_unknown_data_source() -> None:
    with pytest.raises(ValueError, match=r"knows; got 'nobody/knows'\. Set reward\.custom_reward_function\.path to"):
        check_source("nobody/knows", {})


def test_check_of_a_data_source_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mathruler", None)
    monkeypatch.setitem(sys.modules, "mathruler.grader", None)
    monkeypatch.delitem(sys.modules, "verl.utils.reward_score.geo3k", raising=False)
    with pytest.raises(
        ValueError, match=r"must be one whose reward function verl can import; got 'hiyouga/geometry3k'"
    ):
        check_source("hiyouga/geometry3k", {})


# Answers and feedback.


@pytest.mark.parametrize("run_in", RUN_IN)
@pytest.mark.parametrize(
    ("pattern", "text", "answer"),
    [
        ("#### (-?[0-9.,]+)", "#### 1 or rather #### 1,234", "1,234"),
        ("#### (-?[0-9.,]+)", "1,234", None),
        ("#### (-?[0-9.,]+)", "", None),
        ("[A-D]$", "it is B", "B"),
        ("(?:answer: (.*)|none)", "answer: 4 none", "4 none"),
        ("answer:(.*)", "answer: 4\nanswer:  ", "4"),
        ("boxed", r"\boxed{1} \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("boxed", "boxed 1", None),
    ],
)
async def test_answer_pattern(make: MakeVerifier, run_in: str, pattern: str, text: str, answer: str | None) -> None:
    # The function would find any text correct: without an answer it is not asked.
    verdict = await make(returning("1"), answer_pattern=pattern, run_in=run_in).verify(text, QUESTION)
    assert verdict.outcome is (Outcome.NO_ANSWER if answer is None else Outcome.CORRECT)
    assert verdict.answer == answer
    if answer is None:
        expected = (
            "No \\boxed{} answer was found." if pattern == "boxed" else "No answer in the asked format was found."
        )
        assert verdict.feedback == expected


async def test_feedback_where_there_is_no_answer_can_be_chosen(make: MakeVerifier) -> None:
    verifier = make(returning("1"), answer_pattern="#", no_answer_feedback="Use #.")
    assert (await verifier.verify("1", QUESTION)).feedback == "Use #."


@pytest.mark.parametrize(
    ("result", "outcome", "answer"),
    [
        ({"score": 1, "pred": "4"}, Outcome.CORRECT, "4"),
        ({"score": 0, "pred": 5}, Outcome.INCORRECT, "5"),
        ({"score": 0, "pred": None}, Outcome.NO_ANSWER, None),
        ({"score": 0, "pred": "  "}, Outcome.NO_ANSWER, None),
        ({"score": 0}, Outcome.NO_ANSWER, None),
        ({"score": 1, "pred": None}, Outcome.CORRECT, None),
        (0.0, Outcome.NO_ANSWER, None),
    ],
)
async def test_answer_key(make: MakeVerifier, result: Any, outcome: Outcome, answer: str | None) -> None:
    verdict = await make(returning(repr(result)), answer_key="pred").verify("", QUESTION)
    assert (verdict.outcome, verdict.answer) == (outcome, answer)


async def test_feedback_key_and_its_bound(make: MakeVerifier) -> None:
    source = returning("{'score': 0, 'feedback': 'no', 'hint': 'ab' * 10**6, 'number': 4}")
    assert (await make(source).verify("", QUESTION)).feedback == "no"
    assert len(str((await make(source, feedback_key="hint").verify("", QUESTION)).feedback)) == 10_000
    assert (await make(source, feedback_key="number").verify("", QUESTION)).feedback == "4"
    assert (await make(source, feedback_key="none").verify("", QUESTION)).feedback is None


@pytest.mark.parametrize("run_in", RUN_IN)
async def test_long_answer_is_cut(make: MakeVerifier, run_in: str) -> None:
    by_key = make(returning("{'score': 0.0, 'pred': 'é' * 3 * 10**6}"), answer_key="pred", run_in=run_in)
    by_pattern = make(returning("1"), answer_pattern="a+", run_in=run_in)
    for verifier, text, outcome in ((by_key, "", Outcome.INCORRECT), (by_pattern, "a" * 10**6, Outcome.CORRECT)):
        verdict = await verifier.verify(text, QUESTION)
        assert verdict.outcome is outcome, verdict.detail
        assert len(str(verdict.answer)) == 20_000


@pytest.mark.parametrize("run_in", RUN_IN)
async def test_row_whose_extra_info_is_null(make: MakeVerifier, run_in: str) -> None:
    verifier = make(returning("{'score': 1, 'feedback': repr(extra_info)}"), run_in=run_in)
    question = Question(ground_truth="7", extra_info=None)  # type: ignore[arg-type]
    assert (await verifier.verify("", question)).feedback == "{}"


# Functions that fail, take long, or hang.


@pytest.mark.parametrize("run_in", RUN_IN)
async def test_function_that_raises_is_an_error_and_the_next_call_is_right(make: MakeVerifier, run_in: str) -> None:
    verifier = make(returning("1 / int(solution_str)"), run_in=run_in)
    verdict = await verifier.verify("0", QUESTION)
    assert verdict.outcome is Outcome.ERROR
    assert "ZeroDivisionError: division by zero" in str(verdict.detail)
    assert (await verifier.verify("1", QUESTION)).outcome is Outcome.CORRECT


@pytest.mark.parametrize(
    ("kind", "statement"),
    [
        ("def", "sys.exit(0)"), ("def", "raise StopIteration"), ("def", "raise KeyboardInterrupt"),
        ("def", "raise GeneratorExit"), ("def", "raise asyncio.CancelledError"),
        ("async def", "sys.exit(0)"), ("async def", "raise StopIteration"),
        ("async def", "raise GeneratorExit"), ("async def", "raise asyncio.CancelledError"),
        ("async def", "asyncio.current_task().cancel(); await asyncio.sleep(0)"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("run_in", RUN_IN)
async def test_function_that_would_end_the_process(make: MakeVerifier, run_in: str, kind: str, statement: str) -> None:
    verifier = make(f"import asyncio, sys\n{kind} compute_score(**row):\n    {statement}", run_in=run_in)
    verdict = await verifier.verify("1", QUESTION)
    assert verdict.outcome is Outcome.ERROR
    assert verdict.detail


@pytest.mark.parametrize("run_in", RUN_IN)
@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_exception_whose_text_cannot_be_had(make: MakeVerifier, run_in: str, kind: str) -> None:
    source = f"class E(Exception):\n    def __str__(self): sys.exit()\n{kind} compute_score(**row):\n    raise E"
    verdict = await make(f"import sys\n{source}", run_in=run_in).verify("1", QUESTION)
    assert (verdict.outcome, verdict.detail) == (Outcome.ERROR, "E: (its text raised SystemExit)")


async def test_cancelled_verification_by_a_coroutine_function_is_cancelled(make: MakeVerifier) -> None:
    source = """
import asyncio
async def compute_score(solution_str, **row):
    await asyncio.sleep(float(solution_str))
    return 1
"""
    verifier = make(source)
    task = asyncio.create_task(verifier.verify("5", QUESTION))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await verifier.verify("0", QUESTION)).outcome is Outcome.CORRECT


async def test_thread_that_cannot_be_started_is_an_error(make: MakeVerifier, monkeypatch: pytest.MonkeyPatch) -> None:
    verifier = make(returning("1"))

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refused)
        verdict = await verifier.verify("", QUESTION)
    assert (verdict.outcome, verdict.detail) == (Outcome.ERROR, "RuntimeError: can't start new thread")
    assert (await verifier.verify("", QUESTION)).outcome is Outcome.CORRECT


async def test_slow_function_in_a_thread_times_out_and_the_event_loop_goes_on(make: MakeVerifier) -> None:
    verifier = make(returning("time.sleep(float(solution_str)) or 1", "import time"), timeout_s=1.0)
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.005)

    ticking = asyncio.create_task(tick())
    started = time.monotonic()
    verdicts = await asyncio.gather(*(verifier.verify(text, QUESTION) for text in ("6", "0", "0.01")))
    ticking.cancel()
    assert [v.outcome for v in verdicts] == [Outcome.TIMEOUT, Outcome.CORRECT, Outcome.CORRECT]
    assert verdicts[0].detail == ("the reward function took longer than multiattempt.verifier.timeout_s (1 s)")
    assert time.monotonic() - started < 5
    assert len(ticks) > 10  # a blocked loop would have had one


async def test_at_most_num_workers_threads_at_once(make: MakeVerifier) -> None:
    source = """
import threading, time
lock, running = threading.Lock(), 0
def compute_score(**row):
    global running
    with lock:
        running += 1
        seen = running
    time.sleep(0.05)
    with lock:
        running -= 1
    return {"score": 1, "feedback": seen}
"""
    verifier = make(source, num_workers=2)
    verdicts = await asyncio.gather(*(verifier.verify("", QUESTION) for _ in range(8)))
    assert {verdict.feedback for verdict in verdicts} == {"1", "2"}
    assert {verdict.outcome for verdict in verdicts} == {Outcome.CORRECT}


async def test_threads_that_never_end_are_counted_and_then_refused(
    make: MakeVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_ABANDONED", 2)
    source = "import builtins\ndef compute_score(solution_str, **row):\n" \
             "    if solution_str == 'hang':\n        builtins.test_event.wait(20)\n    return 1\n"  # fmt: skip
    event = threading.Event()
    monkeypatch.setattr("builtins.test_event", event, raising=False)
    verifier = make(source, timeout_s=0.5)
    outcomes = [(await verifier.verify("hang", QUESTION)).outcome for _ in range(2)]
    assert outcomes == [Outcome.TIMEOUT, Outcome.TIMEOUT]
    refused = await verifier.verify("fine", QUESTION)
    assert refused.outcome is Outcome.ERROR
    assert refused.detail == (
        "the reward function must keep multiattempt.verifier.timeout_s (0.5 s); got 2 calls that run on in threads, "
        "which cannot be ended. Set +multiattempt.verifier.kwargs.run_in=pool."
    )
    event.set()  # they end after all
    deadline = time.monotonic() + 10
    while (await verifier.verify("fine", QUESTION)).outcome is not Outcome.CORRECT:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_cancelled_verification_gives_its_place_back(make: MakeVerifier) -> None:
    verifier = make(returning("time.sleep(float(solution_str)) or 1", "import time"))
    task = asyncio.create_task(verifier.verify("5", QUESTION))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    verdict = await verifier.verify("0", QUESTION)
    assert verdict.outcome is Outcome.CORRECT
    assert verdict.seconds < 4


def test_hanging_thread_does_not_keep_the_process_alive(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text(returning("threading.Event().wait()", "import threading"), encoding="utf-8")
    script = f"""
import asyncio
from verl_multiattempt.adapters.compute_score import ComputeScoreVerifier
from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Question
verifier = ComputeScoreVerifier(VerifierSettings(timeout_s=0.1), path={str(tmp_path / "hangs.py")!r})
print(asyncio.run(verifier.verify("", Question(ground_truth=1))).outcome)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "TIMEOUT\n"


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("while True: pass", Outcome.TIMEOUT),
        ("import re; re.fullmatch('(a+)+b', 'a' * 40)", Outcome.TIMEOUT),  # holds the interpreter's lock
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", Outcome.ERROR),
        ("import os; os._exit(0)", Outcome.ERROR),
        ("bytearray(10**11)", Outcome.ERROR),
    ],
)
async def test_pool_ends_what_a_thread_cannot_and_the_next_call_is_right(
    make: MakeVerifier, code: str, outcome: Outcome
) -> None:
    source = f"def compute_score(solution_str, **row):\n    if solution_str == 'bad':\n        {code}\n    return 1\n"
    verifier = make(source, run_in="pool", timeout_s=1.0)
    bad, good = await asyncio.gather(verifier.verify("bad", QUESTION), verifier.verify("good", QUESTION))
    assert (bad.outcome, good.outcome) == (outcome, Outcome.CORRECT)
    assert bad.detail


async def test_pool_runs_functions_in_the_main_thread_so_signals_work(make: MakeVerifier) -> None:
    source = """
import signal
def compute_score(**row):
    signal.signal(signal.SIGALRM, lambda *_: 1 / 0)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        while True: pass
    except ZeroDivisionError:
        return 1
"""
    assert (await make(source, run_in="pool").verify("", QUESTION)).outcome is Outcome.CORRECT
    in_thread = await make(source).verify("", QUESTION)
    assert in_thread.outcome is Outcome.ERROR
    assert "signal only works in main thread" in str(in_thread.detail)


# Coroutine functions.


@pytest.mark.parametrize("run_in", RUN_IN)
async def test_coroutine_function(make: MakeVerifier, run_in: str) -> None:
    source = (
        "import asyncio\nasync def compute_score(solution_str, **row):\n    await asyncio.sleep(0.01)\n    return 1\n"
    )
    assert (await make(source, run_in=run_in).verify("", QUESTION)).outcome is Outcome.CORRECT


async def test_coroutine_functions_run_on_the_loop_all_at_once(make: MakeVerifier) -> None:
    source = "import asyncio\nasync def compute_score(**row):\n    await asyncio.sleep(0.2)\n    return 1\n"
    verifier = make(source, num_workers=1)
    started = time.monotonic()
    verdicts = await asyncio.gather(*(verifier.verify("", QUESTION) for _ in range(50)))
    assert {v.outcome for v in verdicts} == {Outcome.CORRECT}
    assert time.monotonic() - started < 2


async def test_coroutine_that_does_not_let_itself_be_cancelled_times_out(make: MakeVerifier) -> None:
    source = """
import asyncio
async def compute_score(**row):
    for _ in range(4):
        try:
            await asyncio.sleep(0.2)
        except asyncio.CancelledError:
            pass
    return 1
"""
    verdict = await make(source, timeout_s=0.1).verify("", QUESTION)
    assert verdict.outcome is Outcome.TIMEOUT
    assert verdict.seconds < 0.5


@pytest.mark.parametrize(
    "source",
    [
        "class Function:\n    async def __call__(self, **row):\n        return 1\ncompute_score = Function()",
        "import functools\nasync def f(x, **row):\n    return x\ncompute_score = functools.partial(f, 1)",
        "async def f(**row):\n    return 1\ndef compute_score(**row):\n    return f(**row)",
    ],
    ids=["object", "partial", "returns a coroutine"],
)
async def test_coroutines_in_disguise(make: MakeVerifier, source: str) -> None:
    assert (await make(source).verify("", QUESTION)).outcome is Outcome.CORRECT


# Arguments that cannot work.


@pytest.mark.parametrize(
    ("kwargs", "sentence"),
    [
        ({"run_in": "process"}, KEY + "run_in must be one of thread, pool; got 'process'"),
        ({"threshold": float("nan")}, KEY + "threshold must be a finite number; got nan"),
        ({"threshold": "1"}, KEY + "threshold must be a finite number; got '1'"),
        ({"threshold": True}, KEY + "threshold must be a finite number; got True"),
        ({"answer_pattern": "("}, KEY + "answer_pattern must be null, boxed or a regular expression; got '('. Mend"),
        ({"answer_pattern": 4}, KEY + "answer_pattern must be null, boxed or a regular expression; got 4"),
        ({"answer_pattern": ""}, KEY + "answer_pattern must be null, boxed or a regular expression; got ''"),
        ({"answer_key": ""}, KEY + "answer_key must be null or a non-empty text; got ''"),
        ({"feedback_key": None}, KEY + "feedback_key must be a non-empty text; got None"),
        ({"no_answer_feedback": 1}, KEY + "no_answer_feedback must be null or a non-empty text; got 1"),
        ({"path": 1}, KEY + "path must be null or a non-empty text; got 1"),
        ({"name": None}, KEY + "name must be a non-empty text; got None"),
        ({"reward_kwargs": [1]}, KEY + "reward_kwargs must be a mapping; got [1]"),
        ({"reward_kwargs": {"solution_str": 1}}, KEY + "reward_kwargs must leave data_source, solution_str, "
                                                       "ground_truth, extra_info to the row; got ['solution_str']"),
        ({"path": "none.py"}, FUNCTION + "path must name a file or pkg://package.module; got 'none.py'"),
        ({"path": "pkg://no_such_package"}, FUNCTION + "path must name a module that can be loaded; "
                                            "got 'pkg://no_such_package'. Mend what it raised, ModuleNotFound"),
    ],
    ids=lambda value: str(value)[:50],
)  # fmt: skip
def test_bad_argument(kwargs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(sentence)) as caught:
        ComputeScoreVerifier(VerifierSettings(), **kwargs)
    assert re.fullmatch(WITH_REMEDY, str(caught.value))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("def other(**row): return 1", FUNCTION + "name must be a function in {path}; got "
                                       "'compute_score'. Define one of that name there, or name another."),
        ("compute_score = 3", FUNCTION + "name must be a function in {path}; got 'compute_score'"),
        ("1 / 0", FUNCTION + "path must name a module that can be loaded; got '{path}'. "
                  "Mend what it raised, ZeroDivisionError: division by zero"),
        ("import sys; sys.exit()", FUNCTION + "path must name a module that can be loaded; got '{path}'. "
                                   "Mend what it raised, SystemExit: "),
        ("def f(:", FUNCTION + "path must name a module that can be loaded; got '{path}'. "
                    "Mend what it raised, SyntaxError"),
        ("class E(Exception):\n    def __str__(self): 1 / 0\nraise E",
         FUNCTION + "path must name a module that can be loaded; got '{path}'. Mend what it raised, E: (its text "
         "raised ZeroDivisionError)"),
        ("def compute_score(solution_str, ground_truth): return 1",
         FUNCTION + "name must be a function of (data_source, solution_str, ground_truth, extra_info); "
         "got 'compute_score'. Change its parameters: got an unexpected keyword argument 'data_source'."),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_file_that_cannot_be_used(tmp_path: Path, source: str, sentence: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(source, encoding="utf-8")
    with pytest.raises(ValueError, match="^" + re.escape(sentence.format(path=path))) as caught:
        ComputeScoreVerifier(VerifierSettings(), path=str(path))
    assert re.fullmatch(WITH_REMEDY, str(caught.value))


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_file_and_package_are_found_as_verl_finds_them(tmp_path: Path, prefix: str) -> None:
    (tmp_path / "mine.py").write_text(returning("1"), encoding="utf-8")
    ComputeScoreVerifier(VerifierSettings(), path=f"{prefix}{tmp_path}/mine.py")
    package = {"path": "pkg://verl.utils.reward_score", "name": "default_compute_score"}
    ComputeScoreVerifier(VerifierSettings(), **package)


# From verl's keys to the verifier.


def config_with(**changes: Any) -> Any:
    config = compose_config()
    for key, value in changes.items():
        OmegaConf.update(config, key.replace("__", "."), value, force_add=True)
    return config


def test_verls_keys_fill_the_verifiers_arguments(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def mine(bonus, **row): return bonus", encoding="utf-8")
    function = {"path": str(tmp_path / "mine.py"), "name": "mine", "reward_kwargs": {"bonus": 3}}
    config = config_with(
        multiattempt__verifier={"name": "compute_score", "kwargs": {"threshold": 2}},
        reward__custom_reward_function=function,
    )
    settings = read_settings(config).verifier
    assert settings.kwargs == {**function, "threshold": 2}
    assert isinstance(make_verifier(settings), ComputeScoreVerifier)


def test_arguments_of_the_verifier_itself_come_first() -> None:
    config = config_with(
        multiattempt__verifier={"name": "compute_score", "kwargs": {"path": "a.py", "name": "a"}},
        reward__custom_reward_function={"path": "b.py", "name": "b", "reward_kwargs": {"x": 1}},
    )
    assert read_settings(config).verifier.kwargs == {"path": "a.py", "name": "a"}
    config.multiattempt.verifier.kwargs = {"name": "a"}
    assert read_settings(config).verifier.kwargs == {"path": "b.py", "name": "a", "reward_kwargs": {"x": 1}}


def test_sandbox_of_verl_is_handed_to_its_own_function() -> None:
    config = config_with(
        multiattempt__verifier={"name": "compute_score"},
        reward__sandbox_fusion={"url": "http://x", "memory_limit_mb": 512},
    )
    assert read_settings(config).verifier.kwargs == {
        "reward_kwargs": {"sandbox_fusion_url": "http://x", "memory_limit_mb": 512}
    }


def test_other_verifiers_get_nothing_of_it() -> None:
    config = config_with(reward__custom_reward_function={"path": "b.py", "name": "b"})
    assert read_settings(config).verifier.kwargs == {}
