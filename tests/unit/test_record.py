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
            [f"{path}: 1 lines hold no whole episode and were skipped, the first is line 3"] if torn else []
        )


@pytest.mark.parametrize(
    "damage",
    [b"\x00" * 40, b"{", b"null", b"[]", b"3", b'"text"', b'{"schema":2}', b"\xff\xfe", b"[" * 100_000,
     b'{"schema":2,"attempts":3,"max_attempts":1,"question_id":"","truncated":false,"num_context_tokens":0}',
     b'{"step":' + b"9" * 5000 + b"}"],
    ids=lambda damage: repr(damage[:12]),
)  # fmt: skip
def test_damaged_line_in_the_middle_is_skipped_and_counted(
    damage: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "episodes-w-000000.jsonl"
    path.write_bytes(to_line(recorded()) + b"\n" + damage + b"\n\n" + to_line(recorded(step=2)) + b"\n")
    assert [episode.step for episode in read_episodes(path)] == [1, 2]
    assert caplog.messages == [f"{path}: 1 lines hold no whole episode and were skipped, the first is line 2"]


@pytest.mark.parametrize("schema", [1, 3, None])
def test_line_of_another_schema_is_refused_with_its_place(schema: Any, tmp_path: Path) -> None:
    path = tmp_path / "episodes-w-000000.jsonl"
    other = json.dumps({**recorded().to_record(), "schema": schema}).encode()
    path.write_bytes(to_line(recorded()) + b"\n" + other + b"\n")
    read = read_episodes(path)
    assert next(read) == recorded()
    with pytest.raises(ValueError, match="schema") as caught:
        next(read)
    assert str(caught.value) == (
        f"{path}, line 2: schema must be 2; got {schema!r}. "
        "Read the record with the version of verl_multiattempt that wrote it."
    )


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
