"""The vLLM engine's own part, with another sampler in vLLM's place; vLLM itself is in tests/e2e."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.tokenizers import STRICT, make_tokenizer
from verl_multiattempt.chat.attempt_generator import EpisodeError, Sampled
from verl_multiattempt.episode import Stop
from verl_multiattempt.evaluation.engine import EngineError, Sampling, request_seed
from verl_multiattempt.evaluation.vllm_engine import VllmEngine
from verl_multiattempt.evaluation.vllm_processes import environment
from verl_multiattempt.feedback import Message
from verl_multiattempt.settings import Settings

TOKENIZER = make_tokenizer()
OPENING: list[Message] = [{"role": "system", "content": "Three."}, {"role": "user", "content": "1+1?"}]
SAMPLING = Sampling(max_tokens=60, temperature=1.0)


class Sampler:
    """Answers each request with the next text, its end of turn included."""

    def __init__(self, *texts: str):
        self.texts = list(texts)
        self.requests: list[dict[str, Any]] = []

    async def __call__(self, ids: list[int], max_tokens: int, **request: Any) -> Sampled:
        self.requests.append({"ids": ids, "max_tokens": max_tokens, **request})
        answer = TOKENIZER.encode(self.texts.pop(0), add_special_tokens=False)[:max_tokens]
        return Sampled(ids=answer, logprobs=[-0.5] * len(answer))


def engine_with(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *texts: str, template: str | None = None, limit: int = 200
) -> tuple[VllmEngine, Sampler]:
    (make_tokenizer(template) if template else TOKENIZER).save_pretrained(folder)
    engine, sampler = VllmEngine(str(folder), Settings(min_tokens_per_attempt=2)), Sampler(*texts)
    monkeypatch.setattr(engine, "sample", sampler)
    monkeypatch.setattr(engine, "_limit", limit)
    return engine, sampler


async def test_the_attempts_of_an_episode_share_one_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, sampler = engine_with(tmp_path, monkeypatch, "one<|im_end|>", "two<|im_end|>")
    conversation = engine.open(seed=5, request_id="q", sampling=SAMPLING)
    assert (conversation.segments(), conversation.num_context_tokens(), conversation.num_prompt_tokens()) == ([], 0, 0)
    first = await conversation.generate(OPENING)
    assert first is not None
    assert (first.text, first.stop, first.logprob_mean) == ("one", Stop.END_OF_TURN, -0.5)
    messages = [*OPENING, {"role": "assistant", "content": "one"}, {"role": "system", "content": "No."}]
    assert await conversation.generate(messages) is not None
    rendered = TOKENIZER.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    assert sampler.requests[1]["ids"] == rendered
    assert [segment.kind for segment in conversation.segments()] == ["prompt", "model", "inserted", "feedback", "model"]
    between = conversation.num_context_tokens()
    assert between == len(rendered) - conversation.num_prompt_tokens() - first.num_tokens
    assert [request["seed"] for request in sampler.requests] == [request_seed(5, 0), request_seed(5, 1)]
    assert [request["request_id"] for request in sampler.requests] == ["q#0", "q#1"]


async def test_the_slices_of_an_attempt_have_seeds_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, sampler = engine_with(tmp_path, monkeypatch, "a" * 50, "b<|im_end|>")
    engine.settings = Settings(stop_at_answer=True, stop_at_answer_every=4)
    await engine.open(seed=5, request_id="q", sampling=SAMPLING).generate(OPENING)
    assert len({request["seed"] for request in sampler.requests}) == len(sampler.requests) == 2


@pytest.mark.parametrize(("limit", "asked"), [(1000, 60), (50, None)])
async def test_the_models_length_limits_a_conversation(
    limit: int, asked: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, sampler = engine_with(tmp_path, monkeypatch, "one<|im_end|>", limit=limit)
    await engine.open(seed=0, request_id="q", sampling=SAMPLING).generate(OPENING)
    assert sampler.requests[0]["max_tokens"] == (asked or limit - len(engine.prompt_ids(OPENING)))


async def test_an_opening_that_fills_the_model_is_an_error_of_the_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, sampler = engine_with(tmp_path, monkeypatch, limit=5)
    with pytest.raises(EpisodeError, match=r"must leave room for an attempt in max_model_len \(5\); got a prompt of"):
        await engine.open(seed=0, request_id="q", sampling=SAMPLING).generate(OPENING)
    assert not sampler.requests


async def test_an_opening_that_the_template_refuses_is_an_error_of_the_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _ = engine_with(tmp_path, monkeypatch, template=STRICT)
    with pytest.raises(EpisodeError, match=r"must be what the chat template renders; got .*roles must alternate"):
        await engine.open(seed=0, request_id="q", sampling=SAMPLING).generate(OPENING)


async def test_an_engine_that_was_not_started_says_so(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    engine = VllmEngine(str(tmp_path), Settings())
    with pytest.raises(EngineError, match="must be started"):
        await engine.sample([1], 1, request_id="q", seed=0, sampling=SAMPLING)
    await engine.close()
    assert engine.describe()["kind"] == "vllm"


async def test_a_model_that_vllm_cannot_load_is_one_sentence(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    with pytest.raises(EngineError, match="vLLM must start with model"):
        await VllmEngine(str(tmp_path), Settings()).start()


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer.__wrapped__()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model must have a tokenizer with a chat template"):
        VllmEngine(str(tmp_path), Settings())


def test_the_environment_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIVEN", "mine")
    monkeypatch.setenv("CHANGED", "before")
    before = dict(os.environ)
    with environment({"GIVEN": "default", "ADDED": "default"}):
        assert (os.environ["GIVEN"], os.environ["ADDED"]) == ("mine", "default")
        os.environ.update(CHANGED="after", LD_PRELOAD_OF_VLLM="lib")
    assert dict(os.environ) == before
