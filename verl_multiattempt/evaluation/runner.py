"""Running the episodes of an evaluation: as many open at once as keep the engine full, each logged when it ends."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from verl_multiattempt.chat.attempt_generator import EpisodeError
from verl_multiattempt.cli_errors import CommandError, ended
from verl_multiattempt.episode import Episode
from verl_multiattempt.evaluation.engine import Engine, EngineError, Sampling
from verl_multiattempt.evaluation.plan import Run, episode_seed
from verl_multiattempt.evaluation.questions import QuestionRow, Questions
from verl_multiattempt.evaluation.resume import RunLog
from verl_multiattempt.evaluation.settings import EvaluationSettings
from verl_multiattempt.feedback import Message, open_messages
from verl_multiattempt.record import RecordedEpisode
from verl_multiattempt.record_writer import worker_name
from verl_multiattempt.reward import episode_reward
from verl_multiattempt.rollout import run_episode
from verl_multiattempt.verifier import Question, Verdict, Verifier, make_verifier

logger = logging.getLogger(__name__)

MAX_FAILURES_IN_A_ROW = 100
"""So many episodes that fail one after the other end the evaluation: it is not the episodes' fault."""
_REFRESH_S = (0.1, 30.0)
"""Seconds between two states of the progress bar: on a terminal, elsewhere."""


@dataclass(frozen=True, slots=True)
class _Job:
    log: RunLog
    row: QuestionRow
    rollout: int


async def run_in_turn(runners: Sequence[Runner], engine: Engine) -> None:
    """Start the engine and a verifier, run what is left of each evaluation, and give all processes back.

    Args:
        runners: evaluations with this engine, of the same questions, task and limit of a conversation.
        engine: not started yet.

    Raises:
        CommandError: the disk takes no more, or nearly every episode fails.
        EngineError: the engine cannot go on.
    """
    left = [runner for runner in runners if runner.num_left]
    if not left:
        return
    verifier: Verifier | None = None

    async def close() -> None:
        try:
            await engine.close()
        finally:
            if verifier is not None:
                await verifier.close()

    left[0].warn_of_own_allowances()
    try:
        await engine.start(left[0].openings(), max_tokens=left[0].settings.max_tokens)
        verifier = make_verifier(left[0].settings.task.verifier)
        for runner in left:
            await runner.run(verifier)
    finally:
        # Shielded from a second cancellation: processes must not stay behind.
        await asyncio.shield(close())


class Runner:
    """Runs the episodes of an evaluation that are not in its logs yet.

    Args:
        settings: of the evaluation.
        questions: what is asked.
        logs: one for each run.
        engine: the model.
    """

    def __init__(self, settings: EvaluationSettings, questions: Questions, logs: Sequence[RunLog], engine: Engine):
        self.settings = settings
        self.num_failed = 0
        """Episodes that failed in this call."""
        self.last_failure = ""
        self._failed_in_a_row = 0
        self._questions = questions
        self._logs = logs
        self._engine = engine
        self._sampling = Sampling(
            max_tokens=settings.max_tokens, temperature=settings.temperature, top_p=settings.top_p
        )
        self._verifier: Verifier | None = None
        self._progress: Any = None

    @property
    def num_episodes(self) -> int:
        """Episodes of all runs, ended or not."""
        return sum(log.num_episodes for log in self._logs)

    @property
    def num_left(self) -> int:
        """Episodes that are not in the logs."""
        return sum(log.num_episodes - log.num_ended for log in self._logs)

    async def run(self, verifier: Verifier) -> None:
        """Run what is left.

        Args:
            verifier: a running one; it stays so, and so does the engine, which has to be started.

        Raises:
            CommandError: the disk takes no more, or nearly every episode fails.
            EngineError: the engine cannot go on.
        """
        self._verifier = verifier
        try:
            await self._run_left()
        finally:
            for log in self._logs:
                log.close()

    def warn_of_own_allowances(self) -> None:
        """Log it where questions bring allowances of their own."""
        if own := self._questions.num_own_allowances:
            logger.warning(
                "%d of %d questions have extra_info.max_attempts, which training and its validation heed and an "
                "evaluation does not: all episodes of a run are allowed the same", own, len(self._questions),
            )  # fmt: skip

    async def _run_left(self) -> None:
        from tqdm import tqdm

        total, left = self.num_episodes, self.num_left
        num_workers = min(left, self.settings.concurrency or self._engine.max_open, self._engine.max_open)
        on_terminal = sys.stderr.isatty()
        with tqdm(total=total, initial=total - left, unit="episode", desc="evaluate", smoothing=0.05,
                  mininterval=_REFRESH_S[not on_terminal], dynamic_ncols=on_terminal) as self._progress:  # fmt: skip
            jobs = self._jobs()
            workers = [asyncio.create_task(self._work(jobs)) for _ in range(num_workers)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    def openings(self) -> Iterator[list[Message]]:
        """The opening messages of all questions and allowances."""
        for row in self._questions:
            for max_attempts in sorted({log.run.max_attempts for log in self._logs}):
                yield self._opening(row, max_attempts)

    def _opening(self, row: QuestionRow, max_attempts: int) -> list[Message]:
        return open_messages(
            row.prompt, self.settings.task.opening, max_attempts, placement=self._engine.opening_placement
        )

    def _jobs(self) -> Iterator[_Job]:
        """What is left, run by run; the next run begins while the last episodes of the one before are open."""
        for log in self._logs:
            if log.num_ended == log.num_episodes:
                continue
            for row in self._questions:
                for rollout in range(log.run.samples):
                    if not log.has_ended(row.number, rollout):
                        yield _Job(log, row, rollout)

    async def _work(self, jobs: Iterator[_Job]) -> None:
        for job in jobs:
            try:
                job.log.append(await self._episode(job.log.run, job.row, job.rollout), job.row.number)
            except (EngineError, CommandError):
                raise
            except Exception as error:  # one episode's failure is that episode's
                self._take_failure(job, error)
            else:
                self._failed_in_a_row = 0
            self._show(job.log)

    async def _episode(self, run: Run, row: QuestionRow, rollout: int) -> RecordedEpisode:
        started_at, started = time.time(), time.perf_counter()
        settings = self.settings.task
        episode = Episode(max_attempts=run.max_attempts, question_id=row.question_id)
        messages = self._opening(row, run.max_attempts)
        conversation = self._engine.open(
            seed=episode_seed(self.settings.seed, run.name, row.question_id, rollout),
            request_id=f"{run.name}/{row.question_id}/{rollout}",
            sampling=self._sampling,
        )
        question = Question(ground_truth=row.ground_truth, data_source=row.data_source, extra_info=row.extra_info)
        await run_episode(
            episode,
            messages,
            conversation.generate,
            lambda text: self._verify(text, question),
            feedback=settings.feedback if run.feedback else None,
            feedback_role=self._engine.feedback_role,
        )
        if episode.undecided and settings.reward.on_verifier_failure == "fail":
            details = [attempt.verdict.detail for attempt in episode.attempts]
            raise EpisodeError(f"a verification failed and multiattempt.reward.on_verifier_failure is fail: {details}")
        episode.num_context_tokens = conversation.num_context_tokens()
        return RecordedEpisode(
            episode=episode,
            step=0,
            rollout=rollout,
            validate=True,
            data_source=row.data_source,
            index=row.index,
            ground_truth=row.ground_truth,
            reward=episode_reward(episode, settings.reward),
            started_at=started_at,
            seconds=time.perf_counter() - started,
            worker=worker_name(),
            messages=[{"role": str(m.get("role")), "content": str(m.get("content"))} for m in messages],
            segments=conversation.segments(),
        )

    async def _verify(self, text: str, question: Question) -> Verdict:
        assert self._verifier is not None
        verdict = await self._verifier.verify(text, question)
        if verdict.feedback:
            # Lone surrogates, which a program's output may hold, no tokenizer takes.
            plain = self._engine.as_plain_text(verdict.feedback.encode("utf-8", "replace").decode())
            verdict = replace(verdict, feedback=plain)
        return verdict

    def _take_failure(self, job: _Job, error: Exception) -> None:
        self.num_failed += 1
        self._failed_in_a_row += 1
        reason = str(error) if isinstance(error, EpisodeError | ValueError) else f"{type(error).__name__}: {error}"
        self.last_failure = f"{job.row.question_id}, sample {job.rollout} of {job.log.run.name}: {reason}"
        job.log.append_failure(
            {"question_id": job.row.question_id, "rollout": job.rollout, "error": reason, "at": time.time()}
        )
        logger.debug("the episode failed", exc_info=error)
        if len(str(self.num_failed)) > len(str(self.num_failed - 1)) or self.num_failed == 1:  # at 1, 10, 100 ...
            self._progress.write(f"{self.num_failed} failed so far; the last: {self.last_failure}", file=sys.stderr)
        if self._failed_in_a_row >= MAX_FAILURES_IN_A_ROW:
            raise CommandError(
                f"{self._failed_in_a_row} episodes failed one after the other; the last: "
                f"{ended(self.last_failure)} The same command tries them again."
            )

    def _show(self, log: RunLog) -> None:
        # Not the accuracy yet: episodes that are solved early end before the others.
        share = f"{log.num_solved / log.num_ended:.1%}" if log.num_ended else "-"
        self._progress.set_postfix_str(f"{log.run.name}: of those ended, {share} solved", refresh=False)
        self._progress.update()
