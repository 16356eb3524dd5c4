"""The command line: what it says of itself, what it refuses, and that it starts fast."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import tomllib

import verl_multiattempt
from verl_multiattempt.cli import COMMANDS, main, make_parser
from verl_multiattempt.cli_errors import CommandError, UsageError


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "verl_multiattempt", *words], capture_output=True, text=True, timeout=60, check=False
    )


def test_console_script_is_this_command(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"multiattempt": "verl_multiattempt.cli:main"}


def test_help_names_the_commands_and_teaches_by_examples() -> None:
    done = command("--help")
    assert done.returncode == 0
    assert "python -m verl.trainer.main_ppo +recipe=multiattempt" in done.stdout
    for name in COMMANDS:
        assert f"  multiattempt {name} " in done.stdout, "an example of each"
        assert f"\n    {name} " in done.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_help_of_a_command_says_what_it_takes(name: str) -> None:
    done = command(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: multiattempt {name} " in done.stdout


def test_version_names_verls_too() -> None:
    done = command("--version")
    assert done.stdout == f"multiattempt {verl_multiattempt.__version__} (verl {version('verl')})\n"


@pytest.mark.parametrize(
    "words",
    [["--help"], ["check", "--help"], ["view", "--help"], ["prepare", "--help"], ["plot", "--help"], ["--version"]],
    ids=str,
)
def test_help_and_version_import_nothing_heavy(words: list[str]) -> None:
    code = f"""
import sys
from verl_multiattempt.cli import main
try:
    main({words!r})
except SystemExit:
    pass
print("HEAVY", sorted({{"torch", "verl", "vllm", "ray", "transformers", "hydra", "numpy"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["chek"], "invalid choice: 'chek' (choose from "),
        (["check", "--nope", "a=1"], "unrecognized arguments: --nope"),
        (["check", "--row", "-1"], "argument --row: "),
        (["check", "--row", "one"], "argument --row: must be an integer of at least 0; got 'one'"),
        (["view", "a", "--nope"], "unrecognized arguments: --nope"),
    ],
    ids=str,
)
def test_wrong_words_end_with_status_2_and_one_reason(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert message in captured.err.splitlines()[-1]
    assert captured.out == ""


def test_options_and_overrides_of_check_are_told_apart() -> None:
    args = make_parser("check").parse_args(["check", "--row", "3", "--json", "-cn", "mine", "a=1", "+b=2", "~c"])
    assert (args.row, args.json, args.config_name, args.config_path) == (3, True, "mine", None)
    assert args.overrides == ["a=1", "+b=2", "~c"]


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (UsageError("--k must be at least 1; got 0"), 2, "--k must be at least 1; got 0"),
        (CommandError("the engine ended"), 1, "the engine ended"),
        (ValueError("file must be JSON; got 'x'"), 1, "file must be JSON; got 'x'"),
        (OSError(28, "No space left on device", "out"), 1, "[Errno 28] No space left on device: 'out'"),
        (KeyError("answer"), 1, "KeyError: 'answer'. See where with --debug"),
        (ValueError(), 1, "ValueError: . See where with --debug"),
        (ValueError("got '\udc80'"), 1, "got '\\udc80'"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
    ids=repr,
)
def test_what_a_command_raises_is_one_sentence_and_a_status(
    error: BaseException, status: int, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(_: object) -> int:
        raise error

    monkeypatch.setitem(COMMANDS, "view", replace(COMMANDS["view"], run=run))
    assert main(["view", "x"]) == status
    assert capsys.readouterr().err == f"multiattempt view: {told}\n"
    assert main(["view", "x", "--debug"]) == status
    shown = capsys.readouterr().err
    assert shown.endswith(f"multiattempt view: {told}\n")
    assert ("Traceback" in shown) == isinstance(error, Exception)


def test_output_that_nobody_reads_on_is_no_failure() -> None:
    done = subprocess.run(
        f"{sys.executable} -c 'from verl_multiattempt.cli import COMMANDS, main; from dataclasses import replace; "
        'COMMANDS["view"] = replace(COMMANDS["view"], run=lambda _: [print("x" * 99) for _ in range(9999)] and 0); '
        'raise SystemExit(main(["view", "x"]))\' | head -n 1; exit "${PIPESTATUS[0]}"',
        shell=True, executable="/bin/bash", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
