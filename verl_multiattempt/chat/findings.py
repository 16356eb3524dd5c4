"""What a user should know of a chat template before training with it: where it writes other text than was sampled.

A template is a program: it may leave out what the model thought, trim, move or add. Token-in, token-out makes one
choice for all of them: the model is shown, and trained on, the tokens that it sampled, and between them what the
template writes there. Each finding says where the template, given the whole conversation, would write something else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

from verl_multiattempt.chat.layout import ANSWERS, EARLIER, OPENING, SYSTEM, USER, Layout, check_layout
from verl_multiattempt.chat.scaffold import THINKING_MARKS, ChatScaffold

_THOUGHT = "Let me add"
_FEEDBACK = "That is incorrect"
_DATES = ("%d %b %Y", "%d %B %Y", "%B %d, %Y", "%Y-%m-%d")
_KEPT = "The model is shown, and trained on, what it sampled"


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """How the template writes an attempt that has become history, against how it was generated."""

    prefill: str
    """What the generation prompt writes after the header and the history does not, such as ``<think>\\n``."""
    removes_thoughts: bool
    """Whether ``<think> ... </think>`` of an earlier attempt is left out."""
    trims: bool
    """Whether white space around an attempt is left out."""

    @property
    def opens_thought(self) -> bool:
        """Whether the model's text starts inside of a thought."""
        return any(mark in self.prefill and close not in self.prefill for mark, close in _thinking_pairs())

    @property
    def thinks(self) -> bool:
        """Whether the template knows of thoughts."""
        return self.removes_thoughts or any(mark in self.prefill for mark in THINKING_MARKS)


def _thinking_pairs() -> Iterator[tuple[str, str]]:
    return zip(THINKING_MARKS[::2], THINKING_MARKS[1::2], strict=True)


def read_history(layout: Layout) -> History:
    """Ask the template how it writes earlier attempts."""
    started = layout.written(layout.messages([], _FEEDBACK), prompt=True)
    before = layout.written(layout.messages([ANSWERS[0]], _FEEDBACK), prompt=True).partition(ANSWERS[0])[0]
    thought = layout.written(layout.messages([f"<think>\n{_THOUGHT}\n</think>\n\n{ANSWERS[0]}", EARLIER], _FEEDBACK),
                             prompt=True)  # fmt: skip
    spaced = f" \n {ANSWERS[0]} \n "
    return History(
        prefill=started[len(before) :] if started.startswith(before) else "",
        removes_thoughts=_THOUGHT not in thought,
        trims=spaced not in layout.written(layout.messages([spaced], _FEEDBACK), prompt=True),
    )


def find(scaffold: ChatScaffold) -> list[str]:
    """Everything worth saying about the template, one or two sentences each."""
    history = read_history(scaffold.layout)
    return [*_of_the_opening(scaffold), *_of_the_history(scaffold, history), *_of_the_tokens(scaffold)]


def _of_the_opening(scaffold: ChatScaffold) -> Iterator[str]:
    layout = scaffold.layout
    reason = scaffold.reasons.get((SYSTEM, layout.feedback_role))
    if layout.opening_placement == USER:
        yield (
            f"There can be no system message ({reason}): a row's own is put into its first user message, before the "
            "opening."
        )
    elif default := _default_system_prompt(layout):
        yield (
            f"The template writes a system prompt of its own where there is none ({_short(default)}); the opening "
            "takes its place. Put that text into the rows' system messages to keep it."
        )
    today = layout.written(layout.messages([], _FEEDBACK), prompt=True)
    if any(time.strftime(form) in today for form in _DATES):
        yield (
            "The template writes today's date into every prompt, so prompts change from day to day. Fix it with "
            "data.apply_chat_template_kwargs (+data.apply_chat_template_kwargs.date_string='26 Jul 2024' for Llama 3)."
        )


def _default_system_prompt(layout: Layout) -> str:
    """The text that stands in the place of a system message where there is none."""
    with_system = layout.written(layout.messages([], _FEEDBACK), prompt=False)
    try:
        without = layout.written(replace(layout, opening_placement=USER).messages([], _FEEDBACK), prompt=False)
    except Exception:  # a template that insists on a system message
        return ""
    head, tail = with_system.split(OPENING, 1)
    if without.startswith(head) and without.endswith(tail):
        return without[len(head) : len(without) - len(tail)].strip()
    return ""


def _of_the_history(scaffold: ChatScaffold, history: History) -> Iterator[str]:
    if history.removes_thoughts:
        other = replace(scaffold.layout, feedback_role=USER if scaffold.feedback_role == SYSTEM else SYSTEM)
        keeps = check_layout(other, _FEEDBACK) is None and not read_history(other).removes_thoughts
        yield (
            f"The template removes what was thought (<think> ... </think>) from earlier attempts. {_KEPT}, thoughts "
            "included; a server that renders the history anew would leave them out. "
            + (
                f"With multiattempt.feedback.role={other.feedback_role} this template keeps them."
                if keeps
                else "To have one and the same, set actor_rollout_ref.model.custom_chat_template to a template that "
                "keeps them, or switch thinking off (+data.apply_chat_template_kwargs.enable_thinking=false for Qwen3)."
            )
        )
    if history.prefill.strip():
        yield (
            f"The generation prompt ends with {history.prefill!r}, which the template does not write before earlier "
            f"attempts{' that hold no thought' if history.opens_thought and not history.removes_thoughts else ''}. "
            f"{_KEPT}, with it before each attempt."
        )
    if history.trims:
        yield f"The template trims white space around earlier attempts. {_KEPT}, white space included."


def _of_the_tokens(scaffold: ChatScaffold) -> Iterator[str]:
    tokenizer, layout = scaffold.tokenizer, scaffold.layout
    controls = scaffold.end_ids | scaffold.control_ids
    end = tokenizer.convert_ids_to_tokens(scaffold.closing[-1]) if scaffold.closing else ""
    if not scaffold.closing:
        yield (
            f"The template ends a turn by no token. An attempt ends with {tokenizer.eos_token!r}, which stays in the "
            "sequence."
        )
    elif scaffold.closing[-1] not in layout.turn_end() and not _header(scaffold)[1]:
        yield f"The template ends a turn by the header of the next one: an attempt ends with {end!r}."
    text, token = _header(scaffold)
    if text and not token:
        yield (
            f"The template marks a {scaffold.feedback_role} message by text ({_short(text)}), not by a token, so that "
            "a model can write such a mark itself. Watch for it in the episodes."
        )
    prompt = layout.render(layout.messages([], _FEEDBACK), prompt=True)
    if prompt[:2] == [tokenizer.bos_token_id] * 2:
        yield f"The template writes {tokenizer.bos_token!r} twice at the start. Take one out of the template."
    special = [mark for mark in THINKING_MARKS if (i := _special_id(tokenizer, mark)) is not None and i not in controls]
    if special:
        yield f"The tokenizer holds {' and '.join(special)} for special; they do not end an attempt."


def _header(scaffold: ChatScaffold) -> tuple[str, bool]:
    """What stands before feedback up to the first control token, and whether there is such a token."""
    rest = scaffold.between_attempts(_FEEDBACK)[len(scaffold.closing) :]
    controls = scaffold.end_ids | scaffold.control_ids
    length = next((n for n, token in enumerate(rest) if token in controls), len(rest))
    text, found, _ = str(scaffold.tokenizer.decode(rest[:length])).partition(_FEEDBACK)
    return text.strip(), not found


def _special_id(tokenizer: object, mark: str) -> int | None:
    added = tokenizer.added_tokens_decoder  # type: ignore[attr-defined]
    return next((i for i, token in added.items() if token.content == mark and token.special), None)


def _short(text: str, limit: int = 60) -> str:
    return repr(text if len(text) <= limit else text[: limit - 4] + " ...")
