"""The command ``multiattempt``. Training is not part of it: that is verl's own command.

Each subcommand is a module with its texts and two functions, ``add_arguments`` and ``run``, imported when it is used,
so that ``--help`` is immediate. How a subcommand fails is the same for all: one sentence, and an exit status
(`verl_multiattempt.cli_errors`); the traceback with ``--debug``.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

from verl_multiattempt import __version__
from verl_multiattempt.cli_errors import CommandError, UsageError

_DESCRIPTION = """\
Tools around multi-attempt training with verl. The training itself is verl's command with one more word:

  python -m verl.trainer.main_ppo +recipe=multiattempt data.train_files=... actor_rollout_ref.model.path=...
"""
_EPILOG = """\
examples:
  multiattempt check data.train_files=train.parquet data.val_files=val.parquet \\
    actor_rollout_ref.model.path=Qwen/Qwen2.5-Math-1.5B   is everything right? the same words as for the training
  multiattempt prepare math500 --out data/math500.parquet   a benchmark's questions in verl's format
  multiattempt evaluate --model MODEL --data data/math500.parquet --out results/model   accuracy@k
  multiattempt plot results/model results/other --out figures   the curves of several models
  multiattempt view outputs/quickstart   read the episodes of a run in a browser

exit status: 0 success, 1 failure, 2 wrong arguments, 130 interrupted by Ctrl-C
multiattempt COMMAND --help says more.
"""
_CHECK = """\
Composes the configuration that verl's training command would run with, checks all of it, the chat template and every
row of the data, and shows one episode as the model would see it, the lengths, and what the verifier says of a gold.
Starts neither Ray nor a model and uses no accelerator.
"""
_CHECK_EPILOG = """\
OVERRIDE is what you would write after `python -m verl.trainer.main_ppo`; +recipe=multiattempt is added where it is
missing. The exit status is 1 where a problem was found.

examples:
  multiattempt check data.train_files=train.parquet data.val_files=val.parquet actor_rollout_ref.model.path=MODEL
  multiattempt check +platform=cpu multiattempt.max_attempts=3 ...   on a machine without an accelerator
  multiattempt check --row 17 ...                                    shows another row of data.train_files
  multiattempt check --json ... | jq .lengths                        for programs
"""


FAILURE, USAGE, INTERRUPTED = 1, 2, 130
"""Exit statuses besides 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A subcommand."""

    help: str
    """Of one line."""
    add_arguments: Callable[[argparse.ArgumentParser], None]
    """Also sets the parser's description and epilog, which has an example."""
    run: Callable[[argparse.Namespace], int]
    """Returns the exit status; raises as `main` says."""


def _add_check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = _CHECK, _CHECK_EPILOG
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="Hydra overrides of the training command")
    parser.add_argument("--row", type=_row_number, default=0, help="number of the training row to show (default: 0)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--config-path", "-cp", metavar="DIR", help="as Hydra's: folder of the primary config")
    parser.add_argument("--config-name", "-cn", metavar="NAME", help="as Hydra's: name of the primary config")


def _row_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer of at least 0; got {text!r}")
    return int(text)


def _run_check(args: argparse.Namespace) -> int:
    import verl  # noqa: F401 - first, as in training: it loads the plugin

    from verl_multiattempt.adapters.check import run_check

    return run_check(args.overrides, row=args.row, as_json=args.json, config_path=args.config_path,
                     config_name=args.config_name)  # fmt: skip


def _of_module(name: str, help: str) -> Command:
    """The subcommand of a module with ``add_arguments`` and ``run``."""
    module = f"verl_multiattempt.{name}"

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        import_module(module).add_arguments(parser)

    def run(args: argparse.Namespace) -> int:
        return int(import_module(module).run(args))

    return Command(help=help, add_arguments=add_arguments, run=run)


COMMANDS = {
    "check": Command(
        help="check a training command, its data and its chat template before GPUs are spent",
        add_arguments=_add_check_arguments,
        run=_run_check,
    ),
    "prepare": _of_module("data.command", "turn a published benchmark, or a dataset of your own, into verl's parquet"),
    "evaluate": _of_module("evaluation.command", "measure accuracy@k of a model on benchmarks"),
    "view": _of_module("view", "turn a run's episode log into a page to read in a browser"),
    "plot": _of_module("plots.command", "draw figures of evaluations and of training"),
}


def make_parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """The parser of the whole command line.

    Args:
        wanted: the subcommand that will be used; only it is asked for its arguments.
    """
    parser = argparse.ArgumentParser(
        prog="multiattempt", description=_DESCRIPTION, epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name, help=command.help, formatter_class=argparse.RawDescriptionHelpFormatter)
        if name == wanted:
            command.add_arguments(subparser)
            subparser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def _version() -> str:
    try:
        verl = version("verl")
    except PackageNotFoundError:
        verl = "not installed"
    return f"multiattempt {__version__} (verl {verl})"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    What a subcommand raises is printed as one sentence: a `UsageError` with status 2, anything else with status 1; with
    ``--debug`` the traceback comes before it.

    Args:
        argv: the arguments; those of the process by default.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = make_parser(next((word for word in words if not word.startswith("-")), None))
    args, rest = parser.parse_known_args(words)
    # argparse stops collecting positional arguments at the first option: overrides may follow options.
    if unknown := [word for word in rest if word.startswith("-") or args.command != "check"]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if rest:
        args.overrides = [*args.overrides, *rest]
    try:
        return COMMANDS[args.command].run(args)
    except BrokenPipeError:  # `| head` has seen enough; the interpreter must not flush again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"multiattempt {args.command}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if args.debug:
            print(_printable(traceback.format_exc()), end="", file=sys.stderr)
        print(f"multiattempt {args.command}: {_sentence(error)}", file=sys.stderr)
        return USAGE if isinstance(error, UsageError) else FAILURE


def _sentence(error: Exception) -> str:
    """What to say of an error; of one that nobody foresaw, also what it was and how to see where."""
    text = str(error)
    if not isinstance(error, CommandError | ValueError | OSError) or not text:
        text = f"{type(error).__name__}: {text}. See where with --debug"
    return _printable(text)


def _printable(text: str) -> str:
    """Text that any stream takes: a lone surrogate, as in a file's name, is spelled out."""
    return text.encode(errors="backslashreplace").decode()
