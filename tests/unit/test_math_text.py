"""Spelling variants become one; what changes the meaning stays."""

import pytest

from verl_multiattempt.math_verifier.text import CURRENCY, MAX_TOKENS, Unreadable, normalise, tokenise


def values(text: str) -> list[str]:
    return [token.value for token in tokenise(normalise(text))]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        (r"$\left( 3, 4 \right)$", "(3,4)"),
        (r"\(x\)", "x"),
        (r"\[ x \]", "x"),
        (r"10,\!080", "10080"),
        (r"1{,}234", "1234"),
        (r"1\,234", "1234"),
        ("1 000 000", "1000000"),
        ("\N{MINUS SIGN}5", "-5"),
        ("x\N{SUPERSCRIPT TWO}", "x^{2}"),
        ("\N{FULLWIDTH DIGIT SIX}", "6"),
        ("2\N{MULTIPLICATION SIGN}3", r"2 \times 3"),
        ("sin(x)", r"\sin(x)"),
        ("x**2", "x^2"),
        (r"x \le 3", "x <= 3"),
        (r"\\frac{1}{2}", r"\frac{1}{2}"),
        ("5\u200b", "5"),
        ("**5**", "5"),
        ("{{5}}", "5"),
        ("5.", "5"),
        (r"0.\overline{3}", "0.333..."),
        (r"0.\overline{3}", "0.(3)"),
        (r"\text{ sin } x", r"\sin x"),
    ],
)
def test_one_meaning_gives_one_list_of_tokens(first: str, second: str) -> None:
    assert values(first) == values(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [("1 1/2", "11/2"), ("12,34", "1234"), ("x^2", "x2"), (r"1\\2", "12"), ("0.33", "0.333..."), ("-5", "5")],
)
def test_what_changes_the_meaning_stays(first: str, second: str) -> None:
    assert tokenise(normalise(first)) != tokenise(normalise(second))


def test_text_is_one_token_with_its_words() -> None:
    (token,) = tokenise(normalise(r"\text{ two  apples }"))
    assert (token.kind, token.value) == ("text", "two apples")


def test_a_product_of_letters_is_not_text_and_a_long_word_is() -> None:
    assert [token.kind for token in tokenise(normalise("xyz"))] == ["letter"] * 3
    assert [token.kind for token in tokenise(normalise("parabola"))] == ["text"]


def test_a_single_dollar_sign_is_currency_and_a_pair_is_layout() -> None:
    assert values("$5") == [CURRENCY, "5"]
    assert values("$5$") == ["5"]


def test_braces_are_peeled_in_linear_time() -> None:
    depth = 200_000
    assert normalise("{" * depth + "5" + "}" * depth) == "5"


def test_a_text_that_is_too_long_is_unreadable() -> None:
    with pytest.raises(Unreadable, match="too long"):
        tokenise("+" * (MAX_TOKENS + 1))
