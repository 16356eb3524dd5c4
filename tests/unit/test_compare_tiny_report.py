"""The arithmetic of the comparison's report."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes"))

from compare_tiny_report import Estimate, fixed_order_accuracy


def test_interval_over_three_seeds_is_students() -> None:
    estimate = Estimate.of([0.10, 0.20, 0.30])
    assert estimate.mean == pytest.approx(0.2)
    # 4.303 (97.5 %, 2 degrees of freedom) * 0.1 / sqrt(3)
    assert estimate.half_width == pytest.approx(0.2484, abs=1e-4)
    assert estimate.points() == "+20.0 ± 24.8 points"


def test_one_seed_has_no_interval() -> None:
    assert Estimate.of([0.531]).percent() == "53.1 %"


def test_fixed_order_guesses_the_likeliest_results_of_the_parity_first() -> None:
    # Even products are most often 0 modulo 6, then 2 or 4; odd ones 3, then 1 or 5.
    even, odd = [(0, False)] * 3 + [(2, False)] + [(4, False)], [(3, True), (1, True), (5, True)]
    assert fixed_order_accuracy([*even, *odd], 1) == pytest.approx(4 / 8)
    assert fixed_order_accuracy([*even, *odd], 3) == 1
