"""Every input of tests/hostile_inputs.py through one pool: it ends in time, runs nothing, and leaves the pool right."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.hostile_inputs import HostileInput, hostile_inputs
from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Outcome, Question, Verdict, Verifier, make_verifier

SETTINGS = VerifierSettings(num_workers=2, timeout_s=1.0, memory_limit_mb=1024)
SLACK_S = 3.0
"""A busy machine, a worker that has to be replaced first."""
TICK_S = 0.005
MAX_BLOCKED_S = 0.25
NUM_LOOKS = 3
"""An input that seems to block the event loop, or the pool, is looked at again: a machine with other work is late by
itself."""
NEXT_OUTCOMES = (Outcome.CORRECT, Outcome.INCORRECT)
SAMPLE_S = 0.02

INPUTS = hostile_inputs()


@dataclass(slots=True, kw_only=True)
class Observed:
    """What one hostile input did."""

    verdict: Verdict | Exception
    """What the verifier returned, or what it raised, which it must not."""
    seconds: float
    blocked_s: float
    """Longest time for which the event loop did not run."""
    next_outcomes: tuple[Outcome, ...]
    """Outcomes of a right and a wrong answer directly afterwards."""


@dataclass(slots=True, kw_only=True)
class Observations:
    by_input: dict[tuple[str, str], Observed] = field(default_factory=dict)
    peak_rss_mb: dict[int, float] = field(default_factory=dict)
    """Highest resident memory of each process below this one, by its id."""
    marks: Path


def descendants(pid: int) -> Iterator[int]:
    """Processes below ``pid``, now."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                yield child
                yield from descendants(child)


def peak_rss_mb(pid: int) -> float:
    """The highest resident memory that a process has had."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return 0.0


@contextmanager
def watching_memory(peaks: dict[int, float]) -> Iterator[None]:
    """Sample the processes below this one, in a thread."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_S):
            for pid in descendants(os.getpid()):
                peaks[pid] = max(peaks.get(pid, 0.0), peak_rss_mb(pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


class Ticker:
    """A task that notes how late the event loop wakes it."""

    def __init__(self) -> None:
        self.worst_s = 0.0
        self._task = asyncio.create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(TICK_S)
            self.worst_s = max(self.worst_s, time.perf_counter() - started - TICK_S)

    async def stop(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


async def check_pool(verifier: Verifier, number: int) -> tuple[Outcome, ...]:
    """Verify a right and a wrong answer, new ones for each ``number``, at once, so that all workers are asked."""
    question = Question(ground_truth=f"(x+{number})^2")
    middle, last = 2 * number, number * number
    verdicts = await asyncio.gather(
        verifier.verify(f"\\boxed{{x^2+{middle}x+{last}}}", question),
        verifier.verify(f"\\boxed{{x^2+{middle}x+{last + 1}}}", question),
    )
    return tuple(verdict.outcome for verdict in verdicts)


async def observe_one(verifier: Verifier, ticker: Ticker, text: str, gold: str, number: int) -> Observed:
    verdict: Verdict | Exception
    ticker.worst_s, started = 0.0, time.perf_counter()
    try:
        verdict = await verifier.verify(text, Question(ground_truth=gold))
    except Exception as error:  # one such input must not hide what the others do
        verdict = error
    seconds = time.perf_counter() - started
    await asyncio.sleep(2 * TICK_S)  # a loop that was blocked until now shows at the next tick
    blocked_s = ticker.worst_s
    next_outcomes = await check_pool(verifier, number)
    return Observed(verdict=verdict, seconds=seconds, blocked_s=blocked_s, next_outcomes=next_outcomes)


async def observe(observations: Observations) -> None:
    prepared = [(each, *_texts(each, observations.marks)) for each in INPUTS]
    verifier = make_verifier(SETTINGS)
    await check_pool(verifier, 1)  # the start of the workers is not what is measured here
    ticker = Ticker()
    try:
        for number, (each, text, gold) in enumerate(prepared, start=2):
            observed = await observe_one(verifier, ticker, text, gold, number)
            for _ in range(NUM_LOOKS - 1):
                if observed.blocked_s < MAX_BLOCKED_S and observed.next_outcomes == NEXT_OUTCOMES:
                    break
                observed = await observe_one(verifier, ticker, text, gold, number)
            observations.by_input[each.kind, each.name] = observed
    finally:
        await ticker.stop()
        await verifier.close()


def _texts(each: HostileInput, marks: Path) -> tuple[str, str]:
    mark = marks / f"{each.kind}.{each.name}"
    return each.text(mark), each.gold_text(mark)


@pytest.fixture(scope="module")
def observations(tmp_path_factory: pytest.TempPathFactory) -> Observations:
    observations = Observations(marks=tmp_path_factory.mktemp("marks"))
    with watching_memory(observations.peak_rss_mb):
        asyncio.run(observe(observations))
    return observations


def test_there_are_at_least_75_kinds_with_names_of_their_own() -> None:
    names = [(each.kind, each.name) for each in INPUTS]
    assert len(names) >= 75
    assert len(set(names)) == len(names)


def test_the_code_would_make_its_mark(tmp_path: Path) -> None:
    # The inputs of kind code are only a test if what they hold is code: a part of them is Python, which runs here.
    made = 0
    for each in INPUTS:
        mark = tmp_path / each.name
        content = each.text(mark).removeprefix("The answer is \\boxed{").removesuffix("}.")
        if each.name in ("import_os_system", "import_pathlib", "open", "exec", "eval", "lambda", "walrus"):
            exec(content)
            made += mark.exists()
    assert made == 7


@pytest.mark.timeout(900)  # the first of these tests runs all inputs
@pytest.mark.parametrize("each", INPUTS, ids=lambda each: f"{each.kind}-{each.name}")
def test_hostile_input(each: HostileInput, observations: Observations) -> None:
    observed = observations.by_input[each.kind, each.name]
    assert isinstance(observed.verdict, Verdict), f"raised {observed.verdict!r}"
    assert observed.verdict.outcome in set(Outcome) - {Outcome.CORRECT}
    assert observed.seconds < SETTINGS.timeout_s + SLACK_S
    assert observed.next_outcomes == NEXT_OUTCOMES
    assert observed.blocked_s < MAX_BLOCKED_S


def test_no_code_ran(observations: Observations) -> None:
    assert list(observations.marks.iterdir()) == []


def test_memory_stayed_under_the_cap(observations: Observations) -> None:
    assert observations.peak_rss_mb, "no process was seen below this one"
    highest = max(observations.peak_rss_mb.values())
    print(f"\nhighest resident memory of {len(observations.peak_rss_mb)} processes: {highest:.0f} MiB")
    assert highest < SETTINGS.memory_limit_mb


def test_event_loop_was_never_blocked(observations: Observations) -> None:
    slowest = sorted(observations.by_input.items(), key=lambda item: -item[1].blocked_s)[:5]
    worst = ", ".join(f"{kind}-{name} {observed.blocked_s * 1e3:.1f} ms" for (kind, name), observed in slowest)
    print(f"\nevent loop blocked at most: {worst}")
    assert slowest[0][1].blocked_s < MAX_BLOCKED_S, worst
