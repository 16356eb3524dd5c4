"""The value of an expression's tree: exact where the operations are rational, else by mpmath."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath

from verl_multiattempt.math_verifier.expression import Node

DIGITS = 80
"""Decimal digits of the arithmetic that is not exact."""
MAX_EXACT_BITS = 400_000
"""Larger integers are taken for floating-point numbers."""


MAX_MAGNITUDE = 2_000
"""Decimal digits before the point of the largest inexact number that is compared."""


class Undefined(ArithmeticError):
    """The expression has no value here (0/0, log 0), or one too large to compute with."""


@dataclass(frozen=True, slots=True)
class Readings:
    r"""How to read what is ambiguous: ``\log`` without a base."""

    log_base: int = 10
    """0 for the natural logarithm."""


def evaluate(node: Node, values: Mapping[str, Any], readings: Readings, digits: int = DIGITS) -> Any:
    """The value of a tree: a Fraction where it is exact, else an mpmath number.

    Args:
        node: from `parse`.
        values: one for each symbol.
        readings: of what is ambiguous.
        digits: of the arithmetic that is not exact.

    Raises:
        Undefined: it has none, or one that is too large.
    """
    with mpmath.workdps(digits):
        try:
            return _Evaluator(values, readings).value(node)
        except (ZeroDivisionError, OverflowError, ValueError, TypeError) as error:
            raise Undefined(str(error)) from error


CHECK_DIGITS = 2_500
"""Digits with which two closed forms that agree are compared again: 1 - e^{-1000} is not 1."""


def settled_value(node: Node, values: Mapping[str, Any], readings: Readings) -> Any:
    """The value with enough digits for a difference of 1 to show; 0 where a cancellation left rounding errors alone.

    Args:
        node: from `parse`.
        values: one for each symbol.
        readings: of what is ambiguous.

    Raises:
        Undefined: see `evaluate`.
    """
    value = evaluate(node, values, readings)
    if isinstance(value, Fraction) or not value or not mpmath.isfinite(value):
        return value
    size = abs(value)
    if size > mpmath.mpf(10) ** (DIGITS // 4):
        magnitude = int(mpmath.log10(size))
        if magnitude > MAX_MAGNITUDE:
            raise Undefined("too large to be told from its neighbours")
        return evaluate(node, values, readings, digits=DIGITS + magnitude)
    if size > mpmath.mpf(10) ** (-DIGITS // 4):
        return value
    closer = evaluate(node, values, readings, digits=2 * DIGITS)
    return closer if abs(closer - value) <= size * mpmath.mpf(10) ** -10 else Fraction(0)


def exact_value(node: Node) -> Fraction | None:
    """The value of a tree of rational operations that are quickly done; None for others."""
    operation = node[0]
    if operation == "number":
        return node[1]
    if operation == "negative":
        value = exact_value(node[1])
        return None if value is None else -value
    if operation in ("add", "multiply"):
        if len(node[1]) > 50:
            return None
        parts = [exact_value(part) for part in node[1]]
        total = Fraction(0 if operation == "add" else 1)
        for part in parts:
            if part is None or _bits(part) > 4000:
                return None
            total = total + part if operation == "add" else total * part
        return total
    if operation in ("divide", "inverse"):
        top = exact_value(node[1]) if operation == "divide" else Fraction(1)
        bottom = exact_value(node[-1])
        return None if top is None or not bottom else top / bottom
    if operation == "power":
        base, exponent = exact_value(node[1]), exact_value(node[2])
        if base is None or exponent is None or exponent.denominator != 1 or not base:
            return None
        return base ** int(exponent) if _bits(base) * abs(exponent) <= 4000 else None
    return None


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


class _Evaluator:
    def __init__(self, values: Mapping[str, Any], readings: Readings):
        self.values = values
        self.readings = readings

    def value(self, node: Node) -> Any:
        operation, first = node[0], node[1]
        if operation == "number":
            return first
        if operation == "symbol":
            return self.values[first]
        if operation == "constant":
            return {"pi": mpmath.mp.pi + 0, "e": mpmath.mp.e + 0, "i": mpmath.mpc(0, 1), "infty": mpmath.inf}[first]
        if operation in ("add", "multiply"):
            return self.fold(operation, first)
        if operation == "call":
            return self.call(first, self.value(node[2]), *[self.value(base) for base in node[3:]])
        if operation == "list":
            return _list_value(first, [self.value(argument) for argument in node[2]])
        if operation == "opaque":
            return _opaque(first, self.value(node[2]))
        return _OPERATIONS[operation](*[self.value(argument) for argument in node[1:]])

    def fold(self, operation: str, nodes: list[Node]) -> Any:
        total = self.value(nodes[0])
        for node in nodes[1:]:
            value = self.value(node)
            if not (isinstance(total, Fraction) and isinstance(value, Fraction)):
                total, value = to_mp(total), to_mp(value)
            total = total + value if operation == "add" else total * value
            if isinstance(total, Fraction) and _bits(total) > MAX_EXACT_BITS:
                total = to_mp(total)
        return total

    def call(self, name: str, value: Any, base: Any = None) -> Any:
        if name == "abs":
            return abs(value)
        value = to_mp(value)
        if name in ("log", "lg", "ln"):
            if not value:
                raise Undefined("log 0")
            if base is None:
                base = {"log": self.readings.log_base, "lg": 10, "ln": 0}[name]
            return mpmath.log(value) / (mpmath.log(to_mp(base)) if base else 1)
        if abs(value) > 10**30:
            raise Undefined("a function of a number this large")
        return getattr(mpmath, name)(value)


def to_mp(value: Any) -> Any:
    """``value`` as an mpmath number."""
    return mpmath.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else mpmath.mpmathify(value)


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        if not base and exponent <= 0:
            raise Undefined("0 to a power that is not positive")
        if _bits(base) * abs(exponent) <= MAX_EXACT_BITS:
            return base ** int(exponent)
    base, exponent = to_mp(base), to_mp(exponent)
    if base and abs(exponent) * abs(mpmath.log(base)) > 10**15:
        raise Undefined("a power this large")
    return base**exponent


def _root_value(radicand: Any, degree: Any) -> Any:
    if degree == 2:
        return mpmath.sqrt(to_mp(radicand))
    if isinstance(degree, Fraction) and degree.denominator == 1 and degree % 2 and mpmath.im(to_mp(radicand)) == 0:
        real = mpmath.re(to_mp(radicand))
        return mpmath.sign(real) * _power(abs(real), 1 / degree)
    return _power(radicand, 1 / degree if isinstance(degree, Fraction) else 1 / to_mp(degree))


def _factorial(value: Any) -> Any:
    if isinstance(value, Fraction) and value.denominator == 1 and 0 <= value <= 5000:
        return Fraction(int(mpmath.libmp.ifac(int(value))))
    if abs(to_mp(value)) > 10**12:
        raise Undefined("a factorial this large")
    return mpmath.factorial(to_mp(value))


def _double_factorial(value: Any) -> Any:
    if isinstance(value, Fraction) and value.denominator == 1 and 0 <= value <= 5000:
        return Fraction(math.prod(range(int(value), 0, -2)))
    raise Undefined("a double factorial of this")


def _modulo(value: Any, modulus: Any) -> Any:
    if not (isinstance(value, Fraction) and isinstance(modulus, Fraction)):
        raise Undefined("mod of numbers that are not rational")
    return value % modulus


def _binomial(n: Any, k: Any) -> Any:
    exact = all(isinstance(part, Fraction) and part.denominator == 1 for part in (n, k))
    if exact and 0 <= k <= n <= 3000:
        return _factorial(n) / _factorial(k) / _factorial(n - k)
    if max(abs(to_mp(n)), abs(to_mp(k))) > 10**12:
        raise Undefined("a binomial this large")
    return mpmath.binomial(to_mp(n), to_mp(k))


def _rounding(direction: str) -> Callable[[Any], Any]:
    def rounded(value: Any) -> Any:
        if isinstance(value, Fraction):
            return Fraction(value.__floor__() if direction == "floor" else value.__ceil__())
        if abs(value) > 10**60:
            raise Undefined("too large to round")
        return getattr(mpmath, direction)(value)

    return rounded


def _list_value(name: str, values: list[Any]) -> Any:
    if name in ("max", "min"):
        numbers = values if all(isinstance(value, Fraction) for value in values) else [to_mp(value) for value in values]
        return (max if name == "max" else min)(numbers)
    integers = [int(value) for value in values]
    if integers != values:
        raise Undefined(f"{name} of a number that is not whole")
    return Fraction(math.gcd(*integers) if name == "gcd" else math.lcm(*integers))


def _opaque(name: str, argument: Any) -> Any:
    """A made-up value for an unknown function: equal arguments give equal values, others hardly ever."""
    digest = hashlib.sha256(name.encode()).digest()
    argument = to_mp(argument)
    if abs(argument) > 10**30:
        raise Undefined("a function of a number this large")
    return mpmath.cos(argument * (2 + digest[0]) / 100 + digest[1]) * (3 + digest[2])


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "negative": lambda value: -value,
    "inverse": lambda value: 1 / value,
    "divide": lambda top, bottom: (
        top / bottom if isinstance(top, Fraction) and isinstance(bottom, Fraction) else to_mp(top) / to_mp(bottom)
    ),
    "power": _power,
    "root": _root_value,
    "abs": abs,
    "factorial": _factorial,
    "double_factorial": _double_factorial,
    "binomial": _binomial,
    "mod": _modulo,
    "floor": _rounding("floor"),
    "ceil": _rounding("ceil"),
    "degrees": lambda value: to_mp(value) * mpmath.mp.pi / 180,
}
