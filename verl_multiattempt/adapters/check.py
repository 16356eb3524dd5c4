"""``multiattempt check``: what a training command would do, and all that is wrong with it; nothing is started."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_multiattempt.adapters.check_data import DataSample, gold_attempt, lengths_of, render_row, sample_rows
from verl_multiattempt.adapters.check_text import text_of
from verl_multiattempt.adapters.compose import RECIPE, compose_training_config, training_overrides
from verl_multiattempt.adapters.preflight import Inspection, inspect_config
from verl_multiattempt.attempts import resolve_scope
from verl_multiattempt.settings import Settings
from verl_multiattempt.verifier import Outcome, Question, Verdict, make_verifier, verify_all

Report = dict[str, Any]
"""What the check found: plain values, as ``--json`` prints them. Its keys are those of `make_report`."""

_NUM_GOLDS = 500
"""Golds of the training and of the validation data that are judged; drawn, where there are more."""
_NUM_TOLD = 5


def run_check(
    overrides: Sequence[str],
    *,
    row: int = 0,
    as_json: bool = False,
    config_path: str | None = None,
    config_name: str | None = None,
) -> int:
    """Check a training command and print what was found.

    Args:
        overrides: Hydra overrides of the command; ``+recipe=multiattempt`` is added where it is absent.
        row: which training row to show.
        as_json: print one JSON object instead of text.
        config_path: Hydra's ``--config-path``.
        config_name: Hydra's ``--config-name``.

    Returns:
        The exit status: 1 where there is a problem, else 0.
    """
    # What verl and transformers print is not part of the report.
    with contextlib.redirect_stdout(sys.stderr):
        report = make_report(overrides, row=row, config_path=config_path, config_name=config_name)
    print(json.dumps(report, indent=2, ensure_ascii=False, default=str) if as_json else text_of(report))
    return 1 if report["problems"] else 0


def make_report(
    overrides: Sequence[str], *, row: int = 0, config_path: str | None = None, config_name: str | None = None
) -> Report:
    """Compose the config, check it, and gather what is worth seeing before a run. Arguments: `run_check`.

    Returns:
        ``command``, ``notes``, ``problems`` and ``warnings``; and where it could be found out: ``settings``,
        ``allowances`` (rows that set their own), ``chat``, ``example`` (its segments, as in the episode log),
        ``lengths``, ``data`` and ``verifier``.
    """
    given, overrides = list(overrides), training_overrides(overrides, config_name)
    options = [*(["--config-path", config_path] if config_path else []),
               *(["--config-name", config_name] if config_name else [])]  # fmt: skip
    command = shlex.join(["python", "-m", "verl.trainer.main_ppo", *options, *overrides])
    report: Report = {"command": command, "notes": [], "problems": [], "warnings": []}
    if overrides != given:
        report["notes"].append(f"{RECIPE} was added here: the training command needs it, or verl trains without this "
                               "package")  # fmt: skip
    try:
        config = compose_training_config(overrides, config_path=config_path, config_name=config_name)
    except ValueError as error:
        report["problems"].append(str(error))
        return report
    try:
        found = inspect_config(config, thorough=True)
    except Exception as error:  # a config so broken that a check of ours fails must still be told of
        found = Inspection(problems=[f"the configuration must be readable; got {type(error).__name__}: {error}"])
    found.problems.extend(verl_problems(config))
    if found.settings is not None:
        _look_closer(report, config, found, row)
        if found.settings_are_wrong:
            report["notes"].append("where a setting is wrong, its default is taken for all that is shown here")
    # Messages of other libraries may have several lines.
    report["problems"] = [" ".join(problem.split()) for problem in found.problems]
    report["warnings"] = [" ".join(warning.split()) for warning in found.warnings]
    return report


def verl_problems(config: DictConfig) -> list[str]:
    """What verl's own checks refuse: those of its driver, and of its workers' configs."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    with warnings.catch_warnings():  # that there is no critic where none is asked for
        warnings.simplefilter("ignore")
        needs = {"use_reference_policy": need_reference_policy(config), "use_critic": need_critic(config)}
    parts = {"actor_rollout_ref.actor": config.actor_rollout_ref.actor,
             "actor_rollout_ref.rollout": config.actor_rollout_ref.rollout}  # fmt: skip
    if needs["use_critic"]:
        parts["critic"] = config.critic
    checks: dict[str, Callable[[], object]] = {name: partial(omega_conf_to_dataclass, parts[name]) for name in parts}
    checks["the config"] = partial(validate_config, config, **needs)  # which looks at the parts again
    problems: dict[str, str] = {}
    for name, check in checks.items():  # each of them ends at the first problem it finds
        try:
            check()
        except Exception as error:  # assertions, ValueError, OmegaConf's and what dataclasses raise
            reason: BaseException = error
            while reason.__cause__ is not None:
                reason = reason.__cause__
            told = f"{type(reason).__name__}: {reason}"
            problems.setdefault(told, f"{name} must be as verl takes it; got {told}")
    return list(problems.values())


def _look_closer(report: Report, config: DictConfig, found: Inspection, row: int) -> None:
    """Fill in what needs settings, and where they are there the tokenizer and a row."""
    settings = found.settings
    assert settings is not None
    n = int(config.actor_rollout_ref.rollout.n)
    report["settings"] = {**asdict(settings), "scope": resolve_scope(settings.scope, n), "rollouts_per_prompt": n,
                          "adv_estimator": OmegaConf.select(config, "algorithm.adv_estimator")}  # fmt: skip
    report["allowances"] = {
        key: {"num_rows": files.num_rows, "num_own": files.num_rows - files.allowances[None],
              "smallest": files.own_allowances[0], "largest": files.own_allowances[-1]}
        for key, files in found.data.items() if files.own_allowances
    }  # fmt: skip
    sample = sample_rows(config, row)
    if sample is not None and sample.shown is None:
        found.problems.append(f"--row must be below the number of training rows ({sample.num_rows}); got {row}")
    if found.scaffold is not None:
        try:
            _tokens(report, config, found, sample)
        except Exception as error:  # a template refuses a row in ways of its own
            if not any(files.problems for files in found.data.values()):
                found.problems.append(
                    "data.train_files must hold prompts that the chat template renders; got "
                    f"{type(error).__name__}: {error}. Drop the rows that it refuses, or take another template."
                )
        if "lengths" in report:
            found.warnings.extend(_length_doubts(report["lengths"]))
    if sample is not None and sample.shown is not None:
        validation = sample_rows(config, 0, key="val_files")
        try:
            report["verifier"] = asyncio.run(_verdicts(settings, sample, validation))
        except Exception as error:  # a verifier of the user's own, which may raise anything
            found.problems.append(f"the verifier must decide an attempt; got {type(error).__name__}: {error}")
        else:
            _judge_verifier(report["verifier"], found, settings)


def _tokens(report: Report, config: DictConfig, found: Inspection, sample: DataSample | None) -> None:
    scaffold, settings = found.scaffold, found.settings
    assert scaffold is not None
    assert settings is not None
    shown = sample.shown if sample else None
    example = render_row(scaffold, settings, shown[1] if shown else None)
    report["chat"] = {
        "opening_placement": scaffold.opening_placement,
        "feedback_role": scaffold.feedback_role,
        "end_of_turn": scaffold.tokenizer.convert_ids_to_tokens(sorted(scaffold.end_ids)),
        "layout": example.layout,
        "findings": list(example.findings),
    }
    largest = max([settings.max_attempts, settings.val_max_attempts or 1,
                   *(own["largest"] for own in report["allowances"].values())])  # fmt: skip
    report["lengths"] = lengths_of(config, scaffold, settings, largest)
    report["example"] = {
        "row": shown[0] if shown else None,
        "segments": [asdict(segment) for segment in example.segments],
    }
    if sample is not None:
        report["data"] = sample.prompt_lengths(scaffold, settings)


def _length_doubts(lengths: dict[str, Any]) -> Iterator[str]:
    limit, fit, largest = (lengths[key] for key in ("max_tokens_per_attempt", "attempts_that_fit", "largest_allowance"))
    room, least = lengths["response_room"], lengths["min_tokens_per_attempt"]
    each = lengths["tokens_of_each_attempt"][str(largest)]
    key = f"data.max_response_length ({lengths['max_response_length']})"
    if room < lengths["max_response_length"]:
        key = f"the response after a prompt of full length ({room})"
        yield (
            f"actor_rollout_ref.rollout.max_model_len ({lengths['max_model_len']}) is below data.max_prompt_length + "
            f"data.max_response_length ({lengths['max_prompt_length']} + {lengths['max_response_length']}): after a "
            f"prompt of full length {room} tokens are left for the response"
        )
    if limit is not None and fit < largest:
        yield (
            f"{key} holds {fit} attempts of multiattempt.max_tokens_per_attempt ({limit}) with the feedback between "
            f"them, and {largest} are allowed: long episodes are truncated"
        )
    elif largest > 1 and each < least:
        yield (
            f"{key} leaves {each} tokens for each of the {largest} attempts that are allowed, and feedback is given "
            f"only if multiattempt.min_tokens_per_attempt ({least}) fit after it: episodes are truncated before their "
            "last attempt"
        )


async def _verdicts(settings: Settings, sample: DataSample, validation: DataSample | None) -> dict[str, Any]:
    """What the verifier says of the shown row's own gold, and of golds of the training and the validation data."""
    assert sample.shown is not None
    verifier = make_verifier(settings.verifier)
    number, row = sample.shown
    samples = {"train_files": sample, **({"val_files": validation} if validation else {})}
    # How an answer must look is known for the math verifier alone.
    if settings.verifier.name != "math":
        samples = {}
    golds: dict[str, Any] = {}
    try:
        (verdict,) = await verify_all(verifier, [_ask(row)])
        for key, drawn in samples.items():
            rows = drawn.rows[:_NUM_GOLDS]
            verdicts = await verify_all(verifier, [_ask(item) for _, item in rows])
            golds[key] = {
                "num_rows": drawn.num_rows,
                "judged": len(rows),
                "not_correct": [
                    {"row": other, **_told(item, said)}
                    for (other, item), said in sorted(zip(rows, verdicts, strict=True), key=lambda pair: pair[0][0])
                    if said.outcome is not Outcome.CORRECT
                ],
            }
    finally:
        await verifier.close()
    return {"row": number, **_told(row, verdict), "golds": golds}


def _ask(row: dict[str, Any]) -> tuple[str, Question]:
    _, attempt = gold_attempt(row)
    return attempt, Question(
        ground_truth=row["reward_model"]["ground_truth"],
        data_source=str(row.get("data_source") or ""),
        extra_info=row.get("extra_info") or {},
    )


def _told(row: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    gold, attempt = gold_attempt(row)
    return {"ground_truth": gold, "attempt": attempt, "outcome": str(verdict.outcome), "answer": verdict.answer,
            "detail": verdict.detail, "seconds": verdict.seconds}  # fmt: skip


def _judge_verifier(told: dict[str, Any], found: Inspection, settings: Settings) -> None:
    """Of the math verifier it is known that a gold is right; of others, that they must decide."""
    said = f"got {told['outcome']} for {told['attempt']!r:.200}" + (f" ({told['detail']})" if told["detail"] else "")
    where = f"row {told['row']} of data.train_files"
    if told["outcome"] in (Outcome.TIMEOUT, Outcome.ERROR):
        found.problems.append(f"multiattempt.verifier.name ({settings.verifier.name}) must decide {where}; {said}")
    elif settings.verifier.name == "math" and told["outcome"] != Outcome.CORRECT:
        found.problems.append(
            f"{where}: reward_model.ground_truth must be an answer that the math verifier takes for right; {said}. "
            "Choose another multiattempt.verifier.name, or change the data."
        )
    for key, golds in told["golds"].items():
        if wrong := golds["not_correct"]:
            rows = ", ".join(str(item["row"]) for item in wrong[:_NUM_TOLD]) + (" ..." if wrong[_NUM_TOLD:] else "")
            found.warnings.append(
                f"of {golds['judged']} golds of data.{key}, {len(wrong)} are not CORRECT by their own verifier (rows "
                f"{rows}), so no attempt at these can be right; the first: {wrong[0]['outcome']} for "
                f"{wrong[0]['attempt']!r:.200}"
            )
