"""The load balancer with a longer memory keeps episodes on their server where verl's own does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf
from verl.utils.import_utils import load_class_from_fqn
from verl.workers.rollout.router import GlobalRequestLoadBalancer

from verl_multiattempt.adapters.router import EpisodeLoadBalancer, router_config_path

SERVERS = {f"server-{i}": None for i in range(8)}
EPISODES = 12_000


def changed_server(router: GlobalRequestLoadBalancer) -> int:
    """Of 12,000 episodes that make their first request and then all the second, those that come to another server."""
    first = [router.acquire_server(str(i))[0] for i in range(EPISODES)]
    return sum(router.acquire_server(str(i))[0] != server for i, server in enumerate(first))


def test_it_remembers_all_of_them_and_verls_own_does_not() -> None:
    assert changed_server(GlobalRequestLoadBalancer(SERVERS)) > EPISODES / 2
    assert changed_server(EpisodeLoadBalancer(SERVERS, {})) == 0


def test_the_file_names_it_as_verl_loads_it() -> None:
    values = OmegaConf.to_container(OmegaConf.load(Path(router_config_path())))
    router = load_class_from_fqn(values["router_class"], "load balancer class")(SERVERS, values)
    assert isinstance(router, EpisodeLoadBalancer)
    assert router._request_id_to_server.maxsize == values["max_conversations"] == 1_000_000


@pytest.mark.parametrize("size", [0, -1, "many", 2.5, None])
def test_wrong_size_is_refused(size: object) -> None:
    with pytest.raises(ValueError, match="max_conversations must be a whole number above 0; got "):
        EpisodeLoadBalancer(SERVERS, {"max_conversations": size})
