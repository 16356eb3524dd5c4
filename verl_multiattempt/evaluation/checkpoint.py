"""From what ``--model`` names to what an engine loads: a hub name, a model's folder, or a checkpoint of verl's."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

logger = logging.getLogger(__name__)

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_LATEST = "latest_checkpointed_iteration.txt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The files of a local model."""

    folder: Path
    """Of its configuration and tokenizer."""
    weights: tuple[Path, ...]
    actor: Path | None = None
    """The checkpoint whose shards the weights are; None where they can be loaded as they are."""


def is_hub_name(name: str) -> bool:
    """Whether a name has the form of the hub's."""
    return _HUB_NAME.fullmatch(name) is not None


def locate_model(name: str) -> Source | None:
    """The files of what ``--model`` names, nothing merged; None for a hub name.

    Raises:
        ValueError: there is nothing to load; the sentence says what is missing.
    """
    path = Path(name).expanduser()
    if not path.exists():
        if is_hub_name(name):
            return None
        raise ValueError(f"model must be a name on the hub or an existing folder; got {name!r}")
    if not path.is_dir():
        raise ValueError(f"model must be a folder, not a file; got {name!r}")
    if _is_model(path):
        return Source(folder=path, weights=_weights(path))
    actor = _actor(path)
    if _is_model(actor / "huggingface"):
        return Source(folder=actor / "huggingface", weights=_weights(actor / "huggingface"))
    return Source(folder=actor / "huggingface", weights=tuple(_shards(actor)), actor=actor)


def resolve_model(name: str, cache_dir: str | Path) -> str:
    """What an engine is to load.

    Args:
        name: a hub name; a folder with a model; or a checkpoint of verl's: the run's folder (the latest is taken),
            ``global_step_N`` or the ``actor`` in it. Weights that verl saved beside its shards are taken as they are,
            else the shards are merged by verl's own merger.
        cache_dir: where a merged model is kept, and found the next time.

    Returns:
        The hub name, or the path of a folder.

    Raises:
        ValueError: there is nothing to load; the sentence says what is missing.
    """
    source = locate_model(name)
    if source is None:
        return name
    return str(source.folder if source.actor is None else _merge(source.actor, source.weights, Path(cache_dir)))


def _weights(path: Path) -> tuple[Path, ...]:
    return tuple(sorted(file for pattern in _WEIGHTS for file in path.glob(pattern)))


def _is_model(path: Path) -> bool:
    return (path / "config.json").is_file() and bool(_weights(path))


def _actor(path: Path) -> Path:
    """The actor's folder of the checkpoint that ``path`` is, holds or lies in."""
    for folder in (path, path / "checkpoints"):
        if (folder / _LATEST).is_file():
            text = (folder / _LATEST).read_text().strip()
            path = folder / f"global_step_{text}"
            if not path.is_dir():
                raise ValueError(
                    f"{folder / _LATEST} must name a checkpoint beside it; got {text!r}, and no folder {path.name}. "
                    "Name the folder global_step_N itself."
                )
            break
    if path.name == "huggingface":
        path = path.parent
    if path.name == "critic":
        raise ValueError(f"model must be the actor's checkpoint; got the critic's, {str(path)!r}")
    if (path / "actor").is_dir():
        path = path / "actor"
    if not (path / "fsdp_config.json").is_file():
        if (path / "model" / "huggingface").is_dir() or (path / "dist_ckpt").is_dir():
            raise ValueError(
                f"model must be merged first where Megatron has saved it; got {str(path)!r}. Run "
                f"python -m verl.model_merger merge --backend megatron --local_dir {path} --target_dir MERGED "
                "and name MERGED."
            )
        raise ValueError(
            "model must be a folder with config.json and weights, or a checkpoint of verl's (a run's folder, "
            f"global_step_N or the actor in it); got {str(path)!r}, which has neither weights nor fsdp_config.json"
        )
    return path


def _shards(actor: Path) -> list[Path]:
    """The files of an FSDP checkpoint.

    Raises:
        ValueError: one is missing.
    """
    config = actor / "fsdp_config.json"
    try:
        size = int(json.loads(config.read_text())["world_size"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{config} must give the world_size of the checkpoint; got {config.read_text()!r}") from error
    shards = [actor / f"model_world_size_{size}_rank_{rank}.pt" for rank in range(size)]
    missing = [path.name for path in shards if not path.is_file()]
    if not (actor / "huggingface" / "config.json").is_file():
        missing.append("huggingface/config.json")
    if missing:
        raise ValueError(
            f"the checkpoint {actor} must be complete ({size} shards and the model's config); missing: "
            f"{', '.join(missing)}. Copy what the other nodes have saved into it."
        )
    return shards


def _merge(actor: Path, shards: Sequence[Path], cache_dir: Path) -> Path:
    files = [*shards, *sorted((actor / "huggingface").iterdir())]  # the tokenizer is copied beside the weights
    state = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    key = hashlib.blake2b(repr((str(actor.resolve()), state)).encode(), digest_size=6).hexdigest()
    merged = cache_dir / f"{actor.parent.name}-{key}"
    if _is_model(merged):
        logger.info("the checkpoint %s was merged before: %s", actor, merged)
        return merged
    cache_dir.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{merged.name}-", dir=cache_dir))
    logger.warning("merging the checkpoint %s into %s; verl's merger writes bfloat16", actor, merged)
    try:
        _run_merger(actor, temporary)
        if (temporary / "lora_adapter").is_dir():
            raise ValueError(
                f"the checkpoint {actor} must hold a whole model; got a LoRA adapter. Merge it into its base model "
                "with peft (merge_and_unload) and name that folder."
            )
        temporary.chmod(0o777 & ~_umask())  # mkdtemp's is closed to others
        try:
            temporary.rename(merged)
        except OSError:
            if not _is_model(merged):  # else another process was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return merged


def _run_merger(actor: Path, target: Path) -> None:
    command = [sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp", "--local_dir", str(actor),
               "--target_dir", str(target)]  # fmt: skip
    # A process of its own: verl takes seconds to import, and memory that is not given back.
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    if result.returncode == 0 and _is_model(target):
        return
    lines = [line for line in result.stdout.splitlines() if line.strip()]
    logger.debug("verl.model_merger said:\n%s", result.stdout)
    raise ValueError(
        f"verl must be able to merge the checkpoint {actor}; its merger ended with status {result.returncode}: "
        f"{lines[-1].strip() if lines else 'it wrote nothing'}"
    )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
