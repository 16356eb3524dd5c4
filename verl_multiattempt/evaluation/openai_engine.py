"""The engine of any server with OpenAI's chat completions: its connection, retries and errors."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import logging
import os
from collections.abc import Iterable, Mapping
from typing import Any

from verl_multiattempt.chat.attempt_generator import EpisodeError
from verl_multiattempt.chat.scaffold import ChatScaffold
from verl_multiattempt.cli_errors import ended
from verl_multiattempt.evaluation.engine import Conversation, EngineError, Sampling
from verl_multiattempt.evaluation.openai_answer import Answer, read_answer
from verl_multiattempt.evaluation.template import load_scaffold
from verl_multiattempt.feedback import Message
from verl_multiattempt.settings import Settings

logger = logging.getLogger(__name__)

DEFAULT_MAX_OPEN = 64
MAX_BACKOFF_S = 8.0
"""The longest that the package ``openai`` waits before a retry on its own account."""
CHARS_PER_TOKEN = 3
"""For a feedback's tokens before the server has counted one; few, so as to keep the limit."""
_VLLM_BODY = {
    # vLLM takes these from the model's generation_config.json, which is not what training samples with.
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    # After an answer of the model's too: another turn is opened, the answer not continued.
    "add_generation_prompt": True,
    "continue_final_message": False,
}


class OpenAIEngine:
    """A model behind a server with OpenAI's chat completions.

    Args:
        model: its name at the server.
        settings: limits of an attempt, texts and roles.
        base_url: of the server, with ``/v1`` where it has one.
        api_key: None for a server that asks for none.
        tokenizer: a folder or hub name. The roles of the messages are then found out as in training, and a feedback's
            tokens are counted before it is sent. None: the model's name is tried where it is a folder or has the
            form ``owner/name``; without a tokenizer the opening is a system message, and feedback a user message
            unless ``multiattempt.feedback.role`` says otherwise.
        template_kwargs: further arguments of the chat template (of vLLM's servers too).
        max_open: requests that may be open at once.
        timeout_s: limit of one request.
        max_retries: of a request that failed for a reason that may pass: no connection, time-out, 408, 409, 429, 5xx.

    Raises:
        OSError, ValueError: the tokenizer named cannot be used.
    """

    def __init__(
        self,
        model: str,
        settings: Settings,
        *,
        base_url: str,
        api_key: str | None = None,
        tokenizer: str | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        max_open: int = DEFAULT_MAX_OPEN,
        timeout_s: float = 600.0,
        max_retries: int = 5,
    ):
        from openai import AsyncOpenAI

        self.model, self.settings, self.base_url = model, settings, base_url
        self.max_open, self.timeout_s, self.max_retries = max_open, timeout_s, max_retries
        self.template_kwargs = dict(template_kwargs or {})
        self.scaffold = self._load_scaffold(tokenizer)
        if self.scaffold is not None:
            self.feedback_role, self.opening_placement = self.scaffold.feedback_role, self.scaffold.opening_placement
        else:
            role = settings.feedback.role
            self.feedback_role, self.opening_placement = "user" if role == "auto" else role, "system"
        self.max_model_len: int | None = None
        """Tokens of prompt and answer that the server takes; None where it does not say."""
        self.is_vllm = False
        self._slots = asyncio.Semaphore(max_open)
        self._client = AsyncOpenAI(
            base_url=base_url, api_key=api_key or "none", timeout=timeout_s, max_retries=max_retries
        )

    def _load_scaffold(self, tokenizer: str | None) -> ChatScaffold | None:
        if tokenizer is not None:
            return load_scaffold(tokenizer, self.settings, self.template_kwargs)
        reason = "the name is neither a folder nor of the form owner/name"
        try:
            if "/" in self.model or os.path.isdir(self.model):
                return load_scaffold(self.model, self.settings, self.template_kwargs)
        except Exception as error:  # whatever the hub's client, or the loader, has to say
            reason = type(error).__name__
        role = "user" if self.settings.feedback.role == "auto" else self.settings.feedback.role
        logger.warning(
            "no tokenizer is to be had for %r (%s): the opening is put in a system message, feedback is a %s message, "
            "and its tokens are estimated. Name a tokenizer with --tokenizer.", self.model, reason, role,
        )  # fmt: skip
        return None

    async def start(self, openings: Iterable[list[Message]] = (), *, max_tokens: int | None = None) -> None:
        """See `verl_multiattempt.evaluation.engine.Engine.start`: asks the server for its models."""
        import openai

        try:
            models = [(item, str(item.id)) async for item in self._client.models.list()]
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.APIConnectionError) as error:
            raise self._end(error) from error
        except Exception as error:  # many servers have no such list, or one of another form
            logger.info("the server's list of models cannot be read (%s)", type(error).__name__)
            return
        found = next((item for item, name in models if name == self.model), None)
        if found is None:
            if models:
                logger.warning("the server does not list the model %r; it lists %s", self.model,
                               ", ".join(name for _, name in models[:5]))  # fmt: skip
            return
        self.is_vllm = getattr(found, "owned_by", None) == "vllm"
        limit = getattr(found, "max_model_len", None)
        self.max_model_len = limit if isinstance(limit, int) and limit > 0 else None

    def open(self, *, seed: int, request_id: str, sampling: Sampling) -> Conversation:
        """See `verl_multiattempt.evaluation.engine.Engine.open`."""
        from verl_multiattempt.evaluation.openai_conversation import OpenAIConversation

        return OpenAIConversation(engine=self, seed=seed, sampling=sampling)

    def as_plain_text(self, text: str) -> str:
        """See `verl_multiattempt.evaluation.engine.Engine.as_plain_text`."""
        return self.scaffold.as_plain_text(text) if self.scaffold is not None else text

    async def complete(self, messages: list[Message], max_tokens: int, *, seed: int, sampling: Sampling) -> Answer:
        """One request, with its retries.

        Raises:
            EpisodeError: it failed to the last.
            EngineError: so would any other.
        """
        import openai

        body: dict[str, Any] = dict(_VLLM_BODY) if self.is_vllm else {}
        if self.is_vllm and self.scaffold is not None:
            body["stop_token_ids"] = self.scaffold.stop_token_ids()
        if self.is_vllm and self.template_kwargs:
            body["chat_template_kwargs"] = self.template_kwargs
        # The client's own limit is for a silence, not for an answer that comes in drops.
        limit_s = (self.max_retries + 1) * self.timeout_s + self.max_retries * MAX_BACKOFF_S
        request = self._client.chat.completions.create
        try:
            async with self._slots:
                response = await asyncio.wait_for(
                    request(
                        model=self.model,
                        messages=messages,  # type: ignore[arg-type]
                        max_tokens=max_tokens,
                        temperature=sampling.temperature,
                        top_p=sampling.top_p,
                        seed=seed if sampling.temperature > 0 else openai.omit,
                        extra_body=body or None,
                    ),
                    limit_s,
                )
        except asyncio.TimeoutError as error:
            raise EpisodeError(
                f"the server must answer within {limit_s:g} s, with all retries and the waits it asks for "
                "(Retry-After); it did not. Raise --timeout-s."
            ) from error
        except openai.APITimeoutError as error:
            raise EpisodeError(
                f"the server must answer within {self.timeout_s:g} s; it did not, "
                f"{self.max_retries + 1} times. Raise --timeout-s."
            ) from error
        except openai.APIError as error:
            raise self._failure(error, messages) from error
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
            raise EpisodeError(f"the server must answer with a chat completion; got {told(error)}") from error
        return read_answer(response)

    def _failure(self, error: Any, messages: list[Message]) -> Exception:
        import openai

        ending = (openai.APIConnectionError, openai.AuthenticationError, openai.PermissionDeniedError,
                  openai.NotFoundError)  # fmt: skip
        if isinstance(error, ending):
            return self._end(error)
        if isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
            if is_too_long(error):
                return TooLongError(f"the conversation must fit into the model's context: {told(error)}")
            if messages[-1]["role"] == "assistant":
                return EngineError(
                    "the server must take a conversation that ends with an answer, for attempts without any feedback "
                    f"message; it refuses: {ended(told(error))} Leave the control no_feedback out."
                )
        return EpisodeError(f"the server refused or failed: {told(error)}")

    def _end(self, error: Any) -> EngineError:
        import openai

        if isinstance(error, openai.APIConnectionError):
            cause = error.__cause__ or error
            return EngineError(
                f"--base-url must be a server that can be reached; got {self.base_url!r}: {ended(told(cause))} "
                "Run again to continue once it is back."
            )
        if isinstance(error, openai.NotFoundError):
            return EngineError(f"the server {self.base_url!r} must know the model {self.model!r}: {told(error)}")
        return EngineError(f"the server {self.base_url!r} must accept the API key (--api-key-env): {told(error)}")

    async def close(self) -> None:
        """See `verl_multiattempt.evaluation.engine.Engine.close`."""
        await self._client.close()

    def describe(self) -> dict[str, Any]:
        """See `verl_multiattempt.evaluation.engine.Engine.describe`."""
        return {
            "kind": "openai",
            "model": self.model,
            "version": importlib.metadata.version("openai"),
            "base_url": self.base_url,
            "tokenizer": self.scaffold is not None,
            "feedback_role": self.feedback_role,
            "opening_placement": self.opening_placement,
        }


class TooLongError(EpisodeError):
    """The server says that the conversation is longer than the model's context."""


def is_too_long(error: Any) -> bool:
    """Whether a refusal is about the length of the conversation."""
    text = str(error).lower()
    return getattr(error, "code", None) == "context_length_exceeded" or any(
        phrase in text for phrase in ("context length", "context window", "max_model_len", "too many tokens")
    )


def told(error: Any) -> str:
    """An error's own words in one line."""
    return " ".join(str(getattr(error, "message", None) or error or type(error).__name__).split())[:300]
