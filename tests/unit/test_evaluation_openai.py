"""The engine of OpenAI-compatible servers against a local server: limits, stops, retries, errors."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.chat_server import ChatServer, Reply, completion, refusal
from tests.tokenizers import STRICT, make_tokenizer
from verl_multiattempt.chat.attempt_generator import EpisodeError
from verl_multiattempt.episode import Episode, Stop
from verl_multiattempt.evaluation.engine import Conversation, EngineError, Sampling
from verl_multiattempt.evaluation.openai_engine import OpenAIEngine
from verl_multiattempt.feedback import Message
from verl_multiattempt.rollout import run_episode
from verl_multiattempt.settings import FeedbackSettings, Settings
from verl_multiattempt.verifier import Outcome, Verdict

OPENING: list[Message] = [{"role": "system", "content": "You have 3 attempts."}, {"role": "user", "content": "1+1?"}]
VLLM = [{"id": "m", "object": "model", "created": 1, "owned_by": "vllm", "max_model_len": 400}]
SETTINGS = Settings(min_tokens_per_attempt=4)


@asynccontextmanager
async def engine_at(server: ChatServer, settings: Settings = SETTINGS, **arguments: Any) -> AsyncIterator[OpenAIEngine]:
    arguments = {"timeout_s": 5.0, "max_retries": 2, **arguments}
    engine = OpenAIEngine("m", settings, base_url=server.url, **arguments)
    try:
        await engine.start()
        yield engine
    finally:
        await engine.close()


@pytest.fixture
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses before retries are the library's own; here they are left out where a reply does not set them."""
    from openai import _base_client

    monkeypatch.setattr(_base_client, "INITIAL_RETRY_DELAY", 0.001)
    monkeypatch.setattr(_base_client, "MAX_RETRY_DELAY", 0.002)


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    return folder


def opened(engine: OpenAIEngine, *, max_tokens: int = 100, temperature: float = 0.0, seed: int = 0) -> Conversation:
    return engine.open(seed=seed, request_id="q", sampling=Sampling(max_tokens=max_tokens, temperature=temperature))


def after(*answers: str, feedback: str | None = "Wrong.") -> list[Message]:
    """The messages after these answers; the last without feedback if that is None."""
    messages = list(OPENING)
    for answer in answers:
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": feedback or "Wrong."}]
    return messages if feedback else messages[:-1]


async def run(
    conversation: Conversation, *, max_attempts: int = 3, role: str = "user"
) -> tuple[Episode, list[Message]]:
    """An episode of attempts that are all wrong."""

    async def verify(text: str) -> Verdict:
        return Verdict(outcome=Outcome.INCORRECT if "boxed" in text else Outcome.NO_ANSWER)

    episode = Episode(max_attempts=max_attempts)
    feedback = FeedbackSettings(text="{attempts_left} left")
    messages = await run_episode(episode, OPENING, conversation.generate, verify, feedback=feedback, feedback_role=role)
    episode.num_context_tokens = conversation.num_context_tokens()
    return episode, messages


async def test_an_episode_sends_the_conversation_so_far_and_counts_what_the_server_counts() -> None:
    replies = [
        completion("a \\boxed{1}", prompt=20, tokens=5),
        completion("b \\boxed{2}", prompt=32, tokens=6),
        completion("c \\boxed{3}", prompt=45, tokens=7),
    ]
    with ChatServer(*replies) as server:
        async with engine_at(server) as engine:
            conversation = opened(engine)
            episode, messages = await run(conversation)
    assert [attempt.num_tokens for attempt in episode.attempts] == [5, 6, 7]
    assert [attempt.stop for attempt in episode.attempts] == [Stop.END_OF_TURN] * 3
    assert conversation.num_prompt_tokens() == 20
    # 32 - (20 + 5) and 45 - (32 + 6).
    assert episode.num_context_tokens == 7 + 7
    assert [request["messages"] for request in server.requests] == [messages[:2], messages[:4], messages[:6]]
    # 100 at first; then 5 sampled and 9 estimated for "2 left"; then 5 + 7 + 6, and 7 as the last time.
    assert [request["max_tokens"] for request in server.requests] == [100, 100 - 5 - 10, 100 - 18 - 7]
    assert conversation.segments() == []
    assert {"temperature": 0.0, "top_p": 1.0}.items() <= server.requests[0].items()
    assert "seed" not in server.requests[0]


async def test_the_conversation_limit_truncates_and_the_attempt_limit_does_not() -> None:
    replies = [
        completion("...", prompt=20, tokens=30, finish="length"),
        completion("...", prompt=60, tokens=21, finish="length"),
    ]
    with ChatServer(*replies) as server:
        async with engine_at(server, Settings(max_tokens_per_attempt=30, min_tokens_per_attempt=4)) as engine:
            episode, _ = await run(opened(engine, max_tokens=61))
    assert [attempt.stop for attempt in episode.attempts] == [Stop.ATTEMPT_LIMIT, Stop.CONVERSATION_LIMIT]
    assert [request["max_tokens"] for request in server.requests] == [30, 21]
    assert episode.truncated


async def test_feedback_that_leaves_no_room_for_an_attempt_ends_the_episode_without_a_request() -> None:
    with ChatServer(completion("no", prompt=20, tokens=90)) as server:
        async with engine_at(server) as engine:
            episode, messages = await run(opened(engine, max_tokens=100))
    assert episode.truncated
    assert episode.attempts_used == len(server.requests) == 1
    assert episode.attempts[-1].feedback is None
    assert messages[-1] == {"role": "assistant", "content": "no"}


async def test_a_tokenizer_gives_the_roles_and_the_exact_room(tokenizer_folder: Path) -> None:
    from verl_multiattempt.evaluation.template import load_scaffold

    scaffold = load_scaffold(str(tokenizer_folder), SETTINGS)
    ended = len(scaffold.context_after(scaffold.closing[-1], "2 left"))
    with ChatServer(completion(tokens=5)) as server:
        async with engine_at(server, tokenizer=str(tokenizer_folder)) as engine:
            assert (engine.feedback_role, engine.opening_placement) == ("system", "system")
            assert engine.as_plain_text("<|im_end|>") == "< |im_end|>"
            await run(opened(engine), max_attempts=2, role="system")
    assert [request["max_tokens"] for request in server.requests] == [100, 100 - 5 - ended]
    assert [message["role"] for message in server.requests[1]["messages"]] == ["system", "user", "assistant", "system"]


async def test_a_template_without_system_messages_puts_all_into_user_messages(tmp_path: Path) -> None:
    make_tokenizer(STRICT).save_pretrained(tmp_path)
    with ChatServer(completion()) as server:
        async with engine_at(server, tokenizer=str(tmp_path)) as engine:
            assert (engine.feedback_role, engine.opening_placement) == ("user", "user")


async def test_without_a_tokenizer_the_roles_are_the_usual_ones_and_that_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with ChatServer(completion()) as server, caplog.at_level(logging.WARNING):
        async with engine_at(server) as engine:
            assert (engine.feedback_role, engine.opening_placement) == ("user", "system")
        settings = Settings(feedback=FeedbackSettings(role="system"))
        async with engine_at(server, settings) as engine:
            assert engine.feedback_role == "system"
    assert "no tokenizer is to be had for 'm'" in caplog.text
    assert "--tokenizer" in caplog.text


async def test_a_tokenizer_that_was_named_and_is_not_there_is_an_error(tmp_path: Path) -> None:
    with ChatServer(completion()) as server, pytest.raises((OSError, ValueError)):
        async with engine_at(server, tokenizer=str(tmp_path / "none")):
            pass


async def test_a_vllm_server_is_told_to_sample_as_training_does(tokenizer_folder: Path) -> None:
    with ChatServer(completion(), models=VLLM) as server:
        async with engine_at(server, tokenizer=str(tokenizer_folder)) as engine:
            await opened(engine).generate(OPENING)
            stop_token_ids = engine.scaffold.stop_token_ids() if engine.scaffold else None
    sent = {"repetition_penalty": 1.0, "top_k": -1, "stop_token_ids": stop_token_ids}
    assert sent.items() <= server.requests[0].items()


async def test_another_server_gets_openais_own_parameters_only() -> None:
    models = [{**VLLM[0], "owned_by": "somebody"}]
    with ChatServer(completion(), models=models) as server:
        async with engine_at(server) as engine:
            await opened(engine, temperature=0.7, seed=3).generate(OPENING)
    assert set(server.requests[0]) == {"model", "messages", "max_tokens", "temperature", "top_p", "seed"}


async def test_each_request_has_a_seed_of_its_own_that_follows_from_the_episodes() -> None:
    with ChatServer(completion()) as server:
        async with engine_at(server) as engine:
            for seed in (1, 1, 2):
                await run(opened(engine, temperature=1.0, seed=seed))
    seeds = [request["seed"] for request in server.requests]
    assert seeds[:3] == seeds[3:6]
    assert len(set(seeds)) == 6


async def test_an_opening_beyond_the_servers_context_is_that_episodes_error(tokenizer_folder: Path) -> None:
    with ChatServer(completion(), models=[{**VLLM[0], "max_model_len": 12}]) as server:
        async with engine_at(server, tokenizer=str(tokenizer_folder)) as engine:
            with pytest.raises(EpisodeError, match=r"must leave room for an attempt in the server's context \(12\)"):
                await opened(engine).generate(OPENING)
    assert not server.requests


async def test_the_servers_context_limits_the_conversation(tokenizer_folder: Path) -> None:
    with ChatServer(completion(), models=VLLM) as server:
        async with engine_at(server, tokenizer=str(tokenizer_folder)) as engine:
            await opened(engine, max_tokens=10_000).generate(OPENING)
            assert engine.scaffold is not None
            prompt = engine.scaffold.tokenizer.apply_chat_template(
                OPENING, add_generation_prompt=True, return_dict=False
            )
    assert server.requests[0]["max_tokens"] == 400 - len(prompt)


@pytest.mark.parametrize(
    ("reply", "text", "stop"),
    [
        (completion(None, tokens=1), "", Stop.END_OF_TURN),
        (completion(None, tokens=0), "", Stop.EMPTY),
        (completion("", tokens=0), "", Stop.EMPTY),
        (completion("x", reasoning_content="so"), "<think>\nso\n</think>\n\nx", Stop.END_OF_TURN),
        (completion("x", reasoning="so"), "<think>\nso\n</think>\n\nx", Stop.END_OF_TURN),
        (completion(None, reasoning_content="so", finish="length"), "<think>\nso", Stop.CONVERSATION_LIMIT),
        (completion(None, finish="tool_calls", tool_calls=[
            {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        ]), "", Stop.END_OF_TURN),
        (completion([{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}]), "in parts",
         Stop.END_OF_TURN),
    ],
    ids=["null", "nothing", "empty", "reasoning_content", "reasoning", "cut in thought", "tool call", "parts"],
)  # fmt: skip
async def test_what_servers_answer(reply: Reply, text: str, stop: Stop) -> None:
    with ChatServer(reply) as server:
        async with engine_at(server) as engine:
            generation = await opened(engine).generate(OPENING)
    assert generation is not None
    assert (generation.text, generation.stop) == (text, stop)


async def test_lone_surrogates_are_replaced_and_the_conversation_goes_on() -> None:
    with ChatServer(completion("a \ud800 \ud83d\ude00", reasoning_content="\udfff")) as server:
        async with engine_at(server) as engine:
            episode, _ = await run(opened(engine), max_attempts=2)
    assert episode.attempts_used == 2
    assert episode.attempts[0].text == "<think>\n\ufffd\n</think>\n\na \ufffd \U0001f600"
    assert server.requests[1]["messages"][2]["content"] == "a \ufffd \U0001f600"


@pytest.mark.parametrize(
    "models", [["m"], [None], [{"id": None}], [{"id": "m"}], [{"id": "m", "owned_by": "vllm", "max_model_len": "x"}]]
)
async def test_a_list_of_models_in_another_form_is_no_error(models: list[Any]) -> None:
    with ChatServer(completion("fine"), models=models) as server:
        async with engine_at(server) as engine:
            assert engine.max_model_len is None
            assert await opened(engine).generate(OPENING) is not None


async def test_a_wait_that_the_server_asks_for_beyond_the_limit_is_told_as_that() -> None:
    busy = Reply(status=429, body={"error": {"message": "slow down"}}, headers={"Retry-After": "50"})
    with ChatServer(busy) as server:
        async with engine_at(server, timeout_s=0.05, max_retries=0) as engine:
            with pytest.raises(EpisodeError, match="slow down"):
                await opened(engine).generate(OPENING)
            engine.max_retries, engine._client.max_retries = 0, 1  # a limit in all of 0.05 s
            with pytest.raises(EpisodeError, match=r"within 0\.05 s, with all retries and the waits .*Retry-After"):
                await opened(engine).generate(OPENING)


async def test_thoughts_are_not_sent_back() -> None:
    with ChatServer(completion("x", reasoning_content="so")) as server:
        async with engine_at(server) as engine:
            episode, _ = await run(opened(engine), max_attempts=2)
    assert "so" in episode.attempts[0].text
    assert server.requests[1]["messages"][2] == {"role": "assistant", "content": "x"}


async def test_a_prompt_that_shrinks_where_thoughts_are_left_out_frees_no_tokens() -> None:
    with ChatServer(completion("x", prompt=20, tokens=50), completion("y", prompt=30, tokens=10)) as server:
        async with engine_at(server) as engine:
            episode, _ = await run(opened(engine, max_tokens=100))
    assert episode.num_context_tokens == 0
    assert server.requests[2]["max_tokens"] == 40


@pytest.mark.usefixtures("no_backoff")
@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
async def test_an_error_that_may_pass_is_retried(status: int) -> None:
    with ChatServer(refusal(status, "busy"), refusal(status, "busy"), completion("fine")) as server:
        async with engine_at(server) as engine:
            generation = await opened(engine).generate(OPENING)
    assert generation is not None
    assert generation.text == "fine"
    assert len(server.requests) == 3


@pytest.mark.usefixtures("no_backoff")
async def test_a_connection_that_breaks_is_retried() -> None:
    with ChatServer(Reply(drop=True), completion("fine")) as server:
        async with engine_at(server) as engine:
            generation = await opened(engine).generate(OPENING)
    assert generation is not None
    assert generation.text == "fine"


async def test_retries_wait_longer_each_time() -> None:
    failing = Reply(status=500, body={"error": {"message": "boom"}})
    with ChatServer(failing, failing, completion()) as server:
        async with engine_at(server) as engine:
            started = time.monotonic()
            await opened(engine).generate(OPENING)
    # 0.5 s and 1 s, each less at most a quarter at random.
    assert time.monotonic() - started > 0.75 * 1.5


@pytest.mark.usefixtures("no_backoff")
async def test_retries_come_to_an_end_with_an_error_of_the_episode() -> None:
    with ChatServer(refusal(500, "out of order")) as server:
        async with engine_at(server) as engine:
            with pytest.raises(EpisodeError, match="out of order"):
                await opened(engine).generate(OPENING)
    assert len(server.requests) == 3


async def test_a_bad_request_is_not_retried_and_is_that_episodes_error() -> None:
    with ChatServer(refusal(400, "what is this?"), completion()) as server:
        async with engine_at(server) as engine:
            with pytest.raises(EpisodeError, match="what is this"):
                await opened(engine).generate(OPENING)
            assert await opened(engine).generate(OPENING) is not None
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "sentence"), [(401, "must accept the API key"), (403, "must accept the API key"),
                             (404, "must know the model 'm'")]
)  # fmt: skip
async def test_a_refusal_that_all_requests_would_meet_ends_the_run(status: int, sentence: str) -> None:
    with ChatServer(refusal(status, "no")) as server:
        async with engine_at(server) as engine:
            with pytest.raises(EngineError, match=sentence):
                await opened(engine).generate(OPENING)
    assert len(server.requests) == 1


@pytest.mark.usefixtures("no_backoff")
async def test_a_server_that_hangs_is_given_up_after_the_time_limit() -> None:
    with ChatServer(Reply(delay_s=60)) as server:
        async with engine_at(server, timeout_s=0.2, max_retries=1) as engine:
            started = time.monotonic()
            with pytest.raises(EpisodeError, match=r"must answer within 0\.2 s; it did not, 2 times"):
                await opened(engine).generate(OPENING)
    assert time.monotonic() - started < 20
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "reply",
    [Reply(body=b"{not json"), Reply(body=b"<html>busy</html>", headers={"Content-Type": "text/html"}),
     Reply(body=b"[]"), Reply(body=b"null"), Reply(body={"error": {"message": "overloaded"}}),
     Reply(body={"choices": []})],
    ids=["broken", "html", "list", "null", "error with status 200", "no choices"],
)  # fmt: skip
async def test_an_answer_that_is_no_completion_is_an_error_of_the_episode(reply: Reply) -> None:
    with ChatServer(reply) as server:
        async with engine_at(server) as engine:
            with pytest.raises(EpisodeError, match="must answer with a chat completion"):
                await opened(engine).generate(OPENING)


async def test_a_server_that_counts_no_tokens_ends_the_run() -> None:
    body = {**completion().body, "usage": None}  # type: ignore[dict-item]
    with ChatServer(Reply(body=body)) as server:
        async with engine_at(server) as engine:
            with pytest.raises(EngineError, match="must report the tokens it used"):
                await opened(engine).generate(OPENING)


async def test_a_content_filter_is_an_error_not_a_wrong_answer() -> None:
    with ChatServer(completion("", finish="content_filter")) as server:
        async with engine_at(server) as engine:
            with pytest.raises(EpisodeError, match="content filter"):
                await opened(engine).generate(OPENING)


@pytest.mark.usefixtures("no_backoff")
async def test_a_server_that_is_not_there_ends_the_run_at_its_start() -> None:
    with ChatServer(completion()) as server:
        url = server.url
    engine = OpenAIEngine("m", SETTINGS, base_url=url, max_retries=1)
    with pytest.raises(EngineError, match="--base-url must be a server that can be reached"):
        await engine.start()
    await engine.close()


@pytest.mark.usefixtures("no_backoff")
async def test_a_server_that_goes_away_ends_the_run() -> None:
    with ChatServer(Reply(drop=True)) as server:
        async with engine_at(server) as engine:
            with pytest.raises(EngineError, match="Run again to continue"):
                await opened(engine).generate(OPENING)


async def test_a_context_that_is_full_on_the_way_truncates_the_episode() -> None:
    too_long = refusal(400, "This model's maximum context length is 60 tokens.", code="context_length_exceeded")
    with ChatServer(completion(), too_long) as server:
        async with engine_at(server) as engine:
            episode, _ = await run(opened(engine))
    assert episode.truncated
    assert episode.attempts_used == 1


async def test_a_context_that_is_too_short_for_the_opening_is_an_error() -> None:
    with ChatServer(refusal(400, "This model's maximum context length is 60 tokens.")) as server:
        async with engine_at(server) as engine:
            with pytest.raises(EpisodeError, match="must fit into the model's context"):
                await opened(engine).generate(OPENING)


async def test_another_attempt_without_feedback_asks_for_a_new_turn() -> None:
    with ChatServer(completion("a"), completion("b"), models=VLLM) as server:
        async with engine_at(server) as engine:
            conversation = opened(engine)
            await conversation.generate(OPENING)
            generation = await conversation.generate(after("a", feedback=None))
    assert generation is not None
    assert generation.text == "b"
    sent = server.requests[1]
    assert sent["messages"][-1] == {"role": "assistant", "content": "a"}
    assert (sent["add_generation_prompt"], sent["continue_final_message"]) == (True, False)


async def test_a_server_that_refuses_a_conversation_ending_with_an_answer_ends_the_run() -> None:
    with ChatServer(completion("a"), refusal(400, "last message must be from the user")) as server:
        async with engine_at(server) as engine:
            conversation = opened(engine)
            await conversation.generate(OPENING)
            with pytest.raises(EngineError, match="Leave the control no_feedback out"):
                await conversation.generate(after("a", feedback=None))


async def test_no_more_requests_are_open_than_allowed() -> None:
    reply = Reply(body=completion().body, delay_s=0.05)
    with ChatServer(reply) as server:
        async with engine_at(server, max_open=3) as engine:
            await asyncio.gather(*(opened(engine).generate(OPENING) for _ in range(12)))
    assert len(server.requests) == 12
    assert server.most_open == 3


@pytest.mark.parametrize(
    ("values", "sentence"),
    [({"max_tokens": 0}, "max_tokens must be at least 1"),
     ({"max_tokens": 1, "temperature": -1.0}, "temperature must be"),
     ({"max_tokens": 1, "temperature": float("nan")}, "temperature must be"),
     ({"max_tokens": 1, "top_p": 0.0}, "top_p must be")],
)  # fmt: skip
def test_sampling_that_cannot_work_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Sampling(**values)
