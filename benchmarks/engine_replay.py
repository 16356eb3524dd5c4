"""What the benchmarks on a real engine share: a model to run, a record of the requests, and the same requests bare.

`Recorder` sits on one vLLM engine (`AsyncLLM`) and writes down what is asked of it. `replay` then asks the same engine
for the same again: the same prompts and sampling parameters (seed, log-probabilities ...), and exactly as many tokens
of each (ignore_eos). Asked for all at once, the requests go in in the order in which they were made, so that with the
same largest batch the engine takes them in about the same order, and with the same seeds samples the same: later
attempts find their prefixes in the cache as they did before.
"""

from __future__ import annotations

import asyncio
import copy
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
VOCAB_SIZE, HIDDEN_SIZE, NUM_LAYERS, INTERMEDIATE_SIZE = 8192, 512, 8, 1408
MAX_LENGTH = 2048
MEAN_TOKENS, BOXED_EVERY = 48, 24
"""About how many tokens the model writes in an attempt, and from one boxed answer to the next."""
GUESSES = [f"\\boxed{{{text}}}" for text in ("7", "12", "\\frac{1}{3}", "-2", "3\\sqrt{2}", "x+1", "0.25", "(1, 2)")]
"""Wrong answers, a token each. The verifier has something to decide, and every episode uses all its attempts."""


def engine_threads() -> int:
    """Threads of the engine on the CPU: a core is left to this process, as an accelerator leaves it the whole CPU."""
    return max(1, (os.cpu_count() or 2) - 1)


def make_tiny(folder: Path, steps: int = 0) -> int:
    """The tiny example with so many steps of warm start; about how many parameters its model has."""
    command = [sys.executable, str(REPOSITORY / "examples/tiny_math/make.py"), "--out", str(folder), "--seed", "1",
               "--steps", str(steps)]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return 600_000


def make_model(folder: Path) -> int:
    """A randomly initialised Qwen2 with a byte-level BPE of 8,192 tokens; its number of parameters.

    Its answers end after `MEAN_TOKENS` tokens on average, with the spread of a geometric distribution, and hold one of
    `GUESSES` every `BOXED_EVERY` tokens: the rows of these tokens in the output layer are longer than the others, so
    that at temperature 1 they are sampled more often.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    tokenizer = make_bpe(repository_texts(), VOCAB_SIZE, added=GUESSES)
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=HIDDEN_SIZE, intermediate_size=INTERMEDIATE_SIZE,
        num_hidden_layers=NUM_LAYERS, num_attention_heads=8, num_key_value_heads=2,
        max_position_embeddings=MAX_LENGTH, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    guesses = tokenizer.convert_tokens_to_ids(GUESSES)
    with torch.no_grad():
        # The final norm's output has length sqrt(hidden): logits of a row of length r are about N(0, r^2), and
        # exp of these has the mean exp(r^2 / 2).
        rows = torch.nn.functional.normalize(model.lm_head.weight, dim=1) * 0.1
        for ids, share in (([tokenizer.eos_token_id], 1 / MEAN_TOKENS), (guesses, 1 / BOXED_EVERY)):
            rows[ids] *= (2 * torch.tensor(share / len(ids) * len(tokenizer)).log()).sqrt() / 0.1
        model.lm_head.weight.copy_(rows)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())


def repository_texts() -> list[str]:
    """This repository's own code and pages."""
    folders = ("verl_multiattempt", "examples", "docs", "tests")
    files = sorted(path for name in folders for end in ("py", "md") for path in (REPOSITORY / name).rglob(f"*.{end}"))
    return [path.read_text(encoding="utf-8") for path in files]


def make_bpe(texts: Iterable[str], vocab_size: int, *, added: Sequence[str] = (), max_length: int = MAX_LENGTH) -> Any:
    """A byte-level BPE of these texts, with the tiny example's chat template; ``added`` are tokens of their own."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    sys.path.insert(0, str(REPOSITORY / "examples" / "tiny_math"))
    from make import CHAT_TEMPLATE, PAD, TURN_END, TURN_START

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(token, special=True, normalized=False) for token in (PAD, TURN_START, TURN_END)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(added), initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=special, show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in added])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=TURN_END, pad_token=PAD, chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False, model_max_length=max_length,
    )  # fmt: skip


def make_questions(path: Path, count: int, *, short: bool = False) -> Path:
    """So many questions in verl's format, with golds that no guess is; short ones for the tiny example's tokenizer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = random.Random(1)
    text = ("Compute {a}*{b} mod 6 = ?" if short else "Let $a = {a}$ and $b = {b}$. Find the remainder of $a^2 + b^2$ "
            "when divided by $1009$, and explain each step.")  # fmt: skip
    rows = [
        {
            "data_source": "replay",
            "prompt": [{"role": "user", "content": text.format(a=rng.randrange(10**6), b=rng.randrange(10**6))}],
            "reward_model": {"style": "rule", "ground_truth": str(1010 + rng.randrange(10**6))},
            "extra_info": {"index": number},
        }
        for number in range(count)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@dataclass(slots=True)
class Request:
    """What was asked of the engine, and what came back."""

    episode: str
    ids: list[int]
    params: Any
    """vLLM's ``SamplingParams``."""
    num_tokens: int = 0
    num_cached: int = 0
    """Tokens of the prompt that vLLM found in its prefix cache."""


class Recorder:
    """Writes down the requests to an engine, in the order in which they are made.

    Args:
        llm: vLLM's ``AsyncLLM``; its ``generate`` is replaced.
        episode_of: the episode of a request id.
    """

    def __init__(self, llm: Any, episode_of: Callable[[str], str]):
        self.llm = llm
        self.requests: list[Request] = []
        self.first_at = 0.0
        """When the first request was made (`time.perf_counter`)."""
        self._generate = llm.generate
        self._episode_of = episode_of
        llm.generate = self._recorded

    async def _recorded(self, prompt: Any, sampling_params: Any, request_id: str, **other: Any) -> AsyncIterator[Any]:
        if not self.requests:
            self.first_at = time.perf_counter()
        # As they are now: a caller may go on with its list, and vLLM changes parameters that it does not copy.
        params = copy.deepcopy(sampling_params)
        request = Request(self._episode_of(request_id), list(prompt["prompt_token_ids"]), params)
        self.requests.append(request)
        async for output in self._generate(prompt, sampling_params, request_id, **other):
            yield output
        request.num_tokens, request.num_cached = len(output.outputs[0].token_ids), output.num_cached_tokens

    async def replay(
        self, requests: Sequence[Request], *, in_order: bool = False, **changes: Any
    ) -> tuple[float, list[Request]]:
        """Ask for the same again, unrecorded.

        Args:
            requests: what was recorded.
            in_order: ask for an attempt when the one before it in its episode has ended, as an episode has to; else
                for all at once.
            **changes: sampling parameters to set otherwise.

        Returns:
            Seconds, and the requests with what came back this time.
        """
        answered: dict[int, Request] = {}

        async def one(number: int, request: Request) -> None:
            params = copy.deepcopy(request.params)
            params.max_tokens, params.ignore_eos, params.stop_token_ids = request.num_tokens, True, []
            for name, value in changes.items():
                setattr(params, name, value)
            prompt = {"prompt_token_ids": request.ids}
            async for output in self._generate(prompt, params, f"raw-{number}-{time.time_ns()}"):
                got, num_cached = len(output.outputs[0].token_ids), output.num_cached_tokens
            if got != request.num_tokens:
                raise RuntimeError(f"the raw engine must give {request.num_tokens} tokens; got {got}")
            answered[number] = Request(request.episode, request.ids, params, got, num_cached)

        async def one_after_the_other(numbers: Sequence[int]) -> None:
            for number in numbers:
                await one(number, requests[number])

        chains: dict[Any, list[int]] = {}
        for number, request in enumerate(requests):
            chains.setdefault(request.episode if in_order else number, []).append(number)
        await self.llm.reset_prefix_cache()
        started = time.perf_counter()
        await asyncio.gather(*map(one_after_the_other, chains.values()))
        seconds = time.perf_counter() - started
        return seconds, [answered[number] for number in range(len(requests))]


def num_sampled(requests: Iterable[Request]) -> int:
    """Tokens that the engine has sampled."""
    return sum(request.num_tokens for request in requests)


@dataclass
class HitRate:
    """Prefix-cache hits of the second and later attempts."""

    prompt_tokens: int = 0
    known: int = 0
    """Of these, tokens of the attempt before and its prompt, which the engine has computed."""
    possible: int = 0
    """Of these, tokens in whole blocks: what vLLM can find."""
    cached: int = 0
    attempts: int = 0

    def to_json(self) -> dict[str, Any]:
        known, possible = max(1, self.known), max(1, self.possible)
        return {"attempts": self.attempts, "prompt_tokens": self.prompt_tokens, "known_tokens": self.known,
                "cached_tokens": self.cached, "of_known": self.cached / known,
                "of_known_in_whole_blocks": self.cached / possible}  # fmt: skip


def hit_rate(requests: Iterable[Request], block_size: int) -> HitRate:
    """Of the attempts after the first of each episode."""
    rate = HitRate()
    last: dict[str, Request] = {}
    for request in requests:
        if request.episode in last:
            before = last[request.episode]
            known = len(before.ids) + before.num_tokens - 1  # the last one sampled was never an input
            rate.attempts += 1
            rate.prompt_tokens += len(request.ids)
            rate.known += known
            rate.possible += known // block_size * block_size
            rate.cached += request.num_cached
        last[request.episode] = request
    return rate


@dataclass
class CpuTime:
    """CPU seconds of this process, and of the engine's and the others below it, since it was made."""

    engine: Sequence[int]
    """Process ids of the engine."""
    _before: dict[str, float] = field(init=False)

    def __post_init__(self) -> None:
        self._before = self._read()

    def _read(self) -> dict[str, float]:
        found = {"own": 0.0, "engine": 0.0, "others": 0.0}
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            kind = "own" if process is me else "engine" if process.pid in self.engine else "others"
            found[kind] += times.user + times.system
        return found

    def spent(self) -> dict[str, float]:
        """Seconds by process."""
        return {name: value - self._before[name] for name, value in self._read().items()}

    def per_token(self, tokens: int, seconds: float) -> dict[str, Any]:
        """The figures of a turn that sampled so many tokens in these seconds."""
        cpu = {name: 1e3 * value / tokens for name, value in self.spent().items()}
        return {"tokens": tokens, "seconds": seconds, "tokens_per_s": tokens / seconds, "cpu_ms_per_token": cpu}


RAW = ("raw", "raw in order")
"""What the bare engine is called in a turn: all at once, and each attempt after the one before it."""


def measured(turn: dict[str, Any]) -> dict[str, Any]:
    """What a turn measures against the raw engine."""
    (name,) = turn.keys() - {*RAW, "load_average"}
    found: dict[str, Any] = turn[name]
    return found


def rate_ratio(turn: dict[str, Any], raw: str = "raw") -> float:
    """Tokens/s of what is measured by those of the raw engine."""
    return float(measured(turn)["tokens_per_s"] / turn[raw]["tokens_per_s"])


def cpu_ratio(turn: dict[str, Any], raw: str = "raw") -> float:
    """CPU time of the raw engine by that of what is measured, all processes; below 1, as with tokens/s."""
    bare, own = (sum(one["cpu_ms_per_token"].values()) for one in (turn[raw], measured(turn)))
    return float(bare / own)


def show(turn: dict[str, Any]) -> None:
    """Print a turn."""
    for kind in sorted(turn.keys() - {"load_average"}):
        one = turn[kind]
        cpu = "  ".join(f"{name} {value:.3f}" for name, value in one["cpu_ms_per_token"].items())
        print(f"{kind:>14} {one['tokens_per_s']:8,.0f} tokens/s   CPU ms a token: {cpu}")
    for raw in sorted(turn.keys() & set(RAW)):
        ratios = f"{rate_ratio(turn, raw):8.3f}            by CPU time {cpu_ratio(turn, raw):.3f}"
        print(f"{'ratio to ' + raw:>22} {ratios}   load average {turn['load_average'][0]}", flush=True)


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {"cpus": os.cpu_count(), "load_average": [round(value, 1) for value in os.getloadavg()]}
