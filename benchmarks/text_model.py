"""A byte-level BPE and a small causal model, trained on problems with solutions, or on the repository's own texts."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine_replay import make_bpe, repository_texts

from verl_multiattempt.feedback import open_messages
from verl_multiattempt.settings import Settings

VOCAB_SIZE, HIDDEN_SIZE, NUM_LAYERS, INTERMEDIATE_SIZE = 2048, 192, 3, 512
LONGEST, BATCH_SIZE, LEARNING_RATE, WARMUP_STEPS = 512, 8, 3e-3, 20
HELD_OUT_ONE_IN = 20
MOST_CHARS = 1000
"""Of a question made of the repository's texts, with its answer."""

Pair = tuple[str, str]
"""What the user asks, and what the assistant says."""


def read_pairs(folder: Path | None) -> list[Pair]:
    """Problems with their solutions; None: the repository's texts, each piece's first line with the others.

    Raises:
        ValueError: the folder holds none.
    """
    if folder is None:
        pieces = [text[start : start + MOST_CHARS] for text in repository_texts()
                  for start in range(0, len(text), MOST_CHARS)]  # fmt: skip
        return [(first, rest) for piece in pieces for first, _, rest in [piece.partition("\n")] if rest.strip()]
    pairs = []
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            problem, solution = row.get("problem") or row.get("question"), row.get("solution") or row.get("answer")
            if isinstance(problem, str) and isinstance(solution, str):
                pairs.append((problem, solution))
    if not pairs:
        raise ValueError(f"--data must be a folder of JSON Lines with problem or question, and solution or answer; "
                         f"got {str(folder)!r}")  # fmt: skip
    return pairs


def write_questions(path: Path, pairs: Sequence[Pair], longest: int = 400) -> Path:
    """Those that are not too long, in verl's format; no attempt can be right, so that episodes use all of theirs."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    questions = [problem for problem, _ in pairs if len(problem) <= longest]
    random.Random(1).shuffle(questions)
    rows = [
        {
            "data_source": "retokenise", "prompt": [{"role": "user", "content": question}],
            "reward_model": {"style": "rule", "ground_truth": "1234567.25"}, "extra_info": {"index": index},
        }
        for index, question in enumerate(questions)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def make_text_model(folder: Path, pairs: Sequence[Pair], steps: int, max_length: int) -> dict[str, float]:
    """Train and save the tokenizer and the model.

    Args:
        folder: where to.
        pairs: what it is trained on, and one in `HELD_OUT_ONE_IN` for its loss.
        steps: of training.
        max_length: tokens of the longest conversation to come.

    Returns:
        Parameters, tokens seen, and the loss per token on texts that it has not seen.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    order = list(pairs)
    random.Random(1).shuffle(order)
    held_out, seen = order[::HELD_OUT_ONE_IN], [pair for i, pair in enumerate(order) if i % HELD_OUT_ONE_IN]
    tokenizer = make_bpe(("\n".join(pair) for pair in seen), VOCAB_SIZE, max_length=max_length)
    torch.manual_seed(1)
    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=HIDDEN_SIZE, intermediate_size=INTERMEDIATE_SIZE,
        num_hidden_layers=NUM_LAYERS, num_attention_heads=6, num_key_value_heads=6, max_position_embeddings=max_length,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip
    sequences = [_ids(tokenizer, pair) for pair in seen]
    tokens = _train(model, sequences, steps, int(tokenizer.pad_token_id))
    with torch.no_grad():
        model.eval()
        losses = [_loss(model, [_ids(tokenizer, pair)], int(tokenizer.pad_token_id)).item() for pair in held_out]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"parameters": sum(parameter.numel() for parameter in model.parameters()), "tokens": tokens,
            "held_out_loss": sum(losses) / len(losses)}  # fmt: skip


def _ids(tokenizer: Any, pair: Pair) -> list[int]:
    """The dialogue as a rollout opens it, up to the end of the answer."""
    messages = open_messages([{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}],
                             Settings().opening, 3)  # fmt: skip
    return tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)[:LONGEST]


def _loss(model: Any, sequences: Sequence[list[int]], pad_id: int) -> Any:
    import torch

    width = max(map(len, sequences))
    ids = torch.tensor([ids + [pad_id] * (width - len(ids)) for ids in sequences])  # [b, t]
    mask = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in sequences])
    return model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss


def _train(model: Any, sequences: Sequence[list[int]], steps: int, pad_id: int) -> int:
    """Steps of AdamW at a rate that falls to a tenth; the tokens they saw."""
    import torch

    rng = random.Random(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP_STEPS) * (1 - 0.9 * step / steps)
    )
    model.train()
    tokens = 0
    for _ in range(steps):
        batch = rng.sample(sequences, min(BATCH_SIZE, len(sequences)))
        loss = _loss(model, batch, pad_id)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        tokens += sum(map(len, batch))
    return tokens
