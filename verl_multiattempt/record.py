r"""The episode log: what its lines hold, reading it, and making a table of it.

A log is a folder of files ``episodes-<worker>-<first step>.jsonl`` (see `verl_multiattempt.record_writer`). A line is
one episode, a JSON object in ASCII (``\u2028``, lone surrogates and NUL are escaped, so a newline ends a line and
nothing else does). A line that a killed process left half-written is skipped by the reader. Schema 2:

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
                       attempt's turn and the model did not write); ``feedback`` (with the template's scaffold)
=====================  =================================================================================================
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from verl_multiattempt.episode import Episode

logger = logging.getLogger(__name__)

SEGMENT_KINDS = ("prompt", "model", "feedback", "inserted")
_FILE_NAME = re.compile(r"episodes-.+-(?P<first_step>\d+)\.jsonl")


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
            ValueError: the record is of another schema.
            KeyError: a key is missing.
        """
        episode = Episode.from_record(record)
        names = ("step", "reward", "rollout", "validate", "data_source", "index", "ground_truth", "started_at",
                 "seconds", "worker", "dropped", "messages")  # fmt: skip
        segments = [Segment(**segment) for segment in record["segments"]]
        return cls(episode=episode, segments=segments, **{name: record[name] for name in names})


def to_line(recorded: RecordedEpisode) -> bytes:
    """The line of the log, without its newline.

    Raises:
        ValueError, TypeError, RecursionError: a value of the row or of a verifier cannot be written.
    """
    return json.dumps(recorded.to_record(), allow_nan=False, default=_plain, separators=(",", ":")).encode("ascii")


def _plain(value: Any) -> Any:
    """What JSON does not know, such as numpy's numbers and arrays in a row, as values that it knows."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


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
    raise ValueError(
        f"path must be an episode log, a file or a folder with files episodes-*.jsonl; got {str(path)!r}. "
        "Training writes one with multiattempt.record.enabled=true."
    )


def read_episodes(path: str | Path) -> Iterator[RecordedEpisode]:
    """The episodes of a log, file by file; of a log that is being written, those that are there by now.

    Lines that hold no whole episode are skipped, and counted in a warning: a killed process leaves one at the end of
    its file. So are episodes that a worker says it could not write.

    Args:
        path: see `log_files`.

    Returns:
        An iterator; what it raises later is ``ValueError`` for a line of another schema.

    Raises:
        ValueError: see `log_files`.
    """
    return _read_files(log_files(path))


def _read_files(files: list[Path]) -> Iterator[RecordedEpisode]:
    dropped: dict[str, int] = {}
    for file in files:
        skipped: list[int] = []
        with file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                recorded = _read_line(line, file, number)
                if recorded is not None:
                    dropped[recorded.worker] = max(recorded.dropped, dropped.get(recorded.worker, 0))
                    yield recorded
                elif line.strip():
                    skipped.append(number)
        if skipped:
            logger.warning("%s: %d lines hold no whole episode and were skipped, the first is line %d", file,
                           len(skipped), skipped[0])  # fmt: skip
    for worker, count in dropped.items():
        if count:
            logger.warning("worker %s could not write %d episodes; its own log says why", worker, count)


def _read_line(line: bytes, file: Path, number: int) -> RecordedEpisode | None:
    """The episode of a line; None where there is none."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return None
    if not isinstance(record, dict):
        return None
    try:
        return RecordedEpisode.from_record(record)
    except (KeyError, TypeError, AttributeError):  # an object that is no episode
        return None
    except ValueError as error:
        raise ValueError(f"{file}, line {number}: {error}") from error


def to_dataset(path: str | Path) -> Any:
    """The log as a ``datasets.Dataset``, a row an episode; the columns are the keys of a line.

    Three are made for the table: ``ground_truth`` is text (JSON where it is not text in the log), ``index`` is text,
    and ``solved`` and ``attempts_used`` are added. Text that is not valid Unicode, which a table cannot hold, has its
    lone surrogates replaced by U+FFFD.

    Args:
        path: see `log_files`.

    Raises:
        ValueError: see `read_episodes`.
    """
    from datasets import Dataset

    features = _features()
    rows = [_row(recorded) for recorded in read_episodes(path)]
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


def _row(recorded: RecordedEpisode) -> dict[str, Any]:
    truth, index = recorded.ground_truth, recorded.index
    row = {
        **recorded.to_record(),
        "index": None if index is None else str(index),
        "ground_truth": truth if isinstance(truth, str) else json.dumps(truth),
        "solved": recorded.episode.solved,
        "attempts_used": recorded.episode.attempts_used,
    }
    valid: dict[str, Any] = _valid_unicode(row)
    return valid


def _valid_unicode(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {key: _valid_unicode(item) for key, item in value.items()}
    return [_valid_unicode(item) for item in value] if isinstance(value, list) else value


def _features() -> Any:
    """The table's types, written down so that a log of any content gives the same ones."""
    from datasets import Features, Value

    text, count, number, flag = Value("large_string"), Value("int64"), Value("float64"), Value("bool")
    texts = ("text", "stop", "feedback", "outcome", "answer", "normal_answer", "verifier_feedback", "detail", "fault")
    attempt = {
        **dict.fromkeys(texts, text),
        "num_tokens": count,
        **dict.fromkeys(("logprob_mean", "generate_s", "seconds"), number),
    }
    return Features(
        {
            **dict.fromkeys(("question_id", "data_source", "index", "worker", "ground_truth"), text),
            **dict.fromkeys(("schema", "step", "rollout", "dropped", "max_attempts", "num_context_tokens"), count),
            **dict.fromkeys(("started_at", "seconds", "reward"), number),
            **dict.fromkeys(("validate", "truncated", "solved"), flag),
            "attempts_used": count,
            "messages": [{"role": text, "content": text}],
            "attempts": [attempt],
            "segments": [{"kind": text, "text": text, "num_tokens": count}],
        }
    )
