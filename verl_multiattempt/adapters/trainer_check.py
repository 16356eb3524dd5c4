"""What verl's trainer and its workers would find out in the middle of a run only, after a whole rollout or hours in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_multiattempt.episode import Episode
from verl_multiattempt.settings import Settings

_ACTOR, _REF, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.ref", "actor_rollout_ref.rollout"
# What verl's V1 trainer (trainer_base.py, _compute_advantage) has no figures for.
_NEVER_COMPUTED = {
    "remax": "rewards of greedy rollouts",
    "optimal_token_baseline": "sum_pi_squared",
    "tir_optimal_token_baseline": "sum_pi_squared",
}
# Where an engine keeps its config, and what it calls the GPUs that share a sequence (sp_size in workers/engine).
_ENGINES = {
    "fsdp": ("fsdp", "ulysses_sequence_parallel_size"),
    "fsdp2": ("fsdp", "ulysses_sequence_parallel_size"),
    "megatron": ("megatron", "context_parallel_size"),
    "veomni": ("veomni", "ulysses_parallel_size"),
    "torchtitan": ("torchtitan", "tensor_parallel_size"),
}
_CRITIC_DEFAULT = 32768
"""verl's ``critic.ppo_infer_max_token_len_per_gpu``, which its YAML does not have."""


def trainer_problems(config: DictConfig) -> Iterator[str]:
    """One sentence for each choice that ends a run after it has begun."""
    yield from _estimator_problems(config)
    yield from _token_limit_problems(config)
    yield from _logger_problems(config)


def _estimator_problems(config: DictConfig) -> Iterator[str]:
    estimator = str(OmegaConf.select(config, "algorithm.adv_estimator"))
    enabled = OmegaConf.select(config, "critic.enable")
    if estimator == "gae" and enabled is not None and not enabled:
        yield (
            "critic.enable must be null or true where algorithm.adv_estimator is gae, which needs the critic's values; "
            f"got {enabled!r}. Remove it, or take an estimator without a critic: algorithm.adv_estimator=grpo, say, "
            f"with {_ROLLOUT}.n above 1."
        )
    if estimator in _NEVER_COMPUTED:
        yield (
            "algorithm.adv_estimator must be one that verl's trainer V1 has the figures for; got "
            f"{estimator!r}, which needs {_NEVER_COMPUTED[estimator]}. Take gae, grpo or rloo, say."
        )


def longest_sequence(config: DictConfig) -> int | None:
    """Tokens of the longest prompt with its response; None where the lengths are no numbers."""
    prompt, response = (OmegaConf.select(config, f"data.max_{part}_length") for part in ("prompt", "response"))
    if not isinstance(prompt, int) or not isinstance(response, int):
        return None
    limit = OmegaConf.select(config, _ROLLOUT + ".max_model_len")
    return min(prompt + response, limit) if isinstance(limit, int) else prompt + response


def _token_limit_problems(config: DictConfig) -> Iterator[str]:
    """A sentence for each limit below the longest sequence, at which verl's `rearrange_micro_batches` fails."""
    longest = longest_sequence(config)
    if longest is None:
        return
    told = False
    for part, key in _token_limits(config):
        shared = _sequence_parallel(config, part)
        set_here = OmegaConf.select(config, key)
        limit = _CRITIC_DEFAULT if set_here is None and part == "critic" else set_here
        if shared is None or not isinstance(limit, int) or limit * shared >= longest:
            continue
        if told and _follows(config, key):  # it is the actor's, of which it has been said
            continue
        told = True
        least = math.ceil(longest / shared)
        gpus = f" / {shared} GPUs that share a sequence" if shared > 1 else ""
        why = "whatever critic.use_dynamic_bsz is" if part == "critic" else "with use_dynamic_bsz"
        plus = "+" if part == "critic" and set_here is None else ""
        yield (
            f"{key} must be at least {least}, the longest prompt with its response ({longest} tokens{gpus}), since "
            f"verl puts whole sequences into micro batches of so many tokens ({why}) and stops at the first that is "
            f"longer; got {limit}. Set {plus}{key}={least} or more, or lower data.max_response_length."
        )


def _token_limits(config: DictConfig) -> Iterator[tuple[str, str]]:
    """The parts whose engines take micro batches of so many tokens, and the keys that say how many."""
    from verl.trainer.ppo.utils import need_reference_policy

    model = "actor_rollout_ref.model."
    rank = OmegaConf.select(config, model + "lora.rank") or OmegaConf.select(config, model + "lora_rank") or 0
    ref_in_actor = rank > 0 or OmegaConf.select(config, model + "lora_adapter_path") is not None
    has_ref = bool(need_reference_policy(config))
    if OmegaConf.select(config, _ACTOR + ".use_dynamic_bsz"):
        yield _ACTOR, _ACTOR + ".ppo_max_token_len_per_gpu"
        bypassed = OmegaConf.select(config, "algorithm.rollout_correction.bypass_mode")
        if not bypassed or (has_ref and ref_in_actor):
            yield _ACTOR, _ROLLOUT + ".log_prob_max_token_len_per_gpu"
    if has_ref and not ref_in_actor and OmegaConf.select(config, _REF + ".log_prob_use_dynamic_bsz"):
        yield _REF, _REF + ".log_prob_max_token_len_per_gpu"
    # The V1 trainer hands no use_dynamic_bsz to the critic's engine, whose default is true.
    if _has_critic(config) and _engine(config, "critic").get("use_dynamic_bsz", True):
        yield "critic", "critic.ppo_infer_max_token_len_per_gpu"


def _has_critic(config: DictConfig) -> bool:
    enabled = OmegaConf.select(config, "critic.enable")
    return OmegaConf.select(config, "algorithm.adv_estimator") == "gae" if enabled is None else bool(enabled)


def _engine(config: DictConfig, part: str) -> Any:
    """The config of a part's engine; empty where it is none that is known here."""
    name, _ = _ENGINES.get(str(OmegaConf.select(config, part + ".strategy")), ("", ""))
    key = "fsdp_config" if name == "fsdp" and part != "critic" else name
    return (OmegaConf.select(config, f"{part}.{key}") if key else None) or {}


def _sequence_parallel(config: DictConfig, part: str) -> int | None:
    """How many GPUs share a sequence; None where it is not known."""
    _, key = _ENGINES.get(str(OmegaConf.select(config, part + ".strategy")), ("", ""))
    engine = _engine(config, part)
    # Megatron may choose anew for each batch.
    if not key or engine.get("dynamic_context_parallel"):
        return None
    # An old key, which verl still hands to actor and reference policy, and not to the critic.
    old = OmegaConf.select(config, f"{part}.ulysses_sequence_parallel_size") if part != "critic" else 1
    return int(old if isinstance(old, int) and old > 1 else engine.get(key) or 1)


def _follows(config: DictConfig, key: str) -> bool:
    parent, _, name = key.rpartition(".")
    return OmegaConf.is_interpolation(OmegaConf.select(config, parent), name)


def _logger_problems(config: DictConfig) -> Iterator[str]:
    from verl.utils.tracking import Tracking

    names = OmegaConf.select(config, "trainer.logger")
    known = Tracking.supported_backend
    for name in [names] if isinstance(names, str) else names or []:
        if name not in known and name != "tracking":  # an old name of wandb
            yield f"trainer.logger must name backends of verl ({', '.join(known)}); got {name!r}. Correct or remove it."


def filter_metric_problem(config: DictConfig, settings: Settings) -> str | None:
    """A sentence where groups are filtered by a figure that no episode has: verl stops after the first rollout."""
    from verl.trainer.ppo.v1.replay_buffer import FILTER_GROUPS_REWARD_METRIC

    from verl_multiattempt.adapters.reward_manager import reward_extra_info

    groups = "algorithm.filter_groups."
    metric = OmegaConf.select(config, groups + "metric")
    if not OmegaConf.select(config, groups + "enable") or not metric:  # without a name: see wiring.py
        return None
    largest = settings.val_max_attempts or settings.max_attempts
    known = [FILTER_GROUPS_REWARD_METRIC, *reward_extra_info(Episode(max_attempts=1), largest)]
    if metric in known:
        return None
    return f"{groups}metric must be one of {', '.join(known)}; got {metric!r}. Set it to acc, say."
