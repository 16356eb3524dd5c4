"""The command ``multiattempt plot``."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from verl_multiattempt.cli_errors import UsageError
from verl_multiattempt.plots.curves import PANEL_CHOICES, evaluation_sheets, read_reference
from verl_multiattempt.plots.lines import make_arms, members
from verl_multiattempt.plots.read import Results, read_all
from verl_multiattempt.plots.sheet import Sheet
from verl_multiattempt.plots.training import read_runs, training_sheet
from verl_multiattempt.whole_file import written_whole

DESCRIPTION = """\
Draws the figures of one or more evaluations (results.json of `multiattempt evaluate`) as PNG and SVG:

  accuracy     mean accuracy against allowed attempts, a line for each label and kind of run
  benchmarks   the same, a panel for each benchmark
  retries      refinement and repeat rates by attempt
  training     with --training: reward, accuracy, refinement, repeats, attempts used, response length by step

Bands are 95 % intervals: of a single results.json its own, over questions; of several with one label,
which are seeds of one arm, the t-interval over the seeds around their mean. Seeds may differ in model and seed alone;
which results were taken as seeds of which arm is printed.
"""
EPILOG = """\
examples:
  multiattempt plot outputs/eval/results.json --out figures
  multiattempt plot before/results.json seed*/results.json --out figures   files of one label are seeds of one arm
  multiattempt plot greedy/ sampled/ --panel-by temperature --out figures  a folder stands for its results.json
  multiattempt plot multi/ --out figures --reference 'paper, multi-attempt=45.6,52.5,51.7,53.8,51.6'
  multiattempt plot --out figures --training multi=run1/metrics.jsonl multi=run2/metrics.jsonl single=run3/tensorboard
"""
DEFAULT_WIDTH = 3.5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``multiattempt plot``."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("results", nargs="*", metavar="RESULTS", help="results.json files, or the folders they lie in")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the figures; made where it is missing")
    parser.add_argument("--training", nargs="+", action="extend", default=[], metavar="LABEL=PATH",
                        help="training logs: a tensorboard folder or event file, or the JSON Lines of verl's file "
                        "logger; several of one label are seeds")  # fmt: skip
    parser.add_argument("--reference", action="append", default=[], metavar="LABEL=P1,P2,...",
                        help="published accuracies in percent with 1, 2, ... allowed attempts, drawn grey into the "
                        "figure of the mean; repeatable")  # fmt: skip
    parser.add_argument("--panel-by", choices=PANEL_CHOICES, default="none",
                        help="temperature: a panel for each sampling temperature; arm: for each label and sampling "
                        "temperature (default: none)")  # fmt: skip
    parser.add_argument("--smooth", type=_steps, default=1, metavar="STEPS",
                        help="training curves as centred moving averages over that many steps, an odd number "
                        "(default: 1, none)")  # fmt: skip
    parser.add_argument("--width", type=_inches, default=DEFAULT_WIDTH, metavar="INCHES",
                        help="width of the figures; letters keep their size (default: 3.5, a column)")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Carry out ``multiattempt plot``.

    Args:
        args: of a parser that `add_arguments` was given.

    Returns:
        The exit status, 0.

    Raises:
        UsageError: an argument, or a file that one names, is not right.
        OSError: the figures cannot be written.
    """
    # Imported when all that was given is right: matplotlib takes a second.
    results, sheets = _sheets(args)
    from verl_multiattempt.plots.draw import render

    rendered = [render(sheet, args.width) for sheet in sheets]
    out = Path(args.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise UsageError(f"--out must be a folder; got the file {args.out!r}") from None
    for line in members(make_arms(results)):
        print(_printable(line, sys.stdout))
    for files, _ in rendered:
        for name, content in files.items():
            with written_whole(out / name) as draft:
                draft.write_bytes(content)
            print(_printable(out / name, sys.stdout))
    for note in dict.fromkeys(note for _, notes in rendered for note in notes):
        print(_printable(f"note: {note}", sys.stderr), file=sys.stderr)
    return 0


def _sheets(args: argparse.Namespace) -> tuple[list[Results], list[Sheet]]:
    if not args.results and not args.training:
        raise UsageError("RESULTS or --training must be given; got neither. See multiattempt plot --help")
    if args.reference and not args.results:
        raise UsageError("--reference must go with RESULTS, into whose figure it is drawn; got none")
    results: list[Results] = []
    sheets = []
    try:
        if args.results:
            results = read_all(args.results)
            references = [read_reference(text) for text in args.reference]
            sheets += evaluation_sheets(results, references, args.panel_by)
        if args.training:
            sheets.append(training_sheet(read_runs(args.training), args.smooth))
    except ValueError as error:  # of an argument or of a file that one names
        raise UsageError(str(error)) from error
    arms = tuple(dict.fromkeys(arm for sheet in sheets for arm in sheet.arms))
    return results, [replace(sheet, together_with=arms) for sheet in sheets]


def _steps(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) % 2 == 0:
        raise argparse.ArgumentTypeError(f"must be an odd number of steps; got {text!r}")
    return int(text)


def _inches(text: str) -> float:
    try:
        inches = float(text)
    except ValueError:
        inches = 0
    if not 2 <= inches <= 20:
        raise argparse.ArgumentTypeError(f"must be a number of inches from 2 to 20; got {text!r}")
    return inches


def _printable(text: object, stream: TextIO) -> str:
    encoding = stream.encoding or "utf-8"
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))
    return shown.encode(encoding, "backslashreplace").decode(encoding)
