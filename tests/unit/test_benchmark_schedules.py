"""The parts of the schedules' benchmarks that need no engine: plans of lengths, counted steps, re-tokenised ids."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from length_plan import (  # noqa: E402
    SHORTEST,
    LengthPlan,
    PlannedAttempt,
    add_options,
    describe,
    plan_of,
    without_ramble,
)
from schedule_steps import lock_steps, loop_steps  # noqa: E402
from text_model import read_pairs  # noqa: E402


def plan(**changes: Any) -> LengthPlan:
    return LengthPlan(**{"median": 112, "sigma": 0.8, "limit": 768, "share_right": 0.3, **changes})


def episode(*lengths: int) -> tuple[PlannedAttempt, ...]:
    return tuple(PlannedAttempt(length=length, right=False) for length in lengths)


def test_a_plan_keeps_to_its_limits() -> None:
    drawn = plan(ramble=50).draw(500, seed=1)
    totals = [sum(attempt.length for attempt in one) for one in drawn]
    assert max(totals) == 768  # some at the limit
    assert {len(one) for one in drawn} == {1, 2, 3, 4, 5}
    assert all(attempt.length - attempt.ramble >= SHORTEST for one in drawn for attempt in one)
    assert all(not attempt.right for one in drawn for attempt in one[:-1])  # a right one ends the episode
    assert any(one[-1].right for one in drawn)


def test_lengths_have_the_median_and_the_spread_asked_for() -> None:
    lengths = sorted(attempt.length for one in plan(limit=10**6, share_right=0.0).draw(4000, seed=2) for attempt in one)
    assert lengths[len(lengths) // 2] == pytest.approx(112, rel=0.05)
    assert lengths[int(0.8413 * len(lengths))] == pytest.approx(112 * 2.2255, rel=0.05)  # exp(0.8), a sigma above
    assert describe([episode(10, 30), episode(20)]) == {
        "episodes": 2, "attempts": 3, "tokens": 60,
        "attempt_mean": 20, "attempt_median": 20, "attempt_p95": 20, "attempt_max": 30,
        "episode_mean": 30, "episode_median": 40, "episode_p95": 20, "episode_max": 40,
    }  # fmt: skip


def test_a_plan_depends_on_its_seed_and_not_on_how_many_episodes_there_are() -> None:
    assert plan().draw(8, seed=1) == plan().draw(64, seed=1)[:8] != plan().draw(8, seed=2)


def test_without_ramble_the_answers_are_where_they_were() -> None:
    rambling = plan(ramble=100).draw(50, seed=1)
    short = without_ramble(rambling)
    assert sum(attempt.ramble for one in rambling for attempt in one) > 0
    for long, one in zip(rambling, short, strict=True):
        assert [(a.length - a.ramble, a.right) for a in long] == [(a.length, a.right) for a in one]
        assert all(a.ramble == 0 for a in one)


@pytest.mark.parametrize(
    ("name", "value"), [("median", 0), ("limit", SHORTEST - 1), ("sigma", float("nan")), ("share_right", 1.1)]
)
def test_a_plan_that_cannot_be_is_refused(name: str, value: float, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=f"{name} must be .*; got"):
        plan(**{name: value})
    parser = argparse.ArgumentParser()
    add_options(parser, median=112, limit=768)
    option = {"share_right": "right"}.get(name, name)
    with pytest.raises(SystemExit):
        plan_of(parser.parse_args([f"--{option}", str(value)]) if name != "limit" else
                parser.parse_args(["--limit", str(int(value))]), parser)  # fmt: skip
    assert f"{name} must be" in capsys.readouterr().err


def test_steps_of_the_agent_loop_counted_by_hand() -> None:
    # Two places: 5 and 3 start; at 3 the 4 takes the free place; the second attempt of 2 waits from 5 on, and starts.
    assert loop_steps([episode(5, 2), episode(3), episode(4)], places=2) == 7
    assert loop_steps([episode(5, 2), episode(3), episode(4)], places=3) == 7
    assert loop_steps([episode(5, 2), episode(3), episode(4)], places=1) == 14


def test_steps_of_lock_step_counted_by_hand() -> None:
    # Slices of 4: the rounds of (5, 2) are 4, 1, 2; of (3) 3; of (4) 4.
    three = [episode(5, 2), episode(3), episode(4)]
    assert lock_steps(three, places=3, batch_size=3, slice_tokens=4) == 4 + 1 + 2
    assert lock_steps(three, places=3, batch_size=1, slice_tokens=4) == (4 + 1 + 2) + 3 + 4
    # One place less: in the first round, 4 and 3, then another 4 where the 3 has ended.
    assert lock_steps(three, places=2, batch_size=3, slice_tokens=4) == 7 + 1 + 2


def test_pairs_are_read_under_either_name_and_rows_without_a_text_are_left_out(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"problem": "p", "solution": "s", "answer": "a"}, {"question": "q", "answer": "b"},
        {"problem": "x", "answer": 3},
    ]  # fmt: skip
    (tmp_path / "some.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_pairs(tmp_path) == [("p", "s"), ("q", "b")]
    assert len(read_pairs(None)) > 100
    with pytest.raises(ValueError, match="--data must be a folder"):
        read_pairs(tmp_path / "none")
