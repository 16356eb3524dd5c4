"""Turns GSM8K as published (JSON Lines with ``question`` and ``answer``) into verl's dataset format.

    python examples/extending/gsm8k_data.py --train gsm8k_train.jsonl --val gsm8k_test.jsonl --out outputs/gsm8k

The rows are those of verl's own preprocessing: data source ``openai/gsm8k``, the number after ``####`` as the ground
truth, and the instruction to answer after ``####``. So verl's own reward function decides them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rows import count, to_row, write

DATA_SOURCE = "openai/gsm8k"
INSTRUCTION = 'Let\'s think step by step and output the final answer after "####".'


def gold(answer: str) -> str:
    """Returns the number that a published answer ends with.

    Raises:
        ValueError: there is no ``####``.
    """
    _, mark, number = answer.rpartition("####")
    if not mark or not number.strip():
        raise ValueError(f"answer must end with #### and a number; got {answer[-80:]!r}")
    return number.strip().replace(",", "").replace("$", "")


def read(path: Path, split: str, *, limit: int | None, max_chars: int | None, max_gold: int | None) -> list[Any]:
    """Returns the rows of a file, those left out that are longer or have a larger answer than asked for."""
    rows: list[Any] = []
    for line in path.read_text(encoding="utf-8").split("\n"):
        if not line.strip() or len(rows) == limit:
            continue
        raw = json.loads(line)
        number = gold(raw["answer"])
        if max_chars is not None and len(raw["question"]) > max_chars:
            continue
        if max_gold is not None and not 0 <= float(number) <= max_gold:
            continue
        rows.append(
            to_row(
                data_source=DATA_SOURCE, ability="math", question=f"{raw['question']} {INSTRUCTION}",
                ground_truth=number, index=len(rows), split=split,
                extra_info={"question": raw["question"], "answer": raw["answer"]},
            )
        )  # fmt: skip
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="raw rows for training (JSON Lines)")
    parser.add_argument("--val", type=Path, required=True, help="raw rows for validation")
    parser.add_argument("--out", type=Path, required=True, help="folder for train.parquet and val.parquet")
    parser.add_argument("--limit", type=count, help="most rows of each file")
    parser.add_argument("--max-chars", type=count, help="leave longer questions out (for a tiny model)")
    parser.add_argument("--max-gold", type=count, help="leave larger answers out (for a tiny model)")
    args = parser.parse_args(argv)
    limits = {"limit": args.limit, "max_chars": args.max_chars, "max_gold": args.max_gold}
    write(args.out, read(args.train, "train", **limits), read(args.val, "val", **limits))


if __name__ == "__main__":
    main()
