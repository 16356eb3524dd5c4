"""What the benchmarks of the agent loop share: the loop as verl's worker runs it, on a vLLM engine in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# First, so that verl finds its platform.
import verl  # noqa: F401
from omegaconf import open_dict
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, DictConfigWrap, ToolListWrap
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

from verl_multiattempt.adapters.agent_loop import MultiAttemptAgentLoop
from verl_multiattempt.adapters.compose import compose_training_config
from verl_multiattempt.evaluation.questions import Questions
from verl_multiattempt.evaluation.vllm_engine import VllmEngine
from verl_multiattempt.verifier import Question


class InProcessServer:
    """verl's interface of a rollout server, around vLLM's engine in this process.

    Parameters are made as in verl's ``vllm_async_server.py``, but that vLLM gives each answer at its end and not after
    every token: what verl spends on that is not the loop's.
    """

    def __init__(self, llm: Any):
        self.llm = llm
        self.num_requests = 0

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], priority: int = 0
    ) -> TokenOutput:
        """Continue token ids."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        values = dict(sampling_params)
        logprobs = 0 if values.pop("logprobs", False) else None
        params = SamplingParams(**values, logprobs=logprobs, flat_logprobs=logprobs is not None, detokenize=False,
                                output_kind=RequestOutputKind.FINAL_ONLY)  # fmt: skip
        self.num_requests += 1
        async for output in self.llm.generate({"prompt_token_ids": prompt_ids}, params,
                                              f"{request_id}#{self.num_requests}"):  # fmt: skip
            completion = output.outputs[0]
        flat = completion.logprobs
        return TokenOutput(
            token_ids=list(completion.token_ids),
            log_probs=None if flat is None else [flat.logprobs[i] for i in flat.start_indices],
            stop_reason="aborted" if completion.finish_reason == "abort" else "completed",
            num_preempted=0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an episode may use."""

    attempts: int
    tokens_per_attempt: int | None
    """None: what the response leaves."""
    response_length: int
    max_model_len: int


class Bench:
    """The agent loop over one configuration and engine.

    Args:
        engine: started.
        data: questions in verl's format.
        limits: of each episode.
        server: what the loop asks; by default the engine as it is.
        settings: further keys of ``multiattempt``.
    """

    def __init__(
        self,
        engine: VllmEngine,
        data: Path,
        limits: Limits,
        *,
        server: Any = None,
        settings: Mapping[str, Any] | None = None,
    ):
        self.tokenizer = engine.scaffold.tokenizer
        self.server = server or InProcessServer(engine._llm)
        self.config = compose_training_config(["+recipe=multiattempt", "+platform=cpu", "data.train_files=none",
                                               "data.val_files=none", "actor_rollout_ref.model.path=none"])  # fmt: skip
        with open_dict(self.config):
            self.config.multiattempt.distribution = "fixed"
            self.config.multiattempt.max_attempts = limits.attempts
            self.config.multiattempt.max_tokens_per_attempt = limits.tokens_per_attempt
            self.config.multiattempt.min_tokens_per_attempt = 1
            self.config.multiattempt.update(settings or {})
            self.config.data.max_response_length = limits.response_length
            self.config.actor_rollout_ref.rollout.response_length = limits.response_length
            self.config.actor_rollout_ref.rollout.prompt_length = limits.max_model_len - limits.response_length
            self.config.actor_rollout_ref.rollout.max_model_len = limits.max_model_len
        self.context = {
            name: DictConfigWrap(node) for name, node in (("trainer", self.config), ("data", self.config.data))
        }
        self.rows: list[dict[str, Any]] = [
            {
                "raw_prompt": row.prompt, "data_source": row.data_source, "extra_info": row.extra_info,
                "reward_model": {"ground_truth": row.ground_truth}, "uid": row.question_id, "session_id": 0,
                "global_steps": 1,
            }
            for row in Questions([data])
        ]  # fmt: skip

    def loop(self) -> MultiAttemptAgentLoop:
        """The loop of one episode, made anew as verl does."""
        return MultiAttemptAgentLoop(
            trainer_config=self.context["trainer"], server_manager=self.server, tokenizer=self.tokenizer,
            processor=None, dataset_cls=RLHFDataset, data_config=self.context["data"], tools=ToolListWrap([]),
            hf_model_type="qwen2",
        )  # fmt: skip

    async def start_verifier(self) -> None:
        """Have the verifier's processes up; not decided without a worker, so that all is loaded."""
        verifier = self.loop().shared.verifier
        await verifier.verify("\\boxed{\\frac{x+1}{3}}", Question(ground_truth="\\frac{2x-1}{6}"))

    async def close(self) -> None:
        """End the verifier's processes."""
        await self.loop().shared.verifier.close()

    async def run(self, episodes: int, repeat: int) -> int:
        """All episodes at once, each with its own seed, as far as sampling goes; tokens that are trained on."""
        seeds = (repeat * episodes + number for number in range(episodes))
        outputs = await asyncio.gather(*(self.episode(number, seed=seed) for number, seed in enumerate(seeds)))
        return sum(sum(output.response_mask) for output in outputs)

    async def episode(self, number: int, **params: Any) -> AgentLoopOutput:
        """The episode of a row.

        Args:
            number: of the row.
            **params: sampling parameters, besides those that training has.
        """
        return await self.loop().run(
            {"temperature": 1.0, "top_p": 1.0, "logprobs": True, **params}, **self.rows[number]
        )


def metric_value(name: str, attribute: str = "value", metrics: Iterable[Any] | None = None) -> int:
    """One of vLLM's own counters so far.

    Args:
        name: of the metric, without ``vllm:``.
        attribute: ``count`` and ``sum`` of a histogram.
        metrics: as vLLM gives them; None: now.
    """
    if metrics is None:
        from vllm.v1.metrics.reader import get_metrics_snapshot

        metrics = get_metrics_snapshot()
    return int(sum(getattr(metric, attribute) for metric in metrics if metric.name == f"vllm:{name}"))
