"""One of verl's reward functions as it decides an attempt: loaded, called, and its result read.

The same in a thread of the agent-loop worker and in a process of the pool (see
`verl_multiattempt.adapters.compute_score`).
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import numbers
import re
import reprlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from verl_multiattempt.adapters.function_loader import ARGUMENTS, load_function, unknown_source
from verl_multiattempt.answer import extract_answer
from verl_multiattempt.feedback import shorten
from verl_multiattempt.verifier import Outcome

BOXED = "boxed"
"""The ``answer_pattern`` that stands for the last complete ``\\boxed{}``."""
MAX_FEEDBACK_CHARS = 10_000
"""What is kept of a function's feedback; how much the model sees is ``multiattempt.feedback.max_verifier_chars``."""
MAX_ANSWER_CHARS = 20_000
"""What is kept of an answer, in the rollout files and for the comparison with earlier ones."""
_KEY = "multiattempt.verifier.kwargs."

Request = dict[str, Any]
"""verl's arguments: data_source, solution_str, ground_truth, extra_info."""
Decision = dict[str, Any]
"""``outcome``, ``answer`` and ``feedback``, all of them plain JSON values."""


class ResultError(ValueError):
    """A reward function returned what is no score."""


def _require(condition: bool, name: str, must: str, got: object, remedy: str) -> None:
    if not condition:
        raise ValueError(f"{_KEY}{name} must {must}; got {got!r}. {remedy}")


class RewardFunction:
    """Decides attempts by a reward function and a threshold.

    Args:
        path: file (or ``pkg://package.module``) of the function, as ``reward.custom_reward_function.path``; None
            takes verl's own function, which chooses by the row's ``data_source``.
        name: of the function in that file.
        reward_kwargs: further keyword arguments of every call.
        threshold: a score of at least this is CORRECT.
        answer_pattern: None, ``boxed``, or a regular expression whose group 1 (without groups: the whole match) is
            the answer. The last match counts. An attempt without one is NO_ANSWER, and the function is not called.
        answer_key: key of the function's dict under which the answer is; None or an empty text there is NO_ANSWER.
        feedback_key: key of the function's dict whose text is for the model.
        no_answer_feedback: text for the model where ``answer_pattern`` does not match; None takes a short one.

    Raises:
        ValueError: an argument cannot work.
    """

    def __init__(
        self,
        *,
        path: str | None = None,
        name: str = "compute_score",
        reward_kwargs: Mapping[str, Any] | None = None,
        threshold: float = 1.0,
        answer_pattern: str | None = None,
        answer_key: str | None = None,
        feedback_key: str = "feedback",
        no_answer_feedback: str | None = None,
    ):
        for key, text in (("path", path), ("answer_key", answer_key), ("no_answer_feedback", no_answer_feedback)):
            _require(text is None or (isinstance(text, str) and bool(text)), key, "be null or a non-empty text", text,
                     "Leave it out to take the default.")  # fmt: skip
        for key, text in (("name", name), ("feedback_key", feedback_key)):
            _require(isinstance(text, str) and bool(text), key, "be a non-empty text", text,
                     "Leave it out to take the default.")  # fmt: skip
        _require(reward_kwargs is None or isinstance(reward_kwargs, Mapping), "reward_kwargs", "be a mapping",
                 reward_kwargs, "Give the function's further arguments by name.")  # fmt: skip
        taken = sorted(set(reward_kwargs or ()) & set(ARGUMENTS))
        _require(not taken, "reward_kwargs", f"leave {', '.join(ARGUMENTS)} to the row", taken, "Remove them.")
        finite = isinstance(threshold, int | float) and not isinstance(threshold, bool) and math.isfinite(threshold)
        _require(finite, "threshold", "be a finite number", threshold,
                 "Take the least score of a right attempt; the default is 1.0.")  # fmt: skip
        self.path, self.name, self.reward_kwargs = path, name, dict(reward_kwargs or {})
        self.threshold = threshold
        self.answer_key, self.feedback_key = answer_key, feedback_key
        self._pattern = _compile(answer_pattern)
        self._no_answer_feedback = no_answer_feedback or (
            "No \\boxed{} answer was found." if answer_pattern == BOXED else "No answer in the asked format was found."
        )

    @functools.cached_property
    def function(self) -> Callable[..., Any]:
        """The function itself.

        Raises:
            ValueError: it cannot be loaded, or does not take verl's arguments.
        """
        return load_function(self.path, self.name, self.reward_kwargs)

    @property
    def is_async(self) -> bool:
        """Whether the function is a coroutine function."""
        function = self.function
        while isinstance(function, functools.partial):
            function = function.func
        return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)

    def decide(self, request: Request) -> Decision:
        """Decide one attempt; blocks as long as the function takes.

        Raises:
            ResultError: the function returned no score.
            BaseException: what the function raised.
        """
        answer = self._answer(request)
        if self._pattern is not None and answer is None:
            return self._no_answer()
        result = self._call(request)
        if inspect.isawaitable(result):
            result = asyncio.run(_wait_for(result))
        return self._decision(result, answer)

    async def decide_async(self, request: Request) -> Decision:
        """As `decide`, for a coroutine function."""
        answer = self._answer(request)
        if self._pattern is not None and answer is None:
            return self._no_answer()
        return self._decision(await self._call(request), answer)

    def _call(self, request: Request) -> Any:
        try:
            # By keyword and with reward_kwargs last, as verl's reward managers call it.
            return self.function(**request, **self.reward_kwargs)
        except NotImplementedError as error:
            if self.path is None:
                raise ValueError(unknown_source(request["data_source"])) from error
            raise

    def _answer(self, request: Request) -> str | None:
        return None if self._pattern is None else self._pattern(request["solution_str"])

    def _no_answer(self) -> Decision:
        return {"outcome": Outcome.NO_ANSWER.value, "answer": None, "feedback": self._no_answer_feedback}

    def _decision(self, result: Any, answer: str | None) -> Decision:
        score = read_score(result)
        values = result if isinstance(result, Mapping) else {}
        outcome = Outcome.CORRECT if score >= self.threshold else Outcome.INCORRECT
        if self.answer_key is not None:
            given = values.get(self.answer_key)
            answer = None if given is None else str(given).strip() or None
            if answer is None and outcome is Outcome.INCORRECT:
                outcome = Outcome.NO_ANSWER
        feedback = values.get(self.feedback_key)
        return {
            "outcome": outcome.value,
            "answer": None if answer is None else answer[:MAX_ANSWER_CHARS],
            "feedback": None if feedback is None else shorten(str(feedback), MAX_FEEDBACK_CHARS),
        }


async def _wait_for(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _compile(pattern: object) -> Callable[[str], str | None] | None:
    """What finds the answer in a text."""
    if pattern is None:
        return None
    if pattern == BOXED:
        return extract_answer
    must, example = "be null, boxed or a regular expression", "such as '#### (-?[0-9.,]+)'."
    _require(isinstance(pattern, str) and bool(pattern), "answer_pattern", must, pattern, f"Give one, {example}")
    try:
        compiled = re.compile(str(pattern))
    except re.error as error:
        raise ValueError(
            f"{_KEY}answer_pattern must {must}; got {pattern!r}. Mend it ({error}) or give another, {example}"
        ) from error
    group = min(1, compiled.groups)

    def last_match(text: str) -> str | None:
        answer = None
        for match in compiled.finditer(text):
            answer = (match.group(group) or "").strip() or answer
        return answer

    return last_match


def read_score(result: Any) -> float:
    """The score in what a reward function returned.

    Args:
        result: a number (numpy's and torch's too), a dict with one under ``score``, or a tuple that begins with one.

    Raises:
        ResultError: there is no finite number.
    """
    score = result.get("score") if isinstance(result, Mapping) else result
    if isinstance(result, tuple | list) and result:
        score = result[0]
    item = getattr(score, "item", None)
    if callable(item):
        try:
            score = item()
        except (TypeError, ValueError, RuntimeError):  # an array or tensor of several numbers
            score = None
    if not isinstance(score, numbers.Real) or not math.isfinite(score):
        raise ResultError(
            "a reward function must return a finite number, a tuple that begins with one, or a dict with one under "
            f"score; got {reprlib.repr(result)}. Mend the function."
        )
    return float(score)


def make_handler(**kwargs: Any) -> Callable[[Request], Decision]:
    """What the processes of the pool serve requests with: `RewardFunction.decide`, the function loaded."""
    function = RewardFunction(**kwargs)
    function.function  # noqa: B018 - load it now, outside the time limit of the first request
    return function.decide
