"""The output directory: what identifies an evaluation, and the log of its episodes, from which a second call goes on.

::

    OUT/settings.json                              what identifies the evaluation; other settings are refused
    OUT/data/<benchmark>.parquet                   benchmarks that were given by name
    OUT/<run>/episodes-<host>-<pid>-000000.jsonl   the episode log of a run (`verl_multiattempt.record`)
    OUT/<run>/failures.jsonl                       episodes that failed, and why; a further call tries them again
    OUT/results.json                               the figures, made of the logs alone

An episode's line is given to the operating system whole, when the episode ends. So a process that is killed loses the
episodes that were open; the next one runs these, with the same seeds.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from verl_multiattempt.cli_errors import CommandError, UsageError
from verl_multiattempt.evaluation.plan import Run
from verl_multiattempt.evaluation.questions import Questions
from verl_multiattempt.evaluation.settings import differences
from verl_multiattempt.record import RecordedEpisode, log_files, to_line
from verl_multiattempt.record_writer import worker_name

SETTINGS_NAME = "settings.json"
RESULTS_NAME = "results.json"
_NUM_PIECES, _PIECE_BYTES = 64, 4096


def open_output(path: str | Path) -> tuple[Path, io.FileIO]:
    """Make the output directory and take it for this process.

    Returns:
        Its path, and the file whose closing (the end of the process too) gives it free.

    Raises:
        UsageError: it cannot be written to.
        CommandError: another process has it.
    """
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = io.FileIO(folder / ".lock", "ab")
        # Permissions alone do not tell: a file system may be mounted read-only, or full.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\n")
    except OSError as error:
        raise UsageError(
            f"--out must be a folder that can be written to; got {str(path)!r}: {error.strerror}"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise CommandError(f"another process is evaluating into {str(path)!r}; wait for its end, or end it") from error
    except OSError:  # a file system without locks
        pass
    return folder, lock


def claim_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write what identifies the evaluation, or compare it with what an earlier call wrote.

    Raises:
        UsageError: the earlier call had other settings.
    """
    path = folder / SETTINGS_NAME
    now = json.loads(json.dumps(settings))  # as it reads when it is read back
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if any(folder.glob("*/episodes-*.jsonl")):
            raise UsageError(f"{path} must be there beside the episodes; got none. Choose another --out.") from None
        write_json(path, now)
        return
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} must be readable JSON; got: {error}. Choose another --out.") from error
    changed = differences(before, now)
    if changed and not any(folder.glob("*/episodes-*.jsonl")):
        write_json(path, now)  # the earlier call did not come as far as an episode
    elif changed:
        raise UsageError(
            f"--out must be a folder of the same settings, or a new one; got {str(folder)!r}, in which differ:\n  "
            + "\n  ".join(changed)
        )


def weights_fingerprint(folder: Path) -> str:
    """A hash of some of the content of a model's weights, or of a checkpoint's: a step of training changes all of it.

    Raises:
        UsageError: a file cannot be read.
    """
    weights = [path for pattern in ("*.safetensors", "*.bin") for path in folder.glob(pattern)]
    digest = hashlib.sha256()
    try:
        for path in sorted(weights or folder.rglob("*.pt")):
            size = path.stat().st_size
            digest.update(f"{path.relative_to(folder)} {size}".encode())
            with path.open("rb") as file:
                for i in range(_NUM_PIECES):
                    file.seek(size * i // _NUM_PIECES)
                    digest.update(file.read(_PIECE_BYTES))
    except OSError as error:
        raise UsageError(f"--model must be readable; got {error.filename!r}: {error.strerror}") from error
    return digest.hexdigest()


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file whole, in the place of an earlier one.

    Raises:
        CommandError: it cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8") as file:
            json.dump(values, file, indent=2, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error


class RunLog:
    """The episodes of one run that have ended: where each stands in the log, and adding to it.

    Args:
        folder: the output directory.
        run: the run.
        questions: what it asks.

    Raises:
        CommandError: the log cannot be read.
    """

    def __init__(self, folder: Path, run: Run, questions: Questions):
        self.directory = folder / run.name
        self.run = run
        self.num_ended = 0
        """Episodes in the log."""
        self.num_solved = 0
        """How many of these are solved."""
        self._questions = questions
        self._files: list[Path] = []
        # File and place of each line, [num_questions, samples]; -1 where the episode has not ended.
        self._file_of = np.full((len(questions), run.samples), -1, dtype=np.int16)
        self._offset_of = np.zeros((len(questions), run.samples), dtype=np.int64)
        self._output: io.FileIO | None = None
        self._failures: io.FileIO | None = None
        self._refusal: str | None = None
        """Why the disk took a line in part or not at all; nothing may be glued to that."""
        self._scan()

    @property
    def num_episodes(self) -> int:
        """Episodes of the run, ended or not."""
        return self._file_of.size

    def has_ended(self, number: int, rollout: int) -> bool:
        """Whether the episode of a question and sample is in the log."""
        return bool(self._file_of[number, rollout] >= 0)

    def append(self, recorded: RecordedEpisode, number: int) -> None:
        """Add an ended episode.

        Args:
            recorded: the episode.
            number: its question's.

        Raises:
            CommandError: the disk does not take it.
            ValueError, TypeError, RecursionError: a value of the row or of a verifier cannot be written.
        """
        line = to_line(recorded) + b"\n"
        if self._output is None:
            self._output = self._open(f"episodes-{worker_name()}-000000.jsonl")
            path = Path(os.fsdecode(self._output.name))
            if path not in self._files:
                self._files.append(path)
        offset = self._write(self._output, line)
        self._take(recorded, number, self._files.index(Path(os.fsdecode(self._output.name))), offset)

    def append_failure(self, values: Mapping[str, Any]) -> None:
        """Note an episode that failed.

        Raises:
            CommandError: the disk does not take it.
        """
        if self._failures is None:
            self._failures = self._open("failures.jsonl")
        self._write(self._failures, json.dumps(values).encode("ascii") + b"\n")

    def read(self, numbers: Sequence[int] | np.ndarray) -> Iterator[list[RecordedEpisode]]:
        """The ended episodes of each of some questions, in the order of the samples, whatever the log's order.

        Raises:
            CommandError: the log was changed meanwhile.
        """
        opened = [path.open("rb") for path in self._files]
        try:
            for number in numbers:
                episodes = []
                for rollout in np.flatnonzero(self._file_of[number] >= 0):
                    file = opened[self._file_of[number, rollout]]
                    file.seek(int(self._offset_of[number, rollout]))
                    try:
                        episodes.append(RecordedEpisode.from_record(json.loads(file.readline())))
                    except (ValueError, TypeError, KeyError) as error:
                        raise CommandError(f"{file.name} must not change while it is read; got: {error}") from error
                yield episodes
        finally:
            for file in opened:
                file.close()

    def close(self) -> None:
        """Close the files that were written to; may be called again."""
        for file in (self._output, self._failures):
            if file is not None and not file.closed:
                try:
                    os.fsync(file.fileno())
                except OSError as error:
                    if self._refusal is None:  # else it was said already
                        raise CommandError(f"{self.directory} cannot be written to: {error.strerror}") from error
                finally:
                    file.close()

    def _scan(self) -> None:
        """Find the episodes that have ended; of one that is there twice, the first counts."""
        try:
            self._files = log_files(self.directory)
        except ValueError:  # none yet
            return
        for number_of_file, path in enumerate(self._files):
            offset = 0
            with path.open("rb") as lines:
                for line in lines:
                    recorded = _parse(line, path)
                    if recorded is not None:
                        self._note(recorded, number_of_file, offset)
                    offset += len(line)

    def _note(self, recorded: RecordedEpisode, number_of_file: int, offset: int) -> None:
        number, rollout = self._questions.find(recorded.episode.question_id), recorded.rollout
        if number is None or not 0 <= rollout < self.run.samples or self._file_of[number, rollout] >= 0:
            return
        self._take(recorded, number, number_of_file, offset)

    def _take(self, recorded: RecordedEpisode, number: int, number_of_file: int, offset: int) -> None:
        self._file_of[number, recorded.rollout] = number_of_file
        self._offset_of[number, recorded.rollout] = offset
        self.num_ended += 1
        self.num_solved += recorded.episode.solved

    def _open(self, name: str) -> io.FileIO:
        path = self.directory / name
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            file = io.FileIO(path, "a+b")
            # An earlier process, killed, may have had this name and have left half a line.
            if (size := file.seek(0, os.SEEK_END)) and os.pread(file.fileno(), 1, size - 1) != b"\n":
                file.write(b"\n")
        except OSError as error:
            raise CommandError(f"{path} cannot be written: {error.strerror}") from error
        return file

    def _write(self, file: io.FileIO, line: bytes) -> int:
        """Append a line; where it starts."""
        if self._refusal is not None:
            raise CommandError(self._refusal)
        try:
            offset = file.seek(0, os.SEEK_END)
            data = memoryview(line)
            while data:
                data = data[file.write(data) or 0 :]
        except OSError as error:
            self._refusal = (
                f"{self.directory} cannot be written to: {error.strerror}. The episodes in it are kept; the same "
                "command goes on from them."
            )
            raise CommandError(self._refusal) from error
        return offset


def _parse(line: bytes, path: Path) -> RecordedEpisode | None:
    """The episode of a whole line; None for the rest that a killed process left."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
        return RecordedEpisode.from_record(record)
    except (TypeError, KeyError, AttributeError, RecursionError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    except ValueError as error:  # another schema
        raise CommandError(f"{path}: {error}") from error
