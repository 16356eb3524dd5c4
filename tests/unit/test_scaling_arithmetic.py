"""The arithmetic of benchmarks/scaling.py, by hand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def load() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "scaling_arithmetic.py"
    spec = importlib.util.spec_from_file_location("scaling_arithmetic", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["scaling_arithmetic"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


arithmetic = load()

# 8 GPUs of 1,000 tokens/s: 80 attempts, 40 episodes and 10 prompts a second.
LOAD = arithmetic.Load(
    tokens_per_gpu_s=1000, episodes_per_gpu=250, tokens_per_attempt=100, attempts_per_episode=2.0, prompt_tokens=50,
    feedback_tokens=10, rollouts_per_prompt=4, pool_share=0.25, poll_interval_s=0.5,
)  # fmt: skip
COSTS = arithmetic.Costs(
    balancer_request=500, worker_attempt=1000, worker_request=2000, worker_episode=4000,
    worker_prompt=1600, worker_log=100, pool_call=3000, reward_episode=5000, controller_episode=600,
    controller_prompt=800, controller_listed=2, look_listed=20, storage_episode=700,
    trainer_episode=300,
)  # fmt: skip


def part(name: str, nodes: int = 1, load: object = LOAD) -> object:
    (found,) = [part for part in arithmetic.parts(load, COSTS, nodes) if part.name == name]
    return found


def test_rates_by_hand() -> None:
    assert arithmetic.rates(LOAD, 1) == {
        "open_episodes": 2000, "attempts": 80, "requests": 80, "episodes": 40, "prompts": 10
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "rate", "cores", "default"),
    [
        ("load balancer", 160, 80 * 500e-6, 1),
        ("agent-loop workers", 80, 80 * 3000e-6 + 40 * 4000e-6 + 10 * 1600e-6, 8),
        ("verifier processes", 20, 20 * 3000e-6, 16),
        ("reward workers", 40, 40 * 5000e-6, 8),
        ("TransferQueue controller", 3 * 40 + 4 * 10, 40 * 600e-6 + 10 * 800e-6, 1),
        # 500 prompts and half of 2,000 rollouts are a look of 0.03 s, and 0.5 s lie between two.
        ("the same, keys listed in looks", 1500 / 0.53, 1500 / 0.53 * 2e-6, 1),
        ("storage units", 40, 40 * 700e-6, 8),
        ("trainer: this package's figures", 40, 40 * 300e-6, 1),
        ("episode log, all logged", 40, 40 * 100e-6, 8),
    ],
)
def test_every_part_by_hand(name: str, rate: float, cores: float, default: int) -> None:
    found = part(name)
    assert (found.rate, found.default) == (rate, default)
    assert found.cores == pytest.approx(cores)
    assert found.busy == pytest.approx(cores / default)


def test_everything_grows_with_the_nodes() -> None:
    one, many = ([p.cores for p in arithmetic.parts(LOAD, COSTS, n) if "looks" not in p.name] for n in (1, 64))
    assert many == pytest.approx([64 * cores for cores in one])


def test_slices_are_requests_and_no_attempts() -> None:
    sliced = arithmetic.Load(**{**_fields(LOAD), "slice_tokens": 30})
    assert sliced.requests_per_attempt == 4
    assert part("load balancer", load=sliced).rate == 4 * 160
    worker = part("agent-loop workers", load=sliced)
    assert worker.cores == pytest.approx(80 * 1000e-6 + 320 * 2000e-6 + 40 * 4000e-6 + 10 * 1600e-6)
    assert part("reward workers", load=sliced).cores == part("reward workers").cores


def _fields(load: object) -> dict[str, float]:
    return {name: getattr(load, name) for name in load.__slots__}


def test_processes_needed_keep_each_below_half_a_core() -> None:
    assert part("agent-loop workers", nodes=8).cores == pytest.approx(8 * 0.416)
    assert part("agent-loop workers", nodes=8).needed() == 7
    assert part("storage units").needed() == 1


def test_bytes_of_an_episode_by_hand() -> None:
    assert arithmetic.bytes_per_episode(LOAD) == 50 * 24 + 210 * 48


def test_conversations_that_are_forgotten_are_read_again() -> None:
    assert arithmetic.sticky_share(10_000) == 1
    assert arithmetic.sticky_share(40_000) == 0.25
    assert arithmetic.read_again(LOAD, 10_000) == 0
    # Half of the requests are later ones; 3 of 4 of them come to a server that has to read 50 + 105 tokens.
    assert arithmetic.read_again(LOAD, 40_000) == pytest.approx(0.5 * 0.75 * 155 / 100)


def test_what_breaks_first_comes_first() -> None:
    sizes = dict(arithmetic.full_at(LOAD, COSTS))
    assert list(sizes.values()) == sorted(sizes.values())
    assert sizes["the load balancer's memory of conversations"] == 5
    assert sizes["TransferQueue's capacity, a step of the open episodes"] == 50
    assert sizes["agent-loop workers"] == pytest.approx(8 / 0.416)
    assert sizes["load balancer"] == pytest.approx(25)
    for name, size in sizes.items():
        found = [p for p in arithmetic.parts(LOAD, COSTS, 1) if p.name == name]
        assert all(size * p.busy == pytest.approx(1) for p in found)


def test_prediction_of_the_simulation_by_hand() -> None:
    seconds = arithmetic.predicted(COSTS, episodes=10, prompts=5, attempts=30, requests=60, pool_calls=3)
    assert seconds == pytest.approx(
        {
            "agent-loop workers": 30e-3 + 120e-3 + 10 * 4.1e-3 + 5 * 1.6e-3,
            "load balancer": 60 * 500e-6,
            "reward workers": 50e-3,
            "TransferQueue controller": 6e-3 + 4e-3,
            "storage units": 7e-3,
            "verifier processes": 9e-3,
        }
    )


def test_factors_are_of_each_kind_of_process() -> None:
    costs = arithmetic.scaled(COSTS, {"load balancer": 0.5, "TransferQueue controller": 2.0})
    assert (costs.balancer_request, costs.controller_episode, costs.controller_listed) == (250, 1200, 4)
    assert (costs.worker_attempt, costs.reward_episode, costs.pool_call) == (1000, 5000, 3000)
