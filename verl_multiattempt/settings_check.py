"""All that is wrong with the settings, where `Settings` itself stops at the first."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from verl_multiattempt.settings import SettingError, Settings

MAX_TOLD = 10
"""Problems that are told; with more, the rest shows when these are mended."""

# Keys whose values are checked against each other: with one of them wrong, nothing can be said of the others.
_CHECKED_AGAINST = {
    "min_attempts": ("weights",),
    "max_attempts": ("min_attempts", "weights"),
    "distribution": ("weights",),
    "min_tokens_per_attempt": ("max_tokens_per_attempt",),
}


def settings_problems(values: Any) -> list[str]:
    """One sentence for each value that cannot work; empty where `Settings.from_mapping` takes them.

    A value found wrong is left to its default, and the rest is checked again.

    Args:
        values: as for `Settings.from_mapping`.
    """
    return mend_settings(values)[1]


def mend_settings(values: Any) -> tuple[Settings, list[str]]:
    """The settings with the defaults of those that cannot work (all of them, where too many cannot), and the problems.

    Args:
        values: as for `Settings.from_mapping`.
    """
    problems: list[str] = []
    values = deepcopy(values)
    while len(problems) < MAX_TOLD:
        try:
            return Settings.from_mapping(values), problems
        except SettingError as error:
            problems.append(str(error))
            if not error.key or not _leave_out(values, error.key):
                break
    return Settings(), problems


def _leave_out(values: dict[str, Any], key: str) -> bool:
    """Take a key out, with those that are checked against it; False where it is not there (its default is wrong)."""
    *parents, name = key.split(".")
    node: Any = values
    for parent in parents:
        node = node.get(parent) if isinstance(node, Mapping) else None
    if not isinstance(node, dict) or name not in node:
        return False
    del node[name]
    for other in _CHECKED_AGAINST.get(key, ()):
        values.pop(other, None)
    if "weights" not in values and values.get("distribution") == "weighted":
        del values["distribution"]
    return True
