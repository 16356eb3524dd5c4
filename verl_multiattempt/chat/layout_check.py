"""Whether a chat template can hold a whole episode: what an episode's tokens will be, against what it writes itself.

Two kinds of difference are told apart. What makes the sequence another conversation than the template's is refused
here: a message that is lost, a turn of the model that is not opened, feedback that is written as the model's own
words. What merely writes the past otherwise is told by `verl_multiattempt.chat.findings`, and training keeps what was
sampled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from verl_multiattempt.chat.layout import ANSWERS, OPENING, QUESTION, SYSTEM, USER, Layout

_ALL_UP_TO = 8
"""Conversations of up to so many attempts are all rendered; of longer ones only the longest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why episodes cannot be rendered with a layout."""

    reason: str
    whatever_role: bool = False
    """No other role of the feedback would help."""
    fits: int = 0
    """Attempts that can be rendered, where it is their number that is refused."""


def check_layout(layout: Layout, feedback: str, max_attempts: int) -> Refusal | None:
    """Why episodes cannot be rendered with this layout; None where they can.

    Renders imaginary episodes of up to ``max_attempts`` attempts.

    Args:
        layout: to be checked.
        feedback: a text of the feedback.
        max_attempts: attempts of the longest episode; fewer than 2 are checked as 2.
    """
    try:
        return _check_messages(layout, feedback) or _check_turns(layout, feedback) or _check_episode(
            layout, feedback, max(2, max_attempts)
        )  # fmt: skip
    except Exception as error:  # a template refuses in ways of its own: jinja2, TypeError, KeyError ...
        return Refusal(reason=_told(error))


def refusal_text(refusals: Mapping[tuple[str, str], Refusal], feedback_role: str, max_attempts: int) -> str:
    """The sentence about a template that renders no layout."""
    tried = {role: refusal for (placement, role), refusal in refusals.items() if placement == USER}
    told = "; ".join(f"{role}: {refusal.reason}" for role, refusal in tried.items())
    fits = max(refusal.fits for refusal in refusals.values())
    if not any(refusal.whatever_role for refusal in tried.values()):
        return (
            "multiattempt.feedback.role must be a role that the chat template renders after an assistant message; "
            f"got {feedback_role!r} ({told}). Set it to auto, or use another chat template."
        )
    if len({refusal.reason for refusal in tried.values()}) == 1:
        told = next(iter(tried.values())).reason
    return (
        f"actor_rollout_ref.model.path must name a model whose chat template renders an episode of {max_attempts} "
        f"attempts; got one that does not ({told}). Set actor_rollout_ref.model.custom_chat_template to another one"
        + (f", or multiattempt.max_attempts and val_max_attempts to at most {fits}." if fits else ".")
    )


def _told(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _check_messages(layout: Layout, feedback: str) -> Refusal | None:
    """Whether each message of the shortest episode is rendered, in its place."""
    opening = layout.text(layout.messages([], feedback), prompt=True)
    between = layout.between(feedback)
    text, role = str(layout.tokenizer.decode(between)), layout.feedback_role
    if layout.opening_placement == SYSTEM and OPENING not in opening:
        return Refusal(reason="the template does not render a system message")
    if layout.opening_placement == SYSTEM and OPENING in text:
        # Mistral's: the system message moves into the last user message, out of the tokens that were there before.
        return Refusal(reason="the template moves the system message into the last user message")
    if QUESTION not in opening:
        return Refusal(reason="the template does not render the question")
    if feedback.strip() not in text:
        return Refusal(reason=f"the template does not render a {role} message after the assistant's")
    whole = layout.written(layout.messages(ANSWERS[:1], feedback), prompt=True)
    if lost := _lost(layout, ANSWERS[:1], feedback, whole):
        return Refusal(reason=f"the template leaves out {lost} once feedback follows", whatever_role=True)
    written = layout.written_between(feedback)
    if not _same(text, str(layout.tokenizer.decode(layout.tokenizer.encode(written, add_special_tokens=False)))):
        end = written.partition(feedback.strip())[0]
        return Refusal(reason=f"the tokenizer joins the answer with what the template writes after it ({end!r})")
    return None


def _check_turns(layout: Layout, feedback: str) -> Refusal | None:
    """Whether the template opens the turns of the model, and writes nothing else as one."""
    said = feedback.strip()
    opening, first = layout.messages([], feedback), layout.messages(ANSWERS[:1], feedback)
    opened, prompted = layout.written(opening, prompt=True), layout.written(first, prompt=True)
    unopened, closed = layout.written(opening, prompt=False), layout.written(first, prompt=False)
    after_question = _between(prompted, QUESTION, ANSWERS[0])
    after_feedback = _after_feedback(layout, feedback) or after_question
    for whole, bare, last, before in ((opened, unopened, QUESTION, after_question),
                                      (prompted, closed, said, after_feedback)):  # fmt: skip
        end, expected = bare.rpartition(last)[2], "".join(before.split())
        if whole == bare and not "".join(end.split()).endswith(expected):
            header = before.removeprefix(end)
            return Refusal(
                reason="the template writes no generation prompt (it ignores add_generation_prompt), though it begins "
                f"an answer with {header!r}",
                whatever_role=last == QUESTION,
            )
    end = closed.rpartition(said)[2]
    header = after_feedback.removeprefix(end).strip() if after_feedback.startswith(end) else ""
    ended = prompted.partition(ANSWERS[0])[2].partition(said)[0]
    if (header and ended.rstrip().endswith(header)) or _same_as_the_models(layout, len(first) - 1, first):
        role = layout.feedback_role
        return Refusal(reason=f"the template writes a {role} message after the assistant's as a turn of the model")
    if layout.opening_placement == SYSTEM and (
        (header and opened.partition(OPENING)[0].rstrip().endswith(header)) or _same_as_the_models(layout, 0, opening)
    ):
        return Refusal(reason="the template writes the system message as a turn of the model")
    return None


def _after_feedback(layout: Layout, feedback: str) -> str:
    """What the template writes from a feedback to the answer after it; empty where it renders no such thing."""
    try:
        later = layout.written(layout.messages(ANSWERS, feedback), prompt=True)
    except Exception:  # too many messages for it: `_check_episode` decides whether that matters
        return ""
    return _between(later.partition(ANSWERS[0])[2], feedback.strip(), ANSWERS[1])


def _same_as_the_models(layout: Layout, number: int, messages: list[dict[str, str]]) -> bool:
    """Whether the message of that number is written as if the model had said it, by a template that tells roles."""

    def written(role: str) -> str:
        turned = [dict(message) for message in messages]
        turned[number]["role"] = role
        try:
            return layout.written(turned, prompt=True)
        except Exception:  # turns that must alternate
            return f"({role} is refused)"

    assistant = written("assistant")
    return messages[number]["role"] == SYSTEM and written(SYSTEM) == assistant != written(USER)


def _check_episode(layout: Layout, feedback: str, max_attempts: int) -> Refusal | None:
    """Whether each attempt's prompt holds all messages, and goes on after the last answer as after the first."""
    between = layout.written_between(feedback)
    numbers = [*range(3, min(max_attempts, _ALL_UP_TO) + 1), *([max_attempts] if max_attempts > _ALL_UP_TO else [])]
    fits = 2
    for number in numbers:
        answers = [f"It is {1000 + earlier}" for earlier in range(1, number)]
        try:
            text = layout.written(layout.messages(answers, feedback), prompt=True)
            lost = _lost(layout, answers, feedback, text)
            reason = f"with {number} attempts the template leaves out {lost}" if lost else ""
        except Exception as error:  # as in `check_layout`
            reason = f"with {number} attempts: {_told(error)}"
        if not reason and not text.endswith(answers[-1] + between):
            reason = "the template writes other tokens after a later attempt than after the first"
        if reason:
            return Refusal(reason=reason, whatever_role=True, fits=fits)
        fits = number
    return None


def _lost(layout: Layout, answers: list[str] | tuple[str, ...], feedback: str, text: str) -> str | None:
    """The first message of the imaginary conversation that ``text`` does not hold in its place; None where all are."""
    position = 0
    messages = layout.messages(answers, feedback)
    for number, message in enumerate(messages):
        content = message["content"].strip()
        # All feedbacks read the same: each must stand before the answer that follows it.
        following = text.find(messages[number + 1]["content"], position) if number + 1 < len(messages) else -1
        found = text.find(content, position, following if following >= 0 else len(text))
        if found < 0:
            behind = number - (2 if layout.opening_placement == SYSTEM else 1)
            if behind < 0:
                return "the question" if message["role"] == USER else "the system message"
            return f"{'the feedback on ' if behind % 2 else ''}attempt {behind // 2 + 1}"
        position = found + len(content)
    return None


def _between(text: str, before: str, after: str) -> str:
    return text.partition(before)[2].partition(after)[0]


def _same(one: str, other: str) -> bool:
    """Whether texts are the same but for spaces, which some tokenizers put before every part."""
    return one.replace(" ", "") == other.replace(" ", "")
