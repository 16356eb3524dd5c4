"""Writing rows in verl's dataset format, and the options that the data scripts share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


def to_row(
    *,
    data_source: str,
    ability: str,
    question: str,
    ground_truth: str,
    index: int,
    split: str,
    extra_info: Mapping[str, Any],
) -> dict[str, Any]:
    """Returns one row.

    Args:
        data_source: names the task; verl's own reward function chooses by it.
        ability: verl's word for the kind of task.
        question: what the user asks.
        ground_truth: what the reward function gets.
        index: of the row in its split.
        split: ``train`` or ``val``.
        extra_info: further entries of ``extra_info``.
    """
    return {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": question}],
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": ground_truth},
        "extra_info": {"index": index, "split": split, **extra_info},
    }


def write(folder: Path, train: Sequence[dict[str, Any]], val: Sequence[dict[str, Any]]) -> None:
    """Writes train.parquet and val.parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("val", val)):
        pq.write_table(pa.Table.from_pylist(list(rows)), folder / f"{name}.parquet")
    print(f"written: {len(train)} rows in {folder}/train.parquet, {len(val)} in {folder}/val.parquet")


def count(text: str) -> int:
    """A number of at least 1, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {number}")
    return number
