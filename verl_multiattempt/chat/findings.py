"""What a user should know of a chat template before training with it: where it writes other text than was sampled.

A template is a program: it may leave out what the model thought, trim, move or add. Token-in, token-out makes one
choice for all of them: the model is shown, and trained on, the tokens that it sampled, and between them what the
template writes there. Each finding says where the template, given the whole conversation, would write something else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from verl_multiattempt.chat.history import History, read_history, short
from verl_multiattempt.chat.layout import FEEDBACK, OPENING, SYSTEM, USER, Layout
from verl_multiattempt.chat.layout_check import check_layout
from verl_multiattempt.chat.marks import thought_ids
from verl_multiattempt.chat.scaffold import ChatScaffold

_DATES = ("%d %b %Y", "%d %B %Y", "%B %d, %Y", "%Y-%m-%d")
_KEPT = "The model is shown, and trained on, what it sampled"


def find(scaffold: ChatScaffold) -> list[str]:
    """Everything worth saying about the template, one or two sentences each."""
    history = read_history(scaffold.layout, scaffold.max_attempts)
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
            f"The template writes a system prompt of its own where there is none ({short(default)}); the opening "
            "takes its place. Put that text into the rows' system messages to keep it."
        )
    today = layout.written(layout.messages([], FEEDBACK), prompt=True)
    if any(time.strftime(form) in today for form in _DATES):
        yield (
            "The template writes today's date into every prompt, so prompts change from day to day. Fix it with "
            "data.apply_chat_template_kwargs (+data.apply_chat_template_kwargs.date_string='26 Jul 2024' for Llama 3)."
        )


def _default_system_prompt(layout: Layout) -> str:
    """The text that stands in the place of a system message where there is none."""
    with_system = layout.written(layout.messages([], FEEDBACK), prompt=False)
    try:
        without = layout.written(replace(layout, opening_placement=USER).messages([], FEEDBACK), prompt=False)
    except Exception:  # a template that insists on a system message
        return ""
    head, tail = with_system.split(OPENING, 1)
    if without.startswith(head) and without.endswith(tail):
        return without[len(head) : len(without) - len(tail)].strip()
    return ""


def _of_the_history(scaffold: ChatScaffold, history: History) -> Iterator[str]:
    if history.thought_marks:
        marks = history.thought_marks
        thoughts = (
            f"what was thought ({' ... '.join(marks)})" if marks[0] else f"what stands before {marks[1]}, as a thought,"
        )
        other = _other_role(scaffold)
        yield (
            f"The template removes {thoughts} from earlier attempts. {_KEPT}, thoughts included; a server that renders "
            "the history anew would leave them out. "
            + (
                f"With multiattempt.feedback.role={other.feedback_role} this template keeps them."
                if other and not read_history(other, scaffold.max_attempts).removes_thoughts
                else "To have one and the same, set actor_rollout_ref.model.custom_chat_template to a template that "
                "keeps them, or switch thinking off (+data.apply_chat_template_kwargs.enable_thinking=false for Qwen3)."
            )
        )
    if history.changes:
        other = _other_role(scaffold)
        yield (
            f"Once later messages follow, the template writes the earlier ones otherwise: it "
            f"{'; '.join(history.changes)}. {_KEPT}, and what it was shown, as it stood then; a server that renders "
            "the history anew would show the other. "
            + (
                f"With multiattempt.feedback.role={other.feedback_role} this template changes nothing."
                if other and not read_history(other, scaffold.max_attempts).changes
                else "To have one and the same, set actor_rollout_ref.model.custom_chat_template to a template that "
                "does not."
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


def _other_role(scaffold: ChatScaffold) -> Layout | None:
    """The layout with the other role for feedback, where the template can render that."""
    other = replace(scaffold.layout, feedback_role=USER if scaffold.feedback_role == SYSTEM else SYSTEM)
    return other if check_layout(other, scaffold.samples, scaffold.max_attempts) is None else None


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
            f"The template marks a {scaffold.feedback_role} message by text ({short(text)}), not by a token, so that "
            "a model can write such a mark itself. Watch for it in the episodes."
        )
    if _tells_no_roles(layout):
        yield (
            "The template marks nobody's messages: the model can tell feedback from its own attempts by the text alone."
        )
    prompt = layout.render(layout.messages([], FEEDBACK), prompt=True)
    if prompt[:2] == [tokenizer.bos_token_id] * 2:
        yield f"The template writes {tokenizer.bos_token!r} twice at the start. Take one out of the template."
    if scaffold.lead:
        yield (
            f"The template writes {tokenizer.decode(scaffold.lead)!r} before an answer and not at the end of the "
            "generation prompt: the model is to write it. It does not end an attempt."
        )
    special = [token for i, token in sorted(tokenizer.added_tokens_decoder.items())
               if token.special and i in thought_ids(tokenizer, controls)]  # fmt: skip
    if special:
        yield f"The tokenizer holds {_listed(special)} for special; they do not end an attempt."


def _listed(tokens: Sequence[object]) -> str:
    *most, last = map(str, tokens)
    return f"{', '.join(most)} and {last}" if most else last


def _tells_no_roles(layout: Layout) -> bool:
    try:
        users, models = (
            layout.written([{"role": role, "content": OPENING}], prompt=False) for role in (USER, "assistant")
        )
    except Exception:  # a conversation that the model begins
        return False
    return users == models


def _header(scaffold: ChatScaffold) -> tuple[str, bool]:
    """What stands before feedback up to the first control token, and whether there is such a token."""
    rest = scaffold.between_attempts(FEEDBACK)[len(scaffold.closing) :]
    controls = scaffold.end_ids | scaffold.control_ids
    length = next((n for n, token in enumerate(rest) if token in controls), len(rest))
    text, found, _ = str(scaffold.tokenizer.decode(rest[:length])).partition(FEEDBACK)
    return text.strip(), not found
