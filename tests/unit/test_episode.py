from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_multiattempt.episode import RECORD_SCHEMA, Attempt, Episode, Stop
from verl_multiattempt.verifier import Outcome, Verdict


def attempt(outcome: Outcome = Outcome.INCORRECT, stop: Stop = Stop.END_OF_TURN) -> Attempt:
    return Attempt(text="t", verdict=Verdict(outcome=outcome), stop=stop)


def episode(*outcomes: Outcome, max_attempts: int = 5) -> Episode:
    made = Episode(max_attempts=max_attempts)
    for outcome in outcomes:
        made.add(attempt(outcome))
    return made


def test_fresh_episode_has_all_its_attempts_left() -> None:
    fresh = episode(max_attempts=3)
    assert (fresh.attempts_used, fresh.attempts_left) == (0, 3)
    assert not any([fresh.solved, fresh.answered, fresh.undecided, fresh.terminated, fresh.truncated, fresh.ended])
    assert not fresh.solved_within(5)


@pytest.mark.parametrize("max_attempts", [0, -1])
def test_allowance_below_1_is_refused(max_attempts: int) -> None:
    with pytest.raises(ValueError, match="max_attempts") as caught:
        Episode(max_attempts=max_attempts)
    assert str(caught.value) == f"max_attempts must be at least 1; got {max_attempts}"


def test_correct_attempt_terminates_with_attempts_left() -> None:
    solved = episode(Outcome.INCORRECT, Outcome.CORRECT)
    assert (solved.attempts_used, solved.attempts_left) == (2, 3)
    assert solved.solved
    assert solved.terminated
    assert solved.ended
    assert not solved.truncated


def test_last_attempt_terminates_whether_correct_or_not() -> None:
    for outcome in Outcome:
        last = episode(Outcome.INCORRECT, outcome, max_attempts=2)
        assert last.terminated
        assert last.ended
        assert last.solved == (outcome is Outcome.CORRECT)


def test_incorrect_attempt_does_not_end_the_episode() -> None:
    assert not episode(Outcome.INCORRECT, Outcome.NO_ANSWER, Outcome.TIMEOUT, Outcome.ERROR).ended


@pytest.mark.parametrize("stop", [stop for stop in Stop if stop is not Stop.CONVERSATION_LIMIT])
def test_every_other_stop_lets_the_episode_go_on(stop: Stop) -> None:
    going = episode()
    going.add(attempt(stop=stop))
    assert not going.ended


def test_attempt_cut_by_the_conversation_limit_truncates() -> None:
    cut = episode()
    cut.add(attempt(stop=Stop.CONVERSATION_LIMIT))
    assert cut.truncated
    assert cut.ended
    assert not cut.terminated


def test_correct_attempt_at_the_conversation_limit_is_solved_and_not_truncated() -> None:
    cut = episode()
    cut.add(attempt(Outcome.CORRECT, stop=Stop.CONVERSATION_LIMIT))
    assert cut.solved
    assert not cut.truncated


def test_last_attempt_cut_by_the_conversation_limit_is_both() -> None:
    cut = episode(max_attempts=1)
    cut.add(attempt(stop=Stop.CONVERSATION_LIMIT))
    assert cut.truncated
    assert cut.terminated


@pytest.mark.parametrize("how", ["solved", "exhausted", "truncated"])
def test_ended_episode_takes_no_further_attempt(how: str) -> None:
    ended = {
        "solved": episode(Outcome.CORRECT),
        "exhausted": episode(Outcome.INCORRECT, max_attempts=1),
        "truncated": Episode(max_attempts=3, truncated=True),
    }[how]
    used = ended.attempts_used
    with pytest.raises(RuntimeError, match=r"^an episode that has ended takes no further attempt$"):
        ended.add(attempt(Outcome.CORRECT))
    assert ended.attempts_used == used


def test_solved_within_counts_attempts_from_1() -> None:
    solved = episode(Outcome.INCORRECT, Outcome.NO_ANSWER, Outcome.CORRECT)
    assert [solved.solved_within(k) for k in range(5)] == [False, False, False, True, True]


@pytest.mark.parametrize(
    ("outcomes", "answered", "undecided"),
    [
        ([Outcome.NO_ANSWER], False, False),
        ([Outcome.NO_ANSWER, Outcome.INCORRECT], True, False),
        ([Outcome.INCORRECT, Outcome.NO_ANSWER], True, False),
        ([Outcome.CORRECT], True, False),
        ([Outcome.TIMEOUT], True, True),
        ([Outcome.ERROR, Outcome.NO_ANSWER], True, True),
        ([Outcome.TIMEOUT, Outcome.ERROR, Outcome.INCORRECT], True, True),
        ([Outcome.TIMEOUT, Outcome.CORRECT], True, False),
    ],
)
def test_answered_and_undecided(outcomes: list[Outcome], answered: bool, undecided: bool) -> None:
    made = episode(*outcomes)
    assert (made.answered, made.undecided) == (answered, undecided)


# Records.

texts = st.text(max_size=20)
verdicts = st.builds(
    Verdict,
    outcome=st.sampled_from(Outcome),
    answer=st.none() | texts,
    normal_answer=st.none() | texts,
    feedback=st.none() | texts,
    detail=st.none() | texts,
    seconds=st.floats(0, 1e6),
)
attempts = st.builds(
    Attempt,
    text=texts,
    verdict=verdicts,
    stop=st.sampled_from(Stop),
    num_tokens=st.integers(0, 10**6),
    feedback=st.none() | texts,
    logprob_mean=st.none() | st.floats(-100, 0),
    generate_s=st.floats(0, 1e6),
)
episodes = st.builds(
    Episode,
    max_attempts=st.integers(1, 9),
    question_id=texts,
    attempts=st.lists(attempts, max_size=5),
    truncated=st.booleans(),
    num_context_tokens=st.integers(0, 10**6),
)


@given(episodes)
def test_record_survives_json_and_gives_the_episode_back(made: Episode) -> None:
    record = made.to_record()
    assert Episode.from_record(json.loads(json.dumps(record))) == made
    assert Episode.from_record(record) == made


def test_record_is_written_as_pinned() -> None:
    made = Episode(max_attempts=2, question_id="gsm/7", num_context_tokens=3)
    verdict = Verdict(outcome=Outcome.TIMEOUT, answer="1", normal_answer="n", feedback="f", detail="d", fault="timeout",
                      seconds=0.5)  # fmt: skip
    made.add(Attempt(text="\\boxed{1}", verdict=verdict, stop=Stop.ANSWER, num_tokens=4, feedback="Again.",
                     logprob_mean=-0.25, generate_s=1.5))  # fmt: skip
    assert made.to_record() == {
        "schema": 2,
        "question_id": "gsm/7",
        "max_attempts": 2,
        "truncated": False,
        "num_context_tokens": 3,
        "attempts": [
            {
                "text": "\\boxed{1}",
                "stop": "answer",
                "num_tokens": 4,
                "logprob_mean": -0.25,
                "generate_s": 1.5,
                "feedback": "Again.",
                "outcome": "TIMEOUT",
                "answer": "1",
                "normal_answer": "n",
                "verifier_feedback": "f",
                "detail": "d",
                "fault": "timeout",
                "seconds": 0.5,
            }
        ],
    }
    # Plain values: a subclass of str would pickle the enum along.
    assert type(made.to_record()["attempts"][0]["stop"]) is str


@pytest.mark.parametrize("schema", [None, 1, RECORD_SCHEMA + 1, "2"])
def test_record_of_another_schema_is_refused(schema: object) -> None:
    with pytest.raises(ValueError, match="schema") as caught:
        Episode.from_record({**episode().to_record(), "schema": schema})
    assert str(caught.value) == (
        f"schema must be 2; got {schema!r}. Read the record with the version of verl_multiattempt that wrote it."
    )


def test_enums_print_as_their_value() -> None:
    assert f"{Stop.END_OF_TURN} {Outcome.NO_ANSWER}" == "end_of_turn NO_ANSWER"
