"""Rows of a dataset on the hub, or of a local folder that is laid out like one, by the library ``datasets``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verl_multiattempt.data.sources import LoadError, OpenSource, RowOrError, Source, SourceError, fingerprint, one_line

_COMMIT = re.compile(r"[0-9a-f]{40}")


def open_dataset(source: Source, path: str, wanted: tuple[str, ...], *, folder: Path | None) -> OpenSource:
    """Load a dataset, from the hub (once; then from the cache of ``datasets``) or from a folder.

    Args:
        source: its configuration, split and revision.
        path: name on the hub, or the folder's path.
        wanted: columns that are looked at.
        folder: the folder, if it is one.

    Raises:
        SourceError: there is no such dataset, configuration or split, or its split is not named and there are several.
        LoadError: it cannot be loaded.
    """
    if folder is not None and source.revision:
        raise SourceError(f"--revision must go with a name on the hub; got {source.revision!r} with a folder")
    name = source.names[0]
    split, dataset = _load(source, path)
    columns = [column for column in dataset.column_names if column in wanted]
    if not columns:
        raise SourceError(
            f"{name} must have some of the columns {', '.join(wanted)}; got {', '.join(dataset.column_names)}. "
            "Name them: --question COLUMN --gold COLUMN[:HOW]."
        )
    origin: dict[str, Any] = {"kind": "folder" if folder else "hub", "name": name, "config": source.config}
    origin["split"] = split
    if folder:
        origin["files"] = [
            {"path": file.relative_to(folder.resolve()).as_posix(), **fingerprint(file)}
            for file in _files_of(path, source.config, split)
        ]
    else:
        origin["revision"] = _commit(dataset)
    rows = _rows(f"{name}, {split}", dataset.select_columns(columns))
    return OpenSource(rows=rows, num_rows=len(dataset), origin=origin)


def _load(source: Source, path: str) -> tuple[str, Any]:
    """The split's name and the split."""
    import datasets

    try:
        loaded = datasets.load_dataset(path, source.config, split=source.split, revision=source.revision)
    except Exception as error:  # of the network, the hub, the files or the builder; each library has its own
        raise _as_told(source, error) from error
    if source.split:
        return source.split, loaded
    if len(loaded) > 1:
        raise SourceError(f"--split must be one of {', '.join(loaded)} for {source.names[0]!r}; got none")
    return next(iter(loaded.items()))


def _as_told(source: Source, error: Exception) -> SourceError | LoadError:
    """What was wrong, and what to do about it."""
    name, message = source.names[0], one_line(error)
    if "Unknown split" in message or "is not a valid split" in message:
        return SourceError(f"--split must be a split of {name}; got {source.split!r}: {message}")
    if "BuilderConfig" in message or "Config name is missing" in message:
        return SourceError(f"--config must be a configuration of {name}; got {source.config!r}: {message}")
    kind: type[SourceError] | type[LoadError] = LoadError
    if _status(error) in (401, 403) or "gated" in message.lower():
        remedy = "Where it is gated, accept its terms on the hub and log in (hf auth login, or set HF_TOKEN)."
    elif type(error).__name__ == "DatasetNotFoundError":
        kind = SourceError
        remedy = "Check the name; where it is private or gated, log in (hf auth login, or set HF_TOKEN)."
    elif isinstance(error, ConnectionError) or "reach" in message or "connect" in message.lower():
        remedy = "Without a network, download it elsewhere and name the files or the folder with --from."
    else:
        remedy = ""
    must = "--from must name a dataset that can be loaded"
    return kind(f"{must}; got {name!r}: {message.rstrip('.')}" + (f". {remedy}" if remedy else ""))


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, if there is one."""
    while error is not None:
        if (status := getattr(getattr(error, "response", None), "status_code", None)) is not None:
            return int(status)
        error = error.__cause__ or error.__context__
    return None


def _commit(dataset: Any) -> str | None:
    """The hub's commit that was loaded: ``datasets`` names the folder of its cache after it, offline as well."""
    folders = (Path(file["filename"]).parent.name for file in dataset.cache_files)
    return next((name for name in folders if _COMMIT.fullmatch(name)), None)


def _files_of(path: str, config: str | None, split: str) -> list[Path]:
    """The files of a folder that are its split: ``datasets`` chooses them, by a README or by their names."""
    import datasets

    builder = datasets.load_dataset_builder(path, config)
    files = (builder.config.data_files or {}).get(split.partition("[")[0], ())
    return sorted(Path(file).resolve() for file in files)


def _rows(place: str, dataset: Any) -> Iterator[tuple[str, RowOrError]]:
    for number, row in enumerate(dataset):
        yield f"{place}, row {number}", row
