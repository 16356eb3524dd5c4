"""What has no hook upstream: every replacement of upstream code, in one place.

Each is put in place right after the import of its module. tests/cpu/test_patches.py fails when the patched upstream
code changes, so a new release of verl is looked at before it is trusted.
"""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from verl_multiattempt.cpu.import_hooks import after_import


def _use_one_backend_for_process_group(module: ModuleType) -> None:
    """Initialise the trainer's process group with ``cpu:gloo``.

    verl 0.9.1, verl/utils/distributed.py:89 builds ``cpu:gloo,<device>:<backend>``, and torch rejects the ``cpu``
    twice; verl/workers/engine_workers.py:89 calls it without the argument ``backend`` that would help.
    """
    upstream = module.initialize_global_process_group_ray

    @functools.wraps(upstream)
    def initialize_global_process_group_ray(timeout_second: float | None = None, backend: str | None = None) -> Any:
        return upstream(timeout_second=timeout_second, backend=backend or "cpu:gloo")

    module.initialize_global_process_group_ray = initialize_global_process_group_ray  # type: ignore[attr-defined]


def _register_engines(module: ModuleType) -> None:
    """Register the FSDP engines for the device ``cpu`` as soon as they exist.

    No replacement, only a registration, but ``model.external_lib`` (verl's hook for it) is not imported in the
    critic's process: the driver builds the critic's model config and sends it pickled.
    """
    from verl_multiattempt.cpu import engines

    engines.register(module)


def _use_watched_weight_sync(module: ModuleType) -> None:
    """Let verl find the client whose weight sync cannot hang under the name ``vllm``.

    verl 0.9.1, verl/workers/rollout/base.py: ``_ROLLOUT_REGISTRY`` has no function to register with.
    """
    module._ROLLOUT_REGISTRY[("vllm", "async")] = "verl_multiattempt.cpu.sync.CpuServerAdapter"


def install() -> None:
    """Put every patch in place, now or as soon as its module is imported."""
    after_import("verl.utils.distributed", _use_one_backend_for_process_group)
    after_import("verl.workers.rollout.base", _use_watched_weight_sync)
    after_import("verl.workers.engine.fsdp.transformer_impl", _register_engines)
