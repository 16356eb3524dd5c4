"""Of a question, an evaluation keeps a few bytes: not its text, nor its episodes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.episode_logs import make_attempt
from tests.evaluation_engine import question_row
from verl_multiattempt.episode import Episode
from verl_multiattempt.evaluation.plan import plan_runs
from verl_multiattempt.evaluation.questions import Questions
from verl_multiattempt.evaluation.results import make_results
from verl_multiattempt.evaluation.resume import RunLog
from verl_multiattempt.evaluation.settings import EvaluationSettings
from verl_multiattempt.record import RecordedEpisode
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
