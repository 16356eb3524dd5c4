"""``run_episode``: the one loop of the task, the same in training, validation and evaluation."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from verl_multiattempt.episode import Attempt, Episode, Stop
from verl_multiattempt.feedback import Message, feedback_text
from verl_multiattempt.settings import FeedbackSettings
from verl_multiattempt.verifier import Outcome, Verdict

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What a generator made of one attempt."""

    text: str
    """The attempt, without control tokens."""
    stop: Stop
    num_tokens: int
    logprob_mean: float | None = None
    """Mean log-probability of its tokens; None where there is none."""
    generate_s: float = 0.0
    """Seconds spent waiting for the model."""


Generate = Callable[[list[Message]], Awaitable[Generation | None]]
"""Generates the next attempt for the messages so far; None where the last message and a further attempt do not fit.
Where there is no feedback, the last message is the attempt before."""
Verify = Callable[[str], Awaitable[Verdict]]
"""Decides the text of an attempt."""


async def run_episode(
    episode: Episode,
    messages: list[Message],
    generate: Generate,
    verify: Verify,
    *,
    feedback: FeedbackSettings | None,
    feedback_role: str = "user",
) -> list[Message]:
    """Run an episode to its end.

    Args:
        episode: a fresh episode; its attempts are filled in.
        messages: the opening messages (see `verl_multiattempt.feedback.open_messages`).
        generate: the model.
        verify: the verifier, the row's gold bound in.
        feedback: the feedback's text; None: no message at all comes after an attempt that was not correct, and the
            messages that ``generate`` then gets end with that attempt.
        feedback_role: ``system`` or ``user`` (resolved).

    Returns:
        The whole conversation; feedback that was prepared and did not fit is not part of it.

    Raises:
        ValueError: not even the first attempt fits.
    """
    messages = list(messages)
    while not episode.ended:
        generation = await generate(messages)
        if generation is None:
            if not episode.attempts:
                raise ValueError("the opening must leave room for an attempt; got a conversation that is full")
            if feedback is not None:
                messages.pop()
                episode.attempts[-1].feedback = None
            episode.truncated = True
            break
        messages.append({"role": "assistant", "content": generation.text})
        verdict = await decide(verify, generation.text, episode.question_id)
        attempt = Attempt(
            text=generation.text,
            verdict=verdict,
            stop=generation.stop,
            num_tokens=generation.num_tokens,
            logprob_mean=generation.logprob_mean,
            generate_s=generation.generate_s,
        )
        episode.add(attempt)
        if feedback is not None and not episode.ended:
            attempt.feedback = feedback_text(feedback, episode.attempts_left, verdict.feedback)
            messages.append({"role": feedback_role, "content": attempt.feedback})
    return messages


async def decide(verify: Verify, text: str, question_id: str) -> Verdict:
    """The verdict on ``text``; a verifier that raises, which it should not, gives ERROR."""
    try:
        return await verify(text)
    except Exception as error:
        logger.exception("The verifier raised on question %s", question_id)
        return Verdict(outcome=Outcome.ERROR, detail=f"{type(error).__name__}: {error}")
