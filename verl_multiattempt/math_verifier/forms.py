"""What an answer can be: number or expression, words, list, tuple, interval, set, union, matrix, relation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property

from verl_multiattempt.math_verifier.text import Token

ALL_REALS = "reals"
"""Text of the set of all real numbers."""
OPENING, CLOSING = {"(", "[", "\\{", "{"}, {")", "]", "\\}", "}"}


@dataclass(slots=True, kw_only=True)
class Leaf:
    """A number or an expression, with what stood around it."""

    tokens: tuple[Token, ...]
    unit: str | None = None
    """Canonical unit; None where none was written."""
    percent: bool = False
    base: str | None = None
    """Base of a number written with its base as subscript."""
    number: Fraction | None = None
    """Its value, where a few rational operations give it."""
    places: int | None = None
    """Digits after the decimal point, where it is a number in decimal notation; negative for tens, hundreds, ..."""


@dataclass(slots=True, kw_only=True)
class Words:
    """Text."""

    text: str
    """Lower-case letters and digits only."""
    original: str


@dataclass(slots=True, kw_only=True)
class Collection:
    """Values in a row."""

    opening: str
    """``(``, ``[``, ``{``, ``:`` for a ratio, or empty for a bare list."""
    closing: str
    items: list[Answer]


@dataclass(slots=True, kw_only=True)
class Union:
    """Sets joined by a union sign, or ranges joined by "or"."""

    parts: list[Answer]


@dataclass(slots=True, kw_only=True)
class Matrix:
    """Rows of values."""

    rows: list[list[Answer]]


@dataclass(slots=True, kw_only=True)
class Relation:
    """A chain of sides with a relation between each and the next."""

    sides: list[Answer]
    signs: list[str]


Structure = Leaf | Words | Collection | Union | Matrix | Relation


@dataclass
class Answer:
    """A read answer."""

    structure: Structure
    tokens: tuple[Token, ...] = field(repr=False)

    @cached_property
    def canonical(self) -> str:
        """Its text without white space; equal ones are equal answers."""
        return canonical(self.tokens)


_START = Token("start", "", False)


def canonical(tokens: Sequence[Token]) -> str:
    """Token values joined, text in lower case."""
    # White space counts between two numbers alone: 1 1/2 is not 11/2. Braces around one token do not count.
    tokens = [
        token for i, token in enumerate(tokens)
        if not (token.value == "{" and i + 2 < len(tokens) and tokens[i + 2].value == "}")
        and not (token.value == "}" and i >= 2 and tokens[i - 2].value == "{")
    ]  # fmt: skip
    return "".join(
        " " * (token.kind == before.kind == "number") + _canonical_token(token)
        for before, token in zip((_START, *tokens), tokens, strict=False)
    )


def _canonical_token(token: Token) -> str:
    if token.kind == "text":
        # Case matters in symbols of units (m and M), not in words.
        return re.sub(r"[\s.]+", "", token.value if len(token.value) < 3 else token.value.lower())
    return f"\\{token.value} " if token.kind == "command" else token.value


def depths_of(tokens: Sequence[Token]) -> list[int]:
    """Bracket depth of each token; brackets of unlike form match, as those of half-open intervals do."""
    depths, depth = [], 0
    for token in tokens:
        is_sign, is_command = token.kind == "sign", token.kind == "command"
        if (is_sign and token.value in CLOSING) or (is_command and token.value.startswith("end")):
            depth -= 1
        depths.append(depth)
        if (is_sign and token.value in OPENING) or (is_command and token.value.startswith("begin")):
            depth += 1
    return depths


def infinity(sign: str) -> Answer:
    """Plus or minus infinity; ``sign`` is ``"-"`` or empty."""
    tokens = (*(Token("sign", character, False) for character in sign), Token("command", "infty", False))
    return Answer(Leaf(tokens=tokens), tokens)
