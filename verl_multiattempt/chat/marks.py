"""The marks around what a model thinks before it answers: which they are, and which tokens spell them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from typing import Any

THINKING_MARKS = (
    "<think>", "</think>", "[THINK]", "[/THINK]", "<|begin_of_thought|>", "<|end_of_thought|>",
    "<|START_THINKING|>", "<|END_THINKING|>", "<seed:think>", "</seed:think>",
)  # fmt: skip
"""Marks around thoughts, in pairs. Some tokenizers hold them for special; they never end an attempt."""
_NAMED_SO = re.compile(r"think|thought|reasoning|\bcot", re.IGNORECASE)
_SPLIT_AT = re.compile(r"""r?(?:split|partition)\(\s*(['"])(.+?)\1""")


def known_pairs() -> Iterator[tuple[str, str]]:
    """The pairs of ``THINKING_MARKS``."""
    return zip(THINKING_MARKS[::2], THINKING_MARKS[1::2], strict=True)


def marks_to_try(template: object) -> Iterator[tuple[str, str]]:
    """Pairs of marks around thoughts: the known ones, and whatever else the template looks for in a message.

    Args:
        template: the text of a chat template. Of a mark that it splits at, only the closing one is known.
    """
    # Others need no rendering: the template cannot look for what it does not name.
    yield from (pair for pair in known_pairs() if not isinstance(template, str) or pair[1] in template)
    for mark in split_marks(template):
        if mark not in THINKING_MARKS:
            yield "", mark


def split_marks(template: object) -> list[str]:
    """What the template splits messages at."""
    found = _SPLIT_AT.findall(template) if isinstance(template, str) else []
    return [mark for _, mark in found if "\\" not in mark]


def thought_ids(tokenizer: Any, scaffold_ids: Set[int]) -> set[int]:
    """Added tokens that a model writes around its thoughts.

    Args:
        tokenizer: a Hugging Face tokenizer with its chat template.
        scaffold_ids: tokens that begin and end turns; no mark that merely the template splits at is one of them.
    """
    added = {i: token.content for i, token in tokenizer.added_tokens_decoder.items()}
    named = {i for i, text in added.items() if text in THINKING_MARKS or _NAMED_SO.search(text)}
    # A template names the closing mark alone where it takes what follows it.
    looked_for = {_unsided(mark) for mark in split_marks(tokenizer.chat_template) if mark in added.values()}
    # Not <|end|>: nothing but its side is in its name.
    looked_for = {text for text in looked_for if re.search(r"\w", text)}
    return named | ({i for i, text in added.items() if _unsided(text) in looked_for} - scaffold_ids)


def _unsided(mark: str) -> str:
    """The same text for the opening and for the closing mark of a pair."""
    return re.sub(r"/|start|begin|open|end|close", "", mark.casefold())
