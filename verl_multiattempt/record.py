r"""The episode log: what its lines hold, reading it, and making a table of it.

A log is a folder of files ``episodes-<worker>-<first step>.jsonl`` (see `verl_multiattempt.record_writer`). A line is
one episode, a JSON object in ASCII (``\u2028``, lone surrogates and NUL are escaped, so a newline ends a line and
nothing else does). A line that a killed process left half-written is skipped by the reader. JSON has no NaN and no
infinity: where a row or an episode has one, the line has the text ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``. The
reader makes numbers of these again where the table says so, but leaves ``ground_truth`` as it is written. Schema 2:

=====================  =================================================================================================
key                    value
=====================  =================================================================================================
schema                 2
question_id            ``<data_source>/<index>``, or the prompt's key where the row has no index
data_source, index     of the row; index null where it has none
step, rollout          the trainer's global step; which rollout of the prompt's group
validate               whether it is validation
worker                 ``<host>-<pid>`` of the process that wrote it
dropped                episodes that were to be logged by this worker before this one, and could not be
started_at, seconds    Unix time at which the episode began; how long it took
ground_truth           of the row
reward                 the episode's reward
max_attempts           the allowance
truncated              whether a limit of the conversation ended it
num_context_tokens     response tokens that the model did not sample
messages               the opening messages, each ``role`` and ``content``
attempts               of each attempt:
.. text                what the model wrote, without control tokens
.. stop                why its generation ended (`verl_multiattempt.episode.Stop`)
.. num_tokens          tokens sampled
.. logprob_mean        mean log-probability of these under the engine, or null
.. generate_s          seconds spent waiting for the engine
.. feedback            the text given after it, or null
.. outcome             the verdict (`verl_multiattempt.verifier.Outcome`)
.. answer              the answer found in it, as written, or null
.. normal_answer       the same in the verifier's normal form, or null
.. verifier_feedback   text of the verifier for the model, or null
.. detail, fault       why TIMEOUT or ERROR; what went wrong in a verifier process; or null
.. seconds             wall time of the verification
segments               prompt and response as trained on, token by token, decoded; of each segment ``kind``, ``text``
                       and ``num_tokens``. Kinds: ``prompt``; ``model`` (sampled: mask 1); ``inserted`` (what ends an
                       attempt's turn and the model did not write); ``feedback`` (with the template's scaffold). Empty
                       where the tokens are not known, as with a server that only takes and gives text
=====================  =================================================================================================

A worker that could not write the last of its episodes ends its file, if it can, with a line that is no episode:
``{"schema": 2, "end": true, "worker": ..., "dropped": ...}``. ``dropped`` counts all that it could not write.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from verl_multiattempt.episode import RECORD_SCHEMA, Episode
from verl_multiattempt.record_check import END, SEGMENT_KINDS, check_line, check_values

__all__ = ["SEGMENT_KINDS", "RecordedEpisode", "Segment", "log_files", "read_episodes", "to_dataset", "to_end_line",
           "to_json", "to_line"]  # fmt: skip

logger = logging.getLogger(__name__)

MAX_FOLDERS_NAMED = 12
_FILE_NAME = re.compile(r"episodes-.+-(?P<first_step>\d+)\.jsonl")
_FOLDERS_BELOW = ("*", "*/episodes", "*/*", "*/*/episodes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Adjacent tokens of one origin."""

    kind: str
    """One of `SEGMENT_KINDS`."""
    text: str
    """The tokens decoded, special tokens included; the texts of all segments joined are the whole decoded sequence."""
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedEpisode:
    """An episode with what the log says about it; the fields are those of a line (see the module's table)."""

    episode: Episode
    step: int
    reward: float
    rollout: int = 0
    validate: bool = False
    data_source: str = ""
    index: int | str | None = None
    ground_truth: Any = None
    started_at: float = 0.0
    seconds: float = 0.0
    worker: str = ""
    dropped: int = 0
    messages: list[dict[str, str]] = field(default_factory=list)
    segments: list[Segment] = field(default_factory=list)

    def to_record(self) -> dict[str, Any]:
        """One line's values; `from_record` is the inverse."""
        episode = self.episode.to_record()
        attempts = episode.pop("attempts")
        return {
            "schema": episode.pop("schema"),
            "question_id": episode.pop("question_id"),
            "data_source": self.data_source,
            "index": self.index,
            "step": self.step,
            "rollout": self.rollout,
            "validate": self.validate,
            "worker": self.worker,
            "dropped": self.dropped,
            "started_at": self.started_at,
            "seconds": self.seconds,
            "ground_truth": self.ground_truth,
            "reward": self.reward,
            **episode,
            "messages": self.messages,
            "attempts": attempts,
            "segments": [asdict(segment) for segment in self.segments],
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> RecordedEpisode:
        """Rebuild an episode from a line's values.

        Raises:
            ValueError: the record is of another schema, or a value is missing or of the wrong kind.
        """
        values = check_line(record)
        episode = Episode.from_record({**values, "schema": record.get("schema")})
        segments = [Segment(**segment) for segment in values["segments"]]
        names = ("step", "reward", "rollout", "validate", "data_source", "index", "ground_truth", "started_at",
                 "seconds", "worker", "dropped", "messages")  # fmt: skip
        return cls(episode=episode, segments=segments, **{name: values[name] for name in names})


def to_line(recorded: RecordedEpisode) -> bytes:
    """The line of the log, without its newline.

    Raises:
        ValueError, TypeError, RecursionError: a value of the row or of a verifier cannot be written.
    """
    return to_json(recorded.to_record()).encode("ascii")


def to_end_line(worker: str, dropped: int) -> bytes:
    """The line, without its newline, that ends the file of a worker that could not write the last of its episodes."""
    return to_json({"schema": RECORD_SCHEMA, "end": True, "worker": worker, "dropped": dropped}).encode("ascii")


def to_json(value: Any) -> str:
    """JSON in ASCII that any reader takes: without NaN and infinities, which are written as text.

    Raises:
        ValueError, TypeError, RecursionError: the value cannot be written.
    """
    try:
        return json.dumps(value, allow_nan=False, default=_plain, separators=(",", ":"))
    except ValueError:
        return json.dumps(_finite(value), allow_nan=False, default=_plain, separators=(",", ":"))


def _plain(value: Any) -> Any:
    """What JSON does not know, such as numpy's numbers and arrays in a row, as values that it knows."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def _finite(value: Any) -> Any:
    """The value with NaN and infinities as JavaScript names them."""
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else json.dumps(float(value))
    if isinstance(value, dict):
        return {_finite(key) if isinstance(key, float) else key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return _finite(_plain(value))


def log_files(path: str | Path) -> list[Path]:
    """The files of a log, in the order of their first step.

    Args:
        path: one file, the log's folder, or a folder in which the log is the folder ``episodes`` (a run's
            ``trainer.default_local_dir``).

    Raises:
        ValueError: there is no such file or no log there.
    """
    path = Path(path)
    if path.is_file():
        return [path]
    for folder in (path, path / "episodes"):
        names = [match for file in folder.glob("episodes-*.jsonl") if (match := _FILE_NAME.fullmatch(file.name))]
        if names:
            return [folder / name[0] for name in sorted(names, key=lambda name: (int(name["first_step"]), name[0]))]
    must = f"path must be an episode log, a file or a folder with files episodes-*.jsonl; got {str(path)!r}"
    below = sorted({str(file.parent) for folder in _FOLDERS_BELOW for file in path.glob(f"{folder}/episodes-*.jsonl")
                    if _FILE_NAME.fullmatch(file.name)})  # fmt: skip
    if below:
        named = ", ".join(map(repr, below[:MAX_FOLDERS_NAMED]))
        more = f" and {len(below) - MAX_FOLDERS_NAMED} more" if len(below) > MAX_FOLDERS_NAMED else ""
        raise ValueError(f"{must}. Choose one of the logs below it: {named}{more}.")
    raise ValueError(f"{must}. Training writes one with multiattempt.record.enabled=true.")


def read_episodes(path: str | Path) -> Iterator[RecordedEpisode]:
    """The episodes of a log, file by file; of a log that is being written, those that are there by now.

    Lines that hold no valid episode are skipped, and counted in a warning: a killed process leaves one at the end of
    its file. So are lines of another schema, with its number. Episodes that a worker says it could not write are told
    in a warning, too.

    Args:
        path: see `log_files`.

    Returns:
        An iterator; what it raises later, at its end, is ``ValueError`` where the log has lines of another schema and
        no episode of this one.

    Raises:
        ValueError: see `log_files`.
    """
    return _read_files(log_files(path))


class _OtherSchema(ValueError):
    """A line of another schema, which is the error's argument."""


@dataclass(slots=True)
class _Told:
    """What there is to say of a log when it has been read."""

    episodes: int = 0
    schemas: Counter[int] = field(default_factory=Counter)
    """Lines of each other schema."""
    dropped: dict[str, int] = field(default_factory=dict)
    """The worker's last word on the episodes that it could not write."""


def _read_files(files: list[Path]) -> Iterator[RecordedEpisode]:
    told = _Told()
    for file in files:
        with file.open("rb") as lines:
            yield from _read_lines(lines, file, told)
    for schema, count in sorted(told.schemas.items()):
        said = (f"schema must be {RECORD_SCHEMA}; got {schema} in {count} lines of the log {str(files[0].parent)!r}, "
                "which were skipped. Read them with the version of verl_multiattempt that wrote them.")  # fmt: skip
        if not told.episodes:
            raise ValueError(said)
        logger.warning("%s", said)
    for worker, count in told.dropped.items():
        if count:
            logger.warning("worker %s could not write %d episodes; its own log says why", worker, count)


def _read_lines(lines: Iterable[bytes], file: Path, told: _Told) -> Iterator[RecordedEpisode]:
    skipped, first = 0, ""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            read = _read_line(line)
        except _OtherSchema as error:
            told.schemas[error.args[0]] += 1
            continue
        except ValueError as error:
            skipped += 1
            first = first or f"line {number}: {error}"
            continue
        worker, dropped = (read.worker, read.dropped) if isinstance(read, RecordedEpisode) else read
        told.dropped[worker] = max(dropped, told.dropped.get(worker, 0))
        if isinstance(read, RecordedEpisode):
            told.episodes += 1
            yield read
    if skipped:
        logger.warning("%s: %d lines hold no whole episode and were skipped, the first is %s", file, skipped, first)


def _read_line(line: bytes) -> RecordedEpisode | tuple[str, int]:
    """The episode of a line, or of an end line its worker and what that could not write.

    Raises:
        _OtherSchema, ValueError: there is none.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        raise ValueError("it is not JSON") from None
    schema = record.get("schema") if isinstance(record, dict) else None
    if type(schema) is int and schema != RECORD_SCHEMA:
        raise _OtherSchema(schema)
    if isinstance(record, dict) and record.get("end") is True and schema == RECORD_SCHEMA:
        end = check_values(record, END)
        return end["worker"], end["dropped"]
    return RecordedEpisode.from_record(record)


def to_dataset(path: str | Path) -> Any:
    """The log as a ``datasets.Dataset``, a row an episode; the columns are the keys of a line.

    ``index``, ``ground_truth`` and the messages' ``content`` are made text for it (JSON where the log has no text), and
    ``solved`` and ``attempts_used`` are added. Text that is not valid Unicode, which a table cannot hold, has its lone
    surrogates replaced by U+FFFD.

    Args:
        path: see `log_files`.

    Raises:
        ValueError: see `read_episodes`.
    """
    from verl_multiattempt.record_table import make_table

    return make_table(read_episodes(path))
