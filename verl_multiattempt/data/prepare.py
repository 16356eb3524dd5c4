"""From a published dataset to verl's parquet: read, filter, check, write, and keep count of every row."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verl_multiattempt import __version__
from verl_multiattempt.cli_errors import UsageError
from verl_multiattempt.data import card as cards
from verl_multiattempt.data.exclude import read_evaluation_set, split_contaminated
from verl_multiattempt.data.filters import ALL_LEVELS, draw_sample, level_filter, prompt_counter, split_duplicates
from verl_multiattempt.data.gold_check import refused_golds
from verl_multiattempt.data.preparation import Preparation, recipe_preparation
from verl_multiattempt.data.rows import Item, make_prompt, read_item, refuse_unknown_columns, to_verl_row
from verl_multiattempt.data.sources import open_source

logger = logging.getLogger(__name__)

STAGES = ("malformed", "level", "duplicate", "contaminated", "too_long", "gold_refused", "not_sampled")
"""Why a row that was read is not written, in the order in which it is asked; counts in the card add up to ``read``."""


class PreparationError(ValueError):
    """A dataset cannot be prepared; the first line of the message is a sentence."""


@dataclass(slots=True, kw_only=True)
class _Tally:
    """What became of the rows."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("read", *STAGES, "written"), 0))
    bad: list[str] = field(default_factory=list)
    """A sentence for each row that cannot be used."""
    details: dict[str, Any] = field(default_factory=dict)


def prepare_benchmark(name: str, out: Path) -> Path:
    """Prepare a built-in benchmark from the hub with the default settings, unless that has been done.

    Args:
        name: of a recipe.
        out: path of the parquet file; where it and its card are what this would write, nothing is loaded.

    Returns:
        ``out``.

    Raises:
        ValueError: there is no such recipe, or it cannot be loaded; one sentence.
    """
    preparation = recipe_preparation(name, out)
    card = cards.read_card(out)
    done = card is not None and (card["name"], card["version"], card["settings"], card["exclude"]) == (
        name, __version__, preparation.settings(), [])  # fmt: skip
    if not (done and card and card["source"].get("name") == preparation.source.names[0]):
        prepare(preparation)
    return out


def prepare(preparation: Preparation, warn: Callable[[str], object] = logger.warning) -> dict[str, Any]:
    """Carry out a preparation.

    Args:
        preparation: what to do.
        warn: is given sentences on what is odd but no error; the log by default.

    Returns:
        The data card as written.

    Raises:
        UsageError: a source cannot be read, or has not the columns or levels that are asked for.
        ValueError: rows cannot be used, or none is left.
        OSError: the file cannot be written.
    """
    tally = _Tally()
    # What is needed later is opened first: a wrong name should not be told after minutes.
    count_tokens = prompt_counter(preparation.tokenizer) if preparation.tokenizer else None
    sets = [read_evaluation_set(name, n=preparation.ngram, share=preparation.share) for name in preparation.exclude]
    items, origin = _read(preparation, tally, warn)
    items = _keep_levels(items, preparation, tally)
    if preparation.drop_duplicates:
        items = _drop_duplicates(items, tally, warn)
    if sets:
        with _progress("questions compared", len(items)) as advance:
            items, contaminated = split_contaminated(_told(items, advance), sets)
        tally.counts["contaminated"] = len(contaminated)
        tally.details["contaminated"] = _by_set(contaminated, preparation.exclude)
    if count_tokens is not None:
        items = _drop_too_long(items, preparation, count_tokens, tally)
    if preparation.check_golds:
        items = _check_golds(items, preparation, tally, warn)
    if preparation.sample is not None:
        before = len(items)
        items = draw_sample(items, preparation.sample, preparation.seed)
        tally.counts["not_sampled"] = before - len(items)
        if len(items) < preparation.sample:
            warn(f"--sample asks for {preparation.sample} questions; there are {len(items)}, all of them are taken")
    tally.counts["written"] = len(items)
    if not items:
        raise PreparationError(f"a file must have at least one row; got none of {_in_words(tally.counts)}")
    rows = (
        to_verl_row(item, index, name=preparation.name, prompt=_prompt(item, preparation))
        for index, item in enumerate(items)
    )
    card = {
        "schema": cards.SCHEMA,
        "name": preparation.name,
        "version": __version__,
        "source": origin,
        "exclude": [{"name": each.name, "questions": len(each.index), **each.origin} for each in sets],
        "settings": preparation.settings(),
        "counts": tally.counts,
        "bad_rows": tally.bad,
        **tally.details,
    }
    return cards.write(preparation.out, rows, card)


def _read(preparation: Preparation, tally: _Tally, warn: Callable[[str], object]) -> tuple[list[Item], dict[str, Any]]:
    opened = open_source(preparation.source, preparation.columns.wanted())
    items: list[Item] = []
    seen: set[str] = set()
    with _progress("rows read", opened.num_rows) as advance:
        for number, (place, row) in enumerate(_told(opened.rows, advance)):
            try:
                if isinstance(row, ValueError):
                    raise ValueError(f"{place}: {row}")
                seen |= row.keys()
                items.append(read_item(place, number, row, preparation.columns))
            except ValueError as error:
                tally.bad.append(str(error))
            except RecursionError:
                tally.bad.append(f"{place}: a row must hold nothing that is nested thousands deep")
            tally.counts["read"] += 1
    tally.counts["malformed"] = len(tally.bad)
    if not tally.counts["read"]:
        raise UsageError(f"--from must have at least one row; got none in {', '.join(preparation.source.names)}")
    if seen:
        refuse_unknown_columns(preparation.columns, seen)
    _judge_bad(tally.bad, tally.counts["read"], preparation, warn)
    expected = preparation.published_rows
    if expected not in (None, tally.counts["read"]):
        warn(f"{preparation.name} was published with {expected:,} rows; {tally.counts['read']:,} were read")
    return items, opened.origin


def _judge_bad(bad: list[str], read: int, preparation: Preparation, warn: Callable[[str], object]) -> None:
    if not bad:
        return
    shown = "\n".join(f"  {sentence}" for sentence in bad[:5]) + ("\n  ..." if len(bad) > 5 else "")
    if len(bad) == read or not preparation.skip_bad:
        remedy = "" if len(bad) == read else " Correct them, or leave them out with --skip-bad."
        raise PreparationError(f"rows must be usable; got {len(bad):,} of {read:,} that are not.{remedy}\n{shown}")
    warn(f"{len(bad):,} of {read:,} rows cannot be used and are left out (all are named in the card)\n{shown}")


def _keep_levels(items: list[Item], preparation: Preparation, tally: _Tally) -> list[Item]:
    if preparation.levels == ALL_LEVELS:
        return items
    if not any(item.level for item in items):
        looked = ", ".join(preparation.columns.level)
        raise UsageError(
            f"--level must go with rows that have a level; got {preparation.levels!r} and no level in the columns "
            f"{looked or '(none)'}. Name the column with --level-column, or ask for --level all."
        )
    wanted = level_filter(preparation.levels)
    kept = [item for item in items if wanted(item.level)]
    tally.counts["level"] = len(items) - len(kept)
    return kept


def _drop_duplicates(items: list[Item], tally: _Tally, warn: Callable[[str], object]) -> list[Item]:
    kept, duplicates = split_duplicates(items)
    tally.counts["duplicate"] = len(duplicates)
    tally.details["duplicates"] = [{"row": item.where, "of": first.where} for item, first in duplicates]
    if other := [(item, first) for item, first in duplicates if item.gold != first.gold]:
        item, first = other[0]
        warn(f"{len(other):,} duplicates have another gold than the first of their question, which is kept; for "
             f"instance {item.where}: {item.gold!r:.60}, {first.where}: {first.gold!r:.60}")  # fmt: skip
    return kept


def _by_set(contaminated: list[Any], names: Iterable[str]) -> dict[str, Any]:
    by_set: dict[str, Any] = {name: {"text": 0, "ngrams": 0, "rows": []} for name in names}
    for item, matches in contaminated:
        for name, match in matches.items():
            by_set[name][match.kind] += 1
            by_set[name]["rows"].append({"row": item.where, "of": match.of, "share": round(match.share, 3)})
    return by_set


def _drop_too_long(
    items: list[Item], preparation: Preparation, count_tokens: Callable[[Any], int], tally: _Tally
) -> list[Item]:
    limit = preparation.max_prompt_tokens or 0
    with _progress("prompts measured", len(items)) as advance:
        kept = [item for item in _told(items, advance) if count_tokens(_prompt(item, preparation)) <= limit]
    tally.counts["too_long"] = len(items) - len(kept)
    return kept


def _check_golds(
    items: list[Item], preparation: Preparation, tally: _Tally, warn: Callable[[str], object]
) -> list[Item]:
    with _progress("golds verified", len(items)) as advance:
        refused = refused_golds(items, advance)
    tally.counts["gold_refused"] = len(refused)
    bad = [sentence for _, sentence in refused]
    tally.bad += bad
    _judge_bad(bad, len(items), preparation, warn)
    without = {id(item) for item, _ in refused}
    return [item for item in items if id(item) not in without]


def _prompt(item: Item, preparation: Preparation) -> list[dict[str, str]]:
    return make_prompt(item.question, system=preparation.system, suffix=preparation.suffix)


def _in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{counts[name]:,} {name.replace('_', ' ')}" for name in ("read", *STAGES) if counts[name])


@contextmanager
def _progress(what: str, total: int | None) -> Iterator[Callable[[int], object]]:
    """A progress bar on a terminal; gives the function that moves it."""
    from tqdm import tqdm

    with tqdm(desc=what, total=total, disable=None, leave=False, unit="") as bar:
        yield bar.update


def _told(things: Iterable[Any], advance: Callable[[int], object]) -> Iterator[Any]:
    for thing in things:
        yield thing
        advance(1)
