"""Both engines of the evaluation for real: vLLM offline and ``vllm serve``, against transformers and each other.

One model, one server and one engine for the module: each takes a while to start.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.e2e.pipeline import REPOSITORY, Assets
from tests.e2e.vllm_server import Server, vllm_server
from verl_multiattempt.chat.attempt_generator import EpisodeError
from verl_multiattempt.episode import Episode
from verl_multiattempt.evaluation.engine import Engine, EngineError, Sampling
from verl_multiattempt.evaluation.openai_engine import OpenAIEngine
from verl_multiattempt.evaluation.vllm_engine import VllmEngine
from verl_multiattempt.feedback import Message, open_messages
from verl_multiattempt.rollout import run_episode
from verl_multiattempt.settings import Settings
from verl_multiattempt.verifier import Question, make_verifier

QUESTIONS, ALLOWANCE, MAX_TOKENS = 60, 3, 160
SETTINGS = Settings(max_tokens_per_attempt=8, min_tokens_per_attempt=8)
GREEDY = Sampling(max_tokens=MAX_TOKENS)
MAX_MODEL_LEN = 300

# The first test waits for a server and an engine to start.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    """The tiny example with its whole warm start: the shorter one of the other tests may answer 0 to everything."""
    folder = tmp_path_factory.mktemp("warm")
    command = [sys.executable, "examples/tiny_math/make.py", "--out", str(folder), "--seed", "5"]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    return Assets(folder)


@pytest.fixture(scope="module")
def server(assets: Assets, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with vllm_server(assets.model, tmp_path_factory.mktemp("serve"), max_model_len=MAX_MODEL_LEN, name="tiny") as made:
        yield made


@pytest.fixture(scope="module")
def rows(assets: Assets) -> list[dict[str, Any]]:
    return list(pq.read_table(assets.folder / "val.parquet").slice(0, QUESTIONS).to_pylist())


@pytest.fixture(scope="module")
def monkeymodule() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def vllm(assets: Assets, rows: list[dict[str, Any]], monkeymodule: pytest.MonkeyPatch) -> VllmEngine:
    """Not started: that is the first test's (an engine belongs to an event loop)."""
    monkeymodule.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    return VllmEngine(str(assets.model), SETTINGS)


@pytest.fixture(scope="module")
def openai(assets: Assets, server: Server) -> OpenAIEngine:
    return OpenAIEngine("tiny", SETTINGS, base_url=server.base_url, tokenizer=str(assets.model))


def opening(row: dict[str, Any], engine: Engine) -> list[Message]:
    return open_messages(row["prompt"], SETTINGS.opening, ALLOWANCE, placement=engine.opening_placement)


async def episodes(
    engine: Engine, rows: Sequence[dict[str, Any]], *, name: str, sampling: Sampling = GREEDY, feedback: bool = True,
    seed: int = 0,
) -> list[Episode]:  # fmt: skip
    """An episode for each row, all at once; without ``feedback`` an attempt follows the one before at once."""
    verifier = make_verifier(SETTINGS.verifier)

    async def one(number: int, row: dict[str, Any]) -> Episode:
        question = Question(ground_truth=row["reward_model"]["ground_truth"], data_source=row["data_source"])
        conversation = engine.open(seed=seed + number, request_id=f"{name}/{number}", sampling=sampling)

        async def generate(messages: list[Message]) -> Any:
            if not feedback:
                messages = [m for i, m in enumerate(messages) if i < len(opened) or m["role"] == "assistant"]
            return await conversation.generate(messages)

        opened = opening(row, engine)
        episode = Episode(max_attempts=ALLOWANCE, question_id=str(number))
        await run_episode(episode, opened, generate, lambda text: verifier.verify(text, question),
                          feedback=SETTINGS.feedback, feedback_role=engine.feedback_role)  # fmt: skip
        episode.num_context_tokens = conversation.num_context_tokens()
        assert conversation.num_prompt_tokens() > 0
        return episode

    try:
        return list(await asyncio.gather(*(one(number, row) for number, row in enumerate(rows))))
    finally:
        await verifier.close()


def answers(made: Sequence[Episode]) -> list[Any]:
    """What must not depend on the engine."""
    return [
        ([(a.text, a.stop, a.num_tokens, a.verdict.outcome) for a in episode.attempts], episode.num_context_tokens)
        for episode in made
    ]


async def test_both_engines_give_the_same_answers_at_temperature_0(
    vllm: VllmEngine, openai: OpenAIEngine, rows: list[dict[str, Any]]
) -> None:
    await vllm.start([opening(row, vllm) for row in rows], max_tokens=MAX_TOKENS)
    await openai.start()
    assert openai.is_vllm
    assert openai.max_model_len == MAX_MODEL_LEN
    assert (vllm.feedback_role, vllm.opening_placement) == (openai.feedback_role, openai.opening_placement)
    offline, served = await episodes(vllm, rows, name="greedy"), await episodes(openai, rows, name="greedy")
    assert answers(offline) == answers(served)
    # There is something to compare: several attempts, more than one text.
    assert sum(episode.attempts_used > 1 for episode in offline) >= 20
    assert len({attempt.text for episode in offline for attempt in episode.attempts}) > 3
    assert all(a.logprob_mean is not None for episode in offline for a in episode.attempts)


async def test_the_accuracy_is_what_transformers_measures(
    vllm: VllmEngine, rows: list[dict[str, Any]], assets: Assets
) -> None:
    sys.path.insert(0, str(REPOSITORY / "examples" / "tiny_math"))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import evaluate

    model = AutoModelForCausalLM.from_pretrained(assets.model, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(assets.model)
    runs = await evaluate.evaluate(
        model, tokenizer, rows, [ALLOWANCE], response_length=MAX_TOKENS, settings=SETTINGS
    )  # fmt: skip
    made = await episodes(vllm, rows, name="transformers")
    assert sum(episode.solved for episode in made) / len(made) == pytest.approx(runs[str(ALLOWANCE)]["accuracy"])
    mean = sum(episode.attempts_used for episode in made) / len(made)
    assert mean == pytest.approx(runs[str(ALLOWANCE)]["attempts_used"])


async def test_attempts_without_feedback_are_the_same_in_both_engines(
    vllm: VllmEngine, openai: OpenAIEngine, rows: list[dict[str, Any]]
) -> None:
    offline = await episodes(vllm, rows, name="bare", feedback=False)
    served = await episodes(openai, rows, name="bare", feedback=False)
    assert answers(offline) == answers(served)
    assert any(episode.attempts_used > 1 for episode in offline)


async def test_a_seed_repeats_its_samples_and_another_gives_others(
    vllm: VllmEngine, rows: list[dict[str, Any]]
) -> None:
    warm = Sampling(max_tokens=MAX_TOKENS, temperature=1.0)
    first, again, other = [
        answers(await episodes(vllm, rows[:30], name=f"warm{n}", sampling=warm, seed=seed))
        for n, seed in enumerate((1, 1, 1000))
    ]
    assert first == again
    assert first != other


async def test_the_segments_are_the_conversation_as_the_template_renders_it(
    vllm: VllmEngine, rows: list[dict[str, Any]]
) -> None:
    conversation = vllm.open(seed=0, request_id="segments", sampling=GREEDY)
    opened = opening(rows[0], vllm)
    first = await conversation.generate(opened)
    assert first is not None
    messages = [*opened, {"role": "assistant", "content": first.text}, {"role": vllm.feedback_role, "content": "No."}]
    second = await conversation.generate(messages)
    assert second is not None
    text = "".join(segment.text for segment in conversation.segments())
    tokenizer = vllm.scaffold.tokenizer
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text.startswith(rendered)
    assert second.text in text[len(rendered) :]


async def test_a_prompt_that_does_not_fit_is_that_episodes_error(
    vllm: VllmEngine, openai: OpenAIEngine, rows: list[dict[str, Any]]
) -> None:
    long = [{"role": "user", "content": "1 + " * 300}]
    for engine in (vllm, openai):
        with pytest.raises(EpisodeError, match="must leave room for an attempt"):
            await engine.open(seed=0, request_id="long", sampling=GREEDY).generate(long)
        assert await engine.open(seed=0, request_id="fits", sampling=GREEDY).generate(opening(rows[0], engine))


async def test_a_dead_engine_ends_with_one_sentence_and_leaves_no_process(
    vllm: VllmEngine, openai: OpenAIEngine, rows: list[dict[str, Any]]
) -> None:
    await openai.close()
    pids = vllm.process_ids()
    assert pids
    long = Sampling(max_tokens=MAX_TOKENS)
    running = asyncio.gather(
        *(vllm.open(seed=0, request_id=f"dies{n}", sampling=long).generate(opening(rows[0], vllm)) for n in range(8)),
        return_exceptions=True,
    )
    os.kill(pids[0], signal.SIGKILL)
    results = await asyncio.wait_for(running, 120)
    with pytest.raises(EngineError, match="vLLM's engine died"):
        await vllm.open(seed=0, request_id="after", sampling=GREEDY).generate(opening(rows[0], vllm))
    assert all(isinstance(result, EngineError) or not isinstance(result, BaseException) for result in results)
    await vllm.close()
    await vllm.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


KILLED = """
import asyncio, os, signal, sys
from verl_multiattempt.evaluation.vllm_engine import VllmEngine
from verl_multiattempt.settings import Settings

async def main():
    engine = VllmEngine(sys.argv[1], Settings(), max_model_len=300)
    await engine.start()
    print(*engine.process_ids(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    asyncio.run(main())
"""


async def test_the_engine_ends_with_a_process_that_is_killed(assets: Assets, tmp_path: Path) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    result = subprocess.run(
        [sys.executable, str(script), str(assets.model)], stdout=subprocess.PIPE, timeout=400, check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "VLLM_CPU_KVCACHE_SPACE": "1"},
    )  # fmt: skip
    assert result.returncode == -signal.SIGKILL
    pids = json.loads(f"[{','.join(result.stdout.decode().split())}]")
    assert pids
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, f"still there: {pids}"
        await asyncio.sleep(0.2)
