"""The command ``multiattempt``. Training is not part of it: that is verl's own command.

Each subcommand is two functions, one that adds its arguments and one that runs it; what a subcommand needs is imported
when it is used, so that ``--help`` is immediate.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from verl_multiattempt import __version__

_DESCRIPTION = """\
Tools around multi-attempt training with verl. The training itself is verl's command with one more word:

  python -m verl.trainer.main_ppo +recipe=multiattempt data.train_files=... actor_rollout_ref.model.path=...
"""
_EPILOG = """\
examples:
  multiattempt check data.train_files=train.parquet data.val_files=val.parquet \\
    actor_rollout_ref.model.path=Qwen/Qwen2.5-Math-1.5B   is everything right? the same words as for the training
  multiattempt prepare math500           a published benchmark, from the hub to verl's parquet
  multiattempt view outputs/quickstart   read the episodes of a run in a browser

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A subcommand."""

    help: str
    description: str
    epilog: str | None
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    """Returns the exit status."""


def _add_check_arguments(parser: argparse.ArgumentParser) -> None:
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


def _add_view_arguments(parser: argparse.ArgumentParser) -> None:
    from verl_multiattempt.view import add_arguments

    add_arguments(parser)


def _run_view(args: argparse.Namespace) -> int:
    from verl_multiattempt.view import run

    return run(args)


def _add_prepare_arguments(parser: argparse.ArgumentParser) -> None:
    from verl_multiattempt.data import command

    parser.description, parser.epilog = command.DESCRIPTION, command.EPILOG
    command.add_arguments(parser)


def _run_prepare(args: argparse.Namespace) -> int:
    from verl_multiattempt.data.command import run

    return run(args)


COMMANDS = {
    "check": Command(
        help="check a training command, its data and its chat template before GPUs are spent",
        description=_CHECK,
        epilog=_CHECK_EPILOG,
        add_arguments=_add_check_arguments,
        run=_run_check,
    ),
    "prepare": Command(
        help="turn a published benchmark, or a dataset of your own, into verl's parquet",
        description="Reads a dataset, checks every row, and writes verl's parquet with a data card beside it.",
        epilog=None,
        add_arguments=_add_prepare_arguments,
        run=_run_prepare,
    ),
    "view": Command(
        help="turn a run's episode log into a page to read in a browser",
        description="Writes the episodes of a run's log into one HTML page that needs no network.",
        epilog=None,
        add_arguments=_add_view_arguments,
        run=_run_view,
    ),
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
        subparser = commands.add_parser(
            name, help=command.help, description=command.description, epilog=command.epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        if name == wanted:
            command.add_arguments(subparser)
    return parser


def _version() -> str:
    try:
        verl = version("verl")
    except PackageNotFoundError:
        verl = "not installed"
    return f"multiattempt {__version__} (verl {verl})"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

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
    return COMMANDS[args.command].run(args)
