"""Finding the reward function that the config names, and checking it before anything is decided with it."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import logging
import os
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from verl_multiattempt.verifier_worker import describe

logger = logging.getLogger(__name__)

ARGUMENTS = ("data_source", "solution_str", "ground_truth", "extra_info")
"""What verl calls a reward function with."""


def load_function(path: str | None, name: str, reward_kwargs: Mapping[str, Any]) -> Callable[..., Any]:
    """The reward function; verl's own where ``path`` is None.

    Raises:
        ValueError: it cannot be loaded, or does not take verl's arguments and ``reward_kwargs``.
    """
    if path is None:
        from verl.utils.reward_score import default_compute_score

        return _checked(default_compute_score, name, reward_kwargs)
    try:
        module = load_module(path)
    except FileNotFoundError as error:
        raise ValueError(
            f"reward.custom_reward_function.path must name a file or pkg://package.module; got {path!r}. "
            "There is no such file; the path counts from the folder in which the command runs."
        ) from error
    except (Exception, SystemExit) as error:  # the module is a user's own and may raise anything
        raise ValueError(
            f"reward.custom_reward_function.path must name a module that can be loaded; got {path!r}. "
            f"Mend what it raised, {describe(error)}"
        ) from error
    if not callable(getattr(module, name, None)):
        raise ValueError(
            f"reward.custom_reward_function.name must be a function in {path}; got {name!r}. "
            "Define one of that name there, or name another."
        )
    return _checked(getattr(module, name), name, reward_kwargs)


def _checked(function: Any, name: str, reward_kwargs: Mapping[str, Any]) -> Callable[..., Any]:
    try:
        signature = inspect.signature(function)
    except ValueError:
        return function  # of C, without a signature
    try:
        signature.bind(**dict.fromkeys(ARGUMENTS), **reward_kwargs)
    except TypeError as error:
        given = ", ".join((*ARGUMENTS, *reward_kwargs))
        raise ValueError(
            f"reward.custom_reward_function.name must be a function of ({given}); got {name!r}. "
            f"Change its parameters: {error}."
        ) from error
    return function


def load_module(path: str) -> ModuleType:
    """The module at ``path``, as verl's ``load_module`` finds it: ``pkg://package.module``, ``file://`` or a file name.

    Not verl's own function: importing verl takes seconds and starts threads, after which the pool's processes cannot
    be forked any more, and most reward functions do not need it.

    Raises:
        FileNotFoundError: there is no such file.
        Exception: whatever the module raises.
    """
    if path.startswith("pkg://"):
        return importlib.import_module(path.removeprefix("pkg://").replace("/", "."))
    path = os.path.abspath(path.removeprefix("file://"))
    if not os.path.isfile(path):
        raise FileNotFoundError(path)
    spec = importlib.util.spec_from_file_location(f"multiattempt_reward_{abs(hash(path)):x}", path)
    if spec is None or spec.loader is None:
        raise ImportError("its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def unknown_source(data_source: str) -> str:
    """The sentence for a row that verl's own function cannot decide."""
    return (
        f"data_source must be one that verl's default_compute_score knows; got {data_source!r}. "
        "Set reward.custom_reward_function.path to a function of your own."
    )


def check_source(data_source: str, reward_kwargs: Mapping[str, Any]) -> None:
    """Check that verl's own function can decide rows of ``data_source``, without deciding one.

    It is called with a text that is no text: what it chooses for the source fails on that at once, before it runs
    code, starts a process or asks a server.

    Raises:
        ValueError: it knows no such source, or lacks a package for it.
    """
    from verl.utils.reward_score import default_compute_score

    no_text = object()
    try:
        default_compute_score(data_source, no_text, no_text, {}, **reward_kwargs)
    except NotImplementedError as error:
        raise ValueError(unknown_source(data_source)) from error
    except ImportError as error:
        raise ValueError(
            f"data_source must be one whose reward function verl can import; got {data_source!r}: {error}. "
            "Install the package, or set reward.custom_reward_function.path to a function of your own."
        ) from error
    except Exception as error:
        logger.debug("verl's reward function for %s is there: %r", data_source, error)
