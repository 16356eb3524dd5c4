"""What an evaluation runs: its runs, and the seed of each episode."""

from __future__ import annotations

from dataclasses import dataclass

from verl_multiattempt.attempts import uniform_u64
from verl_multiattempt.evaluation.settings import EvaluationSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Every question, with one allowance."""

    name: str
    """Also its folder's name."""
    kind: str
    """One of `verl_multiattempt.evaluation.settings.KINDS`."""
    max_attempts: int
    """What the opening message allows."""
    ks: tuple[int, ...]
    """The k of accuracy@k, or of pass@k, that are read off it."""
    samples: int
    """Episodes of each question."""
    feedback: bool = True
    """Whether the model hears of an attempt that was not correct."""

    @property
    def measure(self) -> str:
        """What the figures by k are."""
        return "pass@k" if self.kind == "samples" else "accuracy@k"


def plan_runs(settings: EvaluationSettings) -> list[Run]:
    """The runs of an evaluation, in the order in which they are done."""
    ks, most, samples = settings.attempts, settings.attempts[-1], settings.samples
    runs: list[Run] = []
    if "paper" in settings.protocols:
        runs += [Run(name=f"paper-{k}", kind="paper", max_attempts=k, ks=(k,), samples=samples) for k in ks]
    if "nested" in settings.protocols:
        runs.append(Run(name=f"nested-{most}", kind="nested", max_attempts=most, ks=ks, samples=samples))
    if "samples" in settings.controls:
        # As many as the attempts of a nested run at most: the same cost, and enough for pass@max(ks).
        runs.append(Run(name="samples", kind="samples", max_attempts=1, ks=ks, samples=most * samples))
    if "no_feedback" in settings.controls:
        runs.append(Run(name=f"no_feedback-{most}", kind="no_feedback", max_attempts=most, ks=ks, samples=samples,
                        feedback=False))  # fmt: skip
    return runs


def episode_seed(seed: int, run: str, question_id: str, rollout: int) -> int:
    """The seed of an episode: a function of these alone, so it does not matter when it is run, or after what.

    Args:
        seed: of the evaluation.
        run: the run's name.
        question_id: ``<data_source>/<index>``.
        rollout: which sample of the question.

    Returns:
        A number of 63 bits.
    """
    return uniform_u64("evaluate", seed, run, question_id, rollout) >> 1
