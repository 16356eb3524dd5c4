"""``multiattempt prepare``: its arguments, exit status and what it prints."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from verl_multiattempt.cli import main
from verl_multiattempt.data import command
from verl_multiattempt.data.benchmarks import RECIPES


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_summary_names_every_reason_and_set(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"q": f"Question {n}", "a": f"so \\boxed{{{n}}}", "hard": n % 2} for n in range(8)]
    write(here / "a.jsonl", [*rows, {"q": "Question  2", "a": r"\boxed{2}", "hard": 1}, {"q": None}])
    write(here / "held.jsonl", [{"question": "question 1"}])
    words = ("mine --from a.jsonl --question q --gold a:boxed --level-column hard --level 1 --drop-duplicates "
             "--skip-bad --exclude held.jsonl --sample 2")  # fmt: skip
    assert main(["prepare", *words.split()]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        "mine.parquet: 2 questions of 10 rows",
        "        1 malformed",
        "        4 of another level",
        "        1 in an evaluation set",
        "          1 by text and 0 by n-grams in held.jsonl",
        "        2 not in the sample",
        "  card: mine.card.json",
    ]
    assert captured.err.splitlines() == [
        "multiattempt prepare: note: 1 of 10 rows cannot be used and are left out (all are named in the card)",
        "  a.jsonl, row 9 (id '9'): q must hold the question; got None",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["math50"],
            "NAME must be one of math_train, math500, aime24, amc23, minerva, olympiadbench, gsm8k where --from",
        ),
        (["a/b", "--from", "a.jsonl"], "NAME must be of letters"),
        (["math500", "--out", "a.json"], "--out must end in .parquet; got 'a.json'"),
        (["math500", "--sample", "0"], "--sample must be at least 1; got 0"),
        (["math500", "--level", "5-3"], "--level must be like 3-5"),
        (["math500", "--tokenizer", "t"], "--max-prompt-tokens and --tokenizer must be given together"),
        (["math500", "--from", "no.jsonl"], "--from must name a file or folder that is there, or a dataset on the hub"),
    ],
)
def test_arguments_that_cannot_work_end_with_status_2(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["prepare", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"multiattempt prepare: {message}")
    assert (captured.out, len(captured.err.splitlines()), list(here.iterdir())) == ("", 1, [])


@pytest.mark.parametrize("gold", ["a:regex", ""])
def test_gold_that_is_no_rule_is_told_by_the_parser(here: Path, capsys: pytest.CaptureFixture[str], gold: str) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["prepare", "mine", "--from", "a.jsonl", "--gold", gold])
    assert caught.value.code == 2
    assert "argument --gold: gold must be COLUMN or COLUMN:HOW, with HOW one of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["math500", "--from", "a.jsonl"], "rows must be usable; got 1 of 1 that are not."),
        (["mine", "--from", "b.jsonl", "--out", "b.jsonl/x.parquet"], "[Errno "),
    ],
)
def test_failures_end_with_status_1_and_no_traceback(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    write(here / "a.jsonl", [{"problem": "?", "answer": None}])
    write(here / "b.jsonl", [{"problem": "?", "answer": 1}])
    assert main(["prepare", *words]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith(f"multiattempt prepare: {message}")
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "test"], "--split must go with a folder or a name on the hub; got 'test' with files"),
        (["--exclude", "noset"], "--exclude must name files or math_train, math500, "),
        (["--question", "nope"], "--question must name a column of the rows; got 'nope', which no row has. "
                                 "Columns read: 'answer', 'problem'."),
        (["--gold", "nope:boxed"], "--gold must name a column of the rows; got 'nope', which no row has."),
        (["--id-column", "nope"], "--id-column must name a column of the rows; got 'nope', which no row has."),
        (["--level", "3"], "--level must go with rows that have a level; got '3' and no level in the columns level, "),
        (["--max-prompt-tokens", "9", "--tokenizer", "./none"], "--tokenizer must name a tokenizer that can be loaded"),
    ],
)  # fmt: skip
def test_arguments_that_do_not_go_with_the_files_end_with_status_2(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    write(here / "a.jsonl", [{"problem": "?", "answer": "1"}])
    assert main(["prepare", "mine", "--from", "a.jsonl", *words]) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith(f"multiattempt prepare: {message}")
    assert (captured.out, [path.name for path in here.iterdir()]) == ("", ["a.jsonl"])


def test_sigterm_while_writing_leaves_no_half_written_file(here: Path) -> None:
    write(here / "a.jsonl", [{"problem": f"What is {n}?", "answer": n} for n in range(10_000)])
    code = """
import os, signal, sys
from verl_multiattempt.cli import main
from verl_multiattempt.data import prepare
real_row = prepare.to_verl_row
def row(item, index, **arguments):
    if index == 9_000:
        assert [path for path in os.listdir() if path.endswith(".part")]
        os.kill(os.getpid(), signal.SIGTERM)
    return real_row(item, index, **arguments)
prepare.to_verl_row = row
sys.exit(main(["prepare", "mine", "--from", "a.jsonl", "--no-check-golds"]))
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=120, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (128 + signal.SIGTERM, "")
    assert [path.name for path in here.iterdir()] == ["a.jsonl"]


def test_system_message_suffix_and_id_column(here: Path) -> None:
    write(here / "a.jsonl", [{"problem": "P", "answer": 1, "key": "k", "topic": "T", "id": 5}])
    words = ["mine", "--from", "a.jsonl", "--id-column", "key", "--subject-column", "topic", "--system", "S",
             "--suffix", "Think.", "--out", "sub/x.parquet"]  # fmt: skip
    assert main(["prepare", *words]) == 0
    [row] = pyarrow.parquet.read_table(here / "sub" / "x.parquet").to_pylist()
    assert [message["content"] for message in row["prompt"]] == ["S", "P\nThink."]
    assert row["extra_info"] == {"index": 0, "source_id": "k", "level": None, "subject": "T"}


def test_help_names_every_recipe_and_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["prepare", "--help"])
    out = capsys.readouterr().out
    for name, recipe in RECIPES.items():
        assert f"\n  {name} " in out
        assert recipe.hub in out
    assert max(map(len, out.splitlines())) <= 130


@pytest.mark.parametrize("line", [line for line in command.EPILOG.splitlines() if line.startswith("  multiattempt")])
def test_examples_of_the_help_can_be_parsed(line: str) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    words = line.split("      ")[0].split()[2:]
    preparation = command.preparation_of(parser.parse_args(words))
    assert preparation.name == words[0]
