"""The real agent loop on a scripted server: everything but the engine is what runs in training."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf, open_dict
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, DictConfigWrap
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

from tests.tokenizers import CHATML, make_tokenizer
from verl_multiattempt.adapters.agent_loop import MultiAttemptAgentLoop

_composed: dict[tuple[str, ...], DictConfig] = {}


def compose_config(*overrides: str, platform: bool = True) -> DictConfig:
    """verl's config with the recipe, as ``main_ppo +recipe=multiattempt`` composes it; a fresh copy."""
    key = (str(platform), *overrides)
    if key not in _composed:
        groups = ["+recipe=multiattempt", *(["+platform=cpu"] if platform else [])]
        with initialize_config_module("verl.trainer.config", version_base=None):
            composed = compose("ppo_trainer", overrides=[*groups, *overrides], return_hydra_config=False)
        _composed[key] = OmegaConf.create(OmegaConf.to_container(composed, resolve=False))
    return deepcopy(_composed[key])


@dataclass
class ScriptedServer:
    """An engine whose attempts are written down beforehand: it answers within the limits asked for.

    A request that continues the last reply goes on in the same attempt, as an engine would; any other one starts the
    next. ``aborts`` are numbers of requests that are aborted after half of what they would have returned.
    """

    attempts: list[list[int]]
    aborts: frozenset[int] = frozenset()
    logprobs: bool = True
    honour_stop_tokens: bool = True
    requests: list[dict[str, Any]] = field(default_factory=list)
    replies: list[TokenOutput] = field(default_factory=list)
    attempt_of_reply: list[int] = field(default_factory=list)
    _attempt: int = -1
    _position: int = 0

    async def generate(self, request_id: str, *, prompt_ids: Sequence[int], sampling_params: dict[str, Any],
                       **kwargs: Any) -> TokenOutput:  # fmt: skip
        await asyncio.sleep(0)
        number = len(self.requests)
        continues = bool(self.requests) and (
            list(prompt_ids) == self.requests[-1]["prompt_ids"] + self.replies[-1].token_ids
        )
        if not continues:
            self._attempt, self._position = self._attempt + 1, 0
        if self._attempt >= len(self.attempts):
            raise AssertionError("the loop asked for an attempt more than the script has")
        self.requests.append({"request_id": request_id, "prompt_ids": list(prompt_ids), **sampling_params})
        ids = self.attempts[self._attempt][self._position :][: sampling_params["max_tokens"]]
        if self.honour_stop_tokens:
            stops = [i for i, token in enumerate(ids) if token in sampling_params["stop_token_ids"]]
            ids = ids[: stops[0] + 1] if stops else ids
        aborted = number in self.aborts
        if aborted:
            ids = ids[: len(ids) // 2]
        self._position += len(ids)
        # Every token has a log-probability of its own, so that a shift by one would show.
        logprobs = [-(number * 1000 + i + 1) / 1e4 for i in range(len(ids))] if self.logprobs else None
        output = TokenOutput(
            token_ids=ids,
            log_probs=logprobs,
            stop_reason="aborted" if aborted else "completed",
            num_preempted=1,
            extra_fields={"min_global_steps": 3 + number, "max_global_steps": 3 + number},
        )
        self.replies.append(output)
        self.attempt_of_reply.append(self._attempt)
        return output

    def sampled(self, attempt: int) -> tuple[list[int], list[float]]:
        """All tokens and log-probabilities that were returned in one attempt."""
        replies = [reply for reply, of in zip(self.replies, self.attempt_of_reply, strict=True) if of == attempt]
        ids = [token for reply in replies for token in reply.token_ids]
        return ids, [value for reply in replies for value in reply.log_probs or []]


def make_loop(
    config: DictConfig, server: ScriptedServer, template: str = CHATML, tokenizer: Any = None
) -> MultiAttemptAgentLoop:
    """The agent loop as verl's worker makes it."""
    return MultiAttemptAgentLoop(
        trainer_config=DictConfigWrap(config),
        server_manager=server,
        tokenizer=tokenizer or make_tokenizer(template),
        processor=None,
        dataset_cls=RLHFDataset,
        data_config=DictConfigWrap(config.data),
        hf_model_type="qwen2" if template == CHATML and tokenizer is None else None,
        tools=None,
    )


def row(gold: str = "42", index: int = 7, **extra_info: Any) -> dict[str, Any]:
    """A row as the worker hands it to the loop."""
    return {
        "raw_prompt": [{"role": "user", "content": "Compute 12*34 mod 6 = ?"}],
        "data_source": "test",
        "reward_model": {"style": "rule", "ground_truth": gold},
        "extra_info": {"index": index, **extra_info},
        "index": index,
        "uid": "some-uid",
        "session_id": 0,
        "global_steps": 1,
    }


async def run_attempts(
    attempts: Sequence[Sequence[int]],
    *,
    settings: dict[str, Any] | None = None,
    response_length: int = 512,
    template: str = CHATML,
    tokenizer: Any = None,
    template_kwargs: dict[str, Any] | None = None,
    fields: dict[str, Any] | None = None,
    **server_options: Any,
) -> tuple[AgentLoopOutput, ScriptedServer, MultiAttemptAgentLoop]:
    """Run one episode against a script.

    Args:
        attempts: the token ids of each attempt.
        settings: keys under ``multiattempt``; by default the allowance is fixed at 5.
        response_length: ``data.max_response_length``.
        template: chat template.
        tokenizer: by default the one of `make_tokenizer` with that template.
        template_kwargs: ``data.apply_chat_template_kwargs``.
        fields: fields of the row, besides those of `row`.
        **server_options: see `ScriptedServer`.
    """
    config = compose_config()
    with open_dict(config):
        config.multiattempt.distribution = "fixed"
        config.multiattempt.merge_with(settings or {})
        config.data.max_response_length = response_length
        config.data.apply_chat_template_kwargs = template_kwargs or {}
    server = ScriptedServer([list(ids) for ids in attempts], **server_options)
    loop = make_loop(config, server, template, tokenizer)
    output = await loop.run({"temperature": 1.0, "logprobs": True}, **{**row(), **(fields or {})})
    return output, server, loop
