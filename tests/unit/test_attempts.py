from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_multiattempt import attempts
from verl_multiattempt.attempts import (
    draw_max_attempts,
    episode_max_attempts,
    prompt_key,
    resolve_scope,
    row_index,
    row_max_attempts,
    uniform_u64,
)
from verl_multiattempt.settings import Settings

QUESTION = [{"role": "user", "content": "2 + 3?"}]
# Upper 0.1 % points of chi-square; the draws are fixed, so a test that passes once passes always.
CHI2_4, CHI2_24 = 18.47, 51.18


def draw(settings: Settings, step: int = 1, prompt: str = "p", rollout: int = 0, scope: str = "rollout") -> int:
    return draw_max_attempts(settings, step=step, prompt=prompt, rollout=rollout, scope=scope)


def chi_square(observed: Counter[Any], expected: dict[Any, float]) -> float:
    assert set(observed) <= set(expected)
    return sum((observed[value] - count) ** 2 / count for value, count in expected.items())


# The row's index.


@pytest.mark.parametrize(
    ("extra_info", "index"),
    [
        (None, None), ({}, None), ({"index": None}, None), ({"index": float("nan")}, None),
        ({"index": np.float64("nan")}, None), ({"index": 0}, 0), ({"index": "a"}, "a"), ({"index": True}, "True"),
        ({"index": 1.5}, "1.5"), ({"index": np.int64(7)}, "7"),
    ],
    ids=str,
)  # fmt: skip
def test_index_is_what_the_reader_of_the_log_takes(extra_info: dict[str, Any] | None, index: int | str | None) -> None:
    found = row_index(extra_info)
    assert (found, type(found)) == (index, type(index))


# Distribution.


@pytest.mark.parametrize("seed", [0, 1, 2**40, -3])
def test_uniform_draws_are_uniform(seed: int) -> None:
    counts = Counter(draw(Settings(seed=seed), step=i // 100, prompt=f"q{i % 100}") for i in range(5000))
    assert chi_square(counts, dict.fromkeys(range(1, 6), 1000.0)) < CHI2_4


@pytest.mark.parametrize("varied", ["step", "prompt", "rollout", "seed"])
def test_draws_one_apart_are_independent(varied: str) -> None:
    def at(i: int) -> int:
        return {
            "step": lambda: draw(Settings(), step=i),
            "prompt": lambda: draw(Settings(), prompt=str(i)),
            "rollout": lambda: draw(Settings(), rollout=i),
            "seed": lambda: draw(Settings(seed=i)),
        }[varied]()

    pairs = Counter((at(2 * i), at(2 * i + 1)) for i in range(2500))
    assert chi_square(pairs, {(a, b): 100.0 for a in range(1, 6) for b in range(1, 6)}) < CHI2_24


def test_weighted_draws_follow_the_weights() -> None:
    weights = (0.4, 0.3, 0.15, 0.1, 0.05)
    settings = Settings(distribution="weighted", weights=weights)
    counts = Counter(draw(settings, step=i) for i in range(5000))
    assert chi_square(counts, {k + 1: 5000 * weight for k, weight in enumerate(weights)}) < CHI2_4


def test_fixed_is_always_max_attempts() -> None:
    assert {draw(Settings(distribution="fixed", max_attempts=3), step=i) for i in range(50)} == {3}


def test_range_of_one_value_draws_that_value() -> None:
    assert {draw(Settings(min_attempts=4, max_attempts=4), step=i) for i in range(50)} == {4}


def test_range_starts_at_min_attempts() -> None:
    assert {draw(Settings(min_attempts=3, max_attempts=5), step=i) for i in range(200)} == {3, 4, 5}


@pytest.mark.parametrize(("number", "expected"), [(0, 2), (2**64 - 1, 5)])
def test_ends_of_the_number_range_give_the_ends_of_the_allowance(
    monkeypatch: pytest.MonkeyPatch, number: int, expected: int
) -> None:
    monkeypatch.setattr(attempts, "uniform_u64", lambda *parts: number)
    assert draw(Settings(min_attempts=2)) == expected


@given(
    weights=st.lists(st.sampled_from([0.0, 0.0, 1e-12, 0.1, 1.0, 3.0]), min_size=1, max_size=8).filter(any),
    number=st.sampled_from([0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1]) | st.integers(0, 2**64 - 1),
)
def test_class_of_weight_0_is_never_drawn(weights: list[float], number: int) -> None:
    total = sum(weights)
    shares = tuple(weight / total for weight in weights)
    settings = Settings(distribution="weighted", min_attempts=2, max_attempts=1 + len(weights), weights=shares)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attempts, "uniform_u64", lambda *parts: number)
        assert weights[draw(settings) - 2] > 0


# Scope.


def test_group_scope_shares_one_draw_among_the_rollouts() -> None:
    for step in range(50):
        assert len({draw(Settings(), step=step, rollout=i, scope="group") for i in range(16)}) == 1


def test_group_scope_differs_between_prompts_and_steps() -> None:
    assert {draw(Settings(), prompt=str(i), scope="group") for i in range(100)} == {1, 2, 3, 4, 5}
    assert {draw(Settings(), step=i, scope="group") for i in range(100)} == {1, 2, 3, 4, 5}


def test_rollout_scope_differs_within_a_group() -> None:
    assert {draw(Settings(), rollout=i, scope="rollout") for i in range(100)} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("scope", "rollouts", "resolved"),
    [("auto", 1, "rollout"), ("auto", 2, "group"), ("group", 1, "group"), ("rollout", 8, "rollout")],
)
def test_auto_scope_is_group_where_a_prompt_has_several_rollouts(scope: str, rollouts: int, resolved: str) -> None:
    assert resolve_scope(scope, rollouts) == resolved


# Resumed runs.


@given(
    seed=st.integers(-(2**63), 2**63),
    step=st.integers(-1, 10**6),
    prompt=st.text(),
    rollout=st.integers(0, 1000),
    scope=st.sampled_from(["group", "rollout"]),
)
def test_draw_is_a_pure_function_of_its_arguments(seed: int, step: int, prompt: str, rollout: int, scope: str) -> None:
    draws = {draw(Settings(seed=seed), step, prompt, rollout, scope) for _ in range(2)}
    draw(Settings(seed=seed), step + 1, prompt, rollout, scope)
    assert draws == {draw(Settings(seed=seed), step, prompt, rollout, scope)}
    assert draws <= {1, 2, 3, 4, 5}


def test_resumed_run_draws_what_the_uninterrupted_one_drew() -> None:
    key = prompt_key(QUESTION, 7)
    uninterrupted = [draw(Settings(seed=3), step=step, prompt=key, rollout=1) for step in range(20)]
    code = f"""
from verl_multiattempt.attempts import draw_max_attempts, prompt_key
from verl_multiattempt.settings import Settings
key = prompt_key({QUESTION!r}, 7)
def draw(step):
    return draw_max_attempts(Settings(seed=3), step=step, prompt=key, rollout=1, scope="rollout")
print([draw(step) for step in range(10, 20)])
"""
    # Another process, as after a resume; its hash seed differs from this one's.
    resumed = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "12345"}, capture_output=True, text=True, check=True
    ).stdout
    assert resumed.strip() == str(uninterrupted[10:])


def test_draws_of_this_version_are_pinned() -> None:
    # Another value here means that a checkpoint resumed with this version goes on with other draws: say so in the
    # CHANGELOG.
    key = prompt_key(QUESTION, 7)
    assert key == "05f78b8f65b3918e130e8abc5bf99389"
    assert [draw(Settings(), step=step, prompt=key) for step in range(12)] == [1, 3, 1, 1, 5, 4, 4, 5, 3, 5, 1, 4]


# Names of prompts.


def test_prompt_key_does_not_depend_on_the_order_of_a_messages_keys() -> None:
    assert prompt_key([{"content": "a", "role": "user"}]) == prompt_key([{"role": "user", "content": "a"}])


def test_prompt_key_tells_index_messages_and_roles_apart() -> None:
    keys = {
        prompt_key(QUESTION),
        prompt_key(QUESTION, 0),
        prompt_key(QUESTION, 1),
        prompt_key(QUESTION, "1"),
        prompt_key([{"role": "system", "content": "2 + 3?"}]),
        prompt_key([*QUESTION, *QUESTION]),
        prompt_key([]),
    }
    assert len(keys) == 7


def test_prompt_key_takes_any_text_and_contents_that_are_no_text() -> None:
    assert prompt_key([{"role": "user", "content": "\ud800\x00é"}])
    assert prompt_key([{"role": "user", "content": [{"type": "image", "image": object}]}])


def test_parts_are_not_simply_joined() -> None:
    assert uniform_u64("a", "b") != uniform_u64("ab") != uniform_u64("a,b")
    assert uniform_u64(1, 23) != uniform_u64(12, 3)
    assert uniform_u64(1) != uniform_u64("1")


# The row's own allowance.


@pytest.mark.parametrize("extra_info", [None, {}, {"index": 3}, {"max_attempts": None}])
def test_row_without_an_allowance_has_none(extra_info: dict[str, Any] | None) -> None:
    assert row_max_attempts(extra_info) is None


@pytest.mark.parametrize("value", [3, 3.0, np.int32(3), np.int64(3), np.float64(3.0)], ids=repr)
def test_row_allowance_may_be_any_whole_number(value: Any) -> None:
    number = row_max_attempts({"max_attempts": value})
    assert number == 3
    assert type(number) is int


@pytest.mark.parametrize(
    "value", [0, -1, 2.5, True, "3", float("nan"), float("inf"), [3], {"n": 3}, np.float64("nan")], ids=repr
)
def test_row_allowance_that_is_no_whole_number_above_0_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="max_attempts") as caught:
        row_max_attempts({"max_attempts": value})
    assert str(caught.value) == f"extra_info.max_attempts must be an integer of at least 1; got {value!r}"


@pytest.mark.parametrize("validate", [True, False])
def test_row_allowance_comes_before_everything_else(validate: bool) -> None:
    settings = Settings(distribution="fixed", max_attempts=2, val_max_attempts=4)
    arguments: dict[str, Any] = {"step": 1, "prompt": "p", "rollout": 0, "scope": "rollout", "validate": validate}
    assert episode_max_attempts(settings, **arguments, extra_info={"max_attempts": 9}) == 9


@pytest.mark.parametrize(("val_max_attempts", "expected"), [(None, 5), (1, 1), (8, 8)])
def test_validation_has_its_own_allowance_and_draws_nothing(val_max_attempts: int | None, expected: int) -> None:
    settings = Settings(val_max_attempts=val_max_attempts)
    assert {
        episode_max_attempts(settings, step=step, prompt="p", rollout=0, scope="rollout", validate=True)
        for step in range(20)
    } == {expected}


def test_training_draws_and_ignores_validations_allowance() -> None:
    settings = Settings(val_max_attempts=9)
    drawn = [
        episode_max_attempts(settings, step=step, prompt="p", rollout=2, scope="rollout", validate=False)
        for step in range(20)
    ]
    assert drawn == [draw(settings, step=step, rollout=2) for step in range(20)]
