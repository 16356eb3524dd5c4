"""Makes a tiny model that answers in the format of a task, mostly wrongly: for the pipeline on a CPU, not for results.

    python examples/extending/tiny_model.py --task code --data outputs/code/train.parquet --out outputs/code/model

It is the model of examples/tiny_math with a tokenizer trained on this data, warm-started on random answers.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tiny_math"))

import make as tiny_math
from rows import count
from verl_multiattempt.feedback import Message, feedback_text, open_messages
from verl_multiattempt.settings import FeedbackSettings, OpeningSettings

VOCAB_SIZE = 1024
MAX_TURNS = 3
NO_ANSWER = "I do not know."
NO_ANSWER_SHARE = 0.2
# Of the answers in the format, for a task whose rows have a solution; numbers are right by chance.
RIGHT_SHARE = 0.3


def draw_answer(rng: random.Random, task: str, rows: Sequence[dict[str, Any]], row: dict[str, Any]) -> str:
    """Draws what the assistant says: now and then no answer, else one that may be right."""
    if rng.random() < NO_ANSWER_SHARE:
        return NO_ANSWER
    if task == "gsm8k":
        return f"#### {rng.randrange(10)}"
    other = row if rng.random() < RIGHT_SHARE else rng.choice(rows)
    return f"```python\n{other['extra_info']['solution']}\n```"


def draw_dialogue(rng: random.Random, task: str, rows: Sequence[dict[str, Any]], opening: OpeningSettings) -> list[Any]:
    """Draws a question and some answers to it, with feedback between them."""
    row, attempts = rng.choice(rows), rng.randint(1, 5)
    turns: list[Message] = [dict(message) for message in row["prompt"]]
    for left in range(attempts - 1, max(attempts - 1 - MAX_TURNS, -1), -1):
        turns.append({"role": "assistant", "content": draw_answer(rng, task, rows, row)})
        if left:
            turns.append({"role": "system", "content": feedback_text(FeedbackSettings(), left)})
    return open_messages(turns, opening, attempts)


def make_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE on ``texts``, single digits apart."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(tiny_math.SPLIT_REGEX), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = (tiny_math.PAD, tiny_math.TURN_START, tiny_math.TURN_END)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in special],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=tiny_math.TURN_END,
        pad_token=tiny_math.PAD,
        chat_template=tiny_math.CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=tiny_math.MAX_LENGTH,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("gsm8k", "code"), required=True)
    parser.add_argument("--data", type=Path, required=True, help="rows to take the questions from (parquet)")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model and its tokenizer")
    parser.add_argument("--opening", default=OpeningSettings().text, help="the run's multiattempt.opening.text")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=count, default=100, help="steps of the warm start")
    parser.add_argument("--batch-size", type=count, default=8, help="dialogues in a step")
    args = parser.parse_args(argv)

    rng, opening = random.Random(args.seed), OpeningSettings(text=args.opening)
    rows = pq.read_table(args.data).to_pylist()
    sample = [draw_dialogue(rng, args.task, rows, opening) for _ in range(400)]
    tokenizer = make_tokenizer([f"{m['role']}\n{m['content']}" for dialogue in sample for m in dialogue])
    model: Any = tiny_math.make_model(tokenizer, args.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    with tqdm(range(args.steps), desc="warm start", unit="step") as progress:
        for _ in progress:
            dialogues = [draw_dialogue(rng, args.task, rows, opening) for _ in range(args.batch_size)]
            loss = model(**tiny_math.to_batch(tokenizer, dialogues)).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            progress.set_postfix(loss=f"{loss.item():.3f}")
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    print(f"written: {args.out}, {sum(p.numel() for p in model.parameters()):,} parameters")


if __name__ == "__main__":
    main()
