"""Training curves: the two formats of verl's loggers, seeds, smoothing."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from verl_multiattempt.plots.scalars import read_scalars
from verl_multiattempt.plots.training import METRICS, moving_average, read_runs, training_sheet

KEYS = [metric.key for metric in METRICS]
ACCURACY, REWARD = "multiattempt/accuracy", "multiattempt/reward/mean"


def write_events(folder: Path, rows: list[tuple[int, dict[str, float]]], wall_time: float = 1.0) -> Path:
    writer = EventFileWriter(str(folder), filename_suffix=f".{wall_time}")
    for step, data in rows:
        values = [Summary.Value(tag=key, simple_value=value) for key, value in data.items()]
        writer.add_event(Event(step=step, wall_time=wall_time + step, summary=Summary(value=values)))
    writer.close()
    return folder


def write_lines(path: Path, rows: list[tuple[int, dict[str, Any]]]) -> Path:
    path.write_text("".join(json.dumps({"step": step, "data": data}) + "\n" for step, data in rows), encoding="utf-8")
    return path


def float32(value: float) -> float:
    return float(np.float32(value))


def test_both_formats_of_one_run_give_the_same_curves(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = [(step, {key: float32(generator.normal()) for key in KEYS}) for step in range(1, 30)]
    del rows[3][1][ACCURACY]
    lines = read_scalars(write_lines(tmp_path / "m.jsonl", rows), KEYS)
    events = read_scalars(write_events(tmp_path / "tb", rows), KEYS)
    assert lines == events
    assert set(lines) == set(KEYS)
    assert 4 not in lines[ACCURACY]
    assert len(lines[REWARD]) == 29


def test_steps_logged_again_after_a_resume_count_once_with_the_later_value(tmp_path: Path) -> None:
    before, after = [(1, {ACCURACY: 0.25}), (2, {ACCURACY: 0.5})], [(2, {ACCURACY: 0.75}), (3, {ACCURACY: 1.0})]
    write_events(tmp_path / "tb", before, wall_time=1)
    write_events(tmp_path / "tb", after, wall_time=100)
    expected = {ACCURACY: {1: 0.25, 2: 0.75, 3: 1.0}}
    assert read_scalars(tmp_path / "tb", KEYS) == expected
    assert read_scalars(write_lines(tmp_path / "m.jsonl", before + after), KEYS) == expected


def test_values_that_are_not_finite_are_gaps(tmp_path: Path) -> None:
    rows: list[tuple[int, dict[str, Any]]] = [
        (1, {ACCURACY: 0.5}),
        (2, {ACCURACY: None}),
        (3, {ACCURACY: float("nan")}),
    ]
    assert read_scalars(write_lines(tmp_path / "m.jsonl", rows), KEYS) == {ACCURACY: {1: 0.5}}
    events = write_events(tmp_path / "tb", [(1, {ACCURACY: 0.5}), (2, {ACCURACY: float("inf")})])
    assert read_scalars(events, KEYS) == {ACCURACY: {1: 0.5}}


def test_a_torn_last_line_is_the_end(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "m.jsonl", [(1, {ACCURACY: 0.5})])
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step":2,"data":{"multiatt')
    assert read_scalars(path, KEYS) == {ACCURACY: {1: 0.5}}


def test_a_torn_event_file_gives_what_is_whole(tmp_path: Path) -> None:
    folder = write_events(tmp_path / "tb", [(step, {ACCURACY: 0.5}) for step in range(1, 4)])
    [file] = folder.iterdir()
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert length < len(content)
    file.write_bytes(content[:-5])
    assert read_scalars(folder, KEYS) == {ACCURACY: {1: 0.5, 2: 0.5}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("no json\n", "line 1: must be an object with step and data"),
        ('{"step": 1, "data": {"x": 1}}\n[]\n', "line 2: must be an object .* got list instead of an object"),
        ('{"step": "1", "data": {}}\n', "got step '1' and data of type dict"),
        ('{"step": 1}\n', "got step 1 and data of type NoneType"),
        ("", "must hold one of multiattempt/reward/mean, .* got none"),
        ('{"step": 1, "data": {"other": 1}}\n', "Give the log of a run with \\+recipe=multiattempt"),
    ],
)
def test_malformed_lines_are_one_sentence(content: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=reason):
        read_scalars(path, KEYS)


def test_a_folder_without_events_and_one_of_several_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is none at"):
        read_scalars(tmp_path / "nowhere", KEYS)
    with pytest.raises(ValueError, match="it holds none"):
        read_scalars(tmp_path, KEYS)
    write_events(tmp_path / "runs" / "a", [(1, {ACCURACY: 0.5})])
    assert read_scalars(tmp_path / "runs", KEYS) == {ACCURACY: {1: 0.5}}, "the only one below"
    write_events(tmp_path / "runs" / "b", [(1, {ACCURACY: 0.5})])
    with pytest.raises(ValueError, match=r"they lie in .*a, .*b. Give one of these"):
        read_scalars(tmp_path / "runs", KEYS)


def test_lines_are_means_over_the_steps_that_all_seeds_have() -> None:
    seeds = [{ACCURACY: {1: 0.2, 2: 0.4, 3: 0.9}}, {ACCURACY: {1: 0.4, 2: 0.4}}]
    sheet = training_sheet({"arm": seeds})
    [panel] = sheet.panels
    [line] = panel.lines
    assert [(point.x, point.value) for point in line.points] == [(1, pytest.approx(0.3)), (2, 0.4)]
    assert (line.points[1].low, line.points[1].high) == (0.4, 0.4)
    assert line.num_seeds == 2
    assert "arm: drawn up to step 2, because not all of its seeds have the steps up to 3." in sheet.notes
    assert any("multiattempt/reward/mean" in note and "not drawn" in note for note in sheet.notes)


def test_smoothing_is_off_unless_asked_for_and_then_said() -> None:
    runs = {"arm": [{ACCURACY: {1: 0.0, 2: 0.3, 3: 0.9}}]}
    raw, smooth = training_sheet(runs), training_sheet(runs, smooth=3)
    assert [point.value for point in raw.panels[0].lines[0].points] == [0.0, 0.3, 0.9]
    assert "not smoothed" in raw.caption
    assert [point.value for point in smooth.panels[0].lines[0].points] == pytest.approx([0.0, 0.4, 0.9])
    assert "Moving average over 3 steps." in smooth.caption


def test_moving_average_is_centred_with_a_smaller_window_at_the_ends() -> None:
    values = {10: 1.0, 20: 2.0, 30: 6.0, 40: 4.0, 50: 5.0}
    assert moving_average(values, 5) == pytest.approx({10: 1.0, 20: 3.0, 30: 3.6, 40: 5.0, 50: 5.0})
    assert moving_average(values, 1) == values


def test_arguments_of_one_label_are_seeds(tmp_path: Path) -> None:
    first, second = (write_lines(tmp_path / f"{name}=.jsonl", [(1, {ACCURACY: 0.5})]) for name in "ab")
    runs = read_runs([f"arm={first}", f"other={second}"])
    assert list(runs) == ["arm", "other"]
    assert {label: len(seeds) for label, seeds in read_runs([f"arm={first}", f"arm={second}"]).items()} == {"arm": 2}
    with pytest.raises(ValueError, match="must name each log once"):
        read_runs([f"a={first}", f"b={first}"])
    for argument in ("arm", "=x", "arm="):
        with pytest.raises(ValueError, match="training must be LABEL=PATH"):
            read_runs([argument])
