"""The paper-scale recipes, dry: each script composes, passes verl's and this package's checks, and starts nothing."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from transformers import Qwen2Config
from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

from tests.adapters.conftest import good_row, write_rows
from tests.conftest import REPOSITORY
from tests.tokenizers import make_tokenizer
from verl_multiattempt.adapters.compose import compose_training_config
from verl_multiattempt.adapters.estimate import Hardware, make_estimate, text_of
from verl_multiattempt.adapters.model_size import size_of
from verl_multiattempt.settings import FeedbackSettings, OpeningSettings

FOLDER = REPOSITORY / "recipes"
SCRIPTS = {path.stem: path for path in sorted(FOLDER.glob("qwen*.sh"))}
MULTI, SINGLE = "qwen2.5_math_1.5b_multi", "qwen2.5_math_1.5b_single"
ACTOR = "actor_rollout_ref.actor."
ENVIRONMENT = "ray_kwargs.ray_init.runtime_env.env_vars"
TIME = r"\d{8}T\d{6}Z"
QWEN = {
    "1.5b": {"vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
             "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True},
    "7b": {"vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
           "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False},
}  # fmt: skip
"""What their config.json says on the hub."""


@dataclass
class DryRun:
    """What a script printed, and what it would have run with."""

    output: str
    words: list[str]
    config: DictConfig
    out: Path


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with Qwen2.5-Math's context, 2,048 training rows and two validation files."""
    folder = tmp_path_factory.mktemp("assets")
    tokenizer = make_tokenizer()
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=4096, architectures=["Qwen2ForCausalLM"],
    )  # fmt: skip
    for part in (config, tokenizer):
        part.save_pretrained(folder / "model")
    write_rows(folder / "train.parquet", [good_row()] * 2048)
    for name in ("a", "b"):
        write_rows(folder / f"{name}.parquet", [good_row(data_source=name)])
    return folder


def run_script(name: str, assets: Path, out: Path, *arguments: str, **environment: str) -> Any:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    settings = {"MODEL": str(assets / "model"), "TRAIN": str(assets / "train.parquet"), "OUT": str(out), "PATH": path,
                "VAL": f"{assets / 'a.parquet'},{assets / 'b.parquet'}", "DRY_RUN": "1",
                "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}  # fmt: skip
    inherited = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return subprocess.run(
        ["bash", str(SCRIPTS[name]), *arguments], env={**inherited, **settings, **environment}, cwd=out.parent,
        capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def dry(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes a script's dry run, once."""
    made: dict[str, DryRun] = {}

    def make(name: str) -> DryRun:
        if name not in made:
            out = tmp_path_factory.mktemp("runs") / name
            done = run_script(name, assets, out)
            assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-2000:]}"
            (line,) = [line for line in done.stdout.splitlines() if line.startswith("python -m verl.trainer.main_ppo ")]
            words = shlex.split(line)[3:]
            config = compose_training_config(words)
            made[name] = DryRun(done.stdout, words, config, out)
        return made[name]

    return make


def leaves(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def flat(config: DictConfig, *, resolve: bool = True) -> dict[str, Any]:
    """Leaves of the config by their dotted names."""
    return dict(leaves(OmegaConf.to_container(config, resolve=resolve)))


@pytest.mark.parametrize("name", SCRIPTS)
def test_dry_run_checks_and_estimates_and_starts_nothing(dry: Any, name: str) -> None:
    run = dry(name)
    assert "No problem found." in run.output
    assert "Estimate for 8 GPUs of 80 GiB" in run.output
    assert "320 steps, 327,680 episodes, at most 1,318,584,320 tokens" in run.output  # 2,048 rows
    assert run.output.rstrip().endswith(f"{name}: dry run: nothing was started")
    assert not run.out.exists()


@pytest.mark.parametrize("name", SCRIPTS)
def test_published_settings_reach_verl_under_the_names_that_it_reads(dry: Any, name: str) -> None:
    config = flat(dry(name).config)
    grpo = name.endswith("grpo")
    n = 8 if grpo else 1
    expected = {
        "actor_rollout_ref.rollout.n": n, "data.train_batch_size": 1024 // n, ACTOR + "ppo_mini_batch_size": 128 // n,
        "trainer.total_epochs": 160 // n, "multiattempt.max_attempts": 1 if name == SINGLE else 5,
        "multiattempt.min_attempts": 1, "multiattempt.distribution": "uniform", "multiattempt.val_max_attempts": 1,
        "multiattempt.stop_at_answer": True, "multiattempt.stop_at_answer_every": 64,
        "multiattempt.scope": "group" if grpo else "auto", "multiattempt.reward.answered": -0.5,
        "data.max_prompt_length": 1024, "data.max_response_length": 3000, "actor_rollout_ref.rollout.temperature": 1.0,
        ACTOR + "optim.lr": 5e-7, ACTOR + "clip_ratio_low": 0.2, ACTOR + "clip_ratio_high": 0.2,
        ACTOR + "use_kl_loss": True, ACTOR + "kl_loss_coef": 0.01, ACTOR + "kl_loss_type": "low_var_kl",
        ACTOR + "loss_agg_mode": "token-mean", ACTOR + "optim.weight_decay": 0, ACTOR + "optim.betas": [0.9, 0.95],
        ACTOR + "ppo_epochs": 1, ACTOR + "fsdp_config.dtype": "bfloat16", "trainer.test_freq": 8,
        "actor_rollout_ref.rollout.val_kwargs.temperature": 0, "algorithm.adv_estimator": "grpo" if grpo else "gae",
    }  # fmt: skip
    if not grpo:
        expected |= {"algorithm.gamma": 1.0, "algorithm.lam": 0.99, "critic.optim.lr": 1e-5,
                     "critic.cliprange_value": 0.2, "critic.ppo_mini_batch_size": 128}  # fmt: skip
    if "7b" in name:
        expected[ACTOR + "fsdp_config.optimizer_offload"] = True
    assert {key: config[key] for key in expected} == expected
    assert len(config["data.val_files"]) == 2
    # What went through the shell and Hydra can be filled in: braces and the backslash are whole.
    opening = OpeningSettings(text=config["multiattempt.opening.text"])
    assert r"within \boxed{{}}. You have {max_attempts} attempt{s}" in opening.text
    assert FeedbackSettings(text=config["multiattempt.feedback.text"]).text.endswith(" left. Try an alternative.")


def test_single_arm_differs_by_max_attempts_alone(dry: Any) -> None:
    # Unresolved: what follows from another key by interpolation is not a difference of its own.
    multi, single = flat(dry(MULTI).config, resolve=False), flat(dry(SINGLE).config, resolve=False)
    differing = {key for key in multi.keys() | single.keys() if multi.get(key) != single.get(key)}
    names = {"trainer.experiment_name", "trainer.default_local_dir", "multiattempt.record.dir",
             *(f"{ENVIRONMENT}.{name}" for name in ("TENSORBOARD_DIR", "VERL_FILE_LOGGER_PATH"))}  # fmt: skip
    assert differing == {"multiattempt.max_attempts"} | names
    for key in names:  # after the run's own folder and name, the same, but for the time of the start
        assert re.sub(TIME, "", multi[key].split(MULTI)[1]) == re.sub(TIME, "", single[key].split(SINGLE)[1])


def test_both_logs_lie_in_out_and_workers_of_any_node_are_told_so(dry: Any) -> None:
    run = dry(MULTI)
    runtime_env = run.config.ray_kwargs.ray_init.runtime_env
    assert f"{run.out}/tensorboard" == runtime_env.env_vars.TENSORBOARD_DIR
    log = Path(runtime_env.env_vars.VERL_FILE_LOGGER_PATH)
    assert log.parent == run.out
    assert re.fullmatch(f"metrics-{TIME}.jsonl", log.name)
    # As verl's run_ppo merges it: its own variables and the recipe's hook stay.
    merged = OmegaConf.merge(get_ppo_ray_runtime_env(run.config), runtime_env)
    assert merged.env_vars.TOKENIZERS_PARALLELISM in ("true", os.environ.get("TOKENIZERS_PARALLELISM"))
    assert str(log) == merged.env_vars.VERL_FILE_LOGGER_PATH
    assert merged.worker_process_setup_hook.endswith("check_worker_process")


def test_further_arguments_come_last_and_a_refused_one_ends_it(assets: Path, tmp_path: Path) -> None:
    done = run_script(MULTI, assets, tmp_path / "out", "multiattempt.max_attempts=0", GPUS="3", NNODES="2")
    assert done.returncode == 1
    assert "multiattempt.max_attempts must be an integer of at least 1; got 0" in done.stdout
    assert "trainer.nnodes=2 trainer.n_gpus_per_node=3" in done.stdout
    assert done.stdout.rstrip().endswith("dry run: nothing was started")


def test_stage_that_there_is_none_of(assets: Path, tmp_path: Path) -> None:
    done = run_script(MULTI, assets, tmp_path / "out", DRY_RUN="0", STAGES="rest")
    assert done.returncode == 2
    assert "STAGES must be of prepare, train, evaluate; got 'rest'" in done.stdout


def test_evaluation_without_a_checkpoint(assets: Path, tmp_path: Path) -> None:
    done = run_script(MULTI, assets, tmp_path / "out", DRY_RUN="0", STAGES="evaluate")
    assert done.returncode == 1
    assert "CHECKPOINT must name what to evaluate where" in done.stdout


@pytest.mark.parametrize("name", SCRIPTS)
def test_header_quotes_the_estimate_for_the_real_model(dry: Any, name: str) -> None:
    size = size_of(Qwen2Config(**QWEN["7b" if "7b" in name else "1.5b"]))
    e = make_estimate(dry(name).config, size, 8888, Hardware())
    header = re.sub(r"\s*\n#\s*", " ", SCRIPTS[name].read_text(encoding="utf-8").split("set -euo")[0])
    memory = (
        f"{e.update_peak_gib:.0f} GiB a GPU in the update, {e.rollout_peak_gib:.0f} in the rollout; {e.host_gib:.0f}"
    )
    assert f"estimate: {memory} GiB of host memory a node; {e.checkpoint_gib:.0f} GiB of disk a checkpoint" in header
    assert e.steps is not None
    hours = e.steps * e.step_s / 3600
    assert f"trainer at most {e.step_s:.0f} s a step, {hours:.0f} hours for {e.steps:,} steps on A100s" in header
    assert max(e.update_peak_gib, e.rollout_peak_gib) < 80
    assert "asks for 8,000 tokens in a context of 4,096: recipes/README.md" in header
    for word in ("hardware ", "memory ", "time ", "expected ", "status ", f"bash recipes/{name}.sh"):
        assert word in header


def test_readme_shows_the_estimate_of_the_first_script(dry: Any) -> None:
    size = size_of(Qwen2Config(**QWEN["1.5b"]))
    estimate = make_estimate(dry(MULTI).config, size, 8888, Hardware())
    assert f"```\n{text_of(estimate, size, Hardware())}\n```" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_readme_has_a_row_for_each_script() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    for name in [*SCRIPTS, "compare_tiny"]:
        assert re.search(rf"^\| `{re.escape(name)}\.sh` \|.*\|$", readme, re.MULTILINE), name


def test_bash_can_parse_them() -> None:
    for path in FOLDER.glob("*.sh"):
        subprocess.run(["bash", "-n", str(path)], check=True)
