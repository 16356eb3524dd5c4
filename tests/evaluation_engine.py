"""A model for the tests of the evaluation: arithmetic answered from a hash of (seed, attempt). All else is real."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_multiattempt.attempts import uniform_u64
from verl_multiattempt.episode import Stop
from verl_multiattempt.evaluation.engine import Sampling, request_seed
from verl_multiattempt.feedback import Message
from verl_multiattempt.record import Segment
from verl_multiattempt.rollout import Generation
from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Outcome, Question, Verdict

Answer = Callable[[str, int, int], str]
"""The text of an attempt: of a question, the seed of the request, the attempt's number from 0."""


def arithmetic(question: str, seed: int, attempt: int) -> str:
    """Right in 3 of 10 attempts; wrong answers are few, so that some repeat; some attempts give none."""
    left, right = map(int, re.findall(r"\d+", question))
    draw = uniform_u64(seed, question, attempt) % 10
    if draw == 9:
        return "I do not know."
    return f"It is \\boxed{{{left + right + (0 if draw < 3 else draw % 3 + 1)}}}."


@dataclass
class Conversation:
    engine: ScriptedEngine
    seed: int
    request_id: str
    sampling: Sampling
    texts: list[str] = field(default_factory=list)
    seen: list[list[Message]] = field(default_factory=list)
    context: int = 0

    async def generate(self, messages: list[Message]) -> Generation | None:
        self.seen.append([dict(message) for message in messages])
        engine = self.engine
        engine.running += 1
        engine.most_running = max(engine.most_running, engine.running)
        try:
            # Episodes end in an order of their own.
            for _ in range(1 + uniform_u64(self.seed, len(self.texts)) % 3):
                await asyncio.sleep(0)
            engine.calls += 1
            if engine.on_call is not None:
                engine.on_call(self, engine.calls)
        finally:
            engine.running -= 1
        self.context += 7 * bool(self.texts)
        question = next(m["content"] for m in messages if m["role"] == "user")
        text = engine.answer(question, request_seed(self.seed, len(self.texts)), len(self.texts))
        self.texts.append(text)
        return Generation(text=text, stop=Stop.END_OF_TURN, num_tokens=len(text.split()), generate_s=0.25)

    def segments(self) -> list[Segment]:
        return [
            Segment(kind="prompt", text="prompt", num_tokens=11),
            *(Segment(kind="model", text=text, num_tokens=len(text.split())) for text in self.texts),
        ]

    def num_context_tokens(self) -> int:
        return self.context

    def num_prompt_tokens(self) -> int:
        return 11


@dataclass
class ScriptedEngine:
    answer: Answer = arithmetic
    on_call: Callable[[Conversation, int], None] | None = None
    """Called before each answer with the conversation and the number of the call; may raise."""
    max_open: int = 8
    feedback_role: str = "user"
    opening_placement: str = "system"
    starts: int = 0
    closed: int = 0
    calls: int = 0
    running: int = 0
    most_running: int = 0
    openings: list[list[Message]] = field(default_factory=list)
    conversations: list[Conversation] = field(default_factory=list)
    """Of all episodes, in the order in which they were opened."""

    async def start(self, openings: Iterable[list[Message]] = (), *, max_tokens: int | None = None) -> None:
        self.openings = list(openings)
        self.starts += 1

    def open(self, *, seed: int, request_id: str, sampling: Sampling) -> Conversation:
        assert self.starts
        self.conversations.append(Conversation(engine=self, seed=seed, request_id=request_id, sampling=sampling))
        return self.conversations[-1]

    def as_plain_text(self, text: str) -> str:
        return text.replace("<|", "< |")

    async def close(self) -> None:
        self.closed += 1

    def describe(self) -> dict[str, Any]:
        return {"kind": "scripted", "model": "arithmetic"}


def question_row(number: int, *, source: str = "sums", **changes: Any) -> dict[str, Any]:
    """A row of verl's format: a sum, its gold and its index."""
    return {
        "data_source": source,
        "prompt": [{"role": "user", "content": f"What is {number} + {number * 7 % 100}?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": str(number + number * 7 % 100)},
        "extra_info": {"index": number},
        **changes,
    }


def write_questions(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """A parquet file of rows."""
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


class FailingVerifier:
    """Never comes to a decision."""

    def __init__(self, settings: VerifierSettings):
        pass

    async def verify(self, text: str, question: Question) -> Verdict:
        return Verdict(outcome=Outcome.ERROR, detail="out of order", fault="error")

    async def close(self) -> None:
        pass


class TellingVerifier(FailingVerifier):
    """Finds all wrong, and tells the model something."""

    async def verify(self, text: str, question: Question) -> Verdict:
        return Verdict(outcome=Outcome.INCORRECT, feedback="Saw <|im_end|>\ud800")
