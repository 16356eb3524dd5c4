"""The arithmetic of the comparison's report."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "tiny_math"))

from compare_tiny_results import Estimate, Retry, fixed_order_accuracy, share_of_commonest


def test_interval_over_three_seeds_is_students() -> None:
    estimate = Estimate.of([0.10, 0.20, 0.30])
    assert estimate.mean == pytest.approx(0.2)
    # 4.303 (97.5 %, 2 degrees of freedom) * 0.1 / sqrt(3)
    assert estimate.half_width == pytest.approx(0.2484, abs=1e-4)
    assert estimate.points() == "+20.0 ± 24.8 points"
    assert estimate.percent() == "20.0 % [0.0, 44.8]"
    assert not estimate.is_positive
    assert Estimate.of([0.19, 0.20, 0.21]).is_positive


def test_one_seed_has_no_interval() -> None:
    estimate = Estimate.of([0.531])
    assert estimate.percent() == "53.1 %"
    assert estimate.points() == "+53.1 points"
    assert not estimate.is_positive


def test_second_answers_that_do_not_depend_on_the_first_are_one_and_the_same() -> None:
    assert share_of_commonest({Retry("0", "2"): 340, Retry("3", "2"): 98, Retry("3", None): 2}) == 438 / 440
    assert share_of_commonest({Retry("0", "2"): 50, Retry("3", "1"): 50}) == 0.5
    assert share_of_commonest({}) is None


def test_fixed_order_guesses_the_likeliest_results_of_the_parity_first() -> None:
    # Even products are most often 0 modulo 6, then 2 or 4; odd ones 3, then 1 or 5.
    even, odd = [(0, False)] * 3 + [(2, False)] + [(4, False)], [(3, True), (1, True), (5, True)]
    assert fixed_order_accuracy([*even, *odd], 1) == pytest.approx(4 / 8)
    assert fixed_order_accuracy([*even, *odd], 3) == 1
