"""The Ray cluster of scaling.py: verl's load balancer, reward workers and TransferQueue, and servers that pretend."""

from __future__ import annotations

import os
import re
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
import transfer_queue as tq
from omegaconf import OmegaConf, open_dict
from overhead import PretendedServer
from scaling_crew import Crew
from scaling_member import NAMESPACE
from scaling_processes import cpu_seconds, descendants
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.utils import tensordict_utils as tu
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.router import DEFAULT_ROUTING_CACHE_SIZE, GlobalRequestLoadBalancer

from verl_multiattempt.adapters.compose import compose_training_config
from verl_multiattempt.adapters.manager import MultiAttemptAgentLoopManager
from verl_multiattempt.adapters.sampler import make_replay_buffer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "tiny_math"))
from make import make_model, make_tokenizer

INLINE, POOL, GOLD = "so the answer is \\boxed{7}", "so the answer is \\boxed{x^2}", "3"
"""An answer that the agent loop's process decides, and one for a verifier process; both are wrong."""
KINDS = {
    "load balancer": "ray::CountingBalancer", "engines' stand-ins": "ray::StubServer",
    "reward workers": "ray::RewardLoopWorker", "TransferQueue controller": "ray::TransferQueueController",
    "storage units": "ray::SimpleStorageUnit",
}  # fmt: skip


class CountingBalancer(GlobalRequestLoadBalancer):
    """verl's load balancer, which counts."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.counts = {"acquired": 0, "sticky": 0, "released": 0}

    def acquire_server(self, request_id: str) -> tuple[str, Any]:
        """See verl."""
        self.counts["acquired"] += 1
        self.counts["sticky"] += request_id in self._request_id_to_server
        return super().acquire_server(request_id)

    def release_server(self, server_id: str, request_id: str | None = None) -> None:
        """See verl."""
        self.counts["released"] += 1
        super().release_server(server_id, request_id)

    def get_counts(self) -> dict[str, int]:
        """Calls so far, and the requests still open."""
        return {**self.counts, "open": self.get_total_inflight()}


class StubServer:
    """A rollout server of verl without an engine. Every ``pool_every``-th answer is for a verifier process."""

    def __init__(self, answers: dict[str, list[int]], start_id: int, header: int, pool_every: int, seed: int):
        self.servers = {name: PretendedServer(ids, seed=seed) for name, ids in answers.items()}
        self.start_id, self.header, self.pool_every = start_id, header, pool_every
        self.counts = {"requests": 0, "pool": 0}

    def set_latency(self, latency_s: tuple[float, float] | None) -> None:
        """From now on, answer after a time drawn from this range; None: at once."""
        for server in self.servers.values():
            server.latency_s = latency_s

    def set_pool_every(self, count: int) -> None:
        """From now on, every so many answers are for a verifier process; 0: none."""
        self.pool_every = count

    def get_counts(self) -> dict[str, int]:
        """Requests so far."""
        return dict(self.counts)

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> TokenOutput:
        """See verl. A request that ends in the middle of an attempt gets the tokens that follow there."""
        self.counts["requests"] += 1
        is_pool = bool(self.pool_every) and self.counts["requests"] % self.pool_every == 0
        output = await self.servers["pool" if is_pool else "inline"].generate(request_id, prompt_ids=prompt_ids)
        done = prompt_ids[::-1].index(self.start_id) - self.header if self.start_id in prompt_ids else 0
        end = done + sampling_params["max_tokens"]
        self.counts["pool"] += is_pool and end >= len(output.token_ids)  # verified once the attempt has ended
        output.token_ids, output.log_probs = output.token_ids[done:end], output.log_probs[done:end]
        output.extra_fields["global_steps"] = 1
        return output


def make_config(folder: Path, attempts: int, rollouts: int, tokens: int, units: int, slice_tokens: int) -> Any:
    """Verl's config with the recipe, for a tiny model that is made in ``folder``."""
    tokenizer = make_tokenizer()
    make_model(tokenizer, seed=0).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    length = attempts * (tokens + 64)
    config = compose_training_config([
        "+recipe=multiattempt", "+platform=cpu", "data.train_files=none", "data.val_files=none",
        f"actor_rollout_ref.model.path={folder / 'model'}", f"data.max_response_length={length}",
        "data.max_prompt_length=512", f"actor_rollout_ref.rollout.n={rollouts}",
        "multiattempt.distribution=fixed", f"multiattempt.max_attempts={attempts}",
        f"multiattempt.stop_at_answer={bool(slice_tokens)}", f"multiattempt.stop_at_answer_every={slice_tokens or 64}",
        "multiattempt.verifier.num_workers=1", "multiattempt.record.enabled=true",
        "multiattempt.record.max_episodes_per_step=null", f"multiattempt.record.dir={folder / 'episodes'}",
        f"transfer_queue.backend.SimpleStorage.num_data_storage_units={units}", "transfer_queue.metrics.enabled=true",
    ])  # fmt: skip
    with open_dict(config):
        config.transfer_queue.enable = True
    OmegaConf.resolve(config)
    return config


def make_batch(prompts: int, start: int = 0) -> Any:
    """A batch of rows as verl's dataset and trainer make it (trainer_base.py, _fetch_one_gen_batch)."""
    numbers = range(start, start + prompts)

    def column(values: Sequence[Any]) -> Any:
        array = np.empty(len(values), dtype=object)
        array[:] = values
        return array

    question = "Compute the root of nine, in problem number {}."
    batch = tu.get_tensordict({
        "dummy_tensor": torch.zeros(prompts, 1, dtype=torch.uint8),
        "raw_prompt": column([[{"role": "user", "content": question.format(i)}] for i in numbers]),
        "data_source": column(["scaling"] * prompts),
        "reward_model": column([{"style": "rule", "ground_truth": GOLD}] * prompts),
        "extra_info": column([{"index": i} for i in numbers]),
        "index": column(list(numbers)),
        "uid": column([f"prompt{i}" for i in numbers]),
    })  # fmt: skip
    tu.assign_non_tensor_data(batch, "global_steps", 1)
    return batch


class Cluster:
    """Everything around the agent-loop workers."""

    def __init__(self, config: Any, answers: dict[str, list[int]], *, servers: int, rewards: int, pool_every: int,
                 start_id: int, header: int):  # fmt: skip
        self.config = config
        info = ray.init(
            num_cpus=64, include_dashboard=False, namespace=NAMESPACE, object_store_memory=2**28, log_to_driver=False
        )
        self.address = info.address_info["gcs_address"]
        tq.init(config.transfer_queue)
        options = {"max_concurrency": 100_000, "num_cpus": 0}
        stub = ray.remote(StubServer)
        self.servers = [
            stub.options(**options).remote(answers, start_id, header, pool_every, seed) for seed in range(servers)
        ]
        self.rewards = [
            ray.remote(RewardLoopWorker).options(name=f"reward_loop_worker_{i}").remote(config, None)
            for i in range(rewards)
        ]
        ray.get([server.get_counts.remote() for server in self.servers])
        self.balancer = self._start_balancer()
        self.addresses = list(ray.get(self.balancer.get_all_servers.remote()))

    def _start_balancer(self) -> Any:
        # As verl makes it (router.py, _create_global_sticky_inflight), and under a name, so that other drivers find it.
        named = {f"server-{i}": server for i, server in enumerate(self.servers)}
        actor = ray.remote(CountingBalancer).options(name="load_balancer")
        return actor.remote(servers=named, max_cache_size=DEFAULT_ROUTING_CACHE_SIZE, full_determinism=False)

    def set_latency(self, latency_s: tuple[float, float] | None) -> None:
        """Of all servers."""
        ray.get([server.set_latency.remote(latency_s) for server in self.servers])

    def set_pool_every(self, count: int) -> None:
        """Every so many answers of a server are for a verifier process from now on; 0: none."""
        ray.get([server.set_pool_every.remote(count) for server in self.servers])

    def num_logged(self) -> int:
        """Lines in the episode log."""
        folder = Path(self.config.multiattempt.record.dir)
        return sum(path.read_bytes().count(b"\n") for path in folder.glob("*.jsonl"))

    def set_servers(self, count: int) -> None:
        """Let the load balancer choose among so many; several names may stand for one server."""
        ray.get(self.balancer.remove_servers.remote(self.addresses))
        named = {f"server-{i}": self.servers[i % len(self.servers)] for i in range(count)}
        ray.get(self.balancer.add_servers.remote(named))
        self.addresses = list(named)

    def pids(self, kind: str) -> list[int]:
        """Process ids of one of `KINDS`."""
        found = []
        for pid in descendants(os.getpid()):
            try:
                title = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if title.startswith(KINDS[kind]):
                found.append(pid)
        return found

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far, by kind of process."""
        return {kind: cpu_seconds(self.pids(kind)) for kind in KINDS}

    def rest(self, seconds: float = 3.0) -> None:
        """Measure what each kind of process takes while there is nothing to do."""
        before = self.cpu()
        time.sleep(seconds)
        self.resting = {kind: (after - before[kind]) / seconds for kind, after in self.cpu().items()}

    def queue_requests(self) -> dict[str, float]:
        """Requests that TransferQueue's controller has answered, by kind; from its own metrics."""
        with urllib.request.urlopen(f"http://{tq.get_metrics_endpoint()}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found = re.findall(r'^tq_controller_request_total\{op_type="(\w+)"\} ([\d.e+]+)$', text, re.MULTILINE)
        return {name: float(value) for name, value in found}

    def replay_buffer(self) -> Any:
        """The recipe's, as verl's trainer makes it."""
        sampler = self.config.trainer.v1.sampler
        return make_replay_buffer(
            trainer_mode="sync", trainer_config=self.config.trainer.v1.get("sync", {}),
            max_off_policy_threshold=sampler.max_off_policy_threshold,
            max_off_policy_strategy=sampler.max_off_policy_strategy, sampler_kwargs=sampler.sampler_kwargs,
            refill_fn=lambda count: None,
        )  # fmt: skip

    def stop(self) -> None:
        """End the cluster."""
        tq.close()
        ray.shutdown()


class CrewManager(MultiAttemptAgentLoopManager):
    """The recipe's manager, which gives the batches to forked workers."""

    def __init__(self, config: Any, crew: Crew, numbers: Sequence[int]):
        super().__init__(config, None)
        self.agent_loop_workers = [_Proxy(crew, number) for number in numbers]


class _Proxy:
    """Stands for a worker's actor handle: ``generate_sequences.remote(batch)``."""

    def __init__(self, crew: Crew, number: int):
        self.crew, self.number, self.batches = crew, number, 0
        self.generate_sequences = self

    def remote(self, batch: Any) -> Any:
        self.batches += 1
        self.crew.send(self.number, "episodes", batch)
        return ray.put(None)
