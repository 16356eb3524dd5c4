"""A published row read, and the row that verl gets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verl_multiattempt.cli_errors import UsageError
from verl_multiattempt.data.benchmarks import Columns
from verl_multiattempt.data.gold import find_gold

Message = dict[str, str]
_SURROGATE = re.compile("[\ud800-\udfff]")
_LEVEL = re.compile(r"level\s+(?=\S)", flags=re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A question with its gold."""

    place: str
    """File or dataset and row, for messages."""
    source_id: str
    """The row's id as published, or its number in the source."""
    question: str
    gold: str
    level: str | None = None
    """``5`` for ``5``, ``5.0`` and ``Level 5``; any other text as it is."""
    subject: str | None = None

    @property
    def where(self) -> str:
        """What messages call it."""
        return f"{self.place} (id {self.source_id!r})"


def read_item(place: str, number: int, row: Mapping[str, Any], columns: Columns) -> Item:
    """Read a published row.

    Args:
        place: of the row, for messages.
        number: of the row in its source.
        row: as published.
        columns: where what is.

    Raises:
        ValueError: the row cannot be used; the message names it.
    """
    source_id = source_id_of(row, number, columns)
    try:
        item = Item(
            place=place,
            source_id=source_id,
            question=_question(row, columns),
            gold=find_gold(row, columns.gold),
            level=level_of(_first(row, columns.level)),
            subject=_text_or_none(_first(row, columns.subject)),
        )
        for text in (item.question, item.gold, source_id, item.level or "", item.subject or ""):
            if _SURROGATE.search(text):  # JSON can spell one; no file can hold it
                raise ValueError(f"text must be Unicode; got a lone surrogate in {text!r:.100}")
        return item
    except ValueError as error:
        raise ValueError(f"{place} (id {source_id!r}): {error}") from error


def refuse_unknown_columns(columns: Columns, seen: set[str]) -> None:
    """Where no row has a column that is needed, or one that was named: the argument is wrong, not each row.

    Raises:
        UsageError: there is such a column.
    """
    asked = {"question": columns.question, "gold": tuple(rule.column for rule in columns.gold),
             "id-column": columns.source_id, "level-column": columns.level,
             "subject-column": columns.subject}  # fmt: skip
    for option, names in asked.items():
        # An id, a level or a subject may be missing, but not where one column was named for it.
        if not seen.intersection(names) and (option in ("question", "gold") or len(names) == 1):
            got = f"{' or '.join(map(repr, names))}, which no row has"
            raise UsageError(f"--{option} must name a column of the rows; got {got}. Columns read: {_listed(seen)}.")


def _listed(names: Iterable[str]) -> str:
    listed = sorted(names)
    return ", ".join(map(repr, listed[:20])) + (" ..." if len(listed) > 20 else "")


def source_id_of(row: Mapping[str, Any], number: int, columns: Columns) -> str:
    """The row's id as published, or ``number``."""
    return _text_or_none(_first(row, columns.source_id)) or str(number)


def question_of(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The text in the first of the columns that the row has.

    Raises:
        ValueError: there is none, or it is no text.
    """
    name = next((name for name in columns if row.get(name) is not None), None)
    if name is None:
        there = "None" if any(name in row for name in columns) else f"the columns {', '.join(map(str, row))}"
        raise ValueError(f"{' or '.join(columns)} must hold the question; got {there}")
    text = row[name]
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{name} must be the text of a question; got {text!r:.100}")
    return text.strip()


def _question(row: Mapping[str, Any], columns: Columns) -> str:
    question = question_of(row, columns.question)
    context = _text_or_none(_first(row, columns.context))
    return f"{context}\n\n{question}" if context else question


def _first(row: Mapping[str, Any], columns: Sequence[str]) -> Any:
    return next((row[name] for name in columns if row.get(name) is not None), None)


def _text_or_none(value: Any) -> str | None:
    if isinstance(value, float):  # as a column of whole numbers with gaps is read by some
        if not math.isfinite(value):
            return None
        value = int(value) if value == int(value) else value
    return str(value).strip() or None if isinstance(value, str | int | float) else None


def level_of(value: Any) -> str | None:
    """A level as text: ``5`` for 5, 5.0 and ``Level 5``; None where there is none."""
    text = _text_or_none(value)
    return None if text is None else _LEVEL.sub("", text, count=1) if _LEVEL.match(text) else text


def make_prompt(question: str, *, system: str | None, suffix: str | None) -> list[Message]:
    """The messages of a prompt; the multi-attempt opening is put in when an episode starts.

    Args:
        question: the question.
        system: text of a system message.
        suffix: text on a line of its own after the question.
    """
    before = [{"role": "system", "content": system}] if system else []
    return [*before, {"role": "user", "content": f"{question}\n{suffix}" if suffix else question}]


def to_verl_row(item: Item, index: int, *, name: str, prompt: Sequence[Message]) -> dict[str, Any]:
    """A row in verl's format.

    Args:
        item: the question.
        index: of the row in the file.
        name: the ``data_source``.
        prompt: the messages.
    """
    return {
        "data_source": name,
        "prompt": list(prompt),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": item.gold},
        "extra_info": {
            "index": index,
            "source_id": item.source_id,
            "level": item.level,
            "subject": item.subject,
        },
    }


def schema() -> Any:
    """The columns of every file, whatever its source has: verl puts several files together, which needs them equal."""
    import pyarrow as pa

    text = pa.string()
    return pa.schema(
        {
            "data_source": text,
            "prompt": pa.list_(pa.struct({"role": text, "content": text})),
            "ability": text,
            "reward_model": pa.struct({"style": text, "ground_truth": text}),
            "extra_info": pa.struct({"index": pa.int64(), "source_id": text, "level": text, "subject": text}),
        }
    )
