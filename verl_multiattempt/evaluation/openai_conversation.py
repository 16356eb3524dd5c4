"""One episode's conversation with a server: its limits, kept by the tokens that the server counts."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from verl_multiattempt.chat.attempt_generator import EpisodeError
from verl_multiattempt.chat.scaffold import render
from verl_multiattempt.episode import Stop
from verl_multiattempt.evaluation.engine import Sampling, request_seed
from verl_multiattempt.evaluation.openai_answer import Answer
from verl_multiattempt.evaluation.openai_engine import CHARS_PER_TOKEN, OpenAIEngine, TooLongError, told
from verl_multiattempt.feedback import Message
from verl_multiattempt.record import Segment
from verl_multiattempt.rollout import Generation


@dataclass(slots=True, kw_only=True)
class OpenAIConversation:
    """One episode's requests to an `OpenAIEngine`."""

    engine: OpenAIEngine
    seed: int
    sampling: Sampling
    _prompt: int = 0
    """Tokens of the opening, as the server counts them."""
    _capacity: int = 0
    _used: int = 0
    """Tokens after the opening, sampled or not."""
    _sampled: int = 0
    _before: int = 0
    """Tokens of the last request and its answer."""
    _growth: int | None = None
    """Tokens of the last feedback, as the server counts them."""
    _stop: Stop | None = None
    _num_requests: int = 0
    _sent: list[str] = field(default_factory=list)
    """The model's answers as they are sent back, thoughts left out."""

    async def generate(self, messages: list[Message]) -> Generation | None:
        """See `verl_multiattempt.evaluation.engine.Conversation.generate`."""
        settings, context = self.engine.settings, 0
        if self._num_requests == 0:
            self._capacity = self._first_capacity(messages)
        else:
            context = self._context_tokens(messages[-1])
            if self._used + context + settings.min_tokens_per_attempt > self._capacity:
                return None
        room = self._capacity - self._used - context
        if room < 1:
            return None
        limit = min(room, settings.max_tokens_per_attempt or room)
        started = time.perf_counter()
        try:
            answer = await self.engine.complete(
                self._as_sent(messages),
                limit,
                seed=request_seed(self.seed, self._num_requests),
                sampling=self.sampling,
            )
        except TooLongError:
            if self._num_requests == 0:
                raise
            return None
        self._take(answer)
        self._stop = stop = self._stop_of(answer, limit, room)
        return Generation(
            text=answer.text, stop=stop, num_tokens=answer.completion_tokens,
            generate_s=time.perf_counter() - started,
        )  # fmt: skip

    def _stop_of(self, answer: Answer, limit: int, room: int) -> Stop:
        if answer.stop is None:
            return Stop.CONVERSATION_LIMIT if limit == room else Stop.ATTEMPT_LIMIT
        scaffold = self.engine.scaffold
        if scaffold is not None and answer.stop_id in scaffold.control_ids:
            return Stop.CONTROL_TOKEN
        return answer.stop

    def _first_capacity(self, messages: list[Message]) -> int:
        engine, limit = self.engine, self.sampling.max_tokens
        if engine.scaffold is None or engine.max_model_len is None:
            return limit
        try:
            prompt = render(engine.scaffold.tokenizer, messages, engine.scaffold.template_kwargs,
                            add_generation_prompt=True)  # fmt: skip
        except Exception as error:
            raise EpisodeError(f"prompt must be what the chat template renders; got {told(error)}") from error
        if engine.max_model_len - len(prompt) < 1:
            raise EpisodeError(
                f"the prompt must leave room for an attempt in the server's context ({engine.max_model_len}); "
                f"got a prompt of {len(prompt)} tokens"
            )
        return min(limit, engine.max_model_len - len(prompt))

    def _context_tokens(self, last: Message) -> int:
        scaffold = self.engine.scaffold
        if scaffold is None:
            if self._growth is not None:
                return self._growth
            return 8 + (0 if last["role"] == "assistant" else len(last["content"]) // CHARS_PER_TOKEN)
        ended = scaffold.closing[-1] if scaffold.closing and self._stop is Stop.END_OF_TURN else None
        parts = (
            scaffold.reopened_parts(ended) if last["role"] == "assistant"
            else scaffold.context_parts(ended, last["content"])
        )  # fmt: skip
        return sum(map(len, parts))

    def _as_sent(self, messages: list[Message]) -> list[Message]:
        sent = [dict(message) for message in messages]
        answers = [message for message in sent if message["role"] == "assistant"]
        # An opening may hold answers of its own, as examples.
        for message, text in zip(answers[len(answers) - len(self._sent) :], self._sent, strict=True):
            message["content"] = text
        return sent

    def _take(self, answer: Answer) -> None:
        if self._num_requests == 0:
            self._prompt = answer.prompt_tokens
        else:
            # Where a template leaves earlier thoughts out the prompt shrinks; they were sampled none the less.
            self._growth = max(0, answer.prompt_tokens - self._before)
            self._used += self._growth
        self._num_requests += 1
        self._used += answer.completion_tokens
        self._sampled += answer.completion_tokens
        self._before = answer.prompt_tokens + answer.completion_tokens
        self._sent.append(answer.content)

    def segments(self) -> list[Segment]:
        """None: the server gives no tokens."""
        return []

    def num_context_tokens(self) -> int:
        """See `verl_multiattempt.evaluation.engine.Conversation.num_context_tokens`."""
        return self._used - self._sampled

    def num_prompt_tokens(self) -> int:
        """See `verl_multiattempt.evaluation.engine.Conversation.num_prompt_tokens`."""
        return self._prompt
