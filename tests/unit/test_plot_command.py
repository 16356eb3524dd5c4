"""``multiattempt plot`` from its arguments to its files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.evaluation_results import flat_results, make_results, write
from verl_multiattempt.cli import main, make_parser


def training_log(path: Path) -> str:
    rows = ({"step": s, "data": {"multiattempt/accuracy": s / 10}} for s in range(1, 6))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_all_figures_are_written_as_png_and_svg(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = write(tmp_path / "results.json", make_results("arm", benchmarks=["aime24", "amc23"]))
    log = training_log(tmp_path / "log.jsonl")
    out = tmp_path / "new" / "figures"
    assert main(["plot", results, "--out", str(out), "--training", f"arm={log}", "--reference", "paper=45.6,52.5"]) == 0
    names = sorted(
        f"{name}.{end}" for name in ("accuracy", "benchmarks", "retries", "training") for end in ("png", "svg")
    )
    assert sorted(path.name for path in out.iterdir()) == names
    printed = capsys.readouterr()
    assert sorted(printed.out.splitlines()) == sorted(
        ["arm (greedy): 1 result", f"  {results} (model arm-0, seed 0)", *(str(out / name) for name in names)]
    )
    assert "note: arm: multiattempt/reward/mean" in printed.err
    for path in out.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")
    for path in out.glob("*.svg"):
        assert b"<svg" in path.read_bytes()


def test_svg_is_the_same_in_another_process(tmp_path: Path) -> None:
    results = write(tmp_path / "results.json", flat_results("arm", {1: 0.5, 2: 0.6}))
    code = """
import hashlib, sys
from verl_multiattempt.plots.curves import evaluation_sheets
from verl_multiattempt.plots.draw import render
from verl_multiattempt.plots.read import read_all
files, _ = render(evaluation_sheets(read_all(sys.argv[1:]))[0], 3.5)
print(hashlib.sha256(files["accuracy.svg"]).hexdigest())
"""
    hashes = [
        subprocess.run(
            [sys.executable, "-c", code, results], capture_output=True, text=True, check=True, timeout=120,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert hashes[0] == hashes[1]
    assert len(hashes[0]) == 65


def test_results_taken_as_seeds_are_listed_and_others_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write(tmp_path / f"{i}.json", flat_results("arm", {1: 0.5}, model=f"m{i}")) for i in range(2)]
    assert main(["plot", *paths, "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        "arm (greedy): 2 results, taken as seeds", *(f"  {path} (model m{i}, seed 0)" for i, path in enumerate(paths)),
    ]  # fmt: skip
    settings = {"temperature": 0.0, "max_tokens": 100}
    paths.append(write(tmp_path / "2.json", flat_results("arm", {1: 0.5}, model="m2", settings=settings)))
    assert main(["plot", *paths, "--out", str(tmp_path / "more")]) == 2
    assert "must differ in model and seed alone; of 'arm'" in capsys.readouterr().err
    assert not (tmp_path / "more").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "RESULTS or --training must be given; got neither"),
        (["nowhere"], "RESULTS must be a results.json or the folder of one; there is none at"),
        (["--training", "arm"], "training must be LABEL=PATH"),
        (["--training", "arm=nowhere"], "training log must be a file or a folder; there is none at 'nowhere'"),
        (["--reference", "x=1"], "RESULTS or --training must be given"),
        (["RESULTS", "--reference", "x"], "reference must be LABEL=P1,P2,"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_write_nothing(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = write(tmp_path / "results.json", flat_results("arm", {1: 0.5}))
    words = [results if word == "RESULTS" else word for word in words]
    assert main(["plot", *words, "--out", str(tmp_path / "out")]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not (tmp_path / "out").exists()


def test_an_out_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = write(tmp_path / "results.json", flat_results("arm", {1: 0.5}))
    assert main(["plot", results, "--out", results]) == 2
    assert "--out must be a folder" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--smooth", "2"], ["--smooth", "x"], ["--width", "1"], ["--width", "nan"]], ids=str)
def test_numbers_out_of_range_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["plot", "r", "--out", "o", *words])
    assert caught.value.code == 2
    assert "must be a" in capsys.readouterr().err


def test_options_may_stand_before_the_results() -> None:
    args = make_parser("plot").parse_args(["plot", "--out", "figures", "a", "b", "--width", "5"])
    assert (args.results, args.out, args.width) == (["a", "b"], "figures", 5.0)


def test_importing_the_plots_imports_nothing_heavy() -> None:
    code = """
import sys
from verl_multiattempt.plots import command, curves, draw, scalars, training
print(sorted({"torch", "verl", "matplotlib", "pandas", "numpy", "tensorboard", "mpmath"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
