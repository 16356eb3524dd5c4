"""The questions of an evaluation: parquet files of verl's format, read a few rows at a time, as often as needed."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from verl_multiattempt.attempts import prompt_key, row_index, uniform_u64

MEAN = "mean"
"""What the results call the mean over benchmarks; no benchmark may have this name."""
_BATCH_ROWS = 256
_COLUMNS = ("data_source", "prompt", "reward_model", "extra_info")
_FORMAT = "See verl's data format: data_source, prompt, reward_model.ground_truth, extra_info.index."


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionRow:
    """One question."""

    number: int
    """Its place among the questions that are asked, from 0."""
    question_id: str
    """``<data_source>/<index>``, as in the episode log."""
    data_source: str
    index: int | str | None
    prompt: list[dict[str, Any]]
    ground_truth: Any
    extra_info: dict[str, Any] = field(default_factory=dict)


class Questions:
    """The questions of some files, in their order. Kept of each are 18 bytes; the rows are read anew by `__iter__`.

    Args:
        files: parquet files of verl's format.
        limit: only the first so many questions of each benchmark (data source); None: all.

    Raises:
        ValueError: a file cannot be read, or a row cannot be asked; the message names the row.
    """

    def __init__(self, files: Sequence[Path], limit: int | None = None):
        self.files = list(files)
        self.limit = limit
        self.benchmarks: list[str] = []
        """The data sources, in the order of their first rows."""
        self.num_own_allowances = 0
        """Questions whose rows have ``extra_info.max_attempts``, which an evaluation does not heed."""
        sources, hashes = array("H"), array("Q")
        for row, where in self._read():
            if row.data_source not in self.benchmarks:
                self.benchmarks.append(row.data_source)
            sources.append(self.benchmarks.index(row.data_source))
            hashes.append(uniform_u64(row.question_id))
            _check_row(row, where)
            self.num_own_allowances += row.extra_info.get("max_attempts") is not None
        if not sources:
            raise ValueError(f"data must hold at least one question; got none in {[str(file) for file in files]!r}")
        self._sources = np.frombuffer(sources, dtype=np.uint16)
        keys = np.frombuffer(hashes, dtype=np.uint64)
        self._order = np.argsort(keys, kind="stable").astype(np.uint32)
        self._sorted = keys[self._order]
        self._refuse_duplicates()

    def __len__(self) -> int:
        return len(self._sources)

    def __iter__(self) -> Iterator[QuestionRow]:
        return (row for row, _ in self._read())

    def numbers(self, benchmark: str) -> np.ndarray:
        """The numbers of a benchmark's questions, ascending."""
        return np.flatnonzero(self._sources == self.benchmarks.index(benchmark))

    def find(self, question_id: str) -> int | None:
        """The number of the question with this id; None where there is none."""
        key = np.uint64(uniform_u64(question_id))
        place = int(np.searchsorted(self._sorted, key))
        if place < len(self._sorted) and self._sorted[place] == key:
            return int(self._order[place])
        return None

    def _read(self) -> Iterator[tuple[QuestionRow, str]]:
        """The questions, each with where it stands."""
        taken: dict[str, int] = {}
        number = 0
        for file in self.files:
            for line, values in enumerate(_read_file(file)):
                where = f"{file}, row {line}"
                row = _make_row(values, number, where)
                count = taken.get(row.data_source, 0)
                if self.limit is not None and count >= self.limit:
                    continue
                taken[row.data_source] = count + 1
                number += 1
                yield row, where

    def _refuse_duplicates(self) -> None:
        same = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        if not len(same):
            return
        twins = {int(self._order[same[0]]), int(self._order[same[0] + 1])}
        found = [(row.question_id, where) for row, where in self._read() if row.number in twins]
        raise ValueError(
            f"data must have each (data_source, extra_info.index) once; got {found[0][0]!r} in {found[0][1]} and in "
            f"{found[1][1]}. Drop one of the two, or number the rows anew."
        )


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        ValueError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise ValueError(f"data must name readable parquet files; got {str(path)!r}: {error.strerror}") from error
    return digest.hexdigest()


def _read_file(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    must = f"data must name readable parquet files; got {str(path)!r}"
    try:
        # Neither whole row groups nor a read-ahead: a file may be one group of any size.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            names = file.schema_arrow.names
            for column in ("data_source", "prompt", "reward_model"):
                if column not in names:
                    raise ValueError(f"{path}: the file must have the column {column}; got {names!r}. {_FORMAT}")
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=[n for n in _COLUMNS if n in names]):
                yield from batch.to_pylist()
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{must}: {error}") from error


def _make_row(values: dict[str, Any], number: int, where: str) -> QuestionRow:
    source = values["data_source"]
    if not isinstance(source, str) or not source or source == MEAN:
        raise ValueError(f"{where}: data_source must be the name of a benchmark, and not {MEAN!r}; got {source!r}")
    prompt, model, extra = values["prompt"], values["reward_model"], values.get("extra_info") or {}
    if not isinstance(prompt, list) or not prompt or not all(_is_message(message) for message in prompt):
        raise ValueError(f"{where}: prompt must be a list of messages with role and content; got {prompt!r:.200}")
    if not isinstance(extra, dict):
        raise ValueError(f"{where}: extra_info must be a mapping; got {extra!r:.200}")
    index = row_index(extra)
    return QuestionRow(
        number=number,
        # As in training, where a row without an index is called by its prompt.
        question_id=f"{source}/{prompt_key(prompt) if index is None else index}",
        data_source=source,
        index=index,
        prompt=prompt,
        ground_truth=model.get("ground_truth") if isinstance(model, dict) else None,
        extra_info=extra,
    )


def _check_row(row: QuestionRow, where: str) -> None:
    if row.prompt[-1]["role"] != "user":
        raise ValueError(f"{where}: prompt must end with a user message; got role {row.prompt[-1]['role']!r}")
    gold = row.ground_truth
    if gold is None or gold in ("", []) or (isinstance(gold, float) and math.isnan(gold)):
        raise ValueError(f"{where}: reward_model.ground_truth must be the answer to check against; got {gold!r}")


def _is_message(message: object) -> bool:
    return (
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        and bool(message["content"])
    )
