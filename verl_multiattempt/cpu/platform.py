"""verl's platform ``cpu``: what verl asks of an accelerator, answered by a machine that has none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import psutil
import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry
from verl.plugin.platform import platform_manager as _manager

logger = logging.getLogger(__name__)


def _no_operation(*_args: object, **_kwargs: object) -> None:
    return None


def _resident_bytes(*_args: object, **_kwargs: object) -> int:
    return psutil.Process().memory_info().rss


def _memory_info(*_args: object, **_kwargs: object) -> tuple[int, int]:
    memory = psutil.virtual_memory()
    return memory.available, memory.total


def _make_device_module() -> ModuleType:
    """Build a module with the functions of ``torch.cpu`` and those of ``torch.cuda`` that verl calls.

    Memory functions report the process's resident memory (``max_*`` as well: there is no cheap high-water mark that
    can be reset), so verl's ``perf/max_memory_allocated_gb`` keeps a meaning.
    """
    module = ModuleType("verl_multiattempt_cpu_device", "torch.cpu, plus memory and RNG functions of torch.cuda.")
    for name in ("Event", "Stream", "StreamContext", "current_stream", "device_count", "stream", "synchronize"):
        setattr(module, name, getattr(torch.cpu, name))
    # False: verl asks this before it empties caches, reads device memory or records memory history.
    module.is_available = lambda: False  # type: ignore[attr-defined]
    module.current_device = lambda: torch.device("cpu")  # type: ignore[attr-defined]
    module.get_device_name = lambda *_: "cpu"  # type: ignore[attr-defined]
    module.mem_get_info = _memory_info  # type: ignore[attr-defined]
    for name in ("memory_allocated", "memory_reserved", "max_memory_allocated", "max_memory_reserved"):
        setattr(module, name, _resident_bytes)
    for name in (
        "set_device",
        "empty_cache",
        "ipc_collect",
        "set_per_process_memory_fraction",
        "reset_peak_memory_stats",
    ):
        setattr(module, name, _no_operation)
    module.get_rng_state = lambda *_: torch.get_rng_state()  # type: ignore[attr-defined]
    module.set_rng_state = lambda state, *_: torch.set_rng_state(state)  # type: ignore[attr-defined]
    module.manual_seed = torch.manual_seed  # type: ignore[attr-defined]
    module.manual_seed_all = torch.manual_seed  # type: ignore[attr-defined]
    return module


_DEVICE_MODULE = _make_device_module()


class PlatformCPU(PlatformBase):
    """A machine without an accelerator.

    Ray still schedules by its resource ``GPU``, of which ``ray_kwargs.ray_init.num_gpus`` declares as many as the run
    has workers; verl's placement groups then work without hardware.
    """

    @property
    def device_name(self) -> str:
        """The device type of torch."""
        return "cpu"

    @property
    def vendor_name(self) -> str:
        """No vendor: engines are looked up by device type alone."""
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        """``torch.cpu`` with the functions that verl expects of ``torch.cuda``."""
        return _DEVICE_MODULE

    def is_available(self) -> bool:
        """A CPU is always there."""
        return True

    def current_device(self) -> int:
        """Return ``torch.device("cpu")``: verl passes it to ``Tensor.to``, where an index means an accelerator."""
        return torch.device("cpu")

    def device_count(self) -> int:
        """One."""
        return 1

    def set_device(self, device_index: int) -> None:
        """Nothing to select."""

    def synchronize(self, device_index: int | None = None) -> None:
        """Nothing to wait for."""

    def manual_seed(self, seed: int) -> None:
        """Seed torch's generator."""
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        """Seed torch's generator."""
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        """The host's allocator has no such settings."""

    def empty_cache(self) -> None:
        """The host's allocator has no cache to empty."""

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        """No compute capability."""
        return None, None

    def communication_backend_name(self) -> str:
        """Gloo."""
        return "gloo"

    def visible_devices_envvar(self) -> str:
        """The variable that Ray sets for its resource ``GPU``; on this platform it only numbers the workers."""
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        """No profiler ranges."""
        yield

    def profiler_start(self) -> None:
        """No device profiler."""

    def profiler_stop(self) -> None:
        """No device profiler."""

    def ray_resource_name(self) -> str:
        """The resource that the placement groups ask for; declared, not detected."""
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        """As on CUDA: Ray must leave the numbering of the workers to verl."""
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        """No device IPC: weights go from trainer to vLLM through shared memory."""
        return False

    def cudart(self) -> Any:
        """No CUDA runtime."""
        return None


def register() -> None:
    """Register the platform as ``cpu`` and make it this process's platform."""
    PlatformRegistry.register(platform="cpu")(PlatformCPU)
    current = _manager._current_platform
    if current is None or not isinstance(current, PlatformCPU):
        _manager.set_platform(PlatformCPU())
