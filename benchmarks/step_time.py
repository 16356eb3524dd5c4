"""Where a training step's time goes, the share spent in this package, and what the plugin adds to ``import verl``.

    python benchmarks/step_time.py                               # 128 episodes a step, 8 steps
    python benchmarks/step_time.py --episodes 1024 --steps 4
    python benchmarks/step_time.py --quick

Trains the tiny example on the CPU stack with stopwatches around the package's code (see step_time_probe.py). The
step's breakdown is verl's own ``timing_s``. The first two steps are left out: they hold one-time costs.
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


def package_seconds(folder: Path, episodes: int, logged: int) -> dict[str, float]:
    """Seconds per step in each part of the package, and attempts per step, after the warm-up."""
    # What hands an episode to the log is two calls; a step's metrics are its reading and its figures.
    rows_per_step = {
        "agent_loop": episodes, "reward_manager": episodes, "episode_metrics": 2, "episode_log": 2 * logged,
        "episode_log_thread": logged,
    }  # fmt: skip
    parts: dict[str, float] = {}
    for part, per_step in rows_per_step.items():
        rows = [json.loads(line) for line in (folder / f"{part}.jsonl").read_text().splitlines()]
        rows = rows[WARM_UP_STEPS * per_step :]
        steps = len(rows) / per_step
        parts[part] = sum(row["seconds"] for row in rows) / steps
        if part == "agent_loop":
            parts["attempts"] = sum(row["attempts"] for row in rows) / steps
    # It is also within the agent loop's time.
    parts["agent_loop"] -= parts["episode_log"]
    return parts


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
    parser.add_argument("--episodes", type=int, default=128, help="episodes a step (default 128)")
    parser.add_argument(
        "--logged", type=int, default=64, help="of these in the episode log (default 64, as in training)"
    )
    parser.add_argument("--steps", type=int, default=8, help="training steps, the first two left out (default 8)")
    parser.add_argument("--imports", type=int, default=7, help="imports timed with and without the plugin (default 7)")
    parser.add_argument("--quick", action="store_true", help="32 episodes, 4 steps, 3 imports")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    args = parser.parse_args()
    if args.quick:
        args.episodes, args.steps, args.imports = 32, 4, 3
    if args.steps <= WARM_UP_STEPS:
        parser.error(f"--steps must be above {WARM_UP_STEPS}; got {args.steps}")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = args.data.resolve() if args.data else folder / "tiny_math"
        if not args.data:
            command = [
                sys.executable,
                str(REPOSITORY / "examples/tiny_math/make.py"),
                "--out",
                str(data),
                "--seed",
                "1",
            ]
            subprocess.run(command, check=True)
        print(f"training {args.steps} steps of {args.episodes} episodes ...", flush=True)
        logged = min(args.logged, args.episodes)
        metrics = train(folder, data, args.episodes, args.steps, logged)
        package = package_seconds(folder, args.episodes, logged)
    imports = import_seconds(args.imports)
    figures = report(metrics, package, imports, args.episodes)
    if args.out:
        args.out.write_text(json.dumps(figures, indent=2) + "\n")


def report(
    metrics: list[dict[str, float]], package: dict[str, float], imports: dict[str, float], episodes: int
) -> dict[str, Any]:
    """Print the tables; return the figures."""
    names = sorted({name for step in metrics for name in step if name.startswith("timing_s/")})
    timing = {name[9:]: statistics.mean(step.get(name, 0.0) for step in metrics) for name in names}
    step_s = timing.pop("step")
    stages = {name: value for name, value in timing.items() if "/" not in name and name not in ("start_profile",)}
    print(f"\nmean of {len(metrics)} steps of {episodes} episodes: {step_s:.3f} s\n")
    print(f"{'stage (verl timing_s)':<32}{'seconds':>10}{'share':>9}")
    for name, value in sorted(stages.items(), key=lambda item: -item[1]):
        print(f"{name:<32}{value:>10.4f}{value / step_s:>9.1%}")
    attempts = package.pop("attempts")
    total = sum(package.values())
    print(f"\n{'in this package':<32}{'seconds':>10}{'share':>9}")
    for name, value in package.items():
        print(f"{name:<32}{value:>10.4f}{value / step_s:>9.2%}")
    print(f"{'total':<32}{total:>10.4f}{total / step_s:>9.2%}   (goal: at most 2 %)")
    watched = package["episode_metrics"] + package["episode_log"] + package["episode_log_thread"]
    print(f"{'log and metrics':<32}{watched:>10.4f}{watched / step_s:>9.2%}   (goal: below 0.5 %)")
    print(f"\nagent loop: {package['agent_loop'] / attempts * 1e6:.0f} us per attempt, {attempts:.0f} attempts a step")
    added = imports["auto"] - imports["none"]
    print(f"import verl: {imports['none']:.2f} s without the plugin, {imports['auto']:.2f} s with it "
          f"({added:+.2f} s; goal: at most 0.3 s)")  # fmt: skip
    return {
        "episodes": episodes,
        "step_s": step_s,
        "stages_s": stages,
        "package_s": package,
        "package_share": total / step_s,
        "log_and_metrics_share": watched / step_s,
        "attempts_per_step": attempts,
        "import_s": imports,
        "import_added_s": added,
    }


if __name__ == "__main__":
    main()
