"""The manager gives the agent-loop workers even shares of the prompts, in turn."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import ray
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ

from tests.adapters.harness import compose_config
from tests.adapters.test_episode_log import Worker, batch
from verl_multiattempt.adapters.manager import MultiAttemptAgentLoopManager, even_sizes


def make(monkeypatch: pytest.MonkeyPatch, workers: int) -> Any:
    def set_up(self: Any, config: Any) -> None:
        self.rollout_config = config.actor_rollout_ref.rollout
        self.agent_loop_workers = [Worker() for _ in range(workers)]

    monkeypatch.setattr(AgentLoopManagerTQ, "__init__", set_up)
    monkeypatch.setattr(ray, "get", lambda references: references)
    return MultiAttemptAgentLoopManager(compose_config())


def indices(manager: Any) -> list[list[int]]:
    """The prompts that each worker got, by their index."""
    return [[int(i) for share in worker.shares for i in share["index"]] for worker in manager.agent_loop_workers]


@pytest.mark.parametrize(("prompts", "workers"), [(64, 64), (65, 64), (96, 64), (63, 64), (513, 64), (1, 8), (7, 1)])
def test_every_prompt_goes_to_one_worker_and_shares_differ_by_one_at_most(
    monkeypatch: pytest.MonkeyPatch, prompts: int, workers: int
) -> None:
    manager = make(monkeypatch, workers)
    manager.generate_sequences(batch(prompts, step=1))
    shares = indices(manager)
    assert sorted(index for share in shares for index in share) == list(range(prompts))
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    # Rows that follow each other stay together, as in verl.
    assert all(share == list(range(share[0], share[0] + len(share))) for share in shares if share)


def test_prompts_that_come_one_by_one_go_to_the_workers_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = make(monkeypatch, workers=4)
    for _ in range(10):
        manager.generate_sequences(batch(1, step=1))
    assert sorted(len(worker.shares) for worker in manager.agent_loop_workers) == [2, 2, 3, 3]


def test_batches_that_are_no_multiple_of_the_workers_even_out(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = make(monkeypatch, workers=8)
    for _ in range(8):
        manager.generate_sequences(batch(3, step=1))
    assert Counter(len(share) for share in indices(manager)) == {3: 8}


def test_shares_keep_what_the_batch_says_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = make(monkeypatch, workers=2)
    manager.generate_sequences(batch(3, step=7, validate=True))
    shares = [share for worker in manager.agent_loop_workers for share in worker.shares]
    assert [(len(share), share["global_steps"], share["validate"]) for share in shares] == [(2, 7, True), (1, 7, True)]


def test_even_sizes_by_hand() -> None:
    assert even_sizes(7, 3) == [3, 2, 2]
    assert even_sizes(2, 3) == [1, 1]


def test_verls_own_shares_leave_workers_without_one() -> None:
    """Why the manager does not leave it to verl, whose ``generate_sequences`` calls this ``chunk``."""
    assert [len(share) for share in batch(65, step=1).chunk(64)] == [2] * 32 + [1]
    assert len(batch(1, step=1).chunk(8)) == 1
