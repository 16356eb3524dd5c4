"""What a training command will need: memory of a GPU, host memory, disk, tokens and arithmetic, before it is started.

    python -m verl_multiattempt.adapters.estimate +recipe=multiattempt actor_rollout_ref.model.path=MODEL ...

Sizes of parameters, optimizer states and KV cache are exact but for the engine's own allowance; activations, logits and
times are rules of thumb, good to about a third. The formulae are in the docstrings. Nothing is loaded but configs: the
parameters are counted on torch's meta device.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from omegaconf import DictConfig
from verl.trainer.ppo.utils import need_critic, need_reference_policy

from verl_multiattempt.adapters.compose import compose_training_config, training_overrides
from verl_multiattempt.adapters.dataset_check import read_rows
from verl_multiattempt.adapters.model_size import ModelSize, model_size

GIB = 2**30
_ENGINE_ALLOWANCE_GIB = 3.0
"""What vLLM keeps beside weights and KV cache: CUDA graphs, activations, its own CUDA context."""
_DTYPE_BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What is assumed of a GPU."""

    memory_gib: float = 80.0
    tflops: float = 312.0
    """Peak in bf16; 312 is an A100's, 989 an H100's."""
    utilization: float = 0.35
    """Share of the peak that the trainer reaches (its MFU)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The figures, each named with its unit."""

    gpus: int
    states_gib: dict[str, float]
    """Per GPU, by role: parameters, gradients and Adam's two moments, all in ``model_dtype``, over the shards."""
    resident_gib: float
    """Per GPU, while the engine generates: parameters and moments that are not offloaded."""
    activations_gib: float
    """Per GPU: of one micro-batch of ``micro_batch_tokens``."""
    logits_gib: float
    micro_batch_tokens: int
    update_peak_gib: float
    """Per GPU, of the larger update: states, what is resident of the other, activations, logits, gathered layers."""
    rollout_peak_gib: float
    """Per GPU: what the engine reserves, and what is resident."""
    kv_cache_tokens: int
    """Per engine: what its reservation leaves after weights and `_ENGINE_ALLOWANCE_GIB`."""
    host_gib: float
    """Per node: what is offloaded, and the reference model where there is one, which verl always keeps there."""
    checkpoint_gib: float
    """Of one checkpoint, by ``checkpoint.save_contents`` of actor and critic."""
    episodes_per_step: int
    tokens_per_episode: int
    """At most: prompt and conversation."""
    steps: int | None
    """Of the whole training; None where the rows cannot be counted."""
    flops_per_token: float
    """Of the trainer: 2 per parameter forward, 4 backward, 2 more where layers are recomputed."""
    step_s: float
    """Of the trainer, at most: every conversation as long as it may be. Generation is not in it."""


def _trainer(config: DictConfig, size: ModelSize) -> tuple[int, dict[str, int], bool]:
    """Arithmetic per token, bytes of a role's states for each parameter set, and whether there is a critic."""
    critic = need_critic(config)
    actor_config = config.actor_rollout_ref.actor
    update = 8 if config.actor_rollout_ref.model.enable_gradient_checkpointing else 6
    flops = (2 + update) * size.parameters  # log-probabilities before the update, and the update
    if need_reference_policy(config):
        flops += 2 * size.parameters
    if critic:
        flops += (2 + (8 if config.critic.model.enable_gradient_checkpointing else 6)) * size.critic_parameters
    bytes_of = {"actor": size.parameters * _DTYPE_BYTES[actor_config.fsdp_config.model_dtype]}
    if critic:
        bytes_of["critic"] = size.critic_parameters * _DTYPE_BYTES[config.critic.fsdp.model_dtype]
    return flops, bytes_of, critic


def _micro_batch_tokens(config: DictConfig, critic: bool) -> tuple[int, int]:
    """Tokens of the largest micro-batch of actor and critic.

    verl 0.9.1's trainer always packs the critic's micro-batches to ``critic.ppo_infer_max_token_len_per_gpu`` tokens
    (trainer/ppo/v1/trainer_base.py:_setup), 32,768 where it is not given.
    """
    actor = config.actor_rollout_ref.actor
    each = int(config.data.max_prompt_length) + int(config.data.max_response_length)
    tokens = (
        int(actor.ppo_max_token_len_per_gpu)
        if actor.use_dynamic_bsz
        else each * int(actor.ppo_micro_batch_size_per_gpu)
    )
    return tokens, int(config.critic.get("ppo_infer_max_token_len_per_gpu", 32768)) if critic else 0


def _checkpoint_shares(config: DictConfig, role: str) -> int:
    """How many numbers a checkpoint holds for each parameter; ``hf_model``, too, is saved in ``model_dtype``."""
    contents = (config.actor_rollout_ref.actor if role == "actor" else config.critic).checkpoint.save_contents
    return sum({"model": 1, "optimizer": 2, "hf_model": 1}.get(name, 0) for name in contents)


def _activations(config: DictConfig, size: ModelSize, tokens: int) -> float:
    """GiB of activations in bf16: each layer's input, and all of one layer (of every layer without checkpointing).

    A layer's own: about 8 vectors of the hidden size (norms, queries, attention, residuals) and 4 of the MLP's.
    """
    layer = tokens * (8 * size.hidden + 4 * size.intermediate) * 2
    inputs = tokens * size.hidden * 2 * size.layers
    recomputed = config.actor_rollout_ref.model.enable_gradient_checkpointing
    return ((inputs + layer) if recomputed else size.layers * layer) / GIB


def make_estimate(config: DictConfig, size: ModelSize, num_rows: int | None, hardware: Hardware) -> Estimate:
    """Estimate what the composed training config needs.

    Args:
        config: verl's whole config.
        size: of the model.
        num_rows: rows of the training files, if known.
        hardware: of one GPU.
    """
    data, rollout = config.data, config.actor_rollout_ref.rollout
    gpus = int(config.trainer.n_gpus_per_node) * int(config.trainer.nnodes)
    flops, bytes_of, critic = _trainer(config, size)
    shards = {"actor": config.actor_rollout_ref.actor.fsdp_config, **({"critic": config.critic.fsdp} if critic else {})}
    states, resident = {}, {}
    host = size.parameters * 4 / gpus if need_reference_policy(config) else 0.0  # fp32
    for role, engine in shards.items():
        shard = bytes_of[role] / (gpus if engine.fsdp_size in (-1, None) else int(engine.fsdp_size))
        states[role] = 4 * shard / GIB
        offloaded = (1 if engine.param_offload else 0) + (2 if engine.optimizer_offload else 0)
        resident[role] = (3 - offloaded) * shard / GIB
        host += offloaded * shard
    actor_tokens, critic_tokens = _micro_batch_tokens(config, critic)
    logits = actor_tokens * size.vocabulary * 2 * 3 / GIB  # bf16: logits, gradient, one temporary
    # FSDP gathers the embedding and two layers (the next one is fetched ahead) in bf16.
    gathered = (2 * size.parameters / size.layers + size.vocabulary * size.hidden) * 2 / GIB
    peaks = [
        states["actor"] + resident.get("critic", 0.0) + _activations(config, size, actor_tokens) + logits + gathered
    ]
    if critic:
        peaks.append(states["critic"] + resident["actor"] + _activations(config, size, critic_tokens) + gathered)
    parallel = int(rollout.tensor_model_parallel_size)
    reserved = float(rollout.gpu_memory_utilization) * hardware.memory_gib
    cache = max(0.0, reserved - size.parameters * 2 / parallel / GIB - _ENGINE_ALLOWANCE_GIB) * GIB
    episodes = int(data.train_batch_size) * int(rollout.n)
    each = int(data.max_prompt_length) + int(data.max_response_length)
    steps = config.trainer.total_training_steps
    if steps is None and num_rows is not None:
        steps = num_rows // int(data.train_batch_size) * int(config.trainer.total_epochs)
    return Estimate(
        gpus=gpus,
        states_gib=states,
        resident_gib=sum(resident.values()),
        activations_gib=_activations(config, size, max(actor_tokens, critic_tokens)),
        logits_gib=logits,
        micro_batch_tokens=max(actor_tokens, critic_tokens),
        update_peak_gib=max(peaks),
        rollout_peak_gib=reserved + sum(resident.values()),
        kv_cache_tokens=int(cache / (size.kv_bytes / parallel)),
        host_gib=host * int(config.trainer.n_gpus_per_node) / GIB,
        checkpoint_gib=sum(_checkpoint_shares(config, role) * held for role, held in bytes_of.items()) / GIB,
        episodes_per_step=episodes,
        tokens_per_episode=each,
        steps=None if steps is None else int(steps),
        flops_per_token=float(flops),
        step_s=flops * episodes * each / (gpus * hardware.tflops * 1e12 * hardware.utilization),
    )


def text_of(estimate: Estimate, size: ModelSize, hardware: Hardware) -> str:
    """The estimate for people."""
    e = estimate
    states = ", ".join(f"{role} {value:.1f}" for role, value in e.states_gib.items())
    at_most = e.episodes_per_step * e.tokens_per_episode
    cached = e.kv_cache_tokens // e.tokens_per_episode
    lines = [
        f"Estimate for {e.gpus} GPUs of {hardware.memory_gib:g} GiB (activations, logits and times: rough)",
        f"  model          {size.parameters:,} parameters; critic {size.critic_parameters:,}",
        f"  states         {states} GiB a GPU: parameters, gradients, two moments",
        f"  update         {e.update_peak_gib:.1f} GiB a GPU at the peak, of it {e.activations_gib:.1f} activations "
        f"and {e.logits_gib:.1f} logits of {e.micro_batch_tokens:,} tokens",
        f"  rollout        {e.rollout_peak_gib:.1f} GiB a GPU, of it {e.resident_gib:.1f} of the trainer's",
        f"  KV cache       {size.kv_bytes:,} bytes a token; {e.kv_cache_tokens:,} tokens an engine, {cached} whole "
        "conversations",
        f"  host           {e.host_gib:.1f} GiB a node: reference model, if any, and what is offloaded",
        f"  disk           {e.checkpoint_gib:.1f} GiB a checkpoint, by its save_contents",
        f"  tokens         {e.episodes_per_step:,} episodes a step, at most {at_most:,} tokens",
    ]
    if e.steps is not None:
        lines.append(f"  training       {e.steps:,} steps, {e.steps * e.episodes_per_step:,} episodes, at most "
                     f"{e.steps * at_most:,} tokens")  # fmt: skip
    hours = "" if e.steps is None else f", {e.steps * e.step_s / 3600:.1f} hours in all"
    lines.append(
        f"  trainer's time at most {e.step_s:.0f} s a step{hours}, at {hardware.utilization:.0%} of "
        f"{hardware.tflops:g} TFLOP/s; generation and validation come on top"
    )
    peak = max(e.update_peak_gib, e.rollout_peak_gib)
    if peak > hardware.memory_gib:
        lines.append(
            f"  WARNING: {peak:.1f} GiB are more than a GPU has. Lower actor.ppo_max_token_len_per_gpu or "
            "rollout.gpu_memory_utilization, offload, or take more GPUs."
        )
    return "\n".join(lines)


def _count_rows(config: DictConfig) -> int | None:
    try:
        return sum(1 for _ in read_rows(config, "train_files"))
    except Exception:  # missing or unreadable files: `multiattempt check` says so
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = Hardware()
    parser.add_argument("--gpu-gib", type=float, default=defaults.memory_gib, help="memory of a GPU (default: 80)")
    parser.add_argument("--gpu-tflops", type=float, default=defaults.tflops, help="its peak in bf16 (default: 312)")
    parser.add_argument("--mfu", type=float, default=defaults.utilization, help="share of it reached (default: 0.35)")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="Hydra overrides of the training command")
    args, more = parser.parse_known_args(argv)
    if unknown := [word for word in more if word.startswith("-")]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    for name in ("gpu_gib", "gpu_tflops", "mfu"):
        if not getattr(args, name) > 0:
            parser.error(f"--{name.replace('_', '-')} must be above 0; got {getattr(args, name)}")
    hardware = Hardware(memory_gib=args.gpu_gib, tflops=args.gpu_tflops, utilization=args.mfu)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what verl and transformers print is not part of it
            config = compose_training_config(training_overrides([*args.overrides, *more]))
            size = model_size(str(config.actor_rollout_ref.model.path))
            estimate = make_estimate(config, size, _count_rows(config), hardware)
    except ValueError as error:
        print(f"verl_multiattempt: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(text_of(estimate, size, hardware))
    return 0


if __name__ == "__main__":
    sys.exit(main())
