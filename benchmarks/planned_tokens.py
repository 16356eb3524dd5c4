"""Makes vLLM follow a plan: a logits processor that decides where an attempt's boxed answer and its end come.

Everything else is vLLM's: each token is computed and sampled, and its keys and values are in the cache. Where the plan
says nothing, the model chooses among `filler_ids`. Given to the engine with ``logits_processors=[PlannedTokens]`` and
``additional_config={CONFIG_KEY: filler_config(tokenizer)}``, and to each request with ``extra_args``
(`planned_args`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

CONFIG_KEY = ARGS_KEY = "planned_tokens"


def filler_ids(tokenizer: Any) -> list[int]:
    """Tokens that are a space and letters, and each the only way to write its text.

    However they follow each other, decoding and encoding gives the same tokens back, and they never are an answer.
    """
    texts = {number: tokenizer.decode([number]) for number in range(len(tokenizer))}
    return [
        number
        for number, text in texts.items()
        if text[:1] == " " and text[1:].isalpha() and text.isascii()
        and tokenizer.encode(text * 2, add_special_tokens=False) == [number] * 2
    ]  # fmt: skip


def filler_config(tokenizer: Any) -> dict[str, Any]:
    """What the processor has to know of the tokenizer."""
    return {"filler_ids": filler_ids(tokenizer), "end_id": tokenizer.eos_token_id}


def planned_args(*, done: int, length: int, answer: Sequence[int], ramble: int) -> dict[str, Any]:
    """``extra_args`` of a request.

    Args:
        done: tokens of the attempt that are in the prompt already.
        length: tokens of the whole attempt, the end of the turn included.
        answer: the boxed answer's tokens.
        ramble: tokens between the answer and the end of the turn.

    Raises:
        ValueError: they do not fit.
    """
    start = length - 1 - ramble - len(answer)
    if start < 0 or not 0 <= done < length:
        raise ValueError(f"length must hold the answer ({len(answer)} tokens), ramble ({ramble}) and the end, and be "
                         f"more than what is done ({done}); got {length}")  # fmt: skip
    return {ARGS_KEY: {"done": done, "length": length, "answer": list(answer), "start": start}}


class PlannedTokens(LogitsProcessor):
    """Forces the planned tokens of the requests that have a plan; others are left as they are."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool):
        config = vllm_config.additional_config[CONFIG_KEY]
        self.end_id = int(config["end_id"])
        self.mask = torch.full((vllm_config.model_config.get_vocab_size(),), float("-inf"), device=device)
        self.mask[config["filler_ids"]] = 0.0
        self.requests: dict[int, tuple[dict[str, Any], list[int]]] = {}
        """By place in the batch: the plan, and the tokens sampled so far (vLLM's own list, which grows)."""

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self.requests, batch_update, _with_plan)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        if not self.requests:
            return logits
        if len(self.requests) == len(logits):
            logits += self.mask
        else:
            logits[list(self.requests)] += self.mask
        forced = {row: token for row in self.requests if (token := self._forced(row)) is not None}
        if forced:
            logits[list(forced)] = float("-inf")
            logits[list(forced), list(forced.values())] = 0.0
        return logits

    def _forced(self, row: int) -> int | None:
        plan, sampled = self.requests[row]
        position = plan["done"] + len(sampled)
        if position >= plan["length"] - 1:
            return self.end_id
        place = position - plan["start"]
        return plan["answer"][place] if 0 <= place < len(plan["answer"]) else None


def _with_plan(params: Any, _: list[int] | None, sampled: list[int]) -> tuple[dict[str, Any], list[int]] | None:
    plan = (params.extra_args or {}).get(ARGS_KEY)
    return None if plan is None else (plan, sampled)
