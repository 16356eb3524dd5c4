"""The tables that scaling.py prints, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from scaling_arithmetic import (
    KINDS,
    Costs,
    Load,
    bytes_per_episode,
    full_at,
    parts,
    rates,
    read_again,
    scaled,
    sticky_share,
)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print("\n| " + " | ".join(header) + " |\n|" + " --- |" * len(header))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print(flush=True)


def report_costs(details: dict[str, Any]) -> None:
    """The single costs."""
    rows = [
        [name, f"{row['pairs_per_s']:,.0f}", *(f"{row[f'{key}_us']:.0f}" for key in ("balancer", "thread", "client"))]
        for name, row in details["balancer"].items()
    ]
    header = (
        "load balancer at its limit: acquire, release",
        "pairs/s",
        "its CPU, us",
        "its busiest thread, us",
        "a client, us",
    )
    table(header, rows)
    finish, verifier = details["finish"], details["verifier"]
    rows = [["an attempt in this package's loop, without Ray", "agent-loop worker", f"{details['loop_us']:.0f}"]]
    for tokens, row in details["requests"].items():
        name = f"a request of tokens to read: {tokens}"
        rows += [[name, kind, f"{us:.0f}"] for kind, us in row.items()]
    name = f"an ended episode of {finish['prompt_tokens']:,}+{finish['response_tokens']:,} tokens: reward, put"
    kinds = ("worker", "reward workers", "TransferQueue controller", "storage units")
    rows += [[name, kind, f"{finish[kind]:.0f}"] for kind in kinds]
    rows += [
        [f"its line in the log ({finish['log_bytes']:,.0f} bytes)", "worker, log thread", f"{finish['log_us']:.0f}"],
        *(["a prompt's two changes of status", kind, f"{us:.0f}"] for kind, us in details["status"].items()),
        ["an answer decided in the loop (part of an attempt)", "worker", f"{verifier['inline_us']:.0f}"],
        ["an answer decided in a process", "worker", f"{verifier['own_us']:.0f}"],
        ["the same", "verifier process", f"{verifier['pool_us']:.0f}"],
    ]
    table(("what", "in", "CPU, us"), rows)
    print(f"an episode's tensors and fields in TransferQueue: {finish['bytes']:,.0f} bytes")
    rows = [
        [f"{int(keys):,}", *(f"{row[f'{name}_us_per_key']:.2f}" for name in ("look", "controller", "trainer"))]
        for keys, row in details["listing"].items()
    ]  # fmt: skip
    table(("a look of the replay buffer, keys", "us a key", "controller's CPU", "trainer's CPU"), rows)
    names = ("exponential", "even", "predicted")
    rows = [[f"{int(n):,}", *(f"{row[name]:.0%}" for name in names)] for n, row in details["sticky"].items()]
    table(("open episodes", "later requests to the same server: exponential times", "even", "predicted"), rows)


def report_simulation(simulation: dict[str, Any]) -> None:
    """Predicted and measured, and what arrived."""
    s, messages = simulation, simulation["messages"]
    print(f"simulation: {s['episodes']:,} episodes of {s['attempts'] // s['episodes']} attempts in "
          f"{s['workers']} workers ({s['workers_with_a_batch']} had a share), {s['seconds']:.1f} s; "
          f"{s['returned']:,} returned, {s['failed']:.0f} failed, {s['logged']:,} logged, "
          f"{s['model_tokens']:,} of {s['model_tokens_expected']:,} tokens")  # fmt: skip
    print(f"the trainer's figures of the step: {s['figures_us']:.0f} us an episode")
    requests, episodes, prompts = s["requests_expected"], s["episodes"], s["prompts"]
    expected = {
        "acquired": requests, "released": requests, "sticky": requests - episodes, "requests": requests,
        "queue KV_RETRIEVE_META": episodes + 2 * prompts + 3, "queue NOTIFY_DATA_UPDATE": episodes,
        "queue SET_CUSTOM_META": episodes + 2 * prompts + 1,
    }  # fmt: skip
    rows = [[name, f"{value:,}", f"{messages.get(name, 0):,.0f}"] for name, value in expected.items()]
    rows += [[name, "", f"{value:,.0f}"] for name, value in messages.items() if name not in expected and value]
    table(("messages", "predicted", "counted"), rows)
    rows = [
        [kind, f"{seconds:.1f}", f"{s['idle_cores'][kind] * s['seconds']:.1f}", f"{s['cpu_s'][kind]:.1f}",
         f"{factor_of(s, kind):.2f}"]
        for kind, seconds in s["predicted_s"].items()
    ]  # fmt: skip
    table(("CPU seconds", "predicted", "at rest, for as long", "measured", "(measured - at rest) / predicted"), rows)
    rows = [[kind, str(count), f"{mib:,.0f}"] for kind, (count, mib) in s["memory_mib"].items()]
    table(("memory", "processes", "MiB each (PSS)"), rows)


def factor_of(simulation: dict[str, Any], kind: str) -> float:
    """The CPU time that a kind of process took above its rest, by what the single costs add up to."""
    s = simulation
    return float((s["cpu_s"][kind] - s["idle_cores"][kind] * s["seconds"]) / s["predicted_s"][kind])


def report(
    load: Load, costs: Costs, simulation: dict[str, Any], nodes: Sequence[int], machine: dict[str, Any]
) -> dict[str, Any]:
    """The arithmetic, printed; returns it."""
    print(f"assumed: {load}\nCPU costs of one core of: {machine['processor']}")
    sizes = [(n, rates(load, n), parts(load, costs, n)) for n in nodes]
    header = ("", *(f"{n} node{'s' if n > 1 else ''}, {n * load.gpus_per_node} GPUs" for n in nodes))
    rows = [
        ["episodes open", *(f"{r['open_episodes']:,.0f}" for _, r, _ in sizes)],
        ["attempts/s", *(f"{r['attempts']:,.0f}" for _, r, _ in sizes)],
        ["requests to engines/s", *(f"{r['requests']:,.0f}" for _, r, _ in sizes)],
        ["episodes/s", *(f"{r['episodes']:,.0f}" for _, r, _ in sizes)],
    ]
    for i, part in enumerate(sizes[0][2]):
        cells = []
        for _, _, found in sizes:
            here = found[i]
            need = f"; {here.needed()} needed" if here.knob and here.default != 1 else ""
            cells.append(f"{here.rate:,.0f}/s, {here.busy:.0%} of {here.default}{need}")
        rows.append([part.name, *cells])
    rows += [
        ["into TransferQueue, MB/s", *(f"{r['episodes'] * bytes_per_episode(load) / 1e6:,.1f}" for _, r, _ in sizes)],
        ["later requests to the same server", *(f"{sticky_share(r['open_episodes']):.0%}" for _, r, _ in sizes)],
        ["tokens read again for one generated", *(f"{read_again(load, r['open_episodes']):.1f}" for _, r, _ in sizes)],
    ]
    table(header, rows)
    single, simulated = (
        dict(full_at(load, costs)),
        dict(full_at(load, scaled(costs, {kind: max(0.0, factor_of(simulation, kind)) for kind in KINDS}))),
    )
    table(("what is full, with verl's defaults", "at nodes, by single costs", "by the simulation's"),
          [[name, f"{size:,.1f}", f"{simulated[name]:,.1f}"] for name, size in single.items()])  # fmt: skip
    return {
        "load": asdict(load),
        "sizes": {n: {"rates": found, "parts": [asdict(part) for part in rows]} for n, found, rows in sizes},
        "full_at_nodes": {"single costs": single, "simulation": simulated},
    }
