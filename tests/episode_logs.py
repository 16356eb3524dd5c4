"""Episode logs for the viewer's tests and benchmark: invented episodes, written as `verl_multiattempt.record` says."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

from verl_multiattempt.episode import Attempt, Episode, Stop
from verl_multiattempt.record import RecordedEpisode, Segment, to_line
from verl_multiattempt.verifier import Outcome, Verdict

OPENING = "You have {n} attempts to answer the question. Put the final answer of each attempt in \\boxed{{}}."
WORDS = ("so", "we", "add", "the", "two", "sides", "and", "see", "that", "this", "leaves", "a", "factor", "which")


def make_attempt(text: str, outcome: Outcome, answer: str | None = None, feedback: str | None = None) -> Attempt:
    verdict = Verdict(outcome=outcome, answer=answer, normal_answer=answer, seconds=0.002)
    return Attempt(
        text=text, verdict=verdict, stop=Stop.END_OF_TURN, num_tokens=max(1, len(text.split())), feedback=feedback,
        logprob_mean=-0.412, generate_s=0.3,
    )  # fmt: skip


def make_recorded(
    attempts: list[Attempt], *, question: str, gold: str, index: int = 0, step: int = 1,
    max_attempts: int | None = None, reward: float = 1.0, validate: bool = False, rollout: int = 0,
) -> RecordedEpisode:  # fmt: skip
    """An episode with the segments that a ChatML template would give."""
    allowance = max_attempts or len(attempts)
    messages = [
        {"role": "system", "content": OPENING.format(n=allowance)},
        {"role": "user", "content": question},
    ]
    prompt = (
        "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages) + "<|im_start|>assistant\n"
    )
    segments = [Segment(kind="prompt", text=prompt, num_tokens=len(prompt.split()))]
    for attempt in attempts:
        segments.append(Segment(kind="model", text=attempt.text + "<|im_end|>", num_tokens=attempt.num_tokens))
        if attempt.feedback is not None:
            scaffold = f"\n<|im_start|>system\n{attempt.feedback}<|im_end|>\n<|im_start|>assistant\n"
            segments.append(Segment(kind="feedback", text=scaffold, num_tokens=19))
    return RecordedEpisode(
        episode=Episode(
            max_attempts=allowance, question_id=f"arithmetic/{index}", attempts=attempts,
            num_context_tokens=19 * (len(attempts) - 1),
        ),
        step=step, reward=reward, rollout=rollout, validate=validate, data_source="arithmetic", index=index,
        ground_truth=gold, started_at=1790000000.0 + step, seconds=1.5, worker="host-1", messages=messages,
        segments=segments,
    )  # fmt: skip


def solution(generator: random.Random, answer: object, num_words: int) -> str:
    """The text of an attempt of about ``num_words`` words."""
    words = [
        generator.choice(WORDS) if generator.random() < 0.7 else str(generator.randrange(1000))
        for _ in range(num_words)
    ]
    return " ".join(words) + f". The answer is \\boxed{{{answer}}}."


def invent_episodes(
    num_episodes: int, *, num_steps: int = 40, num_words: int = 60, seed: int = 0
) -> list[RecordedEpisode]:
    """Episodes of a training in which retries come to repeat less and to be right more often; a tenth validation."""
    generator = random.Random(seed)
    made = []
    for number in range(num_episodes):
        step = 1 + number * num_steps // num_episodes
        progress = step / num_steps
        left, right = generator.randrange(10, 1000), generator.randrange(10, 1000)
        gold, allowance = left * right % 97, generator.randint(1, 5)
        given: list[int] = []
        attempts: list[Attempt] = []
        for k in range(1, allowance + 1):
            correct = generator.random() < 0.3 + (0.35 * progress if k > 1 else 0.05 * progress)
            repeat = given and generator.random() < 0.75 * (1 - progress)
            answer = gold if correct else given[-1] if repeat else (gold + generator.randrange(1, 97)) % 97
            outcome = Outcome.CORRECT if correct else Outcome.INCORRECT
            text: str = solution(generator, answer, num_words)
            if not correct and generator.random() < 0.05:
                outcome, text = Outcome.NO_ANSWER, text.split(". The answer")[0]
            left_over = allowance - k
            told = f"Your answer is incorrect. You have {left_over} attempt{'s' * (left_over != 1)} left."
            given.append(answer)
            attempts.append(make_attempt(
                text, outcome, None if outcome is Outcome.NO_ANSWER else str(answer),
                told if left_over and not correct else None,
            ))  # fmt: skip
            if correct:
                break
        solved = attempts[-1].verdict.outcome is Outcome.CORRECT
        made.append(make_recorded(
            attempts, question=f"Compute {left}*{right} mod 97 = ?", gold=str(gold), index=number, step=step,
            max_attempts=allowance, reward=1.0 if solved else -0.5, validate=number % 10 == 9,
        ))  # fmt: skip
    return made


def write_log(folder: Path, episodes: Iterable[RecordedEpisode]) -> Path:
    """Write a log of one file; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "episodes-host-1-000000.jsonl").open("wb") as file:
        for recorded in episodes:
            file.write(to_line(recorded) + b"\n")
    return folder
