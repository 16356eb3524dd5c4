"""The settings under ``multiattempt:``, validated where they are made.

Every field of every dataclass here has the same key, default and nesting in ``config/recipe/multiattempt.yaml``;
a test compares the two. A value that cannot work raises ``ValueError`` with one sentence that names the key.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from string import Formatter
from typing import Any, TypeVar, get_type_hints

DISTRIBUTIONS = ("uniform", "fixed", "weighted")
SCOPES = ("auto", "group", "rollout")
ROLES = ("auto", "system", "user")
ON_VERIFIER_FAILURE = ("incorrect", "fail")

DEFAULT_OPENING = (
    "You have {max_attempts} attempt{s} to answer the question. Put the final answer of each attempt in \\boxed{{}}."
)
DEFAULT_FEEDBACK = "Your answer is incorrect. You have {attempts_left} attempt{s} left."

_T = TypeVar("_T")


class SettingError(ValueError):
    """A setting cannot work.

    Args:
        message: the whole sentence.
        key: the key under ``multiattempt``, dotted; empty for ``multiattempt`` itself.
    """

    def __init__(self, message: str, key: str):
        super().__init__(message)
        self.key = key


def _require(condition: bool, key: str, must: str, got: object, remedy: str = "") -> None:
    """Raise `SettingError` with this project's form of sentence unless ``condition`` holds."""
    if not condition:
        raise SettingError(f"multiattempt.{key} must {must}; got {got!r}" + (f". {remedy}" if remedy else ""), key)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_template(key: str, template: object, needed: str) -> None:
    """Check that ``template`` is a format string with ``{needed}`` and at most ``{s}`` beside it."""
    _require(isinstance(template, str) and bool(template), key, "be a non-empty text", template)
    allowed = {needed, "s"}
    try:
        parsed = list(Formatter().parse(str(template)))
    except ValueError as error:
        _require(False, key, "be a valid format text", template, f"{error}; write {{{{ and }}}} for literal braces.")
    names = {name for _, name, _, _ in parsed if name is not None}
    _require(needed in names, key, f"contain the placeholder {{{needed}}}", template)
    _require(
        names <= allowed and all(not spec and not conversion for _, _, spec, conversion in parsed),
        key,
        f"use no other placeholder than {{{needed}}} and {{s}} (the plural's s)",
        template,
        "Write {{ and }} for literal braces, as in \\boxed{{}}.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class OpeningSettings:
    """The opening message that tells the model its allowance."""

    text: str = DEFAULT_OPENING
    """Format text; ``{max_attempts}`` is the allowance, ``{s}`` is "s" unless it is 1."""

    def __post_init__(self) -> None:
        _check_template("opening.text", self.text, "max_attempts")


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackSettings:
    """What the environment says after an attempt that was not correct."""

    text: str = DEFAULT_FEEDBACK
    """Format text; ``{attempts_left}`` is what is left after the attempt, ``{s}`` is "s" unless it is 1."""
    role: str = "auto"
    """``system`` or ``user``; ``auto`` takes system where the chat template renders one in mid-conversation."""
    use_verifier_text: bool = False
    """Put the verifier's own feedback (a failing test, a format hint), if it gave one, before ``text``."""
    max_verifier_chars: int = 500
    """Characters of the verifier's feedback that are shown to the model; the rest is cut from the middle."""

    def __post_init__(self) -> None:
        _check_template("feedback.text", self.text, "attempts_left")
        _require(self.role in ROLES, "feedback.role", f"be one of {', '.join(ROLES)}", self.role)
        _require(isinstance(self.use_verifier_text, bool), "feedback.use_verifier_text", "be true or false",
                 self.use_verifier_text)  # fmt: skip
        _require(_is_int(self.max_verifier_chars) and self.max_verifier_chars >= 20, "feedback.max_verifier_chars",
                 "be an integer of at least 20", self.max_verifier_chars)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSettings:
    """The reward scheme ``paper`` (arXiv 2503.04808, section 3)."""

    scheme: str = "paper"
    """Name of the scheme."""
    correct: float = 1.0
    """Reward of an episode with a correct attempt, before the discount."""
    answered: float = -0.5
    """Reward of an episode without a correct attempt in which some attempt gave an answer in the asked format."""
    unanswered: float = -1.0
    """Reward of an episode in which no attempt gave an answer in the asked format."""
    attempt_discount: float = 1.0
    """``correct`` is multiplied by this to the power ``attempts_used - 1``."""
    on_verifier_failure: str = "incorrect"
    """Episode with a TIMEOUT or ERROR verdict and no correct one: ``incorrect`` (rewarded as such, and counted in
    its own metrics) or ``fail`` (the rollout fails; verl marks it)."""

    def __post_init__(self) -> None:
        _require(self.scheme == "paper", "reward.scheme", "be the name of a reward scheme (paper)", self.scheme)
        for name in ("correct", "answered", "unanswered"):
            value = getattr(self, name)
            _require(_is_number(value), f"reward.{name}", "be a finite number", value)
        _require(_is_number(self.attempt_discount) and 0 < self.attempt_discount <= 1, "reward.attempt_discount",
                 "be above 0 and at most 1", self.attempt_discount)  # fmt: skip
        _require(self.on_verifier_failure in ON_VERIFIER_FAILURE, "reward.on_verifier_failure",
                 f"be one of {', '.join(ON_VERIFIER_FAILURE)}", self.on_verifier_failure)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierSettings:
    """How an attempt is decided."""

    name: str = "math"
    """A registered verifier, or the import path of a class (``package.module.Class``)."""
    num_workers: int = 2
    """Verifier processes of each agent-loop or reward worker."""
    timeout_s: float = 5.0
    """Seconds after which a verification is ended from outside, with verdict TIMEOUT."""
    memory_limit_mb: int = 2048
    """Private memory of a verifier process in MiB; beyond it the verdict is ERROR."""
    recycle_after: int = 10_000
    """Verifications after which a verifier process is replaced by a fresh one."""
    queue_size: int = 1024
    """Verifications that may wait for a process; further episodes wait before they are queued."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the verifier class."""

    def __post_init__(self) -> None:
        _require(isinstance(self.name, str) and bool(self.name), "verifier.name",
                 "be a registered name or an import path", self.name)  # fmt: skip
        _require(_is_int(self.num_workers) and self.num_workers >= 1, "verifier.num_workers",
                 "be an integer of at least 1", self.num_workers, "One or two are enough.")  # fmt: skip
        _require(_is_number(self.timeout_s) and self.timeout_s > 0, "verifier.timeout_s",
                 "be a finite number of seconds above 0", self.timeout_s, "The default is 5.")  # fmt: skip
        _require(_is_int(self.memory_limit_mb) and self.memory_limit_mb >= 256, "verifier.memory_limit_mb",
                 "be an integer of at least 256 (MiB)", self.memory_limit_mb, "The default is 2048.")  # fmt: skip
        for name in ("recycle_after", "queue_size"):
            value = getattr(self, name)
            _require(_is_int(value) and value >= 1, f"verifier.{name}", "be an integer of at least 1", value,
                     "Leave it out for the default.")  # fmt: skip
        _require(isinstance(self.kwargs, Mapping), "verifier.kwargs", "be a mapping", self.kwargs,
                 "Set its keys one by one: +multiattempt.verifier.kwargs.<key>=<value>.")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSettings:
    """The episode log (`verl_multiattempt.record`)."""

    enabled: bool = False
    """Write the log."""
    dir: str | None = None
    """Its folder; null means the folder ``episodes`` in ``trainer.default_local_dir``."""
    every_n_steps: int = 1
    """Training steps 1, 1 + n, 1 + 2n ... are logged; validation always is."""
    max_episodes_per_step: int | None = 64
    """Episodes of one step's training, and of one validation, that are logged; null means all."""

    def __post_init__(self) -> None:
        _require(isinstance(self.enabled, bool), "record.enabled", "be true or false", self.enabled)
        _require(self.dir is None or (isinstance(self.dir, str) and bool(self.dir)), "record.dir",
                 "be null or the path of a folder", self.dir)  # fmt: skip
        _require(_is_int(self.every_n_steps) and self.every_n_steps >= 1, "record.every_n_steps",
                 "be an integer of at least 1", self.every_n_steps)  # fmt: skip
        most = self.max_episodes_per_step
        _require(most is None or (_is_int(most) and most >= 1), "record.max_episodes_per_step",
                 "be null or an integer of at least 1", most,
                 "Set multiattempt.record.enabled=false to log none." if most == 0 else "")  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """All settings of the multi-attempt task. The defaults are the paper's."""

    min_attempts: int = 1
    """Smallest allowance drawn."""
    max_attempts: int = 5
    """Largest allowance drawn; 1 makes the task single-attempt."""
    distribution: str = "uniform"
    """``uniform`` on min_attempts..max_attempts, ``fixed`` (always max_attempts) or ``weighted``."""
    weights: tuple[float, ...] | None = None
    """For ``weighted``: probabilities of min_attempts, min_attempts + 1, ... max_attempts."""
    scope: str = "auto"
    """``rollout``: each rollout draws its own allowance; ``group``: all rollouts of a prompt share one;
    ``auto``: group where rollout.n > 1."""
    seed: int = 0
    """Seed of the draws; a draw depends on (seed, step, prompt[, rollout]) alone."""
    val_max_attempts: int | None = None
    """Allowance of every validation episode; null means max_attempts."""
    max_tokens_per_attempt: int | None = None
    """Token limit of one attempt; null means what the conversation leaves."""
    min_tokens_per_attempt: int = 16
    """Feedback is given only if at least this many tokens fit after it."""
    stop_at_answer: bool = False
    """End an attempt at the token that completes its first \\boxed{}."""
    stop_at_answer_every: int = 64
    """Tokens between two looks for the answer when stop_at_answer is on."""
    allowed_special_tokens: tuple[str, ...] = ()
    """Special tokens that the model may write inside an attempt; any other one ends the attempt."""
    opening: OpeningSettings = field(default_factory=OpeningSettings)
    feedback: FeedbackSettings = field(default_factory=FeedbackSettings)
    reward: RewardSettings = field(default_factory=RewardSettings)
    verifier: VerifierSettings = field(default_factory=VerifierSettings)
    record: RecordSettings = field(default_factory=RecordSettings)

    def __post_init__(self) -> None:
        for name in ("min_attempts", "max_attempts", "min_tokens_per_attempt", "stop_at_answer_every"):
            value = getattr(self, name)
            _require(_is_int(value) and value >= 1, name, "be an integer of at least 1", value)
        for name in ("val_max_attempts", "max_tokens_per_attempt"):
            value = getattr(self, name)
            _require(
                value is None or (_is_int(value) and value >= 1), name, "be null or an integer of at least 1", value
            )
        _require(self.min_attempts <= self.max_attempts, "min_attempts",
                 f"be at most multiattempt.max_attempts ({self.max_attempts})", self.min_attempts,
                 "Lower min_attempts or raise max_attempts.")  # fmt: skip
        _require(_is_int(self.seed), "seed", "be an integer", self.seed)
        _require(isinstance(self.stop_at_answer, bool), "stop_at_answer", "be true or false", self.stop_at_answer)
        _require(self.distribution in DISTRIBUTIONS, "distribution", f"be one of {', '.join(DISTRIBUTIONS)}",
                 self.distribution)  # fmt: skip
        _require(self.scope in SCOPES, "scope", f"be one of {', '.join(SCOPES)}", self.scope)
        tokens = self.allowed_special_tokens
        _require(isinstance(tokens, tuple) and all(isinstance(token, str) for token in tokens),
                 "allowed_special_tokens", "be a list of texts", tokens)  # fmt: skip
        self._check_weights()
        if self.max_tokens_per_attempt is not None:
            _require(self.min_tokens_per_attempt <= self.max_tokens_per_attempt, "min_tokens_per_attempt",
                     f"be at most multiattempt.max_tokens_per_attempt ({self.max_tokens_per_attempt})",
                     self.min_tokens_per_attempt)  # fmt: skip

    def _check_weights(self) -> None:
        if self.distribution != "weighted":
            _require(self.weights is None, "weights", "be null unless multiattempt.distribution is weighted",
                     self.weights, "Set multiattempt.distribution=weighted or remove the weights.")  # fmt: skip
            return
        count = self.max_attempts - self.min_attempts + 1
        weights = self.weights
        _require(isinstance(weights, tuple) and all(_is_number(w) and w >= 0 for w in weights), "weights",
                 "be a list of probabilities when multiattempt.distribution is weighted", weights)  # fmt: skip
        assert weights is not None  # for the type checker: _require has raised
        _require(len(weights) == count, "weights",
                 f"have one probability for each of {self.min_attempts}..{self.max_attempts} ({count})",
                 list(weights))  # fmt: skip
        _require(abs(sum(weights) - 1.0) <= 1e-6, "weights", f"sum to 1 (they sum to {sum(weights):g})", list(weights))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Settings:
        """Build settings from a plain mapping, as ``OmegaConf.to_container(config.multiattempt)`` gives it.

        Args:
            mapping: keys as in the recipe; missing keys take their default.

        Raises:
            ValueError: a key is unknown, or a value cannot work.
        """
        return _build(cls, mapping, prefix="")


def _build(cls: type[_T], mapping: object, prefix: str) -> _T:
    """Fill dataclass ``cls`` from ``mapping``, nested dataclasses included, refusing unknown keys."""
    key = prefix.rstrip(".")
    if not isinstance(mapping, Mapping):
        raise SettingError(f"multiattempt{'.' if key else ''}{key} must be a mapping; got {mapping!r}", key)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(map(str, mapping)) - set(known))
    if unknown:
        raise SettingError(
            f"multiattempt{'.' if key else ''}{key} must have no other keys than {', '.join(known)}; "
            f"got {unknown[0]!r}",
            prefix + unknown[0],
        )
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, value in mapping.items():
        if is_dataclass(hints[name]):
            values[name] = value if is_dataclass(value) else _build(hints[name], value, f"{prefix}{name}.")
        elif isinstance(value, list):
            values[name] = tuple(value)
        else:
            values[name] = value
    return cls(**values)
