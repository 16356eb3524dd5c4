"""Measures accuracy@k of a tiny_math model: a separate run for each k, whose opening message allows k attempts.

    python examples/tiny_math/evaluate.py --model DIR/model --data DIR/val.parquet --out before.json
    python examples/tiny_math/evaluate.py --compare before.json after.json

The episodes are the package's own (`verl_multiattempt.run_episode`, its feedback and verifier); only the generation
differs from training: transformers on the CPU, many episodes in one batch.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm import tqdm

from batching import BatchedModel
from report import print_comparison
from verl_multiattempt import Episode, Generation, Question, Settings, Stop, Verifier, run_episode
from verl_multiattempt.chat.scaffold import ChatScaffold, render, resolve_scaffold
from verl_multiattempt.chat.tokens import TokenStream
from verl_multiattempt.feedback import Message, feedback_text, open_messages
from verl_multiattempt.metrics import PREFIX, episode_metrics
from verl_multiattempt.verifier import make_verifier

Row = dict[str, Any]


class Attempts:
    """Generates the attempts of one episode and keeps its tokens, as the agent loop does in training."""

    def __init__(
        self, name: str, model: BatchedModel, scaffold: ChatScaffold, settings: Settings, *, response_length: int
    ):
        self._name = name
        self._model = model
        self._scaffold = scaffold
        self._response_length = response_length
        self._settings = settings
        self._stream: TokenStream | None = None

    async def generate(self, messages: list[Message]) -> Generation | None:
        """The next attempt (see `verl_multiattempt.rollout.Generate`)."""
        scaffold, stream = self._scaffold, self._stream
        if stream is None:
            ids = render(scaffold.tokenizer, messages, scaffold.template_kwargs, add_generation_prompt=True)
            stream = self._stream = TokenStream(ids, capacity=self._response_length)
        else:
            context = scaffold.context_after(stream.last_id, messages[-1]["content"])
            if len(context) + self._settings.min_tokens_per_attempt > stream.room:
                return None
            stream.add_context(context)
        limit = min(stream.room, self._settings.max_tokens_per_attempt or stream.room)
        sampled = await self._model.generate(f"{self._name}/{len(messages)}", stream.all_ids, limit)
        stream.add_sampled(sampled, None)
        if sampled[-1] in scaffold.end_ids:
            stop = Stop.END_OF_TURN
        elif sampled[-1] in scaffold.control_ids:
            stop = Stop.CONTROL_TOKEN
        else:
            stop = Stop.CONVERSATION_LIMIT if stream.room == 0 else Stop.ATTEMPT_LIMIT
        return Generation(text=scaffold.attempt_text(sampled), stop=stop, num_tokens=len(sampled))

    def num_context_tokens(self) -> int:
        """Tokens between the attempts that the model did not sample, after the last attempt."""
        if self._stream is None:
            return 0
        self._stream.drop_trailing_context()
        return self._stream.response_mask.count(0)


async def run_all(
    rows: Sequence[Row],
    max_attempts: int,
    model: BatchedModel,
    scaffold: ChatScaffold,
    verifier: Verifier,
    settings: Settings,
    *,
    response_length: int,
    seed: int,
    progress: tqdm,
) -> list[Episode]:
    """Runs one episode for each row, all of them concurrently, each with an allowance of ``max_attempts``."""

    async def run_one(row: Row) -> Episode:
        name = f"{row['data_source']}/{row['extra_info']['index']}"
        episode = Episode(max_attempts=max_attempts, question_id=name)
        attempts = Attempts(
            f"{seed}/{max_attempts}/{name}",
            model,
            scaffold,
            settings,
            response_length=response_length,
        )
        question = Question(ground_truth=row["reward_model"]["ground_truth"], data_source=row["data_source"])
        try:
            await run_episode(
                episode,
                open_messages(row["prompt"], settings.opening, max_attempts, placement=scaffold.opening_placement),
                attempts.generate,
                lambda text: verifier.verify(text, question),
                feedback=settings.feedback,
                feedback_role=scaffold.feedback_role,
            )
        finally:
            model.close_one()
        episode.num_context_tokens = attempts.num_context_tokens()
        progress.update()
        return episode

    model.open(len(rows))
    return list(await asyncio.gather(*map(run_one, rows)))


def wilson_interval(successes: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % score interval of a proportion (Wilson 1927), which stays inside 0..1 and is sound near its ends."""
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def summarize(episodes: Sequence[Episode], max_attempts: int, settings: Settings) -> dict[str, Any]:
    """Returns the figures of one run; ``metrics`` has all that training logs, computed by the same function."""
    metrics = {
        name.removeprefix(PREFIX): value
        for name, value in episode_metrics(episodes, settings.reward, max_attempts).items()
    }
    solved = sum(episode.solved for episode in episodes)
    return {
        "n": len(episodes),
        "accuracy": metrics["accuracy"],
        "accuracy_95": list(wilson_interval(solved, len(episodes))),
        "attempts_used": metrics["attempts_used/mean"],
        # Of the attempts after the first: how many gave an earlier answer again; None where there were none.
        "repeat": metrics.get("repeat"),
        "answered": metrics["answered"],
        "truncated": metrics["truncated"],
        "metrics": metrics,
    }


async def evaluate(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    attempts: Sequence[int],
    *,
    temperature: float = 0.0,
    response_length: int = 256,
    batch_size: int = 256,
    seed: int = 0,
    settings: Settings | None = None,
) -> dict[str, dict[str, Any]]:
    """Runs every question once for each allowance.

    Args:
        model: a Hugging Face causal language model.
        tokenizer: its tokenizer, with a chat template.
        rows: rows of verl's dataset format.
        attempts: the allowances k.
        temperature: 0 for greedy.
        response_length: most tokens of a conversation after its opening, as in training.
        batch_size: most episodes in one forward pass.
        seed: of the sampling.
        settings: texts, verifier and limits; the package's defaults if None.

    Returns:
        The figures of each run, under the allowance as text (see `summarize`).
    """
    settings = settings or Settings()
    scaffold = resolve_scaffold(
        tokenizer,
        feedback_role=settings.feedback.role,
        sample_feedback=feedback_text(settings.feedback, 1),
        opening=settings.opening,
        max_attempts=max(attempts),
    )
    batched = BatchedModel(
        model,
        stop_ids=scaffold.stop_token_ids(),
        pad_id=tokenizer.pad_token_id,
        temperature=temperature,
        batch_size=batch_size,
    )
    verifier = make_verifier(settings.verifier)
    results = {}
    try:
        with tqdm(total=len(rows) * len(attempts), desc="evaluate", unit="episode") as progress:
            for k in attempts:
                progress.set_description(f"evaluate, {k} attempt{'' if k == 1 else 's'}")
                episodes = await run_all(
                    rows,
                    k,
                    batched,
                    scaffold,
                    verifier,
                    settings,
                    response_length=response_length,
                    seed=seed,
                    progress=progress,
                )
                results[str(k)] = summarize(episodes, k, settings)
    finally:
        await verifier.close()
    return results


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of the model and its tokenizer")
    parser.add_argument("--data", type=Path, help="parquet file in verl's format")
    parser.add_argument("--attempts", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="allowances to measure")
    parser.add_argument("--limit", type=int, default=500, help="questions from the start of the file")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--response-length", type=int, default=256, help="data.max_response_length of the training")
    parser.add_argument("--tokens-per-attempt", type=int, help="multiattempt.max_tokens_per_attempt of the training")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0, help="of the sampling")
    parser.add_argument(
        "--compare",
        type=Path,
        nargs=2,
        metavar=("BEFORE", "AFTER"),
        help="print a table of two result files",
    )
    parser.add_argument("--checkpoint", help="with --compare: where the trained model is, to be printed")
    parser.add_argument("--log", help="with --compare: where the training's log is, to be printed")
    args = parser.parse_args(argv)
    if args.compare:
        print_comparison(args.compare, checkpoint=args.checkpoint, log=args.log)
        return
    if args.model is None or args.data is None:
        parser.error("--model and --data must be given, or --compare")
    if min(args.attempts) < 1:
        parser.error(f"--attempts must be at least 1; got {min(args.attempts)}")
    if args.limit < 1:
        parser.error(f"--limit must be at least 1; got {args.limit}")
    least = Settings().min_tokens_per_attempt
    try:
        limit = args.tokens_per_attempt
        settings = Settings(max_tokens_per_attempt=limit, min_tokens_per_attempt=min(least, limit or least))
    except ValueError as error:
        parser.error(str(error))

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype="float32")
    rows = pq.read_table(args.data).slice(0, args.limit).to_pylist()
    runs = asyncio.run(
        evaluate(
            model,
            tokenizer,
            rows,
            args.attempts,
            temperature=args.temperature,
            response_length=args.response_length,
            batch_size=args.batch_size,
            seed=args.seed,
            settings=settings,
        )
    )
    for k, run in runs.items():
        low, high = run["accuracy_95"]
        print(
            f"accuracy@{k} {run['accuracy']:6.1%}  (95 %: {low:.1%} to {high:.1%}, n {run['n']})"
            f"  attempts used {run['attempts_used']:.2f}"
        )
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        result = {
            "model": str(args.model),
            "data": str(args.data),
            "temperature": args.temperature,
            "seed": args.seed,
            "runs": runs,
        }
        args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
