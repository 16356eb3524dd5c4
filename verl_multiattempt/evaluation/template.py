"""The chat template of the model that is evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from verl_multiattempt.chat.layout_check import SAMPLE_TEXT
from verl_multiattempt.chat.scaffold import ChatScaffold, resolve_scaffold
from verl_multiattempt.feedback import feedback_text
from verl_multiattempt.settings import Settings


def load_scaffold(tokenizer: str, settings: Settings, template_kwargs: Mapping[str, Any] | None = None) -> ChatScaffold:
    """The scaffold of a tokenizer's chat template for these settings.

    Args:
        tokenizer: a local folder or a name on the hub.
        settings: role and text of the feedback, and the special tokens that a model may write.
        template_kwargs: further arguments of the template, such as ``enable_thinking``.

    Raises:
        OSError: there is no such tokenizer.
        ValueError: it has no chat template, or the template cannot render an episode.
    """
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tokenizer)
    if not getattr(loaded, "chat_template", None):
        raise ValueError(
            f"model must have a tokenizer with a chat template; got none with {tokenizer!r}. "
            "Name another tokenizer with --tokenizer."
        )
    return resolve_scaffold(
        loaded,
        feedback_role=settings.feedback.role,
        sample_feedback=feedback_text(settings.feedback, max(1, settings.max_attempts - 1), SAMPLE_TEXT),
        opening=settings.opening,
        template_kwargs=template_kwargs,
        allowed_special_tokens=settings.allowed_special_tokens,
        max_attempts=settings.max_attempts,
    )
