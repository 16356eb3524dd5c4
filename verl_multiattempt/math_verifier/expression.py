r"""Closed-form expressions: tokens to a tree, and the tree's value.

Covers what answers are made of: numbers, variables, ``+ - * / ^``, fractions, roots, elementary functions, factorials,
binomials, absolute values, floors. What it does not read (integrals, sums, limits) is `Unreadable`, and the caller
turns to math-verify. Rational arithmetic is exact; the rest is done by mpmath (see `values`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from verl_multiattempt.math_verifier.text import Token, Unreadable

MAX_DIGITS = 4_000
"""A longer number is not read (Python itself refuses some more)."""
MAX_DEPTH = 60
"""Deeper nesting is not read."""
GREEK = frozenset(
    """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega
    Gamma Delta Theta Lambda Xi Sigma Upsilon Phi Psi Omega ell hbar""".split()  # noqa: SIM905
)
_OPAQUE_FUNCTIONS = frozenset("fghFG")
_OPENING = {"(": ")", "[": "]", "\\{": "\\}", "{": "}"}
Node = tuple[Any, ...]
"""``(operation, *arguments)``: ``("number", Fraction)``, ``("symbol", name)``, ``("add", [nodes])`` ..."""


@dataclass(slots=True)
class Parsed:
    """A tree and what is to know about it."""

    node: Node
    symbols: frozenset[str]
    has_ambiguous_division: bool
    """``a/bc`` occurs; `parse` can read it as (a/b)c or as a/(bc)."""


def parse(tokens: Sequence[Token], *, tight_division: bool = False) -> Parsed:
    """The tree of an expression.

    Args:
        tokens: the whole expression.
        tight_division: read ``a/bc`` as a/(bc).

    Raises:
        Unreadable: it is none, or one of those not covered.
    """
    parser = _Parser(tokens, tight_division)
    node = parser.quotient()
    if parser.position != len(parser.tokens):
        raise Unreadable(f"unexpected {parser.peek().value!r}")
    return Parsed(node, frozenset(parser.symbols), parser.has_ambiguous_division)


_END = Token("end", "", False)


class _Parser:
    def __init__(self, tokens: Sequence[Token], tight_division: bool):
        self.tokens = tokens
        self.position = 0
        self.depth = 0
        self.open_bars = 0
        self.tight_division = tight_division
        self.has_ambiguous_division = False
        self.symbols: set[str] = set()

    def peek(self, ahead: int = 0) -> Token:
        index = self.position + ahead
        return self.tokens[index] if index < len(self.tokens) else _END

    def take(self) -> Token:
        token = self.peek()
        self.position += 1
        return token

    def expect(self, value: str) -> None:
        if self.take().value != value:
            raise Unreadable(f"{value} is missing")

    def quotient(self) -> Node:
        r"""A sum, or two with ``\over`` or ``\choose`` between them."""
        node = self.sum()
        if self.peek().value not in ("over", "choose"):
            return node
        return ("divide" if self.take().value == "over" else "binomial", node, self.sum())

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        terms = [self.product()]
        while self.peek().kind == "sign" and self.peek().value in "+-":
            sign = self.take().value
            term = self.product()
            terms.append(term if sign == "+" else ("negative", term))
        self.depth -= 1
        return terms[0] if len(terms) == 1 else ("add", terms)

    def product(self) -> Node:
        factors = [self.signed()]
        while True:
            token = self.peek()
            if token.value in ("*", "cdot"):
                self.take()
                factors.append(self.signed())
            elif token == ("sign", "/", token.space):
                self.take()
                divisor = self.signed()
                if self.starts_factor():
                    self.has_ambiguous_division = True
                    while self.tight_division and self.starts_factor():
                        divisor = ("multiply", [divisor, self.power()])
                factors.append(("inverse", divisor))
            elif token.value in ("bmod", "mod") and token.kind == "command":
                self.take()
                factors = [("mod", ("multiply", factors), self.signed())]
            elif self.starts_factor():
                factors.append(self.mixed_or_power(factors))
            else:
                return factors[0] if len(factors) == 1 else ("multiply", factors)

    def mixed_or_power(self, factors: list[Node]) -> Node:
        """The next factor of an implicit product; an integer before a proper fraction makes a mixed number."""
        before, start = self.tokens[self.position - 1], self.position
        if self.peek().kind == before.kind == "number" and factors[-1][0] in ("number", "negative"):
            raise Unreadable("two numbers in a row")
        node = self.power()
        if (
            factors[-1][0] in ("number", "negative")
            and before.kind == "number"
            and before.value.isdigit()
            and self.tokens[start].value == "frac"
            and node[0] == "divide"
        ):
            top, bottom = node[1], node[2]
            if top[0] == bottom[0] == "number" and 0 < top[1] < bottom[1] and int(before.value):
                return ("number", 1 + top[1] / bottom[1] / int(before.value))  # whole * this = whole + fraction
        return node

    def signed(self) -> Node:
        token = self.peek()
        if token.kind == "sign" and token.value in "+-":
            self.take()
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise Unreadable("nested too deeply")
            node = self.signed()
            self.depth -= 1
            return node if token.value == "+" else ("negative", node)
        return self.power()

    def starts_factor(self) -> bool:
        kind, value, _ = self.peek()
        if kind in ("number", "letter"):
            return True
        if kind == "command":
            return value in GREEK or value in _PRIMARIES
        return value in _OPENING or (value == "|" and not self.open_bars)

    def power(self) -> Node:
        base = self.postfix(self.primary())
        if self.peek().value != "^":
            return base
        self.take()
        if self.peek().value == "circ":
            raise Unreadable("unexpected degree")
        return self.postfix(("power", base, self.exponent()))

    def exponent(self) -> Node:
        """What is raised: a group, or a signed number or symbol (``2^10`` is meant as 2^{10})."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")
        token = self.peek()
        if token.kind == "sign" and token.value in "+-":
            self.take()
            node = self.exponent()
            node = node if token.value == "+" else ("negative", node)
        else:
            node = self.primary()
            if self.peek().value == "^":
                self.take()
                node = ("power", node, self.exponent())
        self.depth -= 1
        return node

    def postfix(self, node: Node) -> Node:
        while True:
            if self.peek().value == "!":
                self.take()
                double = self.peek().value == "!" and not self.peek().space
                if double:
                    self.take()
                node = ("double_factorial" if double else "factorial", node)
            elif self.peek().value == "%":
                self.take()
                node = ("multiply", [node, ("number", Fraction(1, 100))])
            elif self.peek().value == "^" and self.degree_length():
                self.position += self.degree_length()
                node = ("degrees", node)
            else:
                return node

    def degree_length(self) -> int:
        r"""Number of tokens of a ``^\circ`` or ``^{\circ}`` here; 0 where there is none."""
        if self.peek(1).value == "circ":
            return 2
        if self.peek(1).value == "{" and self.peek(2).value == "circ" and self.peek(3).value == "}":
            return 4
        return 0

    def primary(self) -> Node:
        token = self.take()
        if token.kind == "number":
            if self.peek().value == "_":
                raise Unreadable("a number in another base")
            if len(token.value) > MAX_DIGITS:
                raise Unreadable("too many digits")
            return self.repeating(token) or ("number", Fraction(token.value.rstrip(".") or "0"))
        if token.kind == "letter":
            return self.symbol(token.value)
        if token.kind == "command":
            if token.value in GREEK:
                return self.symbol(token.value)
            rule = _PRIMARIES.get(token.value)
            if rule is None:
                raise Unreadable(f"\\{token.value} is not covered")
            return rule(self, token.value)
        if token.value in _OPENING:
            return self.group(token.value)
        if token.value == "|":
            self.open_bars += 1
            node = self.sum()
            self.expect("|")
            self.open_bars -= 1
            return ("abs", node)
        raise Unreadable(f"unexpected {token.value!r}")

    def group(self, opening: str) -> Node:
        bars, self.open_bars = self.open_bars, 0
        node = self.quotient() if opening == "{" else self.sum()
        self.expect(_OPENING[opening])
        self.open_bars = bars
        return node

    def repeating(self, token: Token) -> Node | None:
        r"""``0.1\overline{6}`` and ``0.\overline{3}``."""
        if self.peek().value not in ("overline", "bar", "dot") or self.peek(1).value != "{":
            return None
        digits = self.peek(2).value
        if not (digits.isdigit() and self.peek(3).value == "}" and "." in token.value):
            return None
        self.position += 4
        places = len(token.value.rstrip(".").partition(".")[2])
        repeated = Fraction(int(digits), (10 ** len(digits) - 1) * 10**places)
        return ("number", Fraction(token.value.rstrip(".")) + repeated)

    def symbol(self, name: str) -> Node:
        index = self.peek()
        if index.value == "_":
            self.take()
            name += "_" + self.subscript()
        elif (
            index.kind == "number" and index.value.isdigit() and not index.space and name not in ("e", "i")
            and (self.peek(1).value != "^" or self.peek(2).kind == "number")  # n2^{n-1} is a product
        ):  # fmt: skip
            name += "_" + self.take().value  # x1 means x_1
        while self.peek().value == "'":
            self.take()
            name += "'"
        if name == "e":
            return ("constant", "e")
        if name == "i":
            return ("constant", "i")
        if name in _OPAQUE_FUNCTIONS and self.peek().value == "(":
            self.take()
            return ("opaque", name, self.group("("))
        self.symbols.add(name)
        return ("symbol", name)

    def subscript(self) -> str:
        token = self.take()
        if token.value != "{":
            return token.value
        parts = []
        while self.peek().value != "}" and self.peek() is not _END:
            parts.append(self.take().value)
        self.expect("}")
        return "".join(parts)

    def argument(self) -> Node:
        r"""The argument of ``\frac`` or ``\sqrt``: a group, or one digit, letter or command (``\frac12``)."""
        token = self.peek()
        if token.kind == "number" and len(token.value) > 1 and token.value.isdigit():
            # TeX takes the first digit alone. The rest stays behind as a number of its own.
            self.tokens = [*self.tokens[: self.position], Token("number", token.value[0], token.space),
                           Token("number", token.value[1:], False), *self.tokens[self.position + 1 :]]  # fmt: skip
        return self.primary()

    def function_argument(self) -> Node:
        if self.peek().value in _OPENING or self.peek().value == "|":
            return self.postfix(self.primary())
        node = self.signed()
        factors, has_symbol = [node], _has_symbol(node)
        while self.starts_factor() and self.peek().value not in _FUNCTION_NAMES:
            if has_symbol and (self.peek().value in _OPENING or (self.peek().value, self.peek(1).value) == ("e", "^")):
                break
            factors.append(self.power())
            has_symbol = has_symbol or _has_symbol(factors[-1])
        if len(factors) == 1 and self.peek().value == "/" and self.peek(1).kind == "number":
            self.take()
            factors.append(("inverse", self.power()))
        return ("multiply", factors)


def _has_symbol(node: Any) -> bool:
    if isinstance(node, tuple):
        return node[0] == "symbol" or any(_has_symbol(part) for part in node[1:])
    return isinstance(node, list) and any(_has_symbol(part) for part in node)


def _fraction(parser: _Parser, name: str) -> Node:
    top = parser.argument()
    bottom = parser.argument()
    if _is_differential(top) and _is_differential(bottom):
        raise Unreadable("derivatives are not covered")
    return ("binomial" if name == "binom" else "divide", top, bottom)


def _is_differential(node: Node) -> bool:
    """Whether this is ``d`` or begins with it: ``dy``."""
    first = node[1][0] if node[0] == "multiply" else node
    return first == ("symbol", "d")


def _root(parser: _Parser, name: str) -> Node:
    degree: Node = ("number", Fraction(2))
    if parser.peek().value == "[":
        parser.take()
        degree = parser.group("[")
    is_group = parser.peek().value in ("{", "(")
    token = parser.peek()
    if not is_group and token.kind == "number" and len(token.value) > 1:
        return ("root", parser.primary(), degree)  # \sqrt12, as models write it, means \sqrt{12}
    return ("root", parser.argument(), degree)


def _function(parser: _Parser, name: str) -> Node:
    base = power = None
    for _ in range(2):
        if parser.peek().value == "_" and base is None:
            parser.take()
            base = parser.primary()
        elif parser.peek().value == "^" and power is None:
            parser.take()
            power = parser.exponent()
    node: Node = ("call", name, parser.function_argument(), *([base] if base else []))
    if power is None:
        return node
    if power == ("negative", ("number", Fraction(1))):
        if name not in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh"):
            raise Unreadable(f"the inverse of \\{name} is not covered")
        return ("call", "a" + name, node[2])
    return ("power", node, power)


def _constant(parser: _Parser, name: str) -> Node:
    return ("constant", name)


def _rounded(parser: _Parser, name: str) -> Node:
    node = parser.sum()
    if parser.take().value != "r" + name[1:]:
        raise Unreadable(f"\\r{name[1:]} is missing")
    return (name[1:], node)


def _list_function(parser: _Parser, name: str) -> Node:
    opening = parser.take().value
    if opening not in _OPENING:
        raise Unreadable(f"\\{name} needs brackets")
    arguments = [parser.sum()]
    while parser.peek().value == ",":
        parser.take()
        arguments.append(parser.sum())
    parser.expect(_OPENING[opening])
    return ("list", name, arguments)


def _decorated(parser: _Parser, name: str) -> Node:
    r"""``\overline{z}`` and ``\bar{z}``: a variable of its own."""
    start = parser.position
    parser.argument()
    symbol = "bar " + "".join(token.value for token in parser.tokens[start : parser.position]).strip("{}")
    parser.symbols.add(symbol)
    return ("symbol", symbol)


_FUNCTION_NAMES = frozenset(
    """sin cos tan cot sec csc sinh cosh tanh coth sech csch asin acos atan acot asec acsc asinh acosh atanh ln log lg
    exp abs""".split()  # noqa: SIM905
)
_PRIMARIES: dict[str, Callable[[_Parser, str], Node]] = {
    **dict.fromkeys(_FUNCTION_NAMES, _function),
    **dict.fromkeys(("pi", "infty"), _constant),
    **dict.fromkeys(("frac", "binom"), _fraction),
    **dict.fromkeys(("lfloor", "lceil"), _rounded),
    **dict.fromkeys(("max", "min", "gcd", "lcm"), _list_function),
    **dict.fromkeys(("overline", "bar"), _decorated),
    "sqrt": _root,
}
