"""The questions of tiny_math: `A*B mod 6` with A and B in 100..999, one tenth of them held out.

Nothing here depends on the package, torch or verl.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

DATA_SOURCE = "tiny_math"
MODULUS = 6
LOWEST, HIGHEST = 100, 999
HELD_OUT_ONE_IN = 10


@dataclass(frozen=True, slots=True)
class Question:
    """One product of two three-digit numbers, asked modulo 6."""

    a: int
    b: int

    @property
    def text(self) -> str:
        """What the user asks."""
        return f"Compute {self.a}*{self.b} mod {MODULUS} = ?"

    @property
    def answer(self) -> str:
        """The ground truth, one digit."""
        return str(self.a * self.b % MODULUS)

    @property
    def held_out(self) -> bool:
        """True for the tenth of the questions that training never sees; the same for A*B and B*A, on every machine."""
        low, high = sorted((self.a, self.b))
        digest = hashlib.sha256(f"{low}*{high}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % HELD_OUT_ONE_IN == 0


def class_counts() -> dict[int, int]:
    """Counts the answers over all pairs of remainders; all pairs are equally likely, since 900 is a multiple of 6."""
    counts = dict.fromkeys(range(MODULUS), 0)
    for a in range(MODULUS):
        for b in range(MODULUS):
            counts[a * b % MODULUS] += 1
    return counts


def best_accuracy(attempts: int) -> float:
    """Returns the share that the best fixed order of guesses solves in `attempts`, given whether the result is odd."""
    counts = class_counts()
    solved = 0
    for parity in (0, 1):
        classes = sorted((count for result, count in counts.items() if result % 2 == parity), reverse=True)
        solved += sum(classes[:attempts])
    return solved / sum(counts.values())


def draw_questions(rng: random.Random, *, held_out: bool) -> Iterator[Question]:
    """Yields questions of one side of the hold-out, uniformly and with repeats, without end."""
    while True:
        question = Question(rng.randint(LOWEST, HIGHEST), rng.randint(LOWEST, HIGHEST))
        if question.held_out == held_out:
            yield question


def draw_distinct(rng: random.Random, count: int, *, held_out: bool) -> list[Question]:
    """Returns `count` different questions of one side of the hold-out."""
    seen: dict[Question, None] = {}
    questions = draw_questions(rng, held_out=held_out)
    while len(seen) < count:
        seen[next(questions)] = None
    return list(seen)


def to_row(question: Question, index: int, split: str) -> dict[str, Any]:
    """Returns the question as a row of verl's dataset format."""
    return {
        "data_source": DATA_SOURCE,
        "prompt": [{"role": "user", "content": question.text}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": question.answer},
        "extra_info": {"index": index, "split": split},
    }
