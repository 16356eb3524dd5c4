"""Which engine an evaluation gets: its arguments, checked before anything is loaded, and its making."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from verl_multiattempt.evaluation.engine import Engine
from verl_multiattempt.evaluation.settings import EvaluationSettings

_OWN = {
    "vllm": ("tokenizer", "dtype", "tensor_parallel_size", "gpu_memory_utilization", "max_model_len"),
    "openai": ("tokenizer", "base_url", "api_key_env", "timeout_s"),
}
"""The arguments of each engine."""


def check_engine_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The engine's kind and the arguments of it that were given.

    Raises:
        ValueError: an argument is another engine's, or cannot work.
    """
    kind = args.engine or ("openai" if args.base_url else "vllm")
    given = {
        name: value
        for name in dict.fromkeys(name for names in _OWN.values() for name in names)
        if (value := getattr(args, name)) is not None
    }
    for name in given:
        if name not in _OWN[kind]:
            raise ValueError(f"--{name.replace('_', '-')} must go without the engine {kind}; got {given[name]!r}")
    if kind == "openai" and "base_url" not in given:
        raise ValueError(
            "--base-url must be given with --engine openai; got nothing. It is the server's address and /v1."
        )
    if kind == "openai" and not _is_url(given["base_url"]):
        raise ValueError(f"--base-url must be an address such as http://localhost:8000/v1; got {given['base_url']!r}")
    for name in ("tensor_parallel_size", "max_model_len", "timeout_s"):
        if name in given and not given[name] > 0:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0; got {given[name]!r}")
    share = given.get("gpu_memory_utilization", 1)
    if not 0 < share <= 1:
        raise ValueError(f"--gpu-memory-utilization must be above 0 and at most 1; got {share!r}")
    return {"kind": kind, **given}


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        _ = parts.port  # refuses one that is no number
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and not any(map(str.isspace, text))


def make_engine(settings: EvaluationSettings, cache_dir: Path) -> Engine:
    """The engine of an evaluation; it is not started yet.

    Args:
        settings: of the evaluation.
        cache_dir: where a checkpoint of verl's trainer is merged to.

    Raises:
        ValueError, OSError: the model, its chat template or the server's key cannot be used.
    """
    arguments = dict(settings.engine)
    kind = arguments.pop("kind")
    if settings.concurrency is not None:
        arguments["max_open"] = settings.concurrency
    if kind == "openai":
        from verl_multiattempt.evaluation.openai_engine import OpenAIEngine

        if name := arguments.pop("api_key_env", None):
            if not os.environ.get(name):
                raise ValueError(f"--api-key-env must name an environment variable that is set; got {name!r}")
            arguments["api_key"] = os.environ[name]
        return OpenAIEngine(settings.model, settings.task, **arguments)
    from verl_multiattempt.evaluation.checkpoint import resolve_model
    from verl_multiattempt.evaluation.vllm_engine import VllmEngine

    return VllmEngine(resolve_model(settings.model, cache_dir), settings.task, **arguments)
