"""Equality of expressions by computing them. Runs in a worker: it takes milliseconds, at times seconds."""

from __future__ import annotations

import random
from dataclasses import replace
from fractions import Fraction
from itertools import product
from typing import Any

import mpmath

from verl_multiattempt.math_verifier.expression import Parsed, parse
from verl_multiattempt.math_verifier.forms import Leaf
from verl_multiattempt.math_verifier.rounding import EQUAL_DIGITS, Tolerance, agree, numbers_equal
from verl_multiattempt.math_verifier.text import Token, Unreadable
from verl_multiattempt.math_verifier.values import Readings, Undefined, evaluate, settled_value, to_mp

_NUM_POINTS = 7
"""Points at which expressions with variables are compared."""


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
        for readings in _log_readings((*gold.tokens, *answer.tokens))
    )


def _readings_of(tokens: tuple[Token, ...]) -> list[Parsed]:
    parsed = parse(tokens)
    return [parsed, parse(tokens, tight_division=True)] if parsed.has_ambiguous_division else [parsed]


def _log_readings(tokens: tuple[Token, ...]) -> list[Readings]:
    has_log = any(token.kind == "command" and token.value == "log" for token in tokens)
    return [Readings(10), Readings(0)] if has_log else [Readings()]


def _values_equal(gold: Leaf, answer: Leaf, g: Parsed, a: Parsed, readings: Readings, tolerance: Tolerance) -> bool:
    if g.symbols ^ a.symbols == {"C", "c"}:  # the constant of integration
        answer = replace(
            answer, tokens=tuple(_swap_case(token) if token.value in "Cc" else token for token in answer.tokens)
        )
        a = parse(answer.tokens)
    symbols = sorted(g.symbols | a.symbols)
    if not symbols:
        try:
            values = settled_value(g.node, {}, readings), settled_value(a.node, {}, readings)
            return numbers_equal(gold, answer, *values, tolerance)
        except Undefined:
            return False
    if gold.percent != answer.percent:
        return False
    has_decimals = any("." in token.value for token in (*gold.tokens, *answer.tokens) if token.kind == "number")
    digits = 6 if has_decimals and tolerance.relative else EQUAL_DIGITS
    pairs = _sampled(g, a, symbols, readings)
    return bool(pairs) and all(agree(x, y, digits) for x, y in pairs)


def _swap_case(token: Token) -> Token:
    return token._replace(value=token.value.swapcase())


def _sampled(first: Parsed, second: Parsed, symbols: list[str], readings: Readings) -> list[tuple[Any, Any]]:
    """Values of both at points where both are defined and, if any such point is found, real."""
    generator = random.Random("points")
    real, other = [], []
    for number in range(24):
        low, high = ((0.2, 3.0), (-3.0, -0.2), (1.5, 9.0))[number % 3]
        if number < 12:
            values: dict[str, Any] = {name: mpmath.mpf(generator.uniform(low, high)) for name in symbols}
        else:  # identities of whole numbers: (-1)^n = \cos(n\pi)
            values = {name: Fraction(generator.randint(1, 9)) for name in symbols}
        try:
            x, y = (to_mp(settled_value(side.node, values, readings)) for side in (first, second))
        except Undefined:
            continue
        if mpmath.isnan(x) or mpmath.isnan(y):
            continue
        tiny = mpmath.mpf(10) ** -60
        is_real = [abs(mpmath.im(value)) <= tiny * (1 + abs(value)) for value in (x, y)]
        if all(is_real):
            real.append((x, y))
        elif not any(is_real):
            other.append((x, y))
        if len(real) >= _NUM_POINTS:
            break
    return real if len(real) >= 2 else other or real


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
            roots = [_roots(side, unknown, others) for side in (g, a)]
            for side, found in ((a, roots[0]), (g, roots[1])):
                if not all(_is_root(side, unknown, {**others, unknown: root}) for root in found):
                    return False
            num_roots += min(map(len, roots))
    return num_roots >= 3


def _roots(side: Parsed, unknown: str, others: dict[str, Any]) -> list[Any]:
    """Real roots that a search from a few points finds."""

    def value(x: Any) -> Any:
        return to_mp(evaluate(side.node, {**others, unknown: x}, Readings(), digits=30))

    found = []
    for start in (-2.3, -0.6, 0.4, 1.7, 5.1):
        try:
            root = mpmath.findroot(value, start, tol=1e-30, maxsteps=25)
        except (ValueError, ZeroDivisionError, Undefined, TypeError):
            continue
        if abs(mpmath.im(root)) < 1e-12 and _is_root(side, unknown, {**others, unknown: root}):
            found.append(root)
    return found


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
