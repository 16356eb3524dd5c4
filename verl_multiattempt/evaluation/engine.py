"""What the evaluation asks of an engine: conversations with a model, many of them open at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from verl_multiattempt.feedback import Message
from verl_multiattempt.record import Segment
from verl_multiattempt.rollout import Generation


class EngineError(RuntimeError):
    """The engine serves no further episode (it died, or refuses the key); its one sentence ends the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the model is sampled, and how much of it.

    Raises:
        ValueError: a value cannot work.
    """

    max_tokens: int
    """Limit of a conversation: all tokens after its opening, feedback included."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1; got {self.max_tokens!r}")
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be a finite number of at least 0; got {self.temperature!r}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1; got {self.top_p!r}")


class Conversation(Protocol):
    """One episode's conversation with the model."""

    async def generate(self, messages: list[Message]) -> Generation | None:
        """The next attempt (see `verl_multiattempt.rollout.Generate`).

        Messages that end with the model's own answer ask for another attempt with no feedback between: the turn is
        ended and another is opened.

        Raises:
            EpisodeError: this episode cannot go on (`verl_multiattempt.chat.attempt_generator.EpisodeError`).
            EngineError: no episode can.
        """
        ...

    def segments(self) -> list[Segment]:
        """The tokens so far, decoded, as in the episode log; empty where the engine knows no tokens."""
        ...

    def num_context_tokens(self) -> int:
        """Tokens after the opening, up to the last attempt's end, that the model did not sample."""
        ...

    def num_prompt_tokens(self) -> int:
        """Tokens of the opening; 0 before the first attempt, or where the engine does not say."""
        ...


class Engine(Protocol):
    """A model that is evaluated."""

    feedback_role: str
    """``system`` or ``user`` (resolved)."""
    opening_placement: str
    """``system`` or ``user`` (resolved); see `verl_multiattempt.feedback.open_messages`."""
    max_open: int
    """Episodes that may be open at once."""

    async def start(self, openings: Iterable[list[Message]] = (), *, max_tokens: int | None = None) -> None:
        """Get ready; once, before the first `open`.

        Args:
            openings: the opening messages of all episodes to come; room is made for the longest.
            max_tokens: the largest `Sampling.max_tokens` to come; None: as much as the model takes.

        Raises:
            EngineError: it cannot be started.
        """
        ...

    def open(self, *, seed: int, request_id: str, sampling: Sampling) -> Conversation:
        """A new conversation.

        Args:
            seed: of this episode; each of its requests gets its own (see `request_seed`).
            request_id: unique among all episodes.
            sampling: how to sample.
        """
        ...

    def as_plain_text(self, text: str) -> str:
        """A verifier's text for the model with no special token spelled in it, where the tokenizer is known."""
        ...

    async def close(self) -> None:
        """End the engine and every process of it; safe to call at any time, and again."""
        ...

    def describe(self) -> dict[str, Any]:
        """Kind, model and versions as JSON values, for the results; the same in a resumed run."""
        ...


def request_seed(seed: int, number: int) -> int:
    """The seed of an episode's request ``number`` (0, 1 ...), in 31 bits, which every engine takes."""
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 33
