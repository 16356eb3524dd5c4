r"""Finding the gold answer in a published row: in a column of its own, in ``\boxed{}``, after ``####``, in a list."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from verl_multiattempt.answer import extract_answer
from verl_multiattempt.math_verifier.decide import published_gold

# MATH has boxes without braces, \boxed 7, and a few that are called \fbox or \framebox.
_OTHER_BOX = re.compile(r"\\(?:fbox|framebox)(?=\s*\{)")
_BARE_BOX = re.compile(r"\\f?boxed\s+([^\s${}\\.,]+)")
# A list as text: by Python's repr, with commas, or numpy's, without.
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_ELEMENT = rf"""(?:{_QUOTED}|[^\s,'"\[\]]+)"""
_LIST_TEXT = re.compile(rf"\[\s*(?:({_ELEMENT})(?:(?:\s*,\s*|\s+){_ELEMENT})*\s*,?\s*)?\]", flags=re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CONTAINER = re.compile(
    rf"[\[({{]\s*[bru]?{_QUOTED}\s*[\s,:\])}}]|(?:array|dtype)\s*\(|\[\s*-?[\d.]+(?:\s+-?[\d.]+)+\s*\]$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldRule:
    """Where the gold of a row is."""

    column: str
    how: str = "field"
    """One of `HOWS`."""

    def __str__(self) -> str:
        return f"{self.column}:{self.how}"


def parse_gold_rule(text: str) -> GoldRule:
    """The rule written as ``COLUMN`` or ``COLUMN:HOW``.

    Raises:
        ValueError: there is no such way to find a gold, or no column.
    """
    column, colon, how = text.rpartition(":")
    if not colon:
        column, how = text, "field"
    if not column or how not in HOWS:
        raise ValueError(f"gold must be COLUMN or COLUMN:HOW, with HOW one of {', '.join(HOWS)}; got {text!r}")
    return GoldRule(column=column, how=how)


def find_gold(row: Mapping[str, Any], rules: tuple[GoldRule, ...]) -> str:
    """The gold of a row, by the first rule whose column the row has.

    Raises:
        ValueError: the row has none of the columns, or what is there is no gold; the sentence begins with the column.
    """
    for rule in rules:
        if row.get(rule.column) is not None:
            try:
                return HOWS[rule.how](row[rule.column])
            except ValueError as error:
                raise ValueError(f"{rule.column} {error}") from error
    columns = " or ".join(dict.fromkeys(rule.column for rule in rules))
    raise ValueError(f"{columns} must hold the gold answer; got {_what_is_there(row, rules)}")


def _what_is_there(row: Mapping[str, Any], rules: tuple[GoldRule, ...]) -> str:
    if any(rule.column in row for rule in rules):
        return "None"
    return f"the columns {', '.join(map(str, row))}"


def from_field(value: Any) -> str:
    """The value itself: text without the dollar signs around it, or a number (27 for 27.0).

    Raises:
        ValueError: it is neither, or empty; the sentence goes on after the column's name.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float | Decimal):
        remedy = ". Use COLUMN:first for a list." if isinstance(value, list | tuple) else ""
        raise ValueError(f"must be text or a number; got {value!r:.100}{remedy}")
    text = _without_dollars(value.strip()) if isinstance(value, str) else _number_text(value)
    if not text:
        raise ValueError(f"must not be empty; got {value!r:.100}")
    return text


def _number_text(value: float | Decimal) -> str:
    finite = value.is_finite() if isinstance(value, Decimal) else isinstance(value, int) or math.isfinite(value)
    if not finite:
        raise ValueError(f"must be a finite number; got {value!r}")
    if value == int(value):
        try:
            return str(int(value))
        except ValueError:  # Python writes no number of more than 4,300 digits
            raise ValueError(f"must be a number of fewer digits; got {str(value)[:60]}...") from None
    return f"{value:f}" if isinstance(value, Decimal) else repr(value)


def _without_dollars(text: str) -> str:
    """``text`` without the signs of mathematics around it, where they are one pair: ``$x$, $y$`` stays."""
    inner = text.strip("$")
    return inner.strip() if inner and "$" not in inner and text.startswith("$") and text.endswith("$") else text


def from_box(value: Any) -> str:
    r"""The content of the last ``\boxed{}``, and of those that "and" or a comma joins to it.

    Raises:
        ValueError: it is no text, or there is no box; the sentence goes on after the column's name.
    """
    text = _OTHER_BOX.sub(r"\\boxed", value) if isinstance(value, str) else ""
    if extract_answer(text) is not None:
        return published_gold(text[text.find("\\boxed") :].replace("####", ""))
    if bare := _BARE_BOX.findall(text):
        return str(bare[-1])
    raise ValueError(f"must have the gold in \\boxed{{}}; got {_tail(value)}")


def from_hashes(value: Any) -> str:
    """What stands after the last ``####``.

    Raises:
        ValueError: it is no text, or nothing stands there; the sentence goes on after the column's name.
    """
    _, mark, gold = value.rpartition("####") if isinstance(value, str) else ("", "", "")
    if not mark or not gold.strip():
        raise ValueError(f"must have the gold after ####; got {_tail(value)}")
    return str(gold.strip())


def from_first(value: Any) -> str:
    """The first element of a list, or the value where it is none (some copies of a dataset hold it alone).

    Text that begins with a bracket is a list as CSV files hold it: JSON, or the repr of Python or numpy.

    Raises:
        ValueError: the list is empty or cannot be read, or see `from_field`; the sentence goes on after the column's
            name.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _list_of_text(value.strip())
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError(f"must have at least one element; got {value!r}")
        value = value[0]
    return from_field(value)


def _list_of_text(text: str) -> list[Any]:
    r"""The list that ``text`` is, or the first element of it alone.

    Raises:
        ValueError: it is none, or one whose backslashes are not doubled, as JSON and a repr have them.
    """
    must = f"must be a list as JSON or Python writes it, with backslashes doubled; got {text!r:.100}"
    try:
        elements = json.loads(text)
    except (ValueError, RecursionError):
        elements = _repr_of_list(text, must)
    if any(isinstance(each, str) and _CONTROL.search(each) for each in elements):
        raise ValueError(must)  # the form feed that \frac becomes, the new line of \neq
    return list(elements)


def _repr_of_list(text: str, must: str) -> list[Any]:
    # Not by literal_eval as a whole: it joins numpy's 'a' 'b', which has no comma, to one text.
    match = _LIST_TEXT.fullmatch(text)
    if match is None:
        raise ValueError(must)
    if match[1] is None:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of an escape that is none, such as \s
        try:
            return [ast.literal_eval(match[1])]
        except (ValueError, SyntaxError, Warning) as error:
            raise ValueError(must) from error


def looks_like_a_container(gold: str) -> bool:
    """Whether a gold is a whole list, dictionary or array as Python writes it, which no answer is equal to."""
    return _CONTAINER.match(gold) is not None


def _tail(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"...{text[-97:]}"


HOWS: dict[str, Callable[[Any], str]] = {
    "field": from_field,
    "boxed": from_box,
    "hashes": from_hashes,
    "first": from_first,
}
