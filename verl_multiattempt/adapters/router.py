"""verl's load balancer, which remembers the server of more than 10,000 conversations."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from verl.workers.rollout.router import GlobalRequestLoadBalancer


def router_config_path() -> str:
    """Absolute path of the file that ``actor_rollout_ref.rollout.router_config_path`` names to have this one."""
    return str(files("verl_multiattempt.config") / "router.yaml")


class EpisodeLoadBalancer(GlobalRequestLoadBalancer):
    """Keeps each episode on the server that has read its conversation, however many episodes are open.

    verl's own forgets the server of a conversation when 10,000 others have asked since (``verl/workers/rollout/
    router.py``, DEFAULT_ROUTING_CACHE_SIZE, which no key sets), and the next attempt comes to a server that has to read
    it all again. verl gives a router of a user's own no ``full_determinism``, so leave this one out with it.

    Args:
        servers: the rollout servers' handles by their addresses.
        config: what the file named by ``router_config_path`` holds.

    Raises:
        ValueError: ``max_conversations`` is no number above 0.
    """

    def __init__(self, servers: dict[str, Any], config: Mapping[str, Any]):
        size = config.get("max_conversations", 1_000_000)
        if not (isinstance(size, int) and size >= 1):
            raise ValueError(f"max_conversations must be a whole number above 0; got {size!r}. 1000000 is the default.")
        super().__init__(servers, max_cache_size=size)
