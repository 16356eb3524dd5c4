"""Reading a number or an expression with what stands around it: unit, percent sign, base."""

from __future__ import annotations

import re
from collections.abc import Sequence

from verl_multiattempt.math_verifier.expression import parse
from verl_multiattempt.math_verifier.forms import Leaf, depths_of
from verl_multiattempt.math_verifier.spelling import CURRENCIES, SINGLE_LETTERS
from verl_multiattempt.math_verifier.text import Token, Unreadable, tokenise
from verl_multiattempt.math_verifier.units import canonical_unit, counted_thing, is_counted_thing
from verl_multiattempt.math_verifier.values import exact_value


def read_leaf(tokens: tuple[Token, ...]) -> Leaf:
    """A number or expression; where it cannot be read, one that equals the same tokens alone."""
    leaf = Leaf(tokens=tokens)
    _take_base(leaf)
    _take_modulus(leaf)
    _take_unit(leaf)
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
    tokens = [token for token in _single_words(leaf.tokens) if token.value not in CURRENCIES]
    if len(tokens) < len(leaf.tokens) and (
        signs := [CURRENCIES[t.value] for t in leaf.tokens if t.value in CURRENCIES]
    ):
        leaf.unit = signs[0]
    start = next((i for i, token in enumerate(tokens) if i and _is_unit_word(token)), len(tokens))
    words = tokens[start:]
    text = " ".join("*" if token.value == "cdot" else token.value for token in words)
    unit = canonical_unit(text)
    if text in _TEMPERATURES and tokens[start - 1].value in ("circ", "}"):
        unit = _TEMPERATURES[text]
    if words and all(map(_may_be_of_unit, words)) and (unit or is_counted_thing(text)):
        tokens = tokens[:start]
        leaf.percent = leaf.percent or unit == "percent"
        leaf.unit = unit or leaf.unit or counted_thing(text) or None
    if tokens and tokens[-1].value == "%":
        tokens.pop()
        leaf.percent, leaf.unit = True, "percent"
    if not any(token.kind == "command" and token.value in _TRIGONOMETRIC for token in tokens):
        without = _without_degrees(tokens)
        if len(without) < len(tokens):
            leaf.unit = leaf.unit or _TEMPERATURES.get(tokens[-1].value, "degree")
            tokens = without
    if tokens:
        leaf.tokens = tuple(tokens)


def _single_words(tokens: Sequence[Token]) -> list[Token]:
    """Tokens with each word of a text on its own; a letter that is no unit after a number is a variable."""
    single: list[Token] = []
    for token in tokens:
        if token.kind != "text":
            single.append(token)
            continue
        for word in token.value.split() or [token.value]:
            follows_number = bool(single) and (single[-1].kind in ("number", "text") or single[-1].value in ("}", ")"))
            is_letter = len(word) == 1 and word.isalpha() and not (follows_number and word in SINGLE_LETTERS)
            single.append(Token("letter" if is_letter else "text", word, token.space))
    return single


def _is_unit_word(token: Token) -> bool:
    return token.kind == "text" and _scale_of(token) is None


def _may_be_of_unit(token: Token) -> bool:
    return token.kind in ("text", "number") or token.value in ("^", "/", "{", "}", "(", ")", "-", "cdot", "*")


_TEMPERATURES = {"C": "celsius", "F": "fahrenheit"}
_SCALES = {
    "dozen": "12",
    "hundred": "100",
    "thousand": "1000",
    "million": "10^6",
    "billion": "10^9",
    "trillion": "10^12",
}


def _scale_of(token: Token) -> str | None:
    return _SCALES.get(token.value.lower().removesuffix("s")) if token.kind == "text" else None


def _scaled(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    """Tokens with words such as "million" at the end made factors."""
    end = len(tokens)
    factors: list[Token] = []
    while end > 1 and (scale := _scale_of(tokens[end - 1])):
        end -= 1
        factors += [Token("command", "cdot", False), *tokenise(scale)]
    return (*tokens[:end], *factors)


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
    subscript = "".join(values[at + 1 :]).strip("{}").lower()
    if at and (subscript.isdigit() or subscript in _BASE_NAMES) and values[0] != "log":
        digits = [value for value in values[:at] if value not in "()"]
        is_number = digits and (digits[0][0].isdigit() or leaf.tokens[0].kind == "text")
        if is_number and all(re.fullmatch(r"[0-9A-Fa-f.]+", value) for value in digits):
            leaf.tokens, leaf.base = leaf.tokens[:at], _BASE_NAMES.get(subscript, subscript)


_BASE_NAMES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
               "ten": "10", "twelve": "12", "sixteen": "16"}  # fmt: skip


def _take_modulus(leaf: Leaf) -> None:
    r"""Take ``\pmod{7}`` for a unit of what stands before it."""
    at = next((i for i, token in enumerate(leaf.tokens) if i and token.value in ("pmod", "mod", "bmod")), None)
    if at is not None and leaf.tokens[at].value == "bmod":
        values = [token.value for token in leaf.tokens]
        is_residue = at == 1 and len(values) == 3 and values[0].isdigit() and values[2].isdigit()
        at = at if is_residue and int(values[0][:9]) < int(values[2][:9]) else None
    if at is not None:
        modulus = "".join(token.value for token in leaf.tokens[at + 1 :] if token.value not in "{}()")
        leaf.tokens, leaf.unit = leaf.tokens[:at], f"mod {modulus}"


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
