"""verl's FSDP engines, registered for the device ``cpu``."""

from __future__ import annotations

import dataclasses
import warnings
from types import ModuleType

import torch
from transformers import AutoModelForTokenClassification
from verl.models.transformers.monkey_patch import apply_monkey_patch
from verl.utils.fsdp_utils import get_init_weight_context_manager
from verl.utils.torch_dtypes import PrecisionType
from verl.workers.config import FSDPEngineConfig
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

BACKEND = "fsdp2"


class _ResidentParameters:
    """Keeps a forward-only model (the reference policy) where it is.

    verl's FSDP2 engine offloads its parameters to pinned host memory (verl 0.9.1,
    verl/workers/engine/fsdp/transformer_impl.py:_build_fsdp_module), and torch pins memory only for an accelerator.
    """

    engine_config: FSDPEngineConfig

    def _build_fsdp_module(self, module: torch.nn.Module) -> torch.nn.Module:
        config = self.engine_config
        self.engine_config = dataclasses.replace(config, forward_only=False)  # asked only whether to offload there
        try:
            return super()._build_fsdp_module(module)  # type: ignore[misc]
        finally:
            self.engine_config = config


class CpuFSDPEngineWithLMHead(_ResidentParameters, FSDPEngineWithLMHead):
    """The engine of actor and reference policy."""


class CpuFSDPEngineWithValueHead(_ResidentParameters, FSDPEngineWithValueHead):
    """The critic's engine, with a model that needs no flash attention.

    verl's own loader asks for flash_attention_2 whatever the config says, and reports the failure as a missing
    ``trl`` (verl 0.9.1, verl/utils/model.py:641 load_valuehead_model).
    """

    def _build_module(self) -> torch.nn.Module:
        """Load a token classifier with one label (the value of each token), as verl does, with sdpa attention."""
        if self.model_config.model_type != "value_model":
            raise ValueError(f"model_type must be 'value_model'; got {self.model_config.model_type!r}")
        hf_config = self.model_config.hf_config
        hf_config.num_labels = 1
        hf_config.classifier_dropout = 0.0
        hf_config.hidden_dropout = "0"
        hf_config.summary_dropout_prob = 0.0
        dtype = PrecisionType.to_dtype(self.engine_config.model_dtype or "fp32")
        # As upstream: ranks above 0 build on the meta device and receive their shards from rank 0, unless a tied
        # embedding forbids it.
        init_context = get_init_weight_context_manager(
            use_meta_tensor=not hf_config.tie_word_embeddings, mesh=self.device_mesh
        )
        with init_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = AutoModelForTokenClassification.from_pretrained(
                self.model_config.local_path,
                dtype=dtype,
                config=hf_config,
                attn_implementation="sdpa",
                trust_remote_code=self.model_config.trust_remote_code,
            )
            apply_monkey_patch(
                model=module,
                use_remove_padding=self.use_remove_padding,
                ulysses_sp_size=self.ulysses_sequence_parallel_size,
            )
            module.to(dtype)
            if self.model_config.enable_gradient_checkpointing:
                module.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        return module


def register(_module: ModuleType | None = None) -> None:
    """Register the engines; the argument lets this be an import hook's callback."""
    EngineRegistry.register(model_type="language_model", backend=BACKEND, device="cpu")(CpuFSDPEngineWithLMHead)
    EngineRegistry.register(model_type="value_model", backend=BACKEND, device="cpu")(CpuFSDPEngineWithValueHead)
