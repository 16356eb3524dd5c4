"""Whether two read answers are the same answer.

The rules are strict: equal values in the same structure. What may differ is notation, the order of a list or set, a
unit written on one side alone, and a rounding that is close enough (see `rounding`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from verl_multiattempt.math_verifier.expression import GREEK
from verl_multiattempt.math_verifier.forms import (
    ALL_REALS,
    Answer,
    Collection,
    Leaf,
    Matrix,
    Relation,
    Union,
    Words,
    canonical,
    infinity,
)
from verl_multiattempt.math_verifier.structure import is_name
from verl_multiattempt.math_verifier.text import Token

_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}


LeafEqual = Callable[[Leaf, Leaf], bool]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Compares structures; the leaves by ``leaf_equal``, equations by ``proportional``."""

    leaf_equal: LeafEqual
    ratio_sign: Callable[[tuple[Token, ...], tuple[Token, ...]], int]
    """Sign of the constant c with first = c * second; 0 where there is none."""

    same_solutions: Callable[[tuple[Token, ...], tuple[Token, ...]], bool]
    """Whether both are zero at the same points."""

    def any_same(self, golds: Iterable[Answer], answers: Iterable[Answer]) -> bool:
        """Whether a reading of the answer is a reading of the gold."""
        answers = list(answers)
        return any(self.same(gold, answer) for gold in golds for answer in answers)

    def same(self, gold: Answer, answer: Answer) -> bool:
        """Whether ``answer`` is ``gold``."""
        if gold.canonical == answer.canonical:
            return True
        g, a = gold.structure, answer.structure
        if (letter := choice(gold)) and letter == choice(answer):
            return True
        if isinstance(g, Relation) or isinstance(a, Relation):
            return self._relations(gold, answer)
        if isinstance(g, Words) or isinstance(a, Words):
            return _words(gold, answer)
        if isinstance(g, Union) or isinstance(a, Union):
            return isinstance(g, Union) and isinstance(a, Union) and self._unordered(g.parts, a.parts)
        if isinstance(g, Matrix) or isinstance(a, Matrix):
            return self._matrices(g, a)
        if isinstance(g, Collection) or isinstance(a, Collection):
            return self._collections(gold, answer)
        return self._leaves(g, a)

    def _leaves(self, gold: Leaf, answer: Leaf) -> bool:
        if gold.unit and answer.unit and gold.unit != answer.unit:
            return False
        if (gold.base or answer.base) and gold.base != answer.base:
            return not (gold.base and answer.base) and _same_digits(gold, answer)  # it may be left out, but not changed
        if gold.base and _same_digits(gold, answer):
            return True
        return (
            canonical(gold.tokens) == canonical(answer.tokens) and gold.percent == answer.percent
        ) or self.leaf_equal(gold, answer)

    def _ordered(self, gold: Sequence[Answer], answer: Sequence[Answer]) -> bool:
        return len(gold) == len(answer) and all(map(self.same, gold, answer))

    def _unordered(self, gold: Sequence[Answer], answer: Sequence[Answer]) -> bool:
        """Whether they are the same set: each item of one is among the other's."""
        if max(len(gold), len(answer)) > 3 * min(len(gold), len(answer)):
            return False
        pairs = [[self.same(item, other) for other in answer] for item in gold]
        return all(map(any, pairs)) and all(map(any, zip(*pairs, strict=True)))

    def _collections(self, gold: Answer, answer: Answer) -> bool:
        g, a = gold.structure, answer.structure
        if not isinstance(g, Collection):
            return (
                isinstance(a, Collection)
                and a.opening in ("", "{")
                and len(a.items) == 1
                and self.same(gold, a.items[0])
            )
        if not isinstance(a, Collection):
            return g.opening in ("", "{") and len(g.items) == 1 and self.same(g.items[0], answer)
        loose = ("", "{", "±")
        if g.opening in loose and a.opening in loose:
            return self._unordered(g.items, a.items)
        if (g.opening, g.closing) == (a.opening, a.closing) or (g.opening, a.opening) in (
            ("(", ""),
            ("", "("),
            ("", "["),
        ):
            return self._ordered(g.items, a.items)
        return False

    def _matrices(self, gold: Any, answer: Any) -> bool:
        rows, others = _rows(gold), _rows(answer)
        if rows is None or others is None:
            return False
        if isinstance(gold, Matrix) != isinstance(answer, Matrix):  # a vector may be written as a tuple
            is_vector = min(len(rows), max(map(len, rows))) == 1
            if is_vector and len(others) == 1:
                rows = [[cell for row in rows for cell in row]]
            elif min(len(others), max(map(len, others))) == 1 and len(rows) == 1:
                others = [[cell for row in others for cell in row]]
        return len(rows) == len(others) and all(map(self._ordered, rows, others))

    def _relations(self, gold: Answer, answer: Answer) -> bool:
        g, a = gold.structure, answer.structure
        if isinstance(g, Relation) and isinstance(a, Relation):
            return self._two_relations(g, a)
        if isinstance(a, Relation) and (value := self._stated_value(a)):
            return self.same(gold, value)
        if isinstance(g, Relation) and (value := self._stated_value(g)):
            return self.same(value, answer)
        return self._regions(gold, answer)

    def _stated_value(self, relation: Relation) -> Answer | None:
        """The value that ``x = 5``, ``2 + 3 = 5`` or ``x = 2 + 3 = 5`` states; None where the sides disagree."""
        if set(relation.signs) != {"="}:
            return None
        named = _is_name(relation.sides[0])
        values = relation.sides[1:] if named else relation.sides
        if not named and not all(map(_is_constant, values)):
            return None
        return values[-1] if all(self.same(values[-1], value) for value in values[:-1]) else None

    def _two_relations(self, gold: Relation, answer: Relation) -> bool:
        for candidate in (answer, _reversed(answer)):
            if gold.signs == candidate.signs and self._ordered(gold.sides, candidate.sides):
                return True
        if set(gold.signs) == set(answer.signs) == {"="}:
            both_named = _is_name(gold.sides[0]) and _is_name(answer.sides[0])
            if both_named and gold.sides[0].canonical == answer.sides[0].canonical:
                return self.same(gold.sides[-1], answer.sides[-1])
            if both_named and (_is_function_name(gold.sides[0]) or _is_function_name(answer.sides[0])):
                return _is_function_name(gold.sides[0]) != _is_function_name(answer.sides[0]) and self.same(
                    gold.sides[-1], answer.sides[-1]
                )  # y = 2x and f(x) = 2x, but not g(x) = 2x
            sides = _difference(gold), _difference(answer)
            return self.ratio_sign(*sides) != 0 or self.same_solutions(*sides)
        if len(gold.signs) == len(answer.signs) == 1:
            sign = self.ratio_sign(_difference(gold), _difference(answer))
            expected = answer.signs[0] if sign > 0 else _FLIPPED[answer.signs[0]]
            return sign != 0 and gold.signs[0] == expected
        return False

    def _regions(self, gold: Answer, answer: Answer) -> bool:
        """An inequality against an interval or union."""
        left, right = _region(gold), _region(answer)
        if left is None or right is None or len(left) != len(right):
            return False
        return all(
            lower[0] == other[0]
            and lower[2] == other[2]
            and self.same(lower[1], other[1])
            and self.same(lower[3], other[3])
            for lower, other in zip(left, right, strict=True)
        )


def _same_digits(gold: Leaf, answer: Leaf) -> bool:
    return canonical(gold.tokens).lower() == canonical(answer.tokens).lower()


def _words(gold: Answer, answer: Answer) -> bool:
    letter, other = choice(gold), choice(answer)
    if letter and other:
        return letter == other
    first, second = gold.structure, answer.structure
    if isinstance(first, Words) and isinstance(second, Words):
        return bool(first.text) and first.text == second.text
    if ALL_REALS in (getattr(first, "text", None), getattr(second, "text", None)):
        other_side = second if isinstance(first, Words) else first
        return isinstance(other_side, Collection) and [item.canonical for item in other_side.items] == [
            "-\\infty ",
            "\\infty ",
        ]
    plain = [re.sub(r"[\W_]+", "", side.canonical.lower()) for side in (gold, answer)]
    return plain[0] == plain[1] != "" and not any(
        character in gold.canonical + answer.canonical for character in "+-/^*"
    )


def choice(answer: Answer) -> str | None:
    """The letter of a multiple-choice answer such as ``C``, ``(C)``, ``C.`` or ``(C) 12``."""
    text = "".join(token.value for token in answer.tokens[:12])
    match = re.fullmatch(r"\(?([A-Ja-j])[).:]?", text) or re.match(r"\(([A-J])\)|([A-J])[).:](?=.)", text)
    if match is None:
        return None
    letter = match.group(1) or match.group(2)
    is_marked = (
        letter.isupper()
        or (letter in "abcde" and len(answer.tokens) == 1)
        or "(" in text
        or answer.tokens[0].kind == "text"
    )
    return letter.upper() if is_marked else None


def _rows(structure: Any) -> list[list[Answer]] | None:
    if isinstance(structure, Matrix):
        return structure.rows
    if not isinstance(structure, Collection) or structure.opening not in ("(", "["):
        return None
    inner = [item.structure for item in structure.items]
    if all(isinstance(row, Collection) and row.opening in ("(", "[") for row in inner):
        return [row.items for row in inner if isinstance(row, Collection)]
    return [structure.items]


def _is_name(side: Answer) -> bool:
    return is_name(side.tokens)


def _is_function_name(side: Answer) -> bool:
    return _is_name(side) and any(token.value == "(" for token in side.tokens)


def _is_constant(side: Answer) -> bool:
    return not any(token.kind in ("letter", "text") or token.value in GREEK for token in side.tokens)


def _reversed(relation: Relation) -> Relation:
    return Relation(sides=relation.sides[::-1], signs=[_FLIPPED[sign] for sign in reversed(relation.signs)])


def _difference(relation: Relation) -> tuple[Token, ...]:
    """First side minus last side."""
    minus, left, right = (Token("sign", sign, False) for sign in "-()")
    return (*relation.sides[0].tokens, minus, left, *relation.sides[-1].tokens, right)


Range = tuple[bool, Answer, bool, Answer]
"""Lower end open, lower end, upper end open, upper end."""


def _region(answer: Answer) -> list[Range] | None:
    """The ranges of one variable that an interval, union or inequality describes; None for other answers."""
    structure = answer.structure
    if isinstance(structure, Union):
        parts = [_region(part) for part in structure.parts]
        if any(part is None for part in parts):
            return None
        return _sorted([item for part in parts if part for item in part])
    if isinstance(structure, Collection):
        if len(structure.items) != 2 or structure.opening not in ("(", "["):
            return None
        low, high = structure.items
        return [(structure.opening == "(", low, structure.closing == ")", high)]
    if not isinstance(structure, Relation):
        return None
    sides, signs = structure.sides, structure.signs
    if signs[0].startswith(">"):
        turned = _reversed(structure)
        sides, signs = turned.sides, turned.signs
    if len(signs) == 2 and all(sign in ("<", "<=") for sign in signs) and _is_name(sides[1]):
        return [(signs[0] == "<", sides[0], signs[1] == "<", sides[2])]
    if len(signs) != 1:
        return None
    if signs[0] == "!=" and _is_name(sides[0]):
        return [(True, infinity("-"), True, sides[1]), (True, sides[1], True, infinity(""))]
    if signs[0] not in ("<", "<="):
        return None
    if _is_name(sides[0]):
        return [(True, infinity("-"), signs[0] == "<", sides[1])]
    return [(signs[0] == "<", sides[0], True, infinity(""))] if _is_name(sides[1]) else None


def _sorted(ranges: list[Range]) -> list[Range]:
    def key(item: Range) -> float:
        low = item[1]
        if low.canonical.startswith("-\\infty"):
            return float("-inf")
        number = low.structure.number if isinstance(low.structure, Leaf) else None
        return float(number) if number is not None else 0.0

    return sorted(ranges, key=key)
