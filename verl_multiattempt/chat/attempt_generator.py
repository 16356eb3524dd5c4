"""Generating the attempts of one episode with an engine that takes and gives token ids, and keeping these."""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from verl_multiattempt.answer import extract_answer, has_open_box
from verl_multiattempt.chat.scaffold import ChatScaffold
from verl_multiattempt.chat.tokens import INSERTED, TokenStream
from verl_multiattempt.episode import Stop
from verl_multiattempt.feedback import Message
from verl_multiattempt.rollout import Generation
from verl_multiattempt.settings import Settings

MAX_FRUITLESS_RESUMES = 8
"""Aborted generations in a row, without a new token, after which the episode fails."""
_OVERLAP = 16
r"""Tokens before a slice that are read again with it, since a ``\boxed`` may begin in them."""


class EpisodeError(RuntimeError):
    """An episode cannot be finished or trained on; verl marks its rollout failed and the others go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What an engine answers to one request."""

    ids: Sequence[int]
    """The new tokens ``[n]``, the one that ended the generation included."""
    logprobs: Sequence[float] | None = None
    """Log-probability of each token ``[n]``; None where the engine gives none."""
    aborted: bool = False
    """The engine gave up in the middle, for weights to be synchronised; the generation is to go on from there."""


Sample = Callable[[list[int], int], Awaitable[Sampled]]
"""Continues token ids by at most so many; stops at `ChatScaffold.stop_token_ids`."""
OpenStream = Callable[[list[Message]], Awaitable[TokenStream]]
"""The stream of an episode with these opening messages: their ids, and how many tokens may follow. Raises ValueError
where the opening does not fit."""


@dataclass(slots=True)
class AttemptGenerator:
    """Generates the attempts of one episode, and keeps its tokens."""

    scaffold: ChatScaffold
    settings: Settings
    open_stream: OpenStream
    sample: Sample
    seconds: float = 0.0
    """Spent waiting for the engine."""
    _stream: TokenStream | None = field(default=None)

    @property
    def stream(self) -> TokenStream:
        """The tokens of the episode.

        Raises:
            RuntimeError: nothing was generated yet.
        """
        if self._stream is None:
            raise RuntimeError("the stream is there after the first call of generate")
        return self._stream

    async def generate(self, messages: list[Message]) -> Generation | None:
        """The next attempt (see `verl_multiattempt.rollout.Generate`).

        Messages that end with an attempt ask for another one without any feedback between them.

        Raises:
            ValueError: the chat template cannot do that.
        """
        if self._stream is None:
            self._stream = await self.open_stream(messages)
        else:
            ended, feedback = self._context(messages[-1])
            if len(ended) + len(feedback) + self.settings.min_tokens_per_attempt > self.stream.room:
                return None
            self.stream.add_context(ended, INSERTED)
            self.stream.add_context(feedback)
        if self.stream.room < 1:
            return None
        start, waited = len(self.stream.response_ids), self.seconds
        stop = await self._sample(start)
        ids = self.stream.response_ids[start:]
        return Generation(
            text=self.scaffold.attempt_text(ids),
            stop=stop,
            num_tokens=len(ids),
            logprob_mean=_finite_mean((self.stream.response_logprobs or [])[start:]),
            generate_s=self.seconds - waited,
        )

    def _context(self, last: Message) -> tuple[list[int], list[int]]:
        if last["role"] == "assistant":
            return self.scaffold.reopened_parts(self._last_id())
        return self.scaffold.context_parts(self._last_id(), last["content"])

    def _last_id(self) -> int | None:
        return self.stream.last_id if self.stream.response_ids else self.stream.prompt_ids[-1]

    async def _sample(self, start: int) -> Stop:
        """Sample one attempt into the stream, which has ``start`` response tokens now."""
        settings, scaffold, stream = self.settings, self.scaffold, self.stream
        limit = min(stream.room, settings.max_tokens_per_attempt or stream.room)
        search = _AnswerSearch(scaffold.attempt_text) if settings.stop_at_answer else None
        fruitless = 0
        while (sampled := len(stream.response_ids) - start) < limit:
            asked = limit - sampled
            if search:
                asked = min(asked, settings.stop_at_answer_every)
            started = time.perf_counter()
            output = await self.sample(stream.all_ids, asked)
            self.seconds += time.perf_counter() - started
            ids = _until_stop(output.ids[:asked], scaffold.stop_ids)
            stream.add_sampled(ids, output.logprobs[: len(ids)] if output.logprobs else None)
            # First, so that the cut does not depend on where a slice ends.
            if search and (length := search.end(stream.response_ids[start:])):
                stream.drop_after(start + length)
                return Stop.ANSWER
            if ids and ids[-1] in scaffold.end_ids:
                return Stop.END_OF_TURN
            if ids and ids[-1] in scaffold.control_ids:
                return Stop.CONTROL_TOKEN
            if output.aborted:
                fruitless = 0 if ids else fruitless + 1
                if fruitless > MAX_FRUITLESS_RESUMES:
                    raise EpisodeError(f"the engine aborted the generation {fruitless} times in a row")
            elif len(ids) < asked:
                # The engine ended it for a reason of its own (a stop string, its context limit).
                return Stop.END_OF_TURN if len(stream.response_ids) > start else Stop.EMPTY
        return Stop.CONVERSATION_LIMIT if stream.room == 0 else Stop.ATTEMPT_LIMIT


@dataclass(slots=True)
class _AnswerSearch:
    """Looks for the end of an attempt's first answer, slice by slice, in time linear in the attempt."""

    text: Callable[[Sequence[int]], str]
    _num_seen: int = 0
    _open_from: int | None = None
    """From this token on the attempt has a box that is not closed; None where it has none."""

    def end(self, ids: Sequence[int]) -> int | None:
        """How many tokens of the attempt so far, ``ids``, have its first answer; None where they have none."""
        start = self._open_from
        if start is None:
            start = max(0, self._num_seen - _OVERLAP)
        self._num_seen = len(ids)
        text = self.text(ids[start:])
        if extract_answer(text) is None:
            self._open_from = start if has_open_box(text) else None
            return None
        # "The first n tokens hold an answer" is monotone in n.
        return bisect.bisect_left(
            range(len(ids)), True, lo=start, key=lambda n: extract_answer(self.text(ids[start:n])) is not None
        )


def _finite_mean(values: Sequence[float]) -> float | None:
    mean = sum(values) / len(values) if values else math.nan
    return mean if math.isfinite(mean) else None


def _until_stop(ids: Sequence[int], stop_ids: frozenset[int]) -> list[int]:
    """``ids`` up to and including the first of ``stop_ids``."""
    # An engine stops there, so at most the last one is; several times as fast as a look at each.
    if stop_ids.isdisjoint(ids[:-1]):
        return list(ids)
    return list(ids[: 1 + next(position for position, token in enumerate(ids) if token in stop_ids)])
