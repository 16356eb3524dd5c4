from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from tests.evaluation_engine import question_row, write_questions
from verl_multiattempt.cli import main
from verl_multiattempt.cli_errors import UsageError
from verl_multiattempt.evaluation.arguments import add_arguments, read_settings
from verl_multiattempt.evaluation.command import data_files, run
from verl_multiattempt.evaluation.engines import make_engine

REQUIRED = ["--model", "some/model", "--data", "q.parquet", "--out", "out"]


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([*REQUIRED, *arguments])


def test_defaults_are_the_papers_in_one_run() -> None:
    (settings,) = read_settings(parse())
    assert (settings.protocols, settings.attempts, settings.temperature) == (("nested",), (1, 2, 3, 4, 5), 0.0)
    assert (settings.samples, settings.max_tokens, settings.task.max_attempts) == (1, 8000, 5)
    assert settings.engine == {"kind": "vllm"}


def test_settings_of_the_task_are_taken_as_json_or_text() -> None:
    (settings,) = read_settings(parse(
        "--set", "stop_at_answer=true", "--set", "multiattempt.verifier.timeout_s=2.5",
        "--set", "opening.text={max_attempts} attempt{s}: \\boxed{{}}=ok", "--set", "allowed_special_tokens=[\"<x>\"]",
        "--max-tokens-per-attempt", "64", "--feedback-role", "user",
    ))  # fmt: skip
    task = settings.task
    assert task.stop_at_answer is True
    assert task.verifier.timeout_s == 2.5
    assert task.opening.text == "{max_attempts} attempt{s}: \\boxed{{}}=ok"
    assert task.allowed_special_tokens == ("<x>",)
    assert (task.max_tokens_per_attempt, task.feedback.role) == (64, "user")


def test_attempts_may_come_in_any_order() -> None:
    (settings,) = read_settings(parse("--attempts", "4", "1", "4"))
    assert settings.attempts == (1, 4)


def test_each_temperature_once_and_nothing_else_differs() -> None:
    every = read_settings(parse("--temperature", "0", "1", "0.7", "1", "0", "--limit", "3"))
    assert [settings.temperature for settings in every] == [0.0, 1.0, 0.7]
    assert {replace(settings, temperature=0.0) == every[0] for settings in every} == {True}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "stop_at_answer"], "--set must be KEY=VALUE; got 'stop_at_answer'"),
        (["--set", "max_attempts=3"], "--set must name a setting that an evaluation reads; got 'max_attempts'. "
         "See --attempts and --seed."),
        (["--set", "record.enabled=true"], "--set must name a setting that an evaluation reads; got 'record.enabled'. "
         "See --attempts and --seed."),
        (["--set", "verifier=1", "--set", "verifier.name=math"],
         "--set must give 'verifier' either a value or keys of its own; got both"),
        (["--set", "opening.txt=x"], "multiattempt.opening must have no other keys than text; got 'txt'"),
        (["--attempts", "0"], "--attempts must be integers of at least 1; got [0]"),
        (["--samples", "2"], "--samples must be 1 at temperature 0, where all samples of a question are equal; got 2. "
                             "Set a temperature, such as --temperature 1."),
        (["--temperature", "1", "-1"], "--temperature must be a finite number of at least 0; got -1.0"),
        (["--top-p", "2"], "--top-p must be above 0 and at most 1; got 2.0"),
        (["--max-tokens", "0"], "--max-tokens must be an integer of at least 1; got 0"),
        (["--engine", "openai"], "--base-url must be given with --engine openai; got nothing. "
         "It is the server's address and /v1."),
        (["--base-url", "http://h/v1", "--engine", "vllm"], "--base-url must go without the engine vllm; got 'http://h/v1'"),
        *((["--base-url", url], f"--base-url must be an address such as http://localhost:8000/v1; got {url!r}")
          for url in ("foo", "localhost:8000/v1", "ftp://h/v1", "http://", "http://h:port/v1", "http://h /v1")),
        (["--tensor-parallel-size", "0"], "--tensor-parallel-size must be above 0; got 0"),
        (["--gpu-memory-utilization", "1.5"], "--gpu-memory-utilization must be above 0 and at most 1; got 1.5"),
    ],
)  # fmt: skip
def test_argument_that_cannot_work_is_named(arguments: list[str], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        run(parse(*arguments))
    assert str(caught.value) == sentence


def test_url_of_a_server_implies_its_engine() -> None:
    (settings,) = read_settings(parse("--base-url", "http://h/v1", "--timeout-s", "9", "--api-key-env", "KEY"))
    assert settings.engine == {"kind": "openai", "base_url": "http://h/v1", "timeout_s": 9.0, "api_key_env": "KEY"}


def test_key_that_is_not_set_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    (settings,) = read_settings(parse("--base-url", "http://h/v1", "--api-key-env", "NO_KEY"))
    with pytest.raises(ValueError, match="--api-key-env must name an environment variable that is set; got 'NO_KEY'"):
        make_engine(settings, tmp_path)


def test_files_are_taken_as_they_are_and_benchmarks_are_prepared_once(tmp_path: Path) -> None:
    file = write_questions(tmp_path / "q.parquet", [question_row(1)])
    prepared = tmp_path / "data" / "gsm8k.parquet"
    prepared.parent.mkdir()
    write_questions(prepared, [question_row(2)])
    assert data_files([str(file), "gsm8k"], prepared.parent) == [file, prepared]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("missing.parquet", "data must name readable parquet files"), ("math501", "'math501'")],
)
def test_data_that_is_not_there_is_refused(tmp_path: Path, name: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        data_files([name], tmp_path)


def test_unknown_model_is_one_sentence_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_questions(tmp_path / "q.parquet", [question_row(1)])
    status = main(["evaluate", "--model", "./no/such", "--data", str(data), "--out", str(tmp_path / "out")])
    lines = capsys.readouterr().err.splitlines()
    assert status == 2
    assert "--model must be a name on the hub or an existing folder; got './no/such'" in lines[-1]
    assert not any("Traceback" in line for line in lines)


def test_help_names_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    text = capsys.readouterr().out
    assert "exit status: 0 all episodes are in the results; 1 " in text
    assert "130 Ctrl-C" in text
