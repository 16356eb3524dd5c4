"""Expressions are read as mathematicians mean them, and their values are right."""

from fractions import Fraction

import mpmath
import pytest

from verl_multiattempt.math_verifier.expression import MAX_DEPTH, Parsed, parse
from verl_multiattempt.math_verifier.text import Unreadable, normalise, tokenise
from verl_multiattempt.math_verifier.values import (
    DIGITS,
    Readings,
    Undefined,
    evaluate,
    exact_value,
    settled_value,
    to_mp,
)


def read(text: str, **options: bool) -> Parsed:
    return parse(tokenise(normalise(text)), **options)


def value(text: str, **symbols: float) -> complex:
    result = evaluate(read(text).node, {name: mpmath.mpf(number) for name, number in symbols.items()}, Readings())
    return complex(to_mp(result))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\frac12", Fraction(1, 2)),
        (r"\frac{270}7", Fraction(270, 7)),
        (r"2\frac{1}{3}", Fraction(7, 3)),
        (r"-2\frac{1}{3}", Fraction(-7, 3)),
        (r"2\frac{4}{3}", Fraction(8, 3)),  # no proper fraction, so a product
        ("-2^2", Fraction(-4)),
        ("(-2)^2", Fraction(4)),
        ("2^{3^2}", Fraction(512)),
        ("2^10", Fraction(1024)),
        ("10^-3", Fraction(1, 1000)),
        ("2^6 3^5", Fraction(64 * 243)),
        (r"1.5 \times 10^3", Fraction(1500)),
        ("6/2*3", Fraction(9)),
        (r"0.1\overline{6}", Fraction(1, 6)),
        ("{4 \\over 3}", Fraction(4, 3)),
    ],
)
def test_rational_expressions_have_exact_values(text: str, expected: Fraction) -> None:
    node = read(text).node
    assert exact_value(node) == expected
    assert evaluate(node, {}, Readings()) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\sqrt2", 2**0.5),
        (r"\sqrt12", 12**0.5),
        (r"\sqrt[3]{-8}", -2),
        (r"\sin 30^\circ", 0.5),
        (r"\sin^2 1 + \cos^2 1", 1),
        (r"\sin^{-1} 1", 1.5707963267948966),
        (r"\log_2 8", 3),
        (r"\log 100", 2),
        (r"\ln e", 1),
        (r"|{-3}|+|2|", 5),
        ("5!", 120),
        ("5!!", 15),
        (r"\binom{5}{2}", 10),
        ("{5 \\choose 2}", 10),
        (r"\lfloor -2.5 \rfloor", -3),
        (r"\lceil 2.1 \rceil", 3),
        (r"\max(2, 3)", 3),
        (r"\gcd(12, 18)", 6),
        (r"\operatorname{lcm}(4, 6)", 12),
        (r"e^{i\pi}", -1),
        ("i^2", -1),
        (r"7 \bmod 3", 1),
        ("50%", 0.5),
    ],
)
def test_values_of_functions(text: str, expected: float) -> None:
    assert value(text) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\sin 2x", 0.9092974268256817),
        (r"\sin x \cos x", 0.45464871341284085),
        (r"\cos x\, e^x", 1.4686939399158851),
        ("2x(x+1)", 4),
        ("x_1 + x1", 4),
        (r"\ln|x|", 0),
        ("(x+1)2", 4),
    ],
)
def test_implicit_products_and_arguments_of_functions(text: str, expected: float) -> None:
    assert value(text, x=1, x_1=2) == pytest.approx(expected)


def test_a_division_before_a_product_has_two_readings() -> None:
    assert read("1/2x").has_ambiguous_division
    assert evaluate(read("1/2x").node, {"x": Fraction(4)}, Readings()) == 2
    assert evaluate(read("1/2x", tight_division=True).node, {"x": Fraction(4)}, Readings()) == Fraction(1, 8)
    assert not read("1/(2x)").has_ambiguous_division


@pytest.mark.parametrize(
    "text",
    [
        "",
        "+",
        "(1",
        "1)",
        "12 34",
        r"\int_0^1 x dx",
        r"\frac{d}{dx} x",
        r"\unknown{x}",
        "x=",
        "1_2",
        "2 +",
        r"\frac{1}",
        "_",
    ],
)
def test_what_is_no_expression_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        read(text)


@pytest.mark.parametrize("opening", ["(", "-", "|", r"\sqrt{", "2^{", r"\frac{1}{", r"\sin("])
def test_nesting_beyond_the_limit_is_unreadable_and_no_recursion_error(opening: str) -> None:
    with pytest.raises(Unreadable):
        parse(tokenise(opening * (20 * MAX_DEPTH) + "1"))


@pytest.mark.parametrize(
    "text",
    [r"\frac{0}{0}", r"\frac10", r"\log 0", "0^0", "9^{9^{9^{9}}}", "(10^{20})!", r"\sin 10^{50}", r"\tan(10^{99})"],
)
def test_what_has_no_value_or_a_huge_one_is_undefined(text: str) -> None:
    with pytest.raises(Undefined):
        evaluate(read(text).node, {}, Readings())


def test_what_a_cancellation_leaves_is_zero_and_a_tiny_number_is_itself() -> None:
    assert settled_value(read(r"\sqrt{2}+\sqrt{3}-\sqrt{5+2\sqrt{6}}").node, {}, Readings()) == 0
    tiny = settled_value(read("e^{-1000}").node, {}, Readings())
    assert tiny > 0
    assert tiny < mpmath.mpf(10) ** -DIGITS


def test_an_unknown_function_tells_its_arguments_apart() -> None:
    assert value("f(2)") == value("f(1+1)")
    assert value("f(2)") != pytest.approx(value("f(3)"))
    assert value("f(2)") != pytest.approx(value("g(2)"))
