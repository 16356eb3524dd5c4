"""The state machine of an episode: attempts go in with their verdicts; it does no I/O and knows no tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from verl_multiattempt.verifier import Outcome, Verdict

RECORD_SCHEMA = 2
"""Version of `Episode.to_record` and of the episode log; raised when a key comes, goes or changes its meaning."""


class Stop(str, Enum):
    """Why the generation of an attempt ended."""

    END_OF_TURN = "end_of_turn"
    """The model ended its turn."""
    ANSWER = "answer"
    """stop_at_answer: the token that completed the answer."""
    ATTEMPT_LIMIT = "attempt_limit"
    """max_tokens_per_attempt was reached; the episode goes on."""
    CONVERSATION_LIMIT = "conversation_limit"
    """The conversation's limit was reached; the episode is truncated."""
    CONTROL_TOKEN = "control_token"
    """The model wrote a chat-control token other than its end of turn."""
    EMPTY = "empty"
    """The engine returned no token."""

    def __str__(self) -> str:
        return self.value


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One model answer and its verdict."""

    text: str
    verdict: Verdict
    stop: Stop
    num_tokens: int = 0
    """Tokens sampled in this attempt, those dropped after the answer not included."""
    feedback: str | None = None
    """The text given after this attempt; None where none was given."""
    logprob_mean: float | None = None
    """Mean log-probability of its tokens under the engine; None where the engine gave none, or no finite ones."""
    generate_s: float = 0.0
    """Seconds spent waiting for the engine."""


@dataclass(slots=True, kw_only=True)
class Episode:
    """One question, from the opening to the end of its last attempt.

    Raises:
        ValueError: ``max_attempts`` is below 1.
    """

    max_attempts: int
    question_id: str = ""
    """Whatever names the question in a log: dataset index or prompt key."""
    attempts: list[Attempt] = field(default_factory=list)
    truncated: bool = False
    """A limit of the conversation ended the episode before it was solved."""
    num_context_tokens: int = 0
    """Tokens between and after the attempts that the model did not sample: feedback, end of turn, scaffold."""

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1; got {self.max_attempts!r}")

    @property
    def attempts_used(self) -> int:
        """Attempts made so far."""
        return len(self.attempts)

    @property
    def attempts_left(self) -> int:
        """Attempts of the allowance not made yet."""
        return self.max_attempts - len(self.attempts)

    @property
    def solved(self) -> bool:
        """Whether the last attempt was correct; a correct attempt is always the last."""
        return bool(self.attempts) and self.attempts[-1].verdict.outcome is Outcome.CORRECT

    @property
    def answered(self) -> bool:
        """Whether some attempt gave an answer in the asked format; an undecided attempt counts as one that did."""
        return any(attempt.verdict.outcome is not Outcome.NO_ANSWER for attempt in self.attempts)

    @property
    def undecided(self) -> bool:
        """Whether a verification failed (TIMEOUT, ERROR) and no attempt was found correct."""
        failures = (Outcome.TIMEOUT, Outcome.ERROR)
        return not self.solved and any(attempt.verdict.outcome in failures for attempt in self.attempts)

    @property
    def terminated(self) -> bool:
        """Solved, or attempts exhausted."""
        return self.solved or self.attempts_left == 0

    @property
    def ended(self) -> bool:
        """Terminated or truncated."""
        return self.terminated or self.truncated

    def solved_within(self, k: int) -> bool:
        """Whether one of the first ``k`` attempts was correct."""
        return self.solved and self.attempts_used <= k

    def add(self, attempt: Attempt) -> None:
        """Take the next attempt.

        Raises:
            RuntimeError: the episode has ended.
        """
        if self.ended:
            raise RuntimeError("an episode that has ended takes no further attempt")
        self.attempts.append(attempt)
        if attempt.stop is Stop.CONVERSATION_LIMIT and not self.solved:
            self.truncated = True

    def to_record(self) -> dict[str, Any]:
        """The episode as plain JSON values; `from_record` is the inverse."""
        return {
            "schema": RECORD_SCHEMA,
            "question_id": self.question_id,
            "max_attempts": self.max_attempts,
            "truncated": self.truncated,
            "num_context_tokens": self.num_context_tokens,
            "attempts": [
                {
                    "text": attempt.text,
                    "stop": attempt.stop.value,
                    "num_tokens": attempt.num_tokens,
                    "logprob_mean": attempt.logprob_mean,
                    "generate_s": attempt.generate_s,
                    "feedback": attempt.feedback,
                    "outcome": attempt.verdict.outcome.value,
                    "answer": attempt.verdict.answer,
                    "normal_answer": attempt.verdict.normal_answer,
                    "verifier_feedback": attempt.verdict.feedback,
                    "detail": attempt.verdict.detail,
                    "fault": attempt.verdict.fault,
                    "seconds": attempt.verdict.seconds,
                }
                for attempt in self.attempts
            ],
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Episode:
        """Rebuild an episode from `to_record`'s result.

        Raises:
            ValueError: the record is of another schema.
        """
        if record.get("schema") != RECORD_SCHEMA:
            raise ValueError(
                f"schema must be {RECORD_SCHEMA}; got {record.get('schema')!r}. "
                "Read the record with the version of verl_multiattempt that wrote it."
            )
        attempts = [
            Attempt(
                text=item["text"],
                stop=Stop(item["stop"]),
                num_tokens=item["num_tokens"],
                logprob_mean=item["logprob_mean"],
                generate_s=item["generate_s"],
                feedback=item["feedback"],
                verdict=Verdict(
                    outcome=Outcome(item["outcome"]),
                    answer=item["answer"],
                    normal_answer=item["normal_answer"],
                    feedback=item["verifier_feedback"],
                    detail=item["detail"],
                    fault=item["fault"],
                    seconds=item["seconds"],
                ),
            )
            for item in record["attempts"]
        ]
        return cls(
            max_attempts=record["max_attempts"],
            question_id=record["question_id"],
            attempts=attempts,
            truncated=record["truncated"],
            num_context_tokens=record["num_context_tokens"],
        )
