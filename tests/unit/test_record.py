"""The episode log: round trip, what a reader makes of damaged files, and the table."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_multiattempt.episode import Attempt, Episode, Stop
from verl_multiattempt.record import (
    SEGMENT_KINDS,
    RecordedEpisode,
    Segment,
    log_files,
    read_episodes,
    to_dataset,
    to_end_line,
    to_line,
)
from verl_multiattempt.verifier import Outcome, Verdict


def recorded(step: int = 1, **changes: Any) -> RecordedEpisode:
    """An episode of two attempts, the second one correct."""
    episode = Episode(max_attempts=3, question_id="gsm8k/17", num_context_tokens=20)
    wrong = Verdict(outcome=Outcome.INCORRECT, answer="12", normal_answer="12", feedback="Off.", seconds=0.002)
    right = Verdict(outcome=Outcome.CORRECT, answer="18", seconds=0.5)
    episode.add(Attempt(text="so \\boxed{12}", verdict=wrong, stop=Stop.END_OF_TURN, num_tokens=5, feedback="Again.",
                        logprob_mean=-0.41, generate_s=1.5))  # fmt: skip
    episode.add(Attempt(text="so \\boxed{18}", verdict=right, stop=Stop.ANSWER, num_tokens=4))
    values: dict[str, Any] = {
        "rollout": 2, "data_source": "gsm8k", "index": 17, "ground_truth": "18", "started_at": 1790000000.25,
        "seconds": 3.5, "worker": "host-1", "reward": 1.0, "messages": [{"role": "user", "content": "Q?"}],
        "segments": [Segment(kind="prompt", text="<s>Q?", num_tokens=3),
                     Segment(kind="model", text="so", num_tokens=5)],
    }  # fmt: skip
    return RecordedEpisode(**{"episode": episode, "step": step, **values, **changes})


def write(path: Path, *episodes: RecordedEpisode) -> bytes:
    data = b"".join(to_line(episode) + b"\n" for episode in episodes)
    path.write_bytes(data)
    return data


def test_line_is_written_as_pinned() -> None:
    assert json.loads(to_line(recorded(step=12))) == {
        "schema": 2,
        "question_id": "gsm8k/17",
        "data_source": "gsm8k",
        "index": 17,
        "step": 12,
        "rollout": 2,
        "validate": False,
        "worker": "host-1",
        "dropped": 0,
        "started_at": 1790000000.25,
        "seconds": 3.5,
        "ground_truth": "18",
        "reward": 1.0,
        "max_attempts": 3,
        "truncated": False,
        "num_context_tokens": 20,
        "messages": [{"role": "user", "content": "Q?"}],
        "attempts": [
            {
                "text": "so \\boxed{12}",
                "stop": "end_of_turn",
                "num_tokens": 5,
                "logprob_mean": -0.41,
                "generate_s": 1.5,
                "feedback": "Again.",
                "outcome": "INCORRECT",
                "answer": "12",
                "normal_answer": "12",
                "verifier_feedback": "Off.",
                "detail": None,
                "fault": None,
                "seconds": 0.002,
            },
            {
                "text": "so \\boxed{18}",
                "stop": "answer",
                "num_tokens": 4,
                "logprob_mean": None,
                "generate_s": 0.0,
                "feedback": None,
                "outcome": "CORRECT",
                "answer": "18",
                "normal_answer": None,
                "verifier_feedback": None,
                "detail": None,
                "fault": None,
                "seconds": 0.5,
            },
        ],
        "segments": [
            {"kind": "prompt", "text": "<s>Q?", "num_tokens": 3},
            {"kind": "model", "text": "so", "num_tokens": 5},
        ],
    }


def test_documented_keys_are_those_of_a_line() -> None:
    import verl_multiattempt.record as module

    table = (module.__doc__ or "").split("=\n")[2].splitlines()
    names = [line[:22] for line in table if not line.startswith(" ") and not line.startswith("=")]
    top = [name for cell in names if not cell.startswith("..") for name in cell.replace(",", " ").split()]
    inner = [name for cell in names if cell.startswith("..") for name in cell[2:].replace(",", " ").split()]
    line = json.loads(to_line(recorded()))
    assert sorted(top) == sorted(line)
    assert sorted(inner) == sorted(line["attempts"][0])


# Text of a model, of a verifier and of a row is hostile: every character that Python's str can hold.
hostile = st.text(st.characters(), max_size=30) | st.sampled_from(
    ["\ud800", "a\udfffb", "\x00", "\u2028\u2029\x85", "\r\n", "\n{", '"}\n', "\ufeff", "\U0001f600", "</script>"]
)
verdicts = st.builds(
    Verdict, outcome=st.sampled_from(Outcome), answer=st.none() | hostile, normal_answer=st.none() | hostile,
    feedback=st.none() | hostile, detail=st.none() | hostile, fault=st.none() | hostile, seconds=st.floats(0, 1e6),
)  # fmt: skip
attempts = st.builds(
    Attempt, text=hostile, verdict=verdicts, stop=st.sampled_from(Stop), num_tokens=st.integers(0, 10**6),
    feedback=st.none() | hostile, logprob_mean=st.none() | st.floats(-100, 0), generate_s=st.floats(0, 1e6),
)  # fmt: skip
episodes = st.builds(
    Episode, max_attempts=st.integers(1, 9), question_id=hostile, attempts=st.lists(attempts, max_size=3),
    truncated=st.booleans(), num_context_tokens=st.integers(0, 10**6),
)  # fmt: skip
truths = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | hostile,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
records = st.builds(
    RecordedEpisode, episode=episodes, step=st.integers(-1, 10**6), reward=st.floats(-10, 10),
    rollout=st.integers(0, 64), validate=st.booleans(), data_source=hostile,
    index=st.none() | st.integers(0, 10**9) | hostile, ground_truth=truths, started_at=st.floats(0, 1e11),
    seconds=st.floats(0, 1e6), worker=hostile, dropped=st.just(0),
    messages=st.lists(st.fixed_dictionaries({"role": hostile, "content": hostile}), max_size=3),
    segments=st.lists(
        st.builds(Segment, kind=st.sampled_from(SEGMENT_KINDS), text=hostile, num_tokens=st.integers(0, 9)), max_size=3
    ),
)  # fmt: skip


def joined(value: Any) -> Any:
    """``value`` with each pair of surrogates made the character it stands for, as JSON reads it."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    if isinstance(value, dict):
        return {joined(key): joined(item) for key, item in value.items()}
    return [joined(item) for item in value] if isinstance(value, list) else value


@settings(deadline=None)  # of other work on the machine
@given(st.lists(records, max_size=4))
def test_any_episode_comes_back_as_it_went_in(made: list[RecordedEpisode]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "episodes-w-000000.jsonl"
        data = write(path, *made)
        assert data.count(b"\n") == len(data.splitlines()) == len(made)
        assert [r.to_record() for r in read_episodes(path)] == [joined(r.to_record()) for r in made]
        assert len(list(read_episodes(folder))) == len(made)


def test_huge_text_comes_back(tmp_path: Path) -> None:
    huge = "x\u2028\n" * 2_000_000
    write(tmp_path / "episodes-w-000000.jsonl", recorded(ground_truth=huge), recorded(step=2))
    first, second = read_episodes(tmp_path)
    assert first.ground_truth == huge
    assert second.step == 2


def test_values_of_numpy_are_written_as_plain_ones() -> None:
    np = pytest.importorskip("numpy")
    line = json.loads(
        to_line(recorded(ground_truth={"a": np.int64(3), "b": np.array([1.5, 2.0])}, reward=np.float64(1)))
    )
    assert line["ground_truth"] == {"a": 3, "b": [1.5, 2.0]}
    assert line["reward"] == 1.0


def test_file_cut_at_any_byte_loses_its_last_line_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "episodes-w-000000.jsonl"
    data = write(path, *(recorded(step=step) for step in (1, 2, 3)))
    second_end = data.index(b"\n", data.index(b"\n") + 1) + 1
    for end in [*range(second_end, len(data) - 7, 7), *range(len(data) - 7, len(data) + 1)]:
        path.write_bytes(data[:end])
        caplog.clear()
        steps = [episode.step for episode in read_episodes(path)]
        # Without its newline, the last line is whole all the same.
        whole = end >= len(data) - 1
        assert steps == ([1, 2, 3] if whole else [1, 2])
        torn = not whole and end > second_end
        assert caplog.messages == (
            [f"{path}: 1 lines hold no whole episode and were skipped, the first is line 3: it is not JSON"]
            if torn
            else []
        )


@pytest.mark.parametrize(
    ("damage", "said"),
    [(b"\x00" * 40, "it is not JSON"), (b"{", "it is not JSON"), (b"\xff\xfe", "it is not JSON"),
     (b"[" * 100_000, "it is not JSON"), (b'{"step":' + b"9" * 5000 + b"}", "it is not JSON"),
     (b"null", "a line must be an object; got None"), (b"[]", "a line must be an object; got []"),
     (b"3", "a line must be an object; got 3"), (b'"text"', "a line must be an object; got 'text'"),
     (b"{}", "question_id must be there; got none"), (b'{"schema":2}', "question_id must be there; got none"),
     (b'{"schema":null}', "question_id must be there; got none"),
     (b'{"schema":2,"end":true}', "worker must be there; got none"),
     (b'{"schema":2,"end":true,"worker":"w","dropped":-1}', "dropped must be an integer of at least 0; got -1")],
    ids=lambda value: repr(value[:12]),
)  # fmt: skip
def test_damaged_line_in_the_middle_is_skipped_and_counted(
    damage: bytes, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "episodes-w-000000.jsonl"
    path.write_bytes(to_line(recorded()) + b"\n" + damage + b"\n\n" + to_line(recorded(step=2)) + b"\n")
    assert [episode.step for episode in read_episodes(path)] == [1, 2]
    assert caplog.messages == [f"{path}: 1 lines hold no whole episode and were skipped, the first is line 2: {said}"]


def changed(change: str, value: Any) -> bytes:
    """A line in which the value at a path like ``attempts.0.stop`` is another one."""
    record = json.loads(to_line(recorded(step=2)))
    *path, last = change.split(".")
    target = record
    for name in path:
        target = target[int(name) if name.isdigit() else name]
    target[int(last) if last.isdigit() else last] = value
    return json.dumps(record).encode()


@pytest.mark.parametrize(
    ("change", "value", "said"),
    [
        ("dropped", None, "dropped must be an integer of at least 0; got None"),
        ("dropped", "3", "dropped must be an integer of at least 0; got '3'"),
        ("step", "1", "step must be an integer; got '1'"),
        ("step", 1.5, "step must be an integer; got 1.5"),
        ("step", 10**20, f"step must be an integer; got {10**20}"),
        ("validate", 1, "validate must be true or false; got 1"),
        ("worker", [1], "worker must be text; got [1]"),
        ("question_id", None, "question_id must be text; got None"),
        ("index", [1], "index must be text, a number or null; got [1]"),
        ("reward", "1", "reward must be a number; got '1'"),
        ("reward", True, "reward must be a number; got True"),
        ("reward", None, "reward must be a number; got None"),
        ("seconds", 10**400, f"seconds must be a number; got {str(10**400)[:18]}...{str(10**400)[-19:]}"),
        ("max_attempts", 0, "max_attempts must be at least 1; got 0"),
        ("max_attempts", "3", "max_attempts must be an integer of at least 0; got '3'"),
        ("messages", None, "messages must be a list; got None"),
        ("messages.0", "Q", "messages[0] must be an object; got 'Q'"),
        ("messages.0", {"role": "user"}, "messages[0].content must be there; got none"),
        ("messages.0.role", 3, "messages[0].role must be text; got 3"),
        ("messages.0.content", None, "messages[0].content must be text or a list of parts; got None"),
        ("attempts", {}, "attempts must be a list; got {}"),
        ("attempts.1", None, "attempts[1] must be an object; got None"),
        ("attempts.1.text", None, "attempts[1].text must be text; got None"),
        ("attempts.1.num_tokens", "4", "attempts[1].num_tokens must be an integer of at least 0; got '4'"),
        ("attempts.1.num_tokens", -4, "attempts[1].num_tokens must be an integer of at least 0; got -4"),
        ("attempts.1.seconds", "fast", "attempts[1].seconds must be a number; got 'fast'"),
        ("attempts.1.logprob_mean", "x", "attempts[1].logprob_mean must be a number or null; got 'x'"),
        ("attempts.1.answer", 18, "attempts[1].answer must be text or null; got 18"),
        ("attempts.1.stop", "bored", "attempts[1].stop must be one of end_of_turn, answer, attempt_limit, "
                                     "conversation_limit, control_token, empty; got 'bored'"),
        ("attempts.1.outcome", "GOOD", "attempts[1].outcome must be one of CORRECT, INCORRECT, NO_ANSWER, TIMEOUT, "
                                       "ERROR; got 'GOOD'"),
        ("attempts.1.outcome", ["CORRECT"], "attempts[1].outcome must be one of CORRECT, INCORRECT, NO_ANSWER, "
                                            "TIMEOUT, ERROR; got ['CORRECT']"),
        ("segments", 3, "segments must be a list; got 3"),
        ("segments.0.kind", "x", "segments[0].kind must be one of prompt, model, feedback, inserted; got 'x'"),
        ("segments.0.text", 5, "segments[0].text must be text; got 5"),
    ],
)  # fmt: skip
def test_line_with_a_value_that_would_break_figures_is_skipped_with_the_reason(
    change: str, value: Any, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "episodes-w-000000.jsonl"
    path.write_bytes(to_line(recorded()) + b"\n" + changed(change, value) + b"\n" + to_line(recorded(step=3)) + b"\n")
    assert [episode.step for episode in read_episodes(path)] == [1, 3]
    assert caplog.messages == [f"{path}: 1 lines hold no whole episode and were skipped, the first is line 2: {said}"]


def test_content_in_parts_and_keys_that_are_not_known_are_read(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    parts = [{"type": "text", "text": "Q?"}]
    record = {**json.loads(changed("messages.0.content", parts)), "later": "key"}
    record["messages"][0]["name"] = "x"
    (tmp_path / "episodes-w-000000.jsonl").write_text(json.dumps(record) + "\n")
    (episode,) = read_episodes(tmp_path)
    assert episode.messages == [{"role": "user", "content": parts}]
    assert to_dataset(tmp_path)[0]["messages"] == [{"role": "user", "content": json.dumps(parts)}]


def test_line_of_another_schema_is_skipped_and_counted_with_its_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for worker, schemas in (("a", [1, 2, 1]), ("b", [3, 1, 2])):
        lines = [json.dumps({**recorded().to_record(), "schema": schema}) for schema in schemas]
        (tmp_path / f"episodes-{worker}-000000.jsonl").write_text("\n".join(lines) + "\n")
    assert len(list(read_episodes(tmp_path))) == 2
    assert caplog.messages == [
        f"schema must be 2; got {schema} in {count} lines of the log {str(tmp_path)!r}, which were skipped. "
        "Read them with the version of verl_multiattempt that wrote them."
        for schema, count in ((1, 3), (3, 1))
    ]


def test_log_without_an_episode_of_this_schema_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = [json.dumps({**recorded().to_record(), "schema": 1}), '{"torn']
    (tmp_path / "episodes-w-000000.jsonl").write_text("\n".join(lines))
    read = read_episodes(tmp_path)
    with pytest.raises(ValueError, match="schema") as caught:
        next(read)
    assert str(caught.value) == (
        f"schema must be 2; got 1 in 1 lines of the log {str(tmp_path)!r}, which were skipped. "
        "Read them with the version of verl_multiattempt that wrote them."
    )


def test_record_of_another_schema_is_refused() -> None:
    with pytest.raises(ValueError, match="schema must be 2; got 3"):
        RecordedEpisode.from_record({**recorded().to_record(), "schema": 3})


def test_numbers_that_json_does_not_have_are_written_as_text(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    nan, inf = float("nan"), float("inf")
    truth = {"in": [1, nan], "out": (inf, -inf), "array": np.array([1.5, nan]), "small": np.float32("inf"), nan: None,
             "flag": True, "text": "NaN", "other": {1, }}  # fmt: skip
    made = recorded(ground_truth=truth, reward=nan, seconds=inf)
    made.episode.attempts[0].logprob_mean = -inf
    write(tmp_path / "episodes-w-000000.jsonl", made, recorded(ground_truth=nan, index=np.float64("nan")))
    line = json.loads(to_line(made))
    assert line["ground_truth"] == {
        "in": [1, "NaN"], "out": ["Infinity", "-Infinity"], "array": [1.5, "NaN"], "small": "Infinity", "NaN": None,
        "flag": True, "text": "NaN", "other": "{1}",
    }  # fmt: skip
    assert (line["reward"], line["seconds"], line["attempts"][0]["logprob_mean"]) == ("NaN", "Infinity", "-Infinity")
    first, second = read_episodes(tmp_path)
    assert str(first.reward) == "nan"
    assert (first.seconds, first.episode.attempts[0].logprob_mean) == (inf, -inf)
    assert (second.ground_truth, second.index) == ("NaN", "NaN")


def test_files_are_read_in_the_order_of_their_steps(tmp_path: Path) -> None:
    for name, step in (("episodes-b-1-000100.jsonl", 100), ("episodes-a-000000.jsonl", 1),
                       ("episodes-a-000100.jsonl", 101), ("episodes-a-1000000.jsonl", 1000000)):  # fmt: skip
        write(tmp_path / name, recorded(step=step))
    (tmp_path / "episodes-a.jsonl").write_text("another file\n")
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert [episode.step for episode in read_episodes(str(tmp_path))] == [1, 101, 100, 1000000]


def test_folder_of_a_run_stands_for_the_log_in_it(tmp_path: Path) -> None:
    (tmp_path / "episodes").mkdir()
    write(tmp_path / "episodes" / "episodes-a-000000.jsonl", recorded())
    assert log_files(tmp_path) == [tmp_path / "episodes" / "episodes-a-000000.jsonl"]


@pytest.mark.parametrize("name", ["absent", "."])
def test_path_without_a_log_is_refused_at_once(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="path") as caught:
        read_episodes(tmp_path / name)
    assert str(caught.value) == (
        f"path must be an episode log, a file or a folder with files episodes-*.jsonl; got {str(tmp_path / name)!r}. "
        "Training writes one with multiattempt.record.enabled=true."
    )


def test_folder_of_runs_names_the_logs_to_choose_from(tmp_path: Path) -> None:
    for folder in ("b", "a/episodes", "eval/k=3", "eval/k=5/episodes", "too/deep/for/it"):
        (tmp_path / folder).mkdir(parents=True)
        write(tmp_path / folder / "episodes-w-000000.jsonl", recorded())
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "episodes-notes.jsonl").write_text("no log")
    with pytest.raises(ValueError, match="path") as caught:
        log_files(tmp_path)
    found = ", ".join(repr(str(tmp_path / name)) for name in ("a/episodes", "b", "eval/k=3", "eval/k=5/episodes"))
    assert str(caught.value) == (
        f"path must be an episode log, a file or a folder with files episodes-*.jsonl; got {str(tmp_path)!r}. "
        f"Choose one of the logs below it: {found}."
    )


def test_of_many_logs_below_a_folder_the_first_are_named(tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"run{number:02d}").mkdir()
        write(tmp_path / f"run{number:02d}" / "episodes-w-000000.jsonl", recorded())
    with pytest.raises(ValueError, match=r"run11' and 18 more\.$"):
        log_files(tmp_path)


def test_last_word_of_a_worker_is_no_episode_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "episodes-host-1-000000.jsonl"
    path.write_bytes(to_line(recorded(dropped=1)) + b"\n" + to_end_line("host-1", 7) + b"\n")
    assert [episode.dropped for episode in read_episodes(tmp_path)] == [1]
    assert caplog.messages == ["worker host-1 could not write 7 episodes; its own log says why"]


def test_end_line_is_written_as_pinned() -> None:
    assert to_end_line("w", 3) == b'{"schema":2,"end":true,"worker":"w","dropped":3}'


def test_episodes_that_a_worker_could_not_write_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "episodes-a-000000.jsonl", recorded(dropped=0), recorded(dropped=3), recorded(worker="host-2"))
    with caplog.at_level(logging.WARNING):
        assert len(list(read_episodes(tmp_path))) == 3
    assert caplog.messages == ["worker host-1 could not write 3 episodes; its own log says why"]


def test_table_has_the_values_of_the_lines(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    episodes = [
        recorded(),
        recorded(step=2, index="a", ground_truth=["18", 18]),
        recorded(step=3, index=None, ground_truth=None, data_source="lone \ud800, pair \ud83d\ude00"),
    ]
    write(tmp_path / "episodes-w-000000.jsonl", *episodes)
    table = to_dataset(tmp_path)
    assert table["ground_truth"] == ["18", '["18", 18]', "null"]
    assert table["index"] == ["17", "a", None]
    assert table["data_source"] == ["gsm8k", "gsm8k", "lone \ufffd, pair \U0001f600"]
    assert table["solved"] == [True] * 3
    assert table["attempts_used"] == [2] * 3
    made = {"index", "ground_truth", "solved", "attempts_used"}
    first = episodes[0].to_record()
    assert {name: value for name, value in table[0].items() if name not in made} == {
        name: value for name, value in first.items() if name not in made
    }


def test_table_of_an_empty_log_has_the_same_columns(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write(tmp_path / "a" / "episodes-w-000000.jsonl")
    write(tmp_path / "b" / "episodes-w-000000.jsonl", recorded())
    empty, full = to_dataset(tmp_path / "a"), to_dataset(tmp_path / "b")
    assert len(empty) == 0
    assert empty.features == full.features
