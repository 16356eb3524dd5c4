"""The whole of an evaluation but the model: episodes, verifier, log, results."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from math import comb
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation_engine import Conversation, ScriptedEngine, question_row, write_questions
from verl_multiattempt.chat.attempt_generator import EpisodeError
from verl_multiattempt.cli_errors import CommandError, UsageError
from verl_multiattempt.evaluation.command import evaluate, evaluate_in_turn
from verl_multiattempt.evaluation.engine import EngineError
from verl_multiattempt.evaluation.output import open_output
from verl_multiattempt.evaluation.runner import MAX_FAILURES_IN_A_ROW
from verl_multiattempt.evaluation.settings import EvaluationSettings
from verl_multiattempt.metrics import episode_metrics
from verl_multiattempt.record import read_episodes
from verl_multiattempt.record_writer import worker_name
from verl_multiattempt.settings import RewardSettings, Settings

QUESTIONS = 24
OnCall = Callable[[Conversation, int], None]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two benchmarks of different sizes, mixed."""
    rows = [question_row(i, source="big" if i % 3 else "small") for i in range(QUESTIONS)]
    return write_questions(tmp_path / "q.parquet", rows)


def settings_for(data: Path, **changes: Any) -> EvaluationSettings:
    values = {"model": "scripted", "data": (str(data),), "attempts": (1, 2, 4), "temperature": 1.0, **changes}
    return EvaluationSettings(**{"task": Settings(max_attempts=values["attempts"][-1]), **values})


EVERYTHING: dict[str, Any] = {
    "protocols": ("nested", "paper"), "controls": ("samples", "no_feedback"), "samples": 2,
}  # fmt: skip


def run(settings: EvaluationSettings, out: Path, **engine: Any) -> tuple[int, ScriptedEngine]:
    made = ScriptedEngine(**engine)
    return evaluate(settings, out, lambda _: made), made


def results_of(out: Path) -> dict[str, Any]:
    return json.loads((out / "results.json").read_text())


def timeless(value: Any) -> Any:
    """Without what says when and how long."""
    if isinstance(value, dict):
        return {name: timeless(item) for name, item in value.items() if name not in ("seconds", "started_at")}
    return value


def log_lines(folder: Path) -> Iterator[dict[str, Any]]:
    for path in folder.glob("episodes-*.jsonl"):
        yield from (json.loads(line) for line in path.read_text().splitlines() if line.endswith("}"))


def test_results_are_what_a_recount_of_the_log_gives(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, _ = run(settings_for(data, **EVERYTHING), out)
    assert status == 0
    results = results_of(out)
    assert list(results["curves"]) == ["paper", "nested", "samples", "no_feedback"]
    for kind, names in {"nested": ["nested-4"] * 3, "no_feedback": ["no_feedback-4"] * 3,
                        "paper": ["paper-1", "paper-2", "paper-4"], "samples": ["samples"] * 3}.items():  # fmt: skip
        for k, name in zip((1, 2, 4), names, strict=True):
            shares = []
            for source in ("big", "small"):
                lines = [line for line in log_lines(out / name) if line["data_source"] == source]
                right = [[a["outcome"] == "CORRECT" for a in line["attempts"][:k]] for line in lines]
                if kind == "samples":
                    counts: dict[str, list[int]] = {}
                    for line, flags in zip(lines, right, strict=True):
                        counts.setdefault(line["question_id"], []).append(any(flags))
                    assert {len(flags) for flags in counts.values()} == {8}
                    share = sum(1 - comb(8 - sum(c), k) / comb(8, k) for c in counts.values()) / len(counts)
                else:
                    share = sum(map(any, right)) / len(right)
                point = results["curves"][kind][source]["accuracy"][str(k)]
                assert point["value"] == pytest.approx(share, abs=1e-12)
                assert point["low"] < share < point["high"]
                shares.append(share)
            assert results["curves"][kind]["mean"]["accuracy"][str(k)]["value"] == pytest.approx(sum(shares) / 2)
    assert results["curves"]["samples"]["mean"]["measure"] == "pass@k"


def test_rates_and_tokens_are_what_a_recount_of_the_log_gives(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(settings_for(data, samples=3), out)
    results = results_of(out)
    for source in ("big", "small"):
        lines = [line for line in log_lines(out / "nested-4") if line["data_source"] == source]
        retries = [
            (line["attempts"][:i], line["attempts"][i]) for line in lines for i in range(1, len(line["attempts"]))
        ]
        curve = results["curves"]["nested"][source]
        for k in (None, 2, 3, 4):
            taken = [(before, retry) for before, retry in retries if k in (None, len(before) + 1)]
            refined = sum(retry["outcome"] == "CORRECT" for _, retry in taken) / len(taken)
            given = [
                retry["answer"] is not None and retry["answer"] in [earlier["answer"] for earlier in before]
                for before, retry in taken
            ]
            shown = [curve["refinement_all"], curve["repeat_all"]] if k is None else [
                curve[rate][str(k)] for rate in ("refinement", "repeat")
            ]  # fmt: skip
            assert shown == pytest.approx([refined, sum(given) / len(given)])
        part = results["runs"]["nested-4"]["benchmarks"][source]
        assert part["tokens"] == {
            "sampled": sum(attempt["num_tokens"] for line in lines for attempt in line["attempts"]),
            "context": sum(line["num_context_tokens"] for line in lines),
            "prompt": 11 * len(lines),
        }
        assert part["episodes"] == len(lines) == 3 * part["questions"]
        assert part["failed"] == 0


def test_figures_are_those_of_training_for_the_same_episodes(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(settings_for(data, **EVERYTHING), out)
    for name, planned in results_of(out)["runs"].items():
        for source, part in planned["benchmarks"].items():
            recorded = [r for r in read_episodes(out / name) if r.data_source == source]
            figures = episode_metrics([r.episode for r in recorded], RewardSettings(), planned["max_attempts"])
            expected = {key.removeprefix("multiattempt/"): value for key, value in figures.items()}
            seconds = {key: value for key, value in part["seconds"].items() if key.startswith("verification_s/")}
            assert {**part["metrics"], **seconds} == pytest.approx(expected)
            curve = results_of(out)["curves"][planned["kind"]][source]["accuracy"]
            if planned["kind"] in ("nested", "no_feedback"):
                for k in ("1", "2", "4"):
                    assert curve[k]["value"] == pytest.approx(part["metrics"][f"accuracy@{k}"])


@pytest.mark.parametrize("stop_at", [1, 2, 30, 77, 150])
def test_stopped_anywhere_and_run_again_gives_the_same_results(data: Path, tmp_path: Path, stop_at: int) -> None:
    def die(conversation: Conversation, call: int) -> None:
        if call == stop_at:
            raise EngineError("the engine died.")

    settings = settings_for(data, **EVERYTHING)
    _, whole = run(settings, tmp_path / "whole")
    with pytest.raises(CommandError, match="the engine died"):
        run(settings, tmp_path / "parts", on_call=die, max_open=5)
    ended = sum(1 for _ in (tmp_path / "parts").glob("*/episodes-*.jsonl") for _ in _.open())
    assert not (tmp_path / "parts" / "results.json").exists()
    status, again = run(settings, tmp_path / "parts", max_open=3)
    assert status == 0
    assert len(again.conversations) == len(whole.conversations) - ended
    assert timeless(results_of(tmp_path / "parts")) == timeless(results_of(tmp_path / "whole"))


def test_two_calls_write_the_same_bytes_but_for_times(data: Path, tmp_path: Path) -> None:
    settings = settings_for(data)
    for name in ("a", "b"):
        run(settings, tmp_path / name, max_open=7 if name == "a" else 2)
    texts = [json.dumps(timeless(results_of(tmp_path / name)), indent=2) for name in ("a", "b")]
    assert texts[0] == texts[1]


def test_half_a_line_of_a_killed_process_is_run_again(data: Path, tmp_path: Path) -> None:
    settings, out = settings_for(data), tmp_path / "out"
    run(settings, out)
    whole = timeless(results_of(out))
    (log,) = (out / "nested-4").glob("episodes-*.jsonl")
    content = log.read_bytes()
    log.write_bytes(content[: len(content) * 2 // 3])
    num_left = QUESTIONS - log.read_bytes().count(b"\n")
    _, engine = run(settings, out)  # appends to the same file, whose last line has no end
    assert len(engine.conversations) == num_left
    assert timeless(results_of(out)) == whole
    assert len(list(read_episodes(out / "nested-4"))) == QUESTIONS


def test_nothing_left_starts_no_engine_and_gives_the_same(data: Path, tmp_path: Path) -> None:
    settings, out = settings_for(data), tmp_path / "out"
    run(settings, out)
    before = (out / "results.json").read_bytes()
    status, engine = run(settings, out)
    assert (status, engine.starts) == (0, 0)
    assert (out / "results.json").read_bytes() == before


def test_several_in_turn_share_one_start_and_are_each_what_they_are_alone(data: Path, tmp_path: Path) -> None:
    every = [settings_for(data, temperature=temperature) for temperature in (0.5, 1.0)]
    for settings in every:
        run(settings, tmp_path / f"alone-{settings.temperature}")
    engine, asked = ScriptedEngine(), []
    parts = [(settings, tmp_path / f"together-{settings.temperature}") for settings in every]
    assert evaluate_in_turn(parts, lambda settings: asked.append(settings) or engine) == 0
    assert (asked, engine.starts, engine.closed) == (every[:1], 1, 1)
    temperatures = [conversation.sampling.temperature for conversation in engine.conversations]
    assert temperatures == [0.5] * QUESTIONS + [1.0] * QUESTIONS
    for settings in every:
        alone, together = (results_of(tmp_path / f"{name}-{settings.temperature}") for name in ("alone", "together"))
        assert timeless(alone) == timeless(together)
        assert together["settings"]["temperature"] == settings.temperature


def test_several_that_are_interrupted_go_on_where_they_were(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(conversation: Conversation, call: int) -> None:
        if conversation.sampling.temperature == 1.0 and not sent:
            sent.append(call)
            os.kill(os.getpid(), signal.SIGINT)

    sent: list[int] = []
    parts = [(settings_for(data, temperature=temperature), tmp_path / str(temperature)) for temperature in (0.5, 1.0)]
    assert evaluate_in_turn(parts, lambda _: ScriptedEngine(on_call=interrupt)) == 130
    said = capsys.readouterr().err
    (count,) = re.findall(rf"interrupted: (\d+) of {2 * QUESTIONS} episodes are in .*0.5, .*1.0;", said)
    assert QUESTIONS <= int(count) < 2 * QUESTIONS
    engine = ScriptedEngine()
    assert evaluate_in_turn(parts, lambda _: engine) == 0
    assert len(engine.conversations) == 2 * QUESTIONS - int(count)
    for _, folder in parts:
        assert len(list(read_episodes(folder / "nested-4"))) == QUESTIONS


def test_what_has_ended_is_written_when_a_later_one_cannot_go_on(data: Path, tmp_path: Path) -> None:
    def die(conversation: Conversation, call: int) -> None:
        if conversation.sampling.temperature == 1.0:
            raise EngineError("the engine died")

    parts = [(settings_for(data, temperature=temperature), tmp_path / str(temperature)) for temperature in (0.5, 1.0)]
    with pytest.raises(CommandError, match="the engine died"):
        evaluate_in_turn(parts, lambda _: ScriptedEngine(on_call=die))
    assert results_of(tmp_path / "0.5")["curves"]["nested"]
    assert not (tmp_path / "1.0" / "results.json").exists()


def test_several_share_a_folder_for_benchmarks_and_hold_it(tmp_path: Path) -> None:
    common = tmp_path / "out"
    (common / "data").mkdir(parents=True)
    write_questions(common / "data" / "gsm8k.parquet", [question_row(i) for i in range(4)])
    every = [settings_for(Path("gsm8k"), temperature=temperature) for temperature in (0.5, 1.0)]
    parts = [(settings, common / f"temperature-{settings.temperature}") for settings in every]

    def engine_for(settings: EvaluationSettings) -> ScriptedEngine:
        with pytest.raises(CommandError, match="another process is evaluating into"):
            open_output(common)
        return ScriptedEngine()

    assert evaluate_in_turn(parts, engine_for, common) == 0
    assert all(len(list(read_episodes(folder / "nested-4"))) == 4 for _, folder in parts)
    open_output(common)[1].close()


def test_failures_of_several_are_told_together(data: Path, tmp_path: Path) -> None:
    def fail_once(conversation: Conversation, call: int) -> None:
        if conversation.request_id.endswith("/3/0"):
            raise EpisodeError(f"at {conversation.sampling.temperature}")

    parts = [(settings_for(data, temperature=temperature), tmp_path / str(temperature)) for temperature in (0.5, 1.0)]
    with pytest.raises(CommandError, match=rf"2 of {2 * QUESTIONS} episodes failed .*; the last: .*at 1.0\. The same"):
        evaluate_in_turn(parts, lambda _: ScriptedEngine(on_call=fail_once))


def test_other_settings_in_the_same_folder_are_refused_with_the_difference(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(settings_for(data), out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(UsageError) as caught:
        run(settings_for(data, temperature=0.5, seed=3), out)
    assert str(caught.value) == (
        f"--out must be a folder of the same settings, or a new one; got {str(out)!r}, in which differ:\n"
        "  seed: 0 there, 3 now\n  temperature: 1.0 there, 0.5 now"
    )
    write_questions(data, [question_row(i) for i in range(5)])
    with pytest.raises(UsageError, match="data_sha256: "):
        run(settings_for(data), out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert run(settings_for(write_questions(data, [question_row(1)]), temperature=0.5), tmp_path / "new")[0] == 0


def test_settings_of_a_call_that_came_to_no_episode_do_not_bind(data: Path, tmp_path: Path) -> None:
    def refuse(_: EvaluationSettings) -> ScriptedEngine:
        raise ValueError("no chat template")

    with pytest.raises(UsageError, match="no chat template"):
        evaluate(settings_for(data, model="typo"), tmp_path / "out", refuse)
    assert run(settings_for(data), tmp_path / "out")[0] == 0


def test_failed_episodes_are_counted_named_and_tried_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(conversation: Conversation, call: int) -> None:
        if "big/5/" in conversation.request_id or "small/6/" in conversation.request_id:
            raise EpisodeError("the server said no")

    settings, out = settings_for(data, samples=2), tmp_path / "out"
    with pytest.raises(CommandError, match=r"4 of 48 episodes failed and are in no figure; the last: .*: the server"):
        run(settings, out, on_call=fail)
    part = results_of(out)["runs"]["nested-4"]["benchmarks"]["big"]
    assert (part["questions"], part["episodes"], part["failed"], part["metrics"]["episodes"]) == (15, 30, 2, 30)
    failures = [json.loads(line) for line in (out / "nested-4" / "failures.jsonl").read_text().splitlines()]
    assert sorted((f["question_id"], f["rollout"]) for f in failures) == [
        ("big/5", 0), ("big/5", 1), ("small/6", 0), ("small/6", 1),
    ]  # fmt: skip
    assert {f["error"] for f in failures} == {"the server said no"}
    assert "1 failed so far; the last: " in capsys.readouterr().err
    status, engine = run(settings, out)
    assert (status, len(engine.conversations)) == (0, 4)
    assert results_of(out)["runs"]["nested-4"]["benchmarks"]["big"]["failed"] == 0


def test_failure_of_any_kind_is_that_episodes(data: Path, tmp_path: Path) -> None:
    def fail(conversation: Conversation, call: int) -> None:
        if "big/5/" in conversation.request_id:
            raise KeyError("choices")

    with pytest.raises(CommandError, match=r"1 of 24 episodes failed .* KeyError: 'choices'"):
        run(settings_for(data), tmp_path / "out", on_call=fail)
    assert len(list(read_episodes(tmp_path / "out" / "nested-4"))) == QUESTIONS - 1


def test_model_that_fails_at_everything_is_given_up(tmp_path: Path) -> None:
    def fail(conversation: Conversation, call: int) -> None:
        raise EpisodeError("no such route")

    data = write_questions(tmp_path / "many.parquet", [question_row(i) for i in range(3 * MAX_FAILURES_IN_A_ROW)])
    with pytest.raises(CommandError, match=r"100 episodes failed one after the other; the last: .*no such route"):
        run(settings_for(data), tmp_path / "out", on_call=fail, max_open=4)
    failures = (tmp_path / "out" / "nested-4" / "failures.jsonl").read_text().count("\n")
    assert MAX_FAILURES_IN_A_ROW <= failures < MAX_FAILURES_IN_A_ROW + 4


@pytest.mark.parametrize("reason", ["too slow", "too slow. Raise --timeout-s."])
def test_sentence_about_failures_has_one_full_stop(data: Path, tmp_path: Path, reason: str) -> None:
    def fail(conversation: Conversation, call: int) -> None:
        if call == 3:
            raise EpisodeError(reason)

    with pytest.raises(CommandError) as caught:
        run(settings_for(data), tmp_path / "out", on_call=fail)
    assert str(caught.value).endswith(reason.rstrip(".") + ". The same command tries them again.")


def test_table_of_a_run_of_which_no_episode_ended_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(conversation: Conversation, call: int) -> None:
        raise EpisodeError("no")

    with pytest.raises(CommandError, match="24 of 24 episodes failed"):
        run(settings_for(data), tmp_path / "out", on_call=fail)
    assert capsys.readouterr().out == "nested: no figures, for no episode has ended\n"


def test_progress_says_of_which_episodes_its_share_is(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(settings_for(data), tmp_path / "out")
    assert re.search(r"nested-4: of those ended, \d+\.\d% solved", capsys.readouterr().err)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 1)])
def test_signal_ends_in_order_and_says_how_to_go_on(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals, status: int
) -> None:
    def interrupt(conversation: Conversation, call: int) -> None:
        if call == 40:
            os.kill(os.getpid(), number)

    settings, out = settings_for(data), tmp_path / "out"
    handlers = [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)]
    ended_with, engine = run(settings, out, on_call=interrupt)
    assert ended_with == status
    assert engine.closed == 1
    assert [signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)] == handlers
    count = len(list(read_episodes(out / "nested-4")))
    assert 0 < count < QUESTIONS
    expected = f"interrupted: {count} of 24 episodes are in {out}; the same command goes on from there"
    assert expected in capsys.readouterr().err
    assert run(settings, out)[0] == 0
    run(settings, tmp_path / "whole")
    assert timeless(results_of(out)) == timeless(results_of(tmp_path / "whole"))


def test_dead_engine_after_a_signal_is_an_interruption(data: Path, tmp_path: Path) -> None:
    def interrupt(conversation: Conversation, call: int) -> None:
        if call == 10:
            os.kill(os.getpid(), signal.SIGINT)  # which a terminal sends to the engine's processes as well
            raise EngineError("vLLM's engine died")

    assert run(settings_for(data), tmp_path / "out", on_call=interrupt)[0] == 130


def test_full_disk_ends_it_with_a_sentence(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def fill(conversation: Conversation, call: int) -> None:
        if call == 1:
            (out / "nested-4").mkdir()
            (out / "nested-4" / f"episodes-{worker_name()}-000000.jsonl").symlink_to("/dev/full")

    with pytest.raises(CommandError) as caught:
        run(settings_for(data), out, on_call=fill)
    assert str(caught.value) == (
        f"{out / 'nested-4'} cannot be written to: No space left on device. The episodes in it are kept; the same "
        "command goes on from them."
    )


def test_disk_that_takes_half_a_line_loses_that_episode_alone(data: Path, tmp_path: Path) -> None:
    def limit(conversation: Conversation, call: int) -> None:
        if call == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))

    settings, out = settings_for(data), tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(CommandError, match="nested-4 cannot be written to: File too large"):
            run(settings, out, on_call=limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (log,) = (out / "nested-4").glob("episodes-*.jsonl")
    assert log.stat().st_size == 20_000
    ended = log.read_bytes().count(b"\n")
    assert 0 < ended < QUESTIONS
    _, engine = run(settings, out)
    assert len(engine.conversations) == QUESTIONS - ended
    run(settings, tmp_path / "whole")
    assert timeless(results_of(out)) == timeless(results_of(tmp_path / "whole"))


def test_folder_that_cannot_be_made_is_refused_before_the_engine_is_made(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"--out must be a folder that can be written to; got '.*file/out': Not a dir"):
        evaluate(settings_for(data), tmp_path / "file" / "out", lambda _: pytest.fail("an engine was made"))


def test_bad_row_is_an_error_before_the_engine_is_made(tmp_path: Path) -> None:
    data = write_questions(tmp_path / "q.parquet", [question_row(0), question_row(1, data_source=None)])
    with pytest.raises(UsageError, match="row 1: data_source must be"):
        evaluate(settings_for(data), tmp_path / "out", lambda _: pytest.fail("an engine was made"))


def test_second_process_in_the_same_folder_is_refused(data: Path, tmp_path: Path, repository: Path) -> None:
    script = (
        "import sys, time; from verl_multiattempt.evaluation.output import open_output\n"
        f"held = open_output({str(tmp_path / 'out')!r}); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=repository, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(CommandError, match="another process is evaluating into"):
            run(settings_for(data), tmp_path / "out")
        other.communicate("")
    assert run(settings_for(data), tmp_path / "out")[0] == 0


def test_engine_is_kept_full_and_not_overfilled(data: Path, tmp_path: Path) -> None:
    _, engine = run(settings_for(data, concurrency=6), tmp_path / "a", max_open=8)
    assert engine.most_running == 6
    _, engine = run(settings_for(data, concurrency=100), tmp_path / "b", max_open=8)
    assert engine.most_running == 8


def test_openings_say_the_allowance_and_the_engine_hears_of_them_at_its_start(data: Path, tmp_path: Path) -> None:
    _, engine = run(settings_for(data, protocols=("paper",), attempts=(1, 3)), tmp_path / "out")
    heard = {message["content"].split(" to answer")[0] for opening in engine.openings for message in opening[:1]}
    assert heard == {"You have 1 attempt", "You have 3 attempts"}
    assert {conversation.seen[0][0]["content"][:10] for conversation in engine.conversations} == {
        "You have 1",
        "You have 3",
    }
    assert len(engine.openings) == 2 * QUESTIONS


def test_rows_own_allowances_are_left_aside_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [question_row(i) for i in range(3)]
    for row in rows[:2]:
        row["extra_info"]["max_attempts"] = 3
    data = write_questions(tmp_path / "q.parquet", rows)
    _, engine = run(settings_for(data, protocols=("paper",), attempts=(1, 2)), tmp_path / "out")
    heard = {message["content"].split(" to answer")[0] for opening in engine.openings for message in opening[:1]}
    assert heard == {"You have 1 attempt", "You have 2 attempts"}
    (said,) = [record.getMessage() for record in caplog.records if "extra_info.max_attempts" in record.getMessage()]
    assert said.startswith("2 of 3 questions have extra_info.max_attempts, which training and its validation heed and ")


def test_without_feedback_the_model_goes_on_from_its_own_answer(data: Path, tmp_path: Path) -> None:
    settings = settings_for(data, protocols=(), controls=("no_feedback",))
    _, engine = run(settings, tmp_path / "out")
    retried = [conversation for conversation in engine.conversations if len(conversation.seen) > 1]
    assert retried
    for conversation in retried:
        assert [message["role"] for message in conversation.seen[-1]] == [
            "system", "user", *["assistant"] * (len(conversation.seen) - 1)
        ]  # fmt: skip
    assert all(
        a["feedback"] is None for line in log_lines(tmp_path / "out" / "no_feedback-4") for a in line["attempts"]
    )


def test_model_that_answers_nothing_is_wrong_everywhere_and_not_certainly_so(data: Path, tmp_path: Path) -> None:
    status, _ = run(settings_for(data), tmp_path / "out", answer=lambda *_: "")
    assert status == 0
    results = results_of(tmp_path / "out")
    curve = results["curves"]["nested"]["big"]
    assert curve["accuracy"]["4"]["value"] == curve["accuracy"]["4"]["low"] == 0
    assert 0.1 < curve["accuracy"]["4"]["high"] < 0.4
    assert results["runs"]["nested-4"]["benchmarks"]["big"]["metrics"]["answered"] == 0


def test_rates_are_null_where_no_attempt_was_a_retry(data: Path, tmp_path: Path) -> None:
    run(settings_for(data, attempts=(1,)), tmp_path / "out")
    curve = results_of(tmp_path / "out")["curves"]["nested"]["mean"]
    assert (curve["refinement"], curve["refinement_all"], curve["repeat_all"]) == ({}, None, None)


def test_verifiers_that_fail_are_told(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = Settings.from_mapping({"max_attempts": 2, "verifier": {"name": "tests.evaluation_engine.FailingVerifier"}})
    settings = settings_for(data, attempts=(1, 2), task=task)
    status, _ = run(settings, tmp_path / "out")
    assert status == 0
    assert "100.0% of the episodes of nested-2 on small are undecided" in capsys.readouterr().err
    strict = Settings.from_mapping({
        "max_attempts": 2, "verifier": {"name": "tests.evaluation_engine.FailingVerifier"},
        "reward": {"on_verifier_failure": "fail"},
    })  # fmt: skip
    with pytest.raises(CommandError, match="24 of 24 episodes failed"):
        run(settings_for(data, attempts=(1, 2), task=strict), tmp_path / "strict")


def test_verifiers_text_reaches_the_model_without_control_tokens(data: Path, tmp_path: Path) -> None:
    task = Settings.from_mapping({
        "max_attempts": 2, "verifier": {"name": "tests.evaluation_engine.TellingVerifier"},
        "feedback": {"use_verifier_text": True},
    })  # fmt: skip
    _, engine = run(settings_for(data, attempts=(1, 2), task=task), tmp_path / "out")
    said = engine.conversations[0].seen[1][-1]
    assert said == {"role": "user", "content": "Saw < |im_end|>?\nYour answer is incorrect. You have 1 attempt left."}


def test_table_shows_each_benchmark_and_their_mean(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(settings_for(data, **EVERYTHING), tmp_path / "out")
    text = capsys.readouterr().out
    tables = text.strip().split("\n\n")
    assert [table.split(":")[0].split(" ")[0] for table in tables] == ["paper", "nested", "samples", "no_feedback"]
    curve = results_of(tmp_path / "out")["curves"]["nested"]["mean"]
    header, *rows = tables[1].splitlines()[1:]
    assert header.split() == ["questions", "@1", "@2", "@4", "refinement", "repeat"]
    assert [row.split()[0] for row in rows[::2]] == ["small", "big", "mean"]
    shown = [f"{100 * curve['accuracy'][k]['value']:.1f}" for k in ("1", "2", "4")]
    assert rows[4].split() == ["mean", "24", *shown, f"{100 * curve['refinement_all']:.1f}",
                               f"{100 * curve['repeat_all']:.1f}"]  # fmt: skip
    assert max(map(len, text.splitlines())) <= 100
