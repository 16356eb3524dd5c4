"""Reading the training and validation files as verl will, to name what is wrong with a row before GPUs are spent."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from verl_multiattempt.adapters.dataset_types import type_problem
from verl_multiattempt.attempts import row_max_attempts
from verl_multiattempt.chat.scaffold import ChatScaffold, render
from verl_multiattempt.feedback import open_messages
from verl_multiattempt.settings import Settings

Row = dict[str, Any]
_COLUMNS = ("reward_model", "extra_info", "data_source")
_MEDIA_COLUMNS = {"images", "videos", "audios"}
MAX_TOLD = 5
"""Rows of one file whose problems are told; of the others the number is."""
_REMEDY_COLUMNS = "See verl's data format: prompt, data_source, reward_model.ground_truth, extra_info."


class DatasetError(ValueError):
    """A dataset cannot be used; the message names the file, and the row where it is one row's fault."""


def data_files(config: Any, key: str) -> list[str]:
    """The files of ``data.train_files`` or ``data.val_files``, as a list."""
    value = config.data.get(key)
    if value is None:
        return []
    return [str(value)] if isinstance(value, str) else [str(item) for item in value]


@dataclass(slots=True, kw_only=True)
class DataFiles:
    """What reading the files under ``data.train_files`` or ``data.val_files`` has found."""

    problems: list[str] = field(default_factory=list)
    """One sentence for each; of a file at most `MAX_TOLD` rows, and how many there are besides."""
    num_rows: int = 0
    num_kept: int = 0
    """Rows whose prompts are short enough for verl's ``data.filter_overlong_prompts``, or all where it is off."""
    allowances: Counter[int | None] = field(default_factory=Counter)
    """How many rows have which ``extra_info.max_attempts``; None is for the rows without one."""

    @property
    def own_allowances(self) -> list[int]:
        """The different allowances that rows set themselves, ascending."""
        return sorted(number for number in self.allowances if number is not None)


def inspect_files(config: Any, key: str, settings: Settings, scaffold: ChatScaffold) -> DataFiles:
    """Check every row of the files under ``data.<key>``.

    Args:
        config: the whole config.
        key: ``train_files`` or ``val_files``.
        settings: for the opening's text.
        scaffold: renders prompts with their openings.
    """
    found = DataFiles()
    names = data_files(config, key)
    with_rows: list[str] = []
    for name in names:
        before = found.num_rows
        try:
            _inspect_file(name, _RowCheck(config, settings, scaffold), config, found)
        except _FileError as error:
            found.problems.extend(f"data.{key} must {sentence.format(name=name)}" for sentence in error.args)
        except (OSError, pa.ArrowException, UnicodeDecodeError, json.JSONDecodeError) as error:
            found.problems.append(f"data.{key} must name readable parquet or JSON files; got {name!r}: {error}")
        if found.num_rows > before:
            with_rows.append(name)
    # verl leaves files without rows out of the join.
    if not found.problems and (problem := type_problem(key, [(name, _local(name, config)) for name in with_rows])):
        found.problems.append(problem)
    if not found.problems and not found.num_rows:
        found.problems.append(f"data.{key} must name files with at least one row; got {names!r}. {_REMEDY_COLUMNS}")
    elif not found.problems and not found.num_kept:
        found.problems.append(
            f"data.{key} must have rows whose prompts are at most data.max_prompt_length long; got {found.num_rows} "
            f"longer ones, which verl drops. Raise data.max_prompt_length ({config.data.max_prompt_length})."
        )
    return found


def check_batch_size(config: Any, train: DataFiles) -> None:
    """Refuse batches that the training rows cannot fill: verl would divide by zero batches of an epoch.

    Raises:
        DatasetError: see above.
    """
    data, trainer = config.data, config.trainer
    if trainer.get("val_only", False) and trainer.get("val_before_train", True):
        return
    available, why = train.num_kept, f"the training rows ({train.num_kept})"
    if train.num_kept < train.num_rows:
        why = (
            f"the training rows that verl keeps ({train.num_kept} of {train.num_rows}; the prompts of the others are "
            "longer than data.max_prompt_length)"
        )
    most = int(data.get("train_max_samples", -1) or -1)
    if 0 < most < available:
        available, why = most, f"data.train_max_samples ({most})"
    for key in ("train_batch_size", "gen_batch_size"):
        size = data.get(key)
        if size is not None and int(size) > available:
            raise DatasetError(f"data.{key} must be at most {why}, or no batch is ever full; got {size}. "
                               f"Set data.{key}={available} or less, or give more rows.")  # fmt: skip


def read_rows(config: Any, key: str) -> Iterator[Row]:
    """The rows of the files under ``data.<key>``, with the prompt under ``prompt``; `inspect_files` has passed them."""
    for name in data_files(config, key):
        yield from _read(_local(name, config), config.data.get("prompt_key", "prompt"))


def data_sources(config: Any, key: str) -> dict[str, str]:
    """Each ``data_source`` in the files under ``data.<key>``, with the place of its first row.

    Args:
        config: the whole config.
        key: ``train_files`` or ``val_files``, whose files have passed `inspect_files`.
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
    """A file stands in the way; each message goes on after "must", with ``{name!r}`` for the file's name."""


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
    problems = [
        f"hold text only; got the column {column} in {{name!r}}. Drop the column."
        for column in sorted(names & _MEDIA_COLUMNS)
    ]
    problems += [
        f"have the column {column}; got none in {{name!r}}. {_REMEDY_COLUMNS}"
        for column in (prompt_key, "reward_model")
        if column not in names
    ]
    if "agent_name" in names:
        problems.append(
            "have no column agent_name, which makes verl run other agent loops than multiattempt; got one in {name!r}. "
            "Drop the column."
        )
    if problems:
        raise _FileError(*problems)


def _inspect_file(name: str, check: _RowCheck, config: Any, found: DataFiles) -> None:
    num_bad = 0
    longest: tuple[int, str, Row] | None = None
    for number, row in enumerate(_read(_local(name, config), config.data.get("prompt_key", "prompt"))):
        found.num_rows += 1
        where = f"{name}, row {number}"
        try:
            own, kept = check.check(row, where)
        except DatasetError as error:
            num_bad += 1
            if num_bad <= MAX_TOLD:
                found.problems.append(str(error))
            continue
        found.num_kept += kept
        found.allowances[own] += 1
        num_chars = sum(len(message["content"]) for message in row["prompt"])
        if kept and (longest is None or num_chars > longest[0]):
            longest = num_chars, where, row
    if longest is not None:
        try:  # what a template adds may be more than the quick look at each row takes it for
            check.check(longest[2], longest[1], in_full=True)
        except DatasetError as error:
            num_bad += 1
            found.problems.append(str(error))
    if num_bad > MAX_TOLD:
        found.problems.append(f"{name} must hold rows that can be used; got {num_bad - MAX_TOLD:,} more that cannot")


class _RowCheck:
    """Checks the rows of one file.

    Most rows need no tokenizer: rendered are the first row of each sequence of roles, every further one where the
    template refused that, and rows whose length in bytes is near the limit or beyond it.
    """

    def __init__(self, config: Any, settings: Settings, scaffold: ChatScaffold):
        self._settings = settings
        self._scaffold = scaffold
        self._limit = int(config.data.max_prompt_length)
        self._filtered = bool(config.data.get("filter_overlong_prompts", True))
        self._rendered: set[tuple[str, ...]] = set()
        """Sequences of roles that the template renders."""

    def check(self, row: Row, where: str, *, in_full: bool = False) -> tuple[int | None, bool]:
        """Check a row.

        Args:
            row: the row.
            where: its place.
            in_full: render it in any case.

        Returns:
            Its own allowance, if it has one, and whether verl keeps it.

        Raises:
            DatasetError: it cannot be used.
        """
        prompt = row["prompt"]
        _check_prompt(prompt, where)
        reward_model = row["reward_model"]
        gold = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
        if gold is None or gold == "":
            raise DatasetError(
                f"{where}: reward_model.ground_truth must be the answer to check against; got {reward_model!r:.200}"
            )
        scaffold, settings = self._scaffold, self._settings
        try:
            own = row_max_attempts(row.get("extra_info"))
            messages = open_messages(
                prompt, settings.opening, own or settings.max_attempts, placement=scaffold.opening_placement
            )
            num_bytes = sum(len(message["content"].encode()) for message in messages)
        except ValueError as error:
            raise DatasetError(f"{where}: {error}") from error
        roles = tuple(message["role"] for message in prompt)
        # A token is at least one byte; 200 leaves room for the scaffold.
        if not in_full and roles in self._rendered and num_bytes + 200 <= self._limit:
            return own, True
        kept = self._is_kept(prompt, messages, where, with_bare=roles not in self._rendered)
        self._rendered.add(roles)
        return own, kept

    def _is_kept(self, prompt: list[Any], messages: list[Any], where: str, *, with_bare: bool) -> bool:
        """Whether verl keeps the row; it filters by the length without the opening.

        Raises:
            DatasetError: the template refuses it, or the opening makes it too long.
        """
        length = self._num_tokens(messages, where, "Drop the row, or take another template.")
        if length <= self._limit and not (with_bare and self._filtered):
            return True
        bare = self._num_tokens(
            prompt, where, "verl drops a row that it cannot render without the opening: set "
            "data.filter_overlong_prompts=false, or put a system message's text into the user's."
        )  # fmt: skip
        if length <= self._limit:
            return True
        if self._filtered and bare > self._limit:
            return False
        raise DatasetError(
            f"{where}: data.max_prompt_length must hold the prompt with its opening ({length} tokens, {bare} without); "
            f"got {self._limit}. Raise data.max_prompt_length to at least {length}, or drop the row."
        )

    def _num_tokens(self, messages: Sequence[Any], where: str, remedy: str) -> int:
        scaffold = self._scaffold
        try:
            return len(render(scaffold.tokenizer, messages, scaffold.template_kwargs, add_generation_prompt=True))
        except Exception as error:  # a template raises what it likes
            roles = [message["role"] for message in messages]
            raise DatasetError(
                f"{where}: prompt must be messages that the chat template renders; got roles {roles!r:.200} and "
                f"{type(error).__name__}: {error}. {remedy}"
            ) from error


def _check_prompt(prompt: object, where: str) -> None:
    if not isinstance(prompt, list) or not prompt or not all(_is_message(message) for message in prompt):
        raise DatasetError(f"{where}: prompt must be a list of messages with role and content; got {prompt!r:.200}")
    for message in prompt:
        if not isinstance(message["content"], str):
            raise DatasetError(
                f"{where}: prompt[].content must be text; got {message['content']!r:.200}. Give the text itself, "
                "not a list of parts."
            )
    if prompt[-1]["role"] != "user":
        raise DatasetError(f"{where}: prompt must end with a user message; got role {prompt[-1]['role']!r}")


def _is_message(message: object) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str) and bool(message.get("content"))
