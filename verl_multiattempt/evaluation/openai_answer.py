"""What a server's chat completion says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from verl_multiattempt.chat.attempt_generator import EpisodeError
from verl_multiattempt.episode import Stop
from verl_multiattempt.evaluation.engine import EngineError


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A chat completion."""

    content: str
    """What is sent back in the next request."""
    text: str
    """The attempt: thoughts that the server gives apart, between their usual marks, and the content."""
    prompt_tokens: int
    completion_tokens: int
    stop: Stop | None
    """None where a limit of tokens ended it."""
    stop_id: int | None
    """The token that ended it, where the server (vLLM) says."""


def read_answer(response: Any) -> Answer:
    """Read a chat completion of the package ``openai``.

    A tool call is no answer: what content there is beside it counts.

    Raises:
        EpisodeError: it holds no answer.
        EngineError: the server does not count tokens, so no limit could be kept.
    """
    choices: Any = getattr(response, "choices", None)
    message = getattr(choices[0], "message", None) if isinstance(choices, list) and choices else None
    if message is None:
        told = " ".join(str(getattr(response, "error", None) or response).split())[:200]
        raise EpisodeError(f"the server must answer with a chat completion; got {told}")
    reason = choices[0].finish_reason
    if reason == "content_filter":
        raise EpisodeError("the server's content filter ended the attempt")
    usage = getattr(response, "usage", None)
    counts: list[Any] = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    if not all(isinstance(count, int) and count >= 0 for count in counts):
        raise EngineError(f"the server must report the tokens it used (usage), to keep the limits; got {usage!r}")
    content = _text(message.content)
    # Two names for the same: DeepSeek's, and the one that vLLM has now.
    thoughts = _text(getattr(message, "reasoning_content", None)) or _text(getattr(message, "reasoning", None))
    text = content
    if thoughts:
        text = f"<think>\n{thoughts}\n</think>\n\n{content}" if content else f"<think>\n{thoughts}"
    stop = None if reason == "length" else Stop.END_OF_TURN
    if stop and not counts[1] and not text:
        stop = Stop.EMPTY
    stop_id = getattr(choices[0], "stop_reason", None)
    return Answer(
        content=content, text=text, prompt_tokens=counts[0], completion_tokens=counts[1], stop=stop,
        stop_id=stop_id if isinstance(stop_id, int) else None,
    )  # fmt: skip


def _text(value: object) -> str:
    """Content as text; some servers give it in parts."""
    if isinstance(value, list):
        value = "".join(str(_get(part, "text") or "") for part in value)
    if not isinstance(value, str):
        return ""
    # Halves of a pair are put together; a lone one, which no request could hold, is replaced.
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _get(part: Any, name: str) -> Any:
    return part.get(name) if isinstance(part, dict) else getattr(part, name, None)
