"""The command ``multiattempt prepare``: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from verl_multiattempt.cli_errors import UsageError
from verl_multiattempt.data.benchmarks import RECIPES, Columns
from verl_multiattempt.data.card import card_path
from verl_multiattempt.data.gold import HOWS, GoldRule, parse_gold_rule
from verl_multiattempt.data.preparation import NGRAM, SHARE, Preparation, recipe_preparation
from verl_multiattempt.data.prepare import STAGES, prepare
from verl_multiattempt.data.sources import Source

DESCRIPTION = """\
Reads a dataset from the hub or from local files (JSON, JSON Lines, Parquet, CSV), checks every row, and writes verl's
parquet with a data card (JSON) beside it: source, hashes, and what became of every row that was read.

NAME is one of these, whose place on the hub and columns are known, or any other name together with --from:

""" + "\n".join(f"  {name:14} {recipe.about} ({recipe.hub}, {recipe.split})" for name, recipe in RECIPES.items())
EPILOG = """\
examples:
  multiattempt prepare math500                                      from the hub, to math500.parquet
  multiattempt prepare math500 --from math500.jsonl --out data/math500.parquet
  multiattempt prepare math_train --drop-duplicates --exclude math500 aime24 amc23 minerva olympiadbench
  multiattempt prepare mine --from a.csv b.csv --question text --gold solution:boxed --sample 1000

--exclude drops a question that has the same normal text as one of an evaluation set (case, spacing and LaTeX spelling
aside), or that shares --overlap of the n-grams of the shorter of the two, or that has the whole of one of 6 words or
more but fewer than --ngram; one of fewer than 6 is found by its normal text alone.

The exit status is 2 where arguments, or the files, columns or levels that they name, cannot work, and 1 where rows
cannot be used, the hub cannot be reached or nothing can be written.
"""
_WORDS = {
    "malformed": "malformed",
    "level": "of another level",
    "duplicate": "duplicates",
    "contaminated": "in an evaluation set",
    "too_long": "with a prompt that is too long",
    "gold_refused": "with a gold that the verifier refuses",
    "not_sampled": "not in the sample",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``multiattempt prepare``."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    parser.add_argument("name", metavar="NAME", help="a name above, or your own; it becomes the rows' data_source")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the file to write (default: NAME.parquet)")
    source = parser.add_argument_group("source")
    source.add_argument("--from", dest="sources", nargs="+", metavar="SOURCE",
                        help="files, a dataset folder or a name on the hub (default: the recipe's)")  # fmt: skip
    source.add_argument("--config", help="configuration of a dataset on the hub")
    source.add_argument("--split", help="its split")
    source.add_argument("--revision", help="its revision: a branch, tag or commit (default: the newest)")
    columns = parser.add_argument_group("columns, where they are not the recipe's")
    columns.add_argument("--question", metavar="COLUMN", help="the question")
    columns.add_argument("--gold", type=_gold_rule, metavar="COLUMN[:HOW]",
                         help=f"the gold answer; HOW is {', '.join(HOWS)}: the field itself (the default), the last "
                         "\\boxed{}, what stands after ####, the first of a list")  # fmt: skip
    columns.add_argument(
        "--id-column", metavar="COLUMN", help="the row's id (default: unique_id, id ..., else its number)"
    )
    columns.add_argument("--level-column", metavar="COLUMN", help="the level (default: level or difficulty)")
    columns.add_argument("--subject-column", metavar="COLUMN", help="the subject (default: subject, type or subfield)")
    keep = parser.add_argument_group("what is kept")
    keep.add_argument("--level", metavar="LEVELS", help="only these levels: 3-5, 1,3-4, hard or all "
                      "(default: all; of math_train 3-5)")  # fmt: skip
    keep.add_argument("--drop-duplicates", action="store_true", help="keep the first of questions that are the same")
    keep.add_argument("--exclude", nargs="+", default=[], metavar="SET",
                      help="drop questions that occur in these evaluation sets: files, or names above")  # fmt: skip
    keep.add_argument("--ngram", type=int, default=NGRAM, metavar="N", help=f"words in an n-gram (default: {NGRAM})")
    keep.add_argument("--overlap", type=float, default=SHARE, metavar="SHARE",
                      help=f"of the shorter question's n-grams that are shared (default: {SHARE})")  # fmt: skip
    keep.add_argument("--max-prompt-tokens", type=int, metavar="N",
                      help="drop questions whose prompt, with the opening, is longer by --tokenizer")  # fmt: skip
    keep.add_argument("--tokenizer", metavar="MODEL", help="a model on the hub, or its folder")
    keep.add_argument("--sample", type=int, metavar="N", help="keep N of what is left, drawn at random, in their order")
    keep.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    checks = parser.add_argument_group("checks")
    checks.add_argument("--skip-bad", action="store_true", help="leave out rows that cannot be used, instead of ending")
    checks.add_argument("--check-golds", action=argparse.BooleanOptionalAction, default=True,
                        help="ask the verifier whether each gold is correct against itself (default: yes)")  # fmt: skip
    prompt = parser.add_argument_group(
        "prompt (the opening, with the number of attempts, is added when an episode starts)"
    )
    prompt.add_argument("--system", metavar="TEXT", help="a system message")
    prompt.add_argument("--suffix", metavar="TEXT", help="a line after each question")


def run(args: argparse.Namespace) -> int:
    """Carry out ``multiattempt prepare``.

    Args:
        args: of a parser that `add_arguments` was given.

    Returns:
        The exit status, 0.

    Raises:
        UsageError: the arguments, or files that they name, cannot work.
        ValueError, OSError: the dataset cannot be prepared.
    """
    try:
        preparation = preparation_of(args)
    except ValueError as error:
        raise UsageError(str(error)) from error
    card = prepare(preparation, lambda text: print(f"multiattempt prepare: note: {text}", file=sys.stderr))
    _report(card, preparation)
    return 0


def _gold_rule(text: str) -> GoldRule:
    try:
        return parse_gold_rule(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def preparation_of(args: argparse.Namespace) -> Preparation:
    """What the arguments ask for.

    Raises:
        ValueError: they cannot work.
    """
    recipe = RECIPES.get(args.name)
    if recipe is None and not args.sources:
        raise ValueError(f"NAME must be one of {', '.join(RECIPES)} where --from is not given; got {args.name!r}")
    columns = _columns(args, recipe.columns if recipe else Columns())
    source = _source(args)
    values: dict[str, Any] = {
        "exclude": tuple(args.exclude), "share": args.overlap, "columns": columns, "source": source,
        **{name: getattr(args, name) for name in (
            "drop_duplicates", "ngram", "max_prompt_tokens", "tokenizer", "check_golds", "skip_bad", "sample", "seed",
            "system", "suffix")},
    }  # fmt: skip
    if args.level:
        values["levels"] = args.level
    out = args.out or Path(f"{args.name}.parquet")
    if recipe is None:
        return Preparation(name=args.name, out=out, **values)
    return recipe_preparation(args.name, out, **values)


def _source(args: argparse.Namespace) -> Source:
    """What the options name; of a recipe, its configuration and split are meant wherever there can be some."""
    recipe = RECIPES.get(args.name)
    names = tuple(args.sources or (recipe.hub,) if recipe else args.sources)
    asked = Source(names=names, config=args.config, split=args.split, revision=args.revision)
    if recipe is None or all(Path(name).expanduser().is_file() for name in names):
        return asked
    return replace(asked, config=args.config or recipe.config, split=args.split or recipe.split)


def _columns(args: argparse.Namespace, known: Columns) -> Columns:
    named = {
        "question": args.question and (args.question,),
        "gold": args.gold and (args.gold,),
        "source_id": args.id_column and (args.id_column,),
        "level": args.level_column and (args.level_column,),
        "subject": args.subject_column and (args.subject_column,),
    }
    return replace(known, **{name: value for name, value in named.items() if value})


def _report(card: dict[str, Any], preparation: Preparation) -> None:
    counts = card["counts"]
    print(f"{preparation.out}: {counts['written']:,} questions of {counts['read']:,} rows")
    for stage in STAGES:
        if counts[stage] or (stage == "contaminated" and card["exclude"]):
            print(f"  {counts[stage]:>7,} {_WORDS[stage]}")
        if stage == "contaminated":
            for name, found in card.get("contaminated", {}).items():
                print(f"          {found['text']:,} by text and {found['ngrams']:,} by n-grams in {name}")
    print(f"  card: {card_path(preparation.out)}")
