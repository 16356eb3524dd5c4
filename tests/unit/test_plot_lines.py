"""From seeds to lines: means, intervals, and what does not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.evaluation_results import flat_results, make_results, write
from verl_multiattempt.plots.lines import (
    Point,
    accuracy_line,
    make_arms,
    mean_points,
    members,
    mode_name,
    rate_line,
    t_quantile,
)
from verl_multiattempt.plots.read import Results, read_results


def read(folder: Path, *documents: dict[str, Any]) -> list[Results]:
    return [read_results(write(folder / f"{i}.json", document)) for i, document in enumerate(documents)]


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (30, 2.0423), (1000, 1.9623)]
)
def test_t_quantile_is_the_tables(degrees: int, quantile: float) -> None:
    assert t_quantile(degrees) == pytest.approx(quantile, abs=5e-5)


def test_one_file_gives_its_own_interval(tmp_path: Path) -> None:
    [arm] = make_arms(read(tmp_path, flat_results("arm", {1: 0.4, 2: 0.95})))
    line = accuracy_line(arm, "nested", "mean")
    assert line is not None
    assert line.points == (Point(x=1, value=0.4, low=0.4 - 0.1, high=0.5), Point(x=2, value=0.95, low=0.85, high=1.0))
    assert line.num_seeds == 1


def test_seeds_give_their_mean_and_t_interval(tmp_path: Path) -> None:
    seeds = [flat_results("arm", {1: value}, model=f"seed {value}") for value in (0.4, 0.5, 0.6)]
    [arm] = make_arms(read(tmp_path, *seeds))
    line = accuracy_line(arm, "nested", "tiny")
    assert line is not None
    [point] = line.points
    half = 4.30265 * 0.1 / 3**0.5  # deviation 0.1, two degrees of freedom
    assert (point.value, point.low, point.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-5)
    assert line.num_seeds == 3


def test_interval_of_shares_ends_at_0_and_1() -> None:
    [point] = mean_points([{1: 0.9}, {1: 1.0}], bounds=(0, 1))
    assert point.high == 1.0
    assert point.low == pytest.approx(0.95 - 12.7062 * 0.05, abs=1e-4)


def test_only_places_that_all_seeds_have_are_averaged() -> None:
    assert [point.x for point in mean_points([{1: 0.1, 2: 0.2, 3: 0.3}, {2: 0.2, 3: 0.1}])] == [2, 3]


def test_equal_seeds_have_an_interval_of_no_width() -> None:
    assert mean_points([{1: 0.25}, {1: 0.25}]) == (Point(x=1, value=0.25, low=0.25, high=0.25),)


def test_rate_of_one_run_has_no_interval(tmp_path: Path) -> None:
    [arm] = make_arms(read(tmp_path, flat_results("arm", {1: 0.5, 2: 0.6})))
    line = rate_line(arm, "nested", "mean", "refinement")
    assert line is not None
    assert line.points == (Point(x=2, value=0.25),)
    assert rate_line(arm, "nested", "mean", "repeat") is None  # null in the file
    assert rate_line(arm, "paper", "mean", "repeat") is None


def test_the_same_label_at_another_temperature_is_another_arm(tmp_path: Path) -> None:
    documents = [make_results("arm", seed=s, temperature=t, benchmarks=["aime24"]) for t in (0, 1) for s in (1, 2)]
    arms = make_arms(read(tmp_path, *documents))
    assert [(arm.label, arm.mode, len(arm.results)) for arm in arms] == [("arm", "greedy", 2), ("arm", "T=1", 2)]
    assert mode_name(None) == "temperature not stated"


def test_seeds_of_other_benchmarks_are_refused(tmp_path: Path) -> None:
    documents = [make_results("arm", benchmarks=["aime24"]), make_results("arm", seed=1, benchmarks=["amc23"])]
    with pytest.raises(ValueError, match=r"must have the same benchmarks \(nested\); of 'arm' .* has aime24, .* amc23"):
        make_arms(read(tmp_path, *documents))


def test_seeds_of_other_kinds_are_refused(tmp_path: Path) -> None:
    documents = [make_results("arm", kinds=[kind], benchmarks=["aime24"]) for kind in ("nested", "paper")]
    with pytest.raises(ValueError, match="must have the same kinds of runs"):
        make_arms(read(tmp_path, *documents))


FULL = {
    "model": "a", "data": ["a.parquet"], "seed": 0, "temperature": 0.0, "top_p": 1.0, "samples": 1, "max_tokens": 8000,
    "limit": None, "concurrency": None, "label": None, "task": {"stop_at_answer": True, "feedback": {"role": "auto"}},
    "engine": {"kind": "openai", "base_url": "http://a/v1"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"top_p": 0.5}, "settings.top_p: 1.0 there, 0.5 now"),
        ({"max_tokens": 100}, "settings.max_tokens: 8000 there, 100 now"),
        ({"limit": 60}, "settings.limit: None there, 60 now"),
        (
            {"task": {"stop_at_answer": False, "feedback": {"role": "user"}}},
            "settings.task.feedback.role: 'auto' there",
        ),
        ({"engine": {"kind": "vllm"}}, "settings.engine.kind: 'openai' there, 'vllm' now"),
        ({"data": ["b.parquet"]}, r"settings.data: \['a.parquet'\] there, \['b.parquet'\] now"),
    ],
)
def test_seeds_evaluated_in_another_way_are_refused(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    first = flat_results("arm", {1: 0.5}, settings=FULL)
    other = flat_results("arm", {1: 0.6}, model="b", settings={**FULL, "model": "b", **changes})
    with pytest.raises(ValueError, match="must differ in model and seed alone; of 'arm' .*" + named):
        make_arms(read(tmp_path, first, other))


def test_seeds_may_differ_in_model_seed_and_what_changes_no_result(tmp_path: Path) -> None:
    changes = {"model": "b", "seed": 1, "data": ["elsewhere/a.parquet"], "concurrency": 7, "label": "arm",
               "engine": {"kind": "openai", "base_url": "http://b/v1", "tokenizer": "b", "timeout_s": 9}}  # fmt: skip
    same = {"identity": {"data_sha256": ["abc"]}}
    first = flat_results("arm", {1: 0.5}, settings=FULL, **same)
    other = flat_results("arm", {1: 0.6}, model="b", settings={**FULL, **changes}, **same)
    [arm] = make_arms(read(tmp_path, first, other))
    assert len(arm.results) == 2
    other["identity"] = {"data_sha256": ["abd"]}
    with pytest.raises(ValueError, match="differ in the questions' files"):
        make_arms(read(tmp_path, first, other))


def test_members_of_each_arm_are_listed(tmp_path: Path) -> None:
    documents = [make_results("a", seed=s, benchmarks=["aime24"]) for s in (1, 2)]
    arms = make_arms(read(tmp_path, *documents, make_results("b", temperature=1, benchmarks=["aime24"])))
    assert members(arms) == [
        "a (greedy): 2 results, taken as seeds",
        f"  {tmp_path / '0.json'} (model a-1, seed 0)",
        f"  {tmp_path / '1.json'} (model a-2, seed 0)",
        "b (T=1): 1 result",
        f"  {tmp_path / '2.json'} (model b-0, seed 0)",
    ]


def test_without_a_mean_a_single_benchmark_is_it(tmp_path: Path) -> None:
    document = flat_results("arm", {1: 0.5})
    del document["curves"]["nested"]["mean"]
    [arm] = make_arms(read(tmp_path, document))
    line = accuracy_line(arm, "nested", "mean")
    assert line is not None
    assert line.points[0].value == 0.5
