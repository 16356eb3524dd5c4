"""The paper-scale recipes, scaled down to two steps of a tiny model on the CPU stack, so that every key is used."""

from __future__ import annotations

import json
import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tests.e2e.pipeline import REPOSITORY, Assets, Run
from verl_multiattempt.plots.scalars import read_scalars

pytestmark = pytest.mark.timeout(1500)

MULTI = "qwen2.5_math_1.5b_multi"
SCRIPTS = [path.stem for path in sorted((REPOSITORY / "recipes").glob("qwen*.sh"))]
EPISODES = 8
# Keys of the scripts with smaller values, and what CPUs do not have: packing without flash attention.
SMALL = [
    "+platform=cpu", "data.max_prompt_length=128", "data.max_response_length=160", "data.val_max_samples=4",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=2048", "actor_rollout_ref.rollout.max_model_len=1024",
    "actor_rollout_ref.model.use_remove_padding=false", "critic.model.use_remove_padding=false",
    "actor_rollout_ref.actor.optim.lr=4e-4", "critic.optim.lr=1e-3",
    "trainer.total_training_steps=2", "trainer.val_before_train=false", "trainer.test_freq=2", "trainer.save_freq=2",
]  # fmt: skip
SMALL_PPO = [
    f"data.train_batch_size={EPISODES}", "actor_rollout_ref.actor.ppo_mini_batch_size=4",
    "critic.ppo_mini_batch_size=4", "critic.ppo_infer_max_token_len_per_gpu=2048",
]  # fmt: skip
# Of 8 rollouts each.
SMALL_GRPO = ["data.train_batch_size=1", "actor_rollout_ref.actor.ppo_mini_batch_size=1"]


@dataclass
class RecipeRun(Run):
    """A run whose command is one of the recipes."""

    script: str = ""

    def command(self) -> list[str]:
        return ["bash", str(REPOSITORY / "recipes" / f"{self.script}.sh"), *self.overrides]


@pytest.fixture(scope="module", params=SCRIPTS)
def run(request: pytest.FixtureRequest, assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> RecipeRun:
    name = request.param
    folder: Path = tmp_path_factory.mktemp(name)
    environment = {
        "MODEL": str(assets.model), "TRAIN": str(assets.folder / "train.parquet"), "GPUS": "1", "STAGES": "train",
        "VAL": str(assets.folder / "val.parquet"), "OUT": str(folder), "DRY_RUN": "0",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        # What the script itself gives to verl is used, which no process gets from its parent.
        "VERL_FILE_LOGGER_PATH": str(folder / "inherited.jsonl"), "TENSORBOARD_DIR": str(folder / "inherited"),
    }  # fmt: skip
    overrides = [*SMALL, *(SMALL_GRPO if name.endswith("grpo") else SMALL_PPO)]
    return RecipeRun(folder, assets, overrides, environment=environment, script=name).finish(600)


def test_scaled_down_recipe_trains_two_steps_as_its_name_says(run: RecipeRun) -> None:
    metrics, grpo = run.metrics(), run.script.endswith("grpo")
    for step in (1, 2):
        values = metrics[step]
        assert values["multiattempt/episodes"] == EPISODES
        assert values["multiattempt/max_attempts/max"] <= (1 if run.script.endswith("single") else 5)
        assert abs(values["rollout_corr/k3_kl"]) < 1e-3
        assert math.isfinite(values["actor/pg_loss"])
        assert ("critic/vf_loss" in values) == (not grpo)
        if grpo:  # all of a question's rollouts have its allowance
            assert values["multiattempt/max_attempts/mean"] == values["multiattempt/max_attempts/max"]
    if not run.script.endswith("single") and not grpo:
        assert metrics[1]["multiattempt/max_attempts/max"] > 1
    assert metrics[2]["actor/lr"] > 0
    if not grpo:  # whose rollouts may all have the same reward, so that there is nothing to learn
        assert metrics[2]["actor/kl_loss"] > 1e-6  # away from the initial model


def test_scaled_down_recipe_validates_with_one_attempt_and_leaves_what_evaluate_takes(run: RecipeRun) -> None:
    last = run.metrics()[2]
    assert "val-core/tiny_math/acc/mean@1" in last
    assert last["multiattempt/val/max_attempts/max"] == 1
    checkpoints = run.folder / "checkpoints"
    step = (checkpoints / "latest_checkpointed_iteration.txt").read_text().strip()
    model = AutoModelForCausalLM.from_pretrained(checkpoints / f"global_step_{step}" / "actor" / "huggingface")
    assert sum(p.numel() for p in model.parameters()) > 100_000
    actor = checkpoints / f"global_step_{step}" / "actor"
    saved, shard = actor / "huggingface" / "model.safetensors", actor / "model_world_size_1_rank_0.pt"
    # Both in fp32, as the estimate of disk takes it.
    assert saved.stat().st_size == pytest.approx(shard.stat().st_size, rel=0.05)
    assert list((run.folder / "episodes").glob("*.jsonl"))
    assert list((run.folder / "tensorboard").iterdir())
    assert not list(run.folder.glob("inherited*"))


@pytest.mark.parametrize("run", [MULTI], indirect=True)
def test_second_start_keeps_the_metrics_of_the_first_and_evaluates_the_last_checkpoint(run: RecipeRun) -> None:
    first = {path: path.read_bytes() for path in run.folder.glob("metrics-*.jsonl")}
    assert len(first) == 1
    environment = {
        "STAGES": "train evaluate", "EVAL_TOKENS": "100", "EVAL_CONTEXT": "512", "EVAL_LIMIT": "4",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }  # fmt: skip
    overrides = [*run.overrides, "trainer.total_training_steps=3"]
    again = RecipeRun(
        run.folder, run.assets, overrides, environment={**run.environment, **environment}, script=run.script
    )
    again.finish(900)
    assert {path: path.read_bytes() for path in first} == first
    (second,) = set(run.folder.glob("metrics-*.jsonl")) - set(first)
    assert {json.loads(line)["step"] for line in second.read_text().splitlines()} == {3}
    # Both starts, as `multiattempt plot --training multi=OUT/tensorboard` reads them.
    reward = "multiattempt/reward/mean"
    joined = read_scalars(run.folder / "tensorboard", [reward])[reward]
    assert joined == pytest.approx({step: run.metrics()[step][reward] for step in (1, 2, 3)})

    results = json.loads((run.folder / "evaluation" / "results.json").read_text())
    accuracy = results["curves"]["paper"]["mean"]["accuracy"]
    assert list(accuracy) == [str(k) for k in range(1, 8)]
    assert len(results["runs"]) == 7
    assert results["model"] == str(run.folder / "checkpoints" / "global_step_3" / "actor" / "huggingface")
    assert results["label"] == run.script
    for k in range(1, 8):
        episodes = [
            json.loads(line)
            for path in (run.folder / "evaluation" / f"paper-{k}").glob("episodes-*.jsonl")
            for line in path.read_text().splitlines()
        ]
        assert len(episodes) == 4
        assert {len(episode["attempts"]) <= k for episode in episodes} == {True}
        solved = sum(episode["attempts"][-1]["outcome"] == "CORRECT" for episode in episodes)
        assert accuracy[str(k)]["value"] == solved / 4
