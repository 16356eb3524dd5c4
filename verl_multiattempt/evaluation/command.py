"""``multiattempt evaluate``: accuracy@k of a model on benchmarks, with intervals."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
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

__all__ = ["add_arguments", "evaluate", "run"]


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
        settings = read_settings(args)
    except ValueError as error:
        raise UsageError(of_option(str(error))) from error
    return evaluate(settings, args.out, lambda made: make_engine(made, Path(args.out).expanduser() / "model"))


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
    folder, lock = open_output(out)
    with lock:
        try:
            from verl_multiattempt.verifier import check_verifier

            check_verifier(settings.task.verifier)
            files = data_files(settings.data, folder)
            questions = Questions(files, settings.limit)
            identified = identity(settings, files)
        except ValueError as error:
            raise UsageError(of_option(str(error))) from error
        claim_settings(folder, identified)
        logs = [RunLog(folder, planned, questions) for planned in plan_runs(settings)]
        return _carry_out(settings, questions, logs, folder, engine_for, identified)


def _carry_out(
    settings: EvaluationSettings,
    questions: Questions,
    logs: Sequence[RunLog],
    folder: Path,
    engine_for: Callable[[EvaluationSettings], Engine],
    identified: Mapping[str, Any],
) -> int:
    from verl_multiattempt.evaluation.results import make_results
    from verl_multiattempt.evaluation.runner import Runner
    from verl_multiattempt.evaluation.table import results_table

    try:
        engine = engine_for(settings)
    except ValueError as error:
        raise UsageError(of_option(str(error))) from error
    except OSError as error:  # of the hub's client, over many lines
        reason = " ".join(str(error).split())
        raise UsageError(
            f"--model must be a model that can be loaded; got {settings.model!r}: {reason:.500}"
        ) from error
    identified = {**identified, **commits(settings)}  # known at the latest now: the tokenizer was loaded
    claim_settings(folder, identified)
    runner = Runner(settings, questions, logs, engine)
    total = sum(log.num_episodes for log in logs)
    _say(f"{len(questions):,} questions of {', '.join(questions.benchmarks)}; {total:,} episodes in "
         f"{', '.join(log.run.name for log in logs)}"
         + (f", of which {total - runner.num_left:,} are done" if runner.num_left < total else ""))  # fmt: skip
    try:
        run_interruptible(runner.run())
    except Interrupted as error:
        _say(f"interrupted: {total - runner.num_left:,} of {total:,} episodes are in {folder}; the same command "
             "goes on from there")  # fmt: skip
        return 130 if error.number == signal.SIGINT else 1
    except EngineError as error:
        raise CommandError(str(error)) from error
    results = make_results(settings, questions, logs, engine.describe(), identified)
    write_json(folder / RESULTS_NAME, results)
    print(results_table(results))
    _say(f"written to {folder / RESULTS_NAME}; read the episodes with: multiattempt view {folder / logs[0].run.name}")
    _warn_of_undecided(results)
    if runner.num_failed:
        raise CommandError(
            f"{runner.num_failed:,} of {total:,} episodes failed and are in no figure; the last: "
            f"{ended(runner.last_failure)} The same command tries them again."
        )
    return 0


def _warn_of_undecided(results: Mapping[str, Any]) -> None:
    for name, planned in results["runs"].items():
        for benchmark, part in planned["benchmarks"].items():
            if share := part["metrics"].get("undecided", 0.0):
                _say(f"{share:.1%} of the episodes of {name} on {benchmark} are undecided, for a verification failed, "
                     "and count as not solved")  # fmt: skip


def data_files(names: Sequence[str], folder: Path) -> list[Path]:
    """The parquet files of ``--data``; a benchmark's is made where it is not there yet.

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

        prepared = folder / "data" / f"{Path(name).name}.parquet"
        files.append(prepared if prepared.is_file() else Path(prepare_benchmark(name, prepared)))
    return files


def identity(settings: EvaluationSettings, files: Sequence[Path]) -> dict[str, Any]:
    """What a second call in the same folder must agree with: the settings, and what the data and the model hold."""
    return {
        **settings.to_json(), **model_identity(settings), **commits(settings),
        "data_sha256": [file_hash(file) for file in files],
    }  # fmt: skip


def _say(sentence: str) -> None:
    from verl_multiattempt.view_text import printable

    print(f"multiattempt evaluate: {printable(sentence)}", file=sys.stderr, flush=True)
