"""Rows of local files (JSON, JSON Lines, Parquet, CSV), one after the other, and where they came from."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
RowOrError = Row | ValueError
"""A row, or why there is none in its place."""

_BATCH_SIZE = 1024
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", flags=re.ASCII)


class SourceError(ValueError):
    """A source cannot be read; the message is one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What to read: files, a dataset folder or a name on the hub."""

    names: tuple[str, ...]
    config: str | None = None
    split: str | None = None
    revision: str | None = None


@dataclass(slots=True, kw_only=True)
class OpenSource:
    """Rows to be read once."""

    rows: Iterator[tuple[str, RowOrError]]
    """Each with its place, for messages."""
    num_rows: int | None
    """How many there are, where that is known before reading."""
    origin: dict[str, Any]
    """For the data card."""


def open_source(source: Source, wanted: tuple[str, ...]) -> OpenSource:
    """Open a source.

    Args:
        source: files are told from a folder and a hub name by what is there.
        wanted: columns that are looked at; others need not be read.

    Raises:
        SourceError: it cannot be opened. Reading its rows raises it as well.
    """
    paths = [Path(name).expanduser() for name in source.names]
    if all(path.is_file() for path in paths):
        return _open_files(source, paths, wanted)
    from verl_multiattempt.data.hub import open_dataset

    name, path = source.names[0], paths[0]
    if len(paths) > 1:
        missing = next(name for name, path in zip(source.names, paths, strict=True) if not path.is_file())
        raise SourceError(f"--from must name files where it names more than one; got {missing!r}, which is no file")
    if path.is_dir():
        return open_dataset(source, str(path), wanted, folder=path)
    if path.suffix in READERS or not _HUB_NAME.fullmatch(name):
        raise SourceError(f"--from must name a file or folder that is there, or a dataset on the hub; got {name!r}")
    return open_dataset(source, name, wanted, folder=None)


def _open_files(source: Source, paths: list[Path], wanted: tuple[str, ...]) -> OpenSource:
    for option in ("config", "split", "revision"):
        if value := getattr(source, option):
            raise SourceError(f"--{option} must go with a folder or a name on the hub; got {value!r} with files")
    for name, path in zip(source.names, paths, strict=True):
        if path.suffix not in READERS:
            raise SourceError(f"--from must name files that end in {', '.join(READERS)}; got {name!r}. Convert it.")
    files = [{"path": name, **fingerprint(path)} for name, path in zip(source.names, paths, strict=True)]
    rows = (row for name, path in zip(source.names, paths, strict=True) for row in read_file(name, path, wanted))
    return OpenSource(rows=rows, num_rows=None, origin={"kind": "files", "files": files})


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file.

    Raises:
        SourceError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
            return {"bytes": file.tell(), "sha256": digest.hexdigest()}
    except OSError as error:
        raise SourceError(f"{path} must be readable; got {one_line(error)}") from error


def read_file(name: str, path: Path, wanted: tuple[str, ...]) -> Iterator[tuple[str, RowOrError]]:
    """The rows of a file, with their places: ``NAME, row N``, counted from 0.

    Raises:
        SourceError: the file cannot be read.
    """
    import pyarrow as pa

    try:
        for number, row in enumerate(READERS[path.suffix](path, wanted)):
            yield f"{name}, row {number}", row
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error, pa.ArrowException) as error:
        what = path.suffix.removeprefix(".")
        raise SourceError(f"--from must name readable {what} files; got {name!r}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """An error's message on one line, its end cut off where it is long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


def _as_row(value: Any) -> RowOrError:
    return value if isinstance(value, dict) else ValueError(f"a row must be a JSON object; got {value!r:.100}")


def _read_jsonl(path: Path, wanted: tuple[str, ...]) -> Iterator[RowOrError]:
    # Lines end at \n alone: JSON texts may contain U+2028 and its like as they are.
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        for line in file:
            if line.strip():
                try:
                    row = _as_row(json.loads(line))
                except json.JSONDecodeError as error:
                    row = ValueError(f"a row must be JSON; got {line.strip()!r:.100}: {error}")
                except RecursionError:
                    row = ValueError(f"a row must be JSON that is not nested thousands deep; got {line!r:.100}")
                yield row


def _read_json(path: Path, wanted: tuple[str, ...]) -> Iterator[RowOrError]:
    with path.open(encoding="utf-8-sig") as file:
        start = file.read(4096).lstrip()[:1]
    if start != "[":  # an object a line, as many files that end in .json are
        yield from _read_jsonl(path, wanted)
        return
    yield from map(_as_row, json.loads(path.read_text(encoding="utf-8-sig")))


def _read_parquet(path: Path, wanted: tuple[str, ...]) -> Iterator[RowOrError]:
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        columns = [column for column in file.schema_arrow.names if column in wanted]
        if not columns:
            raise SourceError(
                f"{path} must have some of the columns {', '.join(wanted)}; got {', '.join(file.schema_arrow.names)}"
            )
        for batch in file.iter_batches(batch_size=_BATCH_SIZE, columns=columns):
            yield from batch.to_pylist()


def _read_csv(path: Path, wanted: tuple[str, ...]) -> Iterator[RowOrError]:
    csv.field_size_limit(1 << 30)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        for row in reader:
            if None in row or None in row.values():
                must = f"a row must have {len(reader.fieldnames or ())} fields, as the first line has"
                yield ValueError(f"{must}; got {'more' if None in row else 'fewer'} in line {reader.line_num}")
            else:
                yield dict(row)


READERS: dict[str, Callable[[Path, tuple[str, ...]], Iterator[RowOrError]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}
"""By the end of a file's name."""
