from pathlib import Path

import pytest

pytest.importorskip("verl")
pytestmark = pytest.mark.verl

from hydra import compose, initialize_config_module  # noqa: E402
from omegaconf import DictConfig, OmegaConf, open_dict  # noqa: E402
from verl.utils.config import omega_conf_to_dataclass  # noqa: E402

import verl_multiattempt.config  # noqa: E402

FILE = Path(verl_multiattempt.config.__file__).parent / "platform" / "cpu.yaml"

# What verl's own config does not have; every other key of the file must exist there, or it would have no effect.
ADDED = {
    "actor_rollout_ref.model.override_config.attn_implementation",
    "critic.model.override_config.attn_implementation",
    "actor_rollout_ref.rollout.enable_sleep_mode",
    "actor_rollout_ref.actor.fsdp_config.mixed_precision",
    "actor_rollout_ref.ref.fsdp_config.mixed_precision",
    "critic.fsdp.mixed_precision",
    "actor_rollout_ref.rollout.engine_kwargs.vllm",
    "ray_kwargs.ray_init.num_gpus",
    "ray_kwargs.ray_init.address",
    "ray_kwargs.ray_init.include_dashboard",
    "ray_kwargs.ray_init.runtime_env.env_vars",
}


def composed(*overrides: str) -> DictConfig:
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=list(overrides))


def leaves(node: DictConfig, prefix: str = "") -> list[str]:
    found = []
    for key in node:
        path = f"{prefix}{key}"
        value = node._get_node(key)
        found += leaves(value, f"{path}.") if isinstance(value, DictConfig) else [path]
    return found


def test_every_key_exists_in_verl_or_is_a_known_addition() -> None:
    base = composed()
    unknown = [
        key
        for key in leaves(OmegaConf.load(FILE))
        if key != "actor_rollout_ref.rollout.name"  # mandatory in verl, so it reads as missing
        and OmegaConf.select(base, key, default="absent") == "absent"
        and not any(key == known or key.startswith(f"{known}.") for known in ADDED)
    ]
    assert unknown == []


@pytest.mark.parametrize("ranks", [1, 2])
def test_ray_declares_as_many_gpus_as_there_are_ranks(ranks: int) -> None:
    config = composed("+platform=cpu", f"trainer.n_gpus_per_node={ranks}")
    assert config.ray_kwargs.ray_init.num_gpus == ranks


def test_command_line_overrides_the_platform() -> None:
    config = composed("+platform=cpu", "actor_rollout_ref.rollout.agent.num_workers=3")
    assert config.actor_rollout_ref.rollout.agent.num_workers == 3


def test_without_the_platform_nothing_of_it_is_in_the_config() -> None:
    config = composed()
    assert config.trainer.device == "cuda"
    assert "num_gpus" not in config.ray_kwargs.ray_init


@pytest.mark.parametrize("role", ["actor", "ref"])
def test_verl_builds_engine_config_in_fp32(role: str) -> None:
    config = composed("+platform=cpu")
    engine = omega_conf_to_dataclass(config.actor_rollout_ref[role].fsdp_config)
    assert (engine.strategy, engine.dtype, engine.model_dtype) == ("fsdp2", "float32", "fp32")
    assert engine.mixed_precision["param_dtype"] == "fp32"
    assert not engine.use_torch_compile


def test_verl_builds_rollout_config() -> None:
    config = composed("+platform=cpu", "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1")
    rollout = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    assert rollout.dtype == "float32"
    assert not rollout.enable_sleep_mode
    extension = rollout.engine_kwargs["vllm"]["worker_extension_cls"]
    assert extension == "verl_multiattempt.cpu.rollout.CpuWorkerExtension"


def test_environment_of_workers_is_made_of_strings() -> None:
    """Ray refuses other values."""
    config = composed("+platform=cpu")
    assert {type(value) for value in config.ray_kwargs.ray_init.runtime_env.env_vars.values()} == {str}


def test_verl_merges_the_environment_with_its_own() -> None:
    """As verl/trainer/main_ppo.py:run_ppo does."""
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    config = composed("+platform=cpu")
    merged = OmegaConf.merge(get_ppo_ray_runtime_env(config), config.ray_kwargs.ray_init.runtime_env)
    with open_dict(merged):
        assert merged.env_vars.VERL_PLATFORM == "cpu"
        assert merged.env_vars.VLLM_LOGGING_LEVEL == "WARN"
