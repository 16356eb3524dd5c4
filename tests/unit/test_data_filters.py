"""Levels, duplicates and samples."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_multiattempt.data.filters import draw_sample, level_filter, split_duplicates
from verl_multiattempt.data.rows import Item


def item(question: str, source_id: str = "", gold: str = "1") -> Item:
    return Item(place="f", source_id=source_id, question=question, gold=gold)


@pytest.mark.parametrize(
    ("levels", "kept"),
    [
        ("3-5", ["3", "4", "5"]),
        ("1,4-5", ["1", "4", "5"]),
        ("2", ["2"]),
        ("HARD, 1", ["1", "hard"]),
        ("all", ["1", "2", "3", "4", "5", "hard", "?", None]),
        ("10", []),
    ],
)
def test_levels_asked_for(levels: str, kept: list[str | None]) -> None:
    assert [each for each in ["1", "2", "3", "4", "5", "hard", "?", None] if level_filter(levels)(each)] == kept


@pytest.mark.parametrize("levels", ["", ",", "3-", "5-3", "1,,2"])
def test_levels_that_are_none(levels: str) -> None:
    if levels == "3-":  # a name like any other: no row will have it
        assert not level_filter(levels)("3")
        return
    with pytest.raises(ValueError, match=r"^--level must be like 3-5, 1,3-4, hard or all; got "):
        level_filter(levels)


def test_first_of_the_same_questions_is_kept_in_order() -> None:
    items = [item("What is $x+1$?", "a"), item("other", "b"), item("what is  $x + 1$", "c"), item("Other.", "d", "2")]
    kept, duplicates = split_duplicates(items)
    assert [each.source_id for each in kept] == ["a", "b"]
    assert [(each.source_id, first.source_id) for each, first in duplicates] == [("c", "a"), ("d", "b")]


@given(st.lists(st.integers(), max_size=50), st.integers(1, 60), st.integers(0, 5))
def test_sample_is_some_of_the_items_in_their_order_and_the_same_again(items: list[int], size: int, seed: int) -> None:
    numbered = list(enumerate(items))
    sample = draw_sample(numbered, size, seed)
    assert len(sample) == min(size, len(items))
    assert sample == sorted(sample)
    assert set(sample) <= set(numbered)
    assert sample == draw_sample(numbered, size, seed)


def test_sample_of_a_seed_is_pinned() -> None:
    assert draw_sample(range(100), 5, 0) == [5, 33, 49, 53, 97]
    assert draw_sample(range(100), 5, 1) != draw_sample(range(100), 5, 0)
