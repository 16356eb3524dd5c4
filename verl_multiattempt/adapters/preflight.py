"""Checks of the whole configuration in the driver, before Ray starts: what would fail late, or never be noticed.

Runs as a Hydra callback of the recipe (``hydra.callbacks.multiattempt``). Hydra turns an exception of a callback into
a warning, so problems end the process with ``SystemExit``, one sentence each on standard error.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from verl_multiattempt.adapters.compute_score import NAMES
from verl_multiattempt.adapters.register import plugin_problem
from verl_multiattempt.settings import Settings
from verl_multiattempt.verifier import check_verifier

logger = logging.getLogger(__name__)

AGENT_LOOP = "multiattempt"
MANAGER = "verl_multiattempt.adapters.manager.MultiAttemptAgentLoopManager"
REWARD_MANAGER = "MultiAttemptRewardManager"
SAMPLER = "pkg://verl_multiattempt.adapters.sampler"
_REMEDY = "Leave it as +recipe=multiattempt sets it."


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


def find_problems(config: DictConfig) -> list[str]:
    """All problems of the composed config, one sentence each; empty where training can start.

    Args:
        config: verl's whole config, as its main function gets it.
    """
    # Without the plugin there is no CPU stack either: one sentence for one cause.
    problem = _plugin(config) or _platform(config)
    problems = [problem] if problem else []
    problems.extend(_wiring(config))
    settings = _attempt(problems, lambda: _settings(config))
    if settings is None:
        return problems
    _attempt(problems, lambda: _verifier(settings))
    if not problems:  # the rest loads the tokenizer and the data, which may take seconds
        _attempt(problems, lambda: _tokens_and_data(config, settings, problems))
    return problems


def _attempt(problems: list[str], check: Callable[[], Any]) -> Any:
    """The result of ``check``; a ``ValueError`` of it becomes a problem."""
    try:
        return check()
    except ValueError as error:
        problems.append(str(error))
        return None


def _settings(config: DictConfig) -> Settings:
    from verl_multiattempt.adapters.agent_loop import read_settings

    return read_settings(config)


def _verifier(settings: Settings) -> None:
    """Check the verifier's class, and of a reward function that it can be loaded and takes its arguments."""
    from verl_multiattempt.adapters.compute_score import ComputeScoreVerifier

    verifier_class = check_verifier(settings.verifier)
    if isinstance(verifier_class, type) and issubclass(verifier_class, ComputeScoreVerifier):
        verifier = verifier_class(settings.verifier, **settings.verifier.kwargs)
        verifier.reward_function.function  # noqa: B018 - raises where it cannot be loaded


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
        return f"ray_kwargs.ray_init.runtime_env.worker_process_setup_hook must be {expected}; got {hook!r}. {_REMEDY}"
    return plugin_problem()


def _wiring(config: DictConfig) -> Iterator[str]:
    """Keys that, set otherwise, make verl run something else without a word."""
    agent = "actor_rollout_ref.rollout.agent."
    expected = {
        "trainer.use_v1": True,
        agent + "default_agent_loop": AGENT_LOOP,
        agent + "agent_loop_manager_class": MANAGER,
    }
    single_turn = OmegaConf.select(config, agent + "default_agent_loop") == "single_turn_agent"
    if single_turn:
        # A deliberate baseline: verl's own loop with this package's reward. It is said aloud.
        expected.pop(agent + "default_agent_loop")
        logger.warning("verl_multiattempt: %sdefault_agent_loop is single_turn_agent: episodes have one attempt and "
                       "no opening", agent)  # fmt: skip
    for key, value in expected.items():
        got = OmegaConf.select(config, key)
        if got != value:
            yield f"{key} must be {value}; got {got!r}. {_REMEDY}"
    sampler = OmegaConf.select(config, "trainer.v1.sampler.custom_sampler.path")
    if sampler is None:
        yield f"trainer.v1.sampler.custom_sampler.path must be {SAMPLER}; got None, which logs no episode. {_REMEDY}"
    elif sampler != SAMPLER:
        logger.warning(
            "verl_multiattempt: trainer.v1.sampler.custom_sampler.path is %s: multiattempt/ metrics are logged only if "
            "it calls verl_multiattempt.adapters.sampler.make_replay_buffer",
            sampler,
        )
    path = OmegaConf.select(config, agent + "agent_loop_config_path")
    if path is not None and not single_turn and AGENT_LOOP not in _loop_names(path):
        yield (
            f"{agent}agent_loop_config_path must be null or name a file with an entry {AGENT_LOOP}; got {path!r}. "
            "Add to it the entry of verl_multiattempt/config/agent_loop.yaml."
        )
    manager = OmegaConf.select(config, "reward.reward_manager.name")
    if manager != REWARD_MANAGER:
        yield f"reward.reward_manager.name must be {REWARD_MANAGER}; got {manager!r}. {_REMEDY}"
    function = OmegaConf.select(config, "reward.custom_reward_function.path")
    verifier = OmegaConf.select(config, "multiattempt.verifier.name") if config.get("multiattempt") else None
    if function is not None and verifier not in NAMES:
        yield (
            "reward.custom_reward_function.path must be null, since the reward comes from the verdicts of "
            f"multiattempt.verifier ({verifier}); got {function!r}. "
            "Set multiattempt.verifier.name=compute_score to make the function the verifier."
        )
    if OmegaConf.select(config, "reward.reward_model.enable"):
        yield (
            "reward.reward_model.enable must be false, since the reward comes from the verdicts of "
            "multiattempt.verifier; got True. Set it to false."
        )


def _loop_names(path: str) -> set[str]:
    from verl.utils.import_utils import resolve_config_path

    try:
        return {str(entry.name) for entry in OmegaConf.load(resolve_config_path(path))}
    except (OSError, AttributeError):
        return set()


def _tokens_and_data(config: DictConfig, settings: Settings, problems: list[str]) -> None:
    from verl_multiattempt.adapters.agent_loop import scaffold_for
    from verl_multiattempt.adapters.dataset_check import check_files

    tokenizer = _tokenizer(config)
    scaffold = scaffold_for(settings, tokenizer, config.data.get("apply_chat_template_kwargs", {}))
    for token in settings.allowed_special_tokens:
        if tokenizer.convert_tokens_to_ids(token) in (None, tokenizer.unk_token_id):
            raise ValueError(f"multiattempt.allowed_special_tokens must be tokens of the tokenizer; got {token!r}")
    _check_response_length(config, settings, scaffold)
    if OmegaConf.select(config, "data.custom_cls.path") is not None:
        logger.warning("verl_multiattempt: data.custom_cls is set, so the rows are not checked before the start")
        return
    for key in ("train_files", "val_files"):
        _attempt(problems, lambda key=key: check_files(config, key, settings, scaffold))  # type: ignore[misc]
    if not problems and settings.verifier.name in NAMES and settings.verifier.kwargs.get("path") is None:
        _default_function(config, settings.verifier.kwargs.get("reward_kwargs") or {}, problems)


def _default_function(config: DictConfig, reward_kwargs: Any, problems: list[str]) -> None:
    """Check that verl's own reward function knows the sources of the data."""
    from verl_multiattempt.adapters.dataset_check import data_sources
    from verl_multiattempt.adapters.function_loader import check_source

    places = {**data_sources(config, "val_files"), **data_sources(config, "train_files")}
    for data_source, place in places.items():
        try:
            check_source(data_source, reward_kwargs)
        except ValueError as error:
            problems.append(f"{place}: {error}")


def _tokenizer(config: DictConfig) -> Any:
    from verl.utils import hf_tokenizer
    from verl.utils.fs import copy_to_local

    model = config.actor_rollout_ref.model
    path = model.get("tokenizer_path") or model.path
    try:
        local = copy_to_local(path, use_shm=model.get("use_shm", False))
        tokenizer = hf_tokenizer(local, trust_remote_code=model.get("trust_remote_code", False))
    except Exception as error:  # hub, file system and tokenizer errors of many kinds
        raise ValueError(
            f"actor_rollout_ref.model.path must name a model with a tokenizer; got {path!r}: {error}"
        ) from error
    if template := model.get("custom_chat_template"):
        tokenizer.chat_template = template
    return tokenizer


def _check_response_length(config: DictConfig, settings: Settings, scaffold: Any) -> None:
    from verl_multiattempt.feedback import feedback_text

    largest = max(settings.max_attempts, settings.val_max_attempts or 1)
    if largest == 1:
        return
    context = len(scaffold.between_attempts(feedback_text(settings.feedback, largest - 1)))
    needed = context + 2 * settings.min_tokens_per_attempt
    got = int(config.data.max_response_length)
    if got < needed:
        raise ValueError(
            f"data.max_response_length must hold two attempts of multiattempt.min_tokens_per_attempt "
            f"({settings.min_tokens_per_attempt}) and the feedback between them ({context} tokens), {needed} in all; "
            f"got {got}. Raise it, or lower multiattempt.min_tokens_per_attempt."
        )
