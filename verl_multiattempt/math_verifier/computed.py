"""Equality of expressions by computing them. Runs in a worker: it takes milliseconds, at times seconds."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import product
from typing import Any

import mpmath

from verl_multiattempt.math_verifier.expression import Parsed, parse
from verl_multiattempt.math_verifier.forms import Leaf
from verl_multiattempt.math_verifier.rounding import EQUAL_DIGITS, Tolerance, agree, numbers_equal
from verl_multiattempt.math_verifier.text import Token, Unreadable
from verl_multiattempt.math_verifier.values import CHECK_DIGITS, Readings, Undefined, evaluate, settled_value, to_mp


def computed_equal(gold: Leaf, answer: Leaf, tolerance: Tolerance) -> bool:
    """Equality of two leaves by computing them, variables replaced by a few values.

    Raises:
        Unreadable: one of them is no expression this package reads.
    """
    if gold.number is not None and answer.number is not None:
        return numbers_equal(gold, answer, gold.number, answer.number, tolerance)
    return any(
        _values_equal(gold, answer, g, a, readings, tolerance)
        for g, a in product(_readings_of(gold.tokens), _readings_of(answer.tokens))
        for readings in _log_readings(gold.tokens, answer.tokens)
    )


def _readings_of(tokens: tuple[Token, ...]) -> list[Parsed]:
    parsed = parse(tokens)
    return [parsed, parse(tokens, tight_division=True)] if parsed.has_ambiguous_division else [parsed]


def _log_readings(gold: tuple[Token, ...], answer: tuple[Token, ...]) -> list[Readings]:
    r"""Base 10 for ``\log``; also e, unless the answer alone could gain by it."""
    in_gold, in_answer = (any(token[:2] == ("command", "log") for token in side) for side in (gold, answer))
    return [Readings(10), Readings(0)] if in_answer else [Readings(10)] if in_gold else [Readings()]


def _values_equal(gold: Leaf, answer: Leaf, g: Parsed, a: Parsed, readings: Readings, tolerance: Tolerance) -> bool:
    only_gold, only_answer = g.symbols - a.symbols, a.symbols - g.symbols
    if only_gold and {name.swapcase() for name in only_gold} == only_answer and _are_constants(only_gold, gold.tokens):
        answer = replace(  # constants of integration
            answer, tokens=tuple(_swap_case(token) if token.value in ("C", "c") else token for token in answer.tokens)
        )
        a = parse(answer.tokens)
    symbols = sorted(g.symbols | a.symbols)
    if not symbols:
        try:
            values = settled_value(g.node, {}, readings), settled_value(a.node, {}, readings)
            return numbers_equal(gold, answer, *values, tolerance) and not _differ_far_out(g, a, values, readings)
        except Undefined:
            return False
    if gold.percent != answer.percent:
        return False
    has_decimals = any("." in token.value for token in (*gold.tokens, *answer.tokens) if token.kind == "number")
    digits = 10 if has_decimals and tolerance.relative else EQUAL_DIGITS
    pairs = _sampled(g, a, symbols, readings)
    return bool(pairs) and all(agree(x, y, digits) for x, y in pairs)


_WHOLE = frozenset("nmkijpqrst")
"""Letters that stand for whole numbers where an expression has steps: floor((n+1)/2) is ceil(n/2)."""


def _is_stepped(node: Any) -> bool:
    if isinstance(node, tuple):
        return node[0] in ("floor", "ceil", "mod", "list") or any(map(_is_stepped, node[1:]))
    return isinstance(node, list) and any(map(_is_stepped, node))


def _are_constants(names: frozenset[str], tokens: tuple[Token, ...]) -> bool:
    """Whether these are constants of integration: C_1, C_2, or a C that is added at the end."""
    if all(name[0] in "Cc" and "_" in name for name in names):
        return True
    return len(tokens) > 2 and tokens[-2].value == "+" and tokens[-1].value in ("C", "c") and len(names) == 1


def _differ_far_out(gold: Parsed, answer: Parsed, values: tuple[Any, Any], readings: Readings) -> bool:
    """Whether two values that agree in many digits differ in later ones: 1 - e^{-1000} is not 1."""
    if all(isinstance(value, Fraction) for value in values) or not agree(to_mp(values[0]), to_mp(values[1])):
        return False  # exact, or equal by rounding
    exact = [to_mp(evaluate(side.node, {}, readings, digits=CHECK_DIGITS)) for side in (gold, answer)]
    if not all(map(mpmath.isfinite, exact)):
        return False
    with mpmath.workdps(CHECK_DIGITS):
        size = max(map(abs, exact))
        return bool(abs(exact[0] - exact[1]) > size * mpmath.mpf(10) ** (100 - CHECK_DIGITS))


def _swap_case(token: Token) -> Token:
    return token._replace(value=token.value.swapcase())


_RANGES = (
    (0.2, 3.0), (-3.0, -0.2), (1.5, 9.0), (-80.0, 80.0), (0.1, 1.5), (3.0, 40.0), (-1500.0, 1500.0), (-12.0, -3.0)
)  # fmt: skip
_WHOLE_NUMBERS = (2, 1, 3, 4, 5, 6, 7, 9, 11, 12, 17, 30, 64, 91, 143, 360, 1001, 3599)


def _sampled(first: Parsed, second: Parsed, symbols: list[str], readings: Readings) -> list[tuple[Any, Any]]:
    """Values of both at points where both are defined: real ones, else complex ones, else those at whole numbers."""
    generator = random.Random("points")
    stepped = _is_stepped(first.node) or _is_stepped(second.node)
    if not (stepped and set(symbols) <= _WHOLE):
        points = [{name: mpmath.mpf(generator.uniform(*ends)) for name in symbols} for ends in _RANGES * 2]
        pairs = _pairs(first, second, points, readings)
        real = [(x, y) for x, y in pairs if _is_real(x) and _is_real(y)]
        if len(real) >= 2:
            return real
        other = [(x, y) for x, y in pairs if not _is_real(x) and not _is_real(y)]
        if len(other) >= 2:
            return other
    # identities of whole numbers, such as (-1)^n = \\cos(n\\pi)
    points = [
        {name: Fraction(_WHOLE_NUMBERS[(i + 5 * k) % len(_WHOLE_NUMBERS)]) for k, name in enumerate(symbols)}
        for i in range(len(_WHOLE_NUMBERS))
    ]
    return _pairs(first, second, points, readings)


def _pairs(first: Parsed, second: Parsed, points: list[dict[str, Any]], readings: Readings) -> list[tuple[Any, Any]]:
    pairs: list[tuple[Any, Any]] = []
    for values in points:
        try:
            x, y = (to_mp(settled_value(side.node, values, readings)) for side in (first, second))
        except Undefined:
            continue
        if not mpmath.isnan(x) and not mpmath.isnan(y):
            pairs.append((x, y))
    return pairs


def _is_real(value: Any) -> bool:
    return bool(abs(mpmath.im(value)) <= mpmath.mpf(10) ** -60 * (1 + abs(value)))


def same_solutions(first: tuple[Token, ...], second: tuple[Token, ...]) -> bool:
    """Whether ``first = 0`` and ``second = 0`` have the same real solutions near a few points: xy = 1 and y = 1/x."""
    try:
        g, a = parse(first), parse(second)
    except Unreadable:
        return False
    if g.symbols != a.symbols or not g.symbols:
        return False
    generator = random.Random("solutions")
    num_roots = 0
    for unknown in sorted(g.symbols):
        for _ in range(3):
            others = {name: mpmath.mpf(generator.uniform(0.3, 3)) for name in g.symbols if name != unknown}
            found = []
            for side, other in ((g, a), (a, g)):
                roots = 0
                for root in _roots(side, unknown, others):
                    if not _is_root(other, unknown, {**others, unknown: root}):
                        return False  # the search is over with the first one that differs
                    roots += 1
                found.append(roots)
            num_roots += min(found)
    return num_roots >= 3


_STARTS = (-2.3, -0.6, 0.4, 1.7, 5.1, -12.0, 11.0, 31.0, -38.0, 45.0, 95.0, -110.0, 260.0, 690.0, 2200.0)


def _roots(side: Parsed, unknown: str, others: dict[str, Any]) -> Iterator[Any]:
    """Real roots that a search from a few points finds."""

    def value(x: Any) -> Any:
        return to_mp(evaluate(side.node, {**others, unknown: x}, Readings(), digits=30))

    for start in _STARTS:
        try:
            root = mpmath.findroot(value, start, tol=1e-30, maxsteps=25)
        except (ValueError, ZeroDivisionError, Undefined, TypeError):
            continue
        if abs(mpmath.im(root)) < 1e-12 and _is_root(side, unknown, {**others, unknown: root}):
            yield root


def _is_root(side: Parsed, unknown: str, values: dict[str, Any]) -> bool:
    """Whether the value is nothing beside the values a tenth away."""
    try:
        at, *near = (
            abs(to_mp(evaluate(side.node, {**values, unknown: values[unknown] + step}, Readings())))
            for step in (0, mpmath.mpf("0.1"), -mpmath.mpf("0.1"))
        )
    except Undefined:
        return False
    return bool(at <= min(near) * mpmath.mpf(10) ** -12)


def computed_ratio_sign(first: tuple[Token, ...], second: tuple[Token, ...]) -> int:
    """Sign of the constant c with ``first = c * second``; 0 where there is none."""
    try:
        g, a = parse(first), parse(second)
    except Unreadable:
        return 0
    if g.symbols != a.symbols:
        return 0
    pairs = [(x, y) for x, y in _sampled(g, a, sorted(g.symbols), Readings()) if abs(y) > mpmath.mpf(10) ** -30]
    if len(pairs) < 2:
        return 0
    with mpmath.workdps(60):
        ratios = [x / y for x, y in pairs]
    if not all(agree(ratio, ratios[0], 30) for ratio in ratios) or not abs(ratios[0]) > mpmath.mpf(10) ** -30:
        return 0
    return 1 if mpmath.re(ratios[0]) > 0 else -1
