"""What the README says is so."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

from tests.unit.test_metrics import EPISODES, GROUPS
from verl_multiattempt.metrics import PREFIX, episode_metrics
from verl_multiattempt.settings import RewardSettings, Settings


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text()


def setting_keys(cls: type, prefix: str = "") -> list[str]:
    hints = get_type_hints(cls)
    keys: list[str] = []
    for item in fields(cls):
        nested = is_dataclass(hints[item.name])
        keys += setting_keys(hints[item.name], f"{item.name}.") if nested else [prefix + item.name]
    return keys


def test_table_has_every_setting_and_no_other(readme: str) -> None:
    table = readme.split("### Settings")[1].split("###")[0]
    written: list[str] = []
    for first_cell in re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", first_cell):
            # `.answered` after `reward.correct` is short for `reward.answered`
            written.append(written[-1].split(".")[0] + name if name.startswith(".") else name)
    assert sorted(written) == sorted(setting_keys(Settings))


def written_metrics(table: str) -> list[str]:
    """Names in the first cells; `/max` after `attempts_used/mean` is short for `attempts_used/max`."""
    written: list[str] = []
    for first_cell in re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", first_cell):
            written.append(written[-1].rsplit("/", 1)[0] + name if name.startswith("/") else name)
    return written


def test_table_has_every_metric_and_no_other(readme: str) -> None:
    metrics = episode_metrics(EPISODES, RewardSettings(), max_attempts=4, groups=GROUPS)
    names = {re.sub(r"(@|allowance_)\d+$", r"\1k", name.removeprefix(PREFIX)) for name in metrics}
    # The replay buffer counts these: no episode is left to tell of them.
    names.add("failed_episodes")
    table = readme.split("| metric | formula |")[1].split("\n\n")[0]
    assert sorted(written_metrics(table)) == sorted(names)


def test_snippet_prints_what_it_says(readme: str) -> None:
    match = re.search(r"```python\n(import asyncio.*?)```\n\n```\n(.*?)```", readme, flags=re.DOTALL)
    assert match
    done = subprocess.run([sys.executable, "-c", match[1]], capture_output=True, text=True, check=True)
    assert done.stdout == match[2]


def test_verifier_of_the_readme_decides(readme: str) -> None:
    match = re.search(r"```python\n(from verl_multiattempt import Outcome.*?)```", readme, flags=re.DOTALL)
    assert match
    program = match[1] + (
        "import asyncio\n"
        "verifier = ParityVerifier(None)\n"
        "for text in ('\\\\boxed{4}', '\\\\boxed{5}', 'none'):\n"
        "    print(asyncio.run(verifier.verify(text, Question(ground_truth='8'))).outcome)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["CORRECT", "INCORRECT", "NO_ANSWER"]


def test_annotated_tree_names_files_that_exist(readme: str, repository: Path) -> None:
    tree = readme.split("## Files")[1]
    names = re.findall(r"([\w/]+\.(?:py|yaml)|\w+/)(?=\s)", tree)
    assert len(names) > 20
    for name in names:
        candidates = [repository / name, *repository.glob(f"*/{name}"), *repository.glob(f"*/*/{name}")]
        assert any(path.exists() for path in candidates), name
