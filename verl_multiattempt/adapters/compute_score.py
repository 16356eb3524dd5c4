"""``compute_score``: any of verl's reward functions as a verifier, by a threshold.

    python -m verl.trainer.main_ppo +recipe=multiattempt multiattempt.verifier.name=compute_score \
      reward.custom_reward_function.path=my_task.py reward.custom_reward_function.name=compute_score ...

Without ``reward.custom_reward_function.path`` it is verl's own function, which chooses by the row's ``data_source``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_multiattempt.adapters.reward_function import Decision, Request, RewardFunction
from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Outcome, Question, Verdict
from verl_multiattempt.verifier_worker import describe

logger = logging.getLogger(__name__)

NAMES = ("compute_score", "verl_multiattempt.adapters.compute_score.ComputeScoreVerifier")
RUN_IN = ("thread", "pool")
MAX_ABANDONED = 16
"""Calls that may run on past their time limit in threads, which nothing can end; then every verdict is ERROR."""
_HANDLER = "verl_multiattempt.adapters.reward_function:make_handler"


class AbandonedError(RuntimeError):
    """Too many threads run on past their time limit."""


class ComputeScoreVerifier:
    """Decides attempts by one of verl's reward functions.

    A synchronous function runs in a thread, at most ``settings.num_workers`` at once, and a coroutine function on the
    event loop, as many at once as there are attempts. Neither can be ended when it hangs: past the time limit the
    verdict is TIMEOUT and the thread is left behind; a coroutine function that blocks instead of awaiting stops the
    event loop, and with it the time limit, for as long as it blocks. ``run_in="pool"`` runs the function in processes
    of `verl_multiattempt.verifier_pool.WorkerPool`, in their main thread, with the time limit and the memory cap
    enforced from outside: for functions that are slow, hold the interpreter's lock, use signals, or run what a model
    wrote.

    Args:
        settings: ``multiattempt.verifier``.
        run_in: ``thread`` or ``pool``.
        **kwargs: of `verl_multiattempt.adapters.reward_function.RewardFunction`.

    Raises:
        ValueError: an argument cannot work, or the function cannot be loaded.
    """

    def __init__(
        self,
        settings: VerifierSettings,
        *,
        run_in: str = "thread",
        path: str | None = None,
        name: str = "compute_score",
        reward_kwargs: Mapping[str, Any] | None = None,
        threshold: float = 1.0,
        answer_pattern: str | None = None,
        answer_key: str | None = None,
        feedback_key: str = "feedback",
        no_answer_feedback: str | None = None,
    ):
        if run_in not in RUN_IN:
            raise ValueError(
                f"multiattempt.verifier.kwargs.run_in must be one of {', '.join(RUN_IN)}; got {run_in!r}. "
                "Take pool where the function may hang or runs what a model wrote."
            )
        kwargs: dict[str, Any] = {
            "path": path, "name": name, "reward_kwargs": reward_kwargs, "threshold": threshold,
            "answer_pattern": answer_pattern, "answer_key": answer_key, "feedback_key": feedback_key,
            "no_answer_feedback": no_answer_feedback,
        }  # fmt: skip
        self.settings = settings
        self.reward_function = RewardFunction(**kwargs)
        self._threads: _Threads | None = None
        self._pool: Any = None
        if run_in == "pool":
            from verl_multiattempt.verifier_pool import WorkerPool

            self._pool = WorkerPool(
                _HANDLER, kwargs, num_workers=settings.num_workers, timeout_s=settings.timeout_s,
                memory_limit_mb=settings.memory_limit_mb, recycle_after=settings.recycle_after,
                queue_size=settings.queue_size,
            )  # fmt: skip
        else:
            self._threads = _Threads(settings.num_workers)
            self._is_async = self.reward_function.is_async  # loads the function

    async def verify(self, text: str, question: Question) -> Verdict:
        """Decide one attempt; see `verl_multiattempt.verifier.Verifier.verify`."""
        started = time.monotonic()
        request: Request = {
            "data_source": question.data_source,
            "solution_str": text,
            "ground_truth": question.ground_truth,
            # A copy, as functions write into it; the row is the same in every attempt. A row may hold null there.
            "extra_info": dict(question.extra_info or {}),
        }
        decide = self._in_pool if self._pool is not None else self._here
        outcome, decision, detail = await decide(request)
        fault = {Outcome.TIMEOUT: "timeout", Outcome.ERROR: "error"}.get(outcome)
        return Verdict(
            outcome=outcome,
            answer=decision.get("answer"),
            feedback=decision.get("feedback"),
            detail=detail,
            fault=decision.get("fault", fault),
            seconds=time.monotonic() - started,
        )

    async def _in_pool(self, request: Request) -> tuple[Outcome, Decision, str | None]:
        reply = await self._pool.call(plain(request))
        if reply.fault is not None:
            outcome = Outcome.TIMEOUT if reply.fault == "timeout" else Outcome.ERROR
            return outcome, {"fault": reply.fault}, reply.detail
        return Outcome(reply.value["outcome"]), reply.value, None

    async def _here(self, request: Request) -> tuple[Outcome, Decision, str | None]:
        assert self._threads is not None
        timeout_s = self.settings.timeout_s
        try:
            if self._is_async:
                decision, error = await self._awaited(request, timeout_s)
            else:
                decision, error = await self._threads.call(self.reward_function.decide, request, timeout_s)
        except asyncio.TimeoutError:
            limit = f"multiattempt.verifier.timeout_s ({timeout_s:g} s)"
            return Outcome.TIMEOUT, {}, f"the reward function took longer than {limit}"
        except AbandonedError as refused:
            return Outcome.ERROR, {}, str(refused)
        if error is not None:
            return Outcome.ERROR, {}, describe(error)
        return Outcome(decision["outcome"]), decision, None

    async def _awaited(self, request: Request, timeout_s: float) -> _Result:
        async def decide() -> _Result:
            try:
                return await self.reward_function.decide_async(request), None
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # SystemExit would end the event loop, CancelledError this verification
                return {}, error

        task = asyncio.ensure_future(decide())
        try:
            # Not wait_for, which waits for ever for a coroutine that does not let itself be cancelled.
            done, _ = await asyncio.wait({task}, timeout=timeout_s)
        finally:
            task.cancel()
        if not done:
            raise asyncio.TimeoutError
        return task.result()

    async def close(self) -> None:
        """End the pool's processes. A thread that is still running ends with the process."""
        if self._pool is not None:
            await self._pool.close()


_Result = tuple[Decision, BaseException | None]


class _Threads:
    """Blocking calls in daemon threads, at most ``size`` within their time limit at once.

    Not an executor of `concurrent.futures`: the interpreter waits for the threads of those when it ends, for ever
    where one hangs.
    """

    def __init__(self, size: int):
        self._slots = asyncio.Semaphore(size)
        self._abandoned = 0

    async def call(self, function: Callable[[Request], Decision], request: Request, timeout_s: float) -> _Result:
        """What ``function`` returned or raised.

        Raises:
            asyncio.TimeoutError: it runs on past the limit, which begins when it is started.
            AbandonedError: `MAX_ABANDONED` earlier calls still do so.
        """
        async with self._slots:
            if self._abandoned >= MAX_ABANDONED:
                raise AbandonedError(
                    f"the reward function must keep multiattempt.verifier.timeout_s ({timeout_s:g} s); got "
                    f"{self._abandoned} calls that run on in threads, which cannot be ended. "
                    "Set +multiattempt.verifier.kwargs.run_in=pool."
                )
            loop = asyncio.get_running_loop()
            future: asyncio.Future[_Result] = loop.create_future()

            def finish(result: _Result) -> None:
                if future.cancelled():
                    self._abandoned -= 1
                else:
                    future.set_result(result)

            def run() -> None:
                result: _Result
                try:
                    result = function(request), None
                except BaseException as error:  # SystemExit too: it is the function's, not the process's
                    result = {}, error
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    loop.call_soon_threadsafe(finish, result)

            try:
                threading.Thread(target=run, name="multiattempt-reward-function", daemon=True).start()
            except RuntimeError as error:  # the limit on threads is reached
                return {}, error
            try:
                return await asyncio.wait_for(future, timeout_s)
            finally:
                if future.cancelled():
                    self._abandoned += 1


def plain(value: Any) -> Any:
    """``value`` with numpy's arrays and scalars, which verl's dataset puts into rows, as lists and numbers."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return plain(value.tolist())
    return value


def with_reward_function(mapping: Any, config: DictConfig) -> Any:
    """The values of ``config.multiattempt`` with the reward function that verl's own keys name.

    Args:
        mapping: the values of ``config.multiattempt``.
        config: the whole config. Where the verifier is ``compute_score`` and its ``kwargs`` have no ``path``,
            ``reward.custom_reward_function`` gives path, name and reward_kwargs; where that has no path either,
            ``reward.sandbox_fusion`` is handed to verl's own function, as verl does.
    """
    verifier = mapping.get("verifier") if isinstance(mapping, Mapping) else None
    if not isinstance(verifier, Mapping) or verifier.get("name") not in NAMES:
        return mapping
    kwargs = verifier.get("kwargs") or {}
    if not isinstance(kwargs, Mapping) or "path" in kwargs:
        return mapping
    given = {**_from_config(config), **kwargs}
    return {**mapping, "verifier": {**verifier, "kwargs": given}}


def _from_config(config: DictConfig) -> dict[str, Any]:
    function = _container(OmegaConf.select(config, "reward.custom_reward_function"))
    if function.get("path"):
        return {key: function[key] for key in ("path", "name", "reward_kwargs") if function.get(key) is not None}
    sandbox = _container(OmegaConf.select(config, "reward.sandbox_fusion"))
    if not sandbox.get("url"):
        return {}
    limit = sandbox.get("memory_limit_mb", 1024)
    return {"reward_kwargs": {"sandbox_fusion_url": sandbox["url"], "memory_limit_mb": limit}}


def _container(node: Any) -> dict[str, Any]:
    return dict(OmegaConf.to_container(node, resolve=True)) if isinstance(node, DictConfig) else {}
