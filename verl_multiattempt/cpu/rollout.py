"""The weight sync on CPU, vLLM's side: runs inside vLLM's worker."""

from __future__ import annotations

import logging
from typing import Any

import torch
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension
from vllm.config import set_current_vllm_config
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from verl_multiattempt.cpu.weight_socket import node_socket

# vLLM warns at every sync about layers without weights in a checkpoint (RotaryEmbedding); `_load` checks completeness.
logging.getLogger("vllm.model_executor.model_loader.reload.layerwise").addFilter(
    lambda record: "Failed to load weights" not in str(record.msg)
)


class CpuWorkerExtension(vLLMColocateWorkerExtension):
    """Receives the trainer's weights and reloads the model from them.

    On CPU vLLM repacks the linear weights once they are loaded, so verl's ``model.load_weights`` fails with
    "'Parameter' object has no attribute 'weight_loader'" (verl 0.9.1,
    verl/workers/rollout/vllm_rollout/utils.py:_update_weights). vLLM's layerwise reload undoes the repacking, but
    needs all weights at once.

    Given to vLLM by ``actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls``.
    """

    def update_weights_from_ipc(
        self,
        peft_config: dict[str, Any] | None = None,
        base_sync_done: bool = False,
        use_shm: bool = False,
        *,
        node: str,
    ) -> None:
        """Take over the trainer's weights.

        Every bucket is received and acknowledged before a weight is loaded, so that the trainer is not left waiting
        for an acknowledgement when loading fails.

        Args:
            peft_config: as verl's.
            base_sync_done: as verl's.
            use_shm: as verl's.
            node: the trainer's Ray node (see `node_socket`).

        Raises:
            RuntimeError: The weights are not all there, or not what the model needs.
        """
        weights: dict[str, torch.Tensor] = {}

        def keep(bucket: list[tuple[str, torch.Tensor]], _is_last: bool) -> None:
            # Clone: the buffer in shared memory is overwritten by the next bucket.
            weights.update((name, tensor.clone()) for name, tensor in bucket)

        receiver = BucketedWeightReceiver(
            zmq_handle=node_socket(self._get_zmq_handle(), node), device=torch.device("cpu"), use_shm=use_shm
        )
        receiver.receive_weights(on_bucket_received=keep)
        if peft_config and base_sync_done:
            raise RuntimeError("weight sync on CPU cannot load a LoRA adapter; set actor_rollout_ref.model.lora.merge")
        with set_current_vllm_config(self.model_runner.vllm_config):
            self._load(weights)

    def _load(self, weights: dict[str, torch.Tensor]) -> None:
        """Reload the model from ``weights``: the full state in checkpoint format, name -> tensor."""
        model = self.model_runner.get_model()
        expected = {name for name, _ in model.named_parameters()}
        initialize_layerwise_reload(model)
        loaded = model.load_weights(iter(weights.items()))
        finalize_layerwise_reload(model, self.model_runner.model_config)
        if missing := sorted(expected - (expected if loaded is None else loaded)):
            raise RuntimeError(
                f"weight sync did not deliver {len(missing)} of vLLM's weights: {', '.join(missing[:5])}"
            )
        for module in model.modules():
            # A tied head shares its weight with the embedding and is not reloaded by itself, but multiplies with a
            # packed copy made at load time (vllm/model_executor/layers/utils.py:dispatch_cpu_unquantized_gemm).
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)
