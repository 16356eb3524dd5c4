"""Rows of local files (JSON, JSON Lines, Parquet, CSV), one after the other, and where they came from."""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from verl_multiattempt.cli_errors import UsageError

Row = dict[str, Any]
RowOrError = Row | ValueError
"""A row, or why there is none in its place."""

_BATCH_SIZE = 1024
_NO_UTF8 = re.compile("[\udc80-\udcff]")
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?", flags=re.ASCII)


class SourceError(UsageError):
    """A source cannot be read as it is named; the message is one sentence."""


class LoadError(ValueError):
    """A source could not be loaded, though its name may be right; the message is one sentence."""


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
        LoadError: the hub does not give it.
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
    except RecursionError as error:
        raise SourceError(f"--from must name JSON files that are not nested thousands deep; got {name!r}") from error


def one_line(error: BaseException) -> str:
    """An error's message on one line, its end cut off where it is long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."


def _as_row(value: Any) -> RowOrError:
    return value if isinstance(value, dict) else ValueError(f"a row must be a JSON object; got {value!r:.100}")


def _integer(digits: str) -> int | Decimal:
    try:
        return int(digits)
    except ValueError:  # more than 4,300 digits: only where it is the gold is the row of no use
        return Decimal(digits)


def _read_jsonl(path: Path, wanted: tuple[str, ...]) -> Iterator[RowOrError]:
    # Lines end at \n alone: JSON texts may contain U+2028 and its like as they are. Each is decoded by itself.
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                raise SourceError(f"--from must name readable jsonl files; got {str(path)!r}: it is UTF-16, not UTF-8")
            if text := line.removeprefix(codecs.BOM_UTF8 if number == 1 else b"").strip(b" \t\r\n"):
                yield _row_of_line(text, number)


def _row_of_line(line: bytes, number: int) -> RowOrError:
    try:
        return _as_row(json.loads(line.decode(), parse_int=_integer))
    except UnicodeDecodeError as error:
        shown = line[max(0, error.start - 40) : error.start + 40]
        return ValueError(f"a row must be UTF-8; got {shown!r} in line {number}: {error.reason}")
    except ValueError as error:
        return ValueError(f"a row must be JSON; got {line.decode()!r:.100} in line {number}: {one_line(error)}")
    except RecursionError:
        must = "a row must be JSON that is not nested thousands deep"
        return ValueError(f"{must}; got {line.decode()!r:.100} in line {number}")


def _read_json(path: Path, wanted: tuple[str, ...]) -> Iterator[RowOrError]:
    # Bytes that are no UTF-8 become lone surrogates, which are told of the row that has them.
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        start = file.read(4096).lstrip()[:1]
    if start != "[":  # an object a line, as many files that end in .json are
        yield from _read_jsonl(path, wanted)
        return
    text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    yield from map(_as_row, json.loads(text, parse_int=_integer))


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
    # Bytes that are no UTF-8 become lone surrogates, so that they are told of their row.
    with path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
        reader = csv.reader(file, strict=True)
        names = next(reader, [])
        if repeated := [name for name in dict.fromkeys(names) if name and names.count(name) > 1]:
            raise SourceError(f"{path} must have different names of columns; got {', '.join(repeated)} more than once")
        while True:
            start = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield _csv_error(error, path, start, reader.line_num)
                continue
            if cells:  # a blank line is no row
                yield _csv_row(names, cells, f"{start}" if start == reader.line_num else f"{start}-{reader.line_num}")


def _csv_error(error: csv.Error, path: Path, start: int, end: int) -> ValueError:
    lines = f"line {end}" if start == end else f"lines {start} to {end}"
    if "end of data" in str(error):
        # How many rows the text has swallowed is not known, so that it cannot be skipped as one.
        raise SourceError(f"{path} must have an end of each quoted text; got none of one in {lines}") from error
    return ValueError(f"a row must be CSV; got {one_line(error)} in {lines}")


def _csv_row(names: list[str], cells: list[str], line: str) -> RowOrError:
    if len(cells) != len(names):
        got = "more" if len(cells) > len(names) else "fewer"
        return ValueError(f"a row must have {len(names)} fields, as the first line has; got {got} in line {line}")
    if bad := next((cell for cell in cells if _NO_UTF8.search(cell)), None):
        shown = bad.encode(errors="surrogateescape")
        return ValueError(f"a row must be UTF-8; got {shown!r:.100} in line {line}")
    return {
        name: cell if cell.strip() else None for name, cell in zip(names, cells, strict=True)
    }  # as a table's empty cell is read


READERS: dict[str, Callable[[Path, tuple[str, ...]], Iterator[RowOrError]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
    ".csv": _read_csv,
}
"""By the end of a file's name."""
