"""Makes a small data set of programming tasks for code_task.py: a function of one argument, and tests of it.

    python examples/extending/code_data.py --out outputs/code --seed 1

Every task is one of a dozen families with a number from 2 to 9 in it.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rows import count, to_row, write

DATA_SOURCE = "extending/code"
FUNCTION = "f"
NUM_TESTS = 8
# What f(x) returns, in words and in Python; {k} is a number from 2 to 9. The sort of x says how arguments are drawn.
FAMILIES = (
    ("number", "x plus {k}", "x + {k}"),
    ("number", "x minus {k}", "x - {k}"),
    ("number", "x times {k}", "x * {k}"),
    ("number", "the remainder of x divided by {k}", "x % {k}"),
    ("number", "the larger one of x and {k}", "max(x, {k})"),
    ("number", "whether x is a multiple of {k}", "x % {k} == 0"),
    ("text", "the text x repeated {k} times", "x * {k}"),
    ("text", "the first {k} characters of the text x, reversed", "x[:{k}][::-1]"),
    ("text", "the number of words in the text x that have at least {k} letters",
     "sum(len(word) >= {k} for word in x.split())"),
    ("list", "the list x with every number multiplied by {k}", "[item * {k} for item in x]"),
    ("list", "the sum of the numbers in the list x that are above {k}", "sum(item for item in x if item > {k})"),
    ("list", "the numbers of the list x in ascending order, at most {k} of them", "sorted(x)[:{k}]"),
)  # fmt: skip
LETTERS = "aeioulmnrst"


@dataclass(frozen=True, slots=True)
class Task:
    """One function to write."""

    kind: str
    words: str
    expression: str
    others: tuple[str, ...]
    """What the other tasks of the family return: the tests tell them apart."""

    @property
    def question(self) -> str:
        return f"Write a Python function {FUNCTION}(x) that returns {self.words}."

    @property
    def solution(self) -> str:
        return f"def {FUNCTION}(x):\n    return {self.expression}"

    def tests(self, rng: random.Random) -> list[dict[str, Any]]:
        """Draws arguments, all different, and computes what the function returns."""
        function, others = to_function(self.expression), [to_function(other) for other in self.others]
        while True:
            arguments: list[Any] = []
            while len(arguments) < NUM_TESTS:
                argument = draw_argument(rng, self.kind)
                if argument not in arguments:
                    arguments.append(argument)
            if all(any(function(x) != other(x) for x in arguments) for other in others):
                return [{"args": [argument], "returns": function(argument)} for argument in arguments]


def to_function(expression: str) -> Callable[[Any], Any]:
    return eval(f"lambda x: {expression}")  # an expression of FAMILIES


def draw_argument(rng: random.Random, kind: str) -> Any:
    if kind == "number":
        return rng.randint(-20, 60)
    if kind == "text":
        return " ".join("".join(rng.choices(LETTERS, k=rng.randint(1, 9))) for _ in range(rng.randint(0, 6)))
    return [rng.randint(0, 10) for _ in range(rng.randint(0, 12))]


def all_tasks(kinds: Sequence[str]) -> list[Task]:
    tasks = []
    for kind, words, expression in FAMILIES:
        expressions = {k: expression.format(k=k) for k in range(2, 10)}
        for k, own in expressions.items():
            others = tuple(other for other in expressions.values() if other != own)
            tasks.append(Task(kind, words.format(k=k), own, others))
    return [task for task in tasks if task.kind in kinds]


def make_rows(tasks: Sequence[Task], split: str, rng: random.Random) -> list[dict[str, Any]]:
    return [
        to_row(
            data_source=DATA_SOURCE, ability="code", question=task.question, index=index, split=split,
            ground_truth=json.dumps({"function": FUNCTION, "tests": task.tests(rng)}),
            extra_info={"solution": task.solution},
        )
        for index, task in enumerate(tasks)
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for train.parquet and val.parquet")
    parser.add_argument("--seed", type=int, default=1, help="of the tests and of which tasks are for validation")
    parser.add_argument("--val-rows", type=count, default=16, help="tasks kept for validation")
    parser.add_argument("--kinds", nargs="+", choices=("number", "text", "list"), default=("number", "text", "list"))
    args = parser.parse_args(argv)
    rng = random.Random(args.seed)
    tasks = all_tasks(args.kinds)
    if args.val_rows >= len(tasks):
        parser.error(f"--val-rows must be below the number of tasks ({len(tasks)}); got {args.val_rows}")
    rng.shuffle(tasks)
    split = len(tasks) - args.val_rows
    write(args.out, make_rows(tasks[:split], "train", rng), make_rows(tasks[split:], "val", rng))


if __name__ == "__main__":
    main()
