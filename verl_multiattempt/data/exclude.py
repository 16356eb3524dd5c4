"""The evaluation sets whose questions a training set must not have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_multiattempt.data.benchmarks import QUESTION_COLUMNS, RECIPES
from verl_multiattempt.data.card import read_card
from verl_multiattempt.data.overlap import Match, QuestionIndex
from verl_multiattempt.data.rows import Item, question_of
from verl_multiattempt.data.sources import LoadError, OpenSource, Source, SourceError, open_source


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSet:
    """One evaluation set, indexed."""

    name: str
    origin: Mapping[str, Any]
    """For the data card."""
    index: QuestionIndex


def read_evaluation_set(name: str, *, n: int, share: float) -> EvaluationSet:
    """Read and index an evaluation set.

    Args:
        name: a file that ``multiattempt prepare`` wrote, a raw file, or the name of a recipe, which is then loaded from
            the hub.
        n: words in an n-gram.
        share: of the shorter question's n-grams that is an overlap.

    Raises:
        SourceError: it cannot be read, or a row has no question: an evaluation set is taken whole or not at all.
        LoadError: the hub does not give it.
    """
    index = QuestionIndex(n=n, share=share)
    try:
        opened, columns = _open(name)
        suffix = _suffix(name)
        for place, row in opened.rows:
            if isinstance(row, ValueError):
                raise ValueError(f"{place}: {row}")
            index.add(_question(row, columns, place).removesuffix(suffix), place)
    except (SourceError, LoadError) as error:
        raise type(error)(str(error).replace("--from", "--exclude")) from error
    except ValueError as error:
        raise SourceError(f"--exclude must name evaluation sets whose rows have a question; got {error}") from error
    if not len(index):
        raise SourceError(f"--exclude must name evaluation sets with at least one row; got {name!r}")
    return EvaluationSet(name=name, origin=opened.origin, index=index)


def _open(name: str) -> tuple[OpenSource, Sequence[str]]:
    recipe = None if Path(name).exists() else RECIPES.get(name)
    if recipe is not None:
        source = Source(names=(recipe.hub,), config=recipe.config, split=recipe.split)
        return open_source(source, recipe.columns.wanted()), recipe.columns.question
    if not Path(name).expanduser().is_file():
        raise SourceError(f"--exclude must name files or {', '.join(RECIPES)}; got {name!r}")
    return open_source(Source(names=(name,)), ("prompt", *QUESTION_COLUMNS)), QUESTION_COLUMNS


def _suffix(name: str) -> str:
    """What ``--suffix`` put after the questions of a prepared file, as its card says."""
    card = read_card(Path(name).expanduser()) or {}
    suffix = card.get("settings", {}).get("suffix")
    return f"\n{suffix}" if suffix else ""


def _question(row: Mapping[str, Any], columns: Sequence[str], place: str) -> str:
    try:
        prompt = row.get("prompt")
        if isinstance(prompt, list):
            return question_of({"prompt": _last_user_text(prompt)}, ("prompt",))
        return question_of(row, columns)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error


def _last_user_text(prompt: Iterable[Any]) -> Any:
    texts = [
        message.get("content") for message in prompt if isinstance(message, dict) and message.get("role") == "user"
    ]
    return texts[-1] if texts else None


def split_contaminated(
    items: Iterable[Item], sets: Sequence[EvaluationSet]
) -> tuple[list[Item], list[tuple[Item, dict[str, Match]]]]:
    """The items that are in none of the sets, and the others, each with its match in every set that has it."""
    kept, contaminated = [], []
    for item in items:
        matches = {each.name: match for each in sets if (match := each.index.find(item.question)) is not None}
        if matches:
            contaminated.append((item, matches))
        else:
            kept.append(item)
    return kept, contaminated
