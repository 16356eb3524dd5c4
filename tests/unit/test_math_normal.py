"""The normal form by which repeated answers are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_multiattempt.math_verifier import MathVerifier
from verl_multiattempt.math_verifier.decide import MAX_QUICK_CHARS, normal_answer, published_gold
from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Outcome, Question

CASES_FILE = Path(__file__).resolve().parents[1] / "verifier_cases.jsonl"


def cases() -> list[tuple[str, str, str]]:
    """Answer, gold and verdict of the verifier's cases with one gold."""
    read: list[dict[str, Any]] = [json.loads(line) for line in CASES_FILE.read_text(encoding="utf-8").splitlines()]
    return [
        (case["answer"], published_gold(case["gold"]), case["verdict"])
        for case in read
        if "answer" in case and not isinstance(case["gold"], list)
    ]


def test_equal_forms_are_equal_answers_in_every_case_of_the_verifier() -> None:
    alike = [case for case in cases() if normal_answer(case[0]) == normal_answer(case[1])]
    assert [case for case in alike if case[2] != "CORRECT"] == []
    written_otherwise = [case for case in alike if case[0] != case[1]]
    assert len(written_otherwise) > 500  # and that is no empty promise


@pytest.mark.parametrize(
    ("first", "second", "form"),
    [
        ("0.5", r"\frac12", "1/2"),
        ("1{,}450", "1450.0", "1450"),
        (r"50\%", "0.5", "1/2"),
        (r"\{2, 1\}", "1,2", "{1,2}"),
        ("1, 2, 3", "2, 3 and 1", "{1,2,3}"),
        (r"\dfrac{x}{2}", r"\frac{ x }{2}", r"\frac x2"),
        (r"\text{Blue}", "blue", "blue"),
        (r"\text{(C)}", "C", "C"),
        (r"(1, \frac42)", "(1,2)", "(1,2)"),
        (r"5\text{ cm}", r"5.0 \mathrm{cm}", "5 centimeter"),
        ("x=5", r"x = \frac{10}{2}", "x=5"),
        (r"\begin{pmatrix} 1 & 0.5 \\ 0 & 1 \end{pmatrix}", r"\begin{bmatrix}1&\frac12\\0&1\end{bmatrix}",
         "[1,1/2;0,1]"),
    ],
)  # fmt: skip
def test_notations_of_one_value_have_one_form(first: str, second: str, form: str) -> None:
    assert (normal_answer(first), normal_answer(second)) == (form, form)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("5", "-5"),
        ("(1,2)", "(2,1)"),
        ("(1,2)", "[1,2]"),
        (r"5\text{ cm}", r"5\text{ m}"),
        ("0.333", r"\frac13"),
        ("y = 5", "x = 5"),
        ("11_2", "11_3"),
        (r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        ("(1,2)\\cup(3,4)", "(1,2)"),
    ],
)
def test_other_answers_have_other_forms(first: str, second: str) -> None:
    assert normal_answer(first) != normal_answer(second)


def test_a_union_has_no_order() -> None:
    assert normal_answer("(3,4)\\cup(1,2)") == normal_answer("(1,2)\\cup(3,4)")


@pytest.mark.parametrize(
    "text", ["1" * (MAX_QUICK_CHARS + 1), "(" * 60 + "1" + ")" * 60, "(1,,2)"], ids=["long", "deep", "empty item"]
)
def test_what_is_not_quickly_read_has_none(text: str) -> None:
    assert normal_answer(text) is None


def test_a_huge_number_is_not_written_out() -> None:
    assert normal_answer("2^{3000} \\times 2^{3000}") == "2^3000\\cdot 2^3000"


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="0123456789xyi+-*/^=<>(){}[],.;:%_ \\|&$abcfrqtpm", max_size=60))
def test_any_text_has_a_form_or_none(text: str) -> None:
    form = normal_answer(text)
    assert form is None or isinstance(form, str)
    assert normal_answer(text) == form


@pytest.mark.asyncio
async def test_the_verifier_fills_it_in() -> None:
    verifier = MathVerifier(VerifierSettings(num_workers=1))
    try:
        question = Question(ground_truth="7")
        right = await verifier.verify("\\boxed{7.0}", question)
        wrong = await verifier.verify("\\boxed{\\frac{1}{2}}", question)
        again = await verifier.verify("so \\boxed{0.5}", question)
        none = await verifier.verify("7", question)
    finally:
        await verifier.close()
    assert [(v.outcome, v.answer, v.normal_answer) for v in (right, wrong, again, none)] == [
        (Outcome.CORRECT, "7.0", "7"),
        (Outcome.INCORRECT, "\\frac{1}{2}", "1/2"),
        (Outcome.INCORRECT, "0.5", "1/2"),
        (Outcome.NO_ANSWER, None, None),
    ]
    assert wrong.same_answer(again)
    assert not wrong.same_answer(right)
    assert not none.same_answer(none)
