"""How long the attempts of a planned rollout are, and which are right: drawn once, and the same for every schedule."""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

SHORTEST = 24
"""Tokens of the shortest attempt: what a boxed answer and the end of the turn need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedAttempt:
    """One attempt."""

    length: int
    """Tokens, the end of the turn included."""
    right: bool
    ramble: int = 0
    """Of these, tokens between the boxed answer and the end of the turn."""


PlannedEpisode = tuple[PlannedAttempt, ...]
"""The attempts of an episode; its allowance is their number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthPlan:
    """What attempts are drawn from."""

    max_attempts: int = 5
    """The allowance is uniform on 1 to this."""
    median: float
    """Of an attempt's tokens, which are lognormal."""
    sigma: float
    """Standard deviation of their logarithm."""
    limit: int
    """Most tokens of the model in an episode; the attempt that reaches it ends there, and is the last."""
    share_right: float
    """Chance that an attempt is right, which ends the episode."""
    ramble: float = 0.0
    """Median of the tokens after the answer, lognormal with the same sigma, and on top of the others."""

    def __post_init__(self) -> None:
        for name, least in (("max_attempts", 1), ("median", 1), ("limit", SHORTEST), ("sigma", 0), ("ramble", 0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise ValueError(f"{name} must be at least {least}; got {value!r}")
        if not 0 <= self.share_right <= 1:
            raise ValueError(f"share_right must be in 0..1; got {self.share_right!r}")

    def draw(self, episodes: int, seed: int) -> list[PlannedEpisode]:
        """The attempts of each episode, which do not depend on how many episodes there are."""
        return [self._draw_one(random.Random(f"{seed}/{number}")) for number in range(episodes)]

    def _draw_one(self, rng: random.Random) -> PlannedEpisode:
        allowance, room = rng.randint(1, self.max_attempts), self.limit
        attempts: list[PlannedAttempt] = []
        while len(attempts) < allowance and room >= SHORTEST:
            length = min(max(SHORTEST, round(rng.lognormvariate(math.log(self.median), self.sigma))), room)
            spread, right = rng.lognormvariate(0.0, self.sigma), rng.random() < self.share_right
            ramble = min(round(self.ramble * spread), room - length)
            attempts.append(PlannedAttempt(length=length + ramble, right=right, ramble=ramble))
            room -= length + ramble
            if right:
                break
        return tuple(attempts)


def without_ramble(plan: Sequence[PlannedEpisode]) -> list[PlannedEpisode]:
    """The same attempts, each ending right after its answer."""
    return [
        tuple(PlannedAttempt(length=attempt.length - attempt.ramble, right=attempt.right) for attempt in episode)
        for episode in plan
    ]


def describe(plan: Sequence[PlannedEpisode]) -> dict[str, float]:
    """Episodes, attempts and tokens of a plan, and how skewed these are."""
    attempts = sorted(attempt.length for episode in plan for attempt in episode)
    episodes = sorted(sum(attempt.length for attempt in episode) for episode in plan)
    figures: dict[str, float] = {"episodes": len(plan), "attempts": len(attempts), "tokens": sum(attempts)}
    for name, values in (("attempt", attempts), ("episode", episodes)):
        figures |= {f"{name}_mean": sum(values) / len(values), f"{name}_median": values[len(values) // 2],
                    f"{name}_p95": values[int(0.95 * (len(values) - 1))], f"{name}_max": values[-1]}  # fmt: skip
    return figures


def add_options(parser: argparse.ArgumentParser, *, median: float, limit: int) -> None:
    """The options of a plan, with these defaults."""
    parser.add_argument("--max-attempts", type=int, default=5, help="the allowance is uniform on 1 to this (default 5)")
    parser.add_argument("--median", type=float, default=median,
                        help=f"of an attempt's tokens, which are lognormal (default {median:g})")  # fmt: skip
    parser.add_argument("--sigma", type=float, default=0.8, help="standard deviation of their logarithm (default 0.8)")
    parser.add_argument("--limit", type=int, default=limit,
                        help=f"most tokens of the model in an episode (default {limit})")  # fmt: skip
    parser.add_argument("--right", type=float, default=0.3, help="chance that an attempt is right (default 0.3)")
    parser.add_argument("--seed", type=int, default=1, help="of the plan (default 1)")


def plan_of(
    args: argparse.Namespace, parser: argparse.ArgumentParser, *, ramble: float = 0.0, scale: int = 1
) -> LengthPlan:
    """The plan that the options ask for, all lengths times ``scale``; ends the program where it cannot be."""
    try:
        return LengthPlan(max_attempts=args.max_attempts, median=scale * args.median, sigma=args.sigma,
                          limit=scale * args.limit, share_right=args.right, ramble=scale * ramble)  # fmt: skip
    except ValueError as error:
        parser.error(str(error))
