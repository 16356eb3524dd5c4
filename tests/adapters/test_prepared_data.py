"""What ``multiattempt prepare`` writes is what verl and this package's own checks take."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from omegaconf import DictConfig
from verl.utils import hf_tokenizer
from verl.utils.dataset.rl_dataset import RLHFDataset

from tests.tokenizers import CHATML, STRICT, make_tokenizer
from verl_multiattempt.adapters.agent_loop import read_settings, scaffold_for
from verl_multiattempt.adapters.check_data import opened_prompt, sample_rows
from verl_multiattempt.adapters.dataset_check import DataFiles, data_sources, inspect_files
from verl_multiattempt.data.filters import prompt_counter
from verl_multiattempt.data.preparation import recipe_preparation
from verl_multiattempt.data.prepare import PreparationError, prepare
from verl_multiattempt.data.sources import Source

REAL = {"math500": "math500", "aime24": "aime24", "amc23": "amc23", "gsm8k": "gsm8k_test"}
ROWS = {"math500": 500, "aime24": 30, "amc23": 40, "gsm8k": 1319}


@pytest.fixture(scope="module")
def prepared(benchmark_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The four real benchmarks."""
    folder = tmp_path_factory.mktemp("prepared")
    for name, file in REAL.items():
        source = Source(names=(str(benchmark_data / f"{file}.jsonl"),))
        prepare(recipe_preparation(name, folder / f"{name}.parquet", source=source, check_golds=False))
    return {name: folder / f"{name}.parquet" for name in REAL}


@pytest.fixture
def config(good_config: Callable[..., DictConfig], prepared: dict[str, Path]) -> DictConfig:
    files = list(map(str, prepared.values()))
    return good_config({"data.max_prompt_length": 4096, "data.train_files": files, "data.val_files": files})


def test_verls_dataset_reads_all_of_them_together(
    config: DictConfig, prepared: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    config.data.cache_dir = str(tmp_path)
    dataset = RLHFDataset(list(map(str, prepared.values())), make_tokenizer(), config.data)
    assert len(dataset) == sum(ROWS.values())
    seen = [dataset[index] for index in (0, 500, 530, 570)]
    assert [row["data_source"] for row in seen] == list(REAL)
    assert [row["reward_model"]["ground_truth"] for row in seen[1:]] == ["204", "27", "18"]
    assert [row["index"] for row in seen] == [0, 0, 0, 0]
    assert all(len(row["raw_prompt"]) == 1 and row["raw_prompt"][0]["role"] == "user" for row in seen)


def test_check_of_every_row_before_training_passes(config: DictConfig) -> None:
    settings = read_settings(config)
    scaffold = scaffold_for(settings, make_tokenizer(), {})
    found = inspect_files(config, "train_files", settings, scaffold)
    assert (found.problems, found.num_rows, found.num_kept) == ([], sum(ROWS.values()), sum(ROWS.values()))
    assert list(data_sources(config, "val_files")) == list(REAL)
    sample = sample_rows(config, 0)
    assert sample is not None
    assert sample.num_rows == sum(ROWS.values())


@pytest.mark.parametrize("template", [CHATML, STRICT])
def test_prompt_is_counted_as_the_agent_loop_builds_it(
    config: DictConfig, model_dir: Callable[..., Path], template: str
) -> None:
    count = prompt_counter(str(model_dir(template)))
    settings = read_settings(config)
    scaffold = scaffold_for(settings, hf_tokenizer(str(model_dir(template))), {})
    sample = sample_rows(config, 0)
    assert sample is not None
    for _, row in sample.rows[:50]:
        assert count(row["prompt"]) == len(opened_prompt(scaffold, settings, row))


def test_rows_kept_by_the_limit_on_prompts_are_those_that_the_check_lets_pass(
    benchmark_data: Path, good_config: Callable[..., DictConfig], model_dir: Callable[..., Path], tmp_path: Path
) -> None:
    source, out = Source(names=(str(benchmark_data / "amc23.jsonl"),)), tmp_path / "amc23.parquet"
    count = prompt_counter(str(model_dir()))
    questions = [json.loads(line)["problem"] for line in (benchmark_data / "amc23.jsonl").read_text().splitlines()]
    lengths = sorted(count([{"role": "user", "content": question}]) for question in questions)
    limit = lengths[19]
    options = {"source": source, "check_golds": False, "max_prompt_tokens": limit, "tokenizer": str(model_dir())}
    card = prepare(recipe_preparation("amc23", out, **options))
    kept = sum(length <= limit for length in lengths)
    assert (card["counts"]["too_long"], card["counts"]["written"]) == (40 - kept, kept)

    tokenizer = hf_tokenizer(str(model_dir()))

    def check(max_prompt_length: int) -> DataFiles:
        changes = {"data.max_prompt_length": max_prompt_length, "data.train_files": str(out)}
        config = good_config({**changes, "data.filter_overlong_prompts": False})
        settings = read_settings(config)
        return inspect_files(config, "train_files", settings, scaffold_for(settings, tokenizer, {}))

    assert (check(limit).problems, check(limit).num_rows) == ([], kept)
    assert check(limit - 1).problems
    with pytest.raises(
        PreparationError, match=r"^a file must have at least one row; got none of 40 read, 40 too long$"
    ):
        prepare(recipe_preparation("amc23", out, **{**options, "max_prompt_tokens": 1}))


@pytest.mark.parametrize("kind", ["no such folder", "no template"])
def test_tokenizer_that_cannot_be_used_is_one_sentence(
    kind: str, model_dir: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = str(tmp_path / "none") if kind == "no such folder" else str(model_dir(None))
    with pytest.raises(ValueError, match=r"^--tokenizer must name a tokenizer ") as caught:
        prompt_counter(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
