"""Where a training step's time goes, the share spent in this package, and what the plugin adds to ``import verl``.

    python benchmarks/step_time.py                               # 64, 256 and 1,024 episodes a step, 5 steps of each
    python benchmarks/step_time.py --episodes 1024 --steps 4
    python benchmarks/step_time.py --quick --out step_time.json

Trains the tiny example on the CPU stack, once for each size, with stopwatches around the package's code (see
step_time_probe.py). The step's breakdown is verl's own ``timing_s``. The first two steps are left out: they hold
one-time costs. The share is of time on the processor; beside it that of the wall clock, in which the package waits for
cores that the engine has where there are few. Both are of the tiny model's short step, with attempts of few tokens; at
the end the package's time is set against longer steps, by arithmetic. The verifier's processes are not in it (in this
task the event loop decides all answers), nor is the tokenizer's thread (verl's loops tokenize prompts in one, too).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
WARM_UP_STEPS = 2
LONGER_STEPS_S = (10, 60, 300)


def train(folder: Path, data: Path, episodes: int, steps: int, logged: int) -> list[dict[str, float]]:
    """Train, and return the metrics of each step after the warm-up."""
    micro = min(64, episodes)
    command = [
        sys.executable, "-m", "verl.trainer.main_ppo", "+recipe=multiattempt", "+platform=cpu",
        f"data.train_files={data / 'train.parquet'}", f"data.val_files={data / 'val.parquet'}",
        f"actor_rollout_ref.model.path={data / 'model'}", f"critic.model.path={data / 'model'}",
        "data.max_prompt_length=96", "data.max_response_length=160", f"data.train_batch_size={episodes}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={episodes}", "actor_rollout_ref.actor.use_kl_loss=false",
        f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={micro}", f"critic.ppo_micro_batch_size_per_gpu={micro}",
        f"actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu={micro}",
        f"critic.ppo_mini_batch_size={episodes}",
        "actor_rollout_ref.actor.optim.lr=4e-4", "critic.optim.lr=1e-3", "trainer.logger=[file]",
        "trainer.val_before_train=false", "trainer.test_freq=-1", "trainer.save_freq=-1",
        f"trainer.total_training_steps={steps}", "trainer.total_epochs=100",
        f"trainer.default_local_dir={folder / 'checkpoints'}",
        "multiattempt.record.enabled=true", f"multiattempt.record.max_episodes_per_step={logged}",
        "actor_rollout_ref.rollout.agent.agent_loop_config_path="
        f"{REPOSITORY / 'benchmarks' / 'step_time_agent_loop.yaml'}",
        # The preflight, which stops runs with another reward manager than the package's.
        "~hydra.callbacks.multiattempt", "reward.reward_manager.module.path=pkg://benchmarks.step_time_probe",
        "trainer.v1.sampler.custom_sampler.path=pkg://benchmarks.step_time_probe",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "VERL_FILE_LOGGER_PATH": str(folder / "metrics.jsonl"),
        "MULTIATTEMPT_BENCH_DIR": str(folder),
    }
    with (folder / "log.txt").open("wb") as log:
        status = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode
    if status:
        sys.exit(f"training ended with status {status}; its log ends:\n{(folder / 'log.txt').read_text()[-4000:]}")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["data"] for line in lines if line["step"] > WARM_UP_STEPS]


def package_times(folder: Path, episodes: int, logged: int) -> dict[str, Any]:
    """Per step after the warm-up: seconds in each part of the package (wall and CPU), attempts, sampled tokens."""
    # What hands an episode to the log is two calls; a step's metrics are its reading and its figures.
    rows_per_step = {
        "agent_loop": episodes, "reward_manager": episodes, "episode_metrics": 2, "episode_log": 2 * logged,
        "episode_log_thread": logged,
    }  # fmt: skip
    wall: dict[str, float] = {}
    cpu: dict[str, float] = {}
    counts = {"attempts": 0.0, "tokens": 0.0}
    for part, per_step in rows_per_step.items():
        rows = [json.loads(line) for line in (folder / f"{part}.jsonl").read_text().splitlines()]
        rows = rows[WARM_UP_STEPS * per_step :]
        steps = len(rows) / per_step
        wall[part] = sum(row["seconds"] for row in rows) / steps
        cpu[part] = sum(row["cpu_s"] for row in rows) / steps
        if part == "agent_loop":
            counts = {name: sum(row[name] for row in rows) / steps for name in counts}
    for times in (wall, cpu):  # it is also within the agent loop's time
        times["agent_loop"] -= times["episode_log"]
    return {"package_s": wall, "package_cpu_s": cpu, **counts}


def import_seconds(repeats: int) -> dict[str, float]:
    """Median wall time of ``import verl`` without and with the plugin, taken in turns."""
    times: dict[str, list[float]] = {"none": [], "auto": []}
    for _ in range(repeats):
        for policy, values in times.items():
            environment = {**os.environ, "VERL_USE_EXTERNAL_PLUGINS": policy}
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import verl"], env=environment, check=True, capture_output=True)
            values.append(time.perf_counter() - started)
    return {policy: statistics.median(values) for policy, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder made by examples/tiny_math/make.py; default: made now")
    parser.add_argument("--episodes", type=int, nargs="+", default=[64, 256, 1024], help="a step (64 256 1024)")
    parser.add_argument(
        "--logged", type=int, default=64, help="of these in the episode log (default 64, as in training)"
    )
    parser.add_argument("--steps", type=int, default=5, help="training steps, the first two left out (default 5)")
    parser.add_argument("--imports", type=int, default=7, help="imports timed with and without the plugin (default 7)")
    parser.add_argument("--quick", action="store_true", help="32 episodes, 4 steps, 3 imports")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args()
    if args.quick:
        args.episodes, args.steps, args.imports = [32], 4, 3
    if args.steps <= WARM_UP_STEPS:
        parser.error(f"--steps must be above {WARM_UP_STEPS}; got {args.steps}")

    with tempfile.TemporaryDirectory() as name:
        data = args.data.resolve() if args.data else Path(name) / "tiny_math"
        if not args.data:
            make = [str(REPOSITORY / "examples/tiny_math/make.py"), "--out", str(data), "--seed", "1"]
            subprocess.run([sys.executable, *make], check=True)
        sizes = {}
        for episodes in sorted(args.episodes):
            print(f"training {args.steps} steps of {episodes} episodes ...", flush=True)
            folder = Path(name) / str(episodes)
            folder.mkdir()
            logged = min(args.logged, episodes)
            timing = stage_seconds(train(folder, data, episodes, args.steps, logged))
            sizes[episodes] = {**timing, **package_times(folder, episodes, logged)}
    imports = import_seconds(args.imports) if args.imports else None
    figures = report(sizes, imports)
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n")


def stage_seconds(metrics: list[dict[str, float]]) -> dict[str, Any]:
    """Means of verl's ``timing_s``."""
    names = sorted({name for step in metrics for name in step if name.startswith("timing_s/")})
    timing = {name[9:]: statistics.mean(step.get(name, 0.0) for step in metrics) for name in names}
    step_s = timing.pop("step")
    stages = {name: value for name, value in timing.items() if "/" not in name and name != "start_profile"}
    return {"steps": len(metrics), "step_s": step_s, "stages_s": stages}


def report(sizes: dict[int, dict[str, Any]], imports: dict[str, float] | None) -> dict[str, Any]:
    """Print the tables; return the figures."""
    for size in sizes.values():
        for name, seconds in (("share", size["package_cpu_s"]), ("wall_share", size["package_s"])):
            watched = seconds["episode_metrics"] + seconds["episode_log"] + seconds["episode_log_thread"]
            size[f"package_{name}"] = sum(seconds.values()) / size["step_s"]
            size[f"log_and_metrics_{name}"] = watched / size["step_s"]
        size["cpu_ms_per_attempt"] = sum(size["package_cpu_s"].values()) / size["attempts"] * 1e3
    row("episodes a step", [f"{episodes:,}" for episodes in sizes])
    row("steps measured", [str(size["steps"]) for size in sizes.values()])
    row("seconds a step", [f"{size['step_s']:.2f}" for size in sizes.values()])
    print("\nshare of the step: of verl's stages, and of this package's time on the processor")
    stages = {name for size in sizes.values() for name in size["stages_s"]}
    for name in sorted(stages, key=lambda name: -max(size["stages_s"].get(name, 0.0) for size in sizes.values())):
        row(f"  verl: {name}", [f"{size['stages_s'].get(name, 0.0) / size['step_s']:.1%}" for size in sizes.values()])
    for name in next(iter(sizes.values()))["package_cpu_s"]:
        row(f"  package: {name}", [f"{size['package_cpu_s'][name] / size['step_s']:.2%}" for size in sizes.values()])
    row("in this package (goal: at most 2 %)", [f"{size['package_share']:.2%}" for size in sizes.values()])
    row("  log and metrics (goal: below 0.5 %)", [f"{size['log_and_metrics_share']:.2%}" for size in sizes.values()])
    row("with its waits for a core (goal as well)", [f"{size['package_wall_share']:.2%}" for size in sizes.values()])
    print("\nthis package's time on the processor")
    row("attempts a step", [f"{size['attempts']:,.0f}" for size in sizes.values()])
    row("tokens an attempt", [f"{size['tokens'] / size['attempts']:.1f}" for size in sizes.values()])
    row("milliseconds an attempt", [f"{size['cpu_ms_per_attempt']:.3f}" for size in sizes.values()])
    for name in next(iter(sizes.values()))["package_cpu_s"]:
        values = [size["package_cpu_s"][name] / size["attempts"] * 1e3 for size in sizes.values()]
        row(f"  of these {name}", [f"{value:.3f}" for value in values])
    print("\narithmetic, not measured: that time as a share of longer steps with as many attempts")
    for seconds in LONGER_STEPS_S:
        shares = [size["cpu_ms_per_attempt"] * size["attempts"] / 1e3 / seconds for size in sizes.values()]
        row(f"  a step of {seconds} s", [f"{share:.2%}" for share in shares])
    figures: dict[str, Any] = {"sizes": sizes}
    if imports:
        added = imports["auto"] - imports["none"]
        print(f"\nimport verl: {imports['none']:.2f} s without the plugin, {imports['auto']:.2f} s with it "
              f"({added:+.2f} s; goal: at most 0.3 s)")  # fmt: skip
        figures |= {"import_s": imports, "import_added_s": added}
    return figures


def row(name: str, cells: list[str]) -> None:
    """Print a line of a table."""
    print(f"{name:<40}" + "".join(f"{cell:>12}" for cell in cells))


if __name__ == "__main__":
    main()
