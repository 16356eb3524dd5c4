"""Validation as verl's trainer runs it: what is logged, and that training and evaluation say the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.adapters.validation_probe import EPISODES, MAX_ATTEMPTS, data_source
from verl_multiattempt.episode import Episode
from verl_multiattempt.metrics import episode_metrics
from verl_multiattempt.settings import RewardSettings, Settings

VALIDATION = "multiattempt/val/"


@dataclass(frozen=True)
class Logged:
    """What verl's logger wrote."""

    entries: list[dict[str, Any]]
    """Lines of the logger ``file``."""
    tensorboard: dict[str, list[tuple[int, float]]]
    """Step and value by name."""
    training: dict[str, float]
    """The metrics of a training batch of the same episodes."""
    output: str
    """Standard output and standard error."""

    def at(self, step: int) -> dict[str, float]:
        """What this package logged for a step."""
        entries = [entry for entry in self.entries if entry["step"] == step]
        (entry,) = [entry for entry in entries if any(name.startswith(VALIDATION) for name in entry["data"])]
        return entry["data"]

    @property
    def ours(self) -> dict[str, float]:
        return self.at(20)

    @property
    def verls(self) -> dict[str, float]:
        (entry,) = [entry for entry in self.entries if any(name.startswith("val-core/") for name in entry["data"])]
        return entry["data"]


@pytest.fixture(scope="module")
def logged(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Logged:
    folder = tmp_path_factory.mktemp("validation")
    environment = {**os.environ, "VERL_FILE_LOGGER_PATH": str(folder / "metrics.jsonl"),
                   "TENSORBOARD_DIR": str(folder / "tensorboard")}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tests.adapters.validation_probe", str(folder)],
        cwd=repository, env=environment, capture_output=True, text=True, timeout=280, check=True,
    )  # fmt: skip
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ANSWER ")]
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return Logged(
        entries=[json.loads(entry) for entry in (folder / "metrics.jsonl").read_text().splitlines()],
        tensorboard={
            name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]
        },
        training=json.loads(line.removeprefix("ANSWER ")),
        output=done.stdout + done.stderr,
    )


def all_episodes(source: str | None = None) -> tuple[list[Episode], list[int]]:
    """The episodes and their questions; of one data source or of all."""
    pairs = [(e, i) for i, group in EPISODES.items() for e in group if source in (None, data_source(i))]
    return [episode for episode, _ in pairs], [question for _, question in pairs]


def expected(source: str | None = None) -> dict[str, float]:
    episodes, groups = all_episodes(source)
    return episode_metrics(episodes, RewardSettings(), MAX_ATTEMPTS, groups)


def of(values: dict[str, float], prefix: str) -> dict[str, float]:
    """The values under a prefix, named as in training."""
    return {f"multiattempt/{n.removeprefix(prefix)}": v for n, v in values.items() if n.startswith(prefix)}


def test_validation_logs_the_figures_of_all_its_batches_episodes(logged: Logged) -> None:
    ours = of(logged.ours, VALIDATION)
    whole = {name: value for name, value in ours.items() if "/test/" not in name and "/other_set/" not in name}
    assert whole == pytest.approx({**expected(), "multiattempt/failed_episodes": 1})
    # Of 12 retries 3 are correct; a mean over episodes or batches would be another number.
    assert whole["multiattempt/refinement"] == 3 / 12


def test_training_says_the_same_of_the_same_episodes(logged: Logged) -> None:
    assert logged.training == pytest.approx({**expected(), "multiattempt/failed_episodes": 1})


def test_evaluation_says_the_same_of_the_same_episodes(logged: Logged, repository: Path) -> None:
    sys.path.insert(0, str(repository / "examples" / "tiny_math"))
    try:
        from evaluate import summarize
    finally:
        sys.path.pop(0)
    episodes, _ = all_episodes()
    figures = summarize(episodes, MAX_ATTEMPTS, Settings())["metrics"]
    evaluated = {f"multiattempt/{name}": value for name, value in figures.items()}
    assert len(evaluated) > 40
    # An evaluation has one rollout of each question, so no groups.
    assert {name: logged.training[name] for name in evaluated} == pytest.approx(evaluated)


def test_each_of_several_data_sources_has_its_own(logged: Logged) -> None:
    for source, key in (("test", "test"), ("other/set", "other_set")):
        assert of(logged.ours, f"{VALIDATION}{key}/") == pytest.approx(expected(source))


def test_a_single_data_source_has_its_own_under_the_same_name(logged: Logged) -> None:
    # So that the curve of a benchmark has one name, whatever is validated beside it.
    figures = logged.at(30)
    assert of(figures, f"{VALIDATION}openai_gsm8k/") == pytest.approx(expected())
    whole = {name: figures[name.replace("multiattempt/", VALIDATION)] for name in expected()}
    assert whole == pytest.approx(expected())


def test_validation_of_which_nothing_could_be_finished_says_so(logged: Logged) -> None:
    # verl fails on the first batch without a rollout, so the later ones never come.
    assert "VERL " in logged.output
    assert logged.at(40) == {"multiattempt/val/failed_episodes": 2 * 2}
    assert "multiattempt: all 4 rollouts of the validation at step 40 failed" in logged.output


def test_it_is_logged_for_the_step_that_verl_logs_its_validation_for(logged: Logged) -> None:
    assert [entry["step"] for entry in logged.entries] == [20, 20, 30, 40]
    assert {step for values in logged.tensorboard.values() for step, _ in values} == {20, 30, 40}


def test_tensorboard_files_hold_every_figure(logged: Logged) -> None:
    for step in (20, 30, 40):
        read = {
            name: value
            for name, values in logged.tensorboard.items()
            for number, value in values
            if number == step and name.startswith("multiattempt/")
        }
        assert read == pytest.approx(logged.at(step))


def test_accuracy_agrees_with_verls_own_means(logged: Logged) -> None:
    # verl takes a failed rollout for a wrong one in acc; acc_success_only leaves it out, as this package does. Its mean
    # is over questions, and the question with the failed rollout has one rollout.
    verls, ours = logged.verls, of(logged.ours, f"{VALIDATION}test/")
    assert verls["val-core/test/acc/mean@2"] == pytest.approx(ours["multiattempt/accuracy"])
    for k in range(1, MAX_ATTEMPTS + 1):
        assert verls[f"val-aux/test/acc_within_{k}/mean@2"] == pytest.approx(ours[f"multiattempt/accuracy@{k}"])
    assert verls["val-aux/test/attempts_used/mean@2"] == pytest.approx(ours["multiattempt/attempts_used/mean"])
