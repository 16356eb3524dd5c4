"""The simulation of scaling.py: batches through all agent-loop workers, and what they sent and cost."""

from __future__ import annotations

import argparse
import signal
import time
from typing import Any

import ray
import transfer_queue as tq
from scaling_arithmetic import Costs, predicted
from scaling_cluster import KINDS, Cluster, CrewManager, make_batch
from scaling_costs import clear
from scaling_crew import Crew
from scaling_processes import cpu_seconds, descendants, pss_mib


def run_batch(
    cluster: Cluster, crew: Crew, manager: CrewManager, batch: Any, timeout_s: float
) -> tuple[Any, dict[str, Any], int, float]:
    """A batch through all workers, as verl's trainer does it.

    Returns:
        What the replay buffer gives, its metrics, how many workers got a share of the batch, and the seconds until the
        buffer had all of it.
    """
    prompts = len(batch)
    for proxy in manager.agent_loop_workers:
        proxy.batches = 0
    tags = [{"is_prompt": True, "status": "pending", "global_steps": 1}] * prompts
    signal.signal(signal.SIGALRM, _too_late)
    signal.alarm(int(timeout_s))
    started = time.perf_counter()
    tq.kv_batch_put(keys=list(batch["uid"]), partition_id="train", tags=tags)  # as _submit_batch_to_rollout does
    manager.generate_sequences(batch)
    buffer = cluster.replay_buffer()
    make_figures, spent = buffer._training_metrics, 0.0

    def timed(*arguments: Any) -> dict[str, float]:
        nonlocal spent
        before = time.perf_counter()
        made = make_figures(*arguments)
        spent = time.perf_counter() - before
        return {**made, "figures_us": spent / len(arguments[0].keys) * 1e6}

    buffer._training_metrics = timed
    found, metrics = buffer.sample(global_steps=1, partition_id="train", batch_size=prompts)
    seconds = time.perf_counter() - started - spent
    busy = [proxy.number for proxy in manager.agent_loop_workers if proxy.batches]
    for number in busy:
        crew.receive(number, timeout_s)
    signal.alarm(0)
    return found, metrics, len(busy), seconds


def simulate(
    cluster: Cluster, crew: Crew, manager: CrewManager, args: argparse.Namespace, costs: Costs
) -> dict[str, Any]:
    """A batch through all workers; what was sent, what it cost, and whether all of it arrived."""
    cluster.set_pool_every(1)
    warm_up = time.perf_counter()
    run_batch(cluster, crew, manager, make_batch(args.workers, start=10**5), args.timeout)  # starts the verifiers
    warm_up = time.perf_counter() - warm_up
    clear()
    cluster.set_pool_every(args.pool_every)
    cluster.set_latency(tuple(args.latency))
    resting = idle(cluster, crew)
    counts, cpu = snapshot(cluster, crew)
    logged = cluster.num_logged()
    found, metrics, busy, seconds = run_batch(
        cluster, crew, manager, make_batch(args.prompts, start=10**6), args.timeout
    )
    counts_after, cpu_after = snapshot(cluster, crew)
    messages = {name: counts_after[name] - counts.get(name, 0) for name in counts_after}
    episodes = args.prompts * args.rollouts
    data = tq.kv_batch_get(keys=found.keys, partition_id="train", select_fields=["response_mask", "rm_scores"])
    expected = predicted(costs, episodes=episodes, prompts=args.prompts, attempts=episodes * args.attempts,
                         requests=int(messages["requests"]), pool_calls=int(messages["pool"]))  # fmt: skip
    figures = {
        "workers": len(crew.processes), "workers_with_a_batch": busy, "seconds": seconds, "warm_up_s": warm_up,
        "episodes": episodes, "prompts": args.prompts, "attempts": episodes * args.attempts,
        "returned": len(found.keys), "figures_us": float(metrics["figures_us"]),
        "failed": float(metrics["multiattempt/failed_episodes"]),
        "model_tokens": sum(int(mask.sum()) for mask in data["response_mask"].unbind()),
        "model_tokens_expected": episodes * args.attempts * args.tokens,
        "requests_expected": episodes * args.attempts * (-(-args.tokens // args.sim_slice) if args.sim_slice else 1),
        "logged": cluster.num_logged() - logged,
        "messages": messages, "cpu_s": {kind: cpu_after[kind] - cpu[kind] for kind in cpu}, "predicted_s": expected,
        "idle_cores": resting,
        "memory_mib": memory(cluster, crew),
    }  # fmt: skip
    clear()
    return figures


def pids_of(crew: Crew) -> list[int]:
    """Process ids of the crew."""
    return [process.pid for process in crew.processes if process.pid is not None]


def verifiers_of(crew: Crew) -> list[int]:
    """Process ids of the crew's verifier processes, fork servers included."""
    return [pid for member in pids_of(crew) for pid in descendants(member)]


def idle(cluster: Cluster, crew: Crew, seconds: float = 5.0) -> dict[str, float]:
    """Cores that all processes of each kind take while there is nothing to do."""
    _, before = snapshot(cluster, crew)
    time.sleep(seconds)
    _, after = snapshot(cluster, crew)
    return {kind: (after[kind] - before[kind]) / seconds for kind in before}


def snapshot(cluster: Cluster, crew: Crew) -> tuple[dict[str, float], dict[str, float]]:
    """Messages and CPU seconds so far."""
    servers = ray.get([server.get_counts.remote() for server in cluster.servers])
    counts = {**ray.get(cluster.balancer.get_counts.remote()),
              **{f"queue {name}": value for name, value in cluster.queue_requests().items()},
              **{name: sum(server[name] for server in servers) for name in ("requests", "pool")}}  # fmt: skip
    cpu = cluster.cpu()
    cpu["agent-loop workers"] = cpu_seconds(pids_of(crew))
    cpu["verifier processes"] = cpu_seconds(verifiers_of(crew))
    return counts, cpu


def memory(cluster: Cluster, crew: Crew) -> dict[str, tuple[int, float]]:
    """Processes of each kind, and the mean proportional set size of one, MiB."""
    kinds: dict[str, list[int]] = {
        "agent-loop workers (forked)": pids_of(crew),
        "verifier processes, fork servers included": verifiers_of(crew),
        **{kind: cluster.pids(kind) for kind in KINDS},
    }
    return {kind: (len(pids), sum(map(pss_mib, pids)) / max(1, len(pids))) for kind, pids in kinds.items()}


def _too_late(*_: Any) -> None:
    raise TimeoutError("the simulation did not end in time: some episodes are missing")
