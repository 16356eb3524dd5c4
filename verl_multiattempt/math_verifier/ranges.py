"""Sets of numbers as ranges: intervals, unions, inequalities and their combinations."""

from __future__ import annotations

from verl_multiattempt.math_verifier.expression import GREEK
from verl_multiattempt.math_verifier.forms import ALL_REALS, Answer, Collection, Leaf, Relation, Union, Words, infinity

FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
Range = tuple[bool, Answer, bool, Answer]
"""Whether the lower end is open, lower end, whether the upper end is open, upper end."""


def reversed_relation(relation: Relation) -> Relation:
    """The same relation read from its end: ``3 > x`` for ``x < 3``."""
    return Relation(sides=relation.sides[::-1], signs=[FLIPPED[sign] for sign in reversed(relation.signs)])


def region(answer: Answer) -> list[Range] | None:
    """The ranges of one variable that an answer describes, in order; None for other answers."""
    structure = answer.structure
    if isinstance(structure, Words) and structure.text == ALL_REALS:
        return [(True, infinity("-"), True, infinity(""))]
    if isinstance(structure, Union):
        parts = [region(part) for part in structure.parts]
        if any(part is None for part in parts):
            return None
        return _sorted([item for part in parts if part for item in part])
    if isinstance(structure, Collection):
        return _of_collection(structure)
    return _of_relation(structure) if isinstance(structure, Relation) else None


def _of_collection(structure: Collection) -> list[Range] | None:
    if structure.opening in ("(", "[") and len(structure.items) == 2:
        low, high = structure.items
        return [(structure.opening == "(", low, structure.closing == ")", high)]
    if structure.opening != "&":
        return None
    result: list[Range] | None = [(True, infinity("-"), True, infinity(""))]
    for item in structure.items:
        other = region(item)
        if result is None or other is None:
            return None
        result = _intersection(result, other)
    return result


def _of_relation(relation: Relation) -> list[Range] | None:
    if relation.signs[0].startswith(">"):
        relation = reversed_relation(relation)
    sides, signs = relation.sides, relation.signs
    if len(signs) == 2 and all(sign in ("<", "<=") for sign in signs) and _is_variable(sides[1]):
        return [(signs[0] == "<", sides[0], signs[1] == "<", sides[2])]
    if len(signs) != 1:
        return None
    if signs[0] == "!=" and _is_variable(sides[0]):
        return [(True, infinity("-"), True, sides[1]), (True, sides[1], True, infinity(""))]
    if signs[0] not in ("<", "<="):
        return None
    if _is_variable(sides[0]):
        return [(True, infinity("-"), signs[0] == "<", sides[1])]
    if _is_variable(sides[1]):
        return [(signs[0] == "<", sides[0], True, infinity(""))]
    return _around_zero(sides, signs[0])


def _around_zero(sides: list[Answer], sign: str) -> list[Range] | None:
    """``|x| < 2`` and ``2 < |x|``."""
    for place, bound in ((0, sides[1]), (1, sides[0])):
        tokens = sides[place].tokens
        is_absolute = len(tokens) == 3 and tokens[0].value == tokens[2].value == "|" and tokens[1].kind == "letter"
        if not is_absolute or not isinstance(bound.structure, Leaf) or not (bound.structure.number or 0) > 0:
            continue
        lower = _negative(bound)
        is_open = sign == "<"
        if place == 0:
            return [(is_open, lower, is_open, bound)]
        return [(True, infinity("-"), is_open, lower), (is_open, bound, True, infinity(""))]
    return None


def _negative(bound: Answer) -> Answer:
    leaf = bound.structure
    assert isinstance(leaf, Leaf)
    assert leaf.number is not None
    minus = bound.tokens[0]._replace(kind="sign", value="-")
    tokens = (minus, *bound.tokens)
    return Answer(Leaf(tokens=(minus, *leaf.tokens), number=-leaf.number, places=leaf.places), tokens)


def _is_variable(side: Answer) -> bool:
    first = side.tokens[0] if side.tokens else None
    if first is None or not (first.kind == "letter" or first.value in GREEK):
        return False
    return len(side.tokens) == 1 or side.tokens[1].value == "_"


def _end(answer: Answer) -> float | None:
    if answer.canonical.endswith("\\infty "):
        return float("-inf") if answer.canonical.startswith("-") else float("inf")
    number = answer.structure.number if isinstance(answer.structure, Leaf) else None
    return None if number is None else float(number)


def _intersection(first: list[Range], second: list[Range]) -> list[Range] | None:
    """What both have in common; None where an end is no plain number."""
    common: list[Range] = []
    for low_open, low, high_open, high in first:
        for other_low_open, other_low, other_high_open, other_high in second:
            ends = [_end(end) for end in (low, other_low, high, other_high)]
            if any(end is None for end in ends):
                return None
            a, b, c, d = (end for end in ends if end is not None)
            lower = (low_open, low) if (a, low_open) >= (b, other_low_open) else (other_low_open, other_low)
            is_first = (c, not high_open) <= (d, not other_high_open)
            upper = (high_open, high) if is_first else (other_high_open, other_high)
            if max(a, b) < min(c, d):
                common.append((*lower, *upper))
    return _sorted(common)


def _sorted(ranges: list[Range]) -> list[Range]:
    return sorted(ranges, key=lambda item: end if (end := _end(item[1])) is not None else 0.0)
