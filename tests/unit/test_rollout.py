from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from verl_multiattempt.episode import Episode, Stop
from verl_multiattempt.feedback import Message
from verl_multiattempt.rollout import Generation, run_episode
from verl_multiattempt.settings import FeedbackSettings
from verl_multiattempt.verifier import Outcome, Verdict

OPENING: list[Message] = [{"role": "system", "content": "opening"}, {"role": "user", "content": "question"}]
FEEDBACK = FeedbackSettings(text="{attempts_left} left")


@dataclass
class Model:
    """Answers from a script of texts, stops or exceptions; keeps the messages of every call."""

    script: list[str | Generation | BaseException | None]
    seen: list[list[Message]] = field(default_factory=list)

    async def generate(self, messages: list[Message]) -> Generation | None:
        self.seen.append([dict(message) for message in messages])
        await asyncio.sleep(0)
        item = self.script.pop(0)
        if isinstance(item, BaseException):
            raise item
        return Generation(text=item, stop=Stop.END_OF_TURN, num_tokens=len(item)) if isinstance(item, str) else item


async def verify(text: str) -> Verdict:
    await asyncio.sleep(0)
    if text == "raise":
        raise RuntimeError("no such gold")
    if text == "none":
        return Verdict(outcome=Outcome.NO_ANSWER, feedback="No box.")
    return Verdict(outcome=Outcome.CORRECT if text == "right" else Outcome.INCORRECT, answer=text)


async def run(
    script: list[str | Generation | BaseException | None], max_attempts: int = 3,
    feedback: FeedbackSettings | None = FEEDBACK, role: str = "user",
) -> tuple[Episode, list[Message], Model]:  # fmt: skip
    episode, model = Episode(max_attempts=max_attempts, question_id="q"), Model(script)
    messages = await run_episode(episode, OPENING, model.generate, verify, feedback=feedback, feedback_role=role)
    assert model.script == []
    return episode, messages, model


def said(messages: list[Message]) -> list[tuple[str, str]]:
    assert messages[: len(OPENING)] == OPENING
    return [(message["role"], message["content"]) for message in messages[len(OPENING) :]]


async def test_correct_at_once_ends_without_feedback() -> None:
    episode, messages, _ = await run(["right"])
    assert said(messages) == [("assistant", "right")]
    assert episode.solved
    assert episode.attempts_left == 2
    assert episode.attempts[0].feedback is None
    assert episode.attempts[0].num_tokens == 5


async def test_correct_late_has_feedback_before_and_none_after() -> None:
    episode, messages, model = await run(["wrong", "none", "right"])
    assert said(messages) == [
        ("assistant", "wrong"), ("user", "2 left"), ("assistant", "none"), ("user", "1 left"), ("assistant", "right"),
    ]  # fmt: skip
    assert [attempt.feedback for attempt in episode.attempts] == ["2 left", "1 left", None]
    assert model.seen == [OPENING, messages[:4], messages[:6]]


async def test_never_correct_ends_without_feedback_after_the_last_attempt() -> None:
    episode, messages, _ = await run(["a", "b"], max_attempts=2)
    assert said(messages) == [("assistant", "a"), ("user", "1 left"), ("assistant", "b")]
    assert not episode.solved
    assert episode.terminated
    assert not episode.truncated


async def test_single_attempt_that_is_wrong_has_no_feedback() -> None:
    _, messages, _ = await run(["a"], max_attempts=1)
    assert said(messages) == [("assistant", "a")]


async def test_no_answer_costs_an_attempt_and_gets_feedback() -> None:
    episode, messages, _ = await run(["none", "none"], max_attempts=2)
    assert said(messages) == [("assistant", "none"), ("user", "1 left"), ("assistant", "none")]
    assert episode.attempts_left == 0
    assert not episode.answered


async def test_verifiers_text_comes_before_the_feedback_where_it_is_asked_for() -> None:
    settings = FeedbackSettings(text="{attempts_left} left", use_verifier_text=True)
    _, messages, _ = await run(["none", "right"], feedback=settings)
    assert said(messages)[1] == ("user", "No box.\n2 left")


async def test_feedback_has_the_role_it_is_given() -> None:
    _, messages, _ = await run(["a", "right"], role="system")
    assert said(messages)[1] == ("system", "2 left")


async def test_without_feedback_the_model_is_asked_again_with_nothing_in_between() -> None:
    episode, messages, model = await run(["a", "none", "right"], feedback=None)
    assert said(messages) == [("assistant", "a"), ("assistant", "none"), ("assistant", "right")]
    assert [attempt.feedback for attempt in episode.attempts] == [None, None, None]
    assert [len(seen) - len(OPENING) for seen in model.seen] == [0, 1, 2]
    assert model.seen[1][-1] == {"role": "assistant", "content": "a"}
    assert episode.solved


async def test_without_feedback_a_retry_that_does_not_fit_takes_no_attempt_away() -> None:
    episode, messages, _ = await run(["a", "b", None], feedback=None)
    assert said(messages) == [("assistant", "a"), ("assistant", "b")]
    assert [attempt.text for attempt in episode.attempts] == ["a", "b"]
    assert episode.truncated


async def test_empty_attempt_is_judged_like_any_other() -> None:
    episode, messages, _ = await run([Generation(text="", stop=Stop.EMPTY, num_tokens=0), "right"])
    assert said(messages)[:2] == [("assistant", ""), ("user", "2 left")]
    assert episode.attempts[0].stop is Stop.EMPTY
    assert episode.solved


@pytest.mark.parametrize("stop", [Stop.ATTEMPT_LIMIT, Stop.ANSWER, Stop.CONTROL_TOKEN])
async def test_attempt_that_ends_early_is_judged_and_the_episode_goes_on(stop: Stop) -> None:
    episode, _, _ = await run([Generation(text="cut", stop=stop, num_tokens=9), "right"])
    assert [attempt.stop for attempt in episode.attempts] == [stop, Stop.END_OF_TURN]


async def test_conversation_limit_ends_the_episode_without_feedback() -> None:
    episode, messages, _ = await run(["a", Generation(text="cut", stop=Stop.CONVERSATION_LIMIT, num_tokens=9)])
    assert said(messages) == [("assistant", "a"), ("user", "2 left"), ("assistant", "cut")]
    assert episode.truncated
    assert episode.attempts[-1].feedback is None


async def test_correct_at_the_conversation_limit_is_solved() -> None:
    episode, _, _ = await run([Generation(text="right", stop=Stop.CONVERSATION_LIMIT, num_tokens=9)])
    assert episode.solved
    assert not episode.truncated


async def test_feedback_that_does_not_fit_is_in_neither_conversation_nor_record() -> None:
    episode, messages, model = await run(["a", "b", None])
    assert said(messages) == [("assistant", "a"), ("user", "2 left"), ("assistant", "b")]
    assert [attempt.feedback for attempt in episode.attempts] == ["2 left", None]
    assert episode.truncated
    assert not episode.terminated
    assert said(model.seen[-1])[-1] == ("user", "1 left")  # it had been asked


async def test_no_room_for_a_first_attempt_is_an_error() -> None:
    with pytest.raises(ValueError, match="opening") as caught:
        await run([None])
    assert str(caught.value) == "the opening must leave room for an attempt; got a conversation that is full"


async def test_verifier_that_raises_gives_an_error_verdict_and_the_episode_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    episode, messages, _ = await run(["raise", "right"])
    assert episode.attempts[0].verdict == Verdict(outcome=Outcome.ERROR, detail="RuntimeError: no such gold")
    assert said(messages)[1] == ("user", "2 left")
    assert episode.solved
    assert "question q" in caplog.text


async def test_generator_that_raises_ends_the_episode_with_its_exception() -> None:
    episode, model = Episode(max_attempts=3), Model(["a", OSError("server gone")])
    with pytest.raises(OSError, match="server gone"):
        await run_episode(episode, OPENING, model.generate, verify, feedback=FEEDBACK)
    assert episode.attempts_used == 1


async def test_opening_messages_of_the_caller_are_not_changed() -> None:
    before = [dict(message) for message in OPENING]
    await run(["a", "right"])
    assert before == OPENING


def hanging_generate(reached: asyncio.Event) -> tuple[Callable, Callable]:
    async def generate(messages: list[Message]) -> Generation:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    return generate, verify


def hanging_verify(reached: asyncio.Event) -> tuple[Callable, Callable]:
    async def hang(text: str) -> Verdict:
        reached.set()
        await asyncio.Event().wait()
        raise AssertionError

    return Model(["a"]).generate, hang


@pytest.mark.parametrize("hanging", [hanging_generate, hanging_verify])
async def test_cancellation_goes_through_and_adds_no_attempt(hanging: Callable) -> None:
    reached, episode = asyncio.Event(), Episode(max_attempts=3)
    generate, decide = hanging(reached)
    task = asyncio.create_task(run_episode(episode, OPENING, generate, decide, feedback=FEEDBACK))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert episode.attempts == []


async def test_episodes_at_once_do_not_mix() -> None:
    scripts: list[list] = [["a"] * i + ["right"] for i in range(5)] * 20
    done = await asyncio.gather(*(run(list(script), max_attempts=5) for script in scripts))
    assert [episode.attempts_used for episode, _, _ in done] == [1, 2, 3, 4, 5] * 20
