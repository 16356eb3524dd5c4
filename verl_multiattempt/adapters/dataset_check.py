"""Reading the training and validation files as verl will, to name what is wrong with a row before GPUs are spent."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from verl_multiattempt.attempts import row_max_attempts
from verl_multiattempt.chat.scaffold import ChatScaffold, render
from verl_multiattempt.feedback import open_messages
from verl_multiattempt.settings import Settings

Row = dict[str, Any]
_COLUMNS = ("reward_model", "extra_info", "data_source")
_MEDIA_COLUMNS = {"images", "videos", "audios"}
_REMEDY_COLUMNS = "See verl's data format: prompt, data_source, reward_model.ground_truth, extra_info."


class DatasetError(ValueError):
    """A dataset cannot be used; the message names the file, and the row where it is one row's fault."""


def data_files(config: Any, key: str) -> list[str]:
    """The files of ``data.train_files`` or ``data.val_files``, as a list."""
    value = config.data.get(key)
    if value is None:
        return []
    return [str(value)] if isinstance(value, str) else [str(item) for item in value]


def check_files(
    config: Any, key: str, settings: Settings, scaffold: ChatScaffold, allowances: Counter[int | None] | None = None
) -> int:
    """Check every row of the files under ``data.<key>``.

    Args:
        config: the whole config.
        key: ``train_files`` or ``val_files``.
        settings: for the opening's text.
        scaffold: for the length of a prompt with its opening.
        allowances: counts how many rows have which ``extra_info.max_attempts``; None is for the rows without one.

    Returns:
        The number of rows.

    Raises:
        DatasetError: a file cannot be read, a column is missing, or a row cannot be used.
    """
    count = 0
    names = data_files(config, key)
    for name in names:
        try:
            rows = _read(_local(name, config), config.data.get("prompt_key", "prompt"))
            for number, row in enumerate(rows):
                own = _check_row(row, config, settings, scaffold, where=f"{name}, row {number}")
                count += 1
                if allowances is not None:
                    allowances[own] += 1
        except _FileError as error:
            raise DatasetError(f"data.{key} must {str(error).format(name=name)}") from error
        except (OSError, pa.ArrowException, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DatasetError(f"data.{key} must name readable parquet or JSON files; got {name!r}: {error}") from error
    if count == 0:
        raise DatasetError(f"data.{key} must name files with at least one row; got {names!r}. {_REMEDY_COLUMNS}")
    return count


def read_rows(config: Any, key: str) -> Iterator[Row]:
    """The rows of the files under ``data.<key>``, which have passed `check_files`, with the prompt under ``prompt``."""
    for name in data_files(config, key):
        yield from _read(_local(name, config), config.data.get("prompt_key", "prompt"))


def data_sources(config: Any, key: str) -> dict[str, str]:
    """Each ``data_source`` in the files under ``data.<key>``, with the place of its first row.

    Args:
        config: the whole config.
        key: ``train_files`` or ``val_files``, whose files have passed `check_files`.
    """
    places: dict[str, str] = {}
    for name in data_files(config, key):
        rows = _read(_local(name, config), config.data.get("prompt_key", "prompt"))
        for number, row in enumerate(rows):
            places.setdefault(str(row["data_source"] or ""), f"{name}, row {number}")
    return places


def _local(name: str, config: Any) -> Path:
    """Where a file is on this machine; remote files are fetched into verl's cache, as its RLHFDataset does."""
    from verl.utils.fs import copy_to_local

    cache = os.path.expanduser(config.data.get("cache_dir", "~/.cache/verl/rlhf"))
    return Path(copy_to_local(name, cache_dir=cache)).expanduser()


class _FileError(ValueError):
    """A file stands in the way; the message goes on after "must", with ``{name!r}`` for the file's name."""


def _read(path: Path, prompt_key: str) -> Iterator[Row]:
    """The rows of a file, with the prompt under ``prompt``."""
    if path.suffix in (".json", ".jsonl"):
        table = _read_json(path)
        _check_columns({name for row in table for name in row}, prompt_key)
        rows = iter(table)
    elif path.suffix == ".parquet":
        file = pyarrow.parquet.ParquetFile(path)
        names = set(file.schema_arrow.names)
        _check_columns(names, prompt_key)
        wanted = sorted(names & {prompt_key, *_COLUMNS})
        rows = (row for batch in file.iter_batches(batch_size=4096, columns=wanted) for row in batch.to_pylist())
    else:
        raise _FileError("name files that end in .parquet, .json or .jsonl; got {name!r}. Convert it.")
    for row in rows:
        yield {**{name: row.get(name) for name in _COLUMNS}, "prompt": row.get(prompt_key)}


def _read_json(path: Path) -> list[Row]:
    """The rows of a JSON file: one list of objects, or an object a line; verl's loader takes both."""
    text = path.read_text(encoding="utf-8")
    if text.lstrip().startswith("["):
        rows = json.loads(text)
    else:
        # Not splitlines: JSON texts may contain U+2028 and its like as they are.
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise _FileError("hold one JSON object for each row; got another value in {name!r}. " + _REMEDY_COLUMNS)
    return rows


def _check_columns(names: set[str], prompt_key: str) -> None:
    for column in sorted(names & _MEDIA_COLUMNS):
        raise _FileError(f"hold text only; got the column {column} in {{name!r}}. Drop the column.")
    for column in (prompt_key, "reward_model"):
        if column not in names:
            raise _FileError(f"have the column {column}; got none in {{name!r}}. {_REMEDY_COLUMNS}")
    if "agent_name" in names:
        raise _FileError(
            "have no column agent_name, which makes verl run other agent loops than multiattempt; got one in {name!r}. "
            "Drop the column."
        )


def _check_row(row: Row, config: Any, settings: Settings, scaffold: ChatScaffold, where: str) -> int | None:
    """Check a row; its own allowance, if it has one."""
    prompt = row["prompt"]
    if not isinstance(prompt, list) or not prompt or not all(_is_message(message) for message in prompt):
        raise DatasetError(f"{where}: prompt must be a list of messages with role and content; got {prompt!r:.200}")
    if prompt[-1]["role"] != "user":
        raise DatasetError(f"{where}: prompt must end with a user message; got role {prompt[-1]['role']!r}")
    reward_model = row["reward_model"]
    gold = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    if gold is None or gold == "":
        raise DatasetError(
            f"{where}: reward_model.ground_truth must be the answer to check against; got {reward_model!r:.200}"
        )
    try:
        own = row_max_attempts(row.get("extra_info"))
        messages = open_messages(
            prompt, settings.opening, own or settings.max_attempts, placement=scaffold.opening_placement
        )
    except ValueError as error:
        raise DatasetError(f"{where}: {error}") from error
    _check_length(prompt, messages, config, scaffold, where)
    return own


def _is_message(message: object) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str) and bool(message.get("content"))


def _check_length(prompt: list[Any], messages: list[Any], config: Any, scaffold: ChatScaffold, where: str) -> None:
    """Refuse a prompt that the opening makes too long: verl filters by the length without it."""
    limit = int(config.data.max_prompt_length)
    # A token is at least one byte, so most rows need no tokenizer; 200 leaves room for the scaffold.
    if sum(len(str(message["content"]).encode()) for message in messages) + 200 <= limit:
        return
    length = len(render(scaffold.tokenizer, messages, scaffold.template_kwargs, add_generation_prompt=True))
    if length <= limit:
        return
    bare = len(render(scaffold.tokenizer, prompt, scaffold.template_kwargs, add_generation_prompt=True))
    if config.data.get("filter_overlong_prompts", True) and bare > limit:
        return  # verl drops this row
    raise DatasetError(
        f"{where}: data.max_prompt_length must hold the prompt with its opening ({length} tokens, {bare} without); "
        f"got {limit}. Raise data.max_prompt_length to at least {length}, or drop the row."
    )
