"""Whether the columns of several data files have types that verl's dataset can join."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def type_problem(key: str, files: Sequence[tuple[str, Path]]) -> str | None:
    """A sentence where verl's dataset class cannot load or join the files under ``data.<key>``.

    It loads each with ``datasets`` and joins the tables, which fails where a column has two types. Whole tables need
    not be joined to see that: rows of nothing, with the files' types, do.

    Args:
        key: ``train_files`` or ``val_files``.
        files: the files' names with their places on this machine; each has at least one row.
    """
    import datasets
    import pyarrow as pa

    taken: list[tuple[str, Any, Any]] = []
    for name, path in files:
        try:
            features = _features(path)
        except (datasets.exceptions.DatasetGenerationError, pa.ArrowException, TypeError, ValueError) as error:
            reason = error.__cause__ or error
            return (
                f"data.{key} must name files that verl's dataset can load, each column of one type; got {name!r} and "
                f"{type(reason).__name__}: {reason!s:.300}. Write the values of a column as one type."
            )
        row = datasets.Dataset.from_dict({column: [None] for column in features}, features=features)
        for other, others, before in taken:
            try:
                datasets.concatenate_datasets([before, row])
            except (pa.ArrowException, TypeError, ValueError) as error:
                return (
                    f"data.{key} must name files whose columns have the same types, since verl joins them; got "
                    f"{other!r} and {name!r}: {_difference(others, features) or error!s:.300}. Write both with one."
                )
        taken.append((name, features, row))
    return None


def _features(path: Path) -> Any:
    import datasets
    import pyarrow.parquet

    if path.suffix == ".parquet":
        return datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(path))
    # The types of a JSON file are known when all of it has been read; verl takes it from the same cache then.
    return datasets.load_dataset("json", data_files=str(path))["train"].features


def _difference(one: Any, other: Any, place: str = "") -> str | None:
    """The first column, or field of one, that has two types."""
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return None if one == other else f"{place} is {_named(one)} in one and {_named(other)} in the other"
    for key in one:
        if key not in other or "null" in (_named(one[key]), _named(other[key])):
            continue
        if found := _difference(one[key], other[key], f"{place}.{key}" if place else str(key)):
            return found
    return None


def _named(feature: Any) -> str:
    return str(getattr(feature, "dtype", feature))
