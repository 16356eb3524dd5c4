"""The tiny_math example: its data, tokenizer and warm start, and the evaluation through `run_episode`."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "tiny_math"
sys.path.insert(0, str(EXAMPLE))

import batching  # noqa: E402
import evaluate  # noqa: E402
import make  # noqa: E402
import report  # noqa: E402
import task  # noqa: E402
from verl_multiattempt.chat.scaffold import resolve_scaffold  # noqa: E402
from verl_multiattempt.feedback import feedback_text, open_messages  # noqa: E402

SMALL = ["--steps", "2", "--batch-size", "4", "--train-rows", "60", "--val-rows", "20"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny_math")
    make.main(["--out", str(out), "--seed", "3", *SMALL])
    return out


@pytest.fixture(scope="module")
def tokenizer(made: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(made / "model")


@pytest.fixture(scope="module")
def model(made: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(made / "model", dtype="float32")


def test_same_seed_gives_the_same_bytes_of_data_and_tokenizer(made: Path, tmp_path: Path) -> None:
    make.main(["--out", str(tmp_path), "--seed", "3", *SMALL])
    for name in ("train.parquet", "val.parquet", "model/tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes(), name


def test_another_seed_changes_training_but_not_validation_or_tokenizer(made: Path, tmp_path: Path) -> None:
    make.main(["--out", str(tmp_path), "--seed", "4", "--steps", "0", *SMALL[2:]])
    assert (tmp_path / "train.parquet").read_bytes() != (made / "train.parquet").read_bytes()
    for name in ("val.parquet", "model/tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes(), name


def test_rows_have_verls_format(made: Path) -> None:
    rows = pq.read_table(made / "train.parquet").to_pylist()
    for index, row in enumerate(rows):
        (message,) = row["prompt"]
        a, b = message["content"].removeprefix("Compute ").removesuffix(" mod 6 = ?").split("*")
        assert message["role"] == "user"
        assert row["reward_model"] == {"style": "rule", "ground_truth": str(int(a) * int(b) % 6)}
        assert row["extra_info"] == {"index": index, "split": "train"}
        assert (row["data_source"], row["ability"]) == ("tiny_math", "math")


def test_no_question_is_in_both_splits_not_even_with_its_factors_swapped() -> None:
    train = task.draw_distinct(random.Random(0), 3000, held_out=False)
    val = task.draw_distinct(random.Random(0), 300, held_out=True)
    assert len(set(train)) == 3000
    swapped = {task.Question(question.b, question.a) for question in val}
    assert not set(train) & (set(val) | swapped)


def test_one_tenth_is_held_out() -> None:
    held_out = [task.Question(a, b).held_out for a in range(100, 1000, 7) for b in range(100, 1000, 7)]
    assert sum(held_out) / len(held_out) == pytest.approx(0.1, abs=0.01)


def test_the_hold_out_hash_is_the_same_on_every_machine() -> None:
    questions = (task.Question(100, b) for b in range(100, 200))
    assert [(question.a, question.b) for question in questions if question.held_out][:3] == [
        (100, 103),
        (100, 107),
        (100, 113),
    ]


def test_class_distribution_and_best_guess_order() -> None:
    assert task.class_counts() == {0: 15, 1: 2, 2: 6, 3: 5, 4: 6, 5: 2}
    assert [task.best_accuracy(k) for k in (1, 2, 3, 4)] == [20 / 36, 28 / 36, 1.0, 1.0]


def test_tokenizer_round_trip_and_single_tokens(tokenizer: Any) -> None:
    texts = [task.Question(107, 998).text, make.answer_text("4"), "Ünïcode\n\tand {} \\ 12 <tags>"]
    texts += [feedback_text(make.SETTINGS.feedback, left) for left in (1, 4)]
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text
    for text in ("\n", *map(str, range(10)), make.TURN_START, make.TURN_END, make.PAD):
        assert len(tokenizer.encode(text, add_special_tokens=False)) == 1, text


def test_end_of_turn_is_eos_and_padding_is_another_token(tokenizer: Any) -> None:
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.bos_token is None


def test_template_renders_a_system_message_in_mid_conversation(tokenizer: Any) -> None:
    feedback = feedback_text(make.SETTINGS.feedback, 2)
    scaffold = resolve_scaffold(tokenizer, sample_feedback=feedback)
    assert (scaffold.feedback_role, scaffold.opening_placement) == ("system", "system")
    messages = [
        {"role": "user", "content": "Q"},
        {"role": "assistant", "content": "A"},
        {"role": "system", "content": feedback},
    ]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered.endswith(f"<|im_start|>system\n{feedback}<|im_end|>\n<|im_start|>assistant\n")


def test_five_attempts_fit_into_the_quickstarts_limits(tokenizer: Any) -> None:
    opening = open_messages([{"role": "user", "content": task.Question(999, 999).text}], make.SETTINGS.opening, 5)
    prompt = tokenizer.apply_chat_template(opening, tokenize=True, add_generation_prompt=True, return_dict=False)
    scaffold = resolve_scaffold(tokenizer, sample_feedback=feedback_text(make.SETTINGS.feedback, 1))
    between = [len(scaffold.between_attempts(feedback_text(make.SETTINGS.feedback, left))) for left in (4, 3, 2, 1)]
    answer = len(tokenizer.encode(make.answer_text("4"), add_special_tokens=False))
    assert len(prompt) <= 96
    assert sum(between) + 5 * (answer + 1) + make.SETTINGS.min_tokens_per_attempt <= 160


def test_warm_start_loss_is_on_the_assistants_tokens_only(tokenizer: Any) -> None:
    dialogue = open_messages(
        [{"role": "user", "content": task.Question(100, 100).text}, {"role": "assistant", "content": "\\boxed{4}"}],
        make.SETTINGS.opening,
        1,
    )
    batch = make.to_batch(tokenizer, [dialogue])
    learned = batch["labels"][0][batch["labels"][0] != -100]
    assert tokenizer.decode(learned) == "\\boxed{4}<|im_end|>"


def test_model_is_small_untied_and_reloads_as_saved(model: Any) -> None:
    assert 500_000 < model.num_parameters() < 700_000
    assert not model.config.tie_word_embeddings
    assert model.get_input_embeddings().weight is not model.get_output_embeddings().weight


def run_evaluation(model: Any, tokenizer: Any, rows: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    return asyncio.run(evaluate.evaluate(model, tokenizer, rows, [1, 3], response_length=96, **options))


def test_evaluation_of_an_untrained_model_counts_every_question(made: Path, model: Any, tokenizer: Any) -> None:
    rows = pq.read_table(made / "val.parquet").to_pylist()
    results = run_evaluation(model, tokenizer, rows)
    assert set(results) == {"1", "3"}
    for k, run in results.items():
        low, high = run["accuracy_95"]
        assert run["n"] == len(rows)
        assert 0 <= low <= run["accuracy"] <= high <= 1
        assert 1 <= run["attempts_used"] <= int(k)
        assert run["metrics"]["episodes"] == len(rows)
        assert run["metrics"][f"accuracy@{k}"] == run["accuracy"]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_evaluation_does_not_depend_on_the_batch_size(
    made: Path, model: Any, tokenizer: Any, temperature: float
) -> None:
    rows = pq.read_table(made / "val.parquet").to_pylist()[:8]
    one = run_evaluation(model, tokenizer, rows, temperature=temperature, batch_size=1)
    many = run_evaluation(model, tokenizer, rows, temperature=temperature, batch_size=8)
    for run in (*one.values(), *many.values()):
        for name in [name for name in run["metrics"] if name.startswith("verification_s/")]:
            del run["metrics"][name]
    assert one == many
    assert one["3"]["metrics"]["context_tokens/share"] > 0


def test_padded_batch_generates_what_each_request_does_alone(model: Any, tokenizer: Any) -> None:
    texts = ["Compute", "Compute 100*200 mod", "You have 3 attempts to answer the question."]

    def generate(batch_size: int) -> list[list[int]]:
        served = batching.BatchedModel(
            model,
            stop_ids={tokenizer.eos_token_id},
            pad_id=tokenizer.pad_token_id,
            temperature=0,
            batch_size=batch_size,
        )

        async def one(text: str) -> list[int]:
            try:
                return await served.generate(text, tokenizer.encode(text, add_special_tokens=False), 6)
            finally:
                served.close_one()

        async def all_of_them() -> list[list[int]]:
            served.open(len(texts))
            return list(await asyncio.gather(*map(one, texts)))

        return asyncio.run(all_of_them())

    assert generate(1) == generate(3)


def test_a_failing_batch_fails_its_episodes_instead_of_hanging(tokenizer: Any) -> None:
    class Broken:
        def eval(self) -> Broken:
            return self

        def __call__(self, **_: Any) -> None:
            raise RuntimeError("out of memory")

    served = batching.BatchedModel(Broken(), stop_ids={0}, pad_id=0, temperature=0, batch_size=2)

    async def run() -> None:
        served.open(1)
        await served.generate("key", [1, 2], 4)

    with pytest.raises(RuntimeError, match="out of memory"):
        asyncio.run(asyncio.wait_for(run(), 10))


def test_wilson_interval_against_known_values() -> None:
    assert evaluate.wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert evaluate.wilson_interval(0, 20)[0] == 0.0
    assert evaluate.wilson_interval(20, 20)[1] == 1.0


def test_comparison_names_accuracy_intervals_and_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = {"n": 500, "accuracy": 0.5, "accuracy_95": [0.46, 0.54], "attempts_used": 1.5, "repeat": None}
    paths = [tmp_path / "before.json", tmp_path / "after.json"]
    for path in paths:
        path.write_text(json.dumps({"runs": {"2": run}}))
    evaluate.main(["--compare", *map(str, paths), "--checkpoint", "CHECKPOINT", "--log", "LOG"])
    printed = capsys.readouterr().out
    for expected in ("accuracy@2", "50.0 % [46.0, 54.0]", "77.8 %", "checkpoint: CHECKPOINT", "log: LOG", "500"):
        assert expected in printed


def test_comparison_refuses_a_file_that_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="must name result files"):
        report.read_runs(tmp_path / "other.json")


def test_comparison_refuses_different_allowances() -> None:
    with pytest.raises(ValueError, match="same --attempts"):
        report.comparison({1: {}}, {2: {}})


@pytest.mark.parametrize("arguments", [["--train-rows", "0"], ["--steps", "-1"], ["--batch-size", "0"]])
def test_make_refuses_counts_that_cannot_work(arguments: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        make.main(["--out", str(tmp_path), *arguments])


def test_progress_that_is_ended_ends_its_command(tmp_path: Path) -> None:
    log = tmp_path / "train.log"
    command = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
    arguments = ["--log", str(log), "--metrics", str(tmp_path / "metrics.jsonl"), "--steps", "1", "--", *command]
    with subprocess.Popen([sys.executable, str(EXAMPLE / "progress.py"), *arguments]) as progress:
        deadline = time.monotonic() + 60
        while not (log.exists() and log.read_text().strip()):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        progress.terminate()
        assert progress.wait(60) == 128 + signal.SIGTERM
    assert not psutil.pid_exists(int(log.read_text()))
