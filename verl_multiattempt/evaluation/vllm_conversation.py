"""One episode's conversation with a `verl_multiattempt.evaluation.vllm_engine.VllmEngine`."""

from __future__ import annotations

from dataclasses import dataclass, field

from verl_multiattempt.chat.attempt_generator import AttemptGenerator, EpisodeError, Sampled
from verl_multiattempt.chat.decode import decode_segments
from verl_multiattempt.chat.tokens import TokenStream
from verl_multiattempt.evaluation.engine import EngineError, Sampling, request_seed
from verl_multiattempt.evaluation.vllm_engine import VllmEngine
from verl_multiattempt.feedback import Message
from verl_multiattempt.record import Segment
from verl_multiattempt.rollout import Generation


@dataclass(slots=True, kw_only=True)
class VllmConversation:
    """One episode's requests to a `VllmEngine`."""

    engine: VllmEngine
    seed: int
    request_id: str
    sampling: Sampling
    _generator: AttemptGenerator | None = field(default=None)
    _num_requests: int = 0

    async def generate(self, messages: list[Message]) -> Generation | None:
        """See `verl_multiattempt.evaluation.engine.Conversation.generate`."""
        if self._generator is None:
            engine = self.engine
            self._generator = AttemptGenerator(engine.scaffold, engine.settings, self._open_stream, self._sample)
        try:
            return await self._generator.generate(messages)
        except ValueError as error:
            if self._num_requests and messages[-1]["role"] == "assistant":
                raise EngineError(str(error)) from error  # the template opens no turn there, in no episode
            raise EpisodeError(str(error)) from error

    async def _open_stream(self, messages: list[Message]) -> TokenStream:
        ids = self.engine.prompt_ids(messages)
        return TokenStream(prompt_ids=ids, capacity=self.engine.capacity(len(ids), self.sampling))

    async def _sample(self, ids: list[int], max_tokens: int) -> Sampled:
        number = self._num_requests
        self._num_requests += 1
        return await self.engine.sample(
            ids,
            max_tokens,
            request_id=f"{self.request_id}#{number}",
            seed=request_seed(self.seed, number),
            sampling=self.sampling,
        )

    def _stream(self) -> TokenStream | None:
        if self._generator is None:
            return None
        try:
            stream = self._generator.stream
        except RuntimeError:  # not opened
            return None
        stream.drop_trailing_context()
        return stream

    def segments(self) -> list[Segment]:
        """See `verl_multiattempt.evaluation.engine.Conversation.segments`; for the end of an episode."""
        stream = self._stream()
        return decode_segments(self.engine.scaffold.tokenizer, stream.segments()) if stream else []

    def num_context_tokens(self) -> int:
        """See `verl_multiattempt.evaluation.engine.Conversation.num_context_tokens`."""
        stream = self._stream()
        return stream.response_mask.count(0) if stream else 0

    def num_prompt_tokens(self) -> int:
        """See `verl_multiattempt.evaluation.engine.Conversation.num_prompt_tokens`."""
        stream = self._stream()
        return len(stream.prompt_ids) if stream else 0
