"""Drawing ``max_attempts``, the allowance of an episode.

A draw is a pure function of (seed, step, prompt, rollout): a hash of these is the random number. So a resumed run
draws what an uninterrupted one would have drawn, whatever worker runs the episode and in whatever order.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from verl_multiattempt.settings import Settings

_TWO_64 = 1 << 64


def prompt_key(messages: Sequence[Mapping[str, Any]], index: int | str | None = None) -> str:
    """A stable name for a prompt, made of its messages and dataset index (verl's ``uid`` is random in each run).

    Args:
        messages: chat messages as the dataset gives them.
        index: the row's ``extra_info.index`` where it has one.
    """
    text = json.dumps([list(map(dict, messages)), index], ensure_ascii=True, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def row_index(extra_info: Mapping[str, Any] | None) -> int | str | None:
    """The row's ``extra_info.index`` as the episode log holds it; None where it has none.

    A table gives NaN where other rows have an index; a truth value, which is no index to the log's reader, is text.
    """
    index = (extra_info or {}).get("index")
    if index is None or (isinstance(index, float) and math.isnan(index)):
        return None
    return index if isinstance(index, str | int) and not isinstance(index, bool) else str(index)


def uniform_u64(*parts: int | str) -> int:
    """A number in [0, 2**64) that depends on ``parts`` alone."""
    digest = hashlib.blake2b(json.dumps(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def resolve_scope(scope: str, rollouts_per_prompt: int) -> str:
    """``auto`` is ``group`` where a prompt has several rollouts: group-relative estimators compare them."""
    if scope != "auto":
        return scope
    return "group" if rollouts_per_prompt > 1 else "rollout"


def draw_max_attempts(settings: Settings, *, step: int, prompt: str, rollout: int, scope: str) -> int:
    """Draw the allowance of one training episode.

    Args:
        settings: range, distribution, weights and seed.
        step: the trainer's global step.
        prompt: see `prompt_key`.
        rollout: index of the rollout in its group; used where ``scope`` is ``rollout``.
        scope: ``group`` or ``rollout`` (resolved).
    """
    if settings.distribution == "fixed":
        return settings.max_attempts
    number = uniform_u64("max_attempts", settings.seed, step, prompt, rollout if scope == "rollout" else -1)
    if settings.distribution == "weighted":
        assert settings.weights is not None  # checked by Settings
        cumulative = list(accumulate(settings.weights))
        position = bisect_right(cumulative, number / _TWO_64 * cumulative[-1])
        # Rounding at the top end may point past the last class, or at a class of weight 0.
        last = max(i for i, weight in enumerate(settings.weights) if weight > 0)
        return settings.min_attempts + min(position, last)
    count = settings.max_attempts - settings.min_attempts + 1
    return settings.min_attempts + (number * count >> 64)


def row_max_attempts(extra_info: Mapping[str, Any] | None) -> int | None:
    """The row's own allowance, ``extra_info.max_attempts``, or None.

    Raises:
        ValueError: it is there and is not an integer of at least 1.
    """
    value = (extra_info or {}).get("max_attempts")
    if value is None:
        return None
    # Parquet gives numpy integers, and floats where other rows have none.
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = 0
    if isinstance(value, bool) or number < 1 or number != value:
        raise ValueError(f"extra_info.max_attempts must be an integer of at least 1; got {value!r}")
    return number


def episode_max_attempts(
    settings: Settings,
    *,
    step: int,
    prompt: str,
    rollout: int,
    scope: str,
    validate: bool,
    extra_info: Mapping[str, Any] | None = None,
) -> int:
    """The allowance of one episode: the row's own, else validation's, else a draw. Arguments: `draw_max_attempts`."""
    override = row_max_attempts(extra_info)
    if override is not None:
        return override
    if validate:
        return settings.val_max_attempts or settings.max_attempts
    return draw_max_attempts(settings, step=step, prompt=prompt, rollout=rollout, scope=scope)
