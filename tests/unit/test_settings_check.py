from __future__ import annotations

from typing import Any

import pytest

from verl_multiattempt.settings import SettingError, Settings
from verl_multiattempt.settings_check import MAX_TOLD, mend_settings, settings_problems


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        ({}, []),
        ({"max_attempts": 3}, []),
        ({"min_attempts": 7}, ["min_attempts"]),
        ({"seed": "a", "scope": "all", "verifier": {"timeout_s": 0, "name": ""}, "reward": 3},
         ["verifier.name", "verifier.timeout_s", "reward", "seed", "scope"]),
        ({"max_attempt": 3, "feedback": {"rolle": "x", "role": "y"}}, ["", "feedback", "feedback.role"]),
        # Of two values checked against each other only the wrong one is told.
        ({"max_attempts": "many", "min_attempts": 7}, ["max_attempts"]),
        ({"max_attempts": 0, "distribution": "weighted", "weights": [0.5, 0.5]}, ["max_attempts"]),
        ({"distribution": "even", "weights": [1]}, ["distribution"]),
        ({"distribution": "weighted", "weights": [0.5], "seed": None}, ["seed", "weights"]),
        ({"min_tokens_per_attempt": 0, "max_tokens_per_attempt": 8}, ["min_tokens_per_attempt"]),
    ],
    ids=str,
)  # fmt: skip
def test_every_value_that_cannot_work_is_told_once(values: dict[str, Any], keys: list[str]) -> None:
    told = [
        problem.split(" must ")[0].removeprefix("multiattempt").lstrip(".") for problem in settings_problems(values)
    ]
    assert sorted(told) == sorted(keys)


def test_first_problem_is_the_one_that_settings_raise() -> None:
    values = {"seed": "a", "scope": "all"}
    with pytest.raises(SettingError) as caught:
        Settings.from_mapping(values)
    assert settings_problems(values)[0] == str(caught.value)
    assert caught.value.key == "seed"
    assert values == {"seed": "a", "scope": "all"}  # left as they were


def test_wrong_values_are_mended_and_the_others_kept() -> None:
    settings, problems = mend_settings({"seed": "a", "max_attempts": 3, "verifier": {"timeout_s": 0, "num_workers": 1}})
    assert (settings.seed, settings.max_attempts, settings.verifier.num_workers) == (0, 3, 1)
    assert settings.verifier.timeout_s == Settings().verifier.timeout_s
    assert len(problems) == 2


@pytest.mark.parametrize("values", [5, {f"key{i}": i for i in range(50)}])
def test_settings_that_cannot_be_mended_are_the_default_ones(values: Any) -> None:
    assert mend_settings(values)[0] == Settings()


def test_settings_that_are_no_mapping_are_one_problem() -> None:
    assert settings_problems(5) == ["multiattempt must be a mapping; got 5"]


def test_endless_nonsense_is_cut() -> None:
    assert len(settings_problems({f"key{i}": i for i in range(50)})) == MAX_TOLD
