"""Evaluations for the tests of the figures: results.json of schema 1, computed from simulated episodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

BENCHMARKS = {
    "math500": (500, 0.62),
    "aime24": (30, 0.12),
    "amc23": (40, 0.45),
    "minerva": (272, 0.2),
    "olympiadbench": (674, 0.28),
}
"""Questions, and the share that the simulated model solves at its first attempt."""
NUM_RESAMPLES = 200


def simulate(generator: np.random.Generator, questions: int, skill: float, gain: float, attempts: int) -> np.ndarray:
    """Attempt at which each question is solved, from 1; beyond ``attempts``: not at all.

    Args:
        gain: chance that a retry is right, for a question of middling difficulty.
    """
    difficulty = generator.random(questions)
    solved = np.where(difficulty < skill, 1, attempts + 1)
    for attempt in range(2, attempts + 1):
        refined = generator.random(questions) < 2 * gain * (1 - difficulty)
        solved = np.where((solved > attempts) & refined, attempt, solved)
    return solved


def curve(solved: Sequence[np.ndarray], attempts: Sequence[int], measure: str = "accuracy@k") -> dict[str, Any]:
    """The curve of one benchmark, or the mean of several."""
    generator = np.random.default_rng(0)
    resamples = [generator.integers(0, len(s), (NUM_RESAMPLES, len(s))) for s in solved]
    accuracy = {}
    for k in attempts:
        value = float(np.mean([np.mean(s <= k) for s in solved]))
        means = np.mean([np.mean((s <= k)[r], axis=1) for s, r in zip(solved, resamples, strict=True)], axis=0)
        low, high = np.percentile(means, [2.5, 97.5])
        accuracy[str(k)] = {"value": value, "low": float(low), "high": float(high)}
    document = {"accuracy": accuracy, "measure": measure, "questions": sum(map(len, solved)), "samples": 1}
    if measure == "accuracy@k":
        refinement = {str(k): _mean([_ratio(s == k, s >= k) for s in solved]) for k in range(2, max(attempts) + 1)}
        document |= {
            "refinement": refinement,
            "repeat": {k: None if value is None else 0.6 * (1 - value) for k, value in refinement.items()},
            "refinement_all": _mean(list(refinement.values())),
            "repeat_all": None,
        }
    return document


def _ratio(part: np.ndarray, whole: np.ndarray) -> float | None:
    return float(part.sum() / whole.sum()) if whole.sum() else None


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None


def make_results(
    label: str, *, seed: int = 0, model: str | None = None, temperature: float = 0.0, gain: float = 0.2,
    kinds: Sequence[str] = ("nested",), attempts: Sequence[int] = (1, 2, 3, 4, 5),
    benchmarks: Sequence[str] = tuple(BENCHMARKS),
) -> dict[str, Any]:  # fmt: skip
    """A results.json as `multiattempt evaluate` writes it."""
    generator = np.random.default_rng([seed, round(temperature * 100), round(gain * 1000)])
    curves: dict[str, Any] = {}
    for kind in kinds:
        factor = {"nested": 1.0, "paper": 0.95, "samples": 0.7, "no_feedback": 0.3}[kind]
        solved = {}
        for name in benchmarks:
            questions, skill = BENCHMARKS[name]
            skill = min(0.95, skill + generator.normal(0, 0.01))
            solved[name] = simulate(generator, questions, skill, gain * factor, max(attempts))
        measure = "pass@k" if kind == "samples" else "accuracy@k"
        curves[kind] = {name: curve([s], attempts, measure) for name, s in solved.items()}
        curves[kind]["mean"] = curve(list(solved.values()), attempts, measure)
    return {
        "schema": 1, "label": label, "model": model or f"{label}-{seed}", "engine": {"kind": "vllm"}, "versions": {},
        "settings": {"temperature": temperature, "seed": 0}, "curves": curves, "runs": {},
    }  # fmt: skip


def flat_results(label: str, values: dict[int, float], *, model: str = "m", **more: Any) -> dict[str, Any]:
    """Results of one benchmark, ``tiny``, with these accuracies and intervals of 0.1 to both sides."""
    accuracy = {str(k): {"value": v, "low": max(0.0, v - 0.1), "high": min(1.0, v + 0.1)} for k, v in values.items()}
    tiny = {
        "accuracy": accuracy, "measure": "accuracy@k", "questions": 10, "samples": 1,
        "refinement": {str(k): 0.5 / k for k in values if k > 1}, "repeat": {str(k): None for k in values if k > 1},
        "refinement_all": 0.25, "repeat_all": None,
    }  # fmt: skip
    document = make_results(label, model=model, benchmarks=["aime24"])
    return document | {"curves": {"nested": {"tiny": tiny, "mean": tiny}}} | more


def write(path: Path, document: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document), encoding="utf-8")
    return str(path)
