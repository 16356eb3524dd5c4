"""How a chat template writes the past: what it changes in a conversation once later messages follow.

An episode's tokens hold each attempt as it was sampled, and each feedback as the template wrote it when it was the
last message. The template, given the whole conversation, may write these otherwise. Each kind of change is found by
comparing the two.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass

from verl_multiattempt.chat.layout import ANSWERS, EARLIER, FEEDBACK, Layout
from verl_multiattempt.chat.marks import THINKING_MARKS, known_pairs, marks_to_try

_THOUGHT = "Let me add"
_LONG = " ".join(map(str, range(1001, 1201)))
"""An attempt long enough that a template which cuts earlier messages cuts this one."""
_FIRST_TRY = 8
"""Attempts of the episode in which changes are looked for first; longer ones only where it shows none."""
_MOST_CHANGES = 3
_MOST_CHARS = 20_000
"""Of texts that are compared word by word, which is slow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """How the template writes an attempt that has become history, against how it was generated."""

    prefill: str
    """What the generation prompt writes after the header and the history does not, such as ``<think>\\n``."""
    thought_marks: tuple[str, str] | None
    """Marks of the thoughts that are left out of earlier attempts; the first is empty where all before the second is
    left out."""
    trims: bool
    """Whether white space around an attempt is left out."""
    changes: tuple[str, ...]
    """Whatever else the template writes otherwise once later messages follow, in words."""

    @property
    def removes_thoughts(self) -> bool:
        """Whether thoughts of an earlier attempt are left out."""
        return self.thought_marks is not None

    @property
    def opens_thought(self) -> bool:
        """Whether the model's text starts inside of a thought."""
        return bool(self.closes_thought)

    @property
    def closes_thought(self) -> str:
        """The mark that ends the thought in which the model's text starts; empty where it starts in none."""
        return next((end for mark, end in known_pairs() if mark in self.prefill and end not in self.prefill), "")

    @property
    def rewrites(self) -> bool:
        """Whether the past is written otherwise in anything but white space."""
        return self.removes_thoughts or bool(self.prefill.strip() or self.changes)


def read_history(layout: Layout, max_attempts: int = 3) -> History:
    """Ask the template how it writes earlier attempts.

    Args:
        layout: one that `verl_multiattempt.chat.layout_check.check_layout` has found no fault with.
        max_attempts: attempts of the longest episode.
    """
    first = layout.written(layout.messages(ANSWERS[:1], FEEDBACK), prompt=True)
    started, before = layout.written(layout.messages([], FEEDBACK), prompt=True), first.partition(ANSWERS[0])[0]
    spaced = f" \n {ANSWERS[0]} \n "
    prefill = started[len(before) :] if started.startswith(before) else _prefill(layout, first)
    around = str(layout.tokenizer.decode(layout.lead())), layout.written_between(FEEDBACK).removesuffix(prefill)
    tries = dict.fromkeys((min(max_attempts, _FIRST_TRY), max_attempts))
    found = (tuple(_changes(layout, started.removesuffix(prefill), *around, prefill, most)) for most in tries)
    changes = next(filter(None, found), ())
    return History(
        prefill=prefill,
        thought_marks=next((marks for marks in _marks(layout) if is_removed(layout, *marks)), None),
        trims=spaced not in layout.written(layout.messages([spaced], FEEDBACK), prompt=True),
        changes=changes,
    )


def _prefill(layout: Layout, prompted: str) -> str:
    """What the generation prompt ends with and an answer is not preceded by, where the beginning changes, too."""
    ended = layout.written(layout.messages(ANSWERS[:1], FEEDBACK), prompt=False)
    prompt = prompted.removeprefix(ended)
    mark = next((mark for mark in THINKING_MARKS[::2] if mark in prompt), None)
    return "" if mark is None or prompt == prompted else prompt[prompt.index(mark) :]


def _marks(layout: Layout) -> Iterator[tuple[str, str]]:
    return marks_to_try(layout.tokenizer.chat_template)


def is_removed(layout: Layout, opening: str, closing: str) -> bool:
    """Whether the marks are why an earlier attempt loses its thought; a cut after so many characters is not."""
    unmarked = ("_" * len(opening), "_" * len(closing))
    return not _keeps(layout, opening, closing) and _keeps(layout, *unmarked)


def _keeps(layout: Layout, opening: str, closing: str) -> bool:
    thought = f"{opening}\n{_THOUGHT}\n{closing}\n\n{ANSWERS[0]}"
    for answers in ([thought, EARLIER], [thought]):
        try:
            return _THOUGHT in layout.written(layout.messages(answers, FEEDBACK), prompt=True)
        except Exception:  # a template for two attempts, or one that refuses its own marks
            continue
    return True


def _changes(layout: Layout, started: str, lead: str, between: str, prefill: str, max_attempts: int) -> Iterator[str]:
    """What differs, in words, between an episode and the template's own writing of its messages."""
    count = max(1, max_attempts - 1)
    shown = started + (lead + _LONG + between) * count
    written = layout.written(layout.messages([_LONG] * count, FEEDBACK), prompt=True).removesuffix(prefill)
    if "".join(shown.split()) == "".join(written.split()):
        return
    # Part by part, each up to the next feedback: a difference of two long texts is slow, and most parts are the same.
    parts, others = shown.split(FEEDBACK), written.split(FEEDBACK)
    pairs = list(dict.fromkeys(zip(parts, others, strict=True))) if len(parts) == len(others) else [(shown, written)]
    found = dict.fromkeys(change for pair in pairs for change in _differences(*pair))
    yield from list(found)[:_MOST_CHANGES]
    if len(found) > _MOST_CHANGES:
        yield f"and {len(found) - _MOST_CHANGES} more"


def _differences(shown: str, written: str) -> Iterator[str]:
    """What ``written`` has otherwise than ``shown``, white space aside."""
    shown, written = shown[:_MOST_CHARS], written[:_MOST_CHARS]
    (old, old_at), (new, new_at) = _words(shown), _words(written)
    for tag, i, j, k, end in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        was, now = shown[old_at[i][0] : old_at[j - 1][1]], written[new_at[k][0] : new_at[end - 1][1]]
        if i == j:
            yield f"adds {short(now)}"
        elif k == end:
            yield f"leaves out {short(was)}"
        else:
            # A bare number says little: with what stands before it in its line.
            before = shown[old_at[max(0, i - 3)][0] : old_at[i][0]].rpartition("\n")[2]
            yield f"writes {short(before + now)} for {short(before + was)}"


def _words(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Words and signs of ``text``, and where each starts and ends; the places go on by one, for a place after them."""
    found = list(re.finditer(r"\w+|[^\w\s]", text))
    return [match[0] for match in found], [*(match.span() for match in found), (len(text), len(text))]


def short(text: str, limit: int = 60) -> str:
    """``text`` quoted, cut after ``limit`` characters."""
    return repr(text if len(text) <= limit else text[: limit - 4] + " ...")
