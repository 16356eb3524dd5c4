from __future__ import annotations

import pytest

from verl_multiattempt.episode import Attempt, Episode, Stop
from verl_multiattempt.reward import attempt_rewards, episode_reward
from verl_multiattempt.settings import RewardSettings
from verl_multiattempt.verifier import Outcome, Verdict

C, W, N, T, E = Outcome.CORRECT, Outcome.INCORRECT, Outcome.NO_ANSWER, Outcome.TIMEOUT, Outcome.ERROR


def episode(*outcomes: Outcome, truncated: bool = False) -> Episode:
    attempts = [Attempt(text="", verdict=Verdict(outcome=outcome), stop=Stop.END_OF_TURN) for outcome in outcomes]
    return Episode(max_attempts=5, attempts=attempts, truncated=truncated)


@pytest.mark.parametrize(
    ("outcomes", "reward"),
    [
        ([C], 1.0),
        ([W, C], 1.0),
        ([N, N, N, N, C], 1.0),
        ([T, C], 1.0),
        ([W], -0.5),
        ([W, W, W, W, W], -0.5),
        ([N, W], -0.5),
        ([W, N], -0.5),
        ([N], -1.0),
        ([N, N, N], -1.0),
        # Undecided counts as incorrect, and as an answer.
        ([T], -0.5),
        ([N, E], -0.5),
        ([], -1.0),
    ],
)
def test_defaults_are_those_of_the_paper(outcomes: list[Outcome], reward: float) -> None:
    assert episode_reward(episode(*outcomes), RewardSettings()) == reward
    assert episode_reward(episode(*outcomes, truncated=True), RewardSettings()) == reward


@pytest.mark.parametrize(
    ("outcomes", "reward"),
    [([C], 8.0), ([W, C], 4.0), ([N, C], 4.0), ([W, N, W, C], 1.0), ([W, W, W, W], -3.0), ([N, N], -7.0)],
)
def test_discount_is_per_attempt_and_only_on_correct(outcomes: list[Outcome], reward: float) -> None:
    settings = RewardSettings(correct=8.0, answered=-3.0, unanswered=-7.0, attempt_discount=0.5)
    assert episode_reward(episode(*outcomes), settings) == reward


def test_all_of_the_reward_goes_to_the_last_attempt() -> None:
    settings = RewardSettings(attempt_discount=0.5)
    assert attempt_rewards(episode(W, N, C), settings) == [0.0, 0.0, 0.25]
    assert attempt_rewards(episode(N), settings) == [-1.0]
    assert attempt_rewards(episode(), settings) == []
