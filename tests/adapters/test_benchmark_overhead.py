"""How `benchmarks/overhead.py` counts the event loop's stalls."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

from overhead import PROBE_S, lateness


def timers(*lates: float, start: float = 0.0) -> list[tuple[float, float]]:
    """Timers one after the other, called so late."""
    stalls = []
    for late in lates:
        stalls.append((start + PROBE_S, start + PROBE_S + late))
        start += PROBE_S + late
    return stalls


def test_a_start_that_is_over_before_the_first_timer_is_due_holds_nobody_up() -> None:
    found, _ = lateness(timers(0.0, 0.0, 0.0, 0.0), all_asked_at=PROBE_S / 2)
    assert found["start"] == 0


def test_the_start_is_told_apart() -> None:
    found, longest = lateness(timers(0.2, 0.0, 0.0, 0.003, 0.0), all_asked_at=0.15)
    assert found["start"] == pytest.approx(0.2)
    # The timer of the start was called when all were under way: it counts there, too.
    assert (found["max"], longest[1] - longest[0]) == (pytest.approx(0.2), pytest.approx(0.2))
    found, _ = lateness(timers(0.2, 0.0, 0.0, 0.003, 0.0), all_asked_at=0.201)
    assert (found["start"], found["max"]) == (pytest.approx(0.2), pytest.approx(0.003))


def test_a_stall_counts_for_every_millisecond_of_it() -> None:
    # 99 timers in time and one stall of 100 ms: 101 callers would have waited 0 to 100 ms, 99 not at all.
    found, _ = lateness(timers(*[0.0] * 99, 0.1), all_asked_at=-1.0)
    assert found["p50"] == pytest.approx(0.0, abs=PROBE_S)
    assert found["p99"] == pytest.approx(0.098, abs=2 * PROBE_S)
