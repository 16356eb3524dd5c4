"""Witnesses inside the pipeline: what the engine returned, and the batch that is trained on.

They only write down; the agent loop and the replay buffer are the package's own.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import transfer_queue as tq
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, DictConfigWrap
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

from verl_multiattempt.adapters import sampler
from verl_multiattempt.adapters.agent_loop import VALIDATE_FIELD, MultiAttemptAgentLoop
from verl_multiattempt.feedback import open_messages


def _folder() -> Path:
    return Path(os.environ["MULTIATTEMPT_PROBE_DIR"])


class _Witness:
    """Passes requests on to verl's client and keeps them with the replies, parted into attempts."""

    def __init__(self, client: Any):
        self.client = client
        self.attempts: list[dict[str, list[Any]]] = []
        self._next_prompt: list[int] | None = None

    async def generate(self, **kwargs: Any) -> Any:
        reply = await self.client.generate(**kwargs)
        if kwargs["prompt_ids"] != self._next_prompt:
            self.attempts.append({"prompt_ids": list(kwargs["prompt_ids"]), "ids": [], "logprobs": []})
        self._next_prompt = list(kwargs["prompt_ids"]) + list(reply.token_ids)
        self.attempts[-1]["ids"].extend(reply.token_ids)
        self.attempts[-1]["logprobs"].extend(reply.log_probs or [])
        return reply


class ProbeAgentLoop(MultiAttemptAgentLoop):
    """The agent loop with a witness at its engine; validation rows are run by verl's single-turn loop too."""

    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> AgentLoopOutput:
        validate = bool(kwargs.get(VALIDATE_FIELD))
        if validate:
            sampling_params = {**sampling_params, "temperature": 1.0, "seed": 1234 + int(kwargs["index"])}
        client = self.server_manager
        self.server_manager = witness = _Witness(client)
        output = await super().run(dict(sampling_params), priority, **kwargs)
        line = {
            "uid": kwargs["uid"],
            "session_id": int(kwargs["session_id"]),
            "step": int(kwargs["global_steps"]),
            "index": int(kwargs["index"]),
            "validate": validate,
            "question": [dict(message) for message in kwargs["raw_prompt"]],
            "attempts": witness.attempts,
            "prompt_ids": output.prompt_ids,
            "response_ids": output.response_ids,
            "response_logprobs": output.response_logprobs,
            "record": output.extra_fields["multiattempt"],
        }
        if validate and line["record"]["max_attempts"] == 1:
            line["single_turn"] = await self._single_turn(client, sampling_params, kwargs)
        with (_folder() / "rollouts.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return output

    async def _single_turn(self, client: Any, sampling_params: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
        loop = SingleTurnAgentLoop(
            DictConfigWrap(self.config), client, self.tokenizer, self.processor, self.dataset_cls,
            DictConfigWrap(self.data_config),
        )  # fmt: skip
        loop.continuous_token_builder = self.continuous_token_builder  # of the model's type, which is not kept
        opened = open_messages(row["raw_prompt"], self.shared.settings.opening, 1,
                               placement=self.shared.scaffold.opening_placement)  # fmt: skip
        output = await loop.run(dict(sampling_params), **{**row, "raw_prompt": opened})
        return {
            "prompt_ids": output.prompt_ids,
            "response_ids": output.response_ids,
            "response_mask": output.response_mask,
            "response_logprobs": output.response_logprobs,
        }


def make_replay_buffer(**kwargs: Any) -> Any:
    """The package's replay buffer, whose training batches are written down as they leave it."""
    buffer = sampler.make_replay_buffer(**kwargs)
    sample = buffer.sample

    def sample_and_keep(global_steps: int, partition_id: str, batch_size: int) -> Any:
        batch, metrics = sample(global_steps, partition_id, batch_size)
        if partition_id == "train":
            names = ["prompts", "responses", "response_mask", "rollout_log_probs", "rm_scores", "uid", "extra_fields"]
            data = tq.kv_batch_get(keys=batch.keys, partition_id=partition_id, select_fields=names)
            rows = []
            for i in range(len(batch.keys)):
                row = {name: data[name][i] for name in names}
                rows.append({k: getattr(v, "data", v) if not isinstance(v, torch.Tensor) else v.tolist()
                             for k, v in row.items()})  # fmt: skip
            torch.save(rows, _folder() / f"batch-{global_steps}.pt")
        return batch, metrics

    buffer.sample = sample_and_keep
    return buffer
