"""The episode log of the real pipeline: what it holds, and what is left of it when a worker is killed with -9."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.e2e.pipeline import Assets, Run
from verl_multiattempt.episode import Episode
from verl_multiattempt.record import RecordedEpisode, log_files, read_episodes

pytestmark = pytest.mark.timeout(1500)

ROWS = 16
"""Episodes of a step."""


@pytest.fixture(scope="module")
def killed(assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose agent-loop worker was killed in its third step, in the middle of its episodes."""
    folder = tmp_path_factory.mktemp("killed")
    overrides = [
        "multiattempt.record.enabled=true", "multiattempt.record.max_episodes_per_step=null",
        "trainer.total_training_steps=50", "trainer.val_before_train=true", "data.val_max_samples=5",
    ]  # fmt: skip
    run = Run(folder, assets, overrides, probe=True)

    def kill_worker_in_step_3(run: Run) -> bool:
        log = run.folder / "checkpoints" / "episodes"
        lines = sum(path.read_bytes().count(b"\n") for path in log.glob("*")) if log.exists() else 0
        if lines <= 5 + 2 * ROWS:
            return False
        [file] = log_files(log)
        os.kill(int(file.stem.split("-")[-2]), signal.SIGKILL)
        return True

    run.kill_when(kill_worker_in_step_3)
    return run


@pytest.fixture(scope="module")
def logged(killed: Run) -> list[RecordedEpisode]:
    return list(read_episodes(killed.folder / "checkpoints"))


def test_every_episode_of_the_steps_before_is_there_once(killed: Run, logged: list[RecordedEpisode]) -> None:
    def names(step: int, validate: bool) -> list[tuple[object, int]]:
        return sorted((e.index, e.rollout) for e in logged if (e.step, e.validate) == (step, validate))

    rollouts = killed.rollouts()
    for step, validate, count in ((0, True, 5), (1, False, ROWS), (2, False, ROWS)):
        expected = sorted(
            (r["index"], r["session_id"]) for r in rollouts if (r["step"], r["validate"]) == (step, validate)
        )
        assert names(step, validate) == expected
        assert len(expected) == count
    assert len(names(3, False)) >= 1
    assert len(logged) == len(names(0, True)) + sum(len(names(step, False)) for step in (1, 2, 3))
    assert {episode.dropped for episode in logged} == {0}


def test_what_is_logged_is_what_was_generated(killed: Run, assets: Assets, logged: list[RecordedEpisode]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(assets.model)
    rollouts = {(r["step"], r["validate"], r["index"]): r for r in killed.rollouts()}
    for recorded in logged:
        rollout = rollouts.get((recorded.step, recorded.validate, recorded.index))
        if rollout is None:
            assert recorded.step == 3  # killed between the log and the witness
            continue
        assert recorded.episode == Episode.from_record(rollout["record"])
        sequence = tokenizer.decode([*rollout["prompt_ids"], *rollout["response_ids"]])
        assert "".join(segment.text for segment in recorded.segments) == sequence
        for attempt, sampled in zip(recorded.episode.attempts, rollout["attempts"], strict=True):
            values = sampled["logprobs"][: attempt.num_tokens]
            assert attempt.logprob_mean == pytest.approx(sum(values) / len(values))
        assert recorded.seconds >= sum(attempt.generate_s for attempt in recorded.episode.attempts) > 0


def test_log_lies_beside_the_checkpoints(killed: Run) -> None:
    [file] = log_files(killed.folder / "checkpoints")
    assert file.parent == killed.folder / "checkpoints" / "episodes"
    assert str(Path(file).parent) in killed.log
