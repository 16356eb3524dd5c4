"""The weight sync on CPU, the trainer's side: never waits for a vLLM that has failed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any

import ray
import torch
import zmq
from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightSender
from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter

from verl_multiattempt.cpu.weight_socket import node_socket

POLL_MS = 500
"""How often a waiting sender looks whether vLLM is still at it; costs nothing while messages flow."""


Probe = Callable[[], ray.ObjectRef]


class _Receiver:
    """The call on vLLM's side that receives and loads the weights, watched from the trainer's.

    Args:
        call: Ray's reference to it.
        probe: Makes a call that fails where vLLM's engine is dead. Needed because vLLM 0.28.0 never answers the calls
            that were under way when its engine's process died (vllm/v1/engine/core_client.py: the monitor closes the
            client, and the calls' futures stay open); later calls raise EngineDeadError.
    """

    def __init__(self, call: ray.ObjectRef, probe: Probe | None = None) -> None:
        self.call = call
        self._make_probe = probe
        self._probe: ray.ObjectRef | None = None

    def has_ended(self) -> bool:
        """Tell whether the call has ended, well or not; raises where vLLM can no longer end it."""
        if _has_ended(self.call):
            return True
        if self._make_probe is not None and (self._probe is None or _has_ended(self._probe)):
            if self._probe is not None:
                ray.get(self._probe)
            self._probe = self._make_probe()
        return False

    async def wait(self) -> None:
        """Wait for the end of the call; raises what it raised."""
        answer = asyncio.wrap_future(self.call.future())
        while not (await asyncio.wait({answer}, timeout=POLL_MS / 1000))[0]:
            self.has_ended()
        await answer


def _has_ended(call: ray.ObjectRef) -> bool:
    return bool(ray.wait([call], timeout=0)[0])


class _WatchedSocket:
    """A ZMQ socket whose blocking calls end when the receiver has failed."""

    def __init__(self, socket: zmq.Socket, receiver: _Receiver | None) -> None:
        self._socket = socket
        self._receiver = receiver

    def _wait(self, event: int) -> None:
        while not self._socket.poll(POLL_MS, event):
            if self._receiver is None or not self._receiver.has_ended():
                continue
            if self._socket.poll(0, event):
                return
            ray.get(self._receiver.call)  # raises vLLM's error
            raise RuntimeError("weight sync failed: vLLM ended it before all weights were sent")

    def send_pyobj(self, message: object) -> None:
        self._wait(zmq.POLLOUT)
        self._socket.send_pyobj(message)

    def recv(self) -> bytes:
        self._wait(zmq.POLLIN)
        return self._socket.recv()

    def close(self) -> None:
        self._socket.close(linger=0)


class _WatchedSender(BucketedWeightSender):
    """verl's sender on a `_WatchedSocket`."""

    receiver: _Receiver | None = None
    socket: Any

    def _init_socket(self) -> None:
        super()._init_socket()
        self.socket = _WatchedSocket(self.socket, self.receiver)


class CpuServerAdapter(ServerAdapter):
    """verl's client of a vLLM server, with a weight sync that fails instead of hanging.

    Upstream's sender blocks in ``zmq.recv`` and looks at vLLM's answer only after the last bucket (verl 0.9.1,
    verl/workers/rollout/vllm_rollout/vllm_rollout.py:update_weights), so it waits for ever for a vLLM that raised
    or died.
    """

    @torch.no_grad()
    async def update_weights(
        self,
        weights: Generator[tuple[str, torch.Tensor], None, None],
        global_steps: int | None = None,
        wire_format: str = "named_tensors",
        **kwargs: Any,
    ) -> None:
        """Send all weights to this replica's vLLM and wait until they are loaded.

        Raises:
            ValueError: ``wire_format`` is not "named_tensors".
            Exception: Whatever vLLM's side raised, or Ray's error when its process died.
        """
        if wire_format != "named_tensors":
            raise ValueError(f"wire_format must be 'named_tensors' on CPU; got {wire_format!r}")
        node = ray.get_runtime_context().get_node_id()
        call = await self._execute_method(
            "update_weights_from_ipc", non_block=True, kwargs={**kwargs, "use_shm": self.use_shm, "node": node}
        )
        sender = _WatchedSender(
            zmq_handle=node_socket(self.zmq_handle, node),
            bucket_size_mb=self.config.checkpoint_engine.update_weights_bucket_megabytes,
            use_shm=self.use_shm,
        )
        if call is not None:  # None: a rank without a server of its own
            sender.receiver = _Receiver(call, lambda: self.server_handle.collective_rpc.remote("_get_zmq_handle"))
        await sender.async_send_weights(weights)
        if sender.receiver is not None:
            await sender.receiver.wait()
        if self._has_server:
            await self.server_handle.clear_kv_cache.remote()
            if global_steps is not None:
                await self.server_handle.set_global_steps.remote(global_steps)
