"""vLLM's side of the weight sync on CPU."""

from __future__ import annotations

import logging
from typing import Any

import torch
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

logger = logging.getLogger(__name__)


class CpuWorkerExtension(vLLMColocateWorkerExtension):
    """Receives the trainer's weights and reloads the model from them.

    On CPU vLLM repacks the linear weights once they are loaded, so verl's ``model.load_weights`` fails with
    "'Parameter' object has no attribute 'weight_loader'" (verl 0.9.1,
    verl/workers/rollout/vllm_rollout/utils.py:_update_weights). vLLM's own ``reload_weights`` undoes the repacking,
    but needs all weights at once.

    Given to vLLM by ``actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls``.
    """

    def update_weights_from_ipc(
        self, peft_config: dict[str, Any] | None = None, base_sync_done: bool = False, use_shm: bool = False
    ) -> None:
        """Take over the trainer's weights.

        Every bucket is received and acknowledged before anything can fail: the trainer waits for the
        acknowledgements in a blocking call and would not see the error otherwise.

        Raises:
            RuntimeError: The weights could not be received completely or loaded.
        """
        weights: dict[str, torch.Tensor] = {}
        failures: list[Exception] = []

        def keep(bucket: list[tuple[str, torch.Tensor]], _is_last: bool) -> None:
            try:
                # Clone: the buffer in shared memory is overwritten by the next bucket.
                weights.update((name, tensor.clone()) for name, tensor in bucket)
            except Exception as error:
                failures.append(error)

        receiver = BucketedWeightReceiver(
            zmq_handle=self._get_zmq_handle(), device=torch.device("cpu"), use_shm=use_shm
        )
        receiver.receive_weights(on_bucket_received=keep)
        if failures:
            raise RuntimeError(f"weight sync failed while receiving: {failures[0]}") from failures[0]
        if peft_config and base_sync_done:
            raise RuntimeError("weight sync on CPU cannot load a LoRA adapter; set model.lora.merge=True")
        self._load(weights)

    def _load(self, weights: dict[str, torch.Tensor]) -> None:
        self.model_runner.reload_weights(weights_iterator=iter(weights.items()))
