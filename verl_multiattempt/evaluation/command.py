"""``multiattempt evaluate``: accuracy@k of a model on benchmarks, with intervals."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from verl_multiattempt.cli_errors import CommandError, UsageError
from verl_multiattempt.evaluation.engine import Engine, EngineError
from verl_multiattempt.evaluation.engines import check_engine_arguments, make_engine
from verl_multiattempt.evaluation.interruption import Interrupted, run_interruptible
from verl_multiattempt.evaluation.plan import plan_runs
from verl_multiattempt.evaluation.questions import Questions, file_hash
from verl_multiattempt.evaluation.resume import (
    RESULTS_NAME,
    RunLog,
    claim_settings,
    open_output,
    weights_fingerprint,
    write_json,
)
from verl_multiattempt.evaluation.settings import CONTROLS, PROTOCOLS, EvaluationSettings
from verl_multiattempt.settings import Settings

DESCRIPTION = """\
Runs each question as an episode, the same as in training, and writes accuracy@k with 95 % intervals, refinement and
repeat rates to OUT/results.json, and every episode to OUT/<run> (multiattempt view OUT/<run>). Stopped at any point,
the same command goes on where it was.
"""
EPILOG = """\
protocols:
  nested   one run that allows the largest k of --attempts; accuracy@k is the share solved within k attempts
  paper    a run for each k, the opening saying k attempts; as in the paper, and sum(k) instead of max(k) attempts
controls, what the same number of attempts is worth without feedback:
  samples       independent single attempts, pass@k; needs --temperature
  no_feedback   attempts one after the other with no message between them

examples:
  multiattempt evaluate --model Qwen/Qwen2.5-Math-1.5B --data math500 aime24 --out eval/base
  multiattempt evaluate --model checkpoints/global_step_100 --data val.parquet --out eval/step100 --attempts 1 2 4
  multiattempt evaluate --model MODEL --data math500 --out OUT --temperature 1 --controls samples no_feedback
  multiattempt evaluate --model NAME --base-url http://localhost:8000/v1 --data math500 --out OUT --concurrency 64
"""
_ALLOWANCE = ("min_attempts", "max_attempts", "distribution", "weights", "scope", "seed", "val_max_attempts", "record")
"""Settings of the task that an evaluation does not read."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``multiattempt evaluate``."""
    parser.description, parser.epilog = DESCRIPTION, EPILOG
    what = parser.add_argument_group("what")
    what.add_argument("--model", required=True, help="name on the hub, local folder, or checkpoint of verl's trainer")
    what.add_argument("--data", required=True, nargs="+", metavar="DATA",
                      help="parquet files of verl's format, or names of benchmarks (math500, aime24, ...)")  # fmt: skip
    what.add_argument("--out", required=True, metavar="DIR", help="folder for the results and the episodes")
    what.add_argument("--limit", type=int, metavar="N", help="only the first N questions of each benchmark")
    what.add_argument("--label", help="what figures call these results (default: the model's name)")
    how = parser.add_argument_group("how")
    how.add_argument("--protocol", nargs="+", default=["nested"], choices=PROTOCOLS, help="default: nested")
    how.add_argument("--attempts", type=int, nargs="+", default=[1, 2, 3, 4, 5], metavar="K",
                     help="the k of accuracy@k (default: 1 2 3 4 5)")  # fmt: skip
    how.add_argument("--controls", nargs="+", default=[], choices=CONTROLS, help="default: none")
    how.add_argument("--temperature", type=float, default=0.0, help="default: 0, greedy")
    how.add_argument("--top-p", type=float, default=1.0, help="default: 1")
    how.add_argument("--samples", type=int, default=1, metavar="N", help="episodes for each question (default: 1)")
    how.add_argument("--seed", type=int, default=0, help="default: 0")
    how.add_argument("--max-tokens", type=int, default=8000, metavar="N",
                     help="tokens of a conversation after its opening, feedback included (default: 8000)")  # fmt: skip
    how.add_argument("--max-tokens-per-attempt", type=int, metavar="N", help="default: what the conversation leaves")
    how.add_argument("--set", dest="assignments", action="append", default=[], metavar="KEY=VALUE",
                     help="a setting under multiattempt: of the training, such as stop_at_answer=true")  # fmt: skip
    _add_engine_arguments(parser.add_argument_group("engine"))


def _add_engine_arguments(engine: Any) -> None:
    engine.add_argument("--engine", choices=("vllm", "openai"), help="default: vllm, or openai with --base-url")
    engine.add_argument("--base-url", metavar="URL", help="of an OpenAI-compatible server, with its /v1")
    engine.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds the server's key")
    engine.add_argument("--timeout-s", type=float, metavar="S", help="seconds to wait for an answer of the server")
    engine.add_argument("--concurrency", type=int, metavar="N", help="episodes open at once")
    engine.add_argument("--tokenizer", metavar="MODEL", help="where the tokenizer is, if not with the model")
    engine.add_argument("--feedback-role", choices=("auto", "system", "user"), help="default: what the template allows")
    engine.add_argument("--dtype", help="of vLLM's weights (default: auto)")
    engine.add_argument("--tensor-parallel-size", type=int, metavar="N", help="accelerators that share the model")
    engine.add_argument("--gpu-memory-utilization", type=float, metavar="SHARE", help="of an accelerator, for vLLM")
    engine.add_argument("--max-model-len", type=int, metavar="N", help="vLLM's limit of prompt and conversation")


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
        raise UsageError(_of_option(str(error))) from error
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
        except ValueError as error:
            raise UsageError(_of_option(str(error))) from error
        claim_settings(folder, identity(settings, files))
        logs = [RunLog(folder, planned, questions) for planned in plan_runs(settings)]
        return _carry_out(settings, questions, logs, folder, engine_for)


def _carry_out(
    settings: EvaluationSettings,
    questions: Questions,
    logs: Sequence[RunLog],
    folder: Path,
    engine_for: Callable[[EvaluationSettings], Engine],
) -> int:
    from verl_multiattempt.evaluation.results import make_results
    from verl_multiattempt.evaluation.runner import Runner
    from verl_multiattempt.evaluation.table import results_table

    try:
        engine = engine_for(settings)
    except ValueError as error:
        raise UsageError(_of_option(str(error))) from error
    except OSError as error:  # of the hub's client, over many lines
        reason = " ".join(str(error).split())
        raise UsageError(
            f"--model must be a model that can be loaded; got {settings.model!r}: {reason:.500}"
        ) from error
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
    results = make_results(settings, questions, logs, engine.describe())
    write_json(folder / RESULTS_NAME, results)
    print(results_table(results))
    _say(f"written to {folder / RESULTS_NAME}; read the episodes with: multiattempt view {folder / logs[0].run.name}")
    _warn_of_undecided(results)
    if runner.num_failed:
        raise CommandError(
            f"{runner.num_failed:,} of {total:,} episodes failed and are in no figure; the last: "
            f"{runner.last_failure}. The same command tries them again."
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
    values = settings.to_json()
    model = Path(settings.model).expanduser()
    if model.is_dir():
        values |= {"model": str(model.resolve()), "model_fingerprint": weights_fingerprint(model)}
    return {**values, "data_sha256": [file_hash(file) for file in files]}


def read_settings(args: argparse.Namespace) -> EvaluationSettings:
    """The settings that the arguments say.

    Raises:
        ValueError: a value cannot work.
    """
    attempts = tuple(sorted(set(args.attempts)))
    return EvaluationSettings(
        model=args.model,
        data=tuple(args.data),
        protocols=tuple(dict.fromkeys(args.protocol)),
        attempts=attempts,
        controls=tuple(dict.fromkeys(args.controls)),
        temperature=args.temperature,
        top_p=args.top_p,
        samples=args.samples,
        seed=args.seed,
        max_tokens=args.max_tokens,
        limit=args.limit,
        concurrency=args.concurrency,
        label=args.label,
        task=_task_settings(args, max(attempts, default=1)),
        engine=check_engine_arguments(args),
    )


def _task_settings(args: argparse.Namespace, max_attempts: int) -> Settings:
    values: dict[str, Any] = {}
    for assignment in args.assignments:
        key, equals, text = assignment.partition("=")
        names = key.removeprefix("multiattempt.").split(".")
        if not equals or not all(names):
            raise ValueError(f"set must be KEY=VALUE; got {assignment!r}")
        if names[0] in _ALLOWANCE:
            raise ValueError(
                f"set must name a setting that an evaluation reads; got {key!r}. See --attempts and --seed."
            )
        _put(values, names, _value(text))
    for name, option in (("max_tokens_per_attempt", args.max_tokens_per_attempt), ("role", args.feedback_role)):
        if option is not None:
            _put(values, ["feedback", name] if name == "role" else [name], option)
    return Settings.from_mapping({**values, "max_attempts": max(1, max_attempts)})


def _put(values: dict[str, Any], names: Sequence[str], value: Any) -> None:
    for name in names[:-1]:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            raise ValueError(f"set must give {name!r} either a value or keys of its own; got both")
    values[names[-1]] = value


def _value(text: str) -> Any:
    """A value as JSON, or the text itself where it is none, such as a message with braces."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _of_option(sentence: str) -> str:
    """The sentence with the option's name where it begins with a setting's."""
    name, _, rest = sentence.partition(" ")
    options = {"protocols": "--protocol", "assignments": "--set"}
    known = ("model", "data", "controls", "attempts", "samples", "max_tokens", "limit", "concurrency", "seed",
             "temperature", "top_p", "set")  # fmt: skip
    return f"{options.get(name, '--' + name.replace('_', '-'))} {rest}" if name in {*options, *known} else sentence


def _say(sentence: str) -> None:
    from verl_multiattempt.view_text import printable

    print(f"multiattempt evaluate: {printable(sentence)}", file=sys.stderr, flush=True)
