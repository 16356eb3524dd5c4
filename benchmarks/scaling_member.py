"""What an agent-loop worker of scaling.py is told to do."""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

import ray
import transfer_queue as tq
from overhead import Bench
from scaling_processes import cpu_seconds, descendants
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopWorkerTQ
from verl.workers.rollout.llm_server import LLMServerClient

from verl_multiattempt.adapters.agent_loop import MultiAttemptAgentLoop
from verl_multiattempt.math_verifier import MathVerifier
from verl_multiattempt.record_writer import EpisodeWriter
from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Question

NAMESPACE = "scaling"
WORKER_CLASS = AgentLoopWorkerTQ.__ray_metadata__.modified_class


class Member:
    """What runs in one of the forked processes. Every method is a command, and returns what pickles."""

    def __init__(self, number: int):
        self.number = number
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)

    def loop_us(self, tokens: int, episodes: int, rounds: int) -> float:
        """CPU time of an attempt in this package's loop: answers at once, no Ray."""
        bench = Bench()
        self.loop.run_until_complete(bench.cpu_us("multiattempt", tokens, 1, 8))
        values = [
            self.loop.run_until_complete(bench.cpu_us("multiattempt", tokens, 64, episodes)) for _ in range(rounds)
        ]
        MultiAttemptAgentLoop._shared = None
        return min(values)

    def verifier_us(self, answers: Sequence[str], gold: str) -> tuple[float, float, int]:
        """CPU time of this process and of its verifier processes for each answer, and how many a process decided."""

        async def run() -> tuple[float, float, int]:
            verifier = MathVerifier(VerifierSettings(num_workers=1))
            await verifier.verify("\\boxed{x^2}", Question(ground_truth="2x"))  # starts the processes
            children, own = cpu_seconds(descendants(os.getpid())), time.process_time()
            for answer in answers:
                await verifier.verify(answer, Question(ground_truth=gold))
            own = time.process_time() - own
            children = cpu_seconds(descendants(os.getpid())) - children
            calls = verifier.pool.stats.calls - 1
            await verifier.close()
            return own / len(answers) * 1e6, children / len(answers) * 1e6, calls

        return self.loop.run_until_complete(run())

    def join(self, address: str) -> None:
        """Join the cluster; one member after the other, since Ray draws the same random ids in all of them."""
        ray.init(address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
        random.seed(self.number)

    def connect(self, config: Any, num_rewards: int) -> None:
        """Make verl's worker."""
        rewards = [ray.get_actor(f"reward_loop_worker_{i}") for i in range(num_rewards)]
        self.client = LLMServerClient(config, ray.get_actor("load_balancer"))
        self.worker = WORKER_CLASS(config, self.client, None, rewards)

    def balance(self, seconds: float, at_once: int) -> tuple[int, float]:
        """Acquire and release servers as fast as it goes: how often, and the CPU time of this process."""
        deadline = time.perf_counter() + seconds

        async def lane(name: str) -> int:
            count = 0
            while time.perf_counter() < deadline:
                server_id, _ = await self.client._acquire_server(name)
                self.client._release_server(server_id, request_id=name)
                count += 1
            return count

        async def run() -> int:
            return sum(await asyncio.gather(*(lane(f"{self.number}-{i}") for i in range(at_once))))

        started = time.process_time()
        return self.loop.run_until_complete(run()), time.process_time() - started

    def request(self, count: int, at_once: int, prompt_tokens: int) -> float:
        """CPU time of this process for requests to the engine, through the load balancer."""
        numbers = iter(range(count))
        prompt = list(range(100, 300)) * (prompt_tokens // 200 + 1)

        async def lane() -> None:
            name = uuid4().hex
            for _ in numbers:
                await self.client.generate(
                    name, prompt_ids=prompt[:prompt_tokens], sampling_params={"max_tokens": 10**6}
                )

        return self._cpu(lambda: asyncio.gather(*(lane() for _ in range(at_once))))

    def status(self, count: int, seconds: float) -> float:
        """CPU time of this process for the two changes of a prompt's status, spread over so many seconds."""

        async def prompt(number: int) -> None:
            await asyncio.sleep(random.uniform(0, seconds))
            for status in ("running", "finished"):
                tag = {"is_prompt": True, "status": status, "global_steps": 1}
                await tq.async_kv_put(key=f"status{number}", partition_id="train", tag=tag)

        return self._cpu(lambda: asyncio.gather(*map(prompt, range(count))))

    def finish(self, count: int, over_s: float, row: dict[str, Any], tokens: tuple[int, int]) -> dict[str, float]:
        """CPU time of this process for what verl's worker does with ended episodes: the reward's call, and the put.

        They end at times spread over ``over_s`` seconds. The episode is a real one, its tokens repeated to the number
        asked for.
        """
        output, render = self._episode(row)
        prompt, response = tokens
        for name in ("response_ids", "response_mask", "response_logprobs"):
            setattr(output, name, (getattr(output, name) * response)[:response])
        output.prompt_ids = (output.prompt_ids * prompt)[:prompt]
        sizes = []
        put = tq.async_kv_batch_put

        async def measured(*args: Any, **kwargs: Any) -> Any:
            sizes.append(sum(field_bytes(value) for value in kwargs["fields"].values()))
            return await put(*args, **kwargs)

        async def end(number: int) -> None:
            await asyncio.sleep(random.uniform(0, over_s))
            fields = {**row, "uid": f"finish{self.number}x{number}"}
            await self.worker._agent_loop_postprocess(fresh(output), False, **fields)

        tq.async_kv_batch_put = measured
        self.loop.run_until_complete(
            self.worker._agent_loop_postprocess(fresh(output), False, **{**row, "uid": "first"})
        )
        tq.async_kv_batch_put = put
        return {
            "seconds": self._cpu(lambda: asyncio.gather(*map(end, range(count)))),
            "bytes": float(sizes[0]),
            **self._log_cost(render, count),
        }

    def _episode(self, row: dict[str, Any]) -> tuple[AgentLoopOutput, Any]:
        """One real episode: its output, and what the log's writer got."""
        got: list[Any] = []

        class Catcher:
            def submit(self, render: Any) -> None:
                got.append(render)

        async def run() -> AgentLoopOutput:
            outputs: list[AgentLoopOutput] = []

            async def keep(output: AgentLoopOutput, validate: bool, **_: Any) -> None:
                outputs.append(output)

            method, self.worker._agent_loop_postprocess = self.worker._agent_loop_postprocess, keep
            trajectory = {"step": 1, "sample_index": 0, "rollout_n": 0, "validate": False}
            params = {"temperature": 1.0, "logprobs": True}
            arguments = {**row, "agent_name": "multiattempt"}
            await self.worker._run_agent_loop(params, trajectory, trace=False, **arguments)  # makes what all share
            shared = shared_here()
            writer, shared.writer = shared.writer, Catcher()
            await self.worker._run_agent_loop(params, trajectory, trace=False, **arguments)
            shared.writer, self.worker._agent_loop_postprocess = writer, method
            return outputs[-1]

        return self.loop.run_until_complete(run()), got[0]

    def _log_cost(self, render: Any, count: int) -> dict[str, float]:
        running = shared_here().writer
        assert running is not None  # the log is on
        directory = running.directory / "cost"
        writer = EpisodeWriter(directory)
        started = time.process_time()
        for _ in range(count):
            writer.submit(render)
        writer.close()
        seconds = time.process_time() - started
        size = sum(path.stat().st_size for path in directory.iterdir())
        return {"log_us": seconds / count * 1e6, "log_bytes": size / count}

    def _cpu(self, work: Callable[[], Any]) -> float:
        async def run() -> None:
            await work()

        started = time.process_time()
        self.loop.run_until_complete(run())
        return time.process_time() - started

    def episodes(self, batch: Any) -> float:
        """Run a batch as verl's worker does, until the last of its background tasks is done."""

        async def run() -> None:
            await self.worker.generate_sequences(batch)
            while self.worker.background_tasks:
                await asyncio.wait(set(self.worker.background_tasks))
            writer = shared_here().writer
            while writer is not None and writer._queue.qsize():
                await asyncio.sleep(0.05)

        return self._cpu(run)


def shared_here() -> Any:
    """What the episodes of this process share."""
    assert MultiAttemptAgentLoop._shared is not None  # an episode has run
    return MultiAttemptAgentLoop._shared[1]


def fresh(output: AgentLoopOutput) -> AgentLoopOutput:
    """A copy without what verl's worker adds to an ended episode."""
    return output.model_copy(update={"metrics": AgentLoopMetrics(), "extra_fields": dict(output.extra_fields)})


def field_bytes(value: Any) -> int:
    """Bytes of a field of a TensorDict as TransferQueue sends it: a tensor's own, anything else pickled."""
    if hasattr(value, "element_size"):
        values = value.values() if value.is_nested else value
        return int(values.numel() * values.element_size())
    return len(pickle.dumps(value.tolist() if hasattr(value, "tolist") else value))
