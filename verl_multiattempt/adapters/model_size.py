"""How large a model is, from its config alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """What of a model the estimate needs."""

    parameters: int
    """Of the language model; a tied head is counted once, as it is stored."""
    critic_parameters: int
    """Of the critic: the same model with a head of one number for each token."""
    hidden: int
    intermediate: int
    layers: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @property
    def kv_bytes(self) -> int:
        """Bytes of KV cache for one token in bf16: key and value, of each layer and KV head."""
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


def model_size(path: str) -> ModelSize:
    """Count a model's parameters without loading it.

    Args:
        path: name on the hub or folder; only its ``config.json`` is read.

    Raises:
        ValueError: there is no readable config of a causal language model.
    """
    from transformers import AutoConfig

    try:
        return size_of(AutoConfig.from_pretrained(path))
    except Exception as error:  # hub, file system, unknown architectures
        raise ValueError(
            f"actor_rollout_ref.model.path must name a causal language model; got {path!r}: {error}"
        ) from error


def size_of(config: Any) -> ModelSize:
    """The size of the model that a transformers config describes."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForTokenClassification

    config.num_labels = 1
    with torch.device("meta"):
        actor = AutoModelForCausalLM.from_config(config)
        critic = AutoModelForTokenClassification.from_config(config)
    heads = config.num_attention_heads
    return ModelSize(
        parameters=sum(p.numel() for p in actor.parameters()),
        critic_parameters=sum(p.numel() for p in critic.parameters()),
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        layers=config.num_hidden_layers,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=config.vocab_size,
    )
