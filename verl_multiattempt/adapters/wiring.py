"""Keys of verl's config that, set otherwise, make it run something else than multi-attempt training without a word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_multiattempt.adapters.compute_score import NAMES

AGENT_LOOP = "multiattempt"
MANAGER = "verl_multiattempt.adapters.manager.MultiAttemptAgentLoopManager"
REWARD_MANAGER = "MultiAttemptRewardManager"
SAMPLER = "pkg://verl_multiattempt.adapters.sampler"
REMEDY = "Leave it as +recipe=multiattempt sets it."

_ROLLOUT = "actor_rollout_ref.rollout."
_AGENT = _ROLLOUT + "agent."
_MULTI_TURN = _ROLLOUT + "multi_turn."
# verl's trainer mode V1 reads none of these (legacy_reward_impl.yaml): what is set there is set for nothing.
_LEGACY = {
    "custom_reward_function.path": "reward.custom_reward_function.path",
    "custom_reward_function.name": "reward.custom_reward_function.name",
    "reward_model.reward_manager": "reward.reward_manager.name",
    "reward_model.reward_loop_source": "reward.reward_manager.source",
    "reward_model.enable": "reward.reward_model.enable",
    "reward_model.num_workers": "reward.num_workers",
    "sandbox_fusion.url": "reward.sandbox_fusion.url",
}


def runs_single_turn(config: DictConfig) -> bool:
    """Whether verl's own single-turn loop is asked for: a deliberate baseline with this package's reward."""
    return OmegaConf.select(config, _AGENT + "default_agent_loop") == "single_turn_agent"


def wiring_problems(config: DictConfig) -> Iterator[str]:
    """One sentence for each key that bypasses this package, or that it would ignore."""
    yield from _loop_problems(config)
    yield from _reward_problems(config)
    yield from _rollout_problems(config)


def _fixed(config: DictConfig, expected: dict[str, Any]) -> Iterator[str]:
    for key, value in expected.items():
        got = OmegaConf.select(config, key)
        if got != value:
            yield f"{key} must be {value}; got {got!r}. {REMEDY}"


def _loop_problems(config: DictConfig) -> Iterator[str]:
    expected = {"trainer.use_v1": True, _AGENT + "default_agent_loop": AGENT_LOOP, _AGENT + "agent_loop_manager_class":
                MANAGER}  # fmt: skip
    if runs_single_turn(config):
        expected.pop(_AGENT + "default_agent_loop")
    yield from _fixed(config, expected)
    sampler = "trainer.v1.sampler.custom_sampler."
    path = OmegaConf.select(config, sampler + "path")
    if path is None:
        yield f"{sampler}path must be {SAMPLER}; got None, which logs no episode. {REMEDY}"
    elif path == SAMPLER:
        yield from _fixed(config, {sampler + "name": "make_replay_buffer"})
    loops = OmegaConf.select(config, _AGENT + "agent_loop_config_path")
    if loops is not None and not runs_single_turn(config) and AGENT_LOOP not in loop_targets(loops):
        yield (
            f"{_AGENT}agent_loop_config_path must be null or name a file with an entry {AGENT_LOOP}; got {loops!r}. "
            "Add to it the entry of verl_multiattempt/config/agent_loop.yaml."
        )


def loop_targets(path: str) -> dict[str, str]:
    """Names and import paths of the agent loops in a file of verl's agent loop configs; empty where it is none."""
    from verl.utils.import_utils import resolve_config_path

    try:
        return {str(entry.name): str(entry.get("_target_")) for entry in OmegaConf.load(resolve_config_path(path))}
    except (OSError, AttributeError):
        return {}


def _reward_problems(config: DictConfig) -> Iterator[str]:
    manager = "reward.reward_manager."
    named = list(_fixed(config, {manager + "name": REWARD_MANAGER}))
    module = {"source": "importlib", "module.path": "pkg://verl_multiattempt.adapters.reward_manager"}
    # Of one wrong choice of a reward manager, one sentence.
    yield from named or _fixed(config, {manager + key: value for key, value in module.items()})
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
    for key, new in _LEGACY.items():
        got = OmegaConf.select(config, key)
        if got is not None:
            yield f"{key} must be null, since verl's trainer no longer reads it; got {got!r}. Set {new} instead."


def _rollout_problems(config: DictConfig) -> Iterator[str]:
    mode = OmegaConf.select(config, _ROLLOUT + "mode")
    if mode not in (None, "async"):
        yield f"{_ROLLOUT}mode must be async, the only one that verl has; got {mode!r}. Remove it from the command."
    for key, source in (("prompt_length", "data.max_prompt_length"), ("response_length", "data.max_response_length")):
        got, wanted = OmegaConf.select(config, _ROLLOUT + key), OmegaConf.select(config, source)
        if got != wanted:
            yield f"{_ROLLOUT}{key} must be {source} ({wanted}); got {got!r}. Set {source} alone."
    if not runs_single_turn(config):
        for key in ("max_assistant_turns", "max_user_turns"):
            got = OmegaConf.select(config, _MULTI_TURN + key)
            if got is not None:
                yield (
                    f"{_MULTI_TURN}{key} must be null, since an episode's turns follow from its attempts; got {got!r}. "
                    "Set multiattempt.max_attempts instead."
                )
        for key in ("tool_config_path", "function_tool_path"):
            got = OmegaConf.select(config, _MULTI_TURN + key)
            if got is not None:
                yield f"{_MULTI_TURN}{key} must be null, since an attempt calls no tools; got {got!r}. Remove it."
    groups = "algorithm.filter_groups."
    if OmegaConf.select(config, groups + "enable") and not OmegaConf.select(config, groups + "metric"):
        yield f"{groups}metric must be set where groups are filtered; got None. Set it to acc, say."
