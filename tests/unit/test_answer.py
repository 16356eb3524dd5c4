from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_multiattempt.answer import boxed_spans, extract_answer

# Pieces out of which hostile texts are made: everything the extraction looks at, and what is near it.
PIECES = ["\\boxed", "\\boxed{", "\\boxed {", "{", "}", "\\{", "\\}", "\\", "\\\\", " ", "\n", "1", "boxed{", "é"]
hostile = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is \\boxed{42}.", "42"),
        ("\\boxed{ 42\n}", "42"),
        ("\\boxed {42}", "42"),
        ("\\boxed\n{42}", "42"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{1} or rather \\boxed{2}", "2"),
        ("\\boxed{1} and \\boxed{2", "1"),
        ("\\boxed{1} and \\boxed{}", "1"),
        ("\\boxed{1} and \\boxed{ }", "1"),
        ("\\boxed{\\boxed{3}}", "\\boxed{3}"),
        ("\\boxed{ unclosed \\boxed{3}", "3"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{\\{1}", "\\{1"),
        ("\\boxed{1\\}}", "1\\}"),
        ("\\boxed{a\\\\}", "a\\\\"),
        ("\\\\boxed{4}", "4"),
        ("}}} \\boxed{4}", "4"),
        ("{{{ \\boxed{4}", "4"),
        ("\\boxed{4}}}}", "4"),
        ("$$\\boxed{\\text{no solution}}$$", "\\text{no solution}"),
        ("\\boxed{π ≈ 3.14 🙂}", "π ≈ 3.14 🙂"),
        ("\\boxed{\x00}", "\x00"),
    ],
)
def test_last_complete_box_is_the_answer(text: str, answer: str) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42",
        "\\boxed",
        "\\boxed{",
        "\\boxed{}",
        "\\boxed{ \t\n}",
        "\\boxed{42",
        "\\boxed{{42}",
        "\\boxed{42\\}",
        "boxed{42}",
        "\\boxed 42",
        "\\boxed\\{42\\}",
        "\\boxed[42]",
        "\\Boxed{42}",
        "\\fbox{42}",
        "}\\boxed{",
    ],
)
def test_text_without_a_complete_box_has_no_answer(text: str) -> None:
    assert extract_answer(text) is None


def test_spans_are_those_of_the_contents() -> None:
    text = "\\boxed{ 1 } x \\boxed{} \\boxed{\\boxed{2}}"
    assert [text[start:end] for start, end in boxed_spans(text)] == [" 1 ", "", "\\boxed{2}"]


def oracle(text: str) -> str | None:
    """The definition word by word, and as slow as that: walk from each box to the brace that closes it."""
    answer, position = None, 0
    while position < len(text):
        rest = text[position:]
        if not rest.startswith("\\boxed") or not rest[len("\\boxed") :].lstrip().startswith("{"):
            position += 1
            continue
        start = position + rest.index("{") + 1
        depth, end = 1, start
        while end < len(text) and depth:
            if text[end] == "\\":
                end += 2
                continue
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if depth or end > len(text):
            position = start
            continue
        answer = text[start : end - 1].strip() or answer
        position = end
    return answer


@given(hostile)
def test_agrees_with_the_slow_definition_on_hostile_text(text: str) -> None:
    assert extract_answer(text) == oracle(text)


@given(st.text())
def test_never_raises_and_never_invents(text: str) -> None:
    answer = extract_answer(text)
    assert answer is None or (answer in text and answer == answer.strip() != "")


@given(hostile, hostile)
def test_further_text_never_takes_an_answer_away(text: str, further: str) -> None:
    # stop_at_answer relies on this: it looks for the first token with which there is an answer.
    if extract_answer(text) is not None:
        assert extract_answer(text + further) is not None


@given(st.text().filter(lambda text: "\\boxed" not in text), st.text("x+-*/^_ ()1234567890", min_size=1).map(str.strip))
def test_box_is_found_whatever_stands_before_it(before: str, content: str) -> None:
    assert extract_answer(f"{before}\\boxed{{{content}}}") == (content or None)


DEPTH = 10_000


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{" * DEPTH + "7" + "}" * DEPTH, "\\boxed{" * (DEPTH - 1) + "7" + "}" * (DEPTH - 1)),
        ("\\boxed{" + "{" * DEPTH + "7" + "}" * DEPTH + "}", "{" * DEPTH + "7" + "}" * DEPTH),
        ("\\boxed{" * DEPTH + "7}", "7"),
        ("\\boxed{" + "{" * DEPTH, None),
        ("\\boxed{" * DEPTH, None),
        ("\\boxed" * DEPTH, None),
        ("\\boxed" + " " * DEPTH, None),
        ("\\boxed{7}" + "\\" * DEPTH, "7"),
        ("}" * DEPTH + "\\boxed{7}", "7"),
        ("\\boxed{}" * DEPTH, None),
    ],
    ids=["boxes in boxes", "braces in a box", "one closes", "no brace closes", "no box closes", "no brace at all",
         "blanks for ever", "backslashes after", "closing braces before", "empty boxes"],
)  # fmt: skip
def test_nesting_10_000_deep(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


@pytest.mark.parametrize("piece", ["\\boxed{", "\\boxed ", "\\boxed{{", "\\boxed{}", "{", "\\", "\\boxed{1}"])
def test_time_is_linear(piece: str) -> None:
    # A million characters take about a second; were it quadratic they would take hours.
    text = piece * (1_000_000 // len(piece))
    started = time.perf_counter()
    extract_answer(text)
    assert time.perf_counter() - started < 60
