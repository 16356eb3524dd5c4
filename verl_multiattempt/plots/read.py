"""Reading ``results.json`` of ``multiattempt evaluate``: what the figures need of it, checked."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1
KINDS = ("nested", "paper", "samples", "no_feedback")
MEAN = "mean"
"""In place of a benchmark's name: the mean over the benchmarks, each counting the same."""
FILE_NAME = "results.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A share of questions with its 95 % interval over questions."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One kind of run on one benchmark."""

    accuracy: Mapping[int, Estimate]
    """By number of allowed attempts; for ``samples`` pass@k, by number of samples."""
    refinement: Mapping[int, float]
    """By attempt, from 2 on; an attempt that no episode reached is absent."""
    repeat: Mapping[int, float]
    questions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """One evaluation."""

    path: Path
    label: str
    model: str
    temperature: float | None
    """None: the file does not say."""
    settings: Mapping[str, Any]
    """Of the evaluation; empty where the file does not say."""
    data: tuple[str, ...]
    """Hashes of the questions' files; empty where the file does not say."""
    curves: Mapping[str, Mapping[str, Curve]]
    """By kind, then by benchmark or `MEAN`."""

    def benchmarks(self, kind: str) -> list[str]:
        """The benchmarks of ``kind``, without the mean."""
        return [name for name in self.curves.get(kind, {}) if name != MEAN]


def read_results(path: str | Path) -> Results:
    """Read one evaluation.

    Args:
        path: the file, or the output directory that it lies in.

    Raises:
        ValueError: it is not there, cannot be read, or is not what ``multiattempt evaluate`` writes; one sentence.
    """
    file = Path(path)
    if file.is_dir():
        file = file / FILE_NAME
    try:
        document = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise ValueError(
            f"RESULTS must be a results.json or the folder of one; there is none at {str(file)!r}. "
            "`multiattempt evaluate` writes it when it ends."
        ) from None
    except OSError as error:
        raise ValueError(f"RESULTS must be readable; got {str(file)!r}: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} must be JSON as `multiattempt evaluate` writes it; got {error}.") from None
    try:
        return _results(file, document)
    except ValueError as error:
        raise ValueError(f"{file}: {error}. Use a results.json as `multiattempt evaluate` writes it.") from None


def read_all(paths: list[str]) -> list[Results]:
    """Read several evaluations.

    Raises:
        ValueError: one of them is not valid, or two are the same evaluation, which would count as two seeds.
    """
    results = [read_results(path) for path in paths]
    for i, later in enumerate(results):
        for earlier in results[:i]:
            same = (earlier.label, earlier.model, earlier.temperature, earlier.curves) == (
                later.label, later.model, later.temperature, later.curves,
            )  # fmt: skip
            if same or earlier.path.resolve() == later.path.resolve():
                raise ValueError(
                    f"RESULTS must be different evaluations; got the same numbers of the same model and label in "
                    f"{str(earlier.path)!r} and {str(later.path)!r}. Give each evaluation once."
                )
    return results


def _results(path: Path, document: Any) -> Results:
    root = _mapping(document, "the file")
    if root.get("schema") != SCHEMA or isinstance(root.get("schema"), bool):
        raise ValueError(f"schema must be {SCHEMA}; got {root.get('schema')!r}")
    kinds = _mapping(root.get("curves"), "curves", filled=True)
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise ValueError(f"a key of curves must be one of {', '.join(KINDS)}; got {unknown[0]!r}")
    return Results(
        path=path,
        label=_text(root.get("label"), "label"),
        model=_text(root.get("model"), "model"),
        temperature=_temperature(root.get("settings")),
        settings=settings if isinstance(settings := root.get("settings"), dict) else {},
        data=_hashes(root.get("identity")),
        curves={
            kind: {
                name: _curve(curve, f"curves.{kind}.{name}")
                for name, curve in _mapping(kinds[kind], f"curves.{kind}", filled=True).items()
            }
            for kind in KINDS
            if kind in kinds
        },
    )


def _curve(document: Any, where: str) -> Curve:
    curve = _mapping(document, where)
    accuracy = _mapping(curve.get("accuracy"), f"{where}.accuracy", filled=True)
    questions = curve.get("questions")
    if isinstance(questions, bool) or not isinstance(questions, int) or questions < 1:
        raise ValueError(f"{where}.questions must be an integer of at least 1; got {questions!r}")
    return Curve(
        accuracy=dict(
            sorted(
                (_attempt(k, f"{where}.accuracy"), _estimate(v, f"{where}.accuracy.{k}")) for k, v in accuracy.items()
            )
        ),
        refinement=_rates(curve.get("refinement"), f"{where}.refinement"),
        repeat=_rates(curve.get("repeat"), f"{where}.repeat"),
        questions=questions,
    )


def _estimate(document: Any, where: str) -> Estimate:
    found = _mapping(document, where)
    value, low, high = (_share(found.get(key), f"{where}.{key}") for key in ("value", "low", "high"))
    if low > high:
        raise ValueError(f"{where}.low must be at most {where}.high ({high!r}); got {low!r}")
    return Estimate(value=value, low=low, high=high)


def _rates(document: Any, where: str) -> dict[int, float]:
    if document is None:
        return {}
    rates = {
        _attempt(k, where): v if v is None else _share(v, f"{where}.{k}") for k, v in _mapping(document, where).items()
    }
    return {k: rate for k, rate in sorted(rates.items()) if rate is not None}


def _temperature(settings: Any) -> float | None:
    if not isinstance(settings, dict) or "temperature" not in settings:
        return None
    value = settings["temperature"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"settings.temperature must be a number of at least 0; got {_short(value)}")
    return float(value)


def _hashes(identity: Any) -> tuple[str, ...]:
    found = identity.get("data_sha256") if isinstance(identity, dict) else None
    return tuple(map(str, found)) if isinstance(found, list) else ()


def _mapping(value: Any, where: str, *, filled: bool = False) -> dict[str, Any]:
    if not isinstance(value, dict) or (filled and not value):
        kind = "an object that is not empty" if filled else "an object"
        raise ValueError(f"{where} must be {kind}; got {_short(value)}")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where} must be text that is not empty; got {_short(value)}")
    return value


def _attempt(key: str, where: str) -> int:
    if not (key.isascii() and key.isdecimal() and len(key) < 7) or str(int(key)) != key or key == "0":
        raise ValueError(f"a key of {where} must be a number of attempts, from 1; got {key!r}")
    return int(key)


def _share(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:  # NaN compares false
        raise ValueError(f"{where} must be a number from 0 to 1; got {_short(value)}")
    return float(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
