"""What is kept of the questions: levels, one of several that are the same, a sample, prompts that are short enough."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from verl_multiattempt.cli_errors import UsageError
from verl_multiattempt.data.overlap import normal_text, tokens_of
from verl_multiattempt.data.rows import Item

_T = TypeVar("_T")
ALL_LEVELS = "all"


def level_filter(levels: str) -> Callable[[str | None], bool]:
    """Whether a level is one of those asked for.

    Args:
        levels: numbers, ranges of numbers and names, with commas between them: ``3-5``, ``1,3-4``, ``easy,hard``; or
            ``all``.

    Raises:
        ValueError: it is nothing of the sort.
    """
    if levels == ALL_LEVELS:
        return lambda level: True
    names: set[str] = set()
    for part in levels.split(","):
        part = part.strip().casefold()
        ends = re.fullmatch(r"(\d{1,6})-(\d{1,6})", part, flags=re.ASCII)
        if not part or (ends and int(ends[1]) > int(ends[2])):
            raise ValueError(f"--level must be like 3-5, 1,3-4, hard or all; got {levels!r}")
        names |= set(map(str, range(int(ends[1]), int(ends[2]) + 1))) if ends else {part}
    return lambda level: level is not None and level.casefold() in names


def split_duplicates(items: Iterable[Item]) -> tuple[list[Item], list[tuple[Item, Item]]]:
    """The first of each question, and the others, each with the first that it is the same as."""
    first: dict[str, Item] = {}
    duplicates = []
    for item in items:
        kept = first.setdefault(normal_text(tokens_of(item.question)), item)
        if kept is not item:
            duplicates.append((item, kept))
    return list(first.values()), duplicates


def draw_sample(items: Sequence[_T], size: int, seed: int) -> list[_T]:
    """``size`` of the items, or all where there are fewer, in their order; the same ones for the same seed."""
    if size >= len(items):
        return list(items)
    return [items[number] for number in sorted(random.Random(seed).sample(range(len(items)), size))]


def prompt_counter(tokenizer_name: str) -> Callable[[Sequence[Mapping[str, Any]]], int]:
    """Counts the tokens of a prompt as the agent loop builds it: with the opening, by the chat template.

    The opening is the default one, with the largest default allowance.

    Args:
        tokenizer_name: of a model on the hub, or its folder.

    Raises:
        UsageError: the tokenizer cannot be loaded, or has no chat template that can be used.
    """
    from transformers import AutoTokenizer

    from verl_multiattempt.chat.scaffold import render, resolve_scaffold
    from verl_multiattempt.feedback import feedback_text, open_messages
    from verl_multiattempt.settings import Settings

    settings = Settings()
    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_name)
    except Exception as error:  # of the hub, the network or the files
        why = " ".join(str(error).split())[:300]
        raise UsageError(
            f"--tokenizer must name a tokenizer that can be loaded; got {tokenizer_name!r}: {why}"
        ) from error
    if not getattr(tokenizer, "chat_template", None):
        raise UsageError(f"--tokenizer must name a tokenizer with a chat template; got {tokenizer_name!r} without one")
    scaffold = resolve_scaffold(
        tokenizer, sample_feedback=feedback_text(settings.feedback, max(1, settings.max_attempts - 1))
    )

    def count(prompt: Sequence[Mapping[str, Any]]) -> int:
        messages = open_messages(prompt, settings.opening, settings.max_attempts, placement=scaffold.opening_placement)
        return len(render(tokenizer, messages, scaffold.template_kwargs, add_generation_prompt=True))

    return count
