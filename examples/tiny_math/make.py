"""Makes the tiny_math example: a warm-started Qwen2 of 0.6M parameters, its tokenizer, and parquet files for verl.

    python examples/tiny_math/make.py --out outputs/tiny_math --seed 1

Offline, on the CPU, in about a minute on two cores. What is written:

    DIR/model/          config, weights and tokenizer, for transformers and vLLM
    DIR/train.parquet   questions for reinforcement learning, all different
    DIR/val.parquet     held-out questions, the same for every seed
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from task import MODULUS, Question, draw_distinct, draw_questions, to_row
from verl_multiattempt import Settings
from verl_multiattempt.feedback import Message, feedback_text, open_messages, opening_text

PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Qwen2's: words with the sign before them, single digits, punctuation, white space.
SPLIT_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# More than the texts below need: the trainer stops when every word of them is one token, at about 350.
VOCAB_SIZE = 384
MAX_LENGTH = 1024
# The validation set does not follow --seed, so that all runs are compared on the same questions.
VALIDATION_SEED = 2
# What a warm-start batch holds: one question, two or three unrelated ones, or a request to repeat an answer.
BATCH_KINDS = ("one", "several", "repeat")
REPEAT_SHARE = 0.3
SEVERAL_SHARE = 2 / 7  # of the others
REPEAT_TEXT = "Repeat your answer."
WARMUP_STEPS = 10

SETTINGS = Settings()


def answer_text(answer: str) -> str:
    """What the assistant says."""
    return f"\\boxed{{{answer}}}"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE on the texts of this task; it is the same for every seed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in (PAD, TURN_START, TURN_END)],
        show_progress=False,
    )
    corpus = ["system\n", "user\n", "assistant\n", Question(100, 999).text, answer_text("0"), REPEAT_TEXT]
    for attempts in range(1, SETTINGS.max_attempts + 1):
        corpus += [opening_text(SETTINGS.opening, attempts), feedback_text(SETTINGS.feedback, attempts)]
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_LENGTH,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2ForCausalLM:
    """Returns an untrained Qwen2 of about 0.6M parameters.

    The embeddings are untied.
    """
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=MAX_LENGTH,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def draw_dialogue(rng: random.Random, questions: Iterator[Question], kind: str) -> list[Message]:
    """Draws a dialogue that opens as a rollout does.

    Nothing in it shows what to do after feedback: that is left to reinforcement learning.

    Args:
        rng: decides the allowance and the like.
        questions: where questions come from.
        kind: ``one`` question or ``several`` unrelated ones, each answered correctly; or ``repeat``: an answer drawn
            at random, and the request to repeat it. Without the last the model has no use for its own earlier
            answers, and learning from failures would have to begin with learning to see them.
    """
    turns: list[Message] = []
    if kind == "repeat":
        answer = answer_text(str(rng.randrange(MODULUS)))
        turns.append({"role": "user", "content": next(questions).text})
        turns.append({"role": "assistant", "content": answer})
        turns.append({"role": "user", "content": REPEAT_TEXT})
        turns.append({"role": "assistant", "content": answer})
    else:
        for question in (next(questions) for _ in range(1 if kind == "one" else rng.choice((2, 3)))):
            turns.append({"role": "user", "content": question.text})
            turns.append({"role": "assistant", "content": answer_text(question.answer)})
    max_attempts = rng.randint(SETTINGS.min_attempts, SETTINGS.max_attempts)
    return open_messages(turns, SETTINGS.opening, max_attempts)


def to_batch(
    tokenizer: PreTrainedTokenizerFast, dialogues: Sequence[list[Message]], *, last_turn_only: bool = False
) -> dict[str, torch.Tensor]:
    """Tokenizes dialogues; the loss is on what the assistant says, its end of turn included.

    Args:
        tokenizer: ours.
        dialogues: messages of each.
        last_turn_only: no loss on the assistant's earlier turns.

    Returns:
        ``input_ids``, ``attention_mask`` and ``labels``, each ``[b, t]``, padded on the right.
    """
    texts = tokenizer.apply_chat_template(list(dialogues), tokenize=False)
    batch = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
    ids = batch["input_ids"]
    header = torch.tensor(tokenizer.encode(f"{TURN_START}assistant\n", add_special_tokens=False))
    labels = torch.full_like(ids, -100)
    headers = (ids.unfold(1, len(header), 1) == header).all(-1)  # [b, t - len(header) + 1]
    for row, start in headers.nonzero().tolist():
        first = start + len(header)
        length = int((ids[row, first:] == tokenizer.eos_token_id).nonzero()[0]) + 1
        if last_turn_only:
            labels[row] = -100
        labels[row, first : first + length] = ids[row, first : first + length]
    return {"input_ids": ids, "attention_mask": batch["attention_mask"], "labels": labels}


def warm_start(
    model: Any,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    repeat_share: float,
    log_every: int,
) -> None:
    """Teaches the model, in place, to read the question and to answer in a box.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        seed: of the dialogues.
        steps: AdamW steps.
        batch_size: dialogues in a step.
        learning_rate: its highest value; it rises in the first steps and falls linearly to a tenth.
        repeat_share: of the batches, those that ask to repeat an answer.
        log_every: steps between two lines of progress.
    """
    others = 1 - repeat_share
    weights = (others * (1 - SEVERAL_SHARE), others * SEVERAL_SHARE, repeat_share)
    rng = random.Random(seed)
    questions = draw_questions(rng, held_out=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / WARMUP_STEPS) * (1 - 0.9 * step / steps)
    )
    model.train()
    started, num_tokens = time.perf_counter(), 0
    with tqdm(total=steps, desc="warm start", unit="step") as progress:
        for step in range(1, steps + 1):
            (kind,) = rng.choices(BATCH_KINDS, weights)
            # The first answer of a repetition is random: it is not to be learned.
            dialogues = [draw_dialogue(rng, questions, kind) for _ in range(batch_size)]
            batch = to_batch(tokenizer, dialogues, last_turn_only=kind == "repeat")
            loss = model(**batch).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            num_tokens += int(batch["attention_mask"].sum())
            progress.update()
            if step % log_every == 0 or step == steps:
                rate = num_tokens / (time.perf_counter() - started)
                progress.write(f"step {step}/{steps}  loss {loss.item():.4f}  {rate:,.0f} tokens/s")
    model.eval()


def write_parquet(path: Path, questions: Sequence[Question], split: str) -> None:
    """Writes questions in verl's dataset format."""
    rows = [to_row(question, index, split) for index, question in enumerate(questions)]
    pq.write_table(pa.Table.from_pylist(rows), path)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=1, help="of the weights, the warm start and the training set")
    parser.add_argument("--steps", type=int, default=150, help="warm-start steps; 0 leaves the model untrained")
    parser.add_argument("--batch-size", type=int, default=96, help="dialogues in a warm-start step")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--repeat-share", type=float, default=REPEAT_SHARE, help="of batches that ask for a repetition")
    parser.add_argument("--train-rows", type=int, default=10_240, help="80 training steps of 128 without repeats")
    parser.add_argument("--val-rows", type=int, default=1_000)
    parser.add_argument("--log-every", type=int, default=10, help="warm-start steps between two lines of progress")
    args = parser.parse_args(argv)
    for name in ("batch_size", "train_rows", "val_rows", "log_every"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1; got {getattr(args, name)}")
    if args.steps < 0:
        parser.error(f"--steps must be at least 0; got {args.steps}")

    if not 0 <= args.repeat_share <= 1:
        parser.error(f"--repeat-share must be in 0..1; got {args.repeat_share}")

    args.out.mkdir(parents=True, exist_ok=True)
    write_parquet(
        args.out / "train.parquet", draw_distinct(random.Random(args.seed), args.train_rows, held_out=False), "train"
    )
    write_parquet(
        args.out / "val.parquet", draw_distinct(random.Random(VALIDATION_SEED), args.val_rows, held_out=True), "val"
    )
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, args.seed)
    print(f"model: {sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {len(tokenizer)}")
    if args.steps:
        warm_start(
            model,
            tokenizer,
            seed=args.seed,
            steps=args.steps,
            batch_size=args.batch_size,
            learning_rate=args.learning_rate,
            repeat_share=args.repeat_share,
            log_every=args.log_every,
        )
    model.save_pretrained(args.out / "model")
    tokenizer.save_pretrained(args.out / "model")
    print(f"written: {args.out}/model, {args.out}/train.parquet, {args.out}/val.parquet")


if __name__ == "__main__":
    main()
