"""Generation for many concurrent episodes: their requests are collected and run as left-padded batches."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache


@dataclass(slots=True)
class _Request:
    key: str
    ids: list[int]
    max_tokens: int
    future: asyncio.Future[list[int]]
    output: list[int] = field(default_factory=list)
    rng: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.key)


class BatchedModel:
    """A causal model that serves concurrent episodes of one event loop.

    A batch runs when every episode that is still open waits for it. So what a batch holds, and with it every number
    computed, does not depend on how the event loop schedules the episodes; and each request samples with a random
    generator of its own, seeded by its key.

    Args:
        model: a Hugging Face causal language model.
        stop_ids: tokens that end a generation; the one that did is part of the output.
        pad_id: token to pad with.
        temperature: 0 for greedy.
        batch_size: most requests run at once.
    """

    def __init__(self, model: Any, *, stop_ids: Collection[int], pad_id: int, temperature: float, batch_size: int):
        self._model = model.eval()
        self._stop_ids = frozenset(stop_ids)
        self._pad_id = pad_id
        self._temperature = temperature
        self._batch_size = batch_size
        self._open = 0
        self._waiting: list[_Request] = []

    def open(self, count: int) -> None:
        """Announce episodes, before any of them asks for a generation; each must end with `close_one`."""
        self._open += count

    def close_one(self) -> None:
        """An episode has ended."""
        self._open -= 1
        self._run_if_all_wait()

    async def generate(self, key: str, ids: Sequence[int], max_tokens: int) -> list[int]:
        """Return the tokens that follow ``ids``, at most ``max_tokens``.

        Args:
            key: names the request; unique in a run.
            ids: the sequence so far.
            max_tokens: at least 1.
        """
        request = _Request(key, list(ids), max_tokens, asyncio.get_running_loop().create_future())
        self._waiting.append(request)
        self._run_if_all_wait()
        return await request.future

    def _run_if_all_wait(self) -> None:
        if not self._waiting or len(self._waiting) < self._open:
            return
        requests, self._waiting = sorted(self._waiting, key=lambda request: (len(request.ids), request.key)), []
        for start in range(0, len(requests), self._batch_size):
            batch = requests[start : start + self._batch_size]
            try:
                self._run(batch)
            except Exception as error:
                for request in requests[start:]:
                    request.future.set_exception(error)
                return
            for request in batch:
                request.future.set_result(request.output)

    @torch.inference_mode()
    def _run(self, live: list[_Request]) -> None:
        """Fill in the outputs of a batch."""
        width = max(len(request.ids) for request in live)
        ids = torch.tensor([[self._pad_id] * (width - len(request.ids)) + request.ids for request in live])
        mask = torch.tensor([[0] * (width - len(request.ids)) + [1] * len(request.ids) for request in live])  # [b, t]
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache()
        while True:
            logits = self._model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
            ).logits[:, -1]
            tokens = self._choose(logits, live)
            for request, token in zip(live, tokens, strict=True):
                request.output.append(token)
            kept = [
                row
                for row, request in enumerate(live)
                if request.output[-1] not in self._stop_ids and len(request.output) < request.max_tokens
            ]
            if not kept:
                return
            if len(kept) < len(live):
                rows = torch.tensor(kept)
                cache.batch_select_indices(rows)
                mask, positions = mask[rows], positions[rows]
                live, tokens = [live[row] for row in kept], [tokens[row] for row in kept]
            ids = torch.tensor(tokens)[:, None]
            mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
            positions = positions[:, -1:] + 1

    def _choose(self, logits: torch.Tensor, live: Sequence[_Request]) -> list[int]:
        if self._temperature == 0:
            return [int(token) for token in logits.argmax(-1)]
        cumulative = torch.softmax(logits.double() / self._temperature, dim=-1).cumsum(-1)  # [b, vocabulary]
        points = torch.tensor([request.rng.random() for request in live], dtype=torch.double)[:, None]
        points = points * cumulative[:, -1:]
        return [int(token) for token in torch.searchsorted(cumulative, points, right=True)[:, 0]]
