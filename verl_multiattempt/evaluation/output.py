"""The output directory, and what identifies the evaluation in it.

::

    OUT/settings.json                              what identifies the evaluation; other settings are refused
    OUT/data/<benchmark>.parquet                   benchmarks that were given by name
    OUT/model/...                                  a checkpoint of verl's trainer, merged
    OUT/<run>/episodes-<host>-<pid>-000000.jsonl   the episode log of a run (`verl_multiattempt.record`)
    OUT/<run>/failures.jsonl                       episodes that failed, and why; a further call tries them again
    OUT/results.json                               the figures, made of the logs alone

Of several temperatures, each has all but ``data`` and ``model`` in ``OUT/temperature-<T>``.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verl_multiattempt.cli_errors import CommandError, UsageError
from verl_multiattempt.evaluation.model_identity import COMMITS
from verl_multiattempt.evaluation.settings import differences
from verl_multiattempt.whole_file import written_whole

SETTINGS_NAME = "settings.json"
RESULTS_NAME = "results.json"


def open_output(path: str | Path) -> tuple[Path, io.FileIO]:
    """Make the output directory and take it for this process.

    Returns:
        Its path, and the file whose closing (the end of the process too) gives it free.

    Raises:
        UsageError: it cannot be written to.
        CommandError: another process has it.
    """
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = io.FileIO(folder / ".lock", "ab")
        # Permissions alone do not tell: a file system may be mounted read-only, or full.
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\n")
    except OSError as error:
        raise UsageError(
            f"--out must be a folder that can be written to; got {str(path)!r}: {error.strerror}"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise CommandError(f"another process is evaluating into {str(path)!r}; wait for its end, or end it") from error
    except OSError:  # a file system without locks
        pass
    return folder, lock


def claim_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write what identifies the evaluation, or compare it with what an earlier call wrote.

    A commit that only one of the two knows is no difference, and is kept.

    Raises:
        UsageError: the earlier call had other settings.
    """
    path = folder / SETTINGS_NAME
    now = json.loads(json.dumps(settings))  # as it reads when it is read back
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if any(folder.glob("*/episodes-*.jsonl")):
            raise UsageError(f"{path} must be there beside the episodes; got none. Choose another --out.") from None
        write_json(path, now)
        return
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} must be readable JSON; got: {error}. Choose another --out.") from error
    known = {name: now.get(name) or before.get(name) for name in COMMITS}
    changed = differences(before | {name: before.get(name) or known[name] for name in COMMITS}, now | known)
    if changed and not any(folder.glob("*/episodes-*.jsonl")):
        write_json(path, now)  # the earlier call did not come as far as an episode
    elif changed:
        raise UsageError(
            f"--out must be a folder of the same settings, or a new one; got {str(folder)!r}, in which differ:\n  "
            + "\n  ".join(changed)
        )
    elif any(before.get(name) != known[name] for name in COMMITS):
        write_json(path, before | known)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON file whole, in the place of an earlier one.

    Raises:
        CommandError: it cannot be written.
    """
    try:
        with written_whole(path) as draft, draft.open("w", encoding="utf-8") as file:
            json.dump(values, file, indent=2, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from error
