"""The token side of an episode: ids, mask and log-probabilities that grow together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

PROMPT, MODEL, INSERTED, FEEDBACK = KINDS = ("prompt", "model", "inserted", "feedback")
"""Kinds of segments: the opening; sampled tokens, which are trained on; an end of turn that the model left out;
feedback with what the template puts around it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Neighbouring tokens of one kind."""

    kind: str
    """One of ``KINDS``; ``model`` is what is trained on."""
    ids: tuple[int, ...]


@dataclass(slots=True)
class TokenStream:
    """Prompt and response of one episode.

    The lists of the response always have one length: ids ``[n]``, mask ``[n]`` (1 sampled, 0 context) and
    log-probabilities ``[n]`` (0.0 for context), or no log-probabilities at all.
    """

    prompt_ids: list[int]
    capacity: int
    """Most tokens the response may have."""
    response_ids: list[int] = field(default_factory=list)
    response_mask: list[int] = field(default_factory=list)
    response_logprobs: list[float] | None = field(default_factory=list)
    _starts: list[tuple[int, str]] = field(default_factory=list)
    """Where each segment of the response starts, and its kind."""

    @property
    def room(self) -> int:
        """Tokens that still fit."""
        return self.capacity - len(self.response_ids)

    @property
    def all_ids(self) -> list[int]:
        """Prompt and response, a new list."""
        return self.prompt_ids + self.response_ids

    @property
    def last_id(self) -> int | None:
        """The last token of the response; None where it is empty."""
        return self.response_ids[-1] if self.response_ids else None

    def add_context(self, ids: Sequence[int], kind: str = FEEDBACK) -> None:
        """Append tokens that the model did not sample.

        Args:
            ids: the tokens.
            kind: ``feedback`` or ``inserted``.

        Raises:
            ValueError: they do not fit.
        """
        self._extend(ids, [0.0] * len(ids), kind)

    def add_sampled(self, ids: Sequence[int], logprobs: Sequence[float] | None) -> None:
        """Append tokens that the model sampled, with the log-probability of each.

        Raises:
            ValueError: they do not fit, or ids and log-probabilities differ in number.
        """
        if ids and (logprobs is None) != (self.response_logprobs is None):
            if any(self.response_mask):
                raise ValueError("log-probabilities must come with every generation or with none")
            self.response_logprobs = None if logprobs is None else [0.0] * len(self.response_ids)
        if logprobs is not None and len(logprobs) != len(ids):
            raise ValueError(f"logprobs must be as many as the sampled tokens ({len(ids)}); got {len(logprobs)}")
        self._extend(ids, logprobs, MODEL)

    def _extend(self, ids: Sequence[int], logprobs: Sequence[float] | None, kind: str) -> None:
        if len(ids) > self.room:
            raise ValueError(f"ids must fit into the {self.room} tokens left; got {len(ids)}")
        if ids and (not self._starts or self._starts[-1][1] != kind):
            self._starts.append((len(self.response_ids), kind))
        self.response_ids.extend(ids)
        self.response_mask.extend([int(kind == MODEL)] * len(ids))
        if self.response_logprobs is not None:
            self.response_logprobs.extend(logprobs if logprobs is not None else [0.0] * len(ids))

    def drop_after(self, length: int) -> None:
        """Cut the response to ``length`` tokens."""
        del self.response_ids[length:], self.response_mask[length:]
        if self.response_logprobs is not None:
            del self.response_logprobs[length:]
        self._starts = [(start, kind) for start, kind in self._starts if start < length]

    def segments(self) -> list[Segment]:
        """The prompt and the response, cut where the kind of token changes; without gaps."""
        bounds = [*self._starts, (len(self.response_ids), "")]
        return [
            Segment(kind=PROMPT, ids=tuple(self.prompt_ids)),
            *(
                Segment(kind=kind, ids=tuple(self.response_ids[start:end]))
                for (start, kind), (end, _) in itertools.pairwise(bounds)
            ),
        ]

    def drop_trailing_context(self) -> None:
        """Cut the response after its last sampled token, where verl puts the reward (see design: masked tail)."""
        length = len(self.response_mask)
        while length and not self.response_mask[length - 1]:
            length -= 1
        self.drop_after(length)
