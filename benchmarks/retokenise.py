"""How many sequences change when the sampled ids are kept as text and encoded again.

    python benchmarks/retokenise.py --data ../shared/data     # two models, temperatures 1 and 0.7
    python benchmarks/retokenise.py --quick --out retokenise.json

`MultiAttemptAgentLoop` rolls out on vLLM, and what it sampled is decoded and encoded again, attempt by attempt and the
whole conversation at once. A sequence has changed where the ids are not the same; a trainer that is given the text then
trains on tokens that were not sampled, whose log-probabilities are others. Two models:

- `tiny`: the tiny example's, warm-started, with its tokenizer;
- `bpe`: a byte-level BPE trained on the texts of `--data` (JSON Lines with a problem and a solution; without a folder,
  on this repository's own texts), and a causal model trained on them for `--train-steps` steps.

The second model writes worse than one that is of use, and more of its tokens are unlikely ones, among them bytes that
are no UTF-8: shares for a good model at the same temperature are smaller. So its loss on held-out texts is reported, a
lower temperature, and the share among sequences that are UTF-8. Intervals
are Clopper and Pearson's at 95 %; they take the sequences as independent, which the attempts of one conversation are
not quite.
"""

from __future__ import annotations

import argparse
import asyncio
import difflib
import itertools
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_replay import REPOSITORY, engine_threads, machine, make_tiny
from in_process import Bench, Limits
from text_model import make_text_model, read_pairs, write_questions

from verl_multiattempt.evaluation.statistics import exact_limits
from verl_multiattempt.evaluation.vllm_engine import VllmEngine
from verl_multiattempt.settings import Settings

PREFIXES = (64, 128, 256, 512)
REPLACED = "\ufffd"
"""What bytes that are no UTF-8 are decoded to."""
TINY_LIMITS = Limits(attempts=5, tokens_per_attempt=64, response_length=512, max_model_len=768)
BPE_LIMITS = Limits(attempts=3, tokens_per_attempt=512, response_length=1664, max_model_len=2560)

Encode = Callable[[str], list[int]]
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What became of one sequence."""

    length: int
    new_length: int
    num_changed: int
    """Of its tokens, those that are not in the new sequence at their place."""
    replaced: bool
    """It was no UTF-8."""

    @property
    def changed(self) -> bool:
        return bool(self.num_changed) or self.new_length != self.length


def change_of(ids: Sequence[int], encode: Encode, decode: Decode) -> Change:
    """Decode and encode."""
    text = decode(ids)
    again, kept = encode(text), len(ids)
    if again != list(ids):
        matcher = difflib.SequenceMatcher(None, ids, again, autojunk=False)
        kept = sum(block.size for block in matcher.get_matching_blocks())
    return Change(length=len(ids), new_length=len(again), num_changed=len(ids) - kept, replaced=REPLACED in text)


def attempts_of(ids: Sequence[int], mask: Sequence[int], end_ids: frozenset[int]) -> Iterator[list[int]]:
    """The sampled tokens of each attempt, without the end of its turn."""
    for sampled, group in itertools.groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1]):
        if sampled:
            attempt = [token for token, _ in group]
            yield attempt[:-1] if attempt[-1] in end_ids else attempt


def summary(changes: Sequence[Change]) -> dict[str, Any]:
    """Shares of the sequences, and tokens of those that changed."""
    count = len(changes)
    if not count:
        return {"sequences": 0}
    changed = [change for change in changes if change.changed]
    other_length = sum(change.new_length != change.length for change in changes)
    text = [change.changed for change in changes if not change.replaced]
    return {
        "sequences": count,
        "mean_length": sum(change.length for change in changes) / count,
        "changed": len(changed),
        "share": len(changed) / count,
        "share_95": exact_limits(len(changed), count),
        "share_other_length": other_length / count,
        "share_no_utf8": 1 - len(text) / count,
        "utf8_sequences": len(text),
        "utf8_share": sum(text) / max(1, len(text)),
        "utf8_share_95": exact_limits(sum(text), len(text)) if text else (0.0, 1.0),
        "mean_changed_tokens": sum(change.num_changed for change in changed) / max(1, len(changed)),
        "share_of_tokens": sum(change.num_changed for change in changes) / max(1, sum(c.length for c in changes)),
    }


def measure(outputs: Sequence[Any], encode: Encode, decode: Decode, end_ids: frozenset[int]) -> dict[str, Any]:
    """Of the attempts, the conversations, and the beginnings of long attempts."""
    attempts = [
        attempt
        for output in outputs
        for attempt in attempts_of(output.response_ids, output.response_mask, end_ids)
        if attempt
    ]
    found = {
        "attempts": summary([change_of(ids, encode, decode) for ids in attempts]),
        "conversations": summary([change_of(output.prompt_ids + output.response_ids, encode, decode)
                                  for output in outputs]),
    }  # fmt: skip
    for length in PREFIXES:
        found[f"first {length} tokens"] = summary(
            [change_of(ids[:length], encode, decode) for ids in attempts if len(ids) >= length]
        )
    return found


async def roll_out(
    model: Path, data: Path, limits: Limits, temperatures: Sequence[float], episodes: int
) -> dict[str, dict[str, Any]]:
    """Conversations at each temperature, and what becomes of them."""
    engine = VllmEngine(str(model), Settings(), max_model_len=limits.max_model_len,
                        engine_args={"max_num_seqs": 64})  # fmt: skip
    await engine.start()
    bench = Bench(engine, data, limits)
    tokenizer, end_ids = engine.scaffold.tokenizer, engine.scaffold.end_ids
    found = {}
    try:
        for temperature in temperatures:
            outputs = await asyncio.gather(*(bench.episode(number % len(bench.rows), temperature=temperature)
                                             for number in range(episodes)))  # fmt: skip
            found[f"temperature {temperature:g}"] = measure(
                outputs, lambda text: tokenizer.encode(text, add_special_tokens=False), tokenizer.decode, end_ids
            )
    finally:
        await bench.close()
        await engine.close()
    return found


def show(name: str, found: dict[str, dict[str, Any]]) -> None:
    for temperature, parts in found.items():
        print(f"{name}, {temperature}:")
        for part, one in parts.items():
            if not one["sequences"]:
                continue
            print(f"  {part:<18} {one['sequences']:6,} of {one['mean_length']:6.1f} tokens: "
                  f"{_percent(one['share'], one['share_95'])} changed, {100 * one['share_other_length']:.1f} % of "
                  f"another length; where changed {one['mean_changed_tokens']:.1f} tokens; of "
                  f"{one['utf8_sequences']:,} in UTF-8 {_percent(one['utf8_share'], one['utf8_share_95'])} changed",
                  flush=True)  # fmt: skip


def _percent(share: float, limits: Sequence[float]) -> str:
    return f"{100 * share:.1f} % [{100 * limits[0]:.1f}, {100 * limits[1]:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = REPOSITORY.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=shared if shared.is_dir() else None,
                        help="of JSON Lines (default ../shared/data or else the repository's texts)")  # fmt: skip
    parser.add_argument("--episodes", type=int, default=256, help="conversations of each (default 256)")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.7], help="default 1 0.7")
    parser.add_argument("--train-steps", type=int, default=400, help="of the second model (default 400)")
    parser.add_argument("--warm-start", type=int, default=150, help="steps of the tiny model's (default 150)")
    parser.add_argument("--quick", action="store_true", help="32 conversations, 40 steps of training of each")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args()
    if args.quick:
        args.episodes, args.train_steps, args.warm_start = 32, 40, 40
    if args.episodes < 1 or args.train_steps < 1 or args.warm_start < 0:
        parser.error("--episodes and --train-steps must be at least 1, and --warm-start at least 0; got "
                     f"{args.episodes}, {args.train_steps} and {args.warm_start}")  # fmt: skip
    try:
        pairs = read_pairs(args.data)
    except ValueError as error:
        parser.error(str(error))
    os.environ.setdefault("OMP_NUM_THREADS", str(engine_threads()))
    logging.disable(logging.WARNING)

    figures: dict[str, Any] = {
        "machine": machine(),
        "options": vars(args) | {"out": None, "data": args.data and args.data.name},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tiny(folder, args.warm_start)
        figures["tiny"] = asyncio.run(roll_out(folder / "model", folder / "val.parquet", TINY_LIMITS,
                                               args.temperatures, args.episodes))  # fmt: skip
        show("tiny", figures["tiny"])
        figures["bpe_model"] = make_text_model(folder / "bpe", pairs, args.train_steps, BPE_LIMITS.max_model_len)
        print("bpe: " + ", ".join(f"{key} {value:,.4g}" for key, value in figures["bpe_model"].items()), flush=True)
        data = write_questions(folder / "questions.parquet", pairs)
        figures["bpe"] = asyncio.run(roll_out(folder / "bpe", data, BPE_LIMITS, args.temperatures, args.episodes))
        show("bpe", figures["bpe"])
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
