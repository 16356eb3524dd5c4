"""``multiattempt view``: an episode log as one HTML page, or in the terminal."""

from __future__ import annotations

import argparse
import heapq
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from verl_multiattempt.cli_errors import UsageError
from verl_multiattempt.record import RecordedEpisode, log_files, read_episodes
from verl_multiattempt.view_page import write_page
from verl_multiattempt.view_summary import Summary
from verl_multiattempt.view_text import episode_text, printable

PAGE_LIMIT = 10_000
"""Episodes listed in a page, without ``--limit``."""
TEXT_LIMIT = 20
"""Episodes printed by ``--text``, without ``--limit``."""
PAGE_NAME = "episodes.html"
PROGRESS_EVERY = 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``multiattempt view``."""
    parser.description = (
        "Writes an episode log as one HTML page: a list with filters, each episode as a conversation with its\n"
        "verdicts, and plots of accuracy and repeats by step. The page needs no other file and no network."
    )
    parser.epilog = (
        "examples:\n"
        "  multiattempt view outputs/quickstart                             the page lies in the log's folder\n"
        "  multiattempt view LOGDIR --step 100-200 --out late.html          of some steps only\n"
        "  multiattempt view LOGDIR --text --limit 5 | less                 the newest five, in the terminal"
    )
    parser.add_argument("logdir", metavar="LOGDIR", help="the log's folder, the folder it lies in, or one of its files")
    parser.add_argument("--out", metavar="PAGE", help=f"the page to write (default: {PAGE_NAME} in the log's folder)")
    parser.add_argument("--text", action="store_true", help="print the episodes in the terminal instead")
    parser.add_argument("--step", type=step_range, metavar="STEPS", default=(None, None),
                        help="only these steps: 12, 10-20, 10- (from 10 on) or -20 (write --step=-20)")  # fmt: skip
    parser.add_argument("--limit", type=_positive, metavar="N",
                        help=f"list the newest N (default: {PAGE_LIMIT:,} in a page, {TEXT_LIMIT} as text); the plots "
                        "are of all episodes read")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Carry out ``multiattempt view``.

    Args:
        args: of a parser that `add_arguments` was given.

    Returns:
        The exit status, 0.

    Raises:
        UsageError: there is no log, or --out goes with --text.
        OSError: the page cannot be written.
    """
    if args.text and args.out:
        raise UsageError("--out must go without --text. Redirect the text to a file instead.")
    try:
        return _print_episodes(args) if args.text else _write_page(args)
    except ValueError as error:
        raise UsageError(printable(str(error))) from error


def step_range(text: str) -> tuple[int | None, int | None]:
    """The first and last step of ``12``, ``10-20``, ``10-`` or ``-20``; None where a side is open.

    Raises:
        argparse.ArgumentTypeError: the text is none of these.
    """
    match = re.fullmatch(r"(\d*)(-?)(\d*)", text.strip(), flags=re.ASCII)
    if not match or not (match[1] or match[3]):
        raise argparse.ArgumentTypeError(f"step must be like 12, 10-20, 10- or -20; got {text!r}")
    first = int(match[1]) if match[1] else None
    last = (int(match[3]) if match[3] else None) if match[2] else first
    if first is not None and last is not None and first > last:
        raise argparse.ArgumentTypeError(f"step must go from low to high; got {text!r}")
    return first, last


def newest(episodes: Iterable[RecordedEpisode], limit: int) -> list[RecordedEpisode]:
    """The ``limit`` episodes of the highest steps, newest first; of a step, the rollouts of a question together."""
    kept = heapq.nlargest(limit, episodes, key=lambda recorded: recorded.step)
    return sorted(kept, key=lambda r: (-r.step, r.validate, r.episode.question_id, r.rollout))


def _read(args: argparse.Namespace) -> Iterator[RecordedEpisode]:
    first, last = args.step
    for recorded in read_episodes(args.logdir):
        if (first is None or recorded.step >= first) and (last is None or recorded.step <= last):
            yield recorded


def _write_page(args: argparse.Namespace) -> int:
    folder = log_files(args.logdir)[0].parent
    out = Path(args.out) if args.out else folder / PAGE_NAME
    summary = Summary()
    episodes = newest(_with_progress(summary.counting(_read(args))), args.limit or PAGE_LIMIT)
    if not episodes:
        raise ValueError(f"LOGDIR must hold episodes of the steps asked for; got none in {args.logdir!r}")
    write_page(out, episodes, summary, title=str(folder))
    listed = "" if len(episodes) == summary.num_episodes else f", the newest {len(episodes):,} listed"
    size = out.stat().st_size / 1e6
    print(printable(f"{out}: {summary.num_episodes:,} episodes{listed} ({size:.1f} MB)"))
    return 0


def _print_episodes(args: argparse.Namespace) -> int:
    episodes = newest(_read(args), args.limit or TEXT_LIMIT)
    if not episodes:
        raise ValueError(f"LOGDIR must hold episodes of the steps asked for; got none in {args.logdir!r}")
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    try:
        # The newest comes last, where a terminal stands.
        for recorded in reversed(episodes):
            text = episode_text(recorded, colour=colour) + "\n"
            sys.stdout.write(text.encode(sys.stdout.encoding, "backslashreplace").decode(sys.stdout.encoding))
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough; the interpreter must not flush again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _with_progress(episodes: Iterable[RecordedEpisode]) -> Iterator[RecordedEpisode]:
    """The episodes, counted on a terminal's error output."""
    shown = sys.stderr.isatty()
    for count, recorded in enumerate(episodes, start=1):
        if shown and count % PROGRESS_EVERY == 0:
            print(f"\r{count:,} episodes read", end="", file=sys.stderr, flush=True)
        yield recorded
    if shown:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"limit must be a number of episodes, at least 1; got {text!r}")
    return int(text)
