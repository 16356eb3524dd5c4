"""The single costs of scaling.py."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from heapq import heapify, heapreplace
from pathlib import Path
from typing import Any

import transfer_queue as tq
from scaling_arithmetic import Costs, sticky_share
from scaling_cluster import (
    GOLD,
    INLINE,
    POOL,
    Cluster,
    make_batch,
)
from scaling_crew import Crew
from scaling_processes import cpu_seconds, thread_seconds
from verl.workers.rollout.router import GlobalRequestLoadBalancer

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples" / "tiny_math"))
from make import TURN_START, make_tokenizer

AT_ONCE = 16
"""Requests under way at a time while their cost is measured."""
EVENTS_PER_S = 50
"""Ended episodes, and prompts, of a worker while their cost is measured."""


def make_answers(tokens: int) -> dict[str, Any]:
    """The servers' answers, and how to find where in an attempt a request goes on."""
    tokenizer = make_tokenizer()
    words = tokenizer.encode("compute the question is incorrect ", add_special_tokens=False)

    def answer(text: str) -> list[int]:
        end = tokenizer.encode(text + tokenizer.eos_token, add_special_tokens=False)
        return [*(words * tokens)[: max(0, tokens - len(end))], *end]

    header = len(tokenizer.encode("assistant\n", add_special_tokens=False))
    return {"answers": {"inline": answer(INLINE), "pool": answer(POOL)},
            "start_id": tokenizer.convert_tokens_to_ids(TURN_START), "header": header}  # fmt: skip


def single_costs(
    cluster: Cluster, crew: Crew, args: argparse.Namespace, loop_us: float
) -> tuple[Costs, dict[str, Any]]:
    """CPU time of every kind of message."""
    cluster.rest()
    details: dict[str, Any] = {"balancer": balancer(cluster, crew, args)}
    spread = request(cluster, crew, args, 1024, tuple(args.latency))
    details["requests"] = {
        "256, answered at once": request(cluster, crew, args, 256, None),
        "2,048, answered at once": request(cluster, crew, args, 2048, None),
        "1,024, answered after a time": spread,
    }
    details["finish"] = finish = finished(cluster, crew, args)
    details["verifier"] = verifier = verified(crew, args)
    details["listing"] = listing = {n: listed(cluster, n) for n in (1_000, 10_000)}
    details["status"] = status = prompt_status(cluster, crew, args)
    details["sticky"] = {n: sticky(n) for n in (2_048, 16_384, 131_072)[: 2 if args.quick else 3]}
    details["loop_us"] = loop_us
    costs = Costs(
        balancer_request=spread["load balancer"],
        worker_attempt=loop_us,
        worker_request=spread["worker"],
        worker_episode=finish["worker"],
        worker_prompt=status["worker"],
        worker_log=finish["log_us"],
        pool_call=verifier["pool_us"],
        reward_episode=finish["reward workers"],
        controller_episode=finish["TransferQueue controller"],
        controller_prompt=status["TransferQueue controller"],
        controller_listed=listing[10_000]["controller_us_per_key"],
        look_listed=listing[10_000]["look_us_per_key"],
        storage_episode=finish["storage units"],
        trainer_episode=0.0,  # the simulation's
    )
    return costs, details


def balancer(cluster: Cluster, crew: Crew, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The load balancer under as much load as 1, 8 and 64 clients can make, and with 512 servers to choose from."""
    rows = {}
    for clients, servers in ((1, 8), (8, 8), (64, 8), (64, 512)):
        clients = min(clients, args.workers)
        cluster.set_servers(servers)
        pids = cluster.pids("load balancer")
        before, threads, started = cpu_seconds(pids), thread_seconds(pids), time.perf_counter()
        results = crew.ask(range(clients), "balance", args.balance_s, 8)
        seconds = time.perf_counter() - started
        pairs = sum(count for count, _ in results)
        after = thread_seconds(pids)
        rows[f"{clients} client{'s' if clients > 1 else ''}, {servers} servers"] = {
            "pairs_per_s": pairs / seconds,
            "balancer_us": (cpu_seconds(pids) - before) / pairs * 1e6,
            "thread_us": max(after[thread] - threads.get(thread, 0.0) for thread in after) / pairs * 1e6,
            "client_us": sum(cpu for _, cpu in results) / pairs * 1e6,
        }
    cluster.set_servers(len(cluster.servers))
    return rows


def per_unit(
    cluster: Cluster, count: int, kinds: tuple[str, ...], work: Callable[[], Any]
) -> tuple[dict[str, float], Any]:
    """CPU microseconds of each kind of process for one of ``count`` things, without rest, and what ``work`` returns."""
    before, started = cluster.cpu(), time.perf_counter()
    result = work()
    after, seconds = cluster.cpu(), time.perf_counter() - started
    taken = {kind: max(0.0, after[kind] - before[kind] - cluster.resting[kind] * seconds) for kind in kinds}
    return {kind: value / count * 1e6 for kind, value in taken.items()}, result


def request(
    cluster: Cluster, crew: Crew, args: argparse.Namespace, prompt_tokens: int, latency_s: tuple[float, float] | None
) -> dict[str, float]:
    """A request with so many tokens to read; answered at once, or after a time, many being under way."""
    cluster.set_latency(latency_s)
    at_once = args.requests // 4 if latency_s else AT_ONCE
    crew.ask([0], "request", AT_ONCE, AT_ONCE, prompt_tokens)
    kinds = ("load balancer", "engines' stand-ins")
    figures, (seconds,) = per_unit(
        cluster, args.requests, kinds, lambda: crew.ask([0], "request", args.requests, at_once, prompt_tokens)
    )
    cluster.set_latency(None)
    return {"worker": seconds / args.requests * 1e6, **figures}


def finished(cluster: Cluster, crew: Crew, args: argparse.Namespace) -> dict[str, float]:
    """What follows the end of an episode."""
    batch = make_batch(1)
    row = {name: batch[name][0] for name in ("raw_prompt", "data_source", "reward_model", "extra_info", "index")}
    row = {name: getattr(value, "data", value) for name, value in row.items()}
    row.update(session_id=0, global_steps=1, multiattempt_validate=False, multiattempt_logged=args.rollouts)
    tokens = (256, args.attempts * (args.tokens + 32))
    count = max(50, args.requests // 4)
    crew.ask([0], "finish", AT_ONCE, 0.0, row, tokens)
    kinds = ("reward workers", "TransferQueue controller", "storage units")
    cpu, (figures,) = per_unit(
        cluster, count, kinds, lambda: crew.ask([0], "finish", count, count / EVENTS_PER_S, row, tokens)
    )
    clear()
    return {"worker": figures["seconds"] / count * 1e6, "log_us": figures["log_us"], "log_bytes": figures["log_bytes"],
            "bytes": figures["bytes"], "prompt_tokens": tokens[0], "response_tokens": tokens[1], **cpu}  # fmt: skip


def verified(crew: Crew, args: argparse.Namespace) -> dict[str, float]:
    """An answer that the loop's process decides, and one that a verifier process does."""
    inline = [INLINE.replace("7", str(i)) for i in range(args.requests)]
    pool = [POOL.replace("x^2", f"x^2+{i}x") for i in range(max(50, args.requests // 10))]
    inline_us, _, calls = crew.ask([0], "verifier_us", inline, GOLD)[0]
    own_us, pool_us, pool_calls = crew.ask([0], "verifier_us", pool, GOLD)[0]
    if calls or pool_calls != len(pool):
        raise RuntimeError(f"answers must be decided where they are meant to; got {calls} and {pool_calls} calls")
    return {"inline_us": inline_us, "own_us": own_us, "pool_us": pool_us}


def listed(cluster: Cluster, keys: int) -> dict[str, float]:
    """A look of the replay buffer at so many keys."""
    tag = {"is_prompt": True, "status": "running", "global_steps": 1}
    tq.kv_batch_put(keys=[f"listed{i}" for i in range(keys)], partition_id="train", tags=[tag] * keys)
    buffer, looks = cluster.replay_buffer(), 400_000 // keys

    def look() -> tuple[float, float]:
        own, started = time.process_time(), time.perf_counter()
        for _ in range(looks):
            buffer._sync_metadata_from_transfer_queue()
        return time.process_time() - own, time.perf_counter() - started

    kind = "TransferQueue controller"
    cpu, (own, seconds) = per_unit(cluster, looks * keys, (kind,), look)
    clear()
    scale = 1e6 / looks / keys
    return {"look_us_per_key": seconds * scale, "controller_us_per_key": cpu[kind], "trainer_us_per_key": own * scale}


def prompt_status(cluster: Cluster, crew: Crew, args: argparse.Namespace) -> dict[str, float]:
    """The two changes of a prompt's status that a worker tells."""
    count = max(50, args.requests // 4)
    cpu, (seconds,) = per_unit(
        cluster, count, ("TransferQueue controller",), lambda: crew.ask([0], "status", count, count / EVENTS_PER_S)
    )
    clear()
    return {"worker": seconds / count * 1e6, **cpu}


def clear() -> None:
    """Empty TransferQueue."""
    for partition, keys in (tq.kv_list() or {}).items():
        if keys:
            tq.kv_clear(keys=list(keys), partition_id=partition)


def sticky(open_episodes: int) -> dict[str, float]:
    """Share of later requests that verl's own load balancer, with its own cache, sends to the episode's server.

    Episodes go on for ever, and a request follows the last one after a time that is drawn: exponentially, or evenly
    from 0.5 to 2. Counted after the first requests of each.
    """
    shares = {"predicted": sticky_share(open_episodes)}
    generator = random.Random(0)
    draws = {"exponential": partial(generator.expovariate, 1.0), "even": partial(generator.uniform, 0.5, 2.0)}
    for name, draw in draws.items():
        router = GlobalRequestLoadBalancer({f"server-{i}": None for i in range(8)})
        times = [(draw(), i) for i in range(open_episodes)]
        heapify(times)
        has_asked = bytearray(open_episodes)
        later = kept = 0
        for count in range(4 * open_episodes):
            when, number = times[0]
            if count > 2 * open_episodes and has_asked[number]:
                later += 1
                kept += str(number) in router._request_id_to_server
            has_asked[number] = 1
            router.release_server(router.acquire_server(str(number))[0])
            heapreplace(times, (when + draw(), number))
        shares[name] = kept / later
    return shares
