"""The schedule of the paper's code, on the engine and the verifier of this project.

As DualityRL/multi-attempt@32d8641, ``train/openrlhf/duality/vllm_mul.py``: batches of 256 conversations, one after the
other, the prefix cache emptied before each; in a batch rounds, in which each open conversation is given at most 64
tokens; after the round those are judged that hold a boxed answer or have ended, and get their feedback. There the
conversation is kept as text, which is encoded anew for each round.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from in_process import InProcessServer
from planned_engine import PlannedBench

from verl_multiattempt.adapters.agent_loop import question_of
from verl_multiattempt.answer import extract_answer
from verl_multiattempt.chat.scaffold import render
from verl_multiattempt.feedback import feedback_text, open_messages
from verl_multiattempt.verifier import Outcome

BATCH_SIZE, SLICE = 256, 64


@dataclass(slots=True)
class Conversation:
    """One episode; its tokens are what counts where ``text`` is None."""

    number: int
    allowance: int
    ids: list[int]
    text: str | None
    current: list[int] = field(default_factory=list)
    """Tokens of the attempt so far."""
    verdicts: list[bool] = field(default_factory=list)
    finished: bool = False
    request_tokens: int = 0
    """Tokens of all its prompts."""


class LockStep:
    """Runs the episodes of a plan in lock step.

    Args:
        planned: the plan, its engine and its verifier.
        batch_size: conversations in a batch.
        slice_tokens: most new tokens in a round.
        as_text: keep conversations as text; else as token ids.
        logprobs: ask for log-probabilities, as the agent loop does.
    """

    def __init__(
        self, planned: PlannedBench, *, batch_size: int, slice_tokens: int, as_text: bool = True, logprobs: bool = True
    ):
        self.planned, self.rows = planned, planned.bench.rows
        self.batch_size, self.slice_tokens = batch_size, slice_tokens
        self.as_text, self.logprobs = as_text, logprobs
        self.shared = planned.bench.loop().shared
        self.scaffold, self.settings = self.shared.scaffold, self.shared.settings
        self.tokenizer = self.scaffold.tokenizer
        self.server = InProcessServer(planned.engine._llm)
        self.rounds = 0

    async def run(self, numbers: Sequence[int]) -> list[Conversation]:
        """All batches."""
        done: list[Conversation] = []
        for start in range(0, len(numbers), self.batch_size):
            await self.planned.engine._llm.reset_prefix_cache()
            batch = [self._open(number) for number in numbers[start : start + self.batch_size]]
            while unfinished := [conversation for conversation in batch if not conversation.finished]:
                await self._round(unfinished)
            done += batch
        return done

    def _open(self, number: int) -> Conversation:
        allowance = len(self.planned.plan[number])
        messages = open_messages(self.rows[number]["raw_prompt"], self.settings.opening, allowance,
                                 placement=self.scaffold.opening_placement)  # fmt: skip
        ids = list(render(self.tokenizer, messages, self.scaffold.template_kwargs, add_generation_prompt=True))
        return Conversation(number, allowance, ids, self.tokenizer.decode(ids) if self.as_text else None)

    async def _round(self, conversations: Sequence[Conversation]) -> None:
        """A slice of each, all at once, and then the verdicts."""
        self.rounds += 1
        requests = [(one, self._prompt(one)) for one in conversations]
        outputs = await asyncio.gather(*(self._sample(one, ids) for one, ids in requests))
        ended = [one for one, ids in zip(conversations, outputs, strict=True) if self._take(one, ids)]
        verdicts = await asyncio.gather(*(self._verify(one) for one in ended))
        for one, right in zip(ended, verdicts, strict=True):
            self._go_on(one, right)

    def _prompt(self, one: Conversation) -> list[int]:
        if one.text is not None:
            one.ids = self.tokenizer.encode(one.text, add_special_tokens=False)
        return one.ids

    async def _sample(self, one: Conversation, ids: list[int]) -> list[int]:
        params = {
            "temperature": 1.0,
            "logprobs": self.logprobs,
            "max_tokens": self.slice_tokens,
            "stop_token_ids": self.scaffold.stop_token_ids(),
            "extra_args": self.planned.answers.args(one.number, len(one.verdicts), len(one.current)),
        }
        one.request_tokens += len(ids)
        output = await self.server.generate(f"lock-{one.number}", prompt_ids=ids, sampling_params=params)
        return list(output.token_ids)

    def _take(self, one: Conversation, ids: list[int]) -> bool:
        """Add a slice; whether the attempt has ended."""
        one.current += ids
        if one.text is None:
            one.ids = one.ids + ids
        else:
            one.text += self.scaffold.attempt_text(ids)
        return ids[-1] in self.scaffold.end_ids or extract_answer(self.scaffold.attempt_text(one.current)) is not None

    async def _verify(self, one: Conversation) -> bool:
        text, question = self.scaffold.attempt_text(one.current), question_of(self.rows[one.number])
        return (await self.shared.verifier.verify(text, question)).outcome is Outcome.CORRECT

    def _go_on(self, one: Conversation, right: bool) -> None:
        one.verdicts.append(right)
        left = one.allowance - len(one.verdicts)
        if right or not left:
            one.finished = True
            return
        feedback = feedback_text(self.settings.feedback, left)
        if one.text is None:
            one.ids = one.ids + self.scaffold.context_after(one.current[-1], feedback)
        else:
            # The end of the turn is no part of the text so far.
            one.text += self.tokenizer.decode(self.scaffold.between_attempts(feedback))
        one.current = []
