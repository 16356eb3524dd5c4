"""The training command's configuration, composed without running anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import verl.trainer
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

RECIPE = "+recipe=multiattempt"
_CONFIG_NAME = "ppo_trainer"


def training_overrides(overrides: Sequence[str], config_name: str | None = None) -> list[str]:
    """The overrides with the recipe named, where nothing names it yet.

    Args:
        overrides: Hydra overrides of the training command.
        config_name: a config of the user's own, whose defaults list may hold the recipe; it is left to name it.
    """
    named = any(item.lstrip("+").startswith("recipe=") for item in overrides)
    return [*([] if named or config_name else [RECIPE]), *overrides]


def compose_training_config(
    overrides: Sequence[str], *, config_path: str | None = None, config_name: str | None = None
) -> DictConfig:
    """Compose what ``python -m verl.trainer.main_ppo`` would run with.

    Args:
        overrides: as on its command line (`training_overrides` adds the recipe).
        config_path: ``--config-path``: a folder; a relative one is taken from the folder of ``main_ppo.py``, as Hydra
            does.
        config_name: ``--config-name``.

    Returns:
        verl's whole config, without Hydra's own node.

    Raises:
        ValueError: Hydra cannot compose it; the message is Hydra's, in one line.
    """
    folder = Path(verl.trainer.__file__).parent / (config_path or "config")
    try:
        with initialize_config_dir(str(folder), job_name="main_ppo", version_base=None):
            config = compose(config_name or _CONFIG_NAME, overrides=list(overrides), return_hydra_config=True)
            _publish(config)
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(" ".join(str(error).split())) from error
    finally:
        GlobalHydra.instance().clear()
    with open_dict(config):
        del config["hydra"]
    return config


def _publish(config: DictConfig) -> None:
    """Let ``${hydra:...}`` in the config resolve as in a run, whose folder is not made here."""
    with open_dict(config.hydra):
        config.hydra.runtime.output_dir = os.path.abspath(str(config.hydra.run.dir))
        config.hydra.mode = "RUN"
    HydraConfig.instance().set_config(config)
