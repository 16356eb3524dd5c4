r"""Finding the final answer in the text of an attempt: the last complete ``\boxed{...}``."""

from __future__ import annotations

import re

_OPEN = re.compile(r"\\boxed\s*\{")
_BEGUN = re.compile(r"\\(?:b(?:o(?:x(?:ed?)?)?)?|boxed\s*)?$")
_BRACE = re.compile(r"\\.|[{}]", flags=re.DOTALL)


def boxed_spans(text: str) -> list[tuple[int, int]]:
    r"""Spans ``[start, end)`` of the contents of all complete, outermost ``\boxed{...}``.

    Braces are matched with escapes (``\{``) taken as text. A box that never closes is no box; a complete box inside
    an unclosed one counts. Runs in time linear in the text, whatever the nesting.
    """
    spans: list[tuple[int, int]] = []
    first = _OPEN.search(text)
    if first is None:
        return spans
    position = first.start()
    # A brace before the first box cannot change where a box is closed.
    closes = matching_braces(text, position)
    while match := _OPEN.search(text, position):
        close = closes.get(match.end() - 1)
        if close is None:
            position = match.end()
            continue
        spans.append((match.end(), close))
        position = close + 1
    return spans


def matching_braces(text: str, start: int = 0) -> dict[int, int]:
    """Position of the closing brace for each position, from ``start`` on, of an opening brace that has one."""
    closes: dict[int, int] = {}
    stack: list[int] = []
    for match in _BRACE.finditer(text, start):
        token = match.group()
        if token == "{":
            stack.append(match.start())
        elif token == "}" and stack:
            closes[stack.pop()] = match.start()
    return closes


def has_open_box(text: str) -> bool:
    r"""Whether a ``\boxed{``, or its beginning, is there that further text may complete.

    Only for a text without an answer.
    """
    return len(_OPEN.findall(text)) > len(boxed_spans(text)) or _BEGUN.search(text) is not None


def extract_answer(text: str) -> str | None:
    r"""The content of the last complete, non-empty ``\boxed{...}``, stripped; None where there is none."""
    for start, end in reversed(boxed_spans(text)):
        if answer := text[start:end].strip():
            return answer
    return None
