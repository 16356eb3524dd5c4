r"""The verifier's word on each gold: given in ``\boxed{}``, it must be CORRECT, and it must be no list."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from verl_multiattempt.data.gold import looks_like_a_container
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
                if looks_like_a_container(item.gold):  # and so is correct against itself, and against nothing else
                    must = "gold must be an answer, no list or dictionary as text"
                    refused.append((item, f"{item.where}: {must}; got {_shown(item.gold)}. Use --gold COLUMN:first."))
                elif verdict.outcome is not Outcome.CORRECT:
                    must = "gold must be CORRECT in \\boxed{} by the verifier"
                    got = f"{verdict.outcome} for {_shown(item.gold)}{f' ({verdict.detail})' if verdict.detail else ''}"
                    refused.append((item, f"{item.where}: {must}; got {got}{_remedy(item.gold)}"))
            advance(len(chunk))
    finally:
        await verifier.close()
    return refused


def _shown(gold: str) -> str:
    text = repr(gold)
    return text if len(text) <= 80 else f"{text[:40]}...{text[-37:]}"


def _remedy(gold: str) -> str:
    """A whole solution was taken for the gold: how to find the gold in it."""
    how = "hashes" if "####" in gold else "boxed" if "\\boxed" in gold else None
    return f". Use --gold COLUMN:{how}." if how else ""
