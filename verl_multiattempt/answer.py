r"""Finding the final answer in the text of an attempt: the last complete ``\boxed{...}``."""

from __future__ import annotations

import re

_OPEN = re.compile(r"\\boxed\s*\{")


def boxed_spans(text: str) -> list[tuple[int, int]]:
    r"""Spans ``[start, end)`` of the contents of all complete, outermost ``\boxed{...}``.

    Braces are matched with escapes (``\{``) taken as text. A box that never closes is no box; a complete box inside
    an unclosed one counts. Runs in time linear in the text, whatever the nesting.
    """
    closes = matching_braces(text)
    spans: list[tuple[int, int]] = []
    position = 0
    while match := _OPEN.search(text, position):
        close = closes.get(match.end() - 1)
        if close is None:
            position = match.end()
            continue
        spans.append((match.end(), close))
        position = close + 1
    return spans


def matching_braces(text: str) -> dict[int, int]:
    """Position of the closing brace for each position of an opening brace that has one."""
    closes: dict[int, int] = {}
    stack: list[int] = []
    for match in re.finditer(r"\\.|[{}]", text, flags=re.DOTALL):
        token = match.group()
        if token == "{":
            stack.append(match.start())
        elif token == "}" and stack:
            closes[stack.pop()] = match.start()
    return closes


def extract_answer(text: str) -> str | None:
    r"""The content of the last complete, non-empty ``\boxed{...}``, stripped; None where there is none."""
    for start, end in reversed(boxed_spans(text)):
        if answer := text[start:end].strip():
            return answer
    return None
