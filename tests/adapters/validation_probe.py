"""Runs verl's trainer through a validation, from its real ``fit()``, and prints what it was and where it was logged.

Everything is verl's own but the generation: instead of agent-loop workers, `Manager` puts rollouts of known episodes
into the TransferQueue, as the workers do. The same episodes then come as a training batch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import ray
import torch
import transfer_queue as tq
import verl  # noqa: F401  (loads the plugin, as verl's driver does)
from omegaconf import OmegaConf
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from tests.adapters.conftest import good_row
from tests.adapters.harness import compose_config
from tests.tokenizers import make_tokenizer
from verl_multiattempt.adapters.reward_manager import reward_extra_info
from verl_multiattempt.episode import Attempt, Episode, Stop
from verl_multiattempt.reward import episode_reward
from verl_multiattempt.settings import RewardSettings
from verl_multiattempt.verifier import Outcome, Verdict

C, W, N, T = Outcome.CORRECT, Outcome.INCORRECT, Outcome.NO_ANSWER, Outcome.TIMEOUT
ROLLOUTS_PER_PROMPT = 2
MAX_ATTEMPTS = 4
OUTCOMES: list[list[tuple[Outcome, ...]]] = [
    [(C,), (W, W, C)],
    [(W, W, W, W), (N, W, C)],
    [(N, N), (T, W, N, W)],
    [(W, C)],  # the other rollout failed
    [(C,), (C,)],
]
"""Of each question's rollouts, of each attempt."""


def make_episode(outcomes: tuple[Outcome, ...], question: int) -> Episode:
    """An episode that gives the same wrong answer twice at most."""
    attempts = [
        Attempt(
            text=f"attempt {i}",
            verdict=Verdict(outcome=outcome, answer=None if outcome is N else f"{i // 2}", seconds=0.5 * i),
            stop=Stop.ATTEMPT_LIMIT if outcome is N else Stop.END_OF_TURN,
            num_tokens=10 + i,
        )
        for i, outcome in enumerate(outcomes)
    ]
    short = len(attempts) < MAX_ATTEMPTS and outcomes[-1] is not C
    return Episode(max_attempts=MAX_ATTEMPTS, question_id=f"test/{question}", attempts=attempts, truncated=short,
                   num_context_tokens=7 * (len(attempts) - 1))  # fmt: skip


EPISODES = {i: [make_episode(outcomes, i) for outcomes in rollouts] for i, rollouts in enumerate(OUTCOMES)}


def data_source(question: int) -> str:
    """The last two questions come from a data set of their own."""
    return "other/set" if question >= 3 else "test"


class Manager:
    """Stands for verl's agent-loop manager."""

    partition = "val"
    sources = staticmethod(data_source)
    fails = False
    """Whether no rollout can be finished."""

    def generate_sequences(self, batch: Any) -> None:
        for uid, info in zip(batch["uid"], batch["extra_info"], strict=True):
            self.put(uid, info["index"], step=int(batch["global_steps"]))

    def put(self, uid: str, question: int, step: int) -> None:
        """One prompt with its rollouts."""
        episodes = [] if self.fails else EPISODES[question]
        status = "finished" if len(episodes) == ROLLOUTS_PER_PROMPT else "failure"
        tags = [{"status": "success", "global_steps": step}] * len(episodes)
        rows = [
            {
                "prompts": torch.ones(2, dtype=torch.int64),
                "responses": torch.ones(3 + i, dtype=torch.int64),
                "rm_scores": torch.tensor([0.0] * (2 + i) + [episode_reward(episode, RewardSettings())]),
                "num_turns": torch.tensor(2),
                "uid": uid,
                "data_source": self.sources(question),
                "reward_model": {"ground_truth": "0"},
                "extra_fields": {
                    "multiattempt": episode.to_record(), "reward_extra_info": reward_extra_info(episode, MAX_ATTEMPTS)
                },
            }
            for i, episode in enumerate(episodes)
        ]  # fmt: skip
        if rows:
            tq.kv_batch_put(keys=[f"{uid}_{i}_0" for i in range(len(rows))], partition_id=self.partition,
                            fields=list_of_dict_to_tensordict(rows), tags=tags)  # fmt: skip
        prompt_tag = {"is_prompt": True, "status": status, "global_steps": step}
        tq.kv_batch_put(keys=[uid], partition_id=self.partition, tags=[prompt_tag])


def make_trainer(folder: Path) -> Any:
    """verl's trainer as its task runner makes it, without workers."""
    rows = [good_row(data_source=data_source(i), extra_info={"index": i}) for i in range(len(OUTCOMES))]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    config = compose_config(
        "data.val_batch_size=2", f"data.val_files={folder}/rows.parquet", f"data.train_files={folder}/rows.parquet",
        "data.train_batch_size=1", f"actor_rollout_ref.rollout.val_kwargs.n={ROLLOUTS_PER_PROMPT}",
        f"actor_rollout_ref.rollout.n={ROLLOUTS_PER_PROMPT}", f"multiattempt.max_attempts={MAX_ATTEMPTS}",
        "trainer.val_only=true", "trainer.logger=[console,file,tensorboard]", "trainer.project_name=tests",
        "trainer.experiment_name=run",
    )  # fmt: skip
    OmegaConf.resolve(config)
    tq.init(config.transfer_queue)
    trainer = get_trainer_cls("sync")(config)
    trainer.tokenizer, trainer.processor = make_tokenizer(), None
    trainer._init_dataloader()
    trainer.reward_loop_manager = SimpleNamespace(reward_loop_worker_handles=[None])
    trainer._init_dump_executor()
    trainer.global_steps = 20
    return trainer


def main() -> None:
    ray.init(num_cpus=16, include_dashboard=False, log_to_driver=False)
    trainer = make_trainer(Path(sys.argv[1]))
    manager = Manager()
    trainer.fit(manager)
    # A later validation of one data source, and one of which nothing could be finished.
    trainer.global_steps, manager.sources = 30, lambda question: "openai/gsm8k"
    trainer._validate()
    trainer.global_steps, manager.fails = 40, True
    try:
        trainer._validate()
    except Exception as error:
        print(f"VERL {type(error).__name__}: {error}")
    trainer.logger.finish()
    manager.fails = False
    manager.partition = "train"
    for question in EPISODES:
        manager.put(f"uid{question}", question, step=21)
    _, metrics = trainer.replay_buffer.sample(global_steps=21, partition_id="train", batch_size=len(EPISODES))
    print("ANSWER " + json.dumps(metrics))
    ray.shutdown()


if __name__ == "__main__":
    main()
