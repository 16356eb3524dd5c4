"""How an attempt's end is found: stop tokens, and the answer that completes it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tokenizers import make_tokenizer
from verl_multiattempt.answer import extract_answer
from verl_multiattempt.chat.attempt_generator import _AnswerSearch, _until_stop
from verl_multiattempt.chat.scaffold import resolve_scaffold

TOKENIZER = make_tokenizer()
SCAFFOLD = resolve_scaffold(TOKENIZER, sample_feedback="wrong")
PIECES = ("\\boxed{", "\\boxed{}", "\\boxed", "\\", "{", "}", "\\}", "\\\\", " ", "\n", "4", "so \\boxed{41}", "\u00e9",
          "\U0001f600", "\\boxed{ \\boxed{ } ", "\\boxed" + 40 * "\n ", "\\frac{1}{2}")  # fmt: skip


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


@settings(max_examples=400, deadline=None)
@given(
    before=st.lists(st.sampled_from(PIECES[1:]), max_size=30),
    pieces=st.lists(st.sampled_from(PIECES), max_size=12),
    slices=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    spell=st.booleans(),
)
def test_answer_ends_at_the_same_token_however_it_is_sliced(
    before: list[str], pieces: list[str], slices: list[int], spell: bool
) -> None:
    text = "".join(before + pieces)
    ids = [token for sign in text for token in encode(sign)] if spell else encode(text)
    slow = (n for n in range(len(ids) + 1) if extract_answer(SCAFFOLD.attempt_text(ids[:n])) is not None)
    expected, found, seen = next(slow, None), None, 0
    search = _AnswerSearch(SCAFFOLD.attempt_text)
    while seen < len(ids) and found is None:
        seen += slices[seen % len(slices)]
        found = search.end(ids[:seen])
    assert found == expected


@pytest.mark.parametrize("start", ["", "put it in \\boxed{}: "])
def test_search_for_the_answer_reads_each_slice_once(start: str) -> None:
    read = 0

    def text(ids: Sequence[int]) -> str:
        nonlocal read
        read += len(ids)
        return SCAFFOLD.attempt_text(ids)

    ids = encode(start + "then \\frac{1}{2} " * 400 + "\\boxed{7}")
    search = _AnswerSearch(text)
    assert [search.end(ids[:n]) for n in range(64, len(ids) + 64, 64)][-1] == len(ids)
    assert len(ids) > 4000
    assert read < 2 * len(ids)


@given(st.lists(st.integers(0, 9)), st.frozensets(st.integers(0, 9), max_size=3))
def test_ids_end_with_the_first_stop_token(ids: list[int], stop_ids: frozenset[int]) -> None:
    expected = []
    for token in ids:
        expected.append(token)
        if token in stop_ids:
            break
    assert _until_stop(ids, stop_ids) == expected


@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=12))
def test_text_of_any_tokens_is_that_without_stop_tokens(ids: list[int]) -> None:
    plain = [token for token in ids if token not in SCAFFOLD.end_ids | SCAFFOLD.control_ids]
    assert SCAFFOLD.attempt_text(ids) == TOKENIZER.decode(plain, skip_special_tokens=True)
