"""Whether a chat template can hold a whole episode: what an episode's tokens will be, against what it writes itself.

Two kinds of difference are told apart. What makes the sequence another conversation than the template's is refused
here: a message that is lost, a turn of the model that is not opened, feedback that is written as the model's own
words. What merely writes the past otherwise is told by `verl_multiattempt.chat.findings`, and training keeps what was
sampled.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

from verl_multiattempt.chat.history import is_removed, short
from verl_multiattempt.chat.layout import ANSWERS, FEEDBACK, OPENING, QUESTION, SYSTEM, USER, Layout
from verl_multiattempt.chat.marks import marks_to_try
from verl_multiattempt.chat.refusal import Refusal
from verl_multiattempt.feedback import open_messages
from verl_multiattempt.settings import OpeningSettings

_ALL_UP_TO = 8
"""Conversations of up to so many attempts are all rendered; of longer ones only the longest."""


SAMPLE_TEXT = (
    'Let A = {1, 2} & B = {x : 3 < x > 1}, "so" it\'s said:\n\n    f(x) = \\frac{1}{2}\t* 50% of $x_1^2$ [a|b] ~ #1 '
    "\u00e9 \u2208 ?\n"
)
"""A text such as questions and verifiers have, with what templates are known to escape, cut or trim."""
_SAMPLE_SYSTEM = f"Reason step by step.\n{SAMPLE_TEXT}Then answer."
_SAMPLE_QUESTION = SAMPLE_TEXT + " ".join(map(str, range(1001, 1401)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Texts of the user, which the template must write as they are."""

    feedback: str
    opening: OpeningSettings


def check_layout(layout: Layout, samples: Samples, max_attempts: int) -> Refusal | None:
    """Why episodes cannot be rendered with this layout; None where they can.

    Renders imaginary episodes of up to ``max_attempts`` attempts, and one with the texts of the user.

    Args:
        layout: to be checked.
        samples: texts of the user. What they say decides nothing: they are only looked for where they belong.
        max_attempts: attempts of the longest episode; fewer than 2 are checked as 2.
    """
    try:
        return (
            _check_messages(layout)
            or _check_turns(layout)
            or _check_lead(layout)
            or _check_thoughts(layout)
            or _check_episode(layout, max(2, max_attempts))
            or _check_texts(layout, samples, max_attempts)
        )
    except Exception as error:  # a template refuses in ways of its own: jinja2, TypeError, KeyError ...
        return Refusal(reason=_told(error))


def _told(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _check_messages(layout: Layout) -> Refusal | None:
    """Whether each message of the shortest episode is rendered, in its place."""
    opening = layout.text(layout.messages([], FEEDBACK), prompt=True)
    between = layout.between(FEEDBACK)
    text, role = str(layout.tokenizer.decode(between)), layout.feedback_role
    if layout.opening_placement == SYSTEM and OPENING not in opening:
        return Refusal(reason="the template does not render a system message")
    if layout.opening_placement == SYSTEM and OPENING in text:
        # Mistral's: the system message moves into the last user message, out of the tokens that were there before.
        return Refusal(reason="the template moves the system message into the last user message")
    if QUESTION not in opening:
        return Refusal(reason="the template does not render the question", whatever_role=True)
    if FEEDBACK not in text:
        return Refusal(reason=f"the template does not render a {role} message after the assistant's")
    whole = layout.written(layout.messages(ANSWERS[:1], FEEDBACK), prompt=True)
    if lost := _lost(layout, ANSWERS[:1], whole):
        return Refusal(reason=f"the template leaves out {lost} once feedback follows", whatever_role=True)
    written = layout.written_between(FEEDBACK)
    if not _same(text, str(layout.tokenizer.decode(layout.tokenizer.encode(written, add_special_tokens=False)))):
        end = written.partition(FEEDBACK)[0]
        return Refusal(reason=f"the tokenizer joins the answer with what the template writes after it ({end!r})")
    return None


def _check_turns(layout: Layout) -> Refusal | None:
    """Whether the template opens the turns of the model, and writes nothing else as one."""
    opening, first = layout.messages([], FEEDBACK), layout.messages(ANSWERS[:1], FEEDBACK)
    opened, prompted = layout.written(opening, prompt=True), layout.written(first, prompt=True)
    unopened, closed = layout.written(opening, prompt=False), layout.written(first, prompt=False)
    after_question = _between(prompted, QUESTION, ANSWERS[0])
    after_feedback = _after_feedback(layout) or after_question
    for whole, bare, last, before in ((opened, unopened, QUESTION, after_question),
                                      (prompted, closed, FEEDBACK, after_feedback)):  # fmt: skip
        end, expected = bare.rpartition(last)[2], "".join(before.split())
        if whole == bare and not "".join(end.split()).endswith(expected):
            header = before.removeprefix(end)
            return Refusal(
                reason="the template writes no generation prompt (it ignores add_generation_prompt), though it begins "
                f"an answer with {header!r}",
                whatever_role=last == QUESTION,
            )
    end = closed.rpartition(FEEDBACK)[2]
    header = after_feedback.removeprefix(end).strip() if after_feedback.startswith(end) else ""
    ended = prompted.partition(ANSWERS[0])[2].partition(FEEDBACK)[0]
    if (header and ended.rstrip().endswith(header)) or _same_as_the_models(layout, len(first) - 1, first):
        role = layout.feedback_role
        return Refusal(reason=f"the template writes a {role} message after the assistant's as a turn of the model")
    if layout.opening_placement == SYSTEM and (
        (header and opened.partition(OPENING)[0].rstrip().endswith(header)) or _same_as_the_models(layout, 0, opening)
    ):
        return Refusal(reason="the template writes the system message as a turn of the model")
    return None


def _after_feedback(layout: Layout) -> str:
    """What the template writes from a feedback to the answer after it; empty where it renders no such thing."""
    try:
        later = layout.written(layout.messages(ANSWERS, FEEDBACK), prompt=True)
    except Exception:  # too many messages for it: `_check_episode` decides whether that matters
        return ""
    return _between(later.partition(ANSWERS[0])[2], FEEDBACK, ANSWERS[1])


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


def _check_lead(layout: Layout) -> Refusal | None:
    """Whether what the template leaves to the model to write before an answer stays within one turn."""
    lead = layout.lead()
    elsewhere = {*layout.render(layout.messages([], FEEDBACK), prompt=False), *layout.between(FEEDBACK)}
    others = {*elsewhere, layout.tokenizer.eos_token_id} & set(layout.tokenizer.added_tokens_decoder)
    if not others.intersection(lead):
        return None
    # gpt-oss: the model opens a channel, ends that message, and answers in the next. Its turn would end with the first.
    text = repr(layout.tokenizer.decode(lead))
    return Refusal(
        reason=f"its generation prompt ends before {text}, which holds marks of other messages: the model writes the "
        "header of its message itself, and may write several before it answers, of which an attempt would be the first",
        whatever_role=True,
        remedy=f" whose generation prompt ends with {text}",
    )


def _check_thoughts(layout: Layout) -> Refusal | None:
    """Whether no thought that the template knows of ends with what ends a turn."""
    headers = layout.header_ids(FEEDBACK)
    for marks in marks_to_try(layout.tokenizer.chat_template):
        if headers.intersection(layout.tokenizer.encode(marks[1], add_special_tokens=False)) and is_removed(
            layout, *marks
        ):
            return Refusal(
                reason=f"it takes what stands before {marks[1]!r} for a thought, which ends a message, too: an attempt "
                "would end with its thought",
                whatever_role=True,
            )
    return None


def _check_episode(layout: Layout, max_attempts: int) -> Refusal | None:
    """Whether each attempt's prompt holds all messages, and goes on after the last answer as after the first."""
    between = layout.written_between(FEEDBACK)
    numbers = [*range(3, min(max_attempts, _ALL_UP_TO) + 1), *([max_attempts] if max_attempts > _ALL_UP_TO else [])]
    fits = 2
    for number in numbers:
        answers = [f"It is {658000 + earlier}" for earlier in range(1, number)]
        try:
            text = layout.written(layout.messages(answers, FEEDBACK), prompt=True)
            lost = _lost(layout, answers, text)
            reason = f"with {number} attempts the template leaves out {lost}" if lost else ""
        except Exception as error:  # as in `check_layout`
            reason = f"with {number} attempts: {_told(error)}"
        if not reason and not text.endswith(answers[-1] + between):
            reason = "the template writes other tokens after a later attempt than after the first"
        if reason:
            return Refusal(reason=reason, whatever_role=True, fits=fits)
        fits = number
    return None


def _check_texts(layout: Layout, samples: Samples, max_attempts: int) -> Refusal | None:
    """Whether the user's own texts are written as they are, white space around them aside."""
    row = [{"role": SYSTEM, "content": _SAMPLE_SYSTEM}, {"role": USER, "content": _SAMPLE_QUESTION}]
    opened = open_messages(row, samples.opening, max_attempts, placement=layout.opening_placement)
    said = [{"role": "assistant", "content": ANSWERS[0]}, {"role": layout.feedback_role, "content": samples.feedback}]
    text = layout.written([*opened, *said], prompt=True)
    position = 0
    for message in [*opened, *said]:
        content, rest = message["content"].strip(), text[position:]
        if content not in rest:
            kept = bisect.bisect_left(range(len(content)), True, key=lambda n: content[: n + 1] not in rest)
            return Refusal(
                reason=f"the template changes a {message['role']} message, or cuts it, from {short(content[kept:])} on",
                whatever_role=message in opened,
            )
        position += rest.index(content) + len(content)
    return None


def _lost(layout: Layout, answers: list[str] | tuple[str, ...], text: str) -> str | None:
    """The first message of the imaginary conversation that ``text`` does not hold in its place; None where all are."""
    position = 0
    messages = layout.messages(answers, FEEDBACK)
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
