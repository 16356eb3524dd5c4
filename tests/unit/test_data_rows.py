"""A published row read, and verl's row."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from verl_multiattempt.data.benchmarks import RECIPES, Columns
from verl_multiattempt.data.rows import Item, level_of, make_prompt, read_item, schema, to_verl_row

# One row of each recipe as it is published, and of the shapes in which the same benchmark circulates.
PUBLISHED: list[tuple[str, dict[str, Any], tuple[str, str, str, str | None, str | None]]] = [
    ("math_train", {"problem": "P", "solution": r"\boxed{5}", "answer": "5", "subject": "Algebra", "level": 5,
                    "unique_id": "train/algebra/1.json"}, ("train/algebra/1.json", "P", "5", "5", "Algebra")),
    ("math_train", {"problem": "P", "level": "Level 5", "type": "Algebra", "solution": r"so \boxed{5}"},
     ("3", "P", "5", "5", "Algebra")),
    ("math500", {"problem": "P", "solution": "S", "answer": "p - q", "subject": "Algebra", "level": 2,
                 "unique_id": "test/a/1.json"}, ("test/a/1.json", "P", "p - q", "2", "Algebra")),
    ("aime24", {"id": 60, "problem": "P", "solution": "S", "answer": "204", "url": "u", "year": "2024"},
     ("60", "P", "204", None, None)),
    ("amc23", {"id": 0, "question": "P", "answer": "27", "url": "u"}, ("0", "P", "27", None, None)),
    ("amc23", {"id": 0, "problem": "P", "answer": 27.0, "url": "u"}, ("0", "P", "27", None, None)),
    ("minerva", {"question": "P", "answer": r"4.5e33"}, ("3", "P", "4.5e33", None, None)),
    ("minerva", {"problem": "P", "solution": r"\boxed{4.5e33}", "type": "Astronomy", "idx": 7},
     ("7", "P", "4.5e33", None, "Astronomy")),
    ("olympiadbench", {"id": 1606, "subfield": "Combinatorics", "context": None, "question": "P",
                       "final_answer": ["$2^{1009}$"], "is_multiple_answer": False, "unit": None,
                       "answer_type": "Numerical", "error": None, "difficulty": "Competition"},
     ("1606", "P", "2^{1009}", None, "Combinatorics")),
    ("olympiadbench", {"id": 1, "context": "C", "question": "P", "final_answer": ["2"], "subfield": None},
     ("1", "C\n\nP", "2", None, None)),
    ("gsm8k", {"question": "P", "answer": "a <<1+1=2>>2\n#### 1,234"}, ("3", "P", "1,234", None, None)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "expected"), PUBLISHED, ids=[name for name, _, _ in PUBLISHED])
def test_row_of_a_recipe(name: str, row: dict[str, Any], expected: tuple[Any, ...]) -> None:
    item = read_item("place", 3, row, RECIPES[name].columns)
    assert (item.source_id, item.question, item.gold, item.level, item.subject) == expected


def test_every_recipe_has_a_published_row_here() -> None:
    assert {name for name, _, _ in PUBLISHED} == set(RECIPES)


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"id": "a", "problem": "P", "answer": None}, "f.jsonl, row 3 (id 'a'): answer or solution must hold the gold"),
        ({"problem": " ", "answer": 1}, "f.jsonl, row 3 (id '3'): problem must be the text of a question; got ' '"),
        ({"problem": 5, "answer": 1}, "f.jsonl, row 3 (id '3'): problem must be the text of a question; got 5"),
        (
            {"text": "P", "answer": 1},
            "f.jsonl, row 3 (id '3'): problem or question must hold the question; got the col",
        ),
        ({}, "f.jsonl, row 3 (id '3'): problem or question must hold the question; got the columns "),
        (
            {"problem": "a\ud800", "answer": 1},
            "f.jsonl, row 3 (id '3'): text must be Unicode; got a lone surrogate in ",
        ),
        (
            {"problem": "a", "answer": "\udfff"},
            "f.jsonl, row 3 (id '3'): text must be Unicode; got a lone surrogate in ",
        ),
    ],
)
def test_row_that_cannot_be_used_is_named_with_its_id(row: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=r"^f\.jsonl, row 3 ") as caught:
        read_item("f.jsonl, row 3", 3, row, Columns())
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("value", "level"),
    [(5, "5"), (5.0, "5"), ("Level 5", "5"), ("level ?", "?"), ("hard", "hard"), ("Level", "Level"), (None, None),
     ("", None), (4.5, "4.5"), (float("nan"), None), ([1], None)],
)  # fmt: skip
def test_level_as_text(value: Any, level: str | None) -> None:
    assert level_of(value) == level


def test_prompt_has_no_instruction_of_its_own() -> None:
    assert make_prompt("Q", system=None, suffix=None) == [{"role": "user", "content": "Q"}]


def test_system_message_and_suffix() -> None:
    assert make_prompt("Q", system="S", suffix="Think.") == [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "Q\nThink."},
    ]


def test_files_of_sources_with_and_without_levels_have_equal_columns() -> None:
    bare = Item(place="p", source_id="1", question="Q", gold="1")
    full = Item(place="p", source_id="2", question="Q", gold="1", level="5", subject="Algebra")
    rows = [to_verl_row(item, 0, name="n", prompt=make_prompt("Q", system=None, suffix=None)) for item in (bare, full)]
    first, second = (pa.Table.from_pylist([row], schema=schema()) for row in rows)
    assert pa.concat_tables([first, second]).to_pylist() == rows
