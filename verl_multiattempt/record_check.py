"""Whether the values of a log's line are what the table in `verl_multiattempt.record` says.

A log may have been edited or made by another tool. A line with a wrong value is no episode, rather than a figure or a
page that breaks later.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from verl_multiattempt.episode import Stop
from verl_multiattempt.verifier import Outcome

SEGMENT_KINDS = ("prompt", "model", "feedback", "inserted")
MAX_INTEGER = 2**53 - 1
"""Largest integer that every reader of JSON keeps exact."""
NON_FINITE = ("NaN", "Infinity", "-Infinity")
"""How the log writes the numbers that JSON does not have."""

Kind = tuple[str, Callable[[Any], Any]]
"""What a value must be, in words, and its conversion, which raises TypeError, ValueError or OverflowError."""


def _of(*types: type) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        if type(value) not in types:  # a bool is no integer here
            raise TypeError
        return value

    return convert


def _one_of(values: Iterable[str]) -> Kind:
    known = tuple(str(value) for value in values)

    def convert(value: Any) -> Any:
        if value not in known:
            raise ValueError
        return value

    return f"one of {', '.join(known)}", convert


def _integer(value: Any) -> int:
    if type(value) is not int or abs(value) > MAX_INTEGER:
        raise TypeError
    return int(value)


def _count(value: Any) -> int:
    count = _integer(value)
    if count < 0:
        raise ValueError
    return count


def _number(value: Any) -> float:
    if type(value) not in (int, float) and value not in NON_FINITE:
        raise TypeError
    return float(value)


def _optional_number(value: Any) -> float | None:
    return None if value is None else _number(value)


TEXT: Kind = ("text", _of(str))
OPTIONAL_TEXT: Kind = ("text or null", _of(str, type(None)))
FLAG: Kind = ("true or false", _of(bool))
INTEGER: Kind = ("an integer", _integer)
COUNT: Kind = ("an integer of at least 0", _count)
NUMBER: Kind = ("a number", _number)
LIST: Kind = ("a list", _of(list))

LINE: dict[str, Kind] = {
    "question_id": TEXT,
    "data_source": TEXT,
    "index": ("text, a number or null", _of(str, int, float, type(None))),
    "step": INTEGER,
    "rollout": INTEGER,
    "validate": FLAG,
    "worker": TEXT,
    "dropped": COUNT,
    "started_at": NUMBER,
    "seconds": NUMBER,
    "ground_truth": ("anything", lambda value: value),
    "reward": NUMBER,
    "max_attempts": COUNT,
    "truncated": FLAG,
    "num_context_tokens": COUNT,
    "messages": LIST,
    "attempts": LIST,
    "segments": LIST,
}
ATTEMPT: dict[str, Kind] = {
    "text": TEXT,
    "stop": _one_of(Stop),
    "num_tokens": COUNT,
    "logprob_mean": ("a number or null", _optional_number),
    "generate_s": NUMBER,
    "feedback": OPTIONAL_TEXT,
    "outcome": _one_of(Outcome),
    "answer": OPTIONAL_TEXT,
    "normal_answer": OPTIONAL_TEXT,
    "verifier_feedback": OPTIONAL_TEXT,
    "detail": OPTIONAL_TEXT,
    "fault": OPTIONAL_TEXT,
    "seconds": NUMBER,
}
MESSAGE: dict[str, Kind] = {"role": TEXT, "content": ("text or a list of parts", _of(str, list))}
SEGMENT: dict[str, Kind] = {"kind": _one_of(SEGMENT_KINDS), "text": TEXT, "num_tokens": COUNT}
END: dict[str, Kind] = {"worker": TEXT, "dropped": COUNT}


def check_line(record: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an episode's line, numbers as such; keys that the table does not have are left out.

    Raises:
        ValueError: one is missing or of another kind.
    """
    checked = check_values(record, LINE)
    for key, kinds in (("messages", MESSAGE), ("attempts", ATTEMPT), ("segments", SEGMENT)):
        checked[key] = [check_values(item, kinds, f"{key}[{i}]") for i, item in enumerate(checked[key])]
    return checked


def check_values(record: Any, kinds: Mapping[str, Kind], place: str = "") -> dict[str, Any]:
    """The values of an object, each converted to its kind.

    Args:
        record: the object.
        kinds: the kind of each value by key.
        place: where the object stands in its line.

    Raises:
        ValueError: it is no object, or a value is missing or of another kind.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"{place or 'a line'} must be an object; got {reprlib.repr(record)}")
    checked = {}
    for key, (said, convert) in kinds.items():
        name = f"{place}.{key}" if place else key
        if key not in record:
            raise ValueError(f"{name} must be there; got none")
        try:
            checked[key] = convert(record[key])
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{name} must be {said}; got {reprlib.repr(record[key])}") from None
    return checked
