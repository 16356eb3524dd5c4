"""Datasets on the hub, through the real clients and a small server that speaks the hub's protocol; dataset folders."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.dataset_hub import COMMIT, DatasetHub, serving
from verl_multiattempt.data.benchmarks import RECIPES

AMC = "".join(json.dumps({"id": n, "question": f"What is {n} + 1?", "answer": str(n + 1)}) + "\n" for n in range(40))
GSM8K = [{"question": f"{n} and {n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"} for n in range(3)]
GSM8K_README = """---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/train-*
  - split: test
    path: main/test-*
- config_name: socratic
  data_files:
  - split: test
    path: socratic/test-*
---
"""


def parquet_bytes(rows: list[dict[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), sink)
    return bytes(sink.getvalue())


REPOSITORIES = {
    "math-ai/amc23": {
        "README.md": b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: test\n    path: test*\n---\n",
        "test.jsonl": AMC.encode(),
    },
    "openai/gsm8k": {
        "README.md": GSM8K_README.encode(),
        "main/train-00000-of-00001.parquet": parquet_bytes(GSM8K * 2),
        "main/test-00000-of-00001.parquet": parquet_bytes(GSM8K),
        "socratic/test-00000-of-00001.parquet": parquet_bytes(GSM8K[:1]),
    },
}
GATED = "math-ai/minervamath"


@pytest.fixture(scope="module")
def hub() -> Iterator[DatasetHub]:
    with serving(REPOSITORIES, GATED) as server:
        yield server


Run = Callable[..., list[tuple[int, str]]]


@pytest.fixture(scope="module")
def run(hub: DatasetHub, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs command lines of ``multiattempt prepare`` in one fresh process; status and error output of each."""
    home = tmp_path_factory.mktemp("home")

    def run(*lines: list[str], cwd: Path, endpoint: str | None = None, code: str = "", **environment: str) -> Any:
        program = f"""
import contextlib, io, json
from verl_multiattempt.cli import main
results = []
for words in {list(lines)!r}:
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
        status = main(["prepare", *words])
    results.append((status, err.getvalue()))
{code}
print(json.dumps(results))
"""
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=cwd, capture_output=True, text=True, timeout=280, check=False,
            env={
                "PATH": "", "PYTHONPATH": ":".join(filter(None, sys.path)), "HF_HOME": str(home), "HOME": str(home),
                "HF_ENDPOINT": endpoint or f"http://127.0.0.1:{hub.server_port}", "NO_PROXY": "*", **environment,
            },
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return [tuple(result) for result in json.loads(done.stdout.splitlines()[-1])]

    return run


def card(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_recipes_are_loaded_from_the_hub_with_their_commit(run: Run, tmp_path: Path) -> None:
    results = run(["amc23"], ["gsm8k"], ["gsm8k", "--split", "train", "--out", "train.parquet"], cwd=tmp_path)
    assert [status for status, _ in results] == [0, 0, 0], results
    amc = card(tmp_path / "amc23.card.json")
    assert amc["source"] == {
        "kind": "hub", "name": "math-ai/amc23", "config": None, "split": "test", "revision": COMMIT,
    }  # fmt: skip
    assert amc["counts"]["written"] == 40
    rows = pyarrow.parquet.read_table(tmp_path / "amc23.parquet").to_pylist()
    assert [row["reward_model"]["ground_truth"] for row in rows] == [str(n + 1) for n in range(40)]
    gsm8k = card(tmp_path / "gsm8k.card.json")
    assert (gsm8k["source"]["config"], gsm8k["source"]["split"], gsm8k["counts"]["written"]) == ("main", "test", 3)
    assert "note: gsm8k was published with 1,319 rows; 3 were read" in results[1][1]
    assert card(tmp_path / "train.card.json")["counts"]["written"] == 6
    assert "was published with" not in results[2][1], "of another split nothing is known"


def test_dataset_that_was_loaded_is_there_without_a_network(run: Run, tmp_path: Path) -> None:
    run(["amc23"], cwd=tmp_path)
    [(status, _)] = run(["amc23", "--out", "again.parquet"], cwd=tmp_path, HF_HUB_OFFLINE="1")
    assert status == 0
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "amc23.parquet").read_bytes()
    assert card(tmp_path / "again.card.json")["source"]["revision"] == COMMIT


def test_what_the_hub_refuses_is_one_sentence(run: Run, tmp_path: Path) -> None:
    lines: dict[str, list[str]] = {
        "--split must be a split of math-ai/amc23; got 'train': ": ["amc23", "--split", "train"],
        "--config must be a configuration of openai/gsm8k; got 'x': ": ["gsm8k", "--config", "x"],
        "--config must be a configuration of openai/gsm8k; got None: ": ["mine", "--from", "openai/gsm8k"],
        "--from must name a dataset that can be loaded; got 'HuggingFaceH4/MATH-500': ": ["math500"],
        f"--from must name a dataset that can be loaded; got {GATED!r}: ": ["minerva"],
        "math-ai/amc23 must have some of the columns x, ": [
            "mine", "--from", "math-ai/amc23", "--question", "x", "--gold", "y", "--id-column", "z"],
        "--exclude must name a dataset that can be loaded; got 'HuggingFaceH4/MATH-500': ": [
            "amc23", "--exclude", "math500"],
    }  # fmt: skip
    results = run(*lines.values(), cwd=tmp_path)
    # What is gated may be named rightly.
    assert [status for status, _ in results] == [1 if GATED in expected else 2 for expected in lines]
    for expected, (_, error) in zip(lines, results, strict=True):
        assert last_line(error).startswith(f"multiattempt prepare: {expected}"), error
        assert "Traceback" not in error
    for _, error in results[3:5]:
        assert "log in (hf auth login, or set HF_TOKEN)." in error
    assert list(tmp_path.iterdir()) == []


def test_hub_that_cannot_be_reached_is_one_sentence(run: Run, tmp_path: Path) -> None:
    [(status, error)] = run(
        ["olympiadbench"],
        cwd=tmp_path,
        endpoint="http://127.0.0.1:9",
        HF_HUB_OFFLINE="1",
        HF_HOME=str(tmp_path / "home"),
    )
    assert status == 1
    assert last_line(error).startswith(
        "multiattempt prepare: --from must name a dataset that can be loaded; got 'math-ai/"
    )
    assert last_line(error).endswith(
        "Without a network, download it elsewhere and name the files or the folder with --from."
    )


def test_benchmark_that_is_prepared_is_not_loaded_again(run: Run, hub: DatasetHub, tmp_path: Path) -> None:
    code = """
from pathlib import Path
from verl_multiattempt.data.prepare import prepare_benchmark
results.append((0, str(prepare_benchmark("amc23", Path("sub/amc23.parquet")))))
"""
    prepared = tmp_path / "sub" / "amc23.parquet"
    assert run(cwd=tmp_path, code=code) == [(0, "sub/amc23.parquet")]
    before, asked = prepared.stat().st_mtime_ns, len(hub.requests)
    assert run(cwd=tmp_path, code=code) == [(0, "sub/amc23.parquet")]
    assert (prepared.stat().st_mtime_ns, len(hub.requests)) == (before, asked)
    prepared.write_bytes(b"another file")
    run(cwd=tmp_path, code=code)
    assert len(pyarrow.parquet.read_table(prepared)) == 40


def test_folder_laid_out_like_a_dataset_works_as_its_name_does(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "copies" / "gsm8k"
    for path, content in REPOSITORIES["openai/gsm8k"].items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    results = run(
        ["gsm8k", "--from", "copies/gsm8k"],
        ["mine", "--from", "copies/gsm8k", "--config", "main"],
        ["mine", "--from", "copies/gsm8k", "--config", "socratic", "--gold", "answer:hashes"],
        ["mine", "--from", "copies/gsm8k", "--config", "main", "--revision", "v1"],
        cwd=tmp_path, endpoint="http://127.0.0.1:9",
    )  # fmt: skip
    assert [status for status, _ in results] == [0, 2, 0, 2], results
    source = card(tmp_path / "gsm8k.card.json")["source"]
    assert (source["kind"], source["name"], source["config"], source["split"]) == (
        "folder",
        "copies/gsm8k",
        "main",
        "test",
    )
    path = "main/test-00000-of-00001.parquet"
    content = REPOSITORIES["openai/gsm8k"][path]
    assert source["files"] == [{"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}], (
        "those of the split, not all that lie there"
    )
    assert "--split must be one of train, test for 'copies/gsm8k'; got none" in results[1][1]
    assert card(tmp_path / "mine.card.json")["counts"]["written"] == 1
    assert "--revision must go with a name on the hub; got 'v1' with a folder" in results[3][1]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipe_names_a_dataset_and_a_split(name: str) -> None:
    recipe = RECIPES[name]
    owner, _, dataset = recipe.hub.partition("/")
    assert owner
    assert dataset
    assert recipe.split in ("train", "test")
