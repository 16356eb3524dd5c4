"""Starting verl's real training command on the tiny example, and reading back what it logged."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
PROBE_CONFIG = Path(__file__).with_name("probe_agent_loop.yaml")
PROBE_SAMPLER = "pkg://tests.e2e.probe"
PPO_STEPS = 4
PPO_OVERRIDES = [f"trainer.total_training_steps={PPO_STEPS}", "trainer.save_freq=2", "trainer.max_actor_ckpt_to_keep=4"]


@dataclass
class Assets:
    """The tiny model and its data."""

    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "model"

    def overrides(self) -> list[str]:
        return [
            f"data.train_files={self.folder / 'train.parquet'}",
            f"data.val_files={self.folder / 'val.parquet'}",
            f"actor_rollout_ref.model.path={self.model}",
            f"critic.model.path={self.model}",
        ]


@dataclass
class Run:
    """One training command in a folder of its own."""

    folder: Path
    assets: Assets
    overrides: Sequence[str] = ()
    probe: bool = False
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text()

    def command(self) -> list[str]:
        probe = [
            f"actor_rollout_ref.rollout.agent.agent_loop_config_path={PROBE_CONFIG}",
            f"trainer.v1.sampler.custom_sampler.path={PROBE_SAMPLER}",
        ]
        return [
            sys.executable, "-m", "verl.trainer.main_ppo", "+recipe=multiattempt", "+platform=cpu",
            *self.assets.overrides(),
            "data.max_prompt_length=96", "data.max_response_length=160", "data.train_batch_size=16",
            "actor_rollout_ref.actor.ppo_mini_batch_size=16", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=16",
            "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=16",
            "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=16",
            "critic.ppo_mini_batch_size=16", "critic.ppo_micro_batch_size_per_gpu=16",
            "actor_rollout_ref.actor.optim.lr=4e-4", "critic.optim.lr=1e-3",
            "trainer.logger=[console,file,tensorboard]", "trainer.project_name=tests", "trainer.experiment_name=run",
            f"trainer.default_local_dir={self.folder / 'checkpoints'}", "trainer.val_before_train=false",
            "trainer.test_freq=-1", "trainer.save_freq=-1",
            *(probe if self.probe else []), *self.overrides,
        ]  # fmt: skip

    def start(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "VERL_FILE_LOGGER_PATH": str(self.folder / f"metrics-{time.time_ns()}.jsonl"),
            "TENSORBOARD_DIR": str(self.folder / "tensorboard"),
            "MULTIATTEMPT_PROBE_DIR": str(self.folder),
            **self.environment,
        }
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                self.command(), cwd=self.folder, env=environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT,
            )  # fmt: skip

    def _wait(self, timeout_s: float) -> int:
        """Run to the end and return the exit status; a run that hangs is killed, and the end of its log shown."""
        process = self.start()
        try:
            return process.wait(timeout_s)
        except BaseException:
            process.kill()
            process.wait()
            print(self.log[-8000:])
            raise

    def finish(self, timeout_s: float = 420) -> Run:
        """Run to a good end."""
        status = self._wait(timeout_s)
        assert status == 0, f"status {status}; the log ends:\n{self.log[-8000:]}"
        return self

    def fail(self, timeout_s: float = 420) -> str:
        """Run to a bad end; the log."""
        assert self._wait(timeout_s) != 0, f"ended well; the log ends:\n{self.log[-3000:]}"
        return self.log

    def kill_when(self, reached: Callable[[Run], bool], timeout_s: float = 420) -> None:
        """SIGKILL the driver as soon as ``reached``; its Ray ends with it."""
        process = self.start()
        deadline = time.monotonic() + timeout_s
        try:
            while not reached(self):
                assert process.poll() is None, f"ended by itself; the log ends:\n{self.log[-8000:]}"
                assert time.monotonic() < deadline, f"not reached in time; the log ends:\n{self.log[-8000:]}"
                time.sleep(0.1)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()

    def metrics(self) -> dict[int, dict[str, Any]]:
        """Logged metrics by step, of all starts of this run."""
        steps: dict[int, dict[str, Any]] = {}
        for path in sorted(self.folder.glob("metrics-*.jsonl")):
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                steps.setdefault(entry["step"], {}).update(entry["data"])
        return steps

    def tensorboard(self) -> dict[int, dict[str, float]]:
        """What the tensorboard files hold, by step and name."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(self.folder / "tensorboard"), size_guidance={"scalars": 0})
        events.Reload()
        steps: dict[int, dict[str, float]] = {}
        for name in events.Tags()["scalars"]:
            for event in events.Scalars(name):
                steps.setdefault(event.step, {})[name] = event.value
        return steps

    def rollouts(self) -> list[dict[str, Any]]:
        """What the probe wrote of every rollout."""
        path = self.folder / "rollouts.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
