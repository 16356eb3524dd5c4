"""Rows of local files, and what is said of files that cannot be read."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from verl_multiattempt.data.sources import OpenSource, Source, SourceError, open_source

ROWS: list[dict[str, Any]] = [{"problem": 'a\u2028b, "c"\nd', "answer": "1"}, {"problem": "é", "answer": "2"}]
WANTED = ("problem", "answer")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    else:
        lines = [list(rows[0]), *(list(row.values()) for row in rows)]
        text = "\n".join(",".join('"' + str(cell).replace('"', '""') + '"' for cell in line) for line in lines)
        path.write_text(text + "\n", encoding="utf-8", newline="")
    return path


def opened(*paths: Path, **options: str) -> OpenSource:
    return open_source(Source(names=tuple(map(str, paths)), **options), WANTED)  # type: ignore[arg-type]


def problems(source: OpenSource) -> list[str]:
    return [f"{place}: {row}" for place, row in source.rows if isinstance(row, ValueError)]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "csv"])
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.{suffix}", ROWS)
    source = opened(path)
    assert list(source.rows) == [(f"{path}, row 0", ROWS[0]), (f"{path}, row 1", ROWS[1])]
    data = path.read_bytes()
    assert source.origin == {
        "kind": "files",
        "files": [{"path": str(path), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}],
    }


def test_several_files_are_read_one_after_the_other(tmp_path: Path) -> None:
    paths = [write(tmp_path / "b.csv", ROWS), write(tmp_path / "a.jsonl", ROWS)]
    source = opened(*paths)
    assert [place for place, _ in source.rows] == [f"{path}, row {number}" for path in paths for number in (0, 1)]
    assert [file["path"] for file in source.origin["files"]] == list(map(str, paths))


def test_json_file_may_hold_an_object_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("\n" + "\n\n".join(map(json.dumps, ROWS)), encoding="utf-8-sig")
    assert [row for _, row in opened(path).rows] == ROWS


def test_parquet_of_many_batches_gives_the_columns_wanted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [{"problem": str(i), "image": b"x" * 10} for i in range(3000)])
    assert [row for _, row in opened(path).rows] == [{"problem": str(i)} for i in range(3000)]


def test_line_that_is_no_json_is_an_error_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"problem": "a"}\n{broken\n[1]\n{"problem": "b"}\n' + "[" * 100_000 + "\n", encoding="utf-8")
    source = opened(path)
    rows = list(source.rows)
    assert [isinstance(row, ValueError) for _, row in rows] == [False, True, True, False, True]
    assert str(rows[1][1]).startswith("a row must be JSON; got '{broken' in line 2: Expecting property name")
    assert str(rows[2][1]) == "a row must be a JSON object; got [1]"
    assert "nested thousands deep" in str(rows[4][1])


def test_csv_line_with_other_fields_than_the_first_is_an_error_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("problem,answer\na,1,2\nb\nc,3\n", encoding="utf-8")
    assert problems(opened(path)) == [
        f"{path}, row 0: a row must have 2 fields, as the first line has; got more in line 2",
        f"{path}, row 1: a row must have 2 fields, as the first line has; got fewer in line 3",
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "json"])
def test_bytes_that_are_no_utf8_are_an_error_of_their_row(tmp_path: Path, suffix: str) -> None:
    rows = [{"problem": problem, "answer": "1"} for problem in ("a", "caf\xe9", "b")]
    path = write(tmp_path / f"a.{suffix}", rows)
    content = path.read_bytes()
    assert content.count("\xe9".encode()) == (suffix != "json")
    path.write_bytes(content.replace("\xe9".encode(), b"\xe9").replace(b"\\u00e9", b"\xe9"))
    read = [row for _, row in opened(path).rows]
    assert (read[0], read[2]) == (rows[0], rows[2])
    if suffix == "json":  # told when the row is read, as every lone surrogate is
        assert read[1] == {"problem": "caf\udce9", "answer": "1"}
    else:
        line = {"jsonl": 2, "csv": 3}[suffix]
        assert str(read[1]).startswith("a row must be UTF-8; got b")
        assert r"caf\xe9" in str(read[1])
        assert f"in line {line}" in str(read[1])


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_integer_of_thousands_of_digits_leaves_the_other_rows(tmp_path: Path, suffix: str) -> None:
    digits = "9" * 5000
    lines = ['{"problem": "a", "answer": "1"}', f'{{"problem": "b", "answer": {digits}}}', '{"problem": "c"}']
    path = tmp_path / f"a.{suffix}"
    path.write_text("\n".join(lines) if suffix == "jsonl" else f"[{', '.join(lines)}]", encoding="utf-8")
    read = [row for _, row in opened(path).rows]
    assert read == [{"problem": "a", "answer": "1"}, {"problem": "b", "answer": Decimal(digits)}, {"problem": "c"}]


def test_csv_row_with_a_stray_quote_is_an_error_in_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('problem,answer\n"a\nb",1\n"c"d,2\ne,3\n', encoding="utf-8")
    assert [row for _, row in opened(path).rows if isinstance(row, dict)] == [
        {"problem": "a\nb", "answer": "1"}, {"problem": "e", "answer": "3"}]  # fmt: skip
    assert problems(opened(path)) == [f"{path}, row 1: a row must be CSV; got ',' expected after '\"' in line 4"]


def test_csv_text_without_an_end_swallows_no_rows_silently(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('problem,answer\na,1\n"b,2\nc,3\n', encoding="utf-8")
    with pytest.raises(SourceError, match=r"must have an end of each quoted text; got none of one in lines 3 to 4$"):
        list(opened(path).rows)


def test_csv_column_named_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("problem,answer,problem\na,1,b\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"must have different names of columns; got problem more than once$"):
        list(opened(path).rows)


def test_empty_csv_cell_is_a_missing_value(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('problem,answer\na,\n\nb," "\nc,""\n', encoding="utf-8")
    assert [row for _, row in opened(path).rows] == [{"problem": each, "answer": None} for each in "abc"]


def test_csv_field_of_a_megabyte(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [{"problem": "x" * 1_000_000, "answer": "1"}])
    assert problems(opened(path)) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.parquet", b"PAR1 no"), ("a.parquet", b""), ("a.json", b"[{}"), ("a.jsonl", b"\xff\xfe{}"),
     ("a.json", b"[" * 100_000)],
)  # fmt: skip
def test_file_that_cannot_be_read_is_one_sentence(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        list(opened(path).rows)
    kind = path.suffix.removeprefix(".")
    if len(content) < 100_000:
        assert str(caught.value).startswith(f"--from must name readable {kind} files; got {str(path)!r}: ")
    else:
        assert str(caught.value) == f"--from must name JSON files that are not nested thousands deep; got {str(path)!r}"
    assert "\n" not in str(caught.value)


def test_parquet_without_any_of_the_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [{"x": 1}])
    with pytest.raises(SourceError, match=r"must have some of the columns problem, answer; got x$"):
        list(opened(path).rows)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["none.jsonl"], "--from must name a file or folder that is there, or a dataset on the hub; got "),
        (["/no/such/folder"], "--from must name a file or folder that is there, or a dataset on the hub; got "),
        (["a b"], "--from must name a file or folder that is there, or a dataset on the hub; got 'a b'"),
        (["here.jsonl", "openai/gsm8k"], "--from must name files where it names more than one; got 'openai/gsm8k'"),
        (["here.txt"], "--from must name files that end in .jsonl, .json, .parquet, .csv; got 'here.txt'. Convert it."),
    ],
)
def test_name_that_is_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "here.jsonl", ROWS)
    (tmp_path / "here.txt").write_text("x")
    with pytest.raises(SourceError) as caught:
        open_source(Source(names=tuple(names)), WANTED)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("option", ["config", "split", "revision"])
def test_options_of_the_hub_are_refused_for_files(tmp_path: Path, option: str) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(
        SourceError, match=f"^--{option} must go with a folder or a name on the hub; got 'x' with files"
    ):
        opened(path, **{option: "x"})
