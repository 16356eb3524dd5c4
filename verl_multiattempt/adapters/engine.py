"""verl's engine as an episode asks it: one request id, its extras carried over, its limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from verl.experimental.agent_loop.tool_agent_loop import SPEC_DECODE_EXTRA_KEYS
from verl.workers.rollout.replica import TokenOutput

from verl_multiattempt.chat.attempt_generator import Sampled
from verl_multiattempt.chat.tokens import TokenStream
from verl_multiattempt.feedback import Message

if TYPE_CHECKING:
    from verl_multiattempt.adapters.agent_loop import MultiAttemptAgentLoop

_ABORTED = ("abort", "aborted")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What episodes need of ``actor_rollout_ref.rollout``; read once: a look into the config takes microseconds."""

    prompt_length: int
    response_length: int
    max_model_len: int | None = None
    seed: int | None = None
    """Of the run where verl's ``full_determinism`` is on, else None."""

    @classmethod
    def from_config(cls, rollout: Any) -> Limits:
        """The limits of ``actor_rollout_ref.rollout``."""
        return cls(
            prompt_length=rollout.prompt_length,
            response_length=rollout.response_length,
            max_model_len=getattr(rollout, "max_model_len", None) or None,
            seed=rollout.seed if getattr(rollout, "full_determinism", False) else None,
        )


@dataclass(slots=True)
class VerlEngine:
    """The requests of one episode to verl's rollout servers; for `verl_multiattempt.chat.attempt_generator`."""

    loop: MultiAttemptAgentLoop
    sampling_params: dict[str, Any]
    priority: int
    extra_fields: dict[str, Any] = field(default_factory=dict)
    routed_experts: Any = None
    num_preempted: int = -1
    """-1: not available, as in verl."""
    _request_id: str = ""
    _num_requests: int = 0

    def __post_init__(self) -> None:
        # One id for the whole episode keeps it on one server, where its prefix is cached.
        deterministic = self.loop.shared.limits.seed is not None
        self._request_id = f"det-{self.priority}" if deterministic else uuid4().hex

    async def open_stream(self, messages: list[Message]) -> TokenStream:
        """See `verl_multiattempt.chat.attempt_generator.OpenStream`."""
        # verl cuts a long prompt from the left, which would cut the opening off: so its length is checked first.
        builder, limits = self.loop.continuous_token_builder, self.loop.shared.limits
        ids = await self.loop.loop.run_in_executor(None, lambda: builder.build_initial_tokens(messages))
        if len(ids) > limits.prompt_length:
            raise ValueError(
                f"data.max_prompt_length must hold the prompt with its opening ({len(ids)} tokens); "
                f"got {limits.prompt_length}"
            )
        capacity = limits.response_length
        if limits.max_model_len:
            capacity = min(capacity, limits.max_model_len - len(ids))
        return TokenStream(prompt_ids=list(ids), capacity=capacity)

    async def sample(self, ids: list[int], max_tokens: int) -> Sampled:
        """See `verl_multiattempt.chat.attempt_generator.Sample`."""
        params = {
            **self.sampling_params,
            "max_tokens": max_tokens,
            "stop_token_ids": self.loop.shared.scaffold.stop_token_ids(),
        }
        seed = self.loop.shared.limits.seed
        if self._num_requests and seed is not None:
            # The server would give each request of the episode the same seed, and so the same random numbers.
            params["seed"] = seed + self._num_requests
        self._num_requests += 1
        output: TokenOutput = await self.loop.server_manager.generate(
            request_id=self._request_id, prompt_ids=ids, sampling_params=params, priority=self.priority
        )
        self._take_extras(output)
        return Sampled(ids=output.token_ids, logprobs=output.log_probs, aborted=output.stop_reason in _ABORTED)

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
