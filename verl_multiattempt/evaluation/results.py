"""``results.json``: the figures of an evaluation, made of the episode log alone. Schema 1; the README has its table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Any

from verl_multiattempt import __version__
from verl_multiattempt.attempts import uniform_u64
from verl_multiattempt.evaluation.model_identity import default_label
from verl_multiattempt.evaluation.plan import Run
from verl_multiattempt.evaluation.questions import MEAN, Questions
from verl_multiattempt.evaluation.resume import RunLog
from verl_multiattempt.evaluation.settings import EvaluationSettings
from verl_multiattempt.evaluation.statistics import Estimate, Tally, accuracy, independent, mean_of, tally_of
from verl_multiattempt.metrics import PREFIX, MetricsAccumulator
from verl_multiattempt.record import RecordedEpisode
from verl_multiattempt.settings import RewardSettings

SCHEMA = 1
IDENTITY = ("model_fingerprint", "model_commit", "tokenizer_fingerprint", "tokenizer_commit", "data_sha256")
"""Keys of ``identity``."""


@dataclass(slots=True, kw_only=True)
class _Part:
    """One run on one benchmark: sums over its episodes, whatever their number."""

    run: Run
    metrics: MetricsAccumulator
    tallies: Counter[Tally] = field(default_factory=Counter)
    num_questions: int = 0
    num_episodes: int = 0
    tokens: dict[str, int] = field(default_factory=lambda: {"sampled": 0, "context": 0, "prompt": 0})
    seconds: dict[str, float] = field(default_factory=lambda: {"episodes": 0.0, "generate": 0.0})
    started_at: float | None = None

    def add(self, episodes: Sequence[RecordedEpisode]) -> None:
        """Take the episodes of one question."""
        self.num_questions += bool(episodes)
        self.num_episodes += len(episodes)
        for recorded in episodes:
            episode = recorded.episode
            self.metrics.add(episode)
            self.tokens["sampled"] += sum(attempt.num_tokens for attempt in episode.attempts)
            self.tokens["context"] += episode.num_context_tokens
            self.tokens["prompt"] += sum(part.num_tokens for part in recorded.segments if part.kind == "prompt")
            self.seconds["episodes"] += recorded.seconds
            self.seconds["generate"] += sum(attempt.generate_s for attempt in episode.attempts)
            self.started_at = min(recorded.started_at, self.started_at or recorded.started_at)
        solved_at = [r.episode.attempts_used if r.episode.solved else None for r in episodes]
        self.tallies[tally_of(solved_at, (1,) if self.run.kind == "samples" else self.run.ks)] += 1

    def figures(self) -> dict[str, float]:
        """The metrics without their prefix."""
        return {name.removeprefix(PREFIX): value for name, value in self.metrics.figures().items()}

    def estimates(self, seed: Sequence[int]) -> dict[int, Estimate]:
        """The run's measure at each of its k."""
        found = {}
        for position, k in enumerate(self.run.ks):
            # One seed for all k: so the resamples are the same, and the curve's points move together.
            estimate = (
                independent(self.tallies, k, seed)
                if self.run.kind == "samples"
                else accuracy(self.tallies, position, seed)
            )
            if estimate is not None:
                found[k] = estimate
        return found

    def to_json(self, planned: int) -> dict[str, Any]:
        """The part as it stands under ``runs``."""
        figures = self.figures()
        timed = {name: figures.pop(name) for name in list(figures) if name.startswith("verification_s/")}
        known = self.tokens["prompt"] or not self.num_episodes  # an engine may know no tokens of the prompt
        return {
            "questions": self.num_questions,
            "episodes": self.num_episodes,
            "failed": planned - self.num_episodes,
            "metrics": figures,
            "tokens": {**self.tokens, "prompt": self.tokens["prompt"] if known else None},
            "seconds": {**self.seconds, **timed},
            "started_at": self.started_at,
        }


def make_results(
    settings: EvaluationSettings, questions: Questions, logs: Iterable[RunLog], engine: Mapping[str, Any],
    identity: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The figures of all runs.

    Args:
        settings: of the evaluation.
        questions: what was asked.
        logs: of the runs; each is read once, episode by episode.
        engine: what the engine says of itself.
        identity: what tells the model's and the data's content from others, of which `IDENTITY` is kept.
    """
    parts = [(log.run, _parts(log, questions, settings.task.reward)) for log in logs]
    runs = {}
    for run, by_benchmark in parts:
        planned = {name: len(questions.numbers(name)) * run.samples for name in questions.benchmarks}
        runs[run.name] = {
            "kind": run.kind,
            "max_attempts": run.max_attempts,
            "benchmarks": {name: part.to_json(planned[name]) for name, part in by_benchmark.items()},
        }
    described = dict(engine)
    return {
        "schema": SCHEMA,
        "label": settings.label or default_label(settings.model),
        "model": settings.model,
        "identity": {name: (identity or {}).get(name) for name in IDENTITY},
        "versions": {**versions(), **described.pop("versions", {})},
        "engine": described,
        "settings": settings.to_json(),
        "curves": _curves(parts, settings.seed),
        "runs": runs,
    }


def versions() -> dict[str, str | None]:
    """Versions of what the figures depend on."""
    found: dict[str, str | None] = {"verl_multiattempt": __version__, "python": python_version()}
    for name in ("math-verify", "torch", "transformers", "vllm"):
        found[name] = next((v for v in map(_version, (name, f"{name}-cpu")) if v), None)
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _parts(log: RunLog, questions: Questions, reward: RewardSettings) -> dict[str, _Part]:
    parts = {}
    for name in questions.benchmarks:
        part = parts[name] = _Part(run=log.run, metrics=MetricsAccumulator(reward, log.run.max_attempts))
        for episodes in log.read(questions.numbers(name)):
            part.add(episodes)
    return parts


def _curves(parts: Sequence[tuple[Run, dict[str, _Part]]], seed: int) -> dict[str, Any]:
    curves: dict[str, Any] = {}
    for kind in dict.fromkeys(run.kind for run, _ in parts):
        runs = [(run, by_benchmark) for run, by_benchmark in parts if run.kind == kind]
        benchmarks = {name: _curve([part[name] for _, part in runs], name, seed) for name in runs[0][1]}
        curves[kind] = {name: curve for name, (curve, _) in benchmarks.items()}
        curves[kind][MEAN] = _mean_curve(list(benchmarks.values()))
    return curves


def _curve(parts: Sequence[_Part], name: str, seed: int) -> tuple[dict[str, Any], dict[int, Estimate]]:
    """The curve of one kind on one benchmark, from its runs (for ``paper`` one for each k)."""
    estimates: dict[int, Estimate] = {}
    for part in parts:
        # Each run and benchmark has its own resamples, which the mean over benchmarks may take as independent.
        estimates |= part.estimates([seed, uniform_u64("bootstrap", part.run.name, name)])
    largest = parts[-1]
    curve = {
        "measure": largest.run.measure,
        "questions": largest.num_questions,
        "samples": largest.run.samples,
        "accuracy": {str(k): _interval(estimate) for k, estimate in estimates.items()},
    }
    if largest.run.kind != "samples":
        figures = largest.figures()
        for measure in ("refinement", "repeat"):
            curve[measure] = {str(k): figures.get(f"{measure}@{k}") for k in range(2, largest.run.max_attempts + 1)}
            curve[f"{measure}_all"] = figures.get(measure)
    return curve, estimates


def _mean_curve(curves: Sequence[tuple[dict[str, Any], dict[int, Estimate]]]) -> dict[str, Any]:
    """The mean over benchmarks; of a k at which each has a figure. Rates: over the benchmarks that have one."""
    first = curves[0][0]
    mean = {
        "measure": first["measure"],
        "questions": sum(curve["questions"] for curve, _ in curves),
        "samples": first["samples"],
        "accuracy": {
            str(k): _interval(mean_of([estimates[k] for _, estimates in curves]))
            for k in curves[0][1]
            if all(k in estimates for _, estimates in curves)
        },
    }
    for measure in ("refinement", "repeat"):
        if measure in first:
            mean[measure] = {k: _mean([curve[measure][k] for curve, _ in curves]) for k in first[measure]}
            mean[f"{measure}_all"] = _mean([curve[f"{measure}_all"] for curve, _ in curves])
    return mean


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _interval(estimate: Estimate) -> dict[str, float]:
    # Rounded far below the width of any interval: the last digits of a quantile may differ between machines.
    low, high = (round(edge, 6) for edge in (estimate.low, estimate.high))
    return {"value": estimate.value, "low": min(low, estimate.value), "high": max(high, estimate.value)}
