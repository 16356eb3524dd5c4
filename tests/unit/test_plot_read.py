"""results.json is read whole, and what is wrong with one is said in one sentence."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.evaluation_results import flat_results, make_results, write
from verl_multiattempt.plots.read import read_all, read_results


def test_everything_a_figure_needs_is_read(tmp_path: Path) -> None:
    document = make_results("arm", kinds=("nested", "samples"), temperature=0.7, benchmarks=["aime24", "amc23"])
    results = read_results(write(tmp_path / "results.json", document))
    assert (results.label, results.model, results.temperature) == ("arm", "arm-0", 0.7)
    assert list(results.curves) == ["nested", "samples"]
    assert results.benchmarks("nested") == ["aime24", "amc23"]
    curve, raw = results.curves["nested"]["aime24"], document["curves"]["nested"]["aime24"]
    assert curve.questions == 30
    assert {str(k): {"value": e.value, "low": e.low, "high": e.high} for k, e in curve.accuracy.items()} == raw[
        "accuracy"
    ]
    assert {str(k): rate for k, rate in curve.repeat.items()} == raw["repeat"]
    assert results.curves["samples"]["mean"].refinement == {}


def test_a_folder_stands_for_its_results(tmp_path: Path) -> None:
    write(tmp_path / "results.json", flat_results("arm", {1: 0.5}))
    assert read_results(tmp_path).path == tmp_path / "results.json"


def test_a_rate_without_anything_to_stand_on_is_left_out(tmp_path: Path) -> None:
    results = read_results(write(tmp_path / "r.json", flat_results("arm", {1: 0.5, 2: 0.6})))
    assert results.curves["nested"]["tiny"].repeat == {}
    assert results.curves["nested"]["tiny"].refinement == {2: 0.25}


def test_attempts_are_in_the_order_of_numbers_not_of_text(tmp_path: Path) -> None:
    document = flat_results("arm", dict.fromkeys((10, 9, 1), 0.5))
    assert list(read_results(write(tmp_path / "r.json", document)).curves["nested"]["mean"].accuracy) == [1, 9, 10]


DAMAGES: list[tuple[str, Any, str]] = [
    ("schema", 2, "schema must be 1; got 2"),
    ("schema", True, "schema must be 1; got True"),
    ("label", "  ", "label must be text that is not empty; got '  '"),
    ("model", None, "model must be text that is not empty; got None"),
    ("curves", {}, "curves must be an object that is not empty; got {}"),
    ("curves", [1], "curves must be an object that is not empty; got [1]"),
    ("curves", {"other": {}}, "a key of curves must be one of nested, paper, samples, no_feedback; got 'other'"),
    ("curves.nested", None, "curves.nested must be an object that is not empty; got None"),
    ("curves.nested.tiny", 3, "curves.nested.tiny must be an object; got 3"),
    ("curves.nested.tiny.accuracy", {}, "curves.nested.tiny.accuracy must be an object that is not empty; got {}"),
    ("curves.nested.tiny.accuracy.1", 0.5, "curves.nested.tiny.accuracy.1 must be an object; got 0.5"),
    ("curves.nested.tiny.accuracy.1.value", "x", "accuracy.1.value must be a number from 0 to 1; got 'x'"),
    ("curves.nested.tiny.accuracy.1.value", 52.5, "accuracy.1.value must be a number from 0 to 1; got 52.5"),
    ("curves.nested.tiny.accuracy.1.low", float("nan"), "accuracy.1.low must be a number from 0 to 1; got nan"),
    ("curves.nested.tiny.accuracy.1.high", True, "accuracy.1.high must be a number from 0 to 1; got True"),
    ("curves.nested.tiny.accuracy.1.high", None, "accuracy.1.high must be a number from 0 to 1; got None"),
    ("curves.nested.tiny.accuracy.1.low", 0.99, "accuracy.1.low must be at most "),
    ("curves.nested.tiny.accuracy.0", {}, "a key of curves.nested.tiny.accuracy must be a number of attempts, from 1"),
    ("curves.nested.tiny.accuracy.²", {}, "must be a number of attempts, from 1; got '²'"),
    ("curves.nested.tiny.accuracy.01", {}, "must be a number of attempts, from 1; got '01'"),
    ("curves.nested.tiny.questions", 0, "curves.nested.tiny.questions must be an integer of at least 1; got 0"),
    ("curves.nested.tiny.questions", 1.5, "questions must be an integer of at least 1; got 1.5"),
    ("curves.nested.tiny.repeat", [0.5], "curves.nested.tiny.repeat must be an object; got [0.5]"),
    ("curves.nested.tiny.repeat.2", 2, "curves.nested.tiny.repeat.2 must be a number from 0 to 1; got 2"),
    ("settings", {"temperature": -1}, "settings.temperature must be a number of at least 0; got -1"),
    ("settings", {"temperature": "hot"}, "settings.temperature must be a number of at least 0; got 'hot'"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value", "message"), DAMAGES, ids=[f"{p}={v!r}" for p, v, _ in DAMAGES])
def test_damage_is_named_with_its_place(place: str, value: Any, message: str, tmp_path: Path) -> None:
    document = copy.deepcopy(flat_results("arm", {1: 0.5, 2: 0.6}))
    *parents, key = place.split(".")
    node = document
    for parent in parents:
        node = node[parent]
    node[key] = value
    path = write(tmp_path / "r.json", document)
    with pytest.raises(ValueError, match=r"Use a results\.json as `multiattempt evaluate` writes it") as caught:
        read_results(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=["empty", "cut", "binary", "deep"])
def test_no_json_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"must be JSON as `multiattempt evaluate` writes it; got "):
        read_results(path)


def test_a_file_that_is_no_object_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"the file must be an object; got \[\]"):
        read_results(write(tmp_path / "r.json", []))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is none at .*nowhere"):
        read_results(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"there is none at .*results\.json"):
        read_results(tmp_path)


def test_the_same_evaluation_twice_is_not_two_seeds(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", flat_results("arm", {1: 0.5}))
    copied = write(tmp_path / "b.json", json.loads(Path(path).read_text(encoding="utf-8")))
    other = write(tmp_path / "c.json", flat_results("arm", {1: 0.5}, model="another seed"))
    assert len(read_all([path, other])) == 2
    for paths in ([path, path], [path, copied]):
        with pytest.raises(ValueError, match=r"must be different evaluations; .*Give each evaluation once"):
            read_all(paths)
