"""An imaginary episode as the model will be shown it and trained on it, token by token, with the masks drawn."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from verl_multiattempt.chat.decode import decode_segments
from verl_multiattempt.chat.findings import find
from verl_multiattempt.chat.history import History, read_history
from verl_multiattempt.chat.scaffold import ChatScaffold
from verl_multiattempt.chat.tokens import INSERTED, MODEL, TokenStream
from verl_multiattempt.feedback import Message, feedback_text, open_messages
from verl_multiattempt.record import Segment
from verl_multiattempt.settings import Settings

logger = logging.getLogger(__name__)

_QUESTION: Message = {"role": "user", "content": "What is 2 + 3?"}
_WRONG, _SILENT, _RIGHT = "It is \\boxed{wrong}.", "I do not know, so", "It is \\boxed{right}."
_NEWLINE = "\u21b5"


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedExample:
    """An imaginary episode, and what the chat template decided about it. ``str()`` draws it."""

    segments: tuple[Segment, ...]
    """The whole sequence, prompt first, without gaps."""
    layout: str
    """Where the opening and the feedback go and what ends a turn, in one sentence."""
    findings: tuple[str, ...]
    """What a user should know of the template, one or two sentences each."""

    @property
    def text(self) -> str:
        """The whole sequence, decoded."""
        return "".join(segment.text for segment in self.segments)

    def __str__(self) -> str:
        lines = ["An imaginary episode, as the model is shown it (mask 1: sampled and trained on, 0: not trained on;"
                 f" {_NEWLINE}: a line break)"]  # fmt: skip
        for segment in self.segments:
            label = f"{segment.kind} ({segment.num_tokens})"
            for line in segment.text.splitlines(keepends=True):
                shown = line[:-1] + _NEWLINE if line.endswith("\n") else line
                lines.append(f"  {label:>15}  {int(segment.kind == MODEL)} | {shown}")
                label = ""
        return "\n".join([*lines, self.layout, *(f"Note: {finding}" for finding in self.findings)])


def render_example(
    scaffold: ChatScaffold, settings: Settings, messages: Sequence[Mapping[str, Any]] | None = None
) -> RenderedExample:
    """Make an episode of a wrong attempt, one cut off without an answer, and a right one, as the agent loop does.

    Args:
        scaffold: what the chat template writes around attempts.
        settings: the opening's and the feedback's text; where ``max_attempts`` is below 3, attempts are left out.
        messages: the prompt of a row, without the opening; by default an imaginary question.
    """
    allowance = settings.max_attempts
    opened = open_messages(messages or [_QUESTION], settings.opening, allowance, placement=scaffold.opening_placement)
    history = read_history(scaffold.layout, scaffold.max_attempts)
    stream = TokenStream(prompt_ids=scaffold.layout.render(opened, prompt=True), capacity=sys.maxsize)
    attempts = {1: (_RIGHT,), 2: (_WRONG, _RIGHT)}.get(allowance, (_WRONG, _SILENT, _RIGHT))
    for number, attempt in enumerate(attempts, start=1):
        ended = attempt != _SILENT
        stream.add_sampled(_sampled(scaffold, _as_written(attempt, scaffold, history, ended), ended), None)
        if number < len(attempts):
            end, feedback = scaffold.context_parts(stream.last_id, feedback_text(settings.feedback, allowance - number))
            stream.add_context(end, INSERTED)
            stream.add_context(feedback)
    return RenderedExample(
        segments=tuple(decode_segments(scaffold.tokenizer, stream.segments())),
        layout=_layout(scaffold),
        findings=tuple(find(scaffold)),
    )


def _as_written(attempt: str, scaffold: ChatScaffold, history: History, ended: bool) -> str:
    """``attempt`` with what such a model writes before it: a thought, where the template knows of thoughts."""
    lead = str(scaffold.tokenizer.decode(scaffold.lead))
    if not ended:
        return lead + attempt
    if history.opens_thought:
        return f"Let me see.\n{history.closes_thought}\n\n{lead}{attempt}"
    if history.thought_marks is None or history.prefill:
        return lead + attempt
    opening, closing = history.thought_marks
    return f"{opening}\nLet me see.\n{closing}\n\n{lead}{attempt}".lstrip("\n")


def _sampled(scaffold: ChatScaffold, text: str, ended: bool) -> list[int]:
    ids = list(scaffold.tokenizer.encode(text, add_special_tokens=False))
    end = scaffold.closing[-1] if scaffold.closing else scaffold.tokenizer.eos_token_id
    return [*ids, end] if ended and end is not None else ids


def _layout(scaffold: ChatScaffold) -> str:
    role = scaffold.feedback_role
    reason = scaffold.reasons.get((scaffold.opening_placement, "system")) if role == "user" else None
    opening = "system message" if scaffold.opening_placement == "system" else "first user message"
    ends = " or ".join(repr(scaffold.tokenizer.convert_ids_to_tokens(token)) for token in sorted(scaffold.end_ids))
    return (
        f"The opening is in the {opening}, feedback is a {role} message"
        + (f" (as a system message: {reason})" if reason else "")
        + f", an attempt ends with {ends}."
    )


def log_example(scaffold: ChatScaffold, settings: Settings) -> None:
    """Log the example, in one of the run's agent-loop workers only."""
    if not speaks_for_the_run():
        return
    try:
        logger.warning("multiattempt: %s", render_example(scaffold, settings))
    except Exception as error:  # nothing trains worse without it
        logger.warning("multiattempt: no example of an episode could be rendered: %s", error)


def speaks_for_the_run() -> bool:
    """Whether this process is the first of verl's agent-loop workers, or none of them."""
    name = (ray.get_runtime_context().get_actor_name() or "") if ray.is_initialized() else ""
    return not name.startswith("agent_loop_worker_") or name.startswith("agent_loop_worker_0_")
