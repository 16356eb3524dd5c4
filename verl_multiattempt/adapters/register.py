"""Target of the entry point group ``verl.plugins``: imported at the end of ``import verl`` in every process.

It must be light, and it must not fail: verl 0.9.1 hides what a plugin raises (``verl/__init__.py``, a debug message).
So nothing that training relies on happens here alone: the recipe names its classes by import path, and
`check_worker_process` makes a missing plugin an error.
"""

from __future__ import annotations

import logging
import os
from importlib.metadata import entry_points

from verl_multiattempt.cpu import activate

ENTRY_POINT = "multiattempt"
GROUP = "verl.plugins"


def plugin_problem() -> str | None:
    """Why ``import verl`` would not load this plugin in this environment; None where it does."""
    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto").strip()
    if policy.lower() != "auto" and ENTRY_POINT not in {name.strip() for name in policy.lower().split(",")}:
        return (
            f"VERL_USE_EXTERNAL_PLUGINS must be auto or name {ENTRY_POINT}; got {policy!r}. "
            "Unset it, or add the name to it."
        )
    if not any(point.name == ENTRY_POINT for point in entry_points(group=GROUP)):
        return (
            f"the entry point {ENTRY_POINT} of group {GROUP} must be installed in every Ray worker's environment; "
            "got none. Run pip install verl-multiattempt there."
        )
    return None


def check_worker_process() -> None:
    """Ray's ``worker_process_setup_hook`` of the recipe: refuse to run in a worker without the plugin.

    Raises:
        RuntimeError: the plugin is not loaded by ``import verl`` here.
    """
    if problem := plugin_problem():
        raise RuntimeError(f"verl_multiattempt: {problem}")


def _activate() -> None:
    try:
        activate()
    except Exception:
        # verl would hide it at debug level.
        logging.getLogger(__name__).exception("verl_multiattempt: the CPU stack could not be set up")
        raise


_activate()
