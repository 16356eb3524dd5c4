"""Training and validation files are read before the start, and what is wrong is named by file and row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import load_dataset
from omegaconf import DictConfig
from verl.utils.dataset.rl_dataset import RLHFDataset

from tests.adapters.conftest import Row, good_row, write_rows
from tests.adapters.harness import compose_config
from tests.tokenizers import CHATML, STRICT, make_tokenizer
from verl_multiattempt.adapters.agent_loop import read_settings, scaffold_for
from verl_multiattempt.adapters.dataset_check import DataFiles, DatasetError, data_files, inspect_files
from verl_multiattempt.chat.scaffold import render

Check = Callable[..., int]
FORMAT = "See verl's data format: prompt, data_source, reward_model.ground_truth, extra_info."


@pytest.fixture
def check(good_config: Callable[..., DictConfig]) -> Check:
    """Check files as data.train_files: the number of rows; what is wrong is raised, one sentence a line."""

    def run(*paths: Path | str, template: str = CHATML, **data: Any) -> int:
        config = good_config({f"data.{key}": value for key, value in data.items()})
        config.data.train_files = [str(path) for path in paths]
        settings = read_settings(config)
        found = inspect_files(config, "train_files", settings, scaffold_for(settings, make_tokenizer(template), {}))
        if found.problems:
            raise DatasetError("\n".join(found.problems))
        return found.num_rows

    return run


def refused(check: Check, *paths: Path | str, **arguments: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        check(*paths, **arguments)
    return str(caught.value)


# Good files.


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "json"])
def test_good_file_is_counted(check: Check, tmp_path: Path, suffix: str) -> None:
    assert check(write_rows(tmp_path / f"a.{suffix}", [good_row()] * 5)) == 5


def test_json_list_is_read_as_verls_loader_reads_it(check: Check, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([good_row(), good_row()], indent=1), encoding="utf-8")
    assert len(load_dataset("json", data_files=str(path), cache_dir=str(tmp_path / "cache"))["train"]) == 2
    assert check(path) == 2


def test_line_separator_inside_a_json_text_does_not_end_the_row(check: Check, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    row = good_row(prompt=[{"role": "user", "content": "a\u2028b"}])
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n\n", encoding="utf-8")
    assert check(path) == 1


def test_several_files_are_counted_together(check: Check, tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a.parquet", [good_row()] * 2)
    assert check(first, write_rows(tmp_path / "b.jsonl", [good_row()] * 3)) == 5


def two_files(folder: Path, suffix: str, first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    pairs = (("a", first), ("b", second))
    return [str(write_rows(folder / (name + suffix), [good_row(extra_info=extra)] * 2)) for name, extra in pairs]


def joined_by_verl(files: list[str]) -> int:
    """How many rows verl's own dataset class makes of the files."""
    config = compose_config().data
    config.filter_overlong_prompts = False
    return len(RLHFDataset(list(files), make_tokenizer(), config))


@pytest.mark.parametrize(
    ("suffixes", "extras", "types"),
    [
        ((".parquet", ".parquet"), ({"index": 1}, {"index": "1"}), "extra_info.index is int64 in one and string in "),
        ((".jsonl", ".jsonl"), ({"index": 1}, {"index": "1"}), "extra_info.index is int64 in one and string in "),
        ((".parquet", ".parquet"), ({"index": 1, "more": {"level": 1}}, {"more": {"level": "1"}}),
         "extra_info.more.level is int64 in one and string in "),
    ],
    ids=str,
)  # fmt: skip
def test_files_that_verl_cannot_join_are_named(
    check: Check, tmp_path: Path, suffixes: tuple[str, str], extras: tuple[dict[str, Any], dict[str, Any]], types: str
) -> None:
    files = two_files(tmp_path, suffixes[0], *extras)
    problem = refused(check, *files)
    assert problem.startswith(
        "data.train_files must name files whose columns have the same types, since verl joins them; got "
        f"{files[0]!r} and {files[1]!r}: {types}"
    )
    with pytest.raises(ValueError, match="can't be aligned"):
        joined_by_verl(files)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize(
    "extras",
    [({"index": 1}, {"index": None}), ({"index": 1}, {"index": 2, "split": "test"}), ({"index": 1}, {"id": "a"})],
    ids=str,
)
def test_files_that_verl_can_join_are_no_problem(
    check: Check, tmp_path: Path, suffix: str, extras: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    files = two_files(tmp_path, suffix, *extras)
    assert joined_by_verl(files) == check(*files) == 4


def test_home_folder_may_be_written_as_tilde(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # verl's own defaults are ~/data/..., and its loader takes them.
    write_rows(tmp_path / "a.parquet", [good_row()])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check("~/a.parquet") == 1


def test_more_rows_than_a_batch_are_all_read(check: Check, tmp_path: Path) -> None:
    rows = [good_row()] * 4100 + [good_row(prompt=[])]
    assert refused(check, write_rows(tmp_path / "a.parquet", rows)).startswith(f"{tmp_path / 'a.parquet'}, row 4100: ")


def test_other_columns_do_not_matter(check: Check, tmp_path: Path) -> None:
    assert check(write_rows(tmp_path / "a.parquet", [good_row(ability="math", level=3)])) == 1


def test_extra_info_and_data_source_may_be_absent(check: Check, tmp_path: Path) -> None:
    row = {key: good_row()[key] for key in ("prompt", "reward_model")}
    assert check(write_rows(tmp_path / "a.parquet", [row])) == 1


def test_prompt_may_have_another_name(check: Check, tmp_path: Path) -> None:
    row = good_row(question=good_row()["prompt"], prompt="not this one")
    assert check(write_rows(tmp_path / "a.parquet", [row]), prompt_key="question") == 1


@pytest.mark.parametrize(
    ("value", "files"),
    [(None, []), ("a.parquet", ["a.parquet"]), (["a", "b"], ["a", "b"]), ([], [])],
)
def test_files_may_be_one_or_a_list(good_config: Callable[..., DictConfig], value: Any, files: list[str]) -> None:
    config = good_config()
    config.data.val_files = value
    assert data_files(config, "val_files") == files


# Files that cannot be used.


@pytest.mark.parametrize("suffix", ["parquet", "json", "jsonl"])
def test_file_that_is_not_there(check: Check, tmp_path: Path, suffix: str) -> None:
    path = str(tmp_path / f"none.{suffix}")
    assert refused(check, path).startswith(f"data.train_files must name readable parquet or JSON files; got {path!r}: ")


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.parquet", b"PAR1 no"), ("a.parquet", b""), ("a.jsonl", b"{broken"), ("a.json", b"[{}"), ("a.json", b"\xff")],
)
def test_file_that_is_broken(check: Check, tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    must = "data.train_files must name readable parquet or JSON files; "
    assert refused(check, path).startswith(f"{must}got {str(path)!r}: ")


def test_file_of_another_kind(check: Check) -> None:
    assert refused(check, "a.csv") == (
        "data.train_files must name files that end in .parquet, .json or .jsonl; got 'a.csv'. Convert it."
    )


def test_json_rows_that_are_no_objects(check: Check, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1, 2]", encoding="utf-8")
    assert refused(check, path) == (
        f"data.train_files must hold one JSON object for each row; got another value in {str(path)!r}. {FORMAT}"
    )


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_agent_name_column_would_bypass_the_loop(check: Check, tmp_path: Path, suffix: str) -> None:
    path = write_rows(tmp_path / f"a.{suffix}", [good_row(agent_name="single_turn_agent")])
    assert refused(check, path) == (
        "data.train_files must have no column agent_name, which makes verl run other agent loops than multiattempt; "
        f"got one in {str(path)!r}. Drop the column."
    )


@pytest.mark.parametrize("column", ["prompt", "reward_model"])
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_missing_column(check: Check, tmp_path: Path, column: str, suffix: str) -> None:
    row = {key: value for key, value in good_row().items() if key != column}
    path = write_rows(tmp_path / f"a.{suffix}", [row])
    assert (
        refused(check, path) == f"data.train_files must have the column {column}; got none in {str(path)!r}. {FORMAT}"
    )


# Rows that cannot be used, among good ones.

MESSAGES = "prompt must be a list of messages with role and content; got "
GOLD = "reward_model.ground_truth must be the answer to check against; got "


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"reward_model": {"style": "rule", "ground_truth": None}}, GOLD + "{'style': 'rule', 'ground_truth': None}"),
        ({"reward_model": {"style": "rule", "ground_truth": ""}}, GOLD + "{'style': 'rule', 'ground_truth': ''}"),
        ({"reward_model": None}, GOLD + "None"),
        ({"prompt": None}, MESSAGES + "None"),
        ({"prompt": []}, MESSAGES + "[]"),
        ({"prompt": [{"role": "user", "content": ""}]}, MESSAGES + "[{'role': 'user', 'content': ''}]"),
        ({"prompt": [{"role": None, "content": "?"}]}, MESSAGES),
        ({"prompt": [{"role": "assistant", "content": "?"}]}, "prompt must end with a user message; got role 'assis"),
        ({"extra_info": {"max_attempts": 0}}, "extra_info.max_attempts must be an integer of at least 1; got 0"),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_malformed_row_is_named(
    check: Check, tmp_path: Path, changes: dict[str, Any], problem: str, suffix: str
) -> None:
    good = write_rows(tmp_path / "good.jsonl", [good_row()] * 7)
    path = write_rows(tmp_path / f"bad.{suffix}", [good_row(), good_row(), good_row(**changes), good_row()])
    # The row is counted within its file, whatever was read before it.
    assert refused(check, good, path).startswith(f"{path}, row 2: {problem}")


@pytest.mark.parametrize("prompt", ["2 + 3?", [1], [["role", "user"]], {"role": "user", "content": "?"}])
def test_prompt_that_is_no_list_of_messages(check: Check, tmp_path: Path, prompt: Any) -> None:
    path = write_rows(tmp_path / "a.jsonl", [good_row(), good_row(prompt=prompt)])
    assert refused(check, path) == f"{path}, row 1: {MESSAGES}{prompt!r}"


def test_row_without_the_key_ground_truth(check: Check, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [good_row(), good_row(reward_model={"style": "rule"})])
    assert refused(check, path) == f"{path}, row 1: {GOLD}{{'style': 'rule'}}"


@pytest.mark.parametrize("gold", [0, 0.0, False])
def test_ground_truth_that_is_false_as_a_condition_is_one(check: Check, tmp_path: Path, gold: Any) -> None:
    assert check(write_rows(tmp_path / "a.jsonl", [good_row(reward_model={"ground_truth": gold})])) == 1


def test_huge_value_is_shortened_in_the_message(check: Check, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [good_row(prompt="x" * 10_000)])
    assert len(refused(check, path)) < len(str(path)) + 320


def test_null_allowance_of_a_row_is_no_allowance(check: Check, tmp_path: Path) -> None:
    rows: list[Row] = [good_row(extra_info={"max_attempts": number}) for number in (None, 3)]
    assert check(write_rows(tmp_path / "a.parquet", rows)) == 2


@pytest.mark.parametrize("template", [CHATML, STRICT])
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_content_that_is_a_list_of_parts(check: Check, tmp_path: Path, template: str, suffix: str) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    path = write_rows(tmp_path / f"a.{suffix}", [good_row(prompt=parts)])
    assert refused(check, path, template=template) == (
        f"{path}, row 0: prompt[].content must be text; got [{{'type': 'text', 'text': '?'}}]. Give the text itself, "
        "not a list of parts."
    )


def test_content_that_no_tokenizer_takes(check: Check, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [good_row(prompt=[{"role": "user", "content": "\ud800"}])])
    assert refused(check, path).startswith(f"{path}, row 0: 'utf-8' codec can't encode character")


# Several problems.


def test_every_bad_row_of_every_file_is_told(check: Check, tmp_path: Path) -> None:
    first = write_rows(tmp_path / "a.jsonl", [good_row(prompt=[]), good_row(), good_row(reward_model=None)])
    second = write_rows(tmp_path / "b.jsonl", [good_row(), good_row(extra_info={"max_attempts": 0})])
    sentences = refused(check, first, tmp_path / "none.parquet", second).splitlines()
    assert [sentence.split(": ")[0] for sentence in sentences] == [
        f"{first}, row 0", f"{first}, row 2",
        f"data.train_files must name readable parquet or JSON files; got '{tmp_path / 'none.parquet'}'",
        f"{second}, row 1",
    ]  # fmt: skip


def test_of_many_bad_rows_five_are_told_and_the_others_counted(check: Check, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [good_row(prompt=[])] * 7)
    sentences = refused(check, path).splitlines()
    assert [f"{path}, row {row}: " in sentence for row, sentence in enumerate(sentences[:-1])] == [True] * 5
    assert sentences[-1] == f"{path} must hold rows that can be used; got 2 more that cannot"


def test_every_wrong_column_is_told(check: Check, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"question": "?", "agent_name": "x", "images": []}])
    sentences = refused(check, path).splitlines()
    assert [sentence.split(";")[0] for sentence in sentences] == [
        "data.train_files must hold text only", "data.train_files must have the column prompt",
        "data.train_files must have the column reward_model",
        "data.train_files must have no column agent_name, which makes verl run other agent loops than multiattempt",
    ]  # fmt: skip


# Rows that the chat template refuses.

SYSTEM: Row = good_row(prompt=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "?"}])
TURNS: Row = good_row(prompt=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])


def test_roles_that_the_template_refuses(check: Check, tmp_path: Path) -> None:
    # Two user messages in a row, which STRICT has no place for: short rows, in the middle of good ones.
    path = write_rows(tmp_path / "a.jsonl", [good_row(), good_row(), TURNS, good_row(), TURNS])
    assert check(path) == 5
    sentences = refused(check, path, template=STRICT).splitlines()
    assert [sentence.split(";")[0] for sentence in sentences] == [
        f"{path}, row {row}: prompt must be messages that the chat template renders" for row in (2, 4)
    ]
    assert "got roles ['user', 'user'] and TemplateError: " in sentences[0]
    assert sentences[0].endswith("Drop the row, or take another template.")


def test_row_that_verls_filter_would_drop_because_of_its_system_message(check: Check, tmp_path: Path) -> None:
    # The opening takes the system message into the user's, but verl's filter renders the row as it is.
    path = write_rows(tmp_path / "a.jsonl", [good_row(), SYSTEM])
    assert check(path, template=STRICT, filter_overlong_prompts=False) == 2
    sentence = refused(check, path, template=STRICT, filter_overlong_prompts=True)
    assert sentence.startswith(
        f"{path}, row 1: prompt must be messages that the chat template renders; got roles ['sys"
    )
    assert "set data.filter_overlong_prompts=false" in sentence


def test_template_that_refuses_what_one_row_says_is_told_of_that_row(check: Check, tmp_path: Path) -> None:
    rows = [good_row(prompt=[{"role": "user", "content": text}]) for text in ("bad", "a", "b", "bad", "c")]
    picky = "{% if 'bad' in messages[-1]['content'] and messages|length < 3 %}{{ raise_exception('no') }}{% endif %}"
    sentences = refused(check, write_rows(tmp_path / "a.jsonl", rows), template=picky + CHATML).splitlines()
    assert ", row 0: " in sentences[0]


def test_longest_row_is_rendered_since_a_template_may_add_more_than_is_reckoned_with(
    check: Check, tmp_path: Path
) -> None:
    # The template repeats the question ten times; by its bytes the row is far from the limit.
    wordy = CHATML.replace("message['content']", "message['content'] * (10 if message['role'] == 'user' else 1)")
    path = write_rows(tmp_path / "a.jsonl", [good_row(prompt=[{"role": "user", "content": "?" * n}]) for n in (1, 150)])
    assert check(path, template=CHATML, max_prompt_length=1200) == 2
    assert "row 1: data.max_prompt_length must hold the prompt with its opening" in refused(
        check, path, template=wordy, max_prompt_length=1200, filter_overlong_prompts=False
    )


# Length: verl filters and cuts by the length without the opening.


def lengths(content: str) -> tuple[int, int]:
    """Tokens of a prompt with the opening for five attempts and without, counted by hand."""
    opening = (
        "<|im_start|>system\nYou have 5 attempts to answer the question. "
        "Put the final answer of each attempt in \\boxed{}.<|im_end|>\n"
    )
    prompt = f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"
    tokenizer = make_tokenizer()
    bare = len(tokenizer.encode(prompt, add_special_tokens=False))
    return bare + len(tokenizer.encode(opening, add_special_tokens=False)), bare


@pytest.fixture(scope="module")
def long_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [good_row(), good_row(prompt=[{"role": "user", "content": "?" * 120}])]
    return write_rows(tmp_path_factory.mktemp("long") / "a.parquet", rows)


@pytest.mark.parametrize("filtered", [True, False])
def test_prompt_that_fits_exactly_with_its_opening(check: Check, long_file: Path, filtered: bool) -> None:
    opened, _ = lengths("?" * 120)
    assert check(long_file, max_prompt_length=opened, filter_overlong_prompts=filtered) == 2


@pytest.mark.parametrize("filtered", [True, False])
def test_prompt_that_the_opening_makes_too_long(check: Check, long_file: Path, filtered: bool) -> None:
    opened, bare = lengths("?" * 120)
    for limit in (opened - 1, bare):
        assert refused(check, long_file, max_prompt_length=limit, filter_overlong_prompts=filtered) == (
            f"{long_file}, row 1: data.max_prompt_length must hold the prompt with its opening ({opened} tokens, "
            f"{bare} without); got {limit}. Raise data.max_prompt_length to at least {opened}, or drop the row."
        )


def test_prompt_that_verl_drops_anyway_is_no_problem(check: Check, long_file: Path) -> None:
    _, bare = lengths("?" * 120)
    assert check(long_file, max_prompt_length=bare - 1, filter_overlong_prompts=True) == 2


def test_prompt_that_is_too_long_and_not_dropped_is_a_problem(check: Check, long_file: Path) -> None:
    _, bare = lengths("?" * 120)
    assert "row 1" in refused(check, long_file, max_prompt_length=bare - 1, filter_overlong_prompts=False)


def test_length_is_that_of_the_rows_own_allowance(check: Check, tmp_path: Path) -> None:
    opened, _ = lengths("2?" * 80)
    row = good_row(prompt=[{"role": "user", "content": "2?" * 80}])
    longer = {**row, "extra_info": {"max_attempts": 10**15}}
    assert check(write_rows(tmp_path / "a.jsonl", [row]), max_prompt_length=opened) == 1
    assert "row 0" in refused(check, write_rows(tmp_path / "b.jsonl", [longer]), max_prompt_length=opened)


def test_few_rows_are_rendered(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A hundred thousand rows would take a minute otherwise.
    rendered: list[Any] = []

    def counting(tokenizer: Any, messages: Any, *args: Any, **kwargs: Any) -> Any:
        rendered.append(messages)
        return render(tokenizer, messages, *args, **kwargs)

    monkeypatch.setattr("verl_multiattempt.adapters.dataset_check.render", counting)
    path = write_rows(tmp_path / "a.jsonl", [good_row(), SYSTEM] * 50)
    assert check(path, filter_overlong_prompts=True) == 100
    # The first row of each of two sequences of roles, with and without the opening, and the longest row.
    assert [len(messages) for messages in rendered] == [2, 1, 2, 2, 2]
    rendered.clear()
    assert check(path, max_prompt_length=250) == 100  # where any row may be too long
    assert len(rendered) > 100


# What is left of the rows.


@pytest.fixture
def look(good_config: Callable[..., DictConfig]) -> Callable[..., DataFiles]:
    def run(path: Path, **data: Any) -> DataFiles:
        config = good_config({f"data.{key}": value for key, value in {"train_files": str(path), **data}.items()})
        settings = read_settings(config)
        return inspect_files(config, "train_files", settings, scaffold_for(settings, make_tokenizer(), {}))

    return run


def test_rows_that_verl_keeps_and_their_own_allowances_are_counted(
    look: Callable[..., DataFiles], tmp_path: Path
) -> None:
    rows = [good_row(extra_info={"max_attempts": number}) for number in (None, 3, 10, 3)]
    path = write_rows(tmp_path / "a.jsonl", [*rows, good_row(prompt=[{"role": "user", "content": "?" * 500}])])
    found = look(path, max_prompt_length=300, filter_overlong_prompts=True)
    assert (found.problems, found.num_rows, found.num_kept) == ([], 5, 4)
    assert (dict(found.allowances), found.own_allowances) == ({None: 2, 3: 2, 10: 1}, [3, 10])


def test_rows_that_are_all_dropped_are_a_problem(look: Callable[..., DataFiles], long_file: Path) -> None:
    assert look(long_file, max_prompt_length=5, filter_overlong_prompts=True).problems == [
        "data.train_files must have rows whose prompts are at most data.max_prompt_length long; got 2 longer ones, "
        "which verl drops. Raise data.max_prompt_length (5)."
    ]


@pytest.mark.parametrize("column", ["images", "videos", "audios"])
def test_column_of_media_that_no_attempt_would_see(check: Check, tmp_path: Path, column: str) -> None:
    pyarrow.parquet.write_table(pa.Table.from_pylist([{**good_row(), column: ["x"]}]), tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match=f"must hold text only; got the column {column} in"):
        check(tmp_path / "a.parquet")


def test_files_without_a_row_are_refused(check: Check, tmp_path: Path) -> None:
    table = pa.Table.from_pylist([good_row()]).slice(0, 0)
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DatasetError, match="must name files with at least one row; got"):
        check(tmp_path / "a.parquet")
