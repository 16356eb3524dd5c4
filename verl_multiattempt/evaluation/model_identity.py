"""What tells one model from another: the content of the files that are loaded, the hub's commit, a label."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from verl_multiattempt.cli_errors import UsageError
from verl_multiattempt.evaluation.checkpoint import is_hub_name, locate_model
from verl_multiattempt.evaluation.settings import EvaluationSettings

COMMITS = ("model_commit", "tokenizer_commit")
"""Names under which commits stand; None where they cannot be told, as before a model's first download."""
_SMALL = (".json", ".jinja", ".txt", ".model", ".py", ".tiktoken", ".vocab", ".bpe")
"""Endings of the files beside the weights that decide what a model says: its configuration, tokenizer and template."""
_NOT_LOADED = ("settings.json", "results.json", "trainer_state.json", "metrics.json")
_WHOLE_BYTES = 256 * 2**20
_NUM_PIECES, _PIECE_BYTES = 1024, 2**16
_NOT_OF_RUN = ("/", "huggingface", "actor", "checkpoints")


def model_identity(settings: EvaluationSettings) -> dict[str, Any]:
    """Fingerprints of the local files of model and tokenizer; None for what is on the hub or at a server.

    Raises:
        ValueError: the model is a folder with nothing to load.
        UsageError: a file cannot be read.
    """
    served = settings.engine.get("kind") == "openai"
    values: dict[str, Any] = {"model_fingerprint": None, "tokenizer_fingerprint": None}
    path = Path(settings.model).expanduser()
    try:
        source = locate_model(settings.model)
    except ValueError:
        if not served:
            raise
        source = None  # a server's models have names of its own
    if source is not None:
        values |= {"model": str(path.resolve()), "model_fingerprint": fingerprint(source.folder, source.weights)}
    if tokenizer := settings.engine.get("tokenizer"):
        folder = Path(tokenizer).expanduser()
        if folder.is_dir():
            values["tokenizer_fingerprint"] = fingerprint(folder)
    return values


def commits(settings: EvaluationSettings) -> dict[str, str | None]:
    """The commits of hub names in the local cache."""
    tokenizer = settings.engine.get("tokenizer")
    served = settings.engine.get("kind") == "openai"
    return dict(zip(COMMITS, (None if served else _commit(settings.model), tokenizer and _commit(tokenizer)),
                    strict=True))  # fmt: skip


def _commit(name: str) -> str | None:
    if Path(name).expanduser().exists() or not is_hub_name(name):
        return None
    with contextlib.suppress(ImportError, ValueError, OSError):  # ValueError: what the hub takes for no name
        from huggingface_hub import try_to_load_from_cache

        for file in ("config.json", "tokenizer_config.json"):
            found = try_to_load_from_cache(name, file)
            if isinstance(found, str):
                return Path(found).parent.name  # .../snapshots/COMMIT/config.json
    return None


def fingerprint(folder: Path, weights: Iterable[Path] = ()) -> str:
    """A hash of weights, and of the small files of a folder.

    Of weights beyond 256 MiB, 1,024 pieces evenly spread: a step of training changes them all.

    Args:
        folder: of the configuration and the tokenizer.
        weights: the files of the weights; empty for a tokenizer alone.

    Raises:
        UsageError: a file cannot be read, or there is none.
    """
    digest = hashlib.sha256()
    try:
        small = [
            path
            for path in (*folder.iterdir(), *folder.glob("additional_chat_templates/*"))
            if path.suffix in _SMALL and path.name not in _NOT_LOADED and path.is_file()
        ]
        files = [*sorted(weights), *sorted(small)]
        for path in files:
            size = path.stat().st_size
            digest.update(f"{path.name} {size} ".encode("utf-8", "surrogateescape"))
            _add(digest, path, size)
    except OSError as error:
        raise UsageError(f"--model must be readable; got {error.filename!r}: {error.strerror}") from error
    if not files:
        raise UsageError(f"--tokenizer must be a folder with a tokenizer; got {str(folder)!r}, which holds none")
    return digest.hexdigest()


def _add(digest: Any, path: Path, size: int) -> None:
    with path.open("rb") as file:
        if size <= _WHOLE_BYTES:
            while piece := file.read(2**20):
                digest.update(piece)
            return
        for i in range(_NUM_PIECES):
            file.seek((size - _PIECE_BYTES) * i // (_NUM_PIECES - 1))
            digest.update(file.read(_PIECE_BYTES))


def default_label(model: str) -> str:
    """What figures call a model: a hub name as it is, of a folder as much of its path as tells runs apart.

    The run's folder and the step for a checkpoint (``run/global_step_100``), else the last two folders.
    """
    path = Path(model).expanduser()
    if not path.is_dir():
        return model if is_hub_name(model) else _last_two(path)
    with contextlib.suppress(ValueError):
        if (source := locate_model(model)) is not None:
            path = source.folder
    return _last_two(path.resolve())


def _last_two(path: Path) -> str:
    parts = [part for part in path.parts if part not in _NOT_OF_RUN]
    return "/".join(parts[-2:]) or str(path)
