"""Runs a training command and shows a line a step instead of verl's log, which goes to a file.

    python examples/tiny_math/progress.py --log train.log --metrics metrics.jsonl --steps 60 -- COMMAND ...

``metrics.jsonl`` is what verl's logger ``file`` writes. Ends with the command's exit status; where that is not 0, with
the end of the log. SIGTERM ends the command, too.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

COLUMNS = {
    "reward": "multiattempt/reward/mean",
    "accuracy": "multiattempt/accuracy",
    "first": "multiattempt/accuracy@1",
    "refined": "multiattempt/refinement",
    "attempts": "multiattempt/attempts_used/mean",
    "k3 KL": "rollout_corr/k3_kl",
    "seconds": "timing_s/step",
}
# What verl's log says when a stage of the start begins, and what to call it.
STAGES = (
    ("ray init kwargs", "starting Ray"),
    ("dataset len", "reading the data"),
    ("worker group kwargs", "starting the workers"),
    ("actor and ref model engine initialized", "starting vLLM"),
    ("all initialize finished", "starting the first step"),
)
LOG_TAIL_LINES = 60


def show_header(steps: int) -> None:
    print(f"{'step':>{2 * len(str(steps)) + 1}}" + "".join(f"{name:>10}" for name in COLUMNS), flush=True)


def show_step(entry: dict[str, Any], steps: int) -> None:
    width = len(str(steps))
    cells = []
    for name, key in COLUMNS.items():
        value = entry["data"].get(key)
        cells.append("         -" if value is None else f"{value:>10.1e}" if name == "k3 KL" else f"{value:>10.2f}")
    print(f"{entry['step']:>{width}}/{steps}" + "".join(cells), flush=True)


def read_new(file: IO[str] | None, path: Path) -> tuple[IO[str] | None, list[str]]:
    """Whole lines written since the last call; the file is opened when it is there."""
    if file is None:
        if not path.exists():
            return None, []
        file = path.open(errors="replace")
    lines: list[str] = []
    while True:
        position = file.tell()
        line = file.readline()
        if not line.endswith("\n"):
            file.seek(position)
            return file, lines
        lines.append(line)


def follow(process: subprocess.Popen[bytes], log: Path, metrics: Path, steps: int) -> None:
    """Show progress until the process has ended."""
    started = time.monotonic()
    log_file: IO[str] | None = None
    metrics_file: IO[str] | None = None
    stages = list(STAGES)
    stepping = False
    while True:
        ended = process.poll() is not None
        log_file, lines = read_new(log_file, log)
        for line in lines:
            if not stepping and any(text in line for text, _ in stages):
                name = next(name for text, name in stages if text in line)
                stages = stages[[text in line for text, _ in stages].index(True) + 1 :]
                print(f"  {time.monotonic() - started:4.0f} s  {name} ...", flush=True)
        metrics_file, lines = read_new(metrics_file, metrics)
        for entry in map(json.loads, lines):
            if not stepping:
                stepping = True
                show_header(steps)
            if COLUMNS["seconds"] in entry["data"]:  # validation is logged by itself
                show_step(entry, steps)
        if ended:
            return
        time.sleep(0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--log", type=Path, required=True, help="file for the command's output")
    parser.add_argument("--metrics", type=Path, required=True, help="file for verl's metrics (JSON Lines)")
    parser.add_argument("--steps", type=int, required=True, help="training steps, for display")
    parser.add_argument("command", nargs="+", help="the training command, after --")
    args = parser.parse_args()
    environment = {**os.environ, "VERL_FILE_LOGGER_PATH": str(args.metrics.resolve())}
    args.metrics.unlink(missing_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # or the command would go on alone
    with args.log.open("wb") as log:
        process = subprocess.Popen(
            args.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        try:
            follow(process, args.log, args.metrics, args.steps)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    if process.returncode:
        lines = args.log.read_text(errors="replace").splitlines()
        problems = [line for line in lines if line.startswith("verl_multiattempt: ")]
        print("\n".join(problems or lines[-LOG_TAIL_LINES:]), file=sys.stderr)
        print(f"the training command ended with status {process.returncode}; its log is {args.log}", file=sys.stderr)
    sys.exit(process.returncode)


if __name__ == "__main__":
    main()
