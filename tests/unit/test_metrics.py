from __future__ import annotations

import tracemalloc

import pytest

from verl_multiattempt.episode import Attempt, Episode, Stop
from verl_multiattempt.metrics import (
    LARGEST_K,
    MetricsAccumulator,
    comparable,
    episode_metrics,
    repeats,
    source_keys,
)
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


# The first two episodes are rollouts of one prompt, the others of another.
GROUPS = ["p", "p", "q", "q"]


def test_every_metric_has_its_hand_computed_value() -> None:
    metrics = episode_metrics(EPISODES, RewardSettings(attempt_discount=0.5), max_attempts=4, groups=GROUPS)
    expected = {
        "episodes": 4,
        "attempts": 1 + 3 + 2 + 2,
        "accuracy": 2 / 4,
        "accuracy@1": 1 / 4,
        # of the episodes that were allowed 2, 3 and 4 attempts
        "accuracy@2": 0 / 3,
        "accuracy@3": 1 / 2,
        "accuracy@4": 1 / 2,
        "accuracy@5": 1 / 1,  # a row of its own allowance, above max_attempts
        "answered": 3 / 4,
        "truncated": 1 / 4,
        "undecided": 1 / 4,
        "reward/mean": (1.0 + 0.25 - 1.0 - 0.5) / 4,
        "reward/allowance_1": 1.0,
        "reward/allowance_2": -0.5,
        "reward/allowance_4": -1.0,
        "reward/allowance_5": 0.25,
        "max_attempts/mean": (1 + 5 + 4 + 2) / 4,
        "max_attempts/max": 5,
        "attempts_used/mean": (1 + 3 + 2 + 2) / 4,
        "attempts_used/max": 3,
        "attempts_used/solved": (1 + 3) / 2,
        "attempts_used/unsolved": (2 + 2) / 2,
        "attempts_used/allowance_1": 1,
        "attempts_used/allowance_2": 2,
        "attempts_used/allowance_4": 2,
        "attempts_used/allowance_5": 3,
        # 8 attempts of 10; 20, 30, 40; 20, 60; 15 and 5 tokens
        "tokens_per_attempt/mean": 200 / 8,
        "tokens_per_attempt/max": 60,
        "tokens_per_attempt@1": (10 + 20 + 20 + 15) / 4,
        "tokens_per_attempt@2": (30 + 60 + 5) / 3,
        "tokens_per_attempt@3": 40,
        "context_tokens/share": 80 / (80 + 200),
        "attempts_cut": 1,
        "attempts_cut_share": 1 / 8,
        "control_token_stops": 1,
        "verification_s/mean": (0.5 + 1.5 + 6.0) / 8,
        "verification_s/max": 6,
        "verdicts/correct": 2,
        "verdicts/incorrect": 3,
        "verdicts/no_answer": 2,
        "verdicts/timeout": 1,
        "verdicts/error": 0,
        "verifier_faults/timeout": 1,
        "verifier_faults/died": 0,
        "verifier_faults/memory": 0,
        "verifier_faults/error": 0,
        # retries: 2 of the second episode, 1 of the third, 1 of the fourth
        "refinement": 1 / 4,
        "refinement@2": 0 / 3,
        "refinement@3": 1 / 1,
        "repeat": 1 / 4,
        "repeat@2": 1 / 3,
        "repeat@3": 0 / 1,
        "groups/mixed": 0 / 2,
        "groups/all_solved": 1 / 2,
        "groups/none_solved": 1 / 2,
        "groups/same_reward": 0 / 2,  # 1 and 0.25; -1 and -0.5
    }
    assert metrics == pytest.approx({f"multiattempt/{name}": value for name, value in expected.items()})


def test_ratios_are_of_sums_not_means_of_the_episodes_ratios() -> None:
    quick = Episode(max_attempts=5, attempts=[attempt(W, "1", 10), attempt(C, "2", 10)])
    slow = Episode(max_attempts=5, attempts=[attempt(W, "1", 30)] * 5)
    metrics = episode_metrics([quick, slow], RewardSettings(), max_attempts=5)
    # 5 retries, 1 of them correct; the mean over episodes would be (1 + 0) / 2
    assert metrics["multiattempt/refinement"] == 1 / 5
    assert metrics["multiattempt/repeat"] == 4 / 5
    assert metrics["multiattempt/tokens_per_attempt/mean"] == (2 * 10 + 5 * 30) / 7


# Groups.


def made(*outcomes: Outcome) -> Episode:
    return Episode(max_attempts=3, attempts=[attempt(outcome, None, 1) for outcome in outcomes])


def group_figures(*groups: list[Episode]) -> dict[str, float]:
    episodes = [episode for group in groups for episode in group]
    names = [i for i, group in enumerate(groups) for _ in group]
    metrics = episode_metrics(episodes, RewardSettings(), 3, names)
    start = "multiattempt/groups/"
    return {name.removeprefix(start): value for name, value in metrics.items() if name.startswith(start)}


def test_groups_are_told_by_the_outcomes_of_their_rollouts() -> None:
    mixed, solved = [made(C), made(W, W, W)], [made(C), made(W, C), made(W, W, C)]
    unsolved, unsolved_alike = [made(W), made(N)], [made(W), made(W, W)]
    assert group_figures(mixed, solved, unsolved, unsolved_alike, mixed) == {
        "mixed": 2 / 5, "all_solved": 1 / 5, "none_solved": 2 / 5, "same_reward": 2 / 5
    }  # fmt: skip


def test_group_of_one_rollout_is_not_counted() -> None:
    assert group_figures([made(C)], [made(C), made(W)])["mixed"] == 1
    assert group_figures([made(C)], [made(W)]) == {}


def test_order_of_the_episodes_does_not_part_a_group() -> None:
    metrics = episode_metrics([made(C), made(W), made(W), made(C)], RewardSettings(), 1, ["p", "q", "p", "q"])
    assert metrics["multiattempt/groups/mixed"] == 1


def test_groups_must_be_as_many_as_the_episodes() -> None:
    with pytest.raises(ValueError, match=r"groups must be as many as the episodes \(4\); got 3"):
        episode_metrics(EPISODES, RewardSettings(), 4, GROUPS[:3])


# Edges.


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


# Rows that allow more attempts than the settings do.


def test_figures_go_on_to_the_largest_allowance_of_the_episodes() -> None:
    # Six wrong answers, the right one at the seventh of ten attempts; and an episode of the settings' own three.
    long = Episode(max_attempts=10, attempts=[*(attempt(W, str(i), i + 1) for i in range(6)), attempt(C, "9", 50)])
    metrics = episode_metrics([long, EPISODES[1]], RewardSettings(), max_attempts=3)
    figures = {name.removeprefix("multiattempt/"): value for name, value in metrics.items()}
    assert {name: figures[name] for name in figures if name.startswith("accuracy@")} == {
        "accuracy@1": 0, "accuracy@2": 0, "accuracy@3": 1 / 2, "accuracy@4": 1 / 2, "accuracy@5": 1 / 2,
        "accuracy@6": 0, "accuracy@7": 1, "accuracy@8": 1, "accuracy@9": 1, "accuracy@10": 1,
    }  # fmt: skip
    assert (figures["refinement@6"], figures["refinement@7"], figures["repeat@7"]) == (0, 1, 0)
    assert "refinement@8" not in figures
    assert (figures["reward/allowance_10"], figures["attempts_used/allowance_10"]) == (1, 7)
    assert (figures["tokens_per_attempt@3"], figures["tokens_per_attempt@7"]) == ((3 + 40) / 2, 50)


def test_names_are_sorted_by_number() -> None:
    metrics = episode_metrics([Episode(max_attempts=10, attempts=[attempt(C, "1", 1)])], RewardSettings(), 3)
    ks = [name.split("@")[1] for name in metrics if "accuracy@" in name]
    assert ks == [str(k) for k in range(1, 11)]


def test_row_that_allows_a_million_attempts_does_not_make_a_million_figures() -> None:
    wrong = Episode(max_attempts=1_000_000, attempts=[attempt(W, str(i), 1) for i in range(40)])
    metrics = episode_metrics([wrong], RewardSettings(), max_attempts=5)
    for start in ("accuracy@", "refinement@", "repeat@", "tokens_per_attempt@"):
        ks = [int(name.split("@")[1]) for name in metrics if name.startswith(f"multiattempt/{start}")]
        assert max(ks) == LARGEST_K == 32
    assert not [name for name in metrics if "allowance_" in name]
    assert metrics["multiattempt/refinement"] == 0  # over all 39 retries
    assert metrics["multiattempt/max_attempts/max"] == 1_000_000


def test_settings_that_allow_many_attempts_have_all_their_figures() -> None:
    metrics = episode_metrics([Episode(max_attempts=40, attempts=[attempt(C, "1", 1)])], RewardSettings(), 40)
    assert metrics["multiattempt/accuracy@40"] == 1
    assert metrics["multiattempt/reward/allowance_40"] == 1


# One at a time.


def test_episodes_added_one_at_a_time_give_the_same_figures() -> None:
    accumulator = MetricsAccumulator(RewardSettings(), 4)
    for i, (episode, group) in enumerate(zip(EPISODES, GROUPS, strict=True)):
        accumulator.add(episode, group)
        so_far = episode_metrics(EPISODES[: i + 1], RewardSettings(), 4, GROUPS[: i + 1])
        assert accumulator.figures() == so_far
    assert accumulator.figures() == accumulator.figures()


def test_episodes_may_come_from_a_generator() -> None:
    assert episode_metrics(iter(EPISODES), RewardSettings(), 4) == episode_metrics(EPISODES, RewardSettings(), 4)


def test_episode_of_no_group_is_in_no_figure_of_groups() -> None:
    accumulator = MetricsAccumulator(RewardSettings(), 4)
    for group in ("p", None, None, "p"):
        accumulator.add(made(C), group)
    assert accumulator.figures()["multiattempt/groups/all_solved"] == 1
    assert accumulator.figures()["multiattempt/episodes"] == 4


def test_memory_does_not_grow_with_the_episodes() -> None:
    tracemalloc.start()
    try:
        accumulator, sizes = MetricsAccumulator(RewardSettings(), 5), []
        for _ in range(3):
            for _ in range(2000):
                accumulator.add(Episode(max_attempts=5, attempts=[attempt(W, "1", 10), attempt(C, "2", 20)]))
            sizes.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert accumulator.figures()["multiattempt/episodes"] == 6000
    assert sizes[2] - sizes[1] < 4000  # 2,000 episodes kept would be a megabyte


# Repeats.


def with_answers(*answers: tuple[str | None, str | None]) -> Episode:
    """An episode of wrong attempts with these answers and normal forms."""
    verdicts = [Verdict(outcome=W, answer=answer, normal_answer=normal) for answer, normal in answers]
    attempts = [Attempt(text="", verdict=verdict, stop=Stop.END_OF_TURN) for verdict in verdicts]
    return Episode(max_attempts=len(attempts), attempts=attempts)


def repeated(episode: Episode) -> list[bool]:
    return [repeats(episode, i) for i in range(episode.attempts_used)]


def test_repeat_is_the_answer_of_any_earlier_attempt() -> None:
    episode = with_answers(("1", None), ("2", None), (None, None), (None, None), ("1", None))
    assert repeated(episode) == [False, False, False, False, True]


def test_repeat_is_told_by_the_normal_form() -> None:
    assert repeated(with_answers(("1/2", "1/2"), ("0.5", "1/2"), ("0.50", "1/2"), ("2", "2"))) == [
        False, True, True, False
    ]  # fmt: skip


def test_without_a_normal_form_answers_are_compared_as_written() -> None:
    assert repeated(with_answers(("1/2", None), ("0.5", None), ("1/2", "1/2"))) == [False, False, True]
    assert repeated(with_answers(("a", None), ("b", None))) == [False, False]


def figures_of(*episodes: Episode) -> dict[str, float]:
    metrics = episode_metrics(episodes, RewardSettings(), 5)
    return {name.removeprefix("multiattempt/"): value for name, value in metrics.items() if "/repeat" in name}


def ended(*attempts: tuple[Outcome, str | None]) -> Episode:
    return Episode(max_attempts=5, attempts=[attempt(outcome, answer, 1) for outcome, answer in attempts])


def test_retries_whose_answers_are_unknown_are_left_out() -> None:
    # A reward function that tells a score and no answer: nothing can be compared, and 0 would be a lie.
    assert figures_of(ended((W, None), (W, None), (C, None))) == {}
    # Beside such an episode, the others' rate is their own.
    known = ended((W, "1"), (W, "1"), (W, "2"))
    assert figures_of(ended((W, None), (W, None)), known) == {"repeat": 1 / 2, "repeat@2": 1, "repeat@3": 0}


def test_retry_after_an_unknown_answer_is_left_out_whatever_else_it_repeats() -> None:
    # The third attempt may give the second one's answer; the fourth repeats the first for certain, and yet counting it
    # would count the repeats alone of such retries.
    episode = ended((W, "1"), (T, None), (W, "2"), (W, "1"))
    assert [comparable(episode, i) for i in range(4)] == [False, False, False, False]
    assert figures_of(episode) == {}
    before = ended((W, "1"), (W, "1"), (E, None), (W, "1"))
    assert [comparable(before, i) for i in range(4)] == [False, True, False, False]
    assert figures_of(before) == {"repeat": 1, "repeat@2": 1}


def test_attempt_without_an_answer_is_known_to_repeat_none() -> None:
    episode = ended((N, None), (N, None), (W, "1"), (N, None), (W, "1"))
    assert [comparable(episode, i) for i in range(5)] == [False, True, True, True, True]
    assert figures_of(episode) == {"repeat": 1 / 4, "repeat@2": 0, "repeat@3": 0, "repeat@4": 0, "repeat@5": 1}


def test_failed_verification_that_found_the_answer_is_compared() -> None:
    assert figures_of(ended((T, "x"), (W, "x"))) == {"repeat": 1, "repeat@2": 1}


def test_normal_form_alone_makes_an_answer_known() -> None:
    episode = with_answers((None, "1/2"), (None, "1/2"), (None, "2"))
    assert comparable(episode, 2)
    assert repeated(episode) == [False, True, False]


# Names of data sources.


@pytest.mark.parametrize(
    ("sources", "keys"),
    [
        (["aime-2024", "math_500", "v1.1"], ["aime-2024", "math_500", "v1.1"]),
        (["openai/gsm8k"], ["openai_gsm8k"]),
        (["a b\n@c:#{}"], ["a_b__c____"]),
        ([""], ["unknown"]),
        (["数学"], ["数学"]),
        # Two sources are never drawn as one.
        (["a/b", "a_b", "a b"], ["a_b_3", "a_b", "a_b_2"]),
        (["", "unknown"], ["unknown_2", "unknown"]),
        (["a_2", "a/2", "a"], ["a_2", "a_2_2", "a"]),
        (["x", "x"], ["x", "x"]),
    ],
)
def test_data_source_in_a_metrics_name(sources: list[str], keys: list[str]) -> None:
    assert [source_keys(sources)[source] for source in sources] == keys
    assert source_keys(reversed(sources)) == source_keys(sources)
