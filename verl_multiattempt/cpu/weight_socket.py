"""Where the trainer and vLLM meet for a weight sync."""

from __future__ import annotations


def node_socket(handle: str, node: str) -> str:
    """The address of a weight sync's socket that no other Ray cluster on this host uses.

    verl tells the sockets of two trainings apart by Ray's job id (verl 0.9.1,
    verl/workers/rollout/vllm_rollout/vllm_rollout.py:140 and utils.py:_get_zmq_handle), and a cluster counts its jobs
    from 1: in a cluster that a training starts for itself, the id is always 01000000. Of two such trainings on one host
    that sync at the same moment, a vLLM could get the other's weights, with no error.

    Args:
        handle: verl's address, ``ipc:///tmp/rl-colocate-zmq-<job id>-replica-<n>-rank-<n>.sock``.
        node: id of the Ray node, which is unique among clusters.

    Returns:
        The address with the start of the node's id in it; the path of a socket has 107 characters at most.

    Raises:
        ValueError: the address is not one of verl's.
    """
    before, name, after = handle.partition("rl-colocate-zmq-")
    if not name:
        raise ValueError(f"the socket of the weight sync must have verl's name, rl-colocate-zmq-...; got {handle!r}")
    return f"{before}{name}{node[:16]}-{after}"
