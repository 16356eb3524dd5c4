"""The texts of the environment: the opening message and the feedback after an attempt that was not correct."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from verl_multiattempt.settings import FeedbackSettings, OpeningSettings

Message = dict[str, Any]


def _plural(count: int) -> str:
    return "" if count == 1 else "s"


def opening_text(opening: OpeningSettings, max_attempts: int) -> str:
    """The text that tells the model its allowance."""
    return opening.text.format(max_attempts=max_attempts, s=_plural(max_attempts))


def open_messages(
    prompt: Sequence[Mapping[str, Any]], opening: OpeningSettings, max_attempts: int, *, placement: str = "system"
) -> list[Message]:
    """The messages an episode starts with: the prompt with the opening merged in.

    Args:
        prompt: messages of the dataset's row.
        opening: the opening's text.
        max_attempts: the episode's allowance.
        placement: ``system``: into the prompt's system message, or a new one before the prompt; ``user``: before
            the text of the first user message, and a system message at the start of the prompt before that (for chat
            templates that know no system message).

    Raises:
        ValueError: the opening cannot be placed (no user message, or its content is not text).
    """
    text = opening_text(opening, max_attempts)
    messages = [dict(message) for message in prompt]
    if placement == "system":
        if messages and messages[0].get("role") == "system":
            messages[0]["content"] = _join(messages[0].get("content"), text)
        else:
            messages.insert(0, {"role": "system", "content": text})
        return messages
    if messages and messages[0].get("role") == "system":
        text = _join(messages.pop(0).get("content"), text)
    for message in messages:
        if message.get("role") == "user":
            message["content"] = _join(text, message.get("content"))
            return messages
    raise ValueError("prompt must contain a user message to place the opening in; got roles "
                     f"{[m.get('role') for m in messages]!r}")  # fmt: skip


def _join(first: object, second: object) -> str:
    for part in (first, second):
        if not isinstance(part, str):
            raise ValueError(f"prompt[].content must be text where the opening is merged into it; got {part!r}")
    return "\n\n".join(part for part in (first, second) if part)  # type: ignore[misc]


def feedback_text(feedback: FeedbackSettings, attempts_left: int, verifier_text: str | None = None) -> str:
    """The text after an attempt that was not correct.

    Args:
        feedback: the format text, and how much of a verifier's own text may be shown.
        attempts_left: attempts left after that attempt; at least 1.
        verifier_text: what the verifier had to say, if anything.
    """
    text = feedback.text.format(attempts_left=attempts_left, s=_plural(attempts_left))
    if not (feedback.use_verifier_text and verifier_text):
        return text
    return f"{shorten(verifier_text, feedback.max_verifier_chars)}\n{text}"


def shorten(text: str, max_chars: int) -> str:
    """``text`` with its middle cut out where it is longer than ``max_chars``."""
    if len(text) <= max_chars:
        return text
    mark = " [...] "
    head = (max_chars - len(mark) + 1) // 2
    tail = max_chars - len(mark) - head
    return text[:head] + mark + text[len(text) - tail :]
