"""The vLLM engine: offline, on an accelerator or the CPU; token ids in and out, through the generator of training."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from verl_multiattempt.chat.attempt_generator import EpisodeError, Sampled
from verl_multiattempt.chat.scaffold import ChatScaffold, render
from verl_multiattempt.evaluation.engine import Conversation, EngineError, Sampling
from verl_multiattempt.evaluation.template import load_scaffold
from verl_multiattempt.evaluation.vllm_processes import Processes, environment
from verl_multiattempt.feedback import Message
from verl_multiattempt.settings import Settings

logger = logging.getLogger(__name__)

DEFAULT_MAX_OPEN = 320
BATCH_SHARE = 0.8
"""The largest batch, of the episodes that may be open. An attempt that has ended is decoded and verified before the
next one is asked for; with as many places in the batch as episodes, its place would be empty for a step or two."""
ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    # A fork would inherit the pipes and threads of the verifier's pool.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
"""Set while vLLM starts, each unless it is set already."""
CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "4",  # GiB; unset, half of the memory
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # bound, a core is left idle for the front end
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # lets the executor "uni" be: the worker inside the engine's process
}
"""The same on a machine without an accelerator (as verl_multiattempt/config/platform/cpu.yaml)."""
CPU_ARGUMENTS: dict[str, Any] = {
    "dtype": "float32",
    "enforce_eager": True,
    # vLLM ends with an error where it takes only a part of a prompt with a seed: it winds the generator back, which
    # torch's for the CPU cannot (vllm/v1/worker/gpu_model_runner.py, _bookkeeping_sync: "CPU Generator does not use
    # offset").
    "enable_chunked_prefill": False,
    "distributed_executor_backend": "uni",
}


class VllmEngine:
    """A model in vLLM's engine, which batches the requests of all open episodes continuously.

    Args:
        model: a local folder, or a name on the hub.
        settings: limits of an attempt, texts and roles.
        tokenizer: its tokenizer, where that is elsewhere.
        template_kwargs: further arguments of the chat template.
        max_open: episodes that may be open at once; up to `BATCH_SHARE` of them are in the batch.
        max_model_len: tokens of the longest conversation with its prompt; None: what the longest opening and
            the limit of a conversation need, as far as the model goes.
        dtype: of the weights; ``auto`` is the model's own on an accelerator and float32 on the CPU.
        tensor_parallel_size: accelerators that share the model.
        gpu_memory_utilization: share of an accelerator's memory; None: vLLM's default.
        logprobs: keep the log-probability of each sampled token, for the episode log.
        engine_args: further arguments of vLLM's ``AsyncEngineArgs``, which go before the ones above.

    Raises:
        OSError: there is no such model.
        ValueError: its chat template cannot render an episode.
    """

    def __init__(
        self,
        model: str,
        settings: Settings,
        *,
        tokenizer: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        max_open: int = DEFAULT_MAX_OPEN,
        max_model_len: int | None = None,
        dtype: str = "auto",
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float | None = None,
        logprobs: bool = True,
        engine_args: Mapping[str, Any] | None = None,
    ):
        self.model = model
        self.settings = settings
        self.scaffold: ChatScaffold = load_scaffold(tokenizer or model, settings, template_kwargs)
        self.feedback_role = self.scaffold.feedback_role
        self.opening_placement = self.scaffold.opening_placement
        self.max_open = max_open
        self.max_model_len = max_model_len
        self._dtype = dtype
        self._logprobs = logprobs
        self._arguments: dict[str, Any] = {"tensor_parallel_size": tensor_parallel_size}
        if gpu_memory_utilization is not None:
            self._arguments["gpu_memory_utilization"] = gpu_memory_utilization
        self._extra = dict(engine_args or {})
        self._llm: Any = None
        self._processes = Processes()
        self._limit = 0
        """The engine's own max_model_len."""

    async def start(self, openings: Iterable[list[Message]] = (), *, max_tokens: int | None = None) -> None:
        """See `verl_multiattempt.evaluation.engine.Engine.start`; takes from seconds to minutes, blocking."""
        longest = self._longest(openings) if self.max_model_len is None and max_tokens else 0
        wanted = self.max_model_len or (longest + max_tokens if longest and max_tokens else None)
        try:
            with environment(ENVIRONMENT):
                self._start(wanted)
        except Exception as error:
            await self.close()
            raise EngineError(f"vLLM must start with model {self.model!r}; got {_one_line(error)}") from error
        if wanted and self._limit < wanted:
            logger.warning(
                "the model takes %d tokens, and the longest prompt with --max-tokens would need %d: such conversations "
                "end earlier", self._limit, wanted,
            )  # fmt: skip

    def _longest(self, openings: Iterable[list[Message]]) -> int:
        longest = 0
        for messages in openings:
            with contextlib.suppress(EpisodeError):  # that episode says it itself
                longest = max(longest, len(self.prompt_ids(messages)))
        return longest

    def _start(self, wanted: int | None) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM

        on_cpu = current_platform.is_cpu()
        with environment(CPU_ENVIRONMENT if on_cpu else {}):
            arguments: dict[str, Any] = {
                "model": self.model,
                "skip_tokenizer_init": True,
                "enable_prefix_caching": True,
                "max_num_seqs": max(1, round(self.max_open * BATCH_SHARE)),
                "disable_log_stats": True,
                **(CPU_ARGUMENTS if on_cpu else {}),
                **({} if self._dtype == "auto" and on_cpu else {"dtype": self._dtype}),
                **self._arguments,
                **self._extra,
            }
            if wanted is not None:
                # A length beyond the model's own is an error of vLLM's.
                own = AsyncEngineArgs(**arguments).create_model_config().max_model_len
                arguments["max_model_len"] = wanted if self.max_model_len else min(wanted, own)
            with self._processes.starting():
                self._llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
        self._limit = int(self._llm.model_config.max_model_len)

    def prompt_ids(self, messages: list[Message]) -> list[int]:
        """The tokens of opening messages.

        Raises:
            EpisodeError: the chat template refuses them.
        """
        try:
            return list(render(self.scaffold.tokenizer, messages, self.scaffold.template_kwargs,
                               add_generation_prompt=True))  # fmt: skip
        except Exception as error:
            raise EpisodeError(f"prompt must be what the chat template renders; got {_one_line(error)}") from error

    def open(self, *, seed: int, request_id: str, sampling: Sampling) -> Conversation:
        """See `verl_multiattempt.evaluation.engine.Engine.open`."""
        from verl_multiattempt.evaluation.vllm_conversation import VllmConversation

        return VllmConversation(engine=self, seed=seed, request_id=request_id, sampling=sampling)

    def as_plain_text(self, text: str) -> str:
        """See `verl_multiattempt.evaluation.engine.Engine.as_plain_text`."""
        return self.scaffold.as_plain_text(text)

    def capacity(self, num_prompt_tokens: int, sampling: Sampling) -> int:
        """How many tokens may follow a prompt.

        Raises:
            EpisodeError: not one.
        """
        capacity = min(sampling.max_tokens, self._limit - num_prompt_tokens)
        if capacity < 1:
            raise EpisodeError(
                f"the prompt must leave room for an attempt in max_model_len ({self._limit}); "
                f"got a prompt of {num_prompt_tokens} tokens"
            )
        return capacity

    async def sample(
        self, ids: list[int], max_tokens: int, *, request_id: str, seed: int, sampling: Sampling
    ) -> Sampled:
        """Continue token ids.

        Raises:
            EpisodeError: vLLM refuses the request, or fails at it.
            EngineError: vLLM has died.
        """
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        if self._llm is None:
            raise EngineError("the engine must be started, and not closed, before it generates")
        params = SamplingParams(
            max_tokens=max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=seed if sampling.temperature > 0 else None,
            stop_token_ids=self.scaffold.stop_token_ids(),
            logprobs=0 if self._logprobs else None,
            flat_logprobs=self._logprobs,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,  # nobody else has them
        )
        try:
            async for output in self._llm.generate({"prompt_token_ids": ids}, params, request_id):
                completion = output.outputs[0]
        except EngineDeadError as error:
            raise EngineError("vLLM's engine died; what it wrote before says why. Run again to continue.") from error
        except Exception as error:
            raise EpisodeError(f"vLLM failed at a request of {len(ids)} tokens: {_one_line(error)}") from error
        if completion.finish_reason == "error":
            raise EpisodeError("vLLM ended the request with an error of its own")
        flat = completion.logprobs
        return Sampled(
            ids=completion.token_ids,
            # The sampled token is the first of its position.
            logprobs=[flat.logprobs[i] for i in flat.start_indices] if flat is not None else None,
            aborted=completion.finish_reason == "abort",
        )

    def process_ids(self) -> list[int]:
        """The processes that vLLM has started."""
        return self._processes.ids()

    async def close(self) -> None:
        """See `verl_multiattempt.evaluation.engine.Engine.close`."""
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.shutdown()  # in no thread: vLLM's task that reads answers would log its engine's end as an error
        await asyncio.to_thread(self._processes.end)

    def describe(self) -> dict[str, Any]:
        """See `verl_multiattempt.evaluation.engine.Engine.describe`."""
        return {
            "kind": "vllm",
            "model": self.model,
            "version": installed_vllm(),
            "dtype": self._dtype,
            "max_model_len": self.max_model_len,
            "feedback_role": self.feedback_role,
            "opening_placement": self.opening_placement,
        }


def installed_vllm() -> str | None:
    """Version of vLLM, or of vllm-cpu where that is what provides it; None where there is none."""
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}"[:500]
