"""Asking a chat template what it writes, by rendering short imaginary conversations.

Never the real one: what the model sampled is not decoded and encoded again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from verl_multiattempt.chat.marks import thought_ids
from verl_multiattempt.feedback import Message

_Sequence = TypeVar("_Sequence", list[int], str)

SYSTEM, USER = "system", "user"
# Of the imaginary conversations. With numbers that no template has in its own text, which they are looked for in; never
# mixed with texts of the user, which may be anything (`verl_multiattempt.chat.layout_check.Samples`).
QUESTION = "What is 58213 + 7046?"
OPENING = "Answer question 58213"
FEEDBACK = "That is incorrect, 58213"
EARLIER = "It is 96582"
# Two answers without a common ending: what their renderings share at the end was written by the template.
ANSWERS = ("It is 65258", "It is 65 and six")


def render(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], kwargs: Mapping[str, Any], **options: Any
) -> list[int]:
    """Token ids of ``messages`` as the chat template renders them, ``[num_tokens]``."""
    ids = tokenizer.apply_chat_template(list(messages), tokenize=True, return_dict=False, **{**kwargs, **options})
    # Some tokenizers return a batch of one.
    return list(ids[0]) if ids and isinstance(ids[0], list) else list(ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One way to tell a template of an episode: where the opening goes, and which role feedback has."""

    tokenizer: Any
    template_kwargs: Mapping[str, Any]
    opening_placement: str
    """``system`` or ``user``: see `verl_multiattempt.feedback.open_messages`."""
    feedback_role: str
    """``system`` or ``user``."""

    def messages(self, answers: Sequence[str], feedback: str) -> list[Message]:
        """The imaginary conversation in which each of ``answers`` gets ``feedback``."""
        system = [{"role": SYSTEM, "content": OPENING}] if self.opening_placement == SYSTEM else []
        turns = [
            turn
            for answer in answers
            for turn in ({"role": "assistant", "content": answer}, {"role": self.feedback_role, "content": feedback})
        ]
        return [*system, {"role": USER, "content": QUESTION}, *turns]

    def render(self, messages: Sequence[Mapping[str, Any]], *, prompt: bool) -> list[int]:
        """``messages`` rendered, with the generation prompt or without."""
        return render(self.tokenizer, messages, self.template_kwargs, add_generation_prompt=prompt)

    def text(self, messages: Sequence[Mapping[str, Any]], *, prompt: bool) -> str:
        """`render`, decoded: what the model reads, which for some tokenizers is not quite the template's text."""
        return str(self.tokenizer.decode(self.render(messages, prompt=prompt)))

    def written(self, messages: Sequence[Mapping[str, Any]], *, prompt: bool) -> str:
        """The template's text, before it is cut into tokens."""
        options = {**self.template_kwargs, "add_generation_prompt": prompt}
        return str(self.tokenizer.apply_chat_template(list(messages), tokenize=False, **options))

    def between(self, feedback: str) -> list[int]:
        """What the template writes from the end of an answer to the start of the next, ``[num_tokens]``.

        Args:
            feedback: text of the feedback between the two.
        """
        return _common_suffix(*(self.render(self.messages([answer], feedback), prompt=True) for answer in ANSWERS))

    def written_between(self, feedback: str) -> str:
        """`between` as the template's text."""
        return _common_suffix(*(self.written(self.messages([answer], feedback), prompt=True) for answer in ANSWERS))

    def reopened(self) -> list[int]:
        """What the template writes from the end of an answer to the start of the next without a message between."""
        return _common_suffix(
            *(self.render(self.messages([answer], "")[:-1], prompt=True) for answer in ANSWERS)
        )  # fmt: skip

    def turn_end(self) -> list[int]:
        """What the template writes after an answer that is the last message; empty where it renders no such thing."""
        try:
            return _common_suffix(
                *(self.render(self.messages([answer], "")[:-1], prompt=False) for answer in ANSWERS)
            )  # fmt: skip
        except Exception:  # a template refuses in ways of its own
            return []

    def lead(self) -> list[int]:
        """What the template writes before an answer and leaves out of the generation prompt, ``[num_tokens]``.

        The model's to write, as Cohere's ``<|START_RESPONSE|>``. Only where there is an added token in it, other than
        a mark of thoughts: text alone, such as an empty thought, is what the template adds to the history.
        """
        opening = self.messages([], FEEDBACK)
        bare, prompted = self.written(opening, prompt=False), self.written(opening, prompt=True)
        # From the generation prompt on: the end of the question may be another one once an answer follows.
        prompt = prompted[len(bare) :] if prompted.startswith(bare) else ""
        answered = self.written(self.messages(ANSWERS[:1], FEEDBACK), prompt=True)
        before = answered.partition(QUESTION)[2].partition(ANSWERS[0])[0]
        shown = self.tokenizer.encode(prompt or prompted.rpartition(QUESTION)[2], add_special_tokens=False)
        ids = self.tokenizer.encode(before, add_special_tokens=False)
        # By tokens, not characters: the prompt may end with a prefill, such as <think>.
        length, start = max(((_common_prefix(ids[n:], shown), n) for n in range(len(ids))), default=(0, 0))
        lead = list(ids[start + length :]) if length else []
        own = set(self.tokenizer.added_tokens_decoder) - thought_ids(self.tokenizer, set())
        return lead if own.intersection(lead) else []

    def header_ids(self, feedback: str) -> set[int]:
        """Added tokens with which the template begins and ends turns.

        Some tokenizers do not hold them for special (DeepSeek-R1-Distill's ``<|User|>`` and ``<|Assistant|>``). Of a
        generation prompt only the first one counts: what follows, such as ``<think>``, is the model's to write.
        """
        opening, turns = self.messages([], feedback), self.messages(ANSWERS[:1], feedback)
        closed, prompted = self.render(turns, prompt=False), self.render(turns, prompt=True)
        prompt = prompted[len(closed) :] if prompted[: len(closed)] == closed else []
        between = self.between(feedback)
        added = set(self.tokenizer.added_tokens_decoder)
        written = {*self.render(opening, prompt=False), *between[: len(between) - len(prompt)]}
        first = next((i for i in prompt if i in added), self.tokenizer.eos_token_id)
        return (written & added) | ({first} - {None})


def _common_prefix(first: list[int], second: list[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(first), len(second)))


def _common_suffix(first: _Sequence, second: _Sequence) -> _Sequence:
    length = 0
    while length < min(len(first), len(second)) and first[-1 - length] == second[-1 - length]:
        length += 1
    return first[len(first) - length :]


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of all tokens that the tokenizer holds for special: chat control, padding, end of text."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | {i for i in tokenizer.all_special_ids if i is not None}
