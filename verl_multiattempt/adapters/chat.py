"""What the chat template writes around an attempt: end of turn, feedback, next generation prompt.

The template is asked by rendering short imaginary conversations, never the real one: what the model sampled is not
decoded and encoded again. The answers are kept, so that an episode costs no rendering besides its opening.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from verl_multiattempt.feedback import Message

_QUESTION: Message = {"role": "user", "content": "What is 2 + 3?"}
_SYSTEM: Message = {"role": "system", "content": "Answer the question."}
# Two answers without a common ending: what their renderings share at the end was written by the template.
_ANSWERS = ("It is 4", "It is six")
_CACHE_SIZE = 4096


def render(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], kwargs: Mapping[str, Any], **options: Any
) -> list[int]:
    """Token ids of ``messages`` as the chat template renders them, ``[num_tokens]``."""
    ids = tokenizer.apply_chat_template(list(messages), tokenize=True, return_dict=False, **{**kwargs, **options})
    # Some tokenizers return a batch of one.
    return list(ids[0]) if ids and isinstance(ids[0], list) else list(ids)


def _common_suffix(first: list[int], second: list[int]) -> list[int]:
    length = 0
    while length < min(len(first), len(second)) and first[-1 - length] == second[-1 - length]:
        length += 1
    return first[len(first) - length :]


@dataclass(slots=True)
class ChatScaffold:
    """The tokens of a chat template around attempts, for one tokenizer. Made by `resolve_scaffold`."""

    tokenizer: Any
    template_kwargs: Mapping[str, Any]
    opening_placement: str
    """``system`` or ``user``: see `verl_multiattempt.feedback.open_messages`."""
    feedback_role: str
    """``system`` or ``user``."""
    end_ids: frozenset[int]
    """Tokens with which the model ends its turn."""
    control_ids: frozenset[int]
    """Chat-control tokens that are no end of turn; one of them ends the attempt."""
    special_texts: frozenset[str]
    """How the tokenizer's special tokens are spelled."""
    _cache: dict[str, list[int]] = field(default_factory=dict)

    def stop_token_ids(self) -> list[int]:
        """Tokens at which the engine must stop, sorted."""
        return sorted(self.end_ids | self.control_ids)

    def between_attempts(self, feedback: str) -> list[int]:
        """Tokens from the end of an attempt's text to the start of the next attempt, the end of turn included."""
        ids = self._cache.get(feedback)
        if ids is None:
            ids = _between_attempts(self.tokenizer, self.template_kwargs, self.opening_placement, self.feedback_role,
                                    feedback)  # fmt: skip
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            self._cache[feedback] = ids
        return ids

    def context_after(self, last_id: int | None, feedback: str) -> list[int]:
        """`between_attempts` less the end of turn where the model has sampled it itself.

        Args:
            last_id: the last token of the sequence so far.
            feedback: text of the feedback.
        """
        ids = self.between_attempts(feedback)
        return ids[1:] if ids[0] == last_id and last_id in self.end_ids else ids

    def as_plain_text(self, text: str) -> str:
        """``text`` with a space after the first character of each special token spelled in it.

        What a verifier quotes from the model goes through the chat template, where such a spelling would become the
        token itself: a forged turn.
        """
        for token in sorted(self.special_texts, key=len, reverse=True):
            text = text.replace(token, f"{token[:1]} {token[1:]}")
        return text

    def attempt_text(self, ids: Sequence[int]) -> str:
        """The text of an attempt, without control tokens."""
        written = [i for i in ids if i not in self.control_ids and i not in self.end_ids]
        return str(self.tokenizer.decode(written, skip_special_tokens=True))


def _between_attempts(tokenizer: Any, kwargs: Mapping[str, Any], placement: str, role: str, feedback: str) -> list[int]:
    system = [_SYSTEM] if placement == "system" else []
    renderings = [
        render(
            tokenizer,
            [*system, _QUESTION, {"role": "assistant", "content": answer}, {"role": role, "content": feedback}],
            kwargs,
            add_generation_prompt=True,
        )
        for answer in _ANSWERS
    ]
    return _common_suffix(*renderings)


def special_ids(tokenizer: Any) -> set[int]:
    """Ids of all tokens that the tokenizer holds for special: chat control, padding, end of text."""
    added = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | {i for i in tokenizer.all_special_ids if i is not None}


def _header_ids(tokenizer: Any, kwargs: Mapping[str, Any], placement: str, role: str, feedback: str) -> set[int]:
    """Added tokens with which the template begins and ends turns.

    Some tokenizers do not hold them for special (DeepSeek-R1-Distill's ``<|User|>`` and ``<|Assistant|>``). Of a
    generation prompt only the first one counts: what follows, such as ``<think>``, is the model's to write.
    """
    opening = [*([_SYSTEM] if placement == "system" else []), _QUESTION]
    turns = [*opening, {"role": "assistant", "content": _ANSWERS[0]}, {"role": role, "content": feedback}]
    closed = render(tokenizer, turns, kwargs, add_generation_prompt=False)
    prompted = render(tokenizer, turns, kwargs, add_generation_prompt=True)
    prompt = prompted[len(closed) :] if prompted[: len(closed)] == closed else []
    between = _between_attempts(tokenizer, kwargs, placement, role, feedback)
    added = set(tokenizer.added_tokens_decoder)
    written = {*render(tokenizer, opening, kwargs, add_generation_prompt=False), *between[: len(between) - len(prompt)]}
    return (written & added) | {next((i for i in prompt if i in added), tokenizer.eos_token_id)} - {None}


def resolve_scaffold(
    tokenizer: Any,
    *,
    feedback_role: str = "auto",
    sample_feedback: str,
    template_kwargs: Mapping[str, Any] | None = None,
    allowed_special_tokens: Sequence[str] = (),
) -> ChatScaffold:
    """Find out, with the real tokenizer, where the opening goes and which role feedback has.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        feedback_role: ``system``, ``user``, or ``auto``: system if the template renders one there, else user.
        sample_feedback: a feedback text to try.
        template_kwargs: ``data.apply_chat_template_kwargs``.
        allowed_special_tokens: special tokens that do not end an attempt.

    Raises:
        ValueError: the tokenizer has no chat template, or the template cannot render the role asked for.
    """
    kwargs = dict(template_kwargs or {})
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "actor_rollout_ref.model.path must name a model whose tokenizer has a chat template; got none. "
            "Set actor_rollout_ref.model.custom_chat_template."
        )
    placement = _opening_placement(tokenizer, kwargs)
    reasons: dict[str, str] = {}
    for role in ("system", "user") if feedback_role == "auto" else (feedback_role,):
        try:
            ids = _between_attempts(tokenizer, kwargs, placement, role, sample_feedback)
            if sample_feedback.strip() not in tokenizer.decode(ids):
                raise ValueError(f"the template does not render a {role} message after the assistant's")
            break
        except Exception as error:  # a template refuses in ways of its own: jinja2, TypeError, KeyError ...
            reasons[role] = str(error)
    else:
        told = "; ".join(f"{role}: {reason}" for role, reason in reasons.items())
        raise ValueError(
            "multiattempt.feedback.role must be a role that the chat template renders after an assistant message; "
            f"got {feedback_role!r} ({told}). Set it to auto, or use another chat template."
        )
    allowed = {tokenizer.convert_tokens_to_ids(token) for token in allowed_special_tokens}
    special = special_ids(tokenizer) | _header_ids(tokenizer, kwargs, placement, role, sample_feedback)
    end_ids = {i for i in (tokenizer.eos_token_id, ids[0]) if i in special}
    return ChatScaffold(
        tokenizer=tokenizer,
        template_kwargs=kwargs,
        opening_placement=placement,
        feedback_role=role,
        end_ids=frozenset(end_ids),
        control_ids=frozenset(special - end_ids - allowed),
        special_texts=frozenset(text for i in special if (text := tokenizer.convert_ids_to_tokens(i))),
    )


def _opening_placement(tokenizer: Any, kwargs: Mapping[str, Any]) -> str:
    """``system`` where the template renders a system message, else ``user``."""
    try:
        text = tokenizer.decode(render(tokenizer, [_SYSTEM, _QUESTION], kwargs, add_generation_prompt=True))
    except Exception:  # as above: a template refuses in ways of its own
        return "user"
    return "system" if _SYSTEM["content"] in text else "user"
