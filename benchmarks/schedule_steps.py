"""How many engine steps a schedule takes, counted without an engine.

A step gives each running sequence a token; prompts are taken in on the way. So an attempt takes as many steps as it
has tokens, and a place in the batch that gets free is taken by the request that has waited longest, as in vLLM.
`lock_step.py` prints this beside what vLLM counted, and for plans that take too long to be run here.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence

from length_plan import PlannedEpisode


def loop_steps(plan: Sequence[PlannedEpisode], places: int) -> int:
    """Of the agent loop: all episodes at once, and each attempt asked for as soon as the one before has ended.

    Args:
        plan: the episodes.
        places: the engine's largest batch.
    """
    waiting = deque((number, 0) for number in range(len(plan)))
    running: list[tuple[int, int, int]] = []
    now = 0
    while waiting or running:
        while waiting and len(running) < places:
            number, attempt = waiting.popleft()
            heapq.heappush(running, (now + plan[number][attempt].length, number, attempt))
        now = running[0][0]
        while running and running[0][0] == now:
            _, number, attempt = heapq.heappop(running)
            if attempt + 1 < len(plan[number]):
                waiting.append((number, attempt + 1))
    return now


def lock_steps(plan: Sequence[PlannedEpisode], places: int, batch_size: int, slice_tokens: int) -> int:
    """Of lock step: batch after batch, and in it round after round, each as long as its longest slice."""
    return sum(
        _batch_steps(plan[start : start + batch_size], places, slice_tokens)
        for start in range(0, len(plan), batch_size)
    )


def _batch_steps(batch: Sequence[PlannedEpisode], places: int, slice_tokens: int) -> int:
    slices = [_slices(episode, slice_tokens) for episode in batch]
    rounds = max(map(len, slices))
    return sum(_round_steps([one[n] for one in slices if n < len(one)], places) for n in range(rounds))


def _slices(episode: PlannedEpisode, slice_tokens: int) -> list[int]:
    """Tokens of an episode in each round."""
    return [
        min(slice_tokens, attempt.length - done)
        for attempt in episode
        for done in range(0, attempt.length, slice_tokens)
    ]


def _round_steps(lengths: Sequence[int], places: int) -> int:
    ends = [0] * places
    for length in lengths:
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)
