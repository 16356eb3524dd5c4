"""``multiattempt evaluate``: accuracy@k of a model on benchmarks, with intervals."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_multiattempt.cli_errors import CommandError, UsageError, ended
from verl_multiattempt.evaluation.arguments import add_arguments, of_option, read_settings
from verl_multiattempt.evaluation.engine import Engine, EngineError
from verl_multiattempt.evaluation.engines import make_engine
from verl_multiattempt.evaluation.interruption import Interrupted, run_interruptible
from verl_multiattempt.evaluation.model_identity import commits, model_identity
from verl_multiattempt.evaluation.output import (
    RESULTS_NAME,
    claim_settings,
    open_output,
    write_json,
)
from verl_multiattempt.evaluation.plan import plan_runs
from verl_multiattempt.evaluation.questions import Questions, file_hash
from verl_multiattempt.evaluation.resume import RunLog
from verl_multiattempt.evaluation.settings import EvaluationSettings

__all__ = ["add_arguments", "evaluate", "evaluate_in_turn", "run"]


def run(args: argparse.Namespace) -> int:
    """Carry out ``multiattempt evaluate``.

    Args:
        args: of a parser that `add_arguments` was given.

    Returns:
        The exit status: 0; 1 where episodes failed or SIGTERM ended it, 130 after Ctrl-C.

    Raises:
        UsageError: an argument cannot work.
        CommandError: the evaluation cannot go on.
    """
    try:
        every = read_settings(args)
    except ValueError as error:
        raise UsageError(of_option(str(error))) from error
    out = Path(args.out).expanduser()
    names = [f"temperature-{str(settings.temperature).removesuffix('.0')}" for settings in every]
    folders = [out / name for name in names] if len(every) > 1 else [out]
    return evaluate_in_turn(
        list(zip(every, folders, strict=True)),
        lambda made: make_engine(made, out / "model"),
        common=out if len(every) > 1 else None,
    )


def evaluate(settings: EvaluationSettings, out: str | Path, engine_for: Callable[[EvaluationSettings], Engine]) -> int:
    """Run an evaluation, or what is left of it, and write and print its results.

    Args:
        settings: what to run.
        out: the output directory.
        engine_for: makes the engine; called once all else is found to be in order.

    Returns:
        The exit status, as `run`.

    Raises:
        UsageError: a setting, the data or the output directory cannot be used.
        CommandError: the evaluation cannot go on.
    """
    return evaluate_in_turn([(settings, Path(out).expanduser())], engine_for)


def evaluate_in_turn(
    parts: Sequence[tuple[EvaluationSettings, Path]],
    engine_for: Callable[[EvaluationSettings], Engine],
    common: Path | None = None,
) -> int:
    """Run several evaluations, one after the other, with an engine that is started once.

    Args:
        parts: settings and output directory of each; they differ in how the model is sampled.
        engine_for: as for `evaluate`; given the first settings.
        common: folder for what they share: benchmarks that are given by name; None: the first output directory.

    Returns:
        The exit status, as `run`.

    Raises:
        UsageError, CommandError: as `evaluate`.
    """
    with contextlib.ExitStack() as locks:
        folders = []
        for out in (*([common] if common else ()), *(out for _, out in parts)):
            folder, lock = open_output(out)
            locks.enter_context(lock)
            folders.append(folder)
        first = parts[0][0]
        try:
            from verl_multiattempt.verifier import check_verifier

            check_verifier(first.task.verifier)
            files = data_files(first.data, folders[0] / "data")
            questions = Questions(files, first.limit)
            loaded = loaded_identity(first, files)
        except ValueError as error:
            raise UsageError(of_option(str(error))) from error
        prepared = []
        for (settings, _), folder in zip(parts, folders[-len(parts) :], strict=True):
            identified = {**settings.to_json(), **loaded}
            claim_settings(folder, identified)
            logs = [RunLog(folder, planned, questions) for planned in plan_runs(settings)]
            prepared.append(_Part(settings, folder, questions, logs, identified))
        return _carry_out(prepared, engine_for)


@dataclass(slots=True)
class _Part:
    """An evaluation that is found to be in order."""

    settings: EvaluationSettings
    folder: Path
    questions: Questions
    logs: list[RunLog]
    identified: dict[str, Any]


def _carry_out(parts: Sequence[_Part], engine_for: Callable[[EvaluationSettings], Engine]) -> int:
    from verl_multiattempt.evaluation.runner import Runner, run_in_turn

    first = parts[0].settings
    try:
        engine = engine_for(first)
    except ValueError as error:
        raise UsageError(of_option(str(error))) from error
    except OSError as error:  # of the hub's client, over many lines
        reason = " ".join(str(error).split())
        raise UsageError(f"--model must be a model that can be loaded; got {first.model!r}: {reason:.500}") from error
    runners = []
    for part in parts:
        part.identified |= commits(part.settings)  # known at the latest now: the tokenizer was loaded
        claim_settings(part.folder, part.identified)
        runner = Runner(part.settings, part.questions, part.logs, engine)
        runners.append(runner)
        total = runner.num_episodes
        _say(f"{len(part.questions):,} questions of {', '.join(part.questions.benchmarks)}; {total:,} episodes in "
             f"{', '.join(log.run.name for log in part.logs)}{_temperature(part, parts)}"
             + (f", of which {total - runner.num_left:,} are done" if runner.num_left < total else ""))  # fmt: skip
    total = sum(runner.num_episodes for runner in runners)
    end: Exception | None = None
    try:
        run_interruptible(run_in_turn(runners, engine))
    except (Interrupted, EngineError, CommandError) as error:
        end = error
    for part, runner in zip(parts, runners, strict=True):
        if end is None or not runner.num_left:
            _show_results(part, engine, _temperature(part, parts))
    if isinstance(end, Interrupted):
        done = total - sum(runner.num_left for runner in runners)
        folders = ", ".join(str(part.folder) for part in parts)
        _say(f"interrupted: {done:,} of {total:,} episodes are in {folders}; the same command goes on from there")
        return 130 if end.number == signal.SIGINT else 1
    if end is not None:
        raise CommandError(str(end)) from end
    if num_failed := sum(runner.num_failed for runner in runners):
        last = next(runner.last_failure for runner in reversed(runners) if runner.num_failed)
        raise CommandError(
            f"{num_failed:,} of {total:,} episodes failed and are in no figure; the last: {ended(last)} The same "
            "command tries them again."
        )
    return 0


def _temperature(part: _Part, parts: Sequence[_Part]) -> str:
    """What to add to a sentence about one of several."""
    return f" at temperature {part.settings.temperature:g}" if len(parts) > 1 else ""


def _show_results(part: _Part, engine: Engine, temperature: str) -> None:
    """Write and print the results of an evaluation."""
    from verl_multiattempt.evaluation.results import make_results
    from verl_multiattempt.evaluation.table import results_table

    results = make_results(part.settings, part.questions, part.logs, engine.describe(), part.identified)
    path = part.folder / RESULTS_NAME
    write_json(path, results)
    if temperature:
        print(f"{temperature.strip()}:")
    print(results_table(results))
    _say(f"written to {path}; read the episodes with: multiattempt view {part.folder / part.logs[0].run.name}")
    _warn_of_undecided(results)


def _warn_of_undecided(results: Mapping[str, Any]) -> None:
    for name, planned in results["runs"].items():
        for benchmark, part in planned["benchmarks"].items():
            if share := part["metrics"].get("undecided", 0.0):
                _say(f"{share:.1%} of the episodes of {name} on {benchmark} are undecided, for a verification failed, "
                     "and count as not solved")  # fmt: skip


def data_files(names: Sequence[str], folder: Path) -> list[Path]:
    """The parquet files of ``--data``; a benchmark's is made in the folder where it is not there yet.

    Raises:
        ValueError: there is no such file or benchmark.
    """
    files = []
    for name in names:
        path = Path(name).expanduser()
        if path.suffix == ".parquet" or path.is_file():  # a folder may have a benchmark's name
            if not path.is_file():
                raise ValueError(f"data must name readable parquet files; got {name!r}, which is no file")
            files.append(path)
            continue
        from verl_multiattempt.data.prepare import prepare_benchmark

        prepared = folder / f"{Path(name).name}.parquet"
        files.append(prepared if prepared.is_file() else Path(prepare_benchmark(name, prepared)))
    return files


def loaded_identity(settings: EvaluationSettings, files: Sequence[Path]) -> dict[str, Any]:
    """What a second call in the same folder must agree with besides the settings: what the data and the model hold."""
    return {
        **model_identity(settings), **commits(settings), "data_sha256": [file_hash(file) for file in files],
    }  # fmt: skip


def _say(sentence: str) -> None:
    from verl_multiattempt.view_text import printable

    print(f"multiattempt evaluate: {printable(sentence)}", file=sys.stderr, flush=True)
