"""The arguments of ``multiattempt evaluate``, and the settings that they say."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from verl_multiattempt.evaluation.engines import check_engine_arguments
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

exit status: 0 all episodes are in the results; 1 it could not go on, or episodes failed; 2 an argument cannot work, or
  OUT holds other settings; 130 Ctrl-C. After 1 and 130 the same command goes on.
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
    what.add_argument("--label", help="what figures call these results; those of one label are seeds of one arm "
                      "(default: hub name, or run folder and step: run/global_step_100)")  # fmt: skip
    how = parser.add_argument_group("how")
    how.add_argument("--protocol", nargs="+", default=["nested"], choices=PROTOCOLS, help="default: nested")
    how.add_argument("--attempts", type=int, nargs="+", default=[1, 2, 3, 4, 5], metavar="K",
                     help="the k of accuracy@k (default: 1 2 3 4 5)")  # fmt: skip
    how.add_argument("--controls", nargs="+", default=[], choices=CONTROLS, help="default: none")
    how.add_argument("--temperature", type=float, nargs="+", default=[0.0], metavar="T",
                     help="default: 0, greedy; several, run in turn, have each a folder OUT/temperature-T")  # fmt: skip
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


def read_settings(args: argparse.Namespace) -> list[EvaluationSettings]:
    """The settings that the arguments say, one for each temperature.

    Raises:
        ValueError: a value cannot work.
    """
    attempts = tuple(sorted(set(args.attempts)))
    first = EvaluationSettings(
        model=args.model,
        data=tuple(args.data),
        protocols=tuple(dict.fromkeys(args.protocol)),
        attempts=attempts,
        controls=tuple(dict.fromkeys(args.controls)),
        temperature=args.temperature[0],
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
    return [first, *(replace(first, temperature=other) for other in dict.fromkeys(args.temperature[1:])
                     if other != first.temperature)]  # fmt: skip


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


def of_option(sentence: str) -> str:
    """The sentence with the option's name where it begins with a setting's."""
    name, _, rest = sentence.partition(" ")
    options = {"protocols": "--protocol", "assignments": "--set"}
    known = ("model", "data", "controls", "attempts", "samples", "max_tokens", "limit", "concurrency", "seed",
             "temperature", "top_p", "set")  # fmt: skip
    return f"{options.get(name, '--' + name.replace('_', '-'))} {rest}" if name in {*options, *known} else sentence
