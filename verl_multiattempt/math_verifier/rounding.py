"""When two numbers are the same answer."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import mpmath

from verl_multiattempt.math_verifier.forms import Leaf
from verl_multiattempt.math_verifier.values import to_mp

EQUAL_DIGITS = 55
"""Leading decimal digits in which two computed values must agree."""


class NeedsWorker(Exception):
    """The decision takes more than rational arithmetic."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """When a decimal number stands for a value that it is not exactly: it must be that value rounded, or cut off."""

    relative: float = 1e-4
    """Largest relative difference where one side is a decimal of at least four digits; 0 turns rounding off."""
    relative_to_irrational: float = 1e-6
    """The same where the gold is exact and irrational, with at least six digits: 3.14 is not pi."""
    noise: float = 1e-12
    """Relative difference of a decimal of twelve or more places that is taken for an error of float arithmetic."""


def exact_equal(gold: Leaf, answer: Leaf, tolerance: Tolerance) -> bool:
    """Equality of two leaves by rational arithmetic.

    Raises:
        NeedsWorker: one of them is no such number.
    """
    if gold.number is None or answer.number is None:
        if _both_plain_symbols(gold, answer):
            return False
        raise NeedsWorker
    return numbers_equal(gold, answer, gold.number, answer.number, tolerance)


def _both_plain_symbols(gold: Leaf, answer: Leaf) -> bool:
    """Two different letters, or a letter and a number, are different without algebra."""

    def simple(leaf: Leaf) -> bool:
        return leaf.number is not None or (
            len(leaf.tokens) == 1 and leaf.tokens[0].kind == "letter" and leaf.tokens[0].value not in ("e", "i")
        )

    return simple(gold) and simple(answer)


def numbers_equal(gold: Leaf, answer: Leaf, a: Any, b: Any, tolerance: Tolerance) -> bool:
    """Equality of two values, percent signs taken into account: p% is p/100, or p where the other side has no sign.

    An answer of 0.5% is not 0.5, though: a gold of at most 1 that has no sign is a share.
    """
    if gold.percent == answer.percent:
        return close(a, gold.places, b, answer.places, tolerance)
    as_written = close(a, gold.places, b, answer.places, tolerance)
    hundred = Fraction(100)
    if gold.percent:
        return as_written or close(a / hundred, _shifted(gold.places, 2), b, answer.places, tolerance)
    is_share = abs(a) <= 1
    return (as_written and not is_share) or close(a, gold.places, b / hundred, _shifted(answer.places, 2), tolerance)


def _shifted(places: int | None, by: int) -> int | None:
    return None if places is None else places + by


def close(gold: Any, gold_places: int | None, answer: Any, answer_places: int | None, tolerance: Tolerance) -> bool:
    """Whether two numbers are equal, or one is the other written as a decimal.

    Args:
        gold: a Fraction or mpmath number.
        gold_places: digits after the decimal point where it was written as a decimal.
        answer: a Fraction or mpmath number.
        answer_places: digits after the decimal point where it was written as a decimal.
        tolerance: of roundings.
    """
    irrational = not isinstance(gold, Fraction)
    if not irrational and isinstance(answer, Fraction):
        if gold == answer:
            return True
    else:
        gold, answer = to_mp(gold), to_mp(answer)
        if _is_infinite(gold) or _is_infinite(answer):
            return bool(gold == answer)
        if agree(gold, answer, EQUAL_DIGITS + digits_before_point(gold)):
            return True
        if gold.imag or answer.imag:
            return False
    if (gold_places is None and answer_places is None) or not gold or not answer:
        return False
    difference = abs(gold - answer) / abs(gold)
    if (
        gold_places != answer_places
        and max(gold_places or 0, answer_places or 0) >= 12
        and difference <= tolerance.noise
    ):
        return True
    if gold_places is None or (answer_places is not None and answer_places < gold_places):
        return _is_rounded(answer, answer_places or 0, gold, gold_places is None, irrational, difference, tolerance)
    return _is_rounded(gold, gold_places, answer, answer_places is None, False, difference, tolerance)


def _is_rounded(
    rough: Any, places: int, exact: Any, may_be_cut: bool, irrational: bool, difference: Any, tolerance: Tolerance
) -> bool:
    """Whether ``rough`` is ``exact`` to ``places`` digits after the point, and those are enough digits."""
    limit = min(tolerance.relative, tolerance.relative_to_irrational) if irrational else tolerance.relative
    if difference > limit * 1.0001:
        return False
    scale = Fraction(10) ** places
    if isinstance(rough, Fraction) and isinstance(exact, Fraction):
        digits, target = rough * scale, exact * scale
    else:
        digits, target = to_mp(rough) * to_mp(scale), to_mp(exact) * to_mp(scale)
    if abs(digits) < (10**5 if irrational else 10**3):
        return False
    return bool(abs(digits - target) * 2 <= 1 or (may_be_cut and int(digits) == int(target)))


def _is_infinite(value: Any) -> bool:
    return bool(mpmath.isinf(value))


def digits_before_point(value: Any) -> int:
    """Decimal digits of the whole part of an mpmath number."""
    return max(0, int(mpmath.log10(abs(value)))) if value else 0


def agree(a: Any, b: Any, digits: int = EQUAL_DIGITS) -> bool:
    """Whether two mpmath numbers agree in their leading ``digits`` decimal digits.

    Args:
        a: one of them.
        b: the other.
        digits: that must agree.
    """
    if mpmath.isnan(a) or mpmath.isnan(b):
        return False
    size = max(abs(a), abs(b))
    return bool(abs(a - b) <= mpmath.mpf(10) ** -digits * size)
