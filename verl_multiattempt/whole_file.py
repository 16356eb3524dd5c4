"""Files that are there whole or not at all, and as before where writing them failed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def draft_of(path: Path) -> Iterator[Path]:
    """A path beside ``path`` to write to first, gone at the end; put it in place with `os.replace`."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield draft
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path to write to; at the end what was written is in the place of ``path``.

    Raises:
        OSError: it cannot be put there; what was there before still is.
    """
    with draft_of(path) as draft:
        yield draft
        os.replace(draft, path)
