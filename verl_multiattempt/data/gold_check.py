r"""The verifier's word on each gold: given in ``\boxed{}``, it must be CORRECT."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from verl_multiattempt.data.rows import Item
from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Outcome, Question, make_verifier, verify_all

_AT_ONCE = 256


def refused_golds(items: Sequence[Item], advance: Callable[[int], object]) -> list[tuple[Item, str]]:
    """The items whose gold is not CORRECT against itself, each with what the math verifier said.

    Args:
        items: to be checked.
        advance: is told how many have been checked since the last call.
    """
    return asyncio.run(_refused(items, advance))


async def _refused(items: Sequence[Item], advance: Callable[[int], object]) -> list[tuple[Item, str]]:
    verifier, refused = make_verifier(VerifierSettings()), []
    try:
        for start in range(0, len(items), _AT_ONCE):
            chunk = items[start : start + _AT_ONCE]
            verdicts = await verify_all(
                verifier, ((f"\\boxed{{{item.gold}}}", Question(ground_truth=item.gold)) for item in chunk)
            )
            for item, verdict in zip(chunk, verdicts, strict=True):
                if verdict.outcome is not Outcome.CORRECT:
                    why = f" ({verdict.detail})" if verdict.detail else ""
                    must = "gold must be CORRECT in \\boxed{} by the verifier"
                    refused.append((item, f"{item.where}: {must}; got {verdict.outcome} for {item.gold!r:.200}{why}"))
            advance(len(chunk))
    finally:
        await verifier.close()
    return refused
