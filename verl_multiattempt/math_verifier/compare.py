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
)
from verl_multiattempt.math_verifier.ranges import FLIPPED, region, reversed_relation
from verl_multiattempt.math_verifier.structure import is_name, is_simple_name, read_tokens
from verl_multiattempt.math_verifier.text import Token

LeafEqual = Callable[[Leaf, Leaf], bool]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Compares structures; the leaves by ``leaf_equal``, equations by ``ratio_sign`` and ``same_solutions``."""

    leaf_equal: LeafEqual
    ratio_sign: Callable[[tuple[Token, ...], tuple[Token, ...]], int]
    """Sign of the constant c with first = c * second; 0 where there is none."""

    same_solutions: Callable[[tuple[Token, ...], tuple[Token, ...]], bool]
    """Whether both are zero at the same points."""

    def any_same(self, golds: Iterable[Answer], answers: Iterable[Answer]) -> bool:
        """Whether a reading of the answer is a reading of the gold."""
        answers = list(answers)
        return any(self.same(_only(gold), _only(answer)) for gold in golds for answer in answers)

    def same(self, gold: Answer, answer: Answer) -> bool:
        """Whether ``answer`` is ``gold``."""
        if gold.canonical == answer.canonical:
            return True
        g, a = gold.structure, answer.structure
        if _same_choice(gold, answer):
            return True
        if isinstance(g, Relation) or isinstance(a, Relation):
            return self._relations(gold, answer)
        if isinstance(g, Words) or isinstance(a, Words):
            return _words(gold, answer)
        if isinstance(g, Union) or isinstance(a, Union):
            both = isinstance(g, Union) and isinstance(a, Union)
            return (both and self._unordered(g.parts, a.parts)) or self._regions(gold, answer)  # type: ignore[union-attr]
        if isinstance(g, Matrix) or isinstance(a, Matrix):
            return self._matrices(g, a)
        if isinstance(g, Collection) or isinstance(a, Collection):
            return self._collections(gold, answer)
        return self._leaves(g, a)

    def _leaves(self, gold: Leaf, answer: Leaf) -> bool:
        if gold.unit and answer.unit and gold.unit != answer.unit:
            return False
        modulus = next((unit for unit in (gold.unit, answer.unit) if unit and unit.startswith("mod ")), None)
        if modulus and gold.unit != answer.unit and (gold.number is None or answer.number is None):
            return False
        if (gold.base or answer.base) and gold.base != answer.base:
            return not answer.base and _same_digits(gold, answer)  # it may be left out, but not changed
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
        if not (all(map(any, pairs)) and all(map(any, zip(*pairs, strict=True)))):
            return False
        if len(gold) != len(answer):  # one of them names a value twice
            return True
        return _is_pairing_possible(pairs)

    def _collections(self, gold: Answer, answer: Answer) -> bool:
        g, a = gold.structure, answer.structure
        if not isinstance(g, Collection):
            if isinstance(a, Collection) and a.opening == ":":
                return self._ratio_is(a, g)
            # "1/2 or 0.5" is one value
            return isinstance(a, Collection) and a.opening == "" and all(self.same(gold, item) for item in a.items)
        if not isinstance(a, Collection):
            if g.opening == ":":
                return self._ratio_is(g, a)
            return _letters(g) == sorted(answer.canonical.replace("\\", "").upper())
        if g.opening == a.opening == "{|":
            return self._ordered(g.items, a.items)
        if "&" in (g.opening, a.opening):
            if g.opening in ("", "&") and a.opening in ("", "&") and self._unordered(g.items, a.items):
                return True
            return self._regions(gold, answer)
        if g.opening == a.opening == "" and _is_labelled(g.items) != _is_labelled(a.items):
            as_written = self._ordered(g.items, a.items)
            return as_written or self._ordered(_by_name(g.items), _by_name(a.items))
        loose = ("", "{", "±")
        if g.opening in loose and a.opening in loose:
            return self._unordered(g.items, a.items)
        if g.opening == a.opening == ":":
            return self._ordered(g.items, a.items) or self._ratios(g.items, a.items)
        if (g.opening, g.closing) == (a.opening, a.closing) or (g.opening, a.opening) in (("(", ""), ("", "(")):
            return self._ordered(_by_name(g.items), _by_name(a.items))
        return False

    def _ratio_is(self, ratio: Collection, value: Any) -> bool:
        """Whether a ratio such as 3:4 is the fraction 3/4."""
        numbers = [item.structure.number if isinstance(item.structure, Leaf) else None for item in ratio.items]
        if len(numbers) != 2 or not isinstance(value, Leaf) or value.number is None or value.number.denominator == 1:
            return False
        first, second = numbers
        return first is not None and bool(second) and first == value.number * (second or 0)

    def _ratios(self, gold: Sequence[Answer], answer: Sequence[Answer]) -> bool:
        """Whether two ratios of whole numbers are proportional; with two digits behind the colon they may be times."""
        sides = [[item.structure.number if isinstance(item.structure, Leaf) else None for item in side]
                 for side in (gold, answer)]  # fmt: skip
        if len(gold) != len(answer) or any(not number for side in sides for number in side):
            return False
        if any(getattr(item.structure, "unit", None) for item in (*gold, *answer)):
            return False
        if len(gold) == 2 and all(len(side[1].canonical) == 2 for side in (gold, answer)):
            return False
        first, second = ([number / side[0] for number in side if number and side[0]] for side in sides)
        return first == second

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
        if isinstance(g, Relation) and is_simple_name(g.sides[0].tokens) and (value := self._stated_value(g)):
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
        for candidate in (answer, reversed_relation(answer)):
            if gold.signs == candidate.signs and self._ordered(gold.sides, candidate.sides):
                return True
        if set(gold.signs) == set(answer.signs) == {"="}:
            both_named = _is_name(gold.sides[0]) and _is_name(answer.sides[0])
            if both_named and gold.sides[0].canonical == answer.sides[0].canonical:
                return self.same(gold.sides[-1], answer.sides[-1])
            if both_named and _renamed_argument(gold.sides[0], answer.sides[0]):
                return self.same(gold.sides[-1], _with_argument(answer.sides[-1], answer.sides[0], gold.sides[0]))
            if both_named and (_is_function_name(gold.sides[0]) or _is_function_name(answer.sides[0])):
                return _is_function_name(gold.sides[0]) != _is_function_name(answer.sides[0]) and self.same(
                    gold.sides[-1], answer.sides[-1]
                )  # y = 2x and f(x) = 2x, but not g(x) = 2x
            sides = _difference(gold), _difference(answer)
            return self.ratio_sign(*sides) != 0 or self.same_solutions(*sides)
        if len(gold.signs) == len(answer.signs) == 1:
            sign = self.ratio_sign(_difference(gold), _difference(answer))
            expected = answer.signs[0] if sign > 0 else FLIPPED[answer.signs[0]]
            return sign != 0 and gold.signs[0] == expected
        return False

    def _regions(self, gold: Answer, answer: Answer) -> bool:
        """Sets of numbers: intervals, unions and inequalities."""
        left, right = region(gold), region(answer)
        if left is None or right is None or len(left) != len(right):
            return False
        return all(
            lower[0] == other[0]
            and lower[2] == other[2]
            and self.same(lower[1], other[1])
            and self.same(lower[3], other[3])
            for lower, other in zip(left, right, strict=True)
        )


def _is_pairing_possible(pairs: list[list[bool]]) -> bool:
    """Whether each row can have a column of its own: 0, 1, 1 is not 0, 0, 1."""
    taken: dict[int, int] = {}

    def place(row: int, seen: set[int]) -> bool:
        for column, fits in enumerate(pairs[row]):
            if fits and column not in seen:
                seen.add(column)
                if column not in taken or place(taken[column], seen):
                    taken[column] = row
                    return True
        return False

    return len(pairs) > 300 or all(place(row, set()) for row in range(len(pairs)))


def _is_labelled(items: list[Answer]) -> bool:
    """Whether the items are ``x = 1``, ``y = 2``: values of different names."""
    relations = [item.structure for item in items]
    if not all(isinstance(relation, Relation) and set(relation.signs) == {"="} for relation in relations):
        return False
    names = {relation.sides[0].canonical for relation in relations if isinstance(relation, Relation)}
    return len(names) == len(items) > 1


def _by_name(items: list[Answer]) -> list[Answer]:
    """Values of ``y = 2, x = 1`` in the order of their names, as a tuple has them."""
    if not _is_labelled(items):
        return items
    return sorted(
        items, key=lambda item: item.structure.sides[0].canonical if isinstance(item.structure, Relation) else ""
    )


def _same_digits(gold: Leaf, answer: Leaf) -> bool:
    return canonical(gold.tokens).lower() == canonical(answer.tokens).lower()


def _words(gold: Answer, answer: Answer) -> bool:
    first, second = gold.structure, answer.structure
    if isinstance(first, Words) and isinstance(second, Words):
        return bool(first.text) and first.text == second.text
    if ALL_REALS in (getattr(first, "text", None), getattr(second, "text", None)):
        other_side = second if isinstance(first, Words) else first
        return isinstance(other_side, Collection) and [item.canonical for item in other_side.items] == [
            "-\\infty ",
            "\\infty ",
        ]
    return False


def _same_choice(gold: Answer, answer: Answer) -> bool:
    """Whether both are the same letter of a multiple choice; one of them may go on with the option's text."""
    (letter, is_bare), (other, is_other_bare) = choice(gold), choice(answer)
    return letter is not None and letter == other and (is_bare or is_other_bare)


_OPTION = re.compile(
    r"^(?:(?:the )?(?:correct )?(?:option|choice|answer)(?: is)?)\s*:?\s*(?=\(?\s*[A-J]\b)", re.IGNORECASE
)


def choice(answer: Answer) -> tuple[str | None, bool]:
    """The letter of a multiple-choice answer such as ``C``, ``(C)`` or ``(C) 12``, and whether it stands alone."""
    text = " ".join(token.value for token in answer.tokens[:40])
    text = _OPTION.sub("", text)
    bare = re.fullmatch(r"\(?\s*([A-J]|[a-d])\s*\)?[\s.:]*", text)
    if bare:
        letter = bare.group(1)
        is_marked = letter.isupper() or "(" in text or len(answer.tokens) == 1
        return (letter.upper(), True) if is_marked else (None, False)
    match = re.match(r"(?:\(\s*([A-J])\s*\)|([A-J])\s*[).:])\s*(?=[\w$\\(-])", text)
    if match is None:
        return None, False
    rest = text[match.end() :]
    hedged = re.search(r"\(\s*[A-J]\s*\)|\b[A-J]\s*[).:]|\b(?:or|and|not|false|wrong|incorrect|nor)\b|:", rest)
    is_option = not hedged and not (match.group(2) and re.fullmatch(r"[A-J]", rest.strip()))
    return (match.group(1) or match.group(2), False) if is_option else (None, False)


def _only(answer: Answer) -> Answer:
    """The value of a set of one, such as the solution set {5}."""
    structure = answer.structure
    if not isinstance(structure, Collection) or structure.opening not in ("", "{") or len(structure.items) != 1:
        return answer
    inner = structure.items[0]
    return inner if isinstance(inner.structure, Leaf) else answer


def _letters(collection: Collection) -> list[str] | None:
    """The letters of a list such as A, C, D; None for other lists."""
    letters = [item.canonical.upper() for item in collection.items]
    return sorted(letters) if all(re.fullmatch("[A-J]", letter) for letter in letters) else None


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


def _renamed_argument(gold: Answer, answer: Answer) -> bool:
    """Whether the sides are ``f(x)`` and ``f(y)``."""
    names = [[token.value for token in side.tokens] for side in (gold, answer)]
    is_call = all(len(name) == 4 and name[1] == "(" and name[3] == ")" for name in names)
    return is_call and names[0][0] == names[1][0]


def _with_argument(value: Answer, old: Answer, new: Answer) -> Answer:
    renamed = {old.tokens[2].value: new.tokens[2].value}
    tokens = tuple(token._replace(value=renamed.get(token.value, token.value)) for token in value.tokens)
    return read_tokens(tokens)


def _is_constant(side: Answer) -> bool:
    return not any(token.kind in ("letter", "text") or token.value in GREEK for token in side.tokens)


def _difference(relation: Relation) -> tuple[Token, ...]:
    """First side minus last side."""
    minus, left, right = (Token("sign", sign, False) for sign in "-()")
    return (*relation.sides[0].tokens, minus, left, *relation.sides[-1].tokens, right)
