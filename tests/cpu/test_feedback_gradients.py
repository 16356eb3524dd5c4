"""Feedback is not trained on: what stands at its tokens changes no bit of a gradient, in real updates by verl."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.verl


@pytest.fixture(scope="module")
def updates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    command = [sys.executable, str(HERE / "gradient_probe.py"), str(tmp_path_factory.mktemp("gradients"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("worker", ["actor", "critic"])
def test_the_same_update_twice_is_the_same_to_the_last_bit(updates: dict[str, Any], worker: str) -> None:
    plain, again = updates[worker]["plain"], updates[worker]["plain again"]
    assert plain == again
    assert plain["before"] != plain["after"]  # it is an update


def test_target_ids_of_feedback_and_prompt_change_no_bit_of_the_actors_gradients(updates: dict[str, Any]) -> None:
    actor = updates["actor"]
    assert actor["feedback targets"]["targets"] == updates["feedback_tokens"] > 50
    assert actor["prompt targets"]["targets"] > 50
    for name in ("feedback targets", "prompt targets"):
        assert actor[name]["inputs"] == actor["plain"]["inputs"]
        assert actor[name]["gradients"] == actor["plain"]["gradients"]
        assert actor[name]["after"] == actor["plain"]["after"]


def test_target_id_of_a_sampled_token_changes_the_actors_gradients(updates: dict[str, Any]) -> None:
    changed = updates["actor"]["one model target"]
    assert changed["targets"] == 3  # one in each episode
    assert changed["inputs"] == updates["actor"]["plain"]["inputs"]
    assert changed["before"] == updates["actor"]["plain"]["before"]
    assert changed["gradients"] != updates["actor"]["plain"]["gradients"]


@pytest.mark.parametrize("worker", ["actor", "critic"])
def test_advantages_log_probabilities_values_and_returns_of_feedback_change_no_bit(
    updates: dict[str, Any], worker: str
) -> None:
    plain = updates[worker]["plain"]
    assert updates[worker]["feedback numbers"] == plain
    assert updates[worker]["one model number"]["gradients"] != plain["gradients"]
