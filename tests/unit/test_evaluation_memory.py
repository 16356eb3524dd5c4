"""Of a question, an evaluation keeps a few bytes: not its text, nor its episodes, nor its tasks and conversations."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.episode_logs import make_attempt
from tests.evaluation_engine import Conversation, ScriptedEngine, question_row
from verl_multiattempt.episode import Episode
from verl_multiattempt.evaluation.command import evaluate
from verl_multiattempt.evaluation.engine import Sampling
from verl_multiattempt.evaluation.plan import plan_runs
from verl_multiattempt.evaluation.questions import Questions
from verl_multiattempt.evaluation.results import make_results
from verl_multiattempt.evaluation.resume import RunLog
from verl_multiattempt.evaluation.settings import EvaluationSettings
from verl_multiattempt.feedback import Message
from verl_multiattempt.record import RecordedEpisode
from verl_multiattempt.settings import Settings
from verl_multiattempt.verifier import Outcome

QUESTIONS, CHARACTERS = 5000, 3000
BYTES_A_QUESTION = 60


def write_long_questions(path: Path) -> None:
    """One row group, as pandas writes it."""
    rows = []
    for number in range(QUESTIONS):
        content = f"{number} " * (CHARACTERS // len(f"{number} "))
        rows.append(question_row(number, prompt=[{"role": "user", "content": content}]))
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=QUESTIONS, compression="none", use_dictionary=False)


def write_log(log: RunLog, questions: Questions) -> None:
    for row in questions:
        attempts = [make_attempt("so " * 500, Outcome.INCORRECT, "1"), make_attempt("so " * 500, Outcome.CORRECT, "2")]
        episode = Episode(max_attempts=2, question_id=row.question_id, attempts=attempts[row.number % 2 :])
        log.append(RecordedEpisode(episode=episode, step=0, reward=1.0, data_source=row.data_source,
                                   index=row.index), row.number)  # fmt: skip
    log.close()


def test_memory_does_not_grow_with_the_questions_texts_or_episodes(tmp_path: Path) -> None:
    path = tmp_path / "q.parquet"
    write_long_questions(path)
    assert path.stat().st_size > QUESTIONS * CHARACTERS * 0.9
    settings = EvaluationSettings(model="m", data=(str(path),), attempts=(1, 2))
    (run,) = plan_runs(settings)
    arrow_before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        questions = Questions([path])
        most_arrow = 0
        for _ in questions:
            most_arrow = max(most_arrow, pa.total_allocated_bytes() - arrow_before)
        _, peak = tracemalloc.get_traced_memory()
        assert peak < QUESTIONS * BYTES_A_QUESTION + 256 * CHARACTERS * 4
        assert most_arrow < 256 * CHARACTERS * 8 < path.stat().st_size / 2
        write_log(RunLog(tmp_path, run, questions), questions)
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        log = RunLog(tmp_path, run, questions)
        results = make_results(settings, questions, [log], {})
        _, peak = tracemalloc.get_traced_memory()
        assert peak - kept < QUESTIONS * BYTES_A_QUESTION + 1_000_000
        assert kept < QUESTIONS * BYTES_A_QUESTION + 2_000_000
    finally:
        tracemalloc.stop()
    assert results["curves"]["nested"]["sums"]["accuracy"]["1"]["value"] == 0.5
    assert sum(path.stat().st_size for path in (tmp_path / run.name).iterdir()) > 7_000_000


class ForgetfulEngine(ScriptedEngine):
    """Keeps no opening and no conversation, as the real engines do."""

    async def start(self, openings: Iterable[list[Message]] = (), *, max_tokens: int | None = None) -> None:
        self.starts += all(openings)

    def open(self, *, seed: int, request_id: str, sampling: Sampling) -> Conversation:
        return Conversation(engine=self, seed=seed, request_id=request_id, sampling=sampling)


def peak_of_a_whole_run(folder: Path, num_questions: int) -> int:
    folder.mkdir()
    path = folder / "q.parquet"
    rows = [
        question_row(n, prompt=[{"role": "user", "content": f"{'so ' * (CHARACTERS // 3)}{n} + {n * 7 % 100}?"}])
        for n in range(num_questions)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    del rows
    engine = ForgetfulEngine(max_open=16)
    settings = EvaluationSettings(model="m", data=(str(path),), attempts=(1, 2), task=Settings(max_attempts=2))
    tracemalloc.start()
    try:
        assert evaluate(settings, folder / "out", lambda _: engine) == 0
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert engine.calls >= num_questions
    assert engine.most_running <= 16
    return peak


def test_memory_of_a_whole_run_does_not_grow_with_the_questions(tmp_path: Path) -> None:
    peak_of_a_whole_run(tmp_path / "warm", 20)  # what is imported and cached once
    few, many = 300, 1500
    grown = peak_of_a_whole_run(tmp_path / "many", many) - peak_of_a_whole_run(tmp_path / "few", few)
    # Each text alone would be 3,000 bytes a question, each finished task or conversation more.
    assert grown < (many - few) * 200 + 200_000
