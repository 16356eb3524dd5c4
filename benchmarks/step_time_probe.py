"""Stopwatches inside the pipeline, for ``benchmarks/step_time.py``: the time that runs in this package's code.

What is awaited (the engine, a verifier process, verl's load balancer) does not count; what runs on the event loop
between two awaits does. Of the episode log's thread it is the time on the processor. Each process appends to
``$MULTIATTEMPT_BENCH_DIR/<part>.jsonl``.
"""

import json
import os
import time
import types
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any

from verl import DataProto
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

from verl_multiattempt.adapters import agent_loop, reward_manager, sampler
from verl_multiattempt.adapters.agent_loop import MultiAttemptAgentLoop
from verl_multiattempt.adapters.episode_log import log_directory
from verl_multiattempt.record_writer import EpisodeWriter, Render


class Stopwatch:
    """Seconds of event-loop time of coroutines."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @types.coroutine
    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Drive ``coroutine``, counting the time from each resumption to the next await."""
        iterator = coroutine.__await__()
        send: Any = lambda: iterator.send(None)  # noqa: E731
        while True:
            started = time.perf_counter()
            try:
                awaited = send()
            except StopIteration as stop:
                return stop.value
            finally:
                self.seconds += time.perf_counter() - started
            try:
                value = yield awaited
                send = lambda value=value: iterator.send(value)  # noqa: E731
            except BaseException as error:
                send = lambda error=error: iterator.throw(error)  # noqa: E731


def write(part: str, **values: Any) -> None:
    with (Path(os.environ["MULTIATTEMPT_BENCH_DIR"]) / f"{part}.jsonl").open("a") as file:
        file.write(json.dumps(values) + "\n")


class _TimedClient:
    """verl's client; its own event-loop time is verl's, so it is taken off."""

    def __init__(self, client: Any):
        self.client, self.watch = client, Stopwatch()

    async def generate(self, **kwargs: Any) -> Any:
        return await self.watch.run(self.client.generate(**kwargs))


_log_seconds: list[float] = []
"""Time on the event loop of each part of the episode log's work, to be written down outside of the stopwatches."""


def _on_event_loop(function: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        result = function(*args, **kwargs)
        _log_seconds.append(time.perf_counter() - started)
        return result

    return timed


class _TimedWriter(EpisodeWriter):
    """The episode log's writer, its thread under a stopwatch."""

    submit = _on_event_loop(EpisodeWriter.submit)

    def _write(self, render: Render) -> None:
        started = time.thread_time()
        super()._write(render)
        write("episode_log_thread", seconds=time.thread_time() - started)


def _make_writer(config: Any, settings: Any) -> EpisodeWriter | None:
    return _TimedWriter(log_directory(config, settings)) if settings.record.enabled else None


agent_loop.make_writer = _make_writer
agent_loop.render_episode = _on_event_loop(agent_loop.render_episode)


class TimedAgentLoop(MultiAttemptAgentLoop):
    """The agent loop under a stopwatch."""

    server_manager: Any

    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> AgentLoopOutput:
        watch, client = Stopwatch(), _TimedClient(self.server_manager)
        self.server_manager = client
        output = await watch.run(super().run(sampling_params, priority, **kwargs))
        attempts = len(output.extra_fields["multiattempt"]["attempts"])
        write("agent_loop", step=int(kwargs["global_steps"]), seconds=watch.seconds - client.watch.seconds,
              attempts=attempts)  # fmt: skip
        while _log_seconds:
            write("episode_log", seconds=_log_seconds.pop())
        return output


class MultiAttemptRewardManager(reward_manager.MultiAttemptRewardManager):
    """The reward manager under a stopwatch, by the name that the recipe asks for."""

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        watch = Stopwatch()
        result = await watch.run(super().run_single(data))
        write("reward_manager", seconds=watch.seconds)
        return result


class _TimedEpisodes(sampler._Collected):
    """A step's episodes; reading them and computing their figures is under a stopwatch."""

    def add(self, *args: Any) -> None:
        started = time.perf_counter()
        super().add(*args)
        write("episode_metrics", step=self.step, seconds=time.perf_counter() - started)

    def figures(self, *args: Any) -> dict[str, float]:
        started = time.perf_counter()
        figures = super().figures(*args)
        write("episode_metrics", step=self.step, seconds=time.perf_counter() - started)
        return figures


def make_replay_buffer(**kwargs: Any) -> Any:
    """The package's replay buffer, with a stopwatch at the metrics."""
    sampler._Collected = _TimedEpisodes  # type: ignore[misc]
    return sampler.make_replay_buffer(**kwargs)
