"""The settings of ``multiattempt evaluate``, validated where they are made."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from verl_multiattempt.settings import Settings

PROTOCOLS = ("nested", "paper")
CONTROLS = ("samples", "no_feedback")
KINDS = (*PROTOCOLS, *CONTROLS)
NOT_COMPARED = ("label", "concurrency", "engine.timeout_s", "engine.api_key_env", "engine.gpu_memory_utilization")
"""Settings that two calls in one output directory may differ in: they change no result."""


def _require(condition: bool, name: str, must: str, got: object, remedy: str = "") -> None:
    if not condition:
        raise ValueError(f"{name} must {must}; got {got!r}" + (f". {remedy}" if remedy else ""))


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """What is run on which questions. The defaults are the paper's, in one run (`nested`) instead of one for each k."""

    model: str
    """Name on the hub, or the path of a folder."""
    data: tuple[str, ...]
    """Parquet files of verl's format, or names of benchmarks."""
    protocols: tuple[str, ...] = ("nested",)
    """``nested``: one run that allows max(attempts), read at every k; ``paper``: a run for each k of ``attempts``."""
    attempts: tuple[int, ...] = (1, 2, 3, 4, 5)
    """The k of accuracy@k."""
    controls: tuple[str, ...] = ()
    """``samples``: independent single attempts, for pass@k; ``no_feedback``: max(attempts) attempts with no message
    between them."""
    temperature: float = 0.0
    """0 is greedy, as in the paper."""
    top_p: float = 1.0
    samples: int = 1
    """Episodes for each question and run; the control ``samples`` takes max(attempts) times as many."""
    seed: int = 0
    """Of the sampling, and of the bootstrap."""
    max_tokens: int = 8000
    """Limit of a conversation: all tokens after its opening, feedback included."""
    limit: int | None = None
    """The first so many questions of each benchmark; None: all."""
    concurrency: int | None = None
    """Episodes open at once; None: as many as keep the engine full."""
    label: str | None = None
    """What figures call these results; None: the hub name, or the last two folders of a path (run and step)."""
    task: Settings = field(default_factory=Settings)
    """The settings under ``multiattempt:``; the ones about drawing allowances and the log say nothing here."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """The engine's kind, and its own settings that were given."""

    def __post_init__(self) -> None:
        _require(isinstance(self.model, str) and bool(self.model), "model", "be a name on the hub or a folder",
                 self.model)  # fmt: skip
        _require(bool(self.data), "data", "name at least one parquet file or benchmark", list(self.data))
        self._check_names("protocols", PROTOCOLS)
        self._check_names("controls", CONTROLS)
        _require(bool(self.protocols or self.controls), "protocols", "not be empty where there is no control",
                 list(self.protocols))  # fmt: skip
        _require(bool(self.attempts) and all(_is_int(k) and k >= 1 for k in self.attempts), "attempts",
                 "be integers of at least 1", list(self.attempts))  # fmt: skip
        _require(list(self.attempts) == sorted(set(self.attempts)), "attempts", "rise without repeats",
                 list(self.attempts))  # fmt: skip
        for name in ("samples", "max_tokens"):
            value = getattr(self, name)
            _require(_is_int(value) and value >= 1, name, "be an integer of at least 1", value)
        for name in ("limit", "concurrency"):
            value = getattr(self, name)
            _require(value is None or (_is_int(value) and value >= 1), name, "be an integer of at least 1", value)
        _require(_is_int(self.seed) and self.seed >= 0, "seed", "be an integer of at least 0", self.seed)
        self._check_sampling()

    def _check_names(self, name: str, known: tuple[str, ...]) -> None:
        values = getattr(self, name)
        for value in values:
            _require(value in known, name, f"be of {', '.join(known)}", value)
        _require(len(set(values)) == len(values), name, "name each one once", list(values))

    def _check_sampling(self) -> None:
        _require(_is_number(self.temperature) and self.temperature >= 0, "temperature",
                 "be a finite number of at least 0", self.temperature)  # fmt: skip
        _require(_is_number(self.top_p) and 0 < self.top_p <= 1, "top_p", "be above 0 and at most 1", self.top_p)
        if self.temperature > 0:
            return
        _require(self.samples == 1, "samples", "be 1 at temperature 0, where all samples of a question are equal",
                 self.samples, "Set a temperature, such as --temperature 1.")  # fmt: skip
        _require("samples" not in self.controls, "controls",
                 "not hold samples at temperature 0, where all samples of a question are equal", list(self.controls),
                 "Set a temperature, such as --temperature 1.")  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {**asdict(self), "engine": dict(self.engine), **{
            name: list(getattr(self, name)) for name in ("data", "protocols", "attempts", "controls")
        }}  # fmt: skip


def differences(
    before: Mapping[str, Any], now: Mapping[str, Any], besides: Collection[str] = NOT_COMPARED
) -> list[str]:
    """What two settings, as JSON values, differ in: ``name: then, now``; those of ``besides`` do not count."""
    flat_before, flat_now = dict(_flat(before)), dict(_flat(now))
    missing = object()
    return [
        f"{name}: {_shown(flat_before.get(name, missing), missing)} there, "
        f"{_shown(flat_now.get(name, missing), missing)} now"
        for name in sorted({*flat_before, *flat_now} - set(besides))
        if flat_before.get(name, missing) != flat_now.get(name, missing)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, list(value) if isinstance(value, tuple) else value


def _shown(value: object, missing: object) -> str:
    return "nothing" if value is missing else repr(value)
