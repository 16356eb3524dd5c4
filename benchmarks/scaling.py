"""What breaks first when a training grows to 8 and 64 nodes: measured costs, a simulation that checks them, arithmetic.

    python benchmarks/scaling.py                       # 64 agent-loop workers; about 5 minutes on 2 cores, 12 GiB
    python benchmarks/scaling.py --quick --out scaling.json
    python benchmarks/scaling.py --costs scaling.json --slice-tokens 64     # the tables again, for another load

Three parts (benchmarks/scaling.md explains the tables):

- single costs, CPU time of a message: verl's load balancer with 1, 8 and 64 clients, this package's loop, a request
  by Ray, the reward's call, TransferQueue's put, the verifier pool, the episode log, a look of the replay buffer;
- a simulation: agent-loop workers in as many processes, verl's own load balancer, reward workers and TransferQueue,
  real verifiers, and servers that answer after a drawn time. Checked: the messages of an episode, the CPU time of each
  kind of process against the sum of the single costs, and that every episode is in TransferQueue with all its tokens;
- the arithmetic of 1, 8 and 64 nodes from these costs and an assumed load (every assumption is an option).
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from scaling_arithmetic import Costs, Load
from scaling_report import report, report_costs, report_simulation


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Costs and simulation; everything of verl is loaded here, once, before the workers are forked."""
    # Before Ray is loaded: the forked workers are to connect as this process does.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "300")  # a busy machine
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive the fork
    import verl  # noqa: F401 - first, so that verl finds its platform
    from scaling_cluster import Cluster, CrewManager, make_config
    from scaling_costs import make_answers, single_costs
    from scaling_crew import Crew
    from scaling_simulation import simulate

    with tempfile.TemporaryDirectory() as name, ExitStack() as ends:
        config = make_config(Path(name), args.attempts, args.rollouts, args.tokens, args.storage_units, args.sim_slice)
        crew = Crew(args.workers)
        ends.callback(crew.stop)
        manager = CrewManager(config, crew, range(args.workers))
        before_ray = crew.ask([0], "loop_us", args.tokens, args.loop_episodes, 3)[0]
        answers = make_answers(args.tokens)
        cluster = Cluster(config, **answers, servers=args.servers, rewards=args.rewards, pool_every=args.pool_every)
        ends.callback(cluster.stop)
        ends.callback(crew.stop)  # before the cluster that its members are drivers of
        started = time.perf_counter()
        crew.ask(range(args.workers), "join", cluster.address, at_once=1)
        crew.ask(range(args.workers), "connect", config, args.rewards, at_once=8)
        print(f"{args.workers} agent-loop workers in {time.perf_counter() - started:.0f} s", flush=True)
        costs, details = single_costs(cluster, crew, args, before_ray)
        report_costs(details)
        simulation = simulate(cluster, crew, manager, args, costs)
        report_simulation(simulation)
    costs = replace(costs, trainer_episode=simulation["figures_us"])
    machine = {"cores": os.cpu_count(), "processor": processor(), "python": platform.python_version()}
    return {"machine": machine, "date": time.strftime("%Y-%m-%d"), "costs": asdict(costs), "details": details,
            "simulation": simulation}  # fmt: skip


def processor() -> str:
    """Name of the processor."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    run = parser.add_argument_group("measurement and simulation")
    run.add_argument("--workers", type=int, default=64, help="agent-loop workers (default 64)")
    run.add_argument("--prompts", type=int, default=512, help="of the simulation's batch (default 512)")
    run.add_argument("--rollouts", type=int, default=4, help="of each prompt (default 4)")
    run.add_argument("--attempts", type=int, default=3, help="of each episode (default 3)")
    run.add_argument("--tokens", type=int, default=512, help="of an attempt (default 512)")
    run.add_argument("--sim-slice", type=int, default=0, help="stop_at_answer_every in the simulation (default: off)")
    run.add_argument("--pool-every", type=int, default=10, help="every so many attempts need a verifier process")
    run.add_argument("--latency", type=float, nargs=2, default=(1.0, 4.0), metavar=("FROM", "TO"),
                     help="seconds of an answer in the simulation")  # fmt: skip
    run.add_argument("--servers", type=int, default=2, help="processes that stand for engines (default 2)")
    run.add_argument("--rewards", type=int, default=2, help="reward workers (default 2)")
    run.add_argument("--storage-units", type=int, default=2)
    run.add_argument("--balance-s", type=float, default=3.0, help="seconds of each load of the load balancer")
    run.add_argument("--requests", type=int, default=2000, help="whose cost is measured")
    run.add_argument("--loop-episodes", type=int, default=512, help="whose cost is measured")
    run.add_argument("--timeout", type=float, default=300.0, help="seconds for the simulation")
    run.add_argument("--quick", action="store_true", help="4 workers, 32 prompts")
    load = parser.add_argument_group("the assumed load")
    for field in fields(Load):
        load.add_argument("--" + field.name.replace("_", "-"), type=type(field.default), default=field.default)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--costs", type=Path, help="take the costs from this file of --out, and measure nothing")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args(argv)
    if args.quick:
        args.workers, args.prompts, args.balance_s, args.requests, args.loop_episodes = 4, 32, 1.0, 200, 64
        args.latency = (0.2, 0.5)
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    args = parse(argv)
    logging.disable(logging.WARNING)
    figures = json.loads(args.costs.read_text(encoding="utf-8")) if args.costs else measure(args)
    if args.costs:
        report_costs(figures["details"])
        report_simulation(figures["simulation"])
    load = Load(**{field.name: getattr(args, field.name) for field in fields(Load)})
    costs = Costs(**figures["costs"])
    figures["arithmetic"] = report(load, costs, figures["simulation"], args.nodes, figures["machine"])
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
