"""Generating the attempts of one episode with verl's engine, and keeping their tokens."""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from verl.experimental.agent_loop.tool_agent_loop import SPEC_DECODE_EXTRA_KEYS
from verl.workers.rollout.replica import TokenOutput

from verl_multiattempt.adapters.chat import ChatScaffold
from verl_multiattempt.adapters.tokens import INSERTED, TokenStream
from verl_multiattempt.answer import extract_answer
from verl_multiattempt.episode import Stop
from verl_multiattempt.feedback import Message
from verl_multiattempt.rollout import Generation

if TYPE_CHECKING:
    from verl_multiattempt.adapters.agent_loop import MultiAttemptAgentLoop

MAX_FRUITLESS_RESUMES = 8
"""Aborted generations in a row, without a new token, after which the episode fails."""
_ABORTED = ("abort", "aborted")


class EpisodeError(RuntimeError):
    """An episode cannot be finished or trained on; verl marks its rollout failed and the others go on."""


@dataclass(slots=True)
class AttemptGenerator:
    """Generates the attempts of one episode, and keeps its tokens."""

    loop: MultiAttemptAgentLoop
    sampling_params: dict[str, Any]
    priority: int
    stream: TokenStream = field(init=False)
    extra_fields: dict[str, Any] = field(default_factory=dict)
    routed_experts: Any = None
    num_preempted: int = -1
    """-1: not available, as in verl."""
    seconds: float = 0.0
    _request_id: str = ""
    _num_requests: int = 0
    _started: bool = False

    def __post_init__(self) -> None:
        # One id for the whole episode keeps it on one server, where its prefix is cached.
        deterministic = getattr(self.loop.rollout_config, "full_determinism", False)
        self._request_id = f"det-{self.priority}" if deterministic else uuid4().hex

    async def generate(self, messages: list[Message]) -> Generation | None:
        """The next attempt (see `verl_multiattempt.rollout.Generate`)."""
        settings = self.loop.shared.settings
        if not self._started:
            await self._open(messages)
        else:
            ended, feedback = self.loop.shared.scaffold.context_parts(self._last_id(), messages[-1]["content"])
            if len(ended) + len(feedback) + settings.min_tokens_per_attempt > self.stream.room:
                return None
            self.stream.add_context(ended, INSERTED)
            self.stream.add_context(feedback)
        if self.stream.room < 1:
            return None
        start, waited = len(self.stream.response_ids), self.seconds
        stop = await self._sample(start)
        ids = self.stream.response_ids[start:]
        return Generation(
            text=self.loop.shared.scaffold.attempt_text(ids),
            stop=stop,
            num_tokens=len(ids),
            logprob_mean=_finite_mean((self.stream.response_logprobs or [])[start:]),
            generate_s=self.seconds - waited,
        )

    def _last_id(self) -> int | None:
        return self.stream.last_id if self.stream.response_ids else self.stream.prompt_ids[-1]

    async def _open(self, messages: list[Message]) -> None:
        # verl cuts a long prompt from the left, which would cut the opening off: so its length is checked first.
        loop = self.loop
        builder = loop.continuous_token_builder
        ids = await loop.loop.run_in_executor(None, lambda: builder.build_initial_tokens(messages))
        if len(ids) > loop.prompt_length:
            raise ValueError(
                f"data.max_prompt_length must hold the prompt with its opening ({len(ids)} tokens); "
                f"got {loop.prompt_length}"
            )
        capacity = loop.response_length
        if max_model_len := getattr(loop.rollout_config, "max_model_len", None):
            capacity = min(capacity, max_model_len - len(ids))
        self.stream = TokenStream(prompt_ids=list(ids), capacity=capacity)
        self._started = True

    async def _sample(self, start: int) -> Stop:
        """Sample one attempt into the stream, which has ``start`` response tokens now."""
        settings, scaffold, stream = self.loop.shared.settings, self.loop.shared.scaffold, self.stream
        limit = min(stream.room, settings.max_tokens_per_attempt or stream.room)
        fruitless = 0
        while (sampled := len(stream.response_ids) - start) < limit:
            asked = limit - sampled
            if settings.stop_at_answer:
                asked = min(asked, settings.stop_at_answer_every)
            output = await self._request(asked)
            ids = _until_stop(output.token_ids[:asked], scaffold)
            stream.add_sampled(ids, output.log_probs[: len(ids)] if output.log_probs else None)
            # First, so that the cut does not depend on where a slice ends.
            if settings.stop_at_answer and self._cut_after_answer(start):
                return Stop.ANSWER
            if ids and ids[-1] in scaffold.end_ids:
                return Stop.END_OF_TURN
            if ids and ids[-1] in scaffold.control_ids:
                return Stop.CONTROL_TOKEN
            if output.stop_reason in _ABORTED:
                # Weights are being synchronised: go on where the engine left off.
                fruitless = 0 if ids else fruitless + 1
                if fruitless > MAX_FRUITLESS_RESUMES:
                    raise EpisodeError(f"the engine aborted the generation {fruitless} times in a row")
            elif len(ids) < asked:
                # The engine ended it for a reason of its own (a stop string, its context limit).
                return Stop.END_OF_TURN if len(stream.response_ids) > start else Stop.EMPTY
        return Stop.CONVERSATION_LIMIT if stream.room == 0 else Stop.ATTEMPT_LIMIT

    def _cut_after_answer(self, start: int) -> bool:
        """Drop what follows the token that completes the attempt's first answer; whether there is one."""
        ids, scaffold = self.stream.response_ids[start:], self.loop.shared.scaffold

        def answered(length: int) -> bool:
            return extract_answer(scaffold.attempt_text(ids[:length])) is not None

        if not answered(len(ids)):
            return False
        # "The first n tokens hold an answer" is monotone in n.
        length = bisect.bisect_left(range(1, len(ids) + 1), True, key=answered) + 1
        self.stream.drop_after(start + length)
        return True

    async def _request(self, max_tokens: int) -> TokenOutput:
        params = {
            **self.sampling_params,
            "max_tokens": max_tokens,
            "stop_token_ids": self.loop.shared.scaffold.stop_token_ids(),
        }
        if self._num_requests and getattr(self.loop.rollout_config, "full_determinism", False):
            # The server would give each request of the episode the same seed, and so the same random numbers.
            params["seed"] = self.loop.rollout_config.seed + self._num_requests
        self._num_requests += 1
        started = time.perf_counter()
        output: TokenOutput = await self.loop.server_manager.generate(
            request_id=self._request_id,
            prompt_ids=self.stream.all_ids,
            sampling_params=params,
            priority=self.priority,
        )
        self.seconds += time.perf_counter() - started
        self._take_extras(output)
        return output

    def _take_extras(self, output: TokenOutput) -> None:
        """Carry over what verl wants to know of every generation, as its ToolAgentLoop does."""
        if output.num_preempted is not None:
            self.num_preempted = max(self.num_preempted, 0) + output.num_preempted
        if output.routed_experts is not None:
            self.routed_experts = output.routed_experts
        new = output.extra_fields
        if not self.extra_fields:
            self.extra_fields.update(new)
            return
        if new.get("max_global_steps") is not None:
            self.extra_fields["max_global_steps"] = new["max_global_steps"]
        for name in SPEC_DECODE_EXTRA_KEYS:
            if name in new and name in self.extra_fields:
                self.extra_fields[name] = int(self.extra_fields[name]) + int(new[name])


def _finite_mean(values: Sequence[float]) -> float | None:
    mean = sum(values) / len(values) if values else math.nan
    return mean if math.isfinite(mean) else None


def _until_stop(ids: Sequence[int], scaffold: ChatScaffold) -> list[int]:
    """``ids`` up to and including the first end-of-turn or control token."""
    for position, token in enumerate(ids):
        if token in scaffold.end_ids or token in scaffold.control_ids:
            return list(ids[: position + 1])
    return list(ids)
