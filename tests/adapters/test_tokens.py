from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_multiattempt.chat.tokens import TokenStream


def stream(capacity: int = 10) -> TokenStream:
    return TokenStream(prompt_ids=[1, 2], capacity=capacity)


def test_sampled_and_context_tokens_grow_side_by_side() -> None:
    tokens = stream()
    tokens.add_sampled([5, 6], [-0.5, -0.25])
    tokens.add_context([7])
    tokens.add_sampled([8], [-1.0])
    assert tokens.response_ids == [5, 6, 7, 8]
    assert tokens.response_mask == [1, 1, 0, 1]
    assert tokens.response_logprobs == [-0.5, -0.25, 0.0, -1.0]
    assert tokens.all_ids == [1, 2, 5, 6, 7, 8]
    assert tokens.last_id == 8
    assert tokens.room == 6


def test_empty_stream() -> None:
    tokens = stream()
    assert tokens.last_id is None
    assert tokens.room == 10
    tokens.drop_trailing_context()
    assert tokens.response_ids == []


def test_all_ids_is_a_list_of_its_own() -> None:
    tokens = stream()
    tokens.all_ids.append(9)
    assert tokens.all_ids == [1, 2]


def test_exactly_full_is_allowed_and_one_more_is_not() -> None:
    tokens = stream(capacity=3)
    tokens.add_sampled([5, 6], [0.0, 0.0])
    tokens.add_context([7])
    assert tokens.room == 0
    with pytest.raises(ValueError, match=r"^ids must fit into the 0 tokens left; got 1$"):
        tokens.add_context([8])
    assert (tokens.response_ids, tokens.response_mask) == ([5, 6, 7], [1, 1, 0])


def test_tokens_that_do_not_fit_change_nothing() -> None:
    tokens = stream(capacity=3)
    with pytest.raises(ValueError, match=r"^ids must fit into the 3 tokens left; got 4$"):
        tokens.add_sampled([5, 6, 7, 8], [0.0] * 4)
    assert (tokens.response_ids, tokens.response_mask, tokens.response_logprobs) == ([], [], [])


@pytest.mark.parametrize("logprobs", [[], [-1.0], [-1.0, -1.0, -1.0]])
def test_log_probabilities_of_another_number_are_refused(logprobs: list[float]) -> None:
    tokens = stream()
    with pytest.raises(ValueError, match="logprobs") as caught:
        tokens.add_sampled([5, 6], logprobs)
    assert str(caught.value) == (f"logprobs must be as many as the sampled tokens (2); got {len(logprobs)}")
    assert tokens.response_ids == []


def test_engine_without_log_probabilities_leaves_none_at_all() -> None:
    tokens = stream()
    tokens.add_sampled([5], None)
    tokens.add_context([6])
    tokens.add_sampled([7], None)
    assert tokens.response_logprobs is None
    assert tokens.response_mask == [1, 0, 1]
    tokens.drop_after(1)
    assert tokens.response_ids == [5]


@pytest.mark.parametrize(("first", "second"), [([-1.0], None), (None, [-1.0])])
def test_log_probabilities_come_always_or_never(first: list[float] | None, second: list[float] | None) -> None:
    tokens = stream()
    tokens.add_sampled([5], first)
    with pytest.raises(ValueError, match=r"^log-probabilities must come with every generation or with none"):
        tokens.add_sampled([6], second)
    assert tokens.response_ids == [5]


def test_empty_generation_decides_nothing_about_log_probabilities() -> None:
    tokens = stream()
    tokens.add_sampled([], None)
    tokens.add_context([4])
    tokens.add_sampled([5], [-1.0])
    tokens.add_sampled([], None)
    assert tokens.response_logprobs == [0.0, -1.0]


def test_dropping_cuts_all_three_lists() -> None:
    tokens = stream()
    tokens.add_sampled([5, 6, 7], [-1.0, -2.0, -3.0])
    tokens.drop_after(2)
    assert (tokens.response_ids, tokens.response_mask, tokens.response_logprobs) == ([5, 6], [1, 1], [-1.0, -2.0])
    tokens.drop_after(9)
    assert tokens.response_ids == [5, 6]


def test_only_context_at_the_end_is_dropped() -> None:
    tokens = stream()
    tokens.add_context([4])
    tokens.add_sampled([5], [-1.0])
    tokens.add_context([6, 7])
    tokens.drop_trailing_context()
    assert (tokens.response_ids, tokens.response_mask, tokens.response_logprobs) == ([4, 5], [0, 1], [0.0, -1.0])


def test_context_alone_is_dropped_whole() -> None:
    tokens = stream()
    tokens.add_context([4, 5])
    tokens.drop_trailing_context()
    assert tokens.response_ids == tokens.response_mask == tokens.response_logprobs == []


pieces = st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 99), max_size=5)), max_size=8)


@given(pieces, st.booleans(), st.integers(0, 40), st.none() | st.integers(0, 40))
def test_lists_stay_of_one_length_and_the_last_token_is_sampled(
    added: list[tuple[bool, list[int]]], with_logprobs: bool, capacity: int, cut: int | None
) -> None:
    tokens, number = stream(capacity), 0
    expected: list[tuple[int, int, float]] = []
    for sampled, ids in added:
        if len(ids) > tokens.room:
            continue
        if sampled:
            logprobs = [-float(number + i + 1) for i in range(len(ids))]
            tokens.add_sampled(ids, logprobs if with_logprobs else None)
            expected += [(token, 1, logprob) for token, logprob in zip(ids, logprobs, strict=True)]
        else:
            tokens.add_context(ids)
            expected += [(token, 0, 0.0) for token in ids]
        number += len(ids)
    if cut is not None:
        tokens.drop_after(cut)
        expected = expected[:cut]
    tokens.drop_trailing_context()
    while expected and not expected[-1][1]:
        expected.pop()
    assert tokens.response_ids == [token for token, _, _ in expected]
    assert tokens.response_mask == [mask for _, mask, _ in expected]
    assert len(tokens.response_ids) <= capacity
    if tokens.response_logprobs is not None:
        sampled_any = any(sampled and ids for sampled, ids in added)
        assert tokens.response_logprobs == [
            logprob if with_logprobs or not sampled_any else 0.0 for _, _, logprob in expected
        ]


# Segments.


def kinds(tokens: TokenStream) -> list[tuple[str, tuple[int, ...]]]:
    return [(segment.kind, segment.ids) for segment in tokens.segments()]


def test_segments_are_cut_where_the_kind_changes() -> None:
    tokens = stream(capacity=20)
    tokens.add_sampled([5], [0.0])
    tokens.add_sampled([6], [0.0])  # the next slice of the same attempt
    tokens.add_context([7], "inserted")
    tokens.add_context([8, 9])
    tokens.add_sampled([10], [0.0])
    assert kinds(tokens) == [
        ("prompt", (1, 2)), ("model", (5, 6)), ("inserted", (7,)), ("feedback", (8, 9)), ("model", (10,)),
    ]  # fmt: skip


def test_segments_of_an_empty_response() -> None:
    assert kinds(stream()) == [("prompt", (1, 2))]


def test_empty_parts_make_no_segments() -> None:
    tokens = stream()
    tokens.add_context([], "inserted")
    tokens.add_context([8])
    tokens.add_sampled([], [])
    assert kinds(tokens) == [("prompt", (1, 2)), ("feedback", (8,))]


@given(
    st.lists(st.tuples(st.sampled_from(["model", "inserted", "feedback"]), st.lists(st.integers(), max_size=4))),
    st.integers(0, 30),
)
def test_segments_cover_the_sequence_and_agree_with_the_mask(parts: list[tuple[str, list[int]]], cut: int) -> None:
    tokens = stream(capacity=1000)
    for kind, ids in parts:
        if kind == "model":
            tokens.add_sampled(ids, [-1.0] * len(ids))
        else:
            tokens.add_context(ids, kind)
    tokens.drop_after(cut)
    prompt, *rest = tokens.segments()
    assert [token for segment in rest for token in segment.ids] == tokens.response_ids
    assert [int(segment.kind == "model") for segment in rest for _ in segment.ids] == tokens.response_mask
    assert all(segment.ids for segment in rest)
    assert all(a.kind != b.kind for a, b in itertools.pairwise(rest))
    assert prompt.ids == (1, 2)
