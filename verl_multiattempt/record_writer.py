"""Writing the episode log from an agent-loop worker, and choosing which episodes go into it.

The event loop only hands an episode over; a thread decodes it, makes its line and writes it. What cannot be written is
counted, logged, and told by the lines that follow it (``dropped``), or by a line at the end of the file; it neither
fails an episode nor holds one up.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import queue
import re
import socket
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from verl_multiattempt.record import RecordedEpisode, to_end_line, to_line

logger = logging.getLogger(__name__)

STEPS_PER_FILE = 100
"""A worker begins a new file at each multiple of this step."""
QUEUE_SIZE = 4096
"""Episodes that may wait for the disk."""
PAUSE_S = 0.1
"""The thread rests for so long when nothing is waiting, so that it is woken less often: half of what handing an episode
over costs the event loop is waking it."""
CLOSE_TIMEOUT_S = 10.0

Render = Callable[[], RecordedEpisode]
"""Makes the episode's record; called in the writer's thread."""


def worker_name() -> str:
    """``<host>-<pid>`` of this process, fit for a file name."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', socket.gethostname())}-{os.getpid()}"


def check_directory(path: str | Path) -> None:
    """Check, without making it, that a log can be written to ``path``.

    Raises:
        ValueError: it cannot.
    """
    must = f"multiattempt.record.dir must be a local folder that can be written to; got {str(path)!r}"
    remedy = "Set it to another one, or multiattempt.record.enabled=false."
    if "://" in str(path):
        raise ValueError(f"{must}. {remedy}")
    folder = Path(path).absolute()
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    try:
        # Permissions alone do not tell: a file system may be mounted read-only, or full.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{must} ({error.strerror}: {str(folder)!r}). {remedy}") from error


class EpisodeWriter:
    """Appends episodes to the log's files of this process.

    A line is given to the operating system whole and at once, so that a killed process loses the episodes that were
    still waiting and of those written none, but for the one in the middle of which it was killed.

    Args:
        directory: the log's folder; made when the first episode is written.
        worker: name of this process in file names and lines; default `worker_name`.
        queue_size: episodes that may wait; further ones are dropped.
    """

    def __init__(self, directory: str | Path, *, worker: str | None = None, queue_size: int = QUEUE_SIZE):
        self.directory = Path(directory)
        self.worker = worker or worker_name()
        self.written = 0
        """Episodes whose line is in the file."""
        self.dropped = 0
        """Episodes that could not be written."""
        self._told = 0  # of these, as the last line in the file says
        self._queue_size = queue_size
        # Unlike Queue's, its put takes no lock that the thread could be holding. The bound is kept by `submit`.
        self._queue: queue.SimpleQueue[Render | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._file: io.FileIO | None = None
        self._first_step = -1
        self._torn = False
        self._closed = threading.Event()

    def submit(self, render: Render) -> bool:
        """Hand an episode over; returns at once.

        Args:
            render: makes the record, in the writer's thread; what it uses must not change any more.

        Returns:
            Whether there was room for it. Where not, it is dropped.
        """
        if self._closed.is_set():
            self._drop("the log is closed")
            return False
        if self._thread is None:
            # A daemon, so that a disk that hangs cannot keep the process alive; `close` waits for it, but not for ever.
            self._thread = threading.Thread(target=self._run, name="multiattempt-episode-log", daemon=True)
            self._thread.start()
            atexit.register(self.close)
        if self._queue.qsize() >= self._queue_size:
            self._drop(f"{self._queue_size} episodes are waiting for the disk")
            return False
        self._queue.put(render)
        return True

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        """Write what is waiting and end the thread; may be called again.

        Args:
            timeout_s: after that many seconds, what is still waiting is given up.
        """
        self._closed.set()
        thread, self._thread = self._thread, None
        if thread is None:
            return
        atexit.unregister(self.close)
        self._queue.put(None)
        thread.join(timeout_s)
        if thread.is_alive():
            # The queue holds the None in the place of the episode that the thread is busy with.
            self._drop("the disk did not take them before the process ended", self._queue.qsize())
        if self.dropped:
            logger.error("multiattempt: %d episodes are missing in the episode log %s", self.dropped, self.directory)

    def _run(self) -> None:
        while (render := self._queue.get()) is not None:
            self._write(render)
            if self._queue.empty():
                self._closed.wait(PAUSE_S)
        self._tell_dropped()
        self._close_file()

    def _write(self, render: Render) -> None:
        try:
            recorded = replace(render(), worker=self.worker, dropped=self.dropped)
            self._append(to_line(recorded), recorded.step)
        except Exception as error:  # a full disk, a row's own objects ...: none may end the thread
            self._drop(f"{type(error).__name__}: {error}")
        else:
            self.written += 1
            self._told = recorded.dropped

    def _tell_dropped(self) -> None:
        """End the file with a line on what is missing, where no episode's line says it."""
        dropped = self.dropped
        if dropped == self._told:
            return
        with suppress(OSError):  # `close` tells it all the same, in the process's own log
            self._append(to_end_line(self.worker, dropped), self._first_step)

    def _append(self, line: bytes, step: int) -> None:
        file = self._file_of(step)
        data = memoryview((b"\n" if self._torn else b"") + line + b"\n")
        # Until all of it is there, the file ends in half a line; what comes next must not be glued to that.
        self._torn = True
        while data:
            data = data[file.write(data) :]
        self._torn = False

    def _file_of(self, step: int) -> io.FileIO:
        """The open file of a step."""
        first_step = max(0, step) // STEPS_PER_FILE * STEPS_PER_FILE
        # A file that was deleted would go on taking lines, unseen.
        if self._file is None or first_step != self._first_step or not os.fstat(self._file.fileno()).st_nlink:
            self._close_file()
            self.directory.mkdir(parents=True, exist_ok=True)
            path = self.directory / f"episodes-{self.worker}-{first_step:06d}.jsonl"
            # A process killed before may have had this name, in a container say, and have left half a line.
            self._torn = not _ends_in_newline(path)
            self._file, self._first_step = io.FileIO(path, "ab"), first_step
        return self._file

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _drop(self, reason: str, count: int = 1) -> None:
        with self._lock:
            before, self.dropped = self.dropped, self.dropped + count
            # At 1, 10, 100 ...: a disk that stays full must not fill the log of the run as well.
            report = len(str(before)) < len(str(self.dropped)) or before == 0
        if report:
            logger.error("multiattempt: %d episodes so far could not be written to the episode log %s: %s",
                         self.dropped, self.directory, reason)  # fmt: skip


def _ends_in_newline(path: Path) -> bool:
    """Whether a file is absent, empty or ends in a newline."""
    if not path.is_file() or path.stat().st_size == 0:
        return True
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


@dataclass(slots=True)
class RecordQuota:
    """Chooses the rollouts that go into the log, for all workers: where batches are sent out, so none is counted twice.

    Whole groups are chosen (all rollouts of a prompt), from prompts at even distances in the batch, which spreads them
    over the workers and, in validation, takes the same questions each time. Nothing depends on how an episode goes.

    Args:
        every_n_steps: training steps 1, 1 + n, 1 + 2n ... are logged; validation always.
        max_episodes_per_step: rollouts of one step's training or validation that are logged; None: all.
    """

    every_n_steps: int
    max_episodes_per_step: int | None
    _used: dict[bool, tuple[int, int]] = field(default_factory=dict)

    def choose(self, rollouts: list[int], *, step: int, validate: bool) -> list[int]:
        """How many rollouts of each prompt of a batch are logged, ``[num_prompts]``.

        Args:
            rollouts: rollouts of each prompt, ``[num_prompts]``.
            step: the trainer's global step. A step may have several batches.
            validate: whether the batch is validation.
        """
        chosen = [0] * len(rollouts)
        if not rollouts or (not validate and (step - 1) % self.every_n_steps):
            return chosen
        if self.max_episodes_per_step is None:
            return list(rollouts)
        last_step, used = self._used.get(validate, (step, 0))
        left = self.max_episodes_per_step - (used if last_step == step else 0)
        count = min(len(rollouts), -(-left // max(1, max(rollouts))))
        for i in range(count):
            position = i * len(rollouts) // count
            chosen[position] = min(rollouts[position], left)
            left -= chosen[position]
        self._used[validate] = (step, self.max_episodes_per_step - left)
        return chosen
