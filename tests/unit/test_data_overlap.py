r"""Questions that are the same in other spelling, or nearly the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from verl_multiattempt.data.overlap import Match, QuestionIndex, ngrams_of, normal_text, tokens_of, words_of

QUESTION = (
    r"Let $f(x) = \dfrac{x^{2} + 1}{2}$. If $x \leq 1{,}000$, what's the largest value of $f(x)$, in $\text{cm}$?"
)


def normal(text: str) -> str:
    return normal_text(tokens_of(text))


@pytest.mark.parametrize(
    "variant",
    [
        QUESTION,
        QUESTION.upper().replace(r"\DFRAC", r"\dfrac").replace(r"\LEQ", r"\leq").replace(r"\TEXT", r"\text"),
        QUESTION.replace(" ", "\n  "),
        QUESTION.replace(r"\dfrac", r"\frac"),
        QUESTION.replace(r"\dfrac{x^{2} + 1}{2}", r"\displaystyle\tfrac{x^2+1}{2}"),
        QUESTION.replace("$", ""),
        QUESTION.replace("$f(x) =", r"\(f\left(x\right)\, =").replace("{2}$.", r"{2}\)."),
        QUESTION.replace(r"\leq", r"\le "),
        QUESTION.replace("what's", "what\u2019s"),
        QUESTION.replace(r"\text{cm}", r"\mathrm{cm}"),
        QUESTION.replace(r"\text{cm}", "cm"),
        QUESTION.rstrip("?") + ".",
    ],
)
def test_spacing_case_and_latex_spelling_do_not_matter(variant: str) -> None:
    variant = variant.replace("1{,}000", "1,000")
    assert normal(variant) == normal(QUESTION.replace("1{,}000", "1,000"))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("$x + 1$", "$x - 1$"),
        ("$x^2$", "$x^3$"),
        ("$12$", "$1 2$"),
        (r"$\frac{1}{23}$", r"$\frac{12}{3}$"),
        (r"$\sqrt{x} + 1$", r"$\sqrt{x + 1}$"),
        ("$2(x+1)$", "$2x+1$"),
        ("$f(x)$", "$f'(x)$"),
        ("$x < 1$", "$x > 1$"),
        ("$0.5$", "$5$"),
        (r"\{1\}", "(1)"),
        ("$3!$", "$3$ and more"),
        ("Compute $5!$.", "Compute $5$."),
        ("Compute $(n + 1)!$.", "Compute $(n + 1)$."),
        ("the ratio $a:b$", "the ratio $ab$"),
        ("the point $(1,234)$", "the number $(1234)$"),
        ("$(1,234)$", "$(1234)$"),
        ("$(a,b)$", "$(ab)$"),
        ("$10²$", "$102$"),
        ("$x₁$", "$x1$"),
        ("$1, 2, \\ldots, 9$", "$1, 2, 9$"),
        ("$.5$", "$5$"),
    ],
)
def test_other_mathematics_is_another_question(first: str, second: str) -> None:
    assert normal(first) != normal(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (r"\frac12", r"\frac{1}{2}"),
        ("$2 x$", "$2x$"),
        ("x^{10}", "x^10"),
        ("1,234,567", "1234567"),
        (r"\pi r", r"\pi  r"),
        ("1{,}000", "1000"),
        (r"a total of 1,\!000", "a total of 1000"),
        ("$x²$", "$x^2$"),
        ("$x¹⁰$", "$x^{10}$"),
        ("$(a, b)$", "$(a,b)$"),
        ("$a:b$", "$a$ : $b$"),
        (r"$1 + \cdots + 9$", "1+...+9"),
        ("$.5$", "$0.5$"),
        ("Find this: what, where?", "Find this what where"),
        ("Really! How", "Really how."),
        ("cafe\u0301", "caf\xe9"),
    ],
)
def test_small_spellings(first: str, second: str) -> None:
    assert normal(first) == normal(second)


@given(st.text(max_size=200))
@example("\\")
def test_any_text_has_a_normal_form_that_spaces_do_not_change(text: str) -> None:
    assert normal(text) == normal(f"  {text}\n")


WORDS = st.lists(
    st.sampled_from(["alpha", "beta", "gamma", "find", "the", "sum", "of", "all", "12", "345", "x", "y"]),
    min_size=30,
    max_size=60,
)


@given(words=WORDS, before=WORDS, after=WORDS)
def test_question_inside_a_longer_one_is_found(words: list[str], before: list[str], after: list[str]) -> None:
    index = QuestionIndex(n=13, share=0.5)
    index.add(" ".join(words), "e")
    match = index.find(" ".join(["Start.", *before[:10], *words, *after[:10], "End."]))
    assert match is not None
    assert match.share == 1.0


@given(words=WORDS, other=WORDS)
def test_share_is_of_the_shorter_questions_ngrams_and_found_from_both_sides(words: list[str], other: list[str]) -> None:
    first, second = ngrams_of(words, 13), ngrams_of(other, 13)
    assume(normal(" ".join(words)) != normal(" ".join(other)))
    expected = len(first & second) / min(len(first), len(second))
    for each, wanted in ((words, other), (other, words)):
        index = QuestionIndex(n=13, share=0.5)
        index.add(" ".join(each), "e")
        match = index.find(" ".join(wanted))
        assert (match.share if match else 0.0) == (expected if expected >= 0.5 else 0.0)


def test_match_is_with_the_question_that_shares_most() -> None:
    words = [f"w{i}" for i in range(40)]
    index = QuestionIndex(n=5, share=0.3)
    index.add(" ".join([*words[:20], *(f"a{i}" for i in range(20))]), "half")
    index.add(" ".join([*words[:35], *(f"b{i}" for i in range(5))]), "most")
    assert index.find(" ".join(words)) == Match(kind="ngrams", of="most", share=pytest.approx(0.836, abs=0.05))


SHORT = "What is the value of $513^2 - 487^2$?"


@pytest.mark.parametrize(
    "question",
    [f"{SHORT} Express your answer in simplest form.", f"Here is one. {SHORT}", SHORT.replace("$", "") + " Explain."],
)
def test_short_question_is_found_where_another_has_the_whole_of_it(question: str) -> None:
    index = QuestionIndex(n=13, share=0.5)
    index.add(SHORT, "short")
    assert index.find(question) == Match(kind="ngrams", of="short", share=1.0)


@pytest.mark.parametrize(
    "question",
    ["What is the value of $513^2 + 487^2$? Explain.", "What is the value of $513^2$? Express it in simplest form.",
     "What is the value of", ""],
)  # fmt: skip
def test_part_of_a_short_question_and_other_signs_are_no_overlap(question: str) -> None:
    index = QuestionIndex(n=13, share=0.5)
    index.add(SHORT, "short")
    assert index.find(question) is None


def test_question_of_fewer_than_six_words_is_found_by_its_text_alone() -> None:
    index = QuestionIndex(n=13, share=0.5)
    index.add("Compute $2 + 3$.", "short")
    assert index.find("compute $2+3$") == Match(kind="text", of="short", share=1.0)
    assert index.find("Compute $2 + 3$. Then double it.") is None


def test_empty_index_finds_nothing() -> None:
    assert QuestionIndex(n=13, share=0.5).find("anything " * 20) is None


def test_words_leave_signs_and_brackets_out() -> None:
    assert words_of(tokens_of(r"Find $\sqrt{x} + \{3\}$!")) == ["find", r"\sqrt", "x", "3"]


def test_common_endings_of_real_questions_are_no_overlap(benchmark_data: Path) -> None:
    lines = (benchmark_data / "aime24.jsonl").read_text(encoding="utf-8").splitlines()
    others = (benchmark_data / "amc23.jsonl").read_text(encoding="utf-8").splitlines()
    strict, lenient = QuestionIndex(n=13, share=0.5), QuestionIndex(n=13, share=1e-9)
    for index in (strict, lenient):
        for line in lines:
            index.add(json.loads(line)["problem"], "aime24")
    questions = [json.loads(line)["problem"] for line in others]
    assert sum(index_hit is not None for index_hit in map(strict.find, questions)) == 0
    # They share "m/n, where m and n are relatively prime positive integers": 13 words, and different questions.
    assert sum(index_hit is not None for index_hit in map(lenient.find, questions)) == 10


def test_real_short_questions_are_found_with_a_sentence_added_and_in_no_other_question(benchmark_data: Path) -> None:
    questions = {
        name: [
            (row.get("problem") or row["question"]).strip()
            for row in map(json.loads, (benchmark_data / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())
        ]
        for name in ("math500", "aime24", "amc23", "gsm8k_test")
    }
    index, short = QuestionIndex(n=13, share=0.5), []
    for question in questions["math500"]:
        if 6 <= len(words_of(tokens_of(question))) < 13:
            index.add(question, question)
            short.append(question)
    assert len(short) == 49
    for question in short:
        for copy in (f"{question} Express your answer in simplest form.", f"Solve this task. {question}"):
            match = index.find(copy)
            assert match is not None
            assert match.of == question
    others = [question for each in questions.values() for question in each if question not in short]
    assert len(others) == 500 + 30 + 40 + 1319 - 49
    assert [question for question in others if index.find(question)] == []
