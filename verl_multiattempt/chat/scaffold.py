"""What the chat template writes around an attempt: end of turn, feedback, next generation prompt.

Asked of the template once (`verl_multiattempt.chat.layout`); the answers are kept, so that an episode costs no
rendering besides its opening.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from verl_multiattempt.chat.layout import FEEDBACK, SYSTEM, USER, Layout, render, special_ids
from verl_multiattempt.chat.layout_check import Samples, check_layout
from verl_multiattempt.chat.marks import thought_ids
from verl_multiattempt.chat.refusal import Refusal, refusal_text
from verl_multiattempt.settings import OpeningSettings

__all__ = ["ChatScaffold", "render", "resolve_scaffold"]

_CACHE_SIZE = 4096


@dataclass(slots=True, kw_only=True)
class ChatScaffold:
    """The tokens of a chat template around attempts, for one tokenizer. Made by `resolve_scaffold`."""

    layout: Layout
    """Where the opening goes, and which role feedback has."""
    reasons: Mapping[tuple[str, str], str]
    """Why other layouts cannot be rendered, by (opening placement, feedback role)."""
    closing: tuple[int, ...]
    """What the template writes after an answer, up to and including the token that ends the turn; empty where a turn
    is ended by no token of its own."""
    turn_end: int
    """How many tokens of `between_attempts` belong to the end of the attempt's turn."""
    end_ids: frozenset[int]
    """Tokens with which the model ends its turn."""
    control_ids: frozenset[int]
    """Chat-control tokens that are no end of turn; one of them ends the attempt."""
    stop_ids: frozenset[int] = field(init=False)
    """Both of these: the tokens that end an attempt."""
    special_texts: frozenset[str]
    """How the tokenizer's special tokens are spelled."""
    lead: tuple[int, ...]
    """What the model writes before each answer, in the template's eyes: see `Layout.lead`; mostly empty."""
    samples: Samples
    """The user's texts that were tried."""
    max_attempts: int
    """Attempts of the longest episode that was tried."""
    _cache: dict[str, list[int]] = field(default_factory=dict)
    _reopened: list[int] | None = None
    _sorted_stop_ids: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.stop_ids = self.end_ids | self.control_ids
        self._sorted_stop_ids = sorted(self.stop_ids)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer asked."""
        return self.layout.tokenizer

    @property
    def template_kwargs(self) -> Mapping[str, Any]:
        """``data.apply_chat_template_kwargs``."""
        return self.layout.template_kwargs

    @property
    def opening_placement(self) -> str:
        """``system`` or ``user``: see `verl_multiattempt.feedback.open_messages`."""
        return self.layout.opening_placement

    @property
    def feedback_role(self) -> str:
        """``system`` or ``user``."""
        return self.layout.feedback_role

    def stop_token_ids(self) -> list[int]:
        """Tokens at which the engine must stop, sorted; a new list."""
        return list(self._sorted_stop_ids)

    def between_attempts(self, feedback: str) -> list[int]:
        """Tokens from the end of an attempt's text to the start of the next attempt, the end of turn included."""
        ids = self._cache.get(feedback)
        if ids is None:
            ids = self.layout.between(feedback)
            if len(self._cache) >= _CACHE_SIZE:
                self._cache.clear()
            self._cache[feedback] = ids
        return ids

    def context_parts(self, last_id: int | None, feedback: str) -> tuple[list[int], list[int]]:
        """`context_after` in two parts: what ends the attempt's turn, and the feedback with its scaffold."""
        ids = self.between_attempts(feedback)
        sampled = self._num_sampled(ids, last_id)
        return ids[sampled : self.turn_end], ids[max(sampled, self.turn_end) :]

    def _num_sampled(self, ids: Sequence[int], last_id: int | None) -> int:
        """How many of ``ids``, which first end the turn, are not inserted where the model ended with ``last_id``."""
        if last_id not in self.end_ids:
            return 0
        # A turn may have more than one end; what stands before the one that was sampled comes too late.
        ends = [position for position in range(self.turn_end) if ids[position] == last_id]
        return ends[-1] + 1 if ends else 0

    def context_after(self, last_id: int | None, feedback: str) -> list[int]:
        """`between_attempts` less the end of turn where the model has sampled it itself.

        Args:
            last_id: the last token of the sequence so far.
            feedback: text of the feedback.
        """
        inserted, rest = self.context_parts(last_id, feedback)
        return inserted + rest

    def reopened_parts(self, last_id: int | None) -> tuple[list[int], list[int]]:
        """`context_parts` for an attempt that follows the one before without any message between them.

        Args:
            last_id: the last token of the sequence so far.

        Returns:
            What ends the attempt's turn, less what the model sampled of it, and what opens the next turn.

        Raises:
            ValueError: the template opens no turn of the model there.
        """
        if self._reopened is None:
            self._reopened = _reopened(self.layout, self.turn_end)
        sampled = self._num_sampled(self._reopened, last_id)
        return self._reopened[sampled : self.turn_end], self._reopened[self.turn_end :]

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
        written = ids[:-1] if ids and ids[-1] in self.stop_ids else ids
        # Mostly that was all. The set is asked about all tokens at once, which is several times as fast.
        if not self.stop_ids.isdisjoint(written):
            written = [i for i in written if i not in self.stop_ids]
        return str(self.tokenizer.decode(list(written), skip_special_tokens=True))


def resolve_scaffold(
    tokenizer: Any,
    *,
    feedback_role: str = "auto",
    sample_feedback: str,
    opening: OpeningSettings | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    allowed_special_tokens: Sequence[str] = (),
    max_attempts: int = 5,
) -> ChatScaffold:
    """Find out, with the real tokenizer, where the opening goes, which role feedback has and how a turn ends.

    Renders imaginary episodes in every layout; the first that works is taken, a system message before a user message.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        feedback_role: ``system``, ``user``, or ``auto``: system if the template renders one there, else user.
        sample_feedback: a feedback text, which must be written as it is.
        opening: the opening's text, of which the same is true; by default the package's.
        template_kwargs: ``data.apply_chat_template_kwargs``.
        allowed_special_tokens: special tokens that do not end an attempt.
        max_attempts: attempts of the longest episode.

    Raises:
        ValueError: the tokenizer has no chat template, or the template cannot render the role asked for, or not that
            many attempts.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError(
            "actor_rollout_ref.model.path must name a model whose tokenizer has a chat template; got none. "
            "Set actor_rollout_ref.model.custom_chat_template."
        )
    roles = (SYSTEM, USER) if feedback_role == "auto" else (feedback_role,)
    samples = Samples(feedback=sample_feedback, opening=opening or OpeningSettings())
    layouts: list[Layout] = []
    refusals: dict[tuple[str, str], Refusal] = {}
    for placement in (SYSTEM, USER):
        for role in roles:
            layout = Layout(tokenizer=tokenizer, template_kwargs=dict(template_kwargs or {}),
                            opening_placement=placement, feedback_role=role)  # fmt: skip
            refusal = check_layout(layout, samples, max_attempts)
            if refusal is None:
                layouts.append(layout)
            else:
                refusals[placement, role] = refusal
    if not layouts:
        raise ValueError(refusal_text(refusals, feedback_role, max_attempts))
    reasons = {key: refusal.reason for key, refusal in refusals.items()}
    return _scaffold(_preferred(layouts), reasons, samples, allowed_special_tokens, max_attempts)


def _preferred(layouts: Sequence[Layout]) -> Layout:
    """The first layout, unless a turn is ended by the header of the next, which models learn for the user's."""
    first = layouts[0]
    for other in layouts[1:]:
        if first.feedback_role == SYSTEM and other == replace(first, feedback_role=USER):
            ends = [_closing(layout, special_ids(layout.tokenizer) | layout.header_ids(FEEDBACK))
                    for layout in (first, other)]  # fmt: skip
            return first if ends[0] == ends[1] else other
    return first


def _closing(layout: Layout, special: set[int]) -> tuple[int, ...]:
    """What the template writes after an answer, up to the first control token; empty where that comes too late."""
    between = layout.between(FEEDBACK)
    length = next((n for n, token in enumerate(between, start=1) if token in special), 0)
    closing = between[:length]
    return () if FEEDBACK in layout.tokenizer.decode(closing) else tuple(closing)


def _reopened(layout: Layout, turn_end: int) -> list[int]:
    """`Layout.reopened`, checked: the turn ends and the next is opened as around a feedback."""
    between = layout.between(FEEDBACK)
    reason = "it writes nothing that opens a turn there"
    try:
        ids = layout.reopened()
    except Exception as error:  # as in `check_layout`
        ids, reason = [], str(error) or type(error).__name__
    opened = ids[turn_end:]
    if ids and ids[:turn_end] != between[:turn_end]:
        reason = "it ends a turn otherwise there than before a feedback message"
    elif opened and between[-len(opened) :] == opened:
        return ids
    raise ValueError(
        "the chat template must open a turn of the model right after its last one for attempts without any feedback "
        f"message; got one that does not ({reason}). Leave these attempts out, or use another chat template."
    )


def _scaffold(
    layout: Layout,
    reasons: Mapping[tuple[str, str], str],
    samples: Samples,
    allowed_special_tokens: Sequence[str],
    max_attempts: int,
) -> ChatScaffold:
    tokenizer = layout.tokenizer
    headers, lead = layout.header_ids(FEEDBACK), layout.lead()
    special = special_ids(tokenizer) | headers
    closing, between, end = _closing(layout, special), layout.between(FEEDBACK), layout.turn_end()
    end_ids = {i for i in (tokenizer.eos_token_id, *closing[-1:]) if i is not None}
    # What the model writes in its own turn, were it special or not.
    own = thought_ids(tokenizer, headers | end_ids) | set(lead)
    allowed = {tokenizer.convert_tokens_to_ids(token) for token in allowed_special_tokens} | own
    return ChatScaffold(
        layout=layout,
        reasons=dict(reasons),
        closing=closing,
        turn_end=max(len(closing), len(end) if between[: len(end)] == end else 0),
        end_ids=frozenset(end_ids),
        control_ids=frozenset(special - end_ids - allowed),
        special_texts=frozenset(text for i in special if (text := tokenizer.convert_ids_to_tokens(i))),
        lead=tuple(lead),
        samples=samples,
        max_attempts=max_attempts,
    )
