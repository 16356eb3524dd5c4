"""Whole preparations: the real benchmark files, planted faults and duplicates, and what a kill leaves behind."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from verl_multiattempt import __version__
from verl_multiattempt.cli_errors import UsageError
from verl_multiattempt.data import card as cards
from verl_multiattempt.data import prepare as prepare_module
from verl_multiattempt.data.benchmarks import RECIPES, Columns
from verl_multiattempt.data.gold import GoldRule
from verl_multiattempt.data.preparation import Preparation, recipe_preparation
from verl_multiattempt.data.prepare import STAGES, PreparationError, prepare, prepare_benchmark
from verl_multiattempt.data.rows import schema
from verl_multiattempt.data.sources import Source, SourceError
from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Outcome, Question, make_verifier, verify_all

Row = dict[str, Any]
REAL = {"math500": ("math500", 500), "aime24": ("aime24", 30), "amc23": ("amc23", 40), "gsm8k": ("gsm8k_test", 1319)}
"""Of each recipe the file in the data folder and its rows."""
QUESTION = (
    "How many positive whole numbers below {0} have exactly {1} divisors, if 1 and the number itself are counted?"
)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows_of(path: Path) -> list[Row]:
    return list(pyarrow.parquet.read_table(path).to_pylist())


def good(number: int, **changes: Any) -> Row:
    row = {"problem": QUESTION.format(number, number + 1), "answer": str(number), "unique_id": f"q{number}"}
    return {**row, **changes}


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., Path]:
    def write(rows: list[Row], name: str = "source.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Preparation]:
    """A preparation of files to out.parquet, without asking the verifier unless that is said."""

    def preparation(*paths: Path, **changes: Any) -> Preparation:
        source = Source(names=tuple(map(str, paths)))
        basis = {"name": "mine", "source": source, "columns": Columns(), "out": tmp_path / "out.parquet"}
        return Preparation(**{**basis, "check_golds": False, **changes})

    return preparation


# The real files.


@pytest.fixture(scope="module", params=sorted(REAL))
def real(
    request: pytest.FixtureRequest, benchmark_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path, dict[str, Any]]:
    """Name, source, prepared file and card of a real benchmark."""
    name = request.param
    file = benchmark_data / f"{REAL[name][0]}.jsonl"
    out = tmp_path_factory.mktemp("real") / f"{name}.parquet"
    return name, file, out, prepare(recipe_preparation(name, out, source=Source(names=(str(file),))))


def test_real_file_becomes_verls_rows(real: tuple[str, Path, Path, dict[str, Any]]) -> None:
    name, file, out, _ = real
    raw = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
    rows = rows_of(out)
    assert len(rows) == len(raw) == REAL[name][1] == RECIPES[name].num_rows
    for index, (row, published) in enumerate(zip(rows, raw, strict=True)):
        question = published.get("problem") or published["question"]
        assert row["prompt"] == [{"role": "user", "content": question.strip()}]
        assert row["data_source"] == name
        assert row["ability"] == "math"
        assert row["reward_model"]["style"] == "rule"
        assert row["extra_info"]["index"] == index
        own_id = published.get("unique_id", published.get("id", published.get("idx")))
        assert row["extra_info"]["source_id"] == str(own_id)
        assert row["extra_info"]["level"] == (str(published["level"]) if "level" in published else None)
        assert row["extra_info"]["subject"] == published.get("subject")
    golds = [row["reward_model"]["ground_truth"] for row in rows]
    if name == "gsm8k":
        assert golds == [published["answer"].split("#### ")[1] for published in raw]
    elif name == "amc23":
        assert golds == [f"{published['answer']:.0f}" for published in raw]
    else:
        assert golds == [published["answer"] for published in raw]


def test_card_of_a_real_file(real: tuple[str, Path, Path, dict[str, Any]]) -> None:
    name, file, out, card = real
    read = json.loads(cards.card_path(out).read_text(encoding="utf-8"))
    assert read == card == cards.read_card(out)
    assert (card["schema"], card["name"], card["version"]) == (1, name, __version__)
    assert card["source"] == {
        "kind": "files",
        "files": [{"path": str(file), "bytes": file.stat().st_size, "sha256": sha256(file)}],
    }
    assert card["output"] == {"file": out.name, "bytes": out.stat().st_size, "sha256": sha256(out)}
    rows = REAL[name][1]
    assert card["counts"] == {"read": rows, **dict.fromkeys(STAGES, 0), "written": rows}
    assert card["settings"]["check_golds"] is True
    assert card["bad_rows"] == []


def test_every_gold_of_a_real_file_is_correct_by_the_verifier(real: tuple[str, Path, Path, dict[str, Any]]) -> None:
    golds = [row["reward_model"]["ground_truth"] for row in rows_of(real[2])]

    async def verify() -> list[Outcome]:
        verifier = make_verifier(VerifierSettings())
        try:
            items = ((f"I get \\boxed{{{gold}}}.", Question(ground_truth=gold)) for gold in golds)
            return [verdict.outcome for verdict in await verify_all(verifier, items)]
        finally:
            await verifier.close()

    assert set(asyncio.run(verify())) == {Outcome.CORRECT}


def test_real_files_have_equal_columns(real: tuple[str, Path, Path, dict[str, Any]]) -> None:
    assert pyarrow.parquet.read_schema(real[2]).equals(schema())


def test_same_input_gives_the_same_bytes(real: tuple[str, Path, Path, dict[str, Any]], tmp_path: Path) -> None:
    name, file, out, _ = real
    again = tmp_path / out.name
    prepare(recipe_preparation(name, again, source=Source(names=(str(file),))))
    assert again.read_bytes() == out.read_bytes()
    assert cards.card_path(again).read_bytes() == cards.card_path(out).read_bytes()


# Duplicates and contamination.


def test_planted_copies_of_real_questions_are_found_and_nothing_else(
    benchmark_data: Path, make: Callable[..., Preparation], jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    math500 = [json.loads(line) for line in (benchmark_data / "math500.jsonl").read_text().splitlines()]
    aime = [json.loads(line)["problem"] for line in (benchmark_data / "aime24.jsonl").read_text().splitlines()]
    prepared = tmp_path / "math500.parquet"
    source = Source(names=(str(benchmark_data / "math500.jsonl"),))
    prepare(recipe_preparation("math500", prepared, source=source, suffix="Think.", check_golds=False))
    one, two, three, four = (math500[number]["problem"] for number in (5, 40, 100, 390))
    planted = [
        one,
        two.replace(" ", "  \n").upper().replace("\\FRAC", "\\frac"),
        three.replace("\\frac", "\\dfrac").replace("$", " $ "),
        f"Here is a question for you. {four} Explain how you got there, step by step.",
        f"This is what we know. {aime[3]}",
    ]
    own = [good(number) for number in range(20, 30)]
    training = jsonl([*own[:5], *({"problem": question, "answer": "1"} for question in planted), *own[5:]])
    exclude = (str(prepared), str(benchmark_data / "aime24.jsonl"))
    preparation = make(training, exclude=exclude)
    card = prepare(preparation)
    assert card["counts"] == {
        "read": 15, "malformed": 0, "level": 0, "duplicate": 0, "contaminated": 5, "too_long": 0, "gold_refused": 0,
        "not_sampled": 0, "written": 10,
    }  # fmt: skip
    assert [row["extra_info"]["source_id"] for row in rows_of(preparation.out)] == [row["unique_id"] for row in own]
    by_text, by_ngrams = card["contaminated"][exclude[0]], card["contaminated"][exclude[1]]
    assert (by_text["text"], by_text["ngrams"], by_ngrams["text"], by_ngrams["ngrams"]) == (3, 1, 0, 1)
    found = [(match["row"], match["of"]) for name in exclude for match in card["contaminated"][name]["rows"]]
    assert found == [
        *(
            (f"{training}, row {5 + n} (id '{5 + n}')", f"{prepared}, row {of}")
            for n, of in enumerate([5, 40, 100, 390])
        ),
        (f"{training}, row 9 (id '9')", f"{exclude[1]}, row 3"),
    ]
    assert [(each["name"], each["questions"]) for each in card["exclude"]] == [(exclude[0], 500), (exclude[1], 30)]


def test_duplicates_are_dropped_and_another_gold_is_told(
    make: Callable[..., Preparation], jsonl: Callable[..., Path]
) -> None:
    source = jsonl([good(2), good(3), good(2, unique_id="again", answer="5"), good(3, unique_id="same")])
    notes: list[str] = []
    card = prepare(make(source, drop_duplicates=True), notes.append)
    assert (card["counts"]["duplicate"], card["counts"]["written"]) == (2, 2)
    assert card["duplicates"] == [
        {"row": f"{source}, row 2 (id 'again')", "of": f"{source}, row 0 (id 'q2')"},
        {"row": f"{source}, row 3 (id 'same')", "of": f"{source}, row 1 (id 'q3')"},
    ]
    assert len(notes) == 1
    assert notes[0].startswith("1 duplicates have another gold than the first of their question")
    assert "'5'" in notes[0]
    assert "'2'" in notes[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--exclude must name files or math_train, math500, "),
        ('{"problem": ""}\n', "--exclude must name evaluation sets whose rows have a question; got "),
        ("{broken\n", "--exclude must name evaluation sets whose rows have a question; got "),
        ('{"text": "a"}\n', "--exclude must name evaluation sets whose rows have a question; got "),
        ("", "--exclude must name evaluation sets with at least one row; got "),
    ],
)
def test_evaluation_set_that_cannot_be_read_whole(
    make: Callable[..., Preparation], jsonl: Callable[..., Path], tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "eval.jsonl"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(SourceError) as caught:
        prepare(make(jsonl([good(2)]), exclude=(str(path),)))
    assert str(caught.value).startswith(message)
    assert str(path) in str(caught.value)


# Rows that cannot be used.

BAD = [good(1, answer=None), good(2), {"answer": "1"}, good(3, problem=""), good(4)]


def test_malformed_rows_end_the_preparation_and_are_named(
    make: Callable[..., Preparation], jsonl: Callable[..., Path]
) -> None:
    preparation = make(jsonl(BAD))
    with pytest.raises(PreparationError) as caught:
        prepare(preparation)
    first, *named = str(caught.value).split("\n")
    assert first == "rows must be usable; got 3 of 5 that are not. Correct them, or leave them out with --skip-bad."
    place = preparation.source.names[0]
    assert named[0] == f"  {place}, row 0 (id 'q1'): answer or solution must hold the gold answer; got None"
    assert named[1].startswith(
        f"  {place}, row 2 (id '2'): problem or question must hold the question; got the columns"
    )
    assert named[2] == f"  {place}, row 3 (id 'q3'): problem must be the text of a question; got ''"
    assert not preparation.out.exists()


def test_malformed_rows_are_left_out_counted_and_named(
    make: Callable[..., Preparation], jsonl: Callable[..., Path]
) -> None:
    notes: list[str] = []
    preparation = make(jsonl(BAD), skip_bad=True)
    card = prepare(preparation, notes.append)
    assert (card["counts"]["read"], card["counts"]["malformed"], card["counts"]["written"]) == (5, 3, 2)
    assert len(card["bad_rows"]) == 3
    assert [(row["extra_info"]["index"], row["extra_info"]["source_id"]) for row in rows_of(preparation.out)] == [
        (0, "q2"), (1, "q4")]  # fmt: skip
    assert notes[0].startswith("3 of 5 rows cannot be used and are left out")


def test_gold_that_the_verifier_refuses(make: Callable[..., Preparation], jsonl: Callable[..., Path]) -> None:
    source = jsonl([good(2), good(3, answer="}{"), good(4, answer=r"\frac{1}{2}")])
    with pytest.raises(PreparationError) as caught:
        prepare(make(source, check_golds=True))
    assert "rows must be usable; got 1 of 3 that are not." in str(caught.value)
    assert f"{source}, row 1 (id 'q3'): gold must be CORRECT in \\boxed{{}} by the verifier; got " in str(caught.value)
    card = prepare(make(source, check_golds=True, skip_bad=True))
    assert (card["counts"]["gold_refused"], card["counts"]["malformed"], card["counts"]["written"]) == (1, 0, 2)
    assert prepare(make(source))["counts"]["written"] == 3


def test_solution_taken_for_the_gold_is_told_with_the_way_out(
    make: Callable[..., Preparation], jsonl: Callable[..., Path]
) -> None:
    source = jsonl([good(1, answer="Half of 2 is <<2/2=1>>1, and so on and so on and on.\n#### 1"), good(2)])
    with pytest.raises(PreparationError) as caught:
        prepare(make(source, check_golds=True))
    assert str(caught.value).endswith("#### 1'. Use --gold COLUMN:hashes.")


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([{"problem": 1, "answer": 1}, {}], {"skip_bad": True}, "rows must be usable; got 2 of 2 that are not.\n"),
        ([good(1, level=1)], {"levels": "3-5"}, "a file must have at least one row; got none of 1 read, 1 level"),
    ],
)
def test_nothing_to_write_is_an_error(
    make: Callable[..., Preparation], jsonl: Callable[..., Path], rows: list[Row], changes: Row, message: str
) -> None:
    with pytest.raises(PreparationError) as caught:
        prepare(make(jsonl(rows), **changes))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        ([], {}, "--from must have at least one row; got none in "),
        (
            [{"a": 1}, {}],
            {"skip_bad": True},
            "--question must name a column of the rows; got 'problem' or 'question', ",
        ),
        (
            [{"problem": "a"}],
            {},
            "--gold must name a column of the rows; got 'answer' or 'solution', which no row has.",
        ),
        (
            [good(1)],
            {"levels": "3-5"},
            "--level must go with rows that have a level; got '3-5' and no level in the col",
        ),
    ],
)
def test_rows_without_what_the_arguments_ask_for(
    make: Callable[..., Preparation], jsonl: Callable[..., Path], rows: list[Row], changes: Row, message: str
) -> None:
    with pytest.raises(UsageError) as caught:
        prepare(make(jsonl(rows), **changes))
    assert str(caught.value).startswith(message)


def test_list_taken_for_the_gold_is_refused_with_the_way_out(make: Callable[..., Preparation], tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("problem,final_answer\nQ one?,['$2$' '$3$']\nQ two?,['$\\\\frac{1}{2}$']\n", encoding="utf-8")
    field, first = (Columns(gold=(GoldRule(column="final_answer", how=how),)) for how in ("field", "first"))
    with pytest.raises(PreparationError) as caught:
        prepare(make(path, columns=field, check_golds=True))
    assert "rows must be usable; got 2 of 2 that are not." in str(caught.value)
    assert "gold must be an answer, no list or dictionary as text; got " in str(caught.value)
    assert "Use --gold COLUMN:first." in str(caught.value)
    preparation = make(path, columns=first, check_golds=True)
    prepare(preparation)
    assert [row["reward_model"]["ground_truth"] for row in rows_of(preparation.out)] == ["2", r"\frac{1}{2}"]


def test_gold_of_a_csv_row_without_an_answer_is_in_the_solutions_box(
    make: Callable[..., Preparation], tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_text("problem,answer,solution\nQ?,,so \\boxed{7}\nR?,8,so \\boxed{9}\n", encoding="utf-8")
    preparation = make(path)
    prepare(preparation)
    assert [row["reward_model"]["ground_truth"] for row in rows_of(preparation.out)] == ["7", "8"]


# Deeper than the JSON reader goes, as deep as it goes, and what its values are shown with.
@pytest.mark.parametrize("depth", [100, 480, 900, 1_500, 3_000, 9_000, 100_000])
def test_row_with_a_value_that_is_nested_deep_is_left_out(
    make: Callable[..., Preparation], jsonl: Callable[..., Path], depth: int
) -> None:
    source = jsonl([good(1), good(2)])
    with source.open("a", encoding="utf-8") as file:
        file.write(f'{{"problem": {"[" * depth}{"]" * depth}, "answer": 1}}\n{"[" * depth}{"]" * depth}\n')
    counts = prepare(make(source, skip_bad=True))["counts"]
    assert (counts["malformed"], counts["written"]) == (2, 2)


def test_bytes_and_digits_that_cannot_be_read_are_left_out_and_named(
    make: Callable[..., Preparation], jsonl: Callable[..., Path]
) -> None:
    source = jsonl([good(1)])
    source.write_bytes(
        source.read_bytes() + b'{"problem": "caf\xe9?", "answer": 1}\n'
        + f'{{"problem": "How many?", "answer": {"7" * 5000}}}\n'.encode()
    )  # fmt: skip
    notes: list[str] = []
    card = prepare(make(source, skip_bad=True), notes.append)
    assert (card["counts"]["read"], card["counts"]["malformed"], card["counts"]["written"]) == (3, 2, 1)
    assert card["bad_rows"][0].startswith(f"{source}, row 1: a row must be UTF-8; got b'")
    assert card["bad_rows"][0].endswith("in line 2: invalid continuation byte")
    assert card["bad_rows"][1] == (
        f"{source}, row 2 (id '2'): answer must be a number of fewer digits; got {'7' * 60}...")  # fmt: skip


# Filters together, and the counts.


def test_counts_of_all_stages_add_up_to_the_rows_read(
    make: Callable[..., Preparation], jsonl: Callable[..., Path]
) -> None:
    rows = [good(n, level=f"Level {1 + n % 5}") for n in range(50)]
    rows += [good(7, level=3, unique_id="copy"), good(60, level=4, answer="{"), good(61, answer=None), good(62)]
    held_out = jsonl([good(n) for n in (2, 3, 4)], "held_out.jsonl")
    preparation = make(jsonl(rows), levels="3-5", drop_duplicates=True, exclude=(str(held_out),), sample=10, seed=1,
                       check_golds=True, skip_bad=True)  # fmt: skip
    counts = prepare(preparation)["counts"]
    assert counts == {
        "read": 54, "malformed": 1, "level": 21, "duplicate": 1, "contaminated": 3, "too_long": 0, "gold_refused": 1,
        "not_sampled": 17, "written": 10,
    }  # fmt: skip
    assert counts["read"] == sum(counts[stage] for stage in STAGES) + counts["written"]
    written = rows_of(preparation.out)
    assert [row["extra_info"]["index"] for row in written] == list(range(10))
    numbers = [int(row["extra_info"]["source_id"][1:]) for row in written]
    assert numbers == sorted(numbers)
    assert {row["extra_info"]["level"] for row in written} <= {"3", "4", "5"}


def test_recipe_of_the_training_set_keeps_levels_3_to_5(jsonl: Callable[..., Path], tmp_path: Path) -> None:
    rows = [good(n, level=n, subject="Algebra", solution="S") for n in range(1, 6)]
    source = Source(names=(str(jsonl(rows)),))
    out = tmp_path / "t.parquet"
    assert prepare(recipe_preparation("math_train", out, source=source))["counts"]["written"] == 3
    everything = recipe_preparation("math_train", out, source=source, levels="all")
    assert prepare(everything)["counts"]["written"] == 5
    assert {row["data_source"] for row in rows_of(out)} == {"math_train"}


def test_sample_larger_than_what_is_there_takes_all_and_says_so(
    make: Callable[..., Preparation], jsonl: Callable[..., Path]
) -> None:
    notes: list[str] = []
    card = prepare(make(jsonl([good(1), good(2)]), sample=5), notes.append)
    assert (card["counts"]["written"], card["counts"]["not_sampled"]) == (2, 0)
    assert notes == ["--sample asks for 5 questions; there are 2, all of them are taken"]


def test_other_number_of_rows_than_published_is_told(
    make: Callable[..., Preparation], jsonl: Callable[..., Path]
) -> None:
    notes: list[str] = []
    prepare(make(jsonl([good(1)]), published_rows=30), notes.append)
    assert notes == ["mine was published with 30 rows; 1 were read"]


def test_what_is_odd_is_logged_where_nobody_else_is_told(
    make: Callable[..., Preparation], jsonl: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    prepare(make(jsonl([good(1)]), published_rows=30))
    assert caplog.messages == ["mine was published with 30 rows; 1 were read"]


# Writing.


def test_error_in_the_middle_of_writing_leaves_the_old_files(
    make: Callable[..., Preparation], jsonl: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    preparation = make(jsonl([good(n) for n in range(5000)]))
    prepare(preparation)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 3
    real_row = prepare_module.to_verl_row

    def failing(item: Any, index: int, **arguments: Any) -> Row:
        if index == 4500:
            raise OSError("no space left on device")
        return real_row(item, index, **{**arguments, "name": "other"})

    monkeypatch.setattr(prepare_module, "to_verl_row", failing)
    with pytest.raises(OSError, match="no space left"):
        prepare(preparation)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_kill_in_the_middle_of_writing_leaves_the_old_file_and_its_card(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    row = {"data_source": "n", "prompt": [{"role": "user", "content": "Q"}], "ability": "math",
           "reward_model": {"style": "rule", "ground_truth": "1"}, "extra_info": {"index": 0}}  # fmt: skip
    cards.write(out, [row] * 3, {"schema": 1})
    before = out.read_bytes(), cards.card_path(out).read_bytes()
    code = f"""
import os, signal
from pathlib import Path
from verl_multiattempt.data import card
def rows():
    for number in range(100_000):
        if number == 20_000:
            os.kill(os.getpid(), signal.SIGKILL)
        yield {row!r}
card.write(Path({str(out)!r}), rows(), {{"schema": 1}})
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert (out.read_bytes(), cards.card_path(out).read_bytes()) == before
    assert cards.read_card(out) is not None


def test_kill_between_the_two_files_leaves_a_card_that_is_not_taken_for_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.parquet"
    row = {"data_source": "n", "prompt": [{"role": "user", "content": "Q"}]}
    cards.write(out, [row], {"schema": 1})
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target) != out:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        cards.write(out, [row, row], {"schema": 1})
    assert len(rows_of(out)) == 2
    assert cards.read_card(out) is None


def test_file_in_a_folder_that_is_not_there_yet(make: Callable[..., Preparation], jsonl: Callable[..., Path],
                                                tmp_path: Path) -> None:  # fmt: skip
    preparation = make(jsonl([good(1)]), out=tmp_path / "a" / "b" / "c.parquet")
    prepare(preparation)
    assert sorted(path.name for path in preparation.out.parent.iterdir()) == ["c.card.json", "c.parquet"]


def test_benchmark_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^NAME must be one of math_train, math500, .* got 'math50'$"):
        prepare_benchmark("math50", tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a/b"}, "NAME must be of letters, digits, _, - and ., since metrics are named after it; got 'a/b'"),
        ({"out": Path("a.json")}, "--out must end in .parquet; got 'a.json'"),
        ({"levels": "5-3"}, "--level must be like 3-5, 1,3-4, hard or all; got '5-3'"),
        ({"sample": 0}, "--sample must be at least 1; got 0"),
        ({"max_prompt_tokens": 0, "tokenizer": "t"}, "--max-prompt-tokens must be at least 1; got 0"),
        ({"max_prompt_tokens": 5}, "--max-prompt-tokens and --tokenizer must be given together; got one of them alone"),
        ({"tokenizer": "t"}, "--max-prompt-tokens and --tokenizer must be given together; got one of them alone"),
        ({"ngram": 1}, "--ngram must be at least 2 words; got 1. The default is 13."),
        ({"share": 0.0}, "--overlap must be above 0 and at most 1; got 0.0. The default is 0.5."),
        ({"share": float("nan")}, "--overlap must be above 0 and at most 1; got nan. The default is 0.5."),
    ],
)
def test_setting_that_cannot_work(make: Callable[..., Preparation], changes: Row, message: str) -> None:
    with pytest.raises(ValueError, match="must") as caught:
        make(Path("a.jsonl"), **changes)
    assert str(caught.value) == message
