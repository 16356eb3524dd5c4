"""``multiattempt check`` composes what training would run with, and tells all that is worth knowing before it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from transformers import AutoTokenizer

from tests.adapters.conftest import good_row, write_rows
from tests.tokenizers import CHATML_SYSTEM_FIRST, STRICT, make_tokenizer
from verl_multiattempt import cpu
from verl_multiattempt.adapters.check import make_report
from verl_multiattempt.adapters.check_text import printable, text_of
from verl_multiattempt.adapters.compose import compose_training_config, training_overrides

Words = Callable[..., list[str]]
MICRO_BATCHES = [
    "data.train_batch_size=1",
    "actor_rollout_ref.actor.ppo_mini_batch_size=1",
    "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
    "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1",
    "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=1",
    "critic.ppo_mini_batch_size=1",
    "critic.ppo_micro_batch_size_per_gpu=1",
]


@pytest.fixture
def words(model_dir: Callable[..., Path], data_file: Path, monkeypatch: pytest.MonkeyPatch) -> Words:
    """The overrides of a command that could be run, with further ones."""
    if cpu.find_accelerator() is not None:
        monkeypatch.setattr(cpu, "check_cpu_platform", lambda: None)

    def make(*more: str, template: str | None = None) -> list[str]:
        model = model_dir(template) if template else model_dir()
        return [
            "+platform=cpu", f"actor_rollout_ref.model.path={model}", f"critic.model.path={model}",
            f"data.train_files={data_file}", f"data.val_files={data_file}", *MICRO_BATCHES, *more,
        ]  # fmt: skip

    return make


# Composing.


def job_config(*words: str) -> Any:
    """What verl's training command itself says that it would run with."""
    done = subprocess.run(
        [sys.executable, "-m", "verl.trainer.main_ppo", *words, "--cfg", "job"],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    return yaml.safe_load(done.stdout)


def plain(config: Any) -> Any:
    return yaml.safe_load(OmegaConf.to_yaml(config))


def test_config_is_that_of_the_training_command() -> None:
    overrides = ["+recipe=multiattempt", "+platform=cpu", "multiattempt.max_attempts=3", "+critic.mine=[1,a]"]
    config = compose_training_config(overrides)
    assert plain(config) == job_config(*overrides)
    assert config.multiattempt.max_attempts == 3


def test_config_of_ones_own_is_that_of_the_training_command(tmp_path: Path) -> None:
    text = "defaults: [ppo_trainer, {recipe: multiattempt}, _self_]\nhydra: {searchpath: ['pkg://verl.trainer.config']}"
    (tmp_path / "mine.yaml").write_text(f"{text}\ntrainer: {{project_name: mine}}\n", encoding="utf-8")
    config = compose_training_config(["data.seed=4"], config_path=str(tmp_path), config_name="mine")
    assert plain(config) == job_config("--config-path", str(tmp_path), "--config-name", "mine", "data.seed=4")
    assert (config.trainer.project_name, config.multiattempt.max_attempts) == ("mine", 5)


def test_interpolations_of_hydra_resolve_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = compose_training_config(["trainer.default_local_dir=${hydra:runtime.output_dir}/ckpt"])
    assert config.trainer.default_local_dir.startswith(str(tmp_path / "outputs"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "config_name", "all_of_them"),
    [
        (["a=1"], None, ["+recipe=multiattempt", "a=1"]),
        (["a=1", "+recipe=multiattempt"], None, ["a=1", "+recipe=multiattempt"]),
        (["++recipe=mine"], None, ["++recipe=mine"]),
        (["a=1"], "mine", ["a=1"]),
    ],
)
def test_recipe_is_added_where_nothing_names_it(
    given: list[str], config_name: str | None, all_of_them: list[str]
) -> None:
    assert training_overrides(given, config_name) == all_of_them


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.nope=1", "Could not override 'data.nope'. To append to your config use +data.nope=1"),
        ("+recipe=none", "In 'ppo_trainer': Could not find 'recipe/none' Available options in 'recipe': multiattempt "),
        ("multiattempt.max_attempts=1,2", "Ambiguous value for argument 'multiattempt.max_attempts=1,2' 1. To use "),
        ("a b", "LexerNoViableAltException: a b"),
    ],
)
def test_override_that_hydra_refuses_is_the_one_problem_in_one_line(word: str, message: str) -> None:
    report = make_report([word])
    (problem,) = report["problems"]
    assert problem.startswith(message)
    assert "\n" not in problem
    assert set(report) == {"command", "notes", "problems", "warnings"}


def test_config_folder_that_is_not_there() -> None:
    (problem,) = make_report([], config_path="/no/such/folder", config_name="mine")["problems"]
    assert problem.startswith("Primary config directory not found. ")


# A command that could be run.


def test_good_command_has_no_problem_and_shows_everything(words: Words) -> None:
    report = make_report(words())
    assert (report["problems"], report["warnings"]) == ([], [])
    assert report["command"].startswith("python -m verl.trainer.main_ppo +recipe=multiattempt +platform=cpu ")
    (note,) = report["notes"]
    assert note.startswith("+recipe=multiattempt was added here: the training command needs it")
    assert report["settings"]["scope"] == "rollout"  # of auto, with one rollout for each prompt
    assert (report["chat"]["opening_placement"], report["chat"]["feedback_role"]) == ("system", "system")
    assert report["chat"]["end_of_turn"] == ["<|im_end|>"]
    assert report["chat"]["findings"] == []
    text = text_of(report)
    assert text.endswith("No problem found.")
    for title in ("Settings in force", "An episode", "Lengths, in tokens", "Verifier"):
        assert f"\n{title}\n" in text


def test_recipe_that_is_named_needs_no_note(words: Words) -> None:
    report = make_report(words("+recipe=multiattempt"))
    assert (report["notes"], report["problems"]) == ([], [])
    assert "Notes" not in text_of(report)


def test_example_is_what_the_chat_template_renders_and_marks_the_models_tokens(
    words: Words, model_dir: Callable[..., Path]
) -> None:
    segments = make_report(words("multiattempt.max_attempts=3"))["example"]["segments"]
    messages = [
        {"role": "system", "content": "You have 3 attempts to answer the question. "
                                      "Put the final answer of each attempt in \\boxed{}."},
        {"role": "user", "content": "Compute 12*34 mod 6 = ?"},
    ]  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(model_dir())
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert segments[0] == {"kind": "prompt", "text": prompt, "num_tokens": len(tokenizer.encode(prompt))}
    attempts = [segment["text"].removesuffix("<|im_end|>") for segment in segments if segment["kind"] == "model"]
    for attempt, left in zip(attempts, (2, 1, 0), strict=True):
        messages.append({"role": "assistant", "content": attempt})
        if left:
            text = f"Your answer is incorrect. You have {left} attempt{'s' * (left > 1)} left."
            messages.append({"role": "system", "content": text})
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    assert "".join(segment["text"] for segment in segments) == whole.removesuffix("\n")


def test_lengths_by_hand(words: Words) -> None:
    lengths = make_report(
        words("multiattempt.max_attempts=2", "data.max_prompt_length=100", "data.max_response_length=201",
              "actor_rollout_ref.rollout.n=2", "data.train_batch_size=8")
    )["lengths"]  # fmt: skip
    tokenizer = make_tokenizer()
    opening = (
        "<|im_start|>system\nYou have 2 attempts to answer the question. "
        "Put the final answer of each attempt in \\boxed{}.<|im_end|>\n"
    )
    feedback = (
        "<|im_end|>\n<|im_start|>system\nYour answer is incorrect. You have 1 attempt left.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    num_feedback = len(tokenizer.encode(feedback))
    assert lengths["opening_tokens"] == len(tokenizer.encode(opening))
    assert lengths["feedback_tokens"] == num_feedback
    assert lengths["tokens_of_each_attempt"] == {"1": 201, "2": (201 - num_feedback) // 2}
    assert lengths["episodes_per_step"] == 16
    assert lengths["tokens_per_step_at_most"] == 16 * 301


def test_attempts_that_do_not_all_fit_are_warned_of(words: Words) -> None:
    # Between two attempts lie 25 tokens: 3 * 50 + 2 * 25 = 200.
    limit = ["multiattempt.max_tokens_per_attempt=50", "multiattempt.max_attempts=3"]
    assert make_report(words(*limit, "data.max_response_length=200"))["warnings"] == []
    report = make_report(words(*limit, "data.max_response_length=199"))
    assert report["lengths"]["attempts_that_fit"] == 2
    (warning,) = report["warnings"]
    assert warning == (
        "data.max_response_length (199) holds 2 attempts of multiattempt.max_tokens_per_attempt (50) with the feedback "
        "between them, and 3 are allowed: long episodes are truncated"
    )


def test_too_little_room_for_the_attempts_allowed_is_warned_of_without_a_limit_of_each(words: Words) -> None:
    # Five attempts of 16 tokens with 25 between two: 5 * 16 + 4 * 25 = 180.
    assert make_report(words("data.max_response_length=180"))["warnings"] == []
    (warning,) = make_report(words("data.max_response_length=179"))["warnings"]
    assert warning == (
        "data.max_response_length (179) leaves 15 tokens for each of the 5 attempts that are allowed, and feedback is "
        "given only if multiattempt.min_tokens_per_attempt (16) fit after it: episodes are truncated before their last "
        "attempt"
    )


def test_engines_length_that_leaves_less_than_the_response_may_take(words: Words) -> None:
    report = make_report(words("actor_rollout_ref.rollout.max_model_len=600"))
    assert report["problems"] == []
    lengths = report["lengths"]
    assert (lengths["max_response_length"], lengths["response_room"]) == (512, 88)
    assert lengths["tokens_of_each_attempt"]["2"] == (88 - lengths["feedback_tokens"]) // 2
    assert lengths["tokens_per_step_at_most"] == 600
    below, little = report["warnings"]
    assert below == (
        "actor_rollout_ref.rollout.max_model_len (600) is below data.max_prompt_length + data.max_response_length "
        "(512 + 512): after a prompt of full length 88 tokens are left for the response"
    )
    assert little.startswith("the response after a prompt of full length (88) leaves 0 tokens for each of the 5 ")
    text = text_of(report)
    assert "  after a prompt of 512 at most 88 (actor_rollout_ref.rollout.max_model_len is 600)\n" in text


def test_engines_length_that_is_long_enough_changes_nothing(words: Words) -> None:
    report = make_report(words("actor_rollout_ref.rollout.max_model_len=1024"))
    assert (report["warnings"], report["lengths"]["response_room"]) == ([], 512)


def test_feedback_of_the_verifier_is_added_to_what_a_feedback_takes(words: Words) -> None:
    line = "and up to 70 characters of the verifier's in each (multiattempt.feedback.use_verifier_text)"
    more = ["multiattempt.feedback.max_verifier_chars=70"]
    assert line not in text_of(make_report(words(*more)))
    assert line in text_of(make_report(words(*more, "multiattempt.feedback.use_verifier_text=true")))


def test_prompts_of_the_data_are_measured_with_their_openings(words: Words, tmp_path: Path) -> None:
    rows = [good_row(prompt=[{"role": "user", "content": "?" * (i + 1)}]) for i in range(200)]
    path = write_rows(tmp_path / "train.parquet", rows)
    report = make_report(words(f"data.train_files={path}"))
    base = report["data"]["prompt_tokens_max"] - 200  # a question mark is a token of this tokenizer
    assert report["data"] == {
        "num_rows": 200, "num_sampled": 200, "prompt_tokens_max": base + 200, "prompt_tokens_p99": base + 198,
    }  # fmt: skip
    example = report["example"]["segments"][0]
    assert example["num_tokens"] == base + 1


def test_many_rows_are_sampled_from_the_whole_file(words: Words, tmp_path: Path) -> None:
    rows = [good_row(prompt=[{"role": "user", "content": "?" * (1 + (i >= 2000))}]) for i in range(4000)]
    report = make_report(words(f"data.train_files={write_rows(tmp_path / 'a.parquet', rows)}", "data.val_files=null"))
    assert (report["data"]["num_rows"], report["data"]["num_sampled"]) == (4000, 1000)
    assert report["data"]["prompt_tokens_max"] == report["example"]["segments"][0]["num_tokens"] + 1


def test_another_row_can_be_shown(words: Words, tmp_path: Path) -> None:
    rows = [good_row(reward_model={"ground_truth": str(i)}, extra_info={"max_attempts": i + 1}) for i in range(3)]
    word = f"data.train_files={write_rows(tmp_path / 'a.jsonl', rows)}"
    report = make_report(words(word), row=2)
    assert report["example"]["row"] == 2
    assert "You have 3 attempts" in report["example"]["segments"][0]["text"]
    assert report["verifier"]["attempt"] == "\\boxed{2}"
    (problem,) = make_report(words(word), row=3)["problems"]
    assert problem == "--row must be below the number of training rows (3); got 3"


# The verifier and the row's own gold.


GOLDS = ["1,234", "27.0", "$\\frac{1}{2}$", "so it is 18\n#### 18", "\\boxed{x^2}", "7"]


def test_golds_as_published_are_correct_by_the_math_verifier(words: Words, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", [good_row(reward_model={"ground_truth": gold}) for gold in GOLDS])
    several = write_rows(tmp_path / "b.jsonl", [good_row(reward_model={"ground_truth": ["7", "8"]})])
    report = make_report(words(f"data.train_files={path}", f"data.val_files={several}"))
    assert report["verifier"]["outcome"] == "CORRECT"
    assert report["verifier"]["golds"] == {
        "train_files": {"num_rows": 6, "judged": 6, "not_correct": []},
        "val_files": {"num_rows": 1, "judged": 1, "not_correct": []},
    }
    assert report["problems"] == []
    assert "  1 of 1 golds of the validation data are CORRECT by their own verifier\n" in text_of(report)


def test_gold_that_the_math_verifier_cannot_take_is_a_problem(words: Words, tmp_path: Path) -> None:
    gold = {"reward_model": {"ground_truth": {"tests": ["1 == 1"]}}}
    path = write_rows(tmp_path / "a.jsonl", [good_row(), good_row(**gold)])
    report = make_report(words(f"data.train_files={path}"), row=1)
    (problem,) = report["problems"]
    assert problem.startswith("multiattempt.verifier.name (math) must decide row 1 of data.train_files; got ERROR for ")
    (warning,) = report["warnings"]
    assert warning.startswith(
        "of 2 golds of data.train_files, 1 are not CORRECT by their own verifier (rows 1), so no attempt at these can "
    )


def test_golds_of_the_validation_data_are_judged_too(words: Words, tmp_path: Path) -> None:
    rows = [good_row(reward_model={"ground_truth": "}{ \\frac"}) for _ in range(7)]
    report = make_report(words(f"data.val_files={write_rows(tmp_path / 'val.jsonl', [good_row(), *rows])}"))
    assert report["problems"] == []
    (warning,) = report["warnings"]
    assert warning.startswith(
        "of 8 golds of data.val_files, 7 are not CORRECT by their own verifier (rows 1, 2, 3, 4, 5 ...), so no attempt "
        "at these can be right; the first: "
    )
    assert "  1 of 8 golds of the validation data are CORRECT by their own verifier\n" in text_of(report)


def test_of_many_golds_some_are_drawn_and_that_is_said(words: Words, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.parquet", [good_row()] * 1200)
    report = make_report(words(f"data.train_files={path}"))
    assert report["verifier"]["golds"]["train_files"] == {"num_rows": 1200, "judged": 500, "not_correct": []}
    assert "  500 of 500 golds of the data are CORRECT by their own verifier (drawn from 1,200 rows)\n" in text_of(
        report
    )


# Allowances of the rows' own.


def test_rows_own_allowances_are_shown_and_the_largest_is_used_for_the_lengths(words: Words, tmp_path: Path) -> None:
    rows = [good_row(extra_info={"max_attempts": number}) for number in (None, 2, 10)]
    train = write_rows(tmp_path / "a.jsonl", rows)
    val = write_rows(tmp_path / "b.jsonl", [good_row(extra_info={"max_attempts": 3})])
    command = words(f"data.train_files={train}", f"data.val_files={val}", "multiattempt.max_tokens_per_attempt=50",
                    "data.max_response_length=500")  # fmt: skip
    report = make_report(command)
    assert report["allowances"] == {
        "train_files": {"num_rows": 3, "num_own": 2, "smallest": 2, "largest": 10},
        "val_files": {"num_rows": 1, "num_own": 1, "smallest": 3, "largest": 3},
    }
    text = text_of(report)
    assert "  2 of the 3 rows of data.train_files allow 2..10 by extra_info.max_attempts\n" in text
    assert "  all of the 1 rows of data.val_files allow 3 by extra_info.max_attempts\n" in text
    lengths = report["lengths"]
    assert lengths["largest_allowance"] == 10
    assert list(lengths["tokens_of_each_attempt"]) == ["1", "2", "3", "4", "5", "6", "7", "8", "10"]
    assert lengths["tokens_of_each_attempt"]["10"] == (500 - 9 * lengths["feedback_tokens"]) // 10
    (warning,) = report["warnings"]
    assert warning.endswith("and 10 are allowed: long episodes are truncated")


# A reward function.


def test_reward_function_is_asked_and_its_word_is_no_problem(words: Words, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def compute_score(data_source, solution_str, ground_truth, extra_info):\n"
        "    return float(solution_str == f'it is {ground_truth}')\n", encoding="utf-8",
    )  # fmt: skip
    function = [
        "multiattempt.verifier.name=compute_score",
        f"reward.custom_reward_function.path={tmp_path / 'mine.py'}",
    ]
    report = make_report(words(*function))
    assert report["problems"] == []
    assert (report["verifier"]["outcome"], report["verifier"]["golds"]) == ("INCORRECT", {})
    (warning,) = report["warnings"]
    assert "multiattempt/repeat and repeat@k are not logged" in warning


def test_reward_function_that_raises_is_a_problem(words: Words, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def compute_score(**row): raise KeyError('tests')", encoding="utf-8")
    function = [
        "multiattempt.verifier.name=compute_score",
        f"reward.custom_reward_function.path={tmp_path / 'mine.py'}",
    ]
    (problem,) = make_report(words(*function))["problems"]
    assert problem.startswith(
        "multiattempt.verifier.name (compute_score) must decide row 0 of data.train_files; got ERROR"
    )
    assert "KeyError: 'tests'" in problem


# Commands with something wrong: all of it is told, and the rest is shown.


def test_all_problems_are_told_whatever_comes_first(words: Words, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(cpu, "find_accelerator", lambda: None)
    report = make_report(
        words("trainer.device=cuda", "ray_kwargs.ray_init.address=null", "reward.reward_manager.name=naive",
              "data.val_files=none.parquet", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=null",
              "data.max_response_length=20")
    )  # fmt: skip
    starts = [problem.split(" must ")[0] for problem in report["problems"]]
    assert starts == ["trainer.device", "reward.reward_manager.name", "data.max_response_length", "data.val_files",
                      "actor_rollout_ref.actor"]  # fmt: skip
    assert {"settings", "chat", "example", "lengths", "data", "verifier"} <= set(report)
    text = text_of(report)
    assert "\nProblems (5)\n  1. trainer.device must be there on this machine; got 'cuda' and no accelerator" in text
    assert text.endswith("See the problems above.")


def test_verls_own_checks_are_told_in_its_words_each_once(words: Words) -> None:
    without = [f"{word.split('=')[0]}=null" for word in MICRO_BATCHES if "micro" in word]
    problems = make_report(words(*without))["problems"]
    assert len(problems) == len(set(problems)) == 2  # of the actor and of the critic
    for part, problem in zip(("actor_rollout_ref.actor", "critic"), problems, strict=True):
        reason = f"[{part.split('.')[-1]}] Please set at least one of "
        assert problem.startswith(f"{part} must be as verl takes it; got ")
        assert reason in problem


def test_bad_setting_does_not_hide_what_else_is_wrong(words: Words) -> None:
    report = make_report(
        words("multiattempt.min_attempts=6", "multiattempt.max_attempts=3", "multiattempt.seed=x",
              "data.train_files=none.parquet")
    )  # fmt: skip
    assert [problem.split()[0] for problem in report["problems"]] == [
        "multiattempt.min_attempts", "multiattempt.seed", "data.train_files"
    ]  # fmt: skip
    assert "where a setting is wrong, its default is taken for all that is shown here" in report["notes"]
    settings = report["settings"]
    assert (settings["min_attempts"], settings["max_attempts"], settings["seed"]) == (1, 3, 0)
    assert {"chat", "example", "lengths"} <= set(report)
    assert text_of(report).endswith("See the problems above.")


def test_settings_of_which_nothing_can_be_read(words: Words) -> None:
    report = make_report(words("multiattempt.seed=${no.such.key}", "data.val_files=none.parquet"))
    assert [problem.split()[0] for problem in report["problems"]] == ["Interpolation", "data.val_files"]


def test_without_data_an_imaginary_question_is_shown(words: Words) -> None:
    report = make_report(words("data.train_files=none.parquet"))
    assert [problem.split()[0] for problem in report["problems"]] == ["data.train_files"]
    assert report["example"]["row"] is None
    assert "What is 2 + 3?" in report["example"]["segments"][0]["text"]
    assert "of an imaginary question" in text_of(report)


def test_rows_that_the_template_refuses_are_told_with_their_numbers_and_the_rest_is_shown(
    words: Words, tmp_path: Path
) -> None:
    odd = good_row(prompt=[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
    report = make_report(words(f"data.train_files={write_rows(tmp_path / 'a.jsonl', [good_row()] * 9 + [odd])}",
                               template=STRICT))  # fmt: skip
    (problem,) = report["problems"]
    assert (
        "a.jsonl, row 9: prompt must be messages that the chat template renders; got roles ['user', 'user']" in problem
    )
    assert {"settings", "chat", "example", "lengths", "verifier"} <= set(report)


def test_template_is_that_of_the_model(words: Words) -> None:
    report = make_report(words(template=CHATML_SYSTEM_FIRST))
    assert report["chat"]["feedback_role"] == "user"
    feedback = [segment["text"] for segment in report["example"]["segments"] if segment["kind"] == "feedback"]
    assert "<|im_start|>user\nYour answer is incorrect." in feedback[0]


# What a person reads.


def test_text_of_the_data_cannot_steer_the_terminal(words: Words, tmp_path: Path) -> None:
    row = good_row(prompt=[{"role": "user", "content": "a\x1b[2Jb\rc\u202ed"}])
    report = make_report(words(f"data.train_files={write_rows(tmp_path / 'a.parquet', [row])}"))
    shown = text_of(report)
    assert "a\\x1b[2Jb\\rc\\u202ed" in shown
    assert all(char.isprintable() or char == "\n" for char in shown)


@pytest.mark.parametrize(
    ("text", "shown"), [("", ""), ("a\nb", "a\u21b5\nb"), ("a\n", "a\u21b5"), ("\n\n", "\u21b5\n\u21b5")]
)
def test_line_ends_are_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


# The real command.

PROGRAM = """
import json, sys
from verl_multiattempt.cli import main
status = main(sys.argv[1:])
import ray, torch
print(json.dumps({"status": status, "ray": ray.is_initialized(), "cuda": torch.cuda.is_initialized()}), file=sys.stderr)
"""


def run_command(*words: str, cwd: Path) -> tuple[str, dict[str, Any]]:
    environment = {**os.environ, "VERL_PLATFORM": "cpu", "RAY_TMPDIR": str(cwd)}
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], env=environment, cwd=cwd, capture_output=True,
                          text=True, timeout=240, check=True)  # fmt: skip
    return done.stdout, json.loads(done.stderr.splitlines()[-1])


def test_command_prints_json_alone_and_starts_nothing(words: Words, tmp_path: Path) -> None:
    first, *rest = words()
    out, ended = run_command("check", first, "--json", *rest, cwd=tmp_path)
    assert ended == {"status": 0, "ray": False, "cuda": False}
    report = json.loads(out)
    assert report["problems"] == []
    # Overrides before and after the option are all there, in their order.
    assert report["command"].endswith(" ".join(["+recipe=multiattempt", first, *rest]))
    assert list(tmp_path.iterdir()) == []


def test_command_has_status_1_for_a_problem(words: Words, tmp_path: Path) -> None:
    out, ended = run_command("check", *words("multiattempt.max_attempt=3"), cwd=tmp_path)
    assert ended["status"] == 1
    assert "  1. Could not override 'multiattempt.max_attempt'. " in out


def test_readme_shows_what_is_printed(words: Words, repository: Path) -> None:
    section = (repository / "README.md").read_text(encoding="utf-8").split("### Check first")[1].split("\n#")[0]
    shown = section.split("```")[3].strip("\n").splitlines()
    printed = text_of(make_report(words("data.train_batch_size=1024"))).splitlines()
    assert len(shown) > 20
    assert [line for line in shown if line not in printed] == ["..."]
