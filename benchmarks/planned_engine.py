"""What the benchmarks of schedules share: vLLM with a tiny model whose attempts follow a plan (`length_plan.py`).

`PlannedServer` is what the agent loop asks. It knows by the request id which episode asks, and by the prompt where in
an attempt that is: a prompt that is the last one with its answer goes on with the same attempt, any other one opens the
next. `planned_tokens.py` then has the engine end the attempt where the plan says.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine_replay import make_questions, make_tiny
from in_process import Bench, InProcessServer, Limits, metric_value
from length_plan import PlannedEpisode

from verl_multiattempt.adapters.agent_loop import RECORD_FIELD
from verl_multiattempt.evaluation.vllm_engine import VllmEngine
from verl_multiattempt.settings import Settings

MAX_MODEL_LEN = 4096
PROMPT_LENGTH = 256
BLOCK_SIZE = 32
"""Of the prefix cache. vLLM's default for the CPU is 128, for a GPU 16; the CPU's kernels want a multiple of 32."""
WRONG = "\\boxed{7}"
EPISODE: ContextVar[int] = ContextVar("EPISODE")
"""The episode that the running task is of."""


def make_planned_model(folder: Path) -> Path:
    """The tiny example's model of 0.6M parameters, untrained, for longer conversations."""
    make_tiny(folder)
    path = folder / "model" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["max_position_embeddings"] = MAX_MODEL_LEN
    path.write_text(json.dumps(config), encoding="utf-8")
    return folder / "model"


async def start_engine(model: Path, *, max_num_seqs: int) -> VllmEngine:
    """An engine with `planned_tokens.PlannedTokens`."""
    from planned_tokens import CONFIG_KEY, PlannedTokens, filler_config

    engine = VllmEngine(str(model), Settings(), max_model_len=MAX_MODEL_LEN)
    engine._extra = {
        "max_num_seqs": max_num_seqs, "disable_log_stats": False, "block_size": BLOCK_SIZE,
        "logits_processors": [PlannedTokens],
        "additional_config": {CONFIG_KEY: filler_config(engine.scaffold.tokenizer)},
    }  # fmt: skip
    await engine.start()
    return engine


@dataclass(slots=True)
class Answers:
    """The boxed answers of the plan's episodes, as tokens."""

    plan: Sequence[PlannedEpisode]
    right: list[list[int]]
    wrong: list[int]

    def args(self, episode: int, attempt: int, done: int) -> dict[str, Any]:
        """``extra_args`` of a request that goes on with an attempt of which so many tokens are done."""
        from planned_tokens import planned_args

        planned = self.plan[episode][attempt]
        answer = self.right[episode] if planned.right else self.wrong
        return planned_args(done=done, length=planned.length, answer=answer, ramble=planned.ramble)


@dataclass(slots=True)
class _Place:
    """Where an episode is."""

    episode: int
    attempt: int = -1
    done: int = 0
    expected: list[int] = field(default_factory=list)
    """The prompt that would go on with the attempt."""


class PlannedServer:
    """verl's interface of a rollout server, which adds the plan to each request."""

    def __init__(self, llm: Any, answers: Answers):
        self.answers = answers
        self._server = InProcessServer(llm)
        self._places: dict[str, _Place] = {}

    @property
    def num_requests(self) -> int:
        """How many were made."""
        return int(self._server.num_requests)

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], priority: int = 0
    ) -> Any:
        """Continue token ids."""
        place = self._places.setdefault(request_id, _Place(EPISODE.get()))
        if prompt_ids != place.expected:
            place.attempt, place.done = place.attempt + 1, 0
        extra_args = self.answers.args(place.episode, place.attempt, place.done)
        output = await self._server.generate(
            request_id, prompt_ids=prompt_ids, sampling_params={**sampling_params, "extra_args": extra_args}
        )
        place.done += len(output.token_ids)
        place.expected = [*prompt_ids, *output.token_ids]
        return output


class PlannedBench:
    """The agent loop on an engine that follows a plan.

    Args:
        engine: of `start_engine`.
        folder: where the questions are written.
        plan: of each episode.
        settings: further keys of ``multiattempt``.
    """

    def __init__(self, engine: VllmEngine, folder: Path, plan: Sequence[PlannedEpisode], **settings: Any):
        self.engine, self.plan, self.num_requests = engine, plan, 0
        data = make_questions(folder / "questions.parquet", len(plan), short=True)
        tokenizer = engine.scaffold.tokenizer
        limits = Limits(attempts=max(map(len, plan)), tokens_per_attempt=None, max_model_len=MAX_MODEL_LEN,
                        response_length=MAX_MODEL_LEN - PROMPT_LENGTH)  # fmt: skip
        self.bench = Bench(engine, data, limits, settings=settings)
        golds = [row["reward_model"]["ground_truth"] for row in self.bench.rows]
        self.answers = Answers(
            plan,
            right=[tokenizer.encode(f"\\boxed{{{gold}}}", add_special_tokens=False) for gold in golds],
            wrong=tokenizer.encode(WRONG, add_special_tokens=False),
        )
        for row, episode in zip(self.bench.rows, plan, strict=True):
            row["extra_info"] = {**(row["extra_info"] or {}), "max_attempts": len(episode)}

    async def run(self, numbers: Sequence[int]) -> list[Any]:
        """These episodes, all at once; the loop's outputs."""
        server = self.bench.server = PlannedServer(self.engine._llm, self.answers)

        async def one(number: int) -> Any:
            EPISODE.set(number)
            return await self.bench.episode(number)

        outputs = await asyncio.gather(*map(one, numbers))
        self.num_requests += server.num_requests
        return outputs

    @staticmethod
    def verdicts(output: Any) -> list[bool]:
        """Which attempts of an episode were right."""
        return [attempt["outcome"] == "CORRECT" for attempt in output.extra_fields[RECORD_FIELD]["attempts"]]

    def check(self, verdicts: Sequence[Sequence[bool]]) -> None:
        """That the episodes, all of them, had the attempts and verdicts of the plan.

        Raises:
            RuntimeError: they had not.
        """
        for number, (planned, got) in enumerate(zip(self.plan, verdicts, strict=True)):
            wanted = [attempt.right for attempt in planned]
            if list(got) != wanted:
                raise RuntimeError(f"episode {number} must have the verdicts {wanted}; got {list(got)}")


@dataclass
class EngineCounts:
    """What vLLM counts, since this was made."""

    started: float = field(default_factory=time.perf_counter)
    _before: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        self._before = self._read()

    @staticmethod
    def _read() -> dict[str, int]:
        return {
            "steps": metric_value("iteration_tokens_total", "count"),
            "sampled": metric_value("generation_tokens"),
            "prompt_tokens": metric_value("prompt_tokens"),
            "prompt_cached": metric_value("prompt_tokens_cached"),
        }

    def figures(self) -> dict[str, float]:
        """Seconds, engine steps, tokens sampled, tokens of prompts computed and cached, and the mean batch."""
        seconds = time.perf_counter() - self.started
        found = {name: value - self._before[name] for name, value in self._read().items()}
        found["prompt_computed"] = found.pop("prompt_tokens") - found["prompt_cached"]
        return {"seconds": seconds, **found, "mean_batch": found["sampled"] / max(1, found["steps"])}


async def step_times(engine: VllmEngine, sizes: Sequence[int], tokens: int = 48) -> dict[int, float]:
    """Milliseconds of an engine step in which so many sequences are decoded, each with about 64 tokens before."""
    from planned_tokens import filler_ids, planned_args

    server, filler = InProcessServer(engine._llm), filler_ids(engine.scaffold.tokenizer)
    params = {"temperature": 1.0, "max_tokens": tokens, "stop_token_ids": engine.scaffold.stop_token_ids(),
              "extra_args": planned_args(done=0, length=tokens, answer=(), ramble=0)}  # fmt: skip
    found: dict[int, float] = {}
    for size in (sizes[0], *sizes):  # the first one twice: it warms up
        await engine._llm.reset_prefix_cache()
        counts = EngineCounts()
        prompts = [random.Random(number).choices(filler, k=64) for number in range(size)]
        await asyncio.gather(*(server.generate(f"steps-{i}", prompt_ids=ids, sampling_params=params)
                               for i, ids in enumerate(prompts)))  # fmt: skip
        figures = counts.figures()
        found[size] = 1e3 * figures["seconds"] / max(1, figures["steps"])
    return found
