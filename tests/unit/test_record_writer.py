"""Writing the episode log: nothing blocks, nothing is lost in silence, and a killed process leaves whole lines."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_record import recorded
from verl_multiattempt.record import RecordedEpisode, read_episodes
from verl_multiattempt.record_writer import EpisodeWriter, RecordQuota, check_directory, worker_name


@pytest.fixture
def make_writer(tmp_path: Path) -> Iterator[Callable[..., EpisodeWriter]]:
    """Makes writers to ``tmp_path / "log"``, closed at the end."""
    made: list[EpisodeWriter] = []

    def make(**options: Any) -> EpisodeWriter:
        made.append(EpisodeWriter(tmp_path / "log", **{"worker": "w", **options}))
        return made[-1]

    yield make
    for writer in made:
        writer.close(timeout_s=0.1)


def wait_until(reached: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while not reached():
        assert time.monotonic() < deadline, "not reached in time"
        time.sleep(0.005)


def test_lines_are_in_the_file_as_soon_as_they_count_as_written(
    make_writer: Callable[..., EpisodeWriter], tmp_path: Path
) -> None:
    writer = make_writer()
    for step in range(1, 6):
        assert writer.submit(lambda step=step: recorded(step=step))
        wait_until(lambda step=step: writer.written == step)
        assert [episode.step for episode in read_episodes(tmp_path / "log")] == list(range(1, step + 1))
    assert {episode.worker for episode in read_episodes(tmp_path / "log")} == {"w"}


def test_close_writes_what_is_waiting_and_may_be_called_twice(
    make_writer: Callable[..., EpisodeWriter], tmp_path: Path
) -> None:
    writer = make_writer()
    for step in range(200):
        writer.submit(lambda step=step: recorded(step=step % 7))
    writer.close()
    writer.close()
    assert (writer.written, writer.dropped) == (200, 0)
    assert len(list(read_episodes(tmp_path / "log"))) == 200


def test_new_file_every_hundred_steps(make_writer: Callable[..., EpisodeWriter], tmp_path: Path) -> None:
    writer = make_writer()
    for step in (0, 1, 99, 100, 205, 199, -1):
        writer.submit(lambda step=step: recorded(step=step))
    writer.close()
    assert {path.name: len(path.read_bytes().splitlines()) for path in (tmp_path / "log").iterdir()} == {
        "episodes-w-000000.jsonl": 4,
        "episodes-w-000100.jsonl": 2,
        "episodes-w-000200.jsonl": 1,
    }


def test_half_a_line_that_an_earlier_process_left_does_not_spoil_the_next(
    make_writer: Callable[..., EpisodeWriter], tmp_path: Path
) -> None:
    (tmp_path / "log").mkdir()
    path = tmp_path / "log" / "episodes-w-000000.jsonl"
    path.write_bytes(b'{"schema":2,"quest')
    writer = make_writer()
    writer.submit(recorded)
    writer.close()
    assert len(list(read_episodes(path))) == 1


def test_file_deleted_under_the_writer_is_made_again(make_writer: Callable[..., EpisodeWriter], tmp_path: Path) -> None:
    writer = make_writer()
    writer.submit(lambda: recorded(step=1))
    wait_until(lambda: writer.written == 1)
    (tmp_path / "log" / "episodes-w-000000.jsonl").unlink()
    (tmp_path / "log").rmdir()
    writer.submit(lambda: recorded(step=2))
    writer.close()
    assert [episode.step for episode in read_episodes(tmp_path / "log")] == [2]


def test_worker_is_named_by_host_and_process() -> None:
    assert worker_name().endswith(f"-{os.getpid()}")
    assert "/" not in worker_name()


# Trouble: counted, logged, told by the lines that follow.


def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


def test_episode_that_cannot_be_written_is_counted_and_the_next_one_tells(
    make_writer: Callable[..., EpisodeWriter], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make_writer()

    def broken() -> RecordedEpisode:
        raise RuntimeError("no tokenizer")

    writer.submit(broken)
    writer.submit(lambda: recorded(ground_truth={1j: "a key that JSON does not know"}))
    writer.submit(lambda: recorded(ground_truth=circular()))
    writer.submit(recorded)
    writer.close()
    assert (writer.written, writer.dropped) == (1, 3)
    assert [episode.dropped for episode in read_episodes(tmp_path / "log")] == [3]
    assert (tmp_path / "log" / "episodes-w-000000.jsonl").read_bytes().count(b"\n") == 1, "nothing is left to tell"
    log = tmp_path / "log"
    assert caplog.messages[:2] == [
        f"multiattempt: 1 episodes so far could not be written to the episode log {log}: RuntimeError: no tokenizer",
        f"multiattempt: 3 episodes are missing in the episode log {log}",
    ]


@pytest.mark.parametrize("written", [0, 2])
def test_last_episodes_that_cannot_be_written_are_told_by_a_line_at_the_end(
    written: int, make_writer: Callable[..., EpisodeWriter], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = make_writer()
    for _ in range(written):
        writer.submit(lambda: recorded(step=250))
    for _ in range(3):
        writer.submit(lambda: recorded(step=250, ground_truth=circular()))
    writer.close()
    assert (writer.written, writer.dropped) == (written, 3)
    (file,) = (tmp_path / "log").iterdir()
    last = json.loads(file.read_bytes().splitlines()[-1])
    assert last == {"schema": 2, "end": True, "worker": "w", "dropped": 3}
    caplog.clear()
    assert len(list(read_episodes(tmp_path / "log"))) == written
    assert caplog.messages == ["worker w could not write 3 episodes; its own log says why"]


def test_number_that_json_does_not_have_costs_no_episode(
    make_writer: Callable[..., EpisodeWriter], tmp_path: Path
) -> None:
    writer = make_writer()
    writer.submit(lambda: recorded(ground_truth={"inputs": [1], "outputs": [float("inf"), float("nan")]}))
    writer.close()
    assert (writer.written, writer.dropped) == (1, 0)
    (episode,) = read_episodes(tmp_path / "log")
    assert episode.ground_truth == {"inputs": [1], "outputs": ["Infinity", "NaN"]}


def test_trouble_that_stays_is_logged_at_powers_of_ten(
    make_writer: Callable[..., EpisodeWriter], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "log").write_text("a file where the folder should be")
    writer = make_writer()
    for _ in range(150):
        writer.submit(recorded)
    writer.close()
    assert writer.dropped == 150
    counts = [int(message.split()[1]) for message in caplog.messages]
    assert counts == [1, 10, 100, 150]
    assert all("FileExistsError" in message for message in caplog.messages[:-1])


def test_full_disk_costs_what_does_not_fit_and_nothing_else(tmp_path: Path) -> None:
    # A limit on the size of files stands for the disk; it is this process's own, so another one has it.
    program = """
import resource, signal, sys
from tests.unit.test_record import recorded
from verl_multiattempt.record_writer import EpisodeWriter
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
writer = EpisodeWriter(sys.argv[1], worker="w")
def write(count):
    before = writer.written + writer.dropped
    for _ in range(count):
        writer.submit(lambda: recorded(ground_truth="x" * 1000))
    while writer.written + writer.dropped < before + count:
        pass
write(3)
resource.setrlimit(resource.RLIMIT_FSIZE, (8000, resource.RLIM_INFINITY))
write(5)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
write(3)
writer.close()
print(writer.written, writer.dropped)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    written, dropped = map(int, done.stdout.split())
    assert written + dropped == 11
    assert dropped >= 1
    assert "File too large" in done.stderr
    episodes = list(read_episodes(tmp_path))
    assert len(episodes) == written
    assert episodes[-1].dropped == dropped
    # Half a line is there, by itself.
    assert sum(not is_json(line) for line in (tmp_path / "episodes-w-000000.jsonl").read_bytes().splitlines()) >= 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


async def test_disk_that_hangs_does_not_hold_up_the_event_loop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Opening a FIFO without a reader blocks, as a network file system may.
    (tmp_path / "log").mkdir()
    fifo = tmp_path / "log" / "episodes-w-000000.jsonl"
    os.mkfifo(fifo)
    writer = EpisodeWriter(tmp_path / "log", worker="w", queue_size=50)
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        while True:
            started = time.perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, time.perf_counter() - started)

    in_hand = threading.Event()

    def first() -> RecordedEpisode:
        in_hand.set()
        return recorded()

    assert writer.submit(first)
    assert await asyncio.to_thread(in_hand.wait, 20)
    ticking = asyncio.create_task(tick())
    taken = 0
    for _ in range(500):
        started = time.perf_counter()
        taken += writer.submit(recorded)
        longest = max(longest, time.perf_counter() - started)
        await asyncio.sleep(0)
    ticking.cancel()
    assert longest < 1  # the disk hangs for good
    assert taken == 50
    assert writer.dropped == 500 - taken
    assert caplog.messages[0] == (
        f"multiattempt: 1 episodes so far could not be written to the episode log {tmp_path / 'log'}: "
        "50 episodes are waiting for the disk"
    )
    started = time.perf_counter()
    await asyncio.to_thread(writer.close, 0.2)
    assert time.perf_counter() - started < 2
    assert writer.dropped == 501
    # Let the thread go.
    reader = threading.Thread(target=fifo.read_bytes)
    reader.start()
    await asyncio.to_thread(reader.join, 20)
    assert not reader.is_alive()


def test_closed_writer_drops_and_says_so(
    make_writer: Callable[..., EpisodeWriter], caplog: pytest.LogCaptureFixture
) -> None:
    writer = make_writer()
    writer.close()
    assert not writer.submit(recorded)
    assert writer.dropped == 1
    assert caplog.messages[0].endswith(": the log is closed")


def test_process_that_ends_by_itself_writes_what_is_waiting(tmp_path: Path) -> None:
    program = """
import sys
from tests.unit.test_record import recorded
from verl_multiattempt.record_writer import EpisodeWriter
writer = EpisodeWriter(sys.argv[1])
for step in range(300):
    writer.submit(lambda: recorded(step=1))
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=60, check=True)
    assert len(list(read_episodes(tmp_path))) == 300


# kill -9

ENDLESS = """
import itertools, sys, time
from functools import partial
from tests.unit.test_record import recorded
from verl_multiattempt.record_writer import EpisodeWriter
writer = EpisodeWriter(sys.argv[1])
told = 0
for number in itertools.count():
    # Now and then a long line, in the middle of which a kill is likely.
    text = str(number) * (2_000_000 if number % 4 == 0 else 3)
    writer.submit(partial(recorded, step=number // 40, index=number, ground_truth=text))
    while writer.written < number - 30:
        time.sleep(0)
    if writer.written != told:
        told = writer.written
        print(told, flush=True)
"""


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.13, 0.31])
def test_kill_9_while_writing_leaves_every_episode_that_was_written(seconds: float, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline()]  # it writes
    timer = threading.Timer(seconds, process.send_signal, [signal.SIGKILL])
    timer.start()
    lines += process.stdout.read().splitlines()
    assert process.wait(20) == -signal.SIGKILL
    # Killed in the middle of a line, the process may have been killed in the middle of print, too.
    acknowledged = int(lines[-2 if len(lines) > 1 else -1])
    episodes = list(read_episodes(tmp_path))
    assert len(episodes) >= acknowledged >= 1
    # Each is one that was written, whole, in order; none is missing before the end.
    for number, episode in enumerate(episodes):
        text = str(number) * (2_000_000 if number % 4 == 0 else 3)
        assert (episode.index, episode.step, episode.dropped) == (number, number // 40, 0)
        assert episode.ground_truth == text
    whole = sum(path.read_bytes().count(b"\n") for path in tmp_path.iterdir())
    assert whole <= len(episodes) <= whole + 1


# Where the log may lie.


def test_folder_that_can_be_made_passes_and_is_not_made(tmp_path: Path) -> None:
    check_directory(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    check_directory(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [("/dev/null/episodes", "Not a directory"), ("/proc/episodes", "No such file or directory")],
)
def test_folder_that_cannot_be_written_to_is_refused(path: str, reason: str) -> None:
    with pytest.raises(ValueError, match="record") as caught:
        check_directory(path)
    assert str(caught.value) == (
        f"multiattempt.record.dir must be a local folder that can be written to; got {path!r} "
        f"({reason}: {str(Path(path).parent)!r}). Set it to another one, or multiattempt.record.enabled=false."
    )


def test_remote_folder_is_refused() -> None:
    with pytest.raises(ValueError, match="record") as caught:
        check_directory("s3://bucket/episodes")
    assert str(caught.value) == (
        "multiattempt.record.dir must be a local folder that can be written to; got 's3://bucket/episodes'. "
        "Set it to another one, or multiattempt.record.enabled=false."
    )


# Which episodes are logged.


def test_whole_groups_at_even_distances_are_chosen() -> None:
    quota = RecordQuota(1, 6)
    assert quota.choose([4] * 8, step=1, validate=False) == [4, 0, 0, 0, 2, 0, 0, 0]
    assert RecordQuota(1, 3).choose([1] * 9, step=1, validate=False) == [1, 0, 0, 1, 0, 0, 1, 0, 0]


def test_all_are_chosen_where_there_is_room_or_no_limit() -> None:
    assert RecordQuota(1, 64).choose([2] * 8, step=1, validate=False) == [2] * 8
    assert RecordQuota(1, None).choose([2] * 8, step=1, validate=False) == [2] * 8


def test_limit_holds_for_the_step_over_all_its_batches() -> None:
    quota = RecordQuota(1, 5)
    assert [sum(quota.choose([2], step=1, validate=False)) for _ in range(5)] == [2, 2, 1, 0, 0]
    assert quota.choose([2], step=2, validate=False) == [2]


def test_validation_has_a_limit_of_its_own_and_is_logged_at_every_step() -> None:
    quota = RecordQuota(10, 3)
    assert quota.choose([1] * 3, step=11, validate=False) == [1, 1, 1]
    assert quota.choose([1] * 3, step=11, validate=True) == [1, 1, 1]
    assert quota.choose([1] * 3, step=12, validate=False) == [0, 0, 0]
    assert quota.choose([1] * 3, step=0, validate=True) == [1, 1, 1]
    assert quota.choose([1] * 3, step=12, validate=True) == [1, 1, 1]


def test_every_n_steps_begins_with_the_first() -> None:
    quota = RecordQuota(3, None)
    assert [step for step in range(1, 10) if sum(quota.choose([1], step=step, validate=False))] == [1, 4, 7]


def test_batch_without_prompts_is_allowed() -> None:
    assert RecordQuota(1, 3).choose([], step=1, validate=False) == []


@settings(deadline=None)  # of other work on the machine
@given(
    st.integers(1, 100),
    st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.lists(st.integers(0, 9), max_size=40)), max_size=8),
)
def test_limit_is_never_exceeded_and_nothing_is_chosen_twice(
    limit: int, batches: list[tuple[int, bool, list[int]]]
) -> None:
    quota = RecordQuota(1, limit)
    used: Counter[tuple[int, bool]] = Counter()
    for step, validate, rollouts in sorted(batches):
        chosen = quota.choose(rollouts, step=step, validate=validate)
        assert len(chosen) == len(rollouts)
        assert all(0 <= count <= most for count, most in zip(chosen, rollouts, strict=True))
        used[step, validate] += sum(chosen)
        # Equal groups are filled as far as the limit goes.
        if len(set(rollouts)) == 1 and used[step, validate] < limit:
            assert chosen == rollouts
    assert all(count <= limit for count in used.values())


def test_logger_of_the_writer_is_the_modules() -> None:
    # The tests above read its messages; a level set above ERROR would silence them in training.
    assert logging.getLogger("verl_multiattempt.record_writer").isEnabledFor(logging.ERROR)
