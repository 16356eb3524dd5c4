"""Reading a number or an expression with what stands around it: unit, percent sign, base."""

from __future__ import annotations

import re

from verl_multiattempt.math_verifier.expression import parse
from verl_multiattempt.math_verifier.forms import Leaf, depths_of
from verl_multiattempt.math_verifier.spelling import CURRENCY
from verl_multiattempt.math_verifier.text import Token, Unreadable
from verl_multiattempt.math_verifier.units import canonical_unit, is_counted_thing
from verl_multiattempt.math_verifier.values import exact_value


def read_leaf(tokens: tuple[Token, ...]) -> Leaf:
    """A number or expression; where it cannot be read, one that equals the same tokens alone."""
    leaf = Leaf(tokens=tokens)
    _take_unit(leaf)
    _take_base(leaf)
    while len(leaf.tokens) > 2 and leaf.tokens[0].value == "(" and leaf.tokens[-1].value == ")":
        if min(depths_of(leaf.tokens)[1:-1]) < 1:
            break
        leaf.tokens = leaf.tokens[1:-1]
    leaf.tokens = _mixed_number(leaf.tokens)
    leaf.tokens = _scaled(leaf.tokens)
    try:
        parsed = parse(leaf.tokens)
        leaf.number = None if parsed.symbols or parsed.has_ambiguous_division else exact_value(parsed.node)
    except Unreadable:
        return leaf
    leaf.places = _places(leaf.tokens) if leaf.number is not None else None
    return leaf


def _take_unit(leaf: Leaf) -> None:
    """Move currency, percent and degree signs and unit words from the tokens to their fields."""
    tokens = [token for token in leaf.tokens if token.value != CURRENCY]
    if len(tokens) < len(leaf.tokens):
        leaf.unit = "dollar"
    first_text = next(
        (i for i, t in enumerate(tokens) if t.kind == "text" and i and t.value.lower() not in _SCALES), len(tokens)
    )
    words = tokens[first_text:]
    text = " ".join("*" if token.value == "cdot" else token.value for token in words)
    unit = canonical_unit(text)
    if text in _TEMPERATURES and tokens[first_text - 1].value in ("circ", "}"):
        unit = _TEMPERATURES[text]
    if words and (unit or is_counted_thing(text)):
        tokens = tokens[:first_text]
        leaf.percent = leaf.percent or unit == "percent"
        leaf.unit = leaf.unit if unit == "percent" else unit
    if tokens and tokens[-1].value == "%":
        tokens.pop()
        leaf.percent = True
    if not any(token.kind == "command" and token.value in _TRIGONOMETRIC for token in tokens):
        without = _without_degrees(tokens)
        if len(without) < len(tokens):
            leaf.unit = leaf.unit or _TEMPERATURES.get(tokens[-1].value, "degree")
            tokens = without
    if tokens:
        leaf.tokens = tuple(tokens)


_TEMPERATURES = {"C": "celsius", "F": "fahrenheit"}
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}


def _scaled(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    """Tokens with a word such as "million" at the end made a power of ten."""
    if len(tokens) < 2 or tokens[-1].kind != "text" or tokens[-1].value.lower() not in _SCALES:
        return tokens
    scale = str(_SCALES[tokens[-1].value.lower()])
    ten, power = (Token("number", value, False) for value in ("10", scale))
    return (*tokens[:-1], Token("command", "cdot", False), ten, Token("sign", "^", False), power)


_TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc"}


def _without_degrees(tokens: list[Token]) -> list[Token]:
    kept: list[Token] = []
    i = 0
    while i < len(tokens):
        following = [token.value for token in tokens[i : i + 4]]
        if following[:2] == ["^", "circ"]:
            i += 2
        elif following == ["^", "{", "circ", "}"]:
            i += 4
        elif following[:1] == ["circ"]:
            i += 1
        else:
            kept.append(tokens[i])
            i += 1
            continue
        if i == len(tokens) - 1 and tokens[i].value in ("C", "F"):
            i += 1
    return kept


def _take_base(leaf: Leaf) -> None:
    values = [token.value for token in leaf.tokens]
    if "_" not in values:
        return
    at = values.index("_")
    subscript = "".join(values[at + 1 :]).strip("{}")
    if at and (subscript.isdigit() or leaf.tokens[-1].kind == "text") and values[0] != "log":
        digits = [value for value in values[:at] if value not in "()"]
        if digits and all(re.fullmatch(r"[0-9A-Fa-f.]+", value) for value in digits) and digits[0][0].isdigit():
            leaf.tokens, leaf.base = leaf.tokens[:at], _BASE_NAMES.get(subscript, subscript)


_BASE_NAMES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
               "ten": "10", "twelve": "12", "sixteen": "16"}  # fmt: skip


def _mixed_number(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    """``1 1/2`` with a plus sign put in."""
    sign = tokens[:1] if tokens and tokens[0].value in ("-", "+") else ()
    rest = tokens[len(sign) :]
    if (
        [token.kind for token in rest] != ["number", "number", "sign", "number"]
        or rest[2].value != "/"
        or not rest[1].space
    ):
        return tokens
    whole, top, _, bottom = rest
    if not (
        whole.value.isdigit() and top.value.isdigit() and bottom.value.isdigit() and int(top.value) < int(bottom.value)
    ):
        return tokens
    left, right, plus = (Token("sign", value, False) for value in "()+")
    return (*sign, left, whole, plus, *rest[1:], right)


def _places(tokens: tuple[Token, ...]) -> int | None:
    """Digits after the decimal point of a number in decimal or scientific notation; None for others."""
    rest = [token.value for token in tokens if token.value not in ("+", "{", "}")]
    if rest and rest[0] == "-":
        rest = rest[1:]
    if not rest or "." not in rest[0]:
        return None
    places = len(rest[0].rstrip(".").partition(".")[2])
    if len(rest) == 1:
        return places
    if rest[1] in ("cdot", "*") and rest[2:4] == ["10", "^"]:
        exponent = "".join(rest[4:])
        return places - int(exponent) if re.fullmatch(r"-?\d{1,4}", exponent) else None
    return None
