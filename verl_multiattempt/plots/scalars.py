"""The numbers that a trainer logged: tensorboard's event files, or the JSON Lines of verl's file logger."""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

Scalars = dict[str, dict[int, float]]
"""By metric, then by step. A step without a finite value is absent."""


def read_scalars(path: str | Path, metrics: Collection[str]) -> Scalars:
    """Some metrics of one training run.

    Args:
        path: an event file, the folder that holds a run's event files, or the file of verl's ``file`` logger.
        metrics: their keys.

    Raises:
        ValueError: there is no log, it is damaged, or none of the metrics is in it; one sentence.
    """
    place = Path(path)
    if not place.exists():
        raise ValueError(f"training log must be a file or a folder; there is none at {str(path)!r}.")
    if place.is_dir():
        scalars = _from_events(_event_folder(place), metrics)
    elif "tfevents" in place.name:
        scalars = _from_events(place, metrics)
    else:
        scalars = _from_lines(place, metrics)
    if not any(scalars.values()):
        raise ValueError(
            f"training log must hold one of {', '.join(metrics)}; got none in {str(path)!r}. "
            "Give the log of a run with +recipe=multiattempt."
        )
    return scalars


def _event_folder(folder: Path) -> Path:
    """``folder``, or the one below it that holds event files."""
    holding = sorted({file.parent for file in folder.rglob("*tfevents*") if file.is_file()})
    if folder in holding:
        return folder
    if len(holding) != 1:
        found = f"they lie in {', '.join(map(str, holding))}" if holding else "it holds none"
        remedy = "Give one of these." if holding else "Give a folder of *tfevents* files or a .jsonl file."
        raise ValueError(f"training log must be one run's event files; of {str(folder)!r} {found}. {remedy}")
    return holding[0]


def _from_events(place: Path, metrics: Collection[str]) -> Scalars:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(place), size_guidance={"scalars": 0})  # 0: all of them
    events.Reload()
    logged = set(events.Tags()["scalars"])
    # A resumed run logs some steps again; the later value counts.
    return {
        metric: {
            event.step: event.value
            for event in sorted(events.Scalars(metric), key=lambda event: event.wall_time)
            if math.isfinite(event.value)
        }
        for metric in metrics
        if metric in logged
    }


def _from_lines(path: Path, metrics: Collection[str]) -> Scalars:
    scalars: Scalars = {}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                step, data = _logged(json.loads(line))
            except (ValueError, RecursionError) as error:
                if not line.endswith(b"\n"):
                    break  # the last line of a run that was killed while it wrote
                raise ValueError(
                    f"{path}, line {number}: must be an object with step and data, as verl's file logger writes them; "
                    f"got {error}."
                ) from None
            for metric in metrics:
                value = data.get(metric)
                if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                    scalars.setdefault(metric, {})[step] = float(value)
    return scalars


def _logged(document: Any) -> tuple[int, dict[str, Any]]:
    if not isinstance(document, dict):
        raise ValueError(f"{type(document).__name__} instead of an object")
    step, data = document.get("step"), document.get("data")
    if isinstance(step, bool) or not isinstance(step, int) or not isinstance(data, dict):
        raise ValueError(f"step {step!r} and data of type {type(data).__name__}")
    return step, data
