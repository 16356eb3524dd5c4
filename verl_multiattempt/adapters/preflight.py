"""Checks of the whole configuration in the driver, before Ray starts: what would fail late, or never be noticed.

Runs as a Hydra callback of the recipe (``hydra.callbacks.multiattempt``). Hydra turns an exception of a callback into
a warning, so problems end the process with ``SystemExit``, one sentence each on standard error.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from verl_multiattempt.adapters.compute_score import NAMES
from verl_multiattempt.adapters.dataset_check import DataFiles, check_batch_size, data_sources, inspect_files
from verl_multiattempt.adapters.doubts import allowance_doubts, settings_doubts, wiring_doubts
from verl_multiattempt.adapters.model_check import (
    check_context_length,
    check_own_allowances,
    check_response_length,
    load_scaffold,
)
from verl_multiattempt.adapters.register import plugin_problem
from verl_multiattempt.adapters.trainer_check import filter_metric_problem, trainer_problems
from verl_multiattempt.adapters.wiring import REMEDY, wiring_problems
from verl_multiattempt.chat.scaffold import ChatScaffold
from verl_multiattempt.settings import SettingError, Settings
from verl_multiattempt.settings_check import mend_settings
from verl_multiattempt.verifier import check_verifier

logger = logging.getLogger(__name__)


class PreflightCallback(Callback):
    """Ends the run with one sentence for each problem of the configuration."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check ``config``; raises ``SystemExit`` with status 1 where something is wrong."""
        run_preflight(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """The same for ``--multirun``: the keys of a sweep are checked when their job starts."""

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check each job of a sweep, which has no `on_run_start` of its own."""
        if str(OmegaConf.select(config, "hydra.mode")).endswith("MULTIRUN"):
            run_preflight(config)


def run_preflight(config: DictConfig) -> None:
    """Check ``config`` and end the process where it has problems."""
    try:
        problems = find_problems(config)
    except Exception as error:
        # Hydra would make a warning of it and start the training unchecked.
        logger.exception("verl_multiattempt: the check of the configuration failed")
        problems = [f"the configuration must be checked before the start; got {type(error).__name__}: {error}"]
    if problems:
        for problem in problems:
            # Messages of other libraries may have several lines.
            print(f"verl_multiattempt: {' '.join(problem.split())}", file=sys.stderr)
        raise SystemExit(1)


@dataclass(slots=True, kw_only=True)
class Inspection:
    """What a look at the whole config has found."""

    problems: list[str] = field(default_factory=list)
    """What training cannot or must not start with, one sentence each."""
    warnings: list[str] = field(default_factory=list)
    """What is allowed and yet often not meant, one sentence each."""
    settings: Settings | None = None
    """None where they are wrong; with a thorough look, the default of each wrong one in its place."""
    settings_are_wrong: bool = False
    scaffold: ChatScaffold | None = None
    """None where the tokenizer or its chat template cannot be used, or was not looked at."""
    data: dict[str, DataFiles] = field(default_factory=dict)
    """By ``train_files`` and ``val_files``; empty where they were not looked at."""


def find_problems(config: DictConfig) -> list[str]:
    """All problems of the composed config, one sentence each; empty where training can start. Warnings are logged.

    Args:
        config: verl's whole config, as its main function gets it.
    """
    found = inspect_config(config)
    for warning in found.warnings:
        logger.warning("verl_multiattempt: %s", warning)
    return found.problems


def inspect_config(config: DictConfig, *, thorough: bool = False) -> Inspection:
    """Check the composed config.

    Args:
        config: verl's whole config, as its main function gets it.
        thorough: load the tokenizer and the data even where something is wrong already, and where it is the settings,
            go on with the defaults of the wrong ones.
    """
    # Without the plugin there is no CPU stack either: one sentence for one cause.
    problem = _plugin(config) or _platform(config)
    found = Inspection(problems=[problem] if problem else [], warnings=list(wiring_doubts(config)))
    problems = found.problems
    problems.extend(wiring_problems(config))
    problems.extend(trainer_problems(config))
    settings, wrong = _settings(config)
    problems.extend(wrong)
    found.settings_are_wrong = bool(wrong)
    if wrong and not thorough:
        return found
    found.settings = settings
    if problem := filter_metric_problem(config, settings):
        problems.append(problem)
    _attempt(problems, lambda: _verifier(settings))
    _attempt(problems, lambda: _episode_log(config, settings))
    found.warnings.extend(settings_doubts(config, settings))
    if thorough or not problems:  # the rest loads the tokenizer and the data, which may take seconds
        _attempt(problems, lambda: check_context_length(config))
        found.scaffold = _attempt(problems, lambda: load_scaffold(config, settings))
        if found.scaffold is not None:
            _tokens_and_data(config, settings, found)
    return found


def _attempt(problems: list[str], check: Callable[[], Any]) -> Any:
    """The result of ``check``; a ``ValueError`` of it becomes a problem."""
    try:
        return check()
    except ValueError as error:
        problems.append(str(error))
        return None


def _settings(config: DictConfig) -> tuple[Settings, list[str]]:
    """The settings, of wrong ones the defaults, and what is wrong with them."""
    from verl_multiattempt.adapters.agent_loop import read_settings, settings_values

    try:
        return read_settings(config), []
    except SettingError:
        return mend_settings(settings_values(config))
    except ValueError as error:
        return Settings(), [str(error)]


def _verifier(settings: Settings) -> None:
    """Check the verifier's class, and of a reward function that it can be loaded and takes its arguments."""
    from verl_multiattempt.adapters.compute_score import ComputeScoreVerifier

    verifier_class = check_verifier(settings.verifier)
    if isinstance(verifier_class, type) and issubclass(verifier_class, ComputeScoreVerifier):
        verifier = verifier_class(settings.verifier, **settings.verifier.kwargs)
        verifier.reward_function.function  # noqa: B018 - raises where it cannot be loaded


def _episode_log(config: DictConfig, settings: Settings) -> None:
    from verl_multiattempt.adapters.episode_log import check_log_directory

    check_log_directory(config, settings)


def _platform(config: DictConfig) -> str | None:
    from verl_multiattempt.cpu import check_cpu_platform, find_accelerator

    device = OmegaConf.select(config, "trainer.device")
    if device == "cpu":
        return check_cpu_platform()
    # A driver without an accelerator may well start training on a cluster that has some.
    address = OmegaConf.select(config, "ray_kwargs.ray_init.address") or os.environ.get("RAY_ADDRESS")
    if address in (None, "", "local") and find_accelerator() is None:
        return f"trainer.device must be there on this machine; got {device!r} and no accelerator. Add +platform=cpu."
    return None


def _plugin(config: DictConfig) -> str | None:
    hook = OmegaConf.select(config, "ray_kwargs.ray_init.runtime_env.worker_process_setup_hook")
    expected = "verl_multiattempt.adapters.register.check_worker_process"
    if hook != expected:
        return f"ray_kwargs.ray_init.runtime_env.worker_process_setup_hook must be {expected}; got {hook!r}. {REMEDY}"
    return plugin_problem()


def _tokens_and_data(config: DictConfig, settings: Settings, found: Inspection) -> None:
    problems, scaffold = found.problems, found.scaffold
    assert scaffold is not None
    if OmegaConf.select(config, "data.custom_cls.path") is not None:
        _attempt(problems, lambda: check_response_length(config, settings, scaffold))
        found.warnings.append("data.custom_cls is set, so the rows are not checked before the start")
        found.warnings.extend(allowance_doubts(config, settings, None))
        return
    for key in ("train_files", "val_files"):
        found.data[key] = inspect_files(config, key, settings, scaffold)
    own = max((number for files in found.data.values() for number in files.own_allowances), default=1)
    _attempt(problems, lambda: check_response_length(config, settings, scaffold, own))
    for files in found.data.values():
        problems.extend(files.problems)
    _attempt(problems, lambda: check_own_allowances(settings, scaffold, found.data))
    train = found.data["train_files"]
    if not train.problems:
        _attempt(problems, lambda: check_batch_size(config, train))
    if any(files.problems for files in found.data.values()):
        return
    found.warnings.extend(allowance_doubts(config, settings, train.allowances))
    if settings.verifier.name in NAMES and settings.verifier.kwargs.get("path") is None:
        _default_function(config, settings.verifier.kwargs.get("reward_kwargs") or {}, problems)


def _default_function(config: DictConfig, reward_kwargs: Any, problems: list[str]) -> None:
    """Check that verl's own reward function knows the sources of the data."""
    from verl_multiattempt.adapters.function_loader import check_source

    places = {**data_sources(config, "val_files"), **data_sources(config, "train_files")}
    for data_source, place in places.items():
        try:
            check_source(data_source, reward_kwargs)
        except ValueError as error:
            problems.append(f"{place}: {error}")
