from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.evaluation_engine import question_row, write_questions
from verl_multiattempt.evaluation.questions import Questions, file_hash


def test_questions_come_in_the_order_of_the_files_and_are_found_by_id(tmp_path: Path) -> None:
    first = write_questions(tmp_path / "a.parquet", [question_row(i) for i in range(600)])
    second = write_questions(tmp_path / "b.parquet", [question_row(i, source="more") for i in (3, 1)])
    questions = Questions([first, second])
    rows = list(questions)
    assert len(questions) == len(rows) == 602
    assert [row.number for row in rows] == list(range(602))
    assert [row.question_id for row in rows[-3:]] == ["sums/599", "more/3", "more/1"]
    assert questions.benchmarks == ["sums", "more"]
    assert list(questions.numbers("more")) == [600, 601]
    assert all(questions.find(row.question_id) == row.number for row in rows)
    assert questions.find("sums/600") is None
    assert rows[5].prompt == [{"role": "user", "content": "What is 5 + 35?"}]
    assert (rows[5].ground_truth, rows[5].index, rows[5].extra_info) == ("40", 5, {"index": 5})


def test_limit_takes_the_first_of_each_benchmark(tmp_path: Path) -> None:
    rows = [question_row(i, source=("a", "b")[i % 2]) for i in range(10)]
    questions = Questions([write_questions(tmp_path / "q.parquet", rows)], limit=2)
    assert [row.question_id for row in questions] == ["a/0", "b/1", "a/2", "b/3"]


def test_row_without_index_is_called_by_its_prompt(tmp_path: Path) -> None:
    rows = [question_row(i, extra_info={"split": "test"}) for i in range(3)]
    questions = list(Questions([write_questions(tmp_path / "q.parquet", rows)]))
    assert [row.index for row in questions] == [None, None, None]
    assert len({row.question_id for row in questions}) == 3


BAD_ROWS: dict[str, tuple[dict[str, Any], str]] = {
    "no gold": ({"reward_model": {"ground_truth": None}}, "reward_model.ground_truth must be the answer"),
    "empty gold": ({"reward_model": {"ground_truth": ""}}, "reward_model.ground_truth must be the answer"),
    "no reward_model": ({"reward_model": None}, "reward_model.ground_truth must be the answer"),
    "empty prompt": ({"prompt": []}, "prompt must be a list of messages"),
    "no prompt": ({"prompt": None}, "prompt must be a list of messages"),
    "empty message": ({"prompt": [{"role": "user", "content": ""}]}, "prompt must be a list of messages"),
    "no role": ({"prompt": [{"role": None, "content": "q"}]}, "prompt must be a list of messages"),
    "ends with an answer": ({"prompt": [{"role": "assistant", "content": "q"}]}, "must end with a user message"),
    "no data source": ({"data_source": None}, "data_source must be the name of a benchmark"),
    "the mean's name": ({"data_source": "mean"}, "data_source must be the name of a benchmark"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_row_is_named(tmp_path: Path, case: str) -> None:
    changes, sentence = BAD_ROWS[case]
    path = write_questions(tmp_path / "q.parquet", [question_row(0), question_row(1), question_row(2, **changes)])
    with pytest.raises(ValueError, match=sentence) as caught:
        Questions([path])
    assert f"{path}, row 2: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_gold_that_is_not_a_number_is_refused(tmp_path: Path) -> None:
    rows = [question_row(i, reward_model={"ground_truth": gold}) for i, gold in enumerate((1.5, math.nan))]
    with pytest.raises(ValueError, match=r"row 1: reward_model.ground_truth must be the answer .*; got nan"):
        Questions([write_questions(tmp_path / "q.parquet", rows)])


def test_rows_beyond_the_limit_are_not_asked_and_may_lack_a_gold(tmp_path: Path) -> None:
    rows = [question_row(0), question_row(1, reward_model={"ground_truth": None})]
    assert len(Questions([write_questions(tmp_path / "q.parquet", rows)], limit=1)) == 1


@pytest.mark.parametrize("column", ["prompt", "data_source", "reward_model"])
def test_missing_column_is_named(tmp_path: Path, column: str) -> None:
    row = question_row(0)
    del row[column]
    with pytest.raises(ValueError, match=f"must have the column {column}; got .* See verl's data format"):
        Questions([write_questions(tmp_path / "q.parquet", [row])])


def test_same_question_twice_is_refused_with_both_places(tmp_path: Path) -> None:
    first = write_questions(tmp_path / "a.parquet", [question_row(i) for i in range(5)])
    second = write_questions(tmp_path / "b.parquet", [question_row(9), question_row(3)])
    with pytest.raises(ValueError, match=r"each .* once; got 'sums/3'") as caught:
        Questions([first, second])
    assert f"{first}, row 3 and in {second}, row 1" in str(caught.value)


def test_two_files_of_one_benchmark_are_one_benchmark(tmp_path: Path) -> None:
    files = [write_questions(tmp_path / f"{i}.parquet", [question_row(i)]) for i in range(2)]
    questions = Questions(files)
    assert questions.benchmarks == ["sums"]
    assert list(questions.numbers("sums")) == [0, 1]


def test_file_without_rows_is_refused(tmp_path: Path) -> None:
    schema = pa.Table.from_pylist([question_row(0)]).schema
    pq.write_table(schema.empty_table(), tmp_path / "q.parquet")
    with pytest.raises(ValueError, match="data must hold at least one question; got none in"):
        Questions([tmp_path / "q.parquet"])


@pytest.mark.parametrize("content", [b"", b"PAR1 and then no more", b'{"prompt": 1}\n'])
def test_file_that_is_no_parquet_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "q.parquet").write_bytes(content)
    with pytest.raises(ValueError, match="data must name readable parquet files; got "):
        Questions([tmp_path / "q.parquet"])


def test_hash_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b").write_bytes(b"x" * 2_999_999 + b"y")
    assert len({file_hash(tmp_path / "a"), file_hash(tmp_path / "b")}) == 2
    with pytest.raises(ValueError, match=r"got '.*missing': No such file"):
        file_hash(tmp_path / "missing")
