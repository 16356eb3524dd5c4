"""The data card beside a prepared file, and writing both so that a kill leaves what was there before."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from verl_multiattempt.data.rows import schema
from verl_multiattempt.data.sources import fingerprint
from verl_multiattempt.whole_file import draft_of

SCHEMA = 1
"""Of the card; raised when a key changes its meaning."""
_ROWS_AT_ONCE = 4096


def card_path(out: Path) -> Path:
    """Where the card of a prepared file is: ``math500.card.json`` beside ``math500.parquet``."""
    return out.with_name(f"{out.name.removesuffix('.parquet')}.card.json")


def read_card(out: Path) -> dict[str, Any] | None:
    """The card of a prepared file; None where there is none that belongs to the file as it is."""
    try:
        card = json.loads(card_path(out).read_text(encoding="utf-8"))
        if card["schema"] == SCHEMA and card["output"]["sha256"] == fingerprint(out)["sha256"]:
            return dict(card)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def write(out: Path, rows: Iterable[dict[str, Any]], card: dict[str, Any]) -> dict[str, Any]:
    """Write the rows as parquet and then the card, each put in place once it is whole.

    The bytes depend on the rows alone: parquet as written here holds no time.

    Args:
        out: path of the parquet file.
        rows: in verl's format.
        card: without its ``output``.

    Returns:
        The card as written.

    Raises:
        OSError: they cannot be written; what was there before is still there.
        SystemExit: SIGTERM came; what was there before is still there, and nothing else.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with _sigterm_raises(), draft_of(out) as new_parquet, draft_of(card_path(out)) as new_card:
        _write_parquet(new_parquet, rows)
        # The name alone: the two files may be moved together.
        card = {**card, "output": {"file": out.name, **fingerprint(new_parquet)}}
        new_card.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        # The card last: one that has the file's hash says that both are whole.
        os.replace(new_parquet, out)
        os.replace(new_card, card_path(out))
    return card


def _write_parquet(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    columns, remaining = schema(), iter(rows)
    batches: Callable[[], list[dict[str, Any]]] = lambda: list(islice(remaining, _ROWS_AT_ONCE))  # noqa: E731
    with path.open("wb") as file:
        with pyarrow.parquet.ParquetWriter(file, columns) as writer:
            for batch in iter(batches, []):
                writer.write_table(pa.Table.from_pylist(batch, schema=columns))
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM ends the process as an exception does, so that half a file goes with it."""
    main = threading.current_thread() is threading.main_thread()  # others cannot set handlers
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
