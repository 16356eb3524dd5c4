"""Verdicts, the verifier protocol and the registry of verifiers.

A verifier decides one attempt. It is asynchronous, so that an agent-loop worker can have thousands of episodes open,
and it never raises for what a model wrote: whatever goes wrong is an outcome of its own.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, runtime_checkable

from verl_multiattempt.settings import VerifierSettings


class Outcome(str, Enum):
    """What a verifier decided."""

    CORRECT = "CORRECT"
    INCORRECT = "INCORRECT"
    NO_ANSWER = "NO_ANSWER"
    """The attempt has no answer in the asked format."""
    TIMEOUT = "TIMEOUT"
    """The verification took too long and was ended; the attempt is undecided."""
    ERROR = "ERROR"
    """The verification failed; the attempt is undecided."""

    def __str__(self) -> str:
        return self.value


FAULTS = ("timeout", "died", "memory", "error")
"""Faults of a verification in a process: it was late, died, ran out of memory, raised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The decision on one attempt."""

    outcome: Outcome
    answer: str | None = None
    """The answer found in the attempt, as written."""
    normal_answer: str | None = None
    """The answer in the verifier's normal form, equal for notations of one value; None: compare ``answer``."""
    feedback: str | None = None
    """Text for the model, shown where ``multiattempt.feedback.use_verifier_text`` is on."""
    detail: str | None = None
    """For the log: why TIMEOUT or ERROR."""
    fault: str | None = None
    """What went wrong in a verifier process, one of `FAULTS`; None where nothing did, or no process was involved."""
    seconds: float = 0.0
    """Wall time of the verification, waiting for a free worker included."""

    def same_answer(self, other: Verdict) -> bool:
        """Whether both attempts gave an answer, and the same one: by the normal form, or as written."""
        if self.answer is not None and self.answer == other.answer:
            return True
        return self.normal_answer is not None and self.normal_answer == other.normal_answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a verifier may know of the row an attempt answers."""

    ground_truth: Any
    data_source: str = ""
    extra_info: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Verifier(Protocol):
    """Decides attempts. Made once for each worker process and shared by its episodes."""

    async def verify(self, text: str, question: Question) -> Verdict:
        """Decide one attempt.

        Args:
            text: what the model wrote in this attempt, without control tokens.
            question: the row.

        Returns:
            The verdict; trouble is an outcome (TIMEOUT, ERROR), not an exception.
        """
        ...

    async def close(self) -> None:
        """Give back processes and threads. Must be safe to call twice."""
        ...


async def verify_all(verifier: Verifier, items: Iterable[tuple[str, Question]]) -> list[Verdict]:
    """Decide many attempts at once, as a batch evaluation does; the verdicts come in the order of the items.

    Args:
        verifier: bounds by itself how many run at a time.
        items: texts of attempts with their rows.
    """
    return list(await asyncio.gather(*(verifier.verify(text, question) for text, question in items)))


Factory = Callable[[VerifierSettings], Verifier]
_REGISTRY: dict[str, str] = {
    "math": "verl_multiattempt.math_verifier.MathVerifier",
    "compute_score": "verl_multiattempt.adapters.compute_score.ComputeScoreVerifier",
}


def register_verifier(name: str, import_path: str) -> None:
    """Make the class at ``import_path`` (``package.module.Class``) known as ``multiattempt.verifier.name=<name>``.

    The path is kept instead of the class so that every worker process imports it for itself.

    Raises:
        ValueError: the name is taken by another class.
    """
    if _REGISTRY.get(name, import_path) != import_path:
        raise ValueError(
            f"name must be free; got {name!r}, which is {_REGISTRY[name]}. Register {import_path} under another name."
        )
    _REGISTRY[name] = import_path


def load_verifier_class(name: str) -> Callable[..., Verifier]:
    """The class of a registered name or import path.

    Raises:
        ValueError: there is no such name, or the import fails.
    """
    path = _REGISTRY.get(name, name)
    module_name, _, class_name = path.rpartition(".")
    known = ", ".join(sorted(_REGISTRY))
    must = f"multiattempt.verifier.name must be one of {known} or package.module.Class; got {name!r}"
    if not module_name:
        raise ValueError(must)
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except Exception as error:  # the module is a user's own and may raise anything
        raise ValueError(f"{must}, which cannot be imported: {type(error).__name__}: {error}") from error


def check_verifier(settings: VerifierSettings) -> Callable[..., Verifier]:
    """The configured class, after a look at whether it can be called and used as a verifier.

    Raises:
        ValueError: see `load_verifier_class`, or the class is no verifier, or does not take ``settings.kwargs``, or its
            static method ``check_arguments``, if it has one, refuses them.
    """
    verifier_class = load_verifier_class(settings.name)
    missing = [name for name in ("verify", "close") if not callable(getattr(verifier_class, name, None))]
    if missing:
        raise ValueError(
            "multiattempt.verifier.name must name a class with the coroutines verify and close; "
            f"got {settings.name!r} without {' and '.join(missing)}"
        )
    try:
        inspect.signature(verifier_class).bind(settings, **settings.kwargs)
    except TypeError as error:
        raise ValueError(
            f"multiattempt.verifier.kwargs must fit {settings.name}; got {settings.kwargs!r}: {error}"
        ) from error
    if callable(check := getattr(verifier_class, "check_arguments", None)):
        check(**settings.kwargs)
    return verifier_class


def make_verifier(settings: VerifierSettings) -> Verifier:
    """Make the configured verifier: its class is called with the settings and ``settings.kwargs``.

    Raises:
        ValueError: see `check_verifier`.
    """
    return check_verifier(settings)(settings, **settings.kwargs)
