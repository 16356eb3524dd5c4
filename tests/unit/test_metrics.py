from __future__ import annotations

import pytest

from verl_multiattempt.episode import Attempt, Episode, Stop
from verl_multiattempt.metrics import episode_metrics, repeats
from verl_multiattempt.settings import RewardSettings
from verl_multiattempt.verifier import Outcome, Verdict

C, W, N, T, E = Outcome.CORRECT, Outcome.INCORRECT, Outcome.NO_ANSWER, Outcome.TIMEOUT, Outcome.ERROR


def attempt(
    outcome: Outcome, answer: str | None, num_tokens: int, seconds: float = 0.0, stop: Stop = Stop.END_OF_TURN
) -> Attempt:
    fault = "timeout" if outcome is T else None
    verdict = Verdict(outcome=outcome, answer=answer, fault=fault, seconds=seconds)
    return Attempt(text="", verdict=verdict, stop=stop, num_tokens=num_tokens)


EPISODES = [
    # solved at once
    Episode(max_attempts=1, attempts=[attempt(C, "1", 10, seconds=0.5)]),
    # solved at the third attempt, after the same wrong answer twice
    Episode(
        max_attempts=5,
        attempts=[
            attempt(W, "7", 20),
            attempt(W, "7", 30, seconds=1.5, stop=Stop.ATTEMPT_LIMIT),
            attempt(C, "8", 40, stop=Stop.ANSWER),
        ],
        num_context_tokens=50,
    ),
    # never an answer, and out of room
    Episode(
        max_attempts=4,
        attempts=[
            attempt(N, None, 20, stop=Stop.CONTROL_TOKEN),
            attempt(N, None, 60, stop=Stop.CONVERSATION_LIMIT),
        ],
        num_context_tokens=10,
        truncated=True,
    ),
    # never correct, and one verification ran out of time
    Episode(
        max_attempts=2,
        attempts=[attempt(T, "x", 15, seconds=6.0), attempt(W, "2", 5)],
        num_context_tokens=20,
    ),
]


def test_every_metric_has_its_hand_computed_value() -> None:
    metrics = episode_metrics(EPISODES, RewardSettings(attempt_discount=0.5), max_attempts=4)
    assert metrics == pytest.approx(
        {
            "multiattempt/episodes": 4,
            "multiattempt/accuracy": 2 / 4,
            "multiattempt/accuracy@1": 1 / 4,
            # of the episodes that were allowed 2, 3 and 4 attempts
            "multiattempt/accuracy@2": 0 / 3,
            "multiattempt/accuracy@3": 1 / 2,
            "multiattempt/accuracy@4": 1 / 2,
            "multiattempt/answered": 3 / 4,
            "multiattempt/truncated": 1 / 4,
            "multiattempt/undecided": 1 / 4,
            "multiattempt/reward/mean": (1.0 + 0.25 - 1.0 - 0.5) / 4,
            "multiattempt/max_attempts/mean": (1 + 5 + 4 + 2) / 4,
            "multiattempt/max_attempts/max": 5,
            "multiattempt/attempts_used/mean": (1 + 3 + 2 + 2) / 4,
            "multiattempt/attempts_used/max": 3,
            # 8 attempts of 10, 20, 30, 40, 20, 60, 15 and 5 tokens
            "multiattempt/tokens_per_attempt/mean": 200 / 8,
            "multiattempt/context_tokens/share": 80 / (80 + 200),
            "multiattempt/attempts_cut": 1,
            "multiattempt/control_token_stops": 1,
            "multiattempt/verification_s/mean": (0.5 + 1.5 + 6.0) / 8,
            "multiattempt/verification_s/max": 6,
            "multiattempt/verdicts/correct": 2,
            "multiattempt/verdicts/incorrect": 3,
            "multiattempt/verdicts/no_answer": 2,
            "multiattempt/verdicts/timeout": 1,
            "multiattempt/verdicts/error": 0,
            "multiattempt/verifier_faults/timeout": 1,
            "multiattempt/verifier_faults/died": 0,
            "multiattempt/verifier_faults/memory": 0,
            "multiattempt/verifier_faults/error": 0,
            # further attempts: 2 of the second episode, 1 of the third, 1 of the fourth
            "multiattempt/refinement": 1 / 4,
            "multiattempt/repeat": 1 / 4,
        }
    )


def test_values_are_plain_floats_for_every_logger() -> None:
    assert {type(value) for value in episode_metrics(EPISODES, RewardSettings(), 4).values()} == {float}


def test_no_episodes_give_no_metrics() -> None:
    assert episode_metrics([], RewardSettings(), 5) == {}


def test_single_attempt_episodes_have_no_refinement_and_no_repeat() -> None:
    metrics = episode_metrics(EPISODES[:1], RewardSettings(), max_attempts=1)
    assert "multiattempt/refinement" not in metrics
    assert "multiattempt/repeat" not in metrics
    assert metrics["multiattempt/accuracy@1"] == 1
    assert "multiattempt/accuracy@2" not in metrics


def test_accuracy_is_raw_whatever_the_reward() -> None:
    upside_down = RewardSettings(correct=-1.0, answered=1.0, unanswered=1.0)
    assert episode_metrics(EPISODES, upside_down, 1)["multiattempt/accuracy"] == 0.5


def test_episode_of_a_larger_allowance_than_the_largest_k_still_counts_as_accurate() -> None:
    metrics = episode_metrics([EPISODES[1]], RewardSettings(), max_attempts=2)
    assert (metrics["multiattempt/accuracy"], metrics["multiattempt/accuracy@2"]) == (1, 0)


def test_repeat_is_the_same_text_as_any_earlier_answer() -> None:
    made = Episode(
        max_attempts=5,
        attempts=[attempt(W, "1", 1), attempt(W, "2", 1), attempt(N, None, 1), attempt(N, None, 1), attempt(W, "1", 1)],
    )
    assert [repeats(made, i) for i in range(5)] == [False, False, False, False, True]


def test_spelling_another_way_is_no_repeat() -> None:
    made = Episode(max_attempts=2, attempts=[attempt(W, "1/2", 1), attempt(W, "0.5", 1)])
    assert not repeats(made, 1)
