"""Run by test_feedback_gradients.py: real updates of verl's actor and critic, with targets changed here and there.

Usage: python gradient_probe.py FOLDER. Prints one JSON object as the last line.

The episodes are made by the package's agent loop, the workers and losses are verl's, made as its trainer makes them.
Where verl derives the actor's targets (by rolling the input ids, in its engine's ``prepare_model_inputs``), they are
changed on their way out; the inputs stay as they are.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
os.environ.update(
    RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
)

import torch
import verl  # noqa: F401  (activates the CPU stack)
from omegaconf import DictConfig
from tensordict import TensorDict
from transformers import Qwen2Config, Qwen2ForCausalLM
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.engine_workers import TrainingWorker, TrainingWorkerConfig
from verl.workers.utils.losses import ppo_loss, value_loss

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.adapters.harness import compose_config, run_attempts
from tests.tokenizers import make_tokenizer

TEXTS = [
    ["It is \\boxed{1}.<|im_end|>", "No, \\boxed{2}<|im_end|>", "Then \\boxed{42}.<|im_end|>"],
    ["I do not know.<|im_end|>", "Perhaps \\boxed{7}", "\\boxed{42}<|im_end|>"],
    ["\\boxed{42}<|im_end|>"],
]
PER_TOKEN = ("old_log_probs", "ref_log_prob", "advantages", "values", "returns")
Change = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""``(numbers, mask) -> numbers``, each ``[response_len]`` of one episode."""


def make_model(folder: Path) -> None:
    """A random Qwen2 with the tokenizer of the tests."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, initializer_range=0.2,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def make_config(folder: Path) -> DictConfig:
    """verl's config for an update of all episodes at once, with the losses of the paper's recipe."""
    return compose_config(
        f"actor_rollout_ref.model.path={folder}", f"critic.model.path={folder}",
        "actor_rollout_ref.actor.use_dynamic_bsz=true", "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=4096",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={len(TEXTS)}", "actor_rollout_ref.actor.optim.lr=1e-3",
        "actor_rollout_ref.actor.optim.total_training_steps=1", "critic.optim.total_training_steps=1",
    )  # fmt: skip


def nested(rows: list[torch.Tensor]) -> torch.Tensor:
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def make_batch() -> TensorDict:
    """The episodes as verl's trainer hands them to its workers, with numbers for every response token."""
    tokenizer = make_tokenizer()
    outputs = [
        asyncio.run(run_attempts([tokenizer.encode(text, add_special_tokens=False) for text in texts]))[0]
        for texts in TEXTS
    ]
    prompts = [torch.tensor(output.prompt_ids) for output in outputs]
    responses = [torch.tensor(output.response_ids) for output in outputs]
    masks = [torch.tensor(output.response_mask) for output in outputs]
    whole = [torch.cat(pair) for pair in zip(prompts, responses, strict=True)]
    random = torch.Generator().manual_seed(1)
    numbers = {name: nested([torch.randn(len(ids), generator=random) for ids in responses]) for name in PER_TOKEN}
    return TensorDict(
        {
            "prompts": nested(prompts), "responses": nested(responses), "input_ids": nested(whole),
            "position_ids": nested([torch.arange(len(ids)) for ids in whole]),
            "response_mask": nested(masks), "loss_mask": nested(masks), **numbers,
        },
        batch_size=len(TEXTS),
    )  # fmt: skip


def changed_numbers(batch: TensorDict, names: tuple[str, ...], change: Change) -> TensorDict:
    """A copy of the batch with what stands at some response tokens changed."""
    batch = batch.clone()
    masks = batch["response_mask"].unbind()
    for name in names:
        batch[name] = nested([change(row, mask) for row, mask in zip(batch[name].unbind(), masks, strict=True)])
    return batch


def at_feedback(numbers: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask == 0, numbers + 5, numbers)


def at_one_model_token(numbers: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    first = int((mask == 1).nonzero()[0])
    return torch.where(torch.arange(len(mask)) == first, numbers + 5, numbers)


def target_places(micro_batch: TensorDict, which: str) -> Iterator[int]:
    """Where the targets of some tokens stand: the target of a token is at the place of the token before it."""
    start = 0
    rows = zip(micro_batch["prompts"].unbind(), micro_batch["response_mask"].unbind(), strict=True)
    for prompt, mask in rows:
        kinds = ["prompt"] * len(prompt) + ["model" if value else "feedback" for value in mask.tolist()]
        places = [start + i - 1 for i, kind in enumerate(kinds) if kind == which.removeprefix("one ") and i > 0]
        yield from places[:1] if which.startswith("one ") else places
        start += len(kinds)


def watch(worker: TrainingWorker, which: str | None) -> dict[str, Any]:
    """Change the worker's targets of ``which`` tokens, and keep its gradients as its optimizer gets them."""
    engine = worker.engine
    seen: dict[str, Any] = {"targets": 0, "inputs": []}
    for name in ("prepare_model_inputs", "optimizer_step"):
        vars(engine).pop(name, None)  # those of the last update: a reset keeps the engine
    prepare, step = engine.prepare_model_inputs, engine.optimizer_step

    def prepare_model_inputs(micro_batch: TensorDict) -> tuple[Any, Any]:
        inputs, extra = prepare(micro_batch)
        seen["inputs"].append(inputs["input_ids"].tolist())
        if which is not None:
            targets = extra["input_ids_rmpad_rolled"].clone()
            places = torch.tensor(list(target_places(micro_batch, which)))
            targets[places] = (targets[places] + 1) % 256
            extra["input_ids_rmpad_rolled"] = targets
            seen["targets"] += len(places)
        return inputs, extra

    def optimizer_step() -> float:
        seen["gradients"] = digest(p.grad for p in engine.module.parameters())
        return step()

    engine.prepare_model_inputs, engine.optimizer_step = prepare_model_inputs, optimizer_step
    return seen


def digest(tensors: Iterator[Any]) -> str:
    """A hash of all bits."""
    sha = hashlib.sha256()
    for tensor in tensors:
        whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        sha.update(whole.detach().contiguous().numpy().tobytes())
    return sha.hexdigest()


def make_actor(config: DictConfig) -> TrainingWorker:
    """As verl.workers.engine_workers.ActorRolloutRefWorker.init_model."""
    actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
    engine = actor.engine
    engine.use_dynamic_bsz = True
    engine.max_token_len_per_gpu = config.actor_rollout_ref.actor.ppo_max_token_len_per_gpu
    worker = TrainingWorker(TrainingWorkerConfig(
        model_type="language_model", model_config=omega_conf_to_dataclass(config.actor_rollout_ref.model),
        engine_config=engine, optimizer_config=actor.optim, checkpoint_config=actor.checkpoint,
    ))  # fmt: skip
    worker.set_loss_fn(partial(ppo_loss, config=actor))
    return worker


def make_critic(config: DictConfig) -> TrainingWorker:
    """As verl.trainer.ppo.v1.trainer_base.PPOTrainer._setup."""
    critic = omega_conf_to_dataclass(config.critic)
    critic.engine.max_token_len_per_gpu = critic.ppo_infer_max_token_len_per_gpu
    worker = TrainingWorker(TrainingWorkerConfig(
        model_type="value_model", model_config=critic.model, engine_config=critic.engine,
        optimizer_config=critic.optim, checkpoint_config=critic.checkpoint,
    ))  # fmt: skip
    worker.set_loss_fn(partial(value_loss, config=critic))
    return worker


def update(worker: TrainingWorker, batch: TensorDict, which: str | None = None) -> dict[str, Any]:
    """One update from the first weights, as the trainer's _update_actor and _update_critic ask for it."""
    torch.manual_seed(0)  # the critic's head is drawn
    worker.reset()
    before = digest(iter(worker.engine.module.parameters()))
    seen = watch(worker, which)
    batch = batch.clone()
    tu.assign_non_tensor(
        batch, global_batch_size=len(TEXTS), mini_batch_size=len(TEXTS), epochs=1, seed=42,
        dataloader_kwargs={"shuffle": False}, temperature=1.0, calculate_entropy=False,
    )  # fmt: skip
    worker.train_mini_batch(batch)
    after = digest(iter(worker.engine.module.parameters()))
    seen["inputs"] = hashlib.sha256(json.dumps(seen["inputs"]).encode()).hexdigest()
    return {**seen, "before": before, "after": after}


def main(folder: Path) -> dict[str, Any]:
    make_model(folder)
    config, batch = make_config(folder), make_batch()
    masks = batch["response_mask"].values()
    result: dict[str, Any] = {"model_tokens": int(masks.sum()), "feedback_tokens": int((masks == 0).sum())}
    actor = make_actor(config)
    on_actor = ("old_log_probs", "ref_log_prob", "advantages")
    result["actor"] = {
        "plain": update(actor, batch),
        "plain again": update(actor, batch),
        "feedback targets": update(actor, batch, "feedback"),
        "prompt targets": update(actor, batch, "prompt"),
        "one model target": update(actor, batch, "one model"),
        "feedback numbers": update(actor, changed_numbers(batch, on_actor, at_feedback)),
        "one model number": update(actor, changed_numbers(batch, on_actor, at_one_model_token)),
    }
    critic = make_critic(config)
    result["critic"] = {
        "plain": update(critic, batch),
        "plain again": update(critic, batch),
        "feedback numbers": update(critic, changed_numbers(batch, ("values", "returns"), at_feedback)),
        "one model number": update(critic, changed_numbers(batch, ("values", "returns"), at_one_model_token)),
    }
    return result


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))), flush=True)
    os._exit(0)
