"""What is allowed and yet often not meant: said in one line each before the training starts, or at its first step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module

from omegaconf import DictConfig, OmegaConf

from verl_multiattempt.adapters.compute_score import NAMES
from verl_multiattempt.adapters.wiring import AGENT_LOOP, SAMPLER, loop_targets, runs_single_turn
from verl_multiattempt.attempts import resolve_scope
from verl_multiattempt.episode import Episode
from verl_multiattempt.settings import Settings

_ROLLOUT = "actor_rollout_ref.rollout."
# Estimators of verl (core_algos.py) that compare the rollouts of a prompt with each other.
GROUP_RELATIVE = frozenset(
    {"grpo", "grpo_vectorized", "grpo_passk", "gdpo", "gpg", "rloo", "rloo_vectorized", "opo",
     "reinforce_plus_plus_baseline", "optimal_token_baseline", "tir_optimal_token_baseline"}
)  # fmt: skip


def wiring_doubts(config: DictConfig) -> Iterator[str]:
    """One sentence for each choice of verl's keys that makes training something else than its name says."""
    if runs_single_turn(config):
        yield f"{_ROLLOUT}agent.default_agent_loop is single_turn_agent: episodes have one attempt and no opening"
    path = OmegaConf.select(config, "trainer.v1.sampler.custom_sampler.path")
    if path not in (None, SAMPLER):
        yield (
            f"trainer.v1.sampler.custom_sampler.path is {path}: multiattempt/ metrics are logged only if it calls "
            "verl_multiattempt.adapters.sampler.make_replay_buffer"
        )
    loops = OmegaConf.select(config, _ROLLOUT + "agent.agent_loop_config_path")
    target = loop_targets(loops).get(AGENT_LOOP) if loops else None
    if target is not None and not runs_single_turn(config) and not _is_our_loop(target):
        yield (
            f"{_ROLLOUT}agent.agent_loop_config_path makes {target} the agent loop {AGENT_LOOP}, and it is no "
            "MultiAttemptAgentLoop: what it trains is not known here"
        )
    mode = OmegaConf.select(config, "trainer.v1.trainer_mode")
    if mode != "sync":
        yield f"trainer.v1.trainer_mode is {mode}: this package is tested in whole runs with sync only"
    engine = OmegaConf.select(config, _ROLLOUT + "name")
    if engine != "vllm":
        yield f"{_ROLLOUT}name is {engine}: this package is tested with vllm only"
    if OmegaConf.select(config, "skip.rollout_tq.enable"):
        yield "skip.rollout_tq.enable is true: verl may train on rollouts that it kept from an earlier run"
    yield from _router_doubts(config)
    gamma = OmegaConf.select(config, "algorithm.gamma")
    if gamma is not None and gamma != 1:
        yield (
            f"algorithm.gamma is {gamma}: verl discounts by token, so the reward of a late attempt hardly reaches "
            "the attempts before it; 1 is the recipe's"
        )


def _router_doubts(config: DictConfig) -> Iterator[str]:
    from verl.workers.rollout.router import DEFAULT_ROUTING_CACHE_SIZE

    from verl_multiattempt.adapters.router import router_config_path

    prompts, n = (OmegaConf.select(config, key) for key in ("data.train_batch_size", _ROLLOUT + "n"))
    if OmegaConf.select(config, _ROLLOUT + "router_config_path") is not None or runs_single_turn(config):
        return
    if isinstance(prompts, int) and isinstance(n, int) and prompts * n > DEFAULT_ROUTING_CACHE_SIZE:
        yield (
            f"data.train_batch_size times {_ROLLOUT}n is {prompts * n}, and verl's load balancer remembers "
            f"{DEFAULT_ROUTING_CACHE_SIZE} conversations: later attempts may come to a server that has to read the "
            f"whole conversation again; set {_ROLLOUT}router_config_path={router_config_path()}"
        )


def _is_our_loop(target: str) -> bool:
    from verl_multiattempt.adapters.agent_loop import MultiAttemptAgentLoop

    module, _, name = target.rpartition(".")
    try:
        loop = getattr(import_module(module), name)
    except Exception:  # the module is a user's own and may raise anything
        return False
    return isinstance(loop, type) and issubclass(loop, MultiAttemptAgentLoop)


def drawn_allowances(settings: Settings) -> list[int]:
    """The allowances that a training episode can draw, ascending."""
    if settings.distribution == "fixed":
        return [settings.max_attempts]
    numbers = range(settings.min_attempts, settings.max_attempts + 1)
    if settings.distribution == "weighted":
        return [number for number, weight in zip(numbers, settings.weights or (), strict=True) if weight > 0]
    return list(numbers)


def settings_doubts(config: DictConfig, settings: Settings) -> Iterator[str]:
    """One sentence for each choice of settings, verifier and estimator that do not go together."""
    kwargs = settings.verifier.kwargs
    if settings.verifier.name in NAMES and not (kwargs.get("answer_pattern") or kwargs.get("answer_key")):
        yield (
            "multiattempt.verifier.kwargs has no answer_pattern and no answer_key, so the answers are not known: "
            "multiattempt/repeat and repeat@k are not logged; set +multiattempt.verifier.kwargs.answer_pattern=boxed "
            "(or a regular expression), or answer_key where the function returns the answer"
        )
    estimator = str(OmegaConf.select(config, "algorithm.adv_estimator"))
    if estimator not in GROUP_RELATIVE:
        return
    n = int(OmegaConf.select(config, _ROLLOUT + "n"))
    if n == 1:
        yield (
            f"algorithm.adv_estimator is {estimator}, which compares the rollouts of a prompt, and {_ROLLOUT}n is 1: "
            "there is nothing to compare"
        )
    elif resolve_scope(settings.scope, n) == "rollout" and len(drawn_allowances(settings)) > 1:
        yield (
            f"multiattempt.scope is rollout and algorithm.adv_estimator is {estimator}: rollouts with more attempts "
            "allowed are compared with rollouts with fewer; scope group gives a prompt's rollouts the same"
        )


def allowance_doubts(
    config: DictConfig, settings: Settings, allowances: Mapping[int | None, int] | None
) -> Iterator[str]:
    """A sentence where no training episode can have a second attempt.

    Args:
        config: the whole config.
        settings: the task's settings.
        allowances: how many training rows have which ``extra_info.max_attempts`` (None: no own); None where the rows
            have not been read.
    """
    if runs_single_turn(config):
        return  # it has been said
    drawn = drawn_allowances(settings)
    if allowances and not allowances.get(None):
        if set(allowances) == {1}:
            yield (
                "every row of data.train_files has extra_info.max_attempts 1, which overrides the settings: "
                "training is single-attempt"
            )
    elif drawn == [1] and (not allowances or set(allowances) <= {None, 1}):
        keys = {"weighted": "multiattempt.weights allow 1 attempt only"}
        yield f"{keys.get(settings.distribution, 'multiattempt.max_attempts is 1')}: training is single-attempt"


def first_step_doubt(episodes: Sequence[Episode], num_rollouts: int) -> str | None:
    """A sentence where the first training step was not multi-attempt, whatever the settings said.

    Args:
        episodes: of the step's rollouts, those that left an episode's record.
        num_rollouts: all finished rollouts of the step; at least 1.
    """
    others = num_rollouts - len(episodes)
    cause = (
        f"look at {_ROLLOUT}agent.default_agent_loop, {_ROLLOUT}agent.agent_loop_config_path and the data's agent_name"
    )
    if not episodes:
        return f"none of the {num_rollouts} rollouts of the first step is an episode: another agent loop ran; {cause}"
    if others:
        some = f"{others} of the {num_rollouts} rollouts"
        return f"{some} of the first step are no episodes: another agent loop ran; {cause}"
    if all(episode.max_attempts == 1 for episode in episodes):
        return (
            f"all {len(episodes)} episodes of the first step were allowed 1 attempt: training is single-attempt; look "
            "at multiattempt.max_attempts, multiattempt.weights and the data's extra_info.max_attempts"
        )
    allowed = [episode for episode in episodes if episode.max_attempts > 1 and not episode.solved_within(1)]
    if allowed and all(episode.truncated and episode.attempts_used == 1 for episode in allowed):
        return (
            f"none of the {len(allowed)} unsolved episodes of the first step that were allowed several attempts had a "
            "second one, since their conversations were full: training is single-attempt; raise "
            "data.max_response_length, or set multiattempt.max_tokens_per_attempt"
        )
    return None
