"""Run by test_weight_sync.py: one vLLM engine in this process, and the trainer's sender in a thread.

Usage: python sync_probe.py FOLDER tied|untied. Prints one JSON object as the last line.
"""

import asyncio
import json
import os
import sys
import threading
from pathlib import Path

os.environ.update(VLLM_ENABLE_V1_MULTIPROCESSING="0", VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind")
os.environ["VERL_RAY_JOB_ID"] = f"probe-{os.getpid()}"

import torch
import verl  # noqa: F401  (activates the CPU stack)
from transformers import Qwen2Config, Qwen2ForCausalLM
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightSender
from vllm import LLM, SamplingParams

from verl_multiattempt.cpu.weight_socket import node_socket

NODE = "7e9d0000111122223333444455556666777788889999aaaabbbbcccc"
PROMPT = [5, 17, 42, 8, 60, 33, 2, 71]


def make_model(seed: int, tied: bool) -> Qwen2ForCausalLM:
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=352,
        hidden_size=128,  # heads of 32: vLLM has no CPU attention for 16
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.3,  # far from uniform: a wrong weight shows in the probabilities
        bos_token_id=None,
        eos_token_id=0,
    )
    return Qwen2ForCausalLM(config).eval()


def expected_logprobs(model: Qwen2ForCausalLM, generated: list[int]) -> torch.Tensor:
    ids = torch.tensor([PROMPT + generated])
    with torch.no_grad():
        logprobs = model(ids).logits.log_softmax(-1)[0]
    return logprobs[len(PROMPT) - 1 : -1].gather(1, torch.tensor(generated)[:, None])[:, 0]


def main(folder: Path, tied: bool) -> dict[str, object]:
    first, second = make_model(1, tied), make_model(2, tied)
    first.save_pretrained(folder)
    engine = LLM(
        model=str(folder),
        skip_tokenizer_init=True,
        dtype="float32",
        max_model_len=128,
        enforce_eager=True,
        distributed_executor_backend="uni",
        enable_prefix_caching=False,
        disable_log_stats=True,
        worker_extension_cls="verl_multiattempt.cpu.rollout.CpuWorkerExtension",
    )

    def disagreement(model: Qwen2ForCausalLM) -> float:
        """Largest difference between vLLM's and the model's log-probs of what vLLM sampled."""
        params = SamplingParams(max_tokens=16, temperature=1.0, logprobs=0, seed=3, ignore_eos=True, detokenize=False)
        output = engine.generate([{"prompt_token_ids": PROMPT}], params, use_tqdm=False)[0].outputs[0]
        ids = list(output.token_ids)
        sampled = torch.tensor([step[token].logprob for token, step in zip(ids, output.logprobs, strict=True)])
        return (sampled - expected_logprobs(model, ids)).abs().max().item()

    def sync(weights: dict[str, torch.Tensor]) -> str:
        """Send ``weights`` in several buckets; returns vLLM's error, "" for none, and joins the sender."""
        handle = f"ipc:///tmp/rl-colocate-zmq-{os.environ['VERL_RAY_JOB_ID']}-replica-0-rank-0.sock"
        sender = BucketedWeightSender(zmq_handle=node_socket(handle, NODE), bucket_size_mb=1, use_shm=True)
        sender.bucket_size = 256 << 10  # several buckets
        thread = threading.Thread(target=lambda: asyncio.run(sender.async_send_weights(iter(weights.items()))))
        thread.start()
        error = ""
        try:
            engine.collective_rpc("update_weights_from_ipc", kwargs={"use_shm": True, "node": NODE})
        except Exception as caught:
            error = f"{type(caught).__name__}: {caught}"
        thread.join(timeout=20)
        assert not thread.is_alive(), "the sender waits for ever"
        return error

    def state(model: Qwen2ForCausalLM) -> dict[str, torch.Tensor]:
        return {name: tensor.detach() for name, tensor in model.state_dict().items()}

    result: dict[str, object] = {"before": disagreement(first)}
    result["error"] = sync(state(second))
    result["after"] = disagreement(second)
    result["old_after"] = disagreement(first)
    result["back_error"] = sync(state(first))
    result["back"] = disagreement(first)
    incomplete = state(second)
    del incomplete["model.layers.1.self_attn.o_proj.weight"]
    result["incomplete"] = sync(incomplete)
    sync(state(second))
    wrong = state(second)
    wrong["model.layers.0.mlp.down_proj.weight"] = torch.zeros(3, 5)
    result["wrong_shape"] = sync(wrong)
    return result


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2] == "tied")), flush=True)
    os._exit(0)
