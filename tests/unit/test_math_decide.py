"""Roundings, golds as published, and what the exact path leaves to a worker."""

import asyncio

import pytest

from verl_multiattempt.math_verifier import MathVerifier
from verl_multiattempt.math_verifier.decide import MAX_ANSWER_CHARS, decide, decide_exactly, published_gold
from verl_multiattempt.math_verifier.rounding import Tolerance
from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Question, Verdict, verify_all


@pytest.mark.parametrize("tolerance", [-1, 0.5, True])
def test_a_tolerance_out_of_range_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match=r"relative_tolerance must be from 0 to 0\.01; got"):
        MathVerifier(VerifierSettings(), relative_tolerance=tolerance)


@pytest.mark.parametrize(
    ("answer", "gold", "default", "exact"),
    [
        ("0.3333", r"\frac{1}{3}", True, False),
        ("0.333", r"\frac{1}{3}", False, False),
        (r"\sqrt3", "1.732", True, False),
        ("3.1416", r"\pi", False, False),
        ("3.14159265", r"\pi", True, False),
        ("10001", "10000", False, False),
        ("0.30000000000000004", "0.3", True, False),
    ],
)
def test_the_tolerance_is_for_roundings(answer: str, gold: str, default: bool, exact: bool) -> None:
    assert decide(answer, gold, Tolerance()) is default
    assert decide(answer, gold, Tolerance(relative=0, noise=0)) is exact


@pytest.mark.parametrize(
    ("gold", "text"),
    [
        (r"$\boxed{1}$ and $\boxed{2}$", "1, 2"),
        (r"we saw \boxed{1} before. Now it is \boxed{2}.", "2"),
        ("a = 5\n#### 1,450", "1,450"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
    ],
)
def test_the_text_of_a_published_gold(gold: str, text: str) -> None:
    assert published_gold(gold) == text


@pytest.mark.parametrize(("answer", "gold"), [("x^2", "2x"), (r"\sqrt2", "1.4"), ("5" * 500, "5")])
def test_the_exact_path_leaves_what_it_cannot_decide(answer: str, gold: str) -> None:
    assert decide_exactly(answer, gold, Tolerance()) is None


def test_what_is_too_long_is_correct_only_as_the_same_text() -> None:
    gold = "1+" * MAX_ANSWER_CHARS + "1"
    assert decide(gold, gold, Tolerance())
    assert not decide(gold + "+0", gold, Tolerance())
    assert decide_exactly("5", gold, Tolerance()) is False


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("(10^8)!+1", "(10^8)!"),
        ("2^{2000000}+1", "2^{2000000}"),
        (r"\sqrt{10^{40}+1}", "10^{20}"),
        ("e^{100}+1", "e^{100}"),
        ("e^{-1001}", "e^{-1000}"),
        ("0", "e^{-1000}"),
        (r"\sin^{501} x \cos^{499} x", r"\sin^{500} x \cos^{500} x"),
    ],
)
def test_neighbours_of_very_large_and_very_small_values_are_told_apart(answer: str, gold: str) -> None:
    assert decide(answer, gold, Tolerance()) is False
    assert decide(gold, gold + " ", Tolerance()) is True


def test_a_second_event_loop_does_not_wait_for_turns_of_the_first() -> None:
    verifier = MathVerifier(VerifierSettings())

    async def many() -> list[Verdict]:
        question = Question(ground_truth="1")
        call = asyncio.ensure_future(verifier.verify(r"\boxed{1}", question))
        verdicts = await asyncio.wait_for(verify_all(verifier, [(r"\boxed{1}", question)] * 40), 10)
        call.cancel()
        return verdicts

    for _ in range(3):
        assert len(asyncio.run(many())) == 40
