r"""The normal form of an answer: one text for every notation of it, where reading it is enough to see that.

Made to tell whether a model repeats itself, so it is cautious: no algebra, no rounding, and units and names count.
Equal forms are equal answers; equal answers may have unequal forms (``\sqrt8`` and ``2\sqrt2``, ``5`` and ``x = 5``).
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction

from verl_multiattempt.math_verifier.compare import choice
from verl_multiattempt.math_verifier.forms import Answer, Collection, Leaf, Matrix, Union, Words, canonical

_MAX_BITS = 1_200
"""Of a number that is written out: about 360 digits."""


def normal_form(answer: Answer) -> str:
    """The normal form of a read answer."""
    structure = answer.structure
    letter, stands_alone = choice(answer)
    if letter and stands_alone:
        return letter
    if isinstance(structure, Leaf):
        return _leaf(structure)
    if isinstance(structure, Words):
        return structure.text or answer.canonical
    if isinstance(structure, Collection):
        return _collection(structure)
    if isinstance(structure, Union):
        return " or ".join(_sorted(structure.parts))
    if isinstance(structure, Matrix):
        return "[" + ";".join(",".join(map(normal_form, row)) for row in structure.rows) + "]"
    sides = list(map(normal_form, structure.sides))
    return sides[0] + "".join(sign + side for sign, side in zip(structure.signs, sides[1:], strict=True))


def _leaf(leaf: Leaf) -> str:
    number = leaf.number
    if number is None or max(number.numerator.bit_length(), number.denominator.bit_length()) > _MAX_BITS:
        text = canonical(leaf.tokens) + "%" * leaf.percent
    else:
        text = str(number / Fraction(100) if leaf.percent else number)
    return text + (f"_{leaf.base}" if leaf.base else "") + (f" {leaf.unit}" if leaf.unit and not leaf.percent else "")


def _collection(collection: Collection) -> str:
    if collection.opening not in ("", "{", "±", "&"):
        return collection.opening + ",".join(map(normal_form, collection.items)) + collection.closing
    items = _sorted(collection.items)
    return items[0] if len(items) == 1 and collection.opening != "{" else "{" + ",".join(items) + "}"


def _sorted(items: Iterable[Answer]) -> list[str]:
    return sorted(normal_form(item) for item in items)
