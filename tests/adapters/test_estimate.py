"""The estimate of memory, tokens and time against known model sizes and figures worked out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import Qwen2Config

from tests.adapters.harness import compose_config
from verl_multiattempt.adapters.estimate import GIB, Hardware, main, make_estimate
from verl_multiattempt.adapters.model_size import ModelSize, size_of

SMALL = ModelSize(
    parameters=1_000_000_000, critic_parameters=900_000_000, hidden=1000, intermediate=4000, layers=10, kv_heads=2,
    head_dim=100, vocabulary=50_000,
)  # fmt: skip
KEYS = (
    "trainer.n_gpus_per_node=4", "trainer.nnodes=2", "data.train_batch_size=64", "data.max_prompt_length=100",
    "data.max_response_length=900", "actor_rollout_ref.rollout.n=2", "trainer.total_epochs=3",
    "actor_rollout_ref.actor.use_dynamic_bsz=true", "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=5000",
    "+critic.ppo_infer_max_token_len_per_gpu=4000", "actor_rollout_ref.rollout.gpu_memory_utilization=0.5",
    "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
)  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "tied", "parameters", "kv_bytes"),
    [
        # As published for Qwen2.5-Math-1.5B (1.54B) and -7B (7.61B).
        ((151936, 1536, 8960, 28, 12, 2), True, 1_543_714_304, 28_672),
        ((152064, 3584, 18944, 28, 28, 4), False, 7_615_616_512, 57_344),
    ],
)
def test_parameters_are_those_that_the_models_are_known_to_have(
    shape: tuple[int, ...], tied: bool, parameters: int, kv_bytes: int
) -> None:
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads")  # fmt: skip
    size = size_of(Qwen2Config(**dict(zip(names, shape, strict=True)), tie_word_embeddings=tied))
    assert (size.parameters, size.kv_bytes) == (parameters, kv_bytes)
    head = 0 if tied else shape[0] * shape[1]
    assert size.critic_parameters == parameters - head + shape[1] + 1


def test_ppo_by_hand() -> None:
    config = compose_config(*KEYS, platform=False)
    estimate = make_estimate(config, SMALL, num_rows=200, hardware=Hardware(memory_gib=40, tflops=100, utilization=0.5))
    assert estimate.gpus == 8
    # fp32: 4 bytes times parameters, gradients and two moments, over 8 shards
    assert estimate.states_gib == pytest.approx({"actor": 2e9 / GIB, "critic": 1.8e9 / GIB})
    assert estimate.resident_gib == pytest.approx((1.5e9 + 1.35e9) / GIB)
    assert estimate.rollout_peak_gib == pytest.approx(20 + estimate.resident_gib)
    assert estimate.micro_batch_tokens == 5000
    # inputs of 10 layers of 1,000 numbers, and 8 vectors of 1,000 and 4 of 4,000 of one layer, in bf16
    assert estimate.activations_gib == pytest.approx(5000 * (10 * 1000 + 24_000) * 2 / GIB)
    assert estimate.logits_gib == pytest.approx(5000 * 50_000 * 6 / GIB)
    gathered = (2 * 1e9 / 10 + 50_000 * 1000) * 2 / GIB
    assert estimate.update_peak_gib == pytest.approx(
        (2e9 + 1.35e9) / GIB + estimate.activations_gib + estimate.logits_gib + gathered
    )
    # 20 GiB less 2 GB of weights and 3 GiB; key and value of 10 layers, 2 heads of 100, in bf16
    assert estimate.kv_cache_tokens == int((17 * GIB - 2e9) / 8000)
    assert estimate.host_gib == pytest.approx(4e9 / 8 * 4 / GIB)
    assert estimate.checkpoint_gib == pytest.approx(12 * 1.9e9 / GIB)
    assert (estimate.episodes_per_step, estimate.tokens_per_episode, estimate.steps) == (128, 1000, 9)
    # log-probabilities of actor and reference 2 + 2, update 8; values 2 and update 8
    assert estimate.flops_per_token == 12e9 + 9e9
    assert estimate.step_s == pytest.approx(21e9 * 128 * 1000 / (8 * 50e12))


def test_what_is_offloaded_moves_to_the_host_and_grpo_has_no_critic() -> None:
    keys = ("algorithm.adv_estimator=grpo", "critic.enable=false",
            "actor_rollout_ref.actor.fsdp_config.param_offload=true",
            "actor_rollout_ref.actor.fsdp_config.optimizer_offload=true")  # fmt: skip
    estimate = make_estimate(compose_config(*KEYS, *keys, platform=False), SMALL, None, Hardware())
    assert list(estimate.states_gib) == ["actor"]
    assert estimate.resident_gib == 0
    assert estimate.host_gib == pytest.approx((4e9 + 12e9) / 8 * 4 / GIB)
    assert estimate.flops_per_token == 12e9
    assert estimate.steps is None


def test_without_a_kl_there_is_no_reference_model_anywhere() -> None:
    keys = ("actor_rollout_ref.actor.use_kl_loss=false", "algorithm.use_kl_in_reward=false")
    estimate = make_estimate(compose_config(*KEYS, *keys, platform=False), SMALL, None, Hardware())
    assert estimate.host_gib == 0
    assert estimate.flops_per_token == 10e9 + 9e9
    in_reward = (keys[0], "algorithm.use_kl_in_reward=true")
    estimate = make_estimate(compose_config(*KEYS, *in_reward, platform=False), SMALL, None, Hardware())
    assert estimate.host_gib == pytest.approx(4e9 / 8 * 4 / GIB)


@pytest.mark.parametrize(
    ("actor", "critic", "held"),
    [
        ("[model,optimizer,extra]", "[model,optimizer,extra]", 3 * 4e9 + 3 * 3.6e9),
        ("[model,optimizer,extra,hf_model]", "[model,optimizer,extra]", 4 * 4e9 + 3 * 3.6e9),
        ("[model]", "[model,hf_model]", 4e9 + 2 * 3.6e9),
    ],
)
def test_checkpoint_holds_what_save_contents_names(actor: str, critic: str, held: float) -> None:
    keys = (f"actor_rollout_ref.actor.checkpoint.save_contents={actor}", f"critic.checkpoint.save_contents={critic}")
    estimate = make_estimate(compose_config(*KEYS, *keys, platform=False), SMALL, None, Hardware())
    assert estimate.checkpoint_gib == pytest.approx(held / GIB)


def test_memory_that_is_not_there_is_warned_of(
    model_dir: Callable[..., Path], data_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"actor_rollout_ref.model.path={model_dir()}", f"data.train_files={data_file}",
             "actor_rollout_ref.actor.use_dynamic_bsz=true", "data.train_batch_size=1"]  # fmt: skip
    assert main(["--gpu-gib", "0.01", *words]) == 0
    out = capsys.readouterr().out
    assert "WARNING" in out
    assert "are more than a GPU has" in out
    assert "90 steps" in out  # 3 rows, 30 epochs
    assert main(words) == 0
    assert "WARNING" not in capsys.readouterr().out


def test_model_that_is_not_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    assert main([f"actor_rollout_ref.model.path={tmp_path}"]) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("verl_multiattempt: ")]
    assert len(error) == 1
    assert error[0].startswith(
        f"verl_multiattempt: actor_rollout_ref.model.path must name a causal language model; got '{tmp_path}': "
    )
