"""PPO with a critic on one rank: the real batch, token by token; checkpoint, kill and resume."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer
from verl.trainer.ppo.core_algos import compute_gae_advantage_return

from tests.adapters.invariants import check_rollout
from tests.e2e.pipeline import PPO_OVERRIDES, PPO_STEPS, Assets, Run
from verl_multiattempt.chat.scaffold import resolve_scaffold
from verl_multiattempt.episode import Episode
from verl_multiattempt.feedback import open_messages
from verl_multiattempt.reward import episode_reward
from verl_multiattempt.settings import RewardSettings, Settings

STEPS = PPO_STEPS
pytestmark = pytest.mark.timeout(1500)


@pytest.fixture(scope="module")
def whole(ppo_run: Run) -> Run:
    """An uninterrupted run, with validation before it on rows whose own allowance is 1."""
    return ppo_run


@pytest.fixture(scope="module")
def batches(whole: Run) -> list[list[dict[str, Any]]]:
    return [torch.load(whole.folder / f"batch-{step}.pt", weights_only=False) for step in range(1, STEPS + 1)]


def test_trains_all_steps_with_critic_actor_and_reference(whole: Run) -> None:
    metrics = whole.metrics()
    for step in range(1, STEPS + 1):
        for name in ("critic/vf_loss", "actor/pg_loss", "actor/kl_loss", "actor/grad_norm", "multiattempt/accuracy"):
            assert math.isfinite(metrics[step][name]), (step, name)
        assert metrics[step]["multiattempt/episodes"] == 16
        assert metrics[step]["actor/grad_norm"] > 0


def test_rollout_and_trainer_agree_on_log_probabilities(whole: Run) -> None:
    for step, values in whole.metrics().items():
        if step:
            assert abs(values["rollout_corr/k3_kl"]) < 1e-3, step


def test_real_batch_keeps_the_token_invariants(whole: Run, assets: Assets, batches: list[Any]) -> None:
    tokenizer = AutoTokenizer.from_pretrained(assets.model)
    settings = Settings()
    scaffold = resolve_scaffold(tokenizer, sample_feedback="You have 4 attempts left.")
    sampled = {(r["uid"], r["step"]): r for r in whole.rollouts() if not r["validate"]}
    used = set()
    for step, batch in enumerate(batches, start=1):
        assert len(batch) == 16
        for row in batch:
            rollout = sampled[row["uid"], step]
            episode = Episode.from_record(row["extra_fields"]["multiattempt"])
            used.add(episode.attempts_used)
            check_rollout(
                prompt_ids=row["prompts"],
                response_ids=row["responses"],
                response_mask=row["response_mask"],
                response_logprobs=row["rollout_log_probs"],
                response_length=160,
                episode=episode,
                opening=open_messages(rollout["question"], settings.opening, episode.max_attempts),
                sampled=[(attempt["ids"], attempt["logprobs"]) for attempt in rollout["attempts"]],
                scaffold=scaffold,
                feedback_role="system",
            )
    assert used == {1, 2, 3, 4, 5}


def test_reward_of_each_episode_is_on_its_last_sampled_token(batches: list[Any]) -> None:
    rewards = set()
    for row in (row for batch in batches for row in batch):
        episode = Episode.from_record(row["extra_fields"]["multiattempt"])
        expected = episode_reward(episode, RewardSettings())
        assert row["rm_scores"][-1] == expected
        assert not any(row["rm_scores"][:-1])
        assert row["response_mask"][-1] == 1
        rewards.add(expected)
    assert {1.0, -0.5} <= rewards


def test_advantages_of_an_episode_whose_last_attempt_fails_are_not_zero(batches: list[Any]) -> None:
    failed = [
        row for batch in batches for row in batch
        if not Episode.from_record(row["extra_fields"]["multiattempt"]).solved
    ]  # fmt: skip
    assert failed
    for row in failed:
        rewards = torch.tensor([row["rm_scores"]])
        mask = torch.tensor([row["response_mask"]], dtype=torch.float32)
        _, returns = compute_gae_advantage_return(rewards, torch.zeros_like(rewards), mask, gamma=1.0, lam=0.99)
        # Before whitening, the advantage of a sampled token is its return less the value, which is 0 here.
        assert (returns[mask.bool()] < 0).all()


def test_max_attempts_1_is_token_identical_to_verls_single_turn_loop_on_the_engine(whole: Run) -> None:
    rollouts = [r for r in whole.rollouts() if r["validate"]]
    assert len(rollouts) == 16
    for rollout in rollouts:
        single = rollout["single_turn"]
        assert rollout["prompt_ids"] == single["prompt_ids"]
        assert rollout["response_ids"] == single["response_ids"]
        assert set(single["response_mask"]) == {1}
        # Another batch on the engine changes the last bits.
        pairs = zip(rollout["response_logprobs"], single["response_logprobs"], strict=True)
        assert all(abs(a - b) < 1e-4 for a, b in pairs)
    assert len({tuple(r["response_ids"]) for r in rollouts}) > 1


def test_validation_counts_accuracy_by_attempt(whole: Run) -> None:
    values = whole.metrics()[0]
    assert values["val-core/tiny_math/acc/mean@1"] == values["val-aux/tiny_math/acc_within_5/mean@1"]
    assert values["val-aux/tiny_math/attempts_used/mean@1"] == 1.0


def test_killed_run_resumes_with_the_draws_of_an_uninterrupted_one(whole: Run, assets: Assets, tmp_path: Path) -> None:
    run = Run(tmp_path / "killed", assets, PPO_OVERRIDES, probe=True)
    tracker = run.folder / "checkpoints" / "latest_checkpointed_iteration.txt"

    def saved_and_in_step_3(run: Run) -> bool:
        return tracker.exists() and tracker.read_text().strip() == "2" and (run.folder / "batch-3.pt").exists()

    run.kill_when(saved_and_in_step_3)
    shutil.move(run.folder / "rollouts.jsonl", run.folder / "before.jsonl")
    run.finish()
    assert "global_step_2" in run.log
    resumed = run.rollouts()
    assert {r["step"] for r in resumed} == {3, 4}

    def draws(rollouts: list[dict[str, Any]]) -> list[tuple[int, int, int]]:
        return sorted((r["step"], r["index"], r["record"]["max_attempts"]) for r in rollouts if not r["validate"])

    assert draws(resumed) == [draw for draw in draws(whole.rollouts()) if draw[0] > 2]
    assert len({draw[2] for draw in draws(resumed)}) > 1
