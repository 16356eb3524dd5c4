"""Stopwatches inside the pipeline, for ``benchmarks/step_time.py``: the time that runs in this package's code.

What is awaited (the engine, a verifier process, verl's load balancer) does not count; what runs on the event loop
between two awaits does: its wall time, and its time on the processor (of the episode log's thread the latter alone).
Each process appends to ``$MULTIATTEMPT_BENCH_DIR/<part>.jsonl``.
"""

import json
import os
import time
import types
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl import DataProto
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

from verl_multiattempt.adapters import agent_loop, reward_manager, sampler
from verl_multiattempt.adapters.agent_loop import MultiAttemptAgentLoop
from verl_multiattempt.adapters.episode_log import log_directory
from verl_multiattempt.record_writer import EpisodeWriter, Render


@dataclass(slots=True)
class Stopwatch:
    """Time of what runs between `start` and `stop`, added up: on the wall, and of this thread on the processor."""

    seconds: float = 0.0
    cpu_s: float = 0.0
    _wall: float = 0.0
    _cpu: float = 0.0

    def start(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.thread_time()

    def stop(self) -> None:
        self.cpu_s += time.thread_time() - self._cpu
        self.seconds += time.perf_counter() - self._wall

    @types.coroutine
    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        """Drive ``coroutine``, counting the time from each resumption to the next await."""
        iterator = coroutine.__await__()
        send: Any = lambda: iterator.send(None)  # noqa: E731
        while True:
            self.start()
            try:
                awaited = send()
            except StopIteration as stop:
                return stop.value
            finally:
                self.stop()
            try:
                value = yield awaited
                send = lambda value=value: iterator.send(value)  # noqa: E731
            except BaseException as error:
                send = lambda error=error: iterator.throw(error)  # noqa: E731


def write(part: str, watch: Stopwatch, **values: Any) -> None:
    with (Path(os.environ["MULTIATTEMPT_BENCH_DIR"]) / f"{part}.jsonl").open("a") as file:
        file.write(json.dumps({"seconds": watch.seconds, "cpu_s": watch.cpu_s, **values}) + "\n")


class _TimedClient:
    """verl's client; its own event-loop time is verl's, so it is taken off."""

    def __init__(self, client: Any):
        self.client, self.watch = client, Stopwatch()

    async def generate(self, **kwargs: Any) -> Any:
        return await self.watch.run(self.client.generate(**kwargs))


_log_watches: list[Stopwatch] = []
"""Of each part of the episode log's work on the event loop, to be written down outside of the stopwatches."""


def _on_event_loop(function: Callable[..., Any]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        watch = Stopwatch()
        watch.start()
        result = function(*args, **kwargs)
        watch.stop()
        _log_watches.append(watch)
        return result

    return timed


class _TimedWriter(EpisodeWriter):
    """The episode log's writer, its thread under a stopwatch."""

    submit = _on_event_loop(EpisodeWriter.submit)

    def _write(self, render: Render) -> None:
        watch = Stopwatch()
        watch.start()
        super()._write(render)
        watch.stop()
        # The wall has no meaning beside an event loop.
        watch.seconds = watch.cpu_s
        write("episode_log_thread", watch)


def _make_writer(config: Any, settings: Any) -> EpisodeWriter | None:
    return _TimedWriter(log_directory(config, settings)) if settings.record.enabled else None


agent_loop.make_writer = _make_writer
agent_loop.render_episode = _on_event_loop(agent_loop.render_episode)


class TimedAgentLoop(MultiAttemptAgentLoop):
    """The agent loop under a stopwatch, what it adds to the making of verl's loop included."""

    server_manager: Any

    def _get_shared(self) -> Any:
        self.made = Stopwatch()
        self.made.start()
        shared = super()._get_shared()
        self.made.stop()
        return shared

    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> AgentLoopOutput:
        watch, client = Stopwatch(), _TimedClient(self.server_manager)
        self.server_manager = client
        output = await watch.run(super().run(sampling_params, priority, **kwargs))
        watch.seconds += self.made.seconds - client.watch.seconds
        watch.cpu_s += self.made.cpu_s - client.watch.cpu_s
        attempts = output.extra_fields["multiattempt"]["attempts"]
        write("agent_loop", watch, step=int(kwargs["global_steps"]), attempts=len(attempts),
              tokens=sum(attempt["num_tokens"] for attempt in attempts))  # fmt: skip
        while _log_watches:
            write("episode_log", _log_watches.pop())
        return output


class MultiAttemptRewardManager(reward_manager.MultiAttemptRewardManager):
    """The reward manager under a stopwatch, by the name that the recipe asks for."""

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        watch = Stopwatch()
        result = await watch.run(super().run_single(data))
        write("reward_manager", watch)
        return result


class _TimedEpisodes(sampler._Collected):
    """A step's episodes; reading them and computing their figures is under a stopwatch."""

    def add(self, *args: Any) -> None:
        watch = Stopwatch()
        watch.start()
        super().add(*args)
        watch.stop()
        write("episode_metrics", watch, step=self.step)

    def figures(self, *args: Any) -> dict[str, float]:
        watch = Stopwatch()
        watch.start()
        figures = super().figures(*args)
        watch.stop()
        write("episode_metrics", watch, step=self.step)
        return figures


def make_replay_buffer(**kwargs: Any) -> Any:
    """The package's replay buffer, with a stopwatch at the metrics."""
    sampler._Collected = _TimedEpisodes  # type: ignore[misc]
    return sampler.make_replay_buffer(**kwargs)
