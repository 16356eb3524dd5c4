"""The arithmetic of scaling.py: from an assumed load and what one message costs, to how full each part is.

Nothing here is measured and nothing of verl is imported; all rates but that of looks are linear in the number of GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

STICKY_ENTRIES = 10_000
"""Conversations whose server verl's load balancer remembers (verl/workers/rollout/router.py:29)."""
STORED_ROLLOUTS = 100_000
"""Rollouts that TransferQueue holds before it refuses (config/transfer_queue/transfer_queue.yaml:25)."""
AGENT_WORKERS = REWARD_WORKERS = STORAGE_UNITS = 8
"""verl's defaults, of a whole cluster (rollout.yaml:246, reward.yaml:5, transfer_queue.yaml:29)."""
PROMPT_BYTES, RESPONSE_BYTES = 24, 48
"""Bytes a token in TransferQueue: three int64 fields of every token; of a response token also ``response_mask``,
``loss_mask`` and ``responses`` in place of ``prompts``, and two of float32 (agent_loop_tq.py, as_dict)."""
MESSAGES_PER_REQUEST = 2
"""Through the load balancer: acquire_server and release_server (verl/workers/rollout/llm_server.py:81,88)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is assumed of a training. Every field is an option of scaling.py."""

    tokens_per_gpu_s: float = 5000.0
    """Tokens that the engine of a GPU generates in a second."""
    episodes_per_gpu: int = 256
    """Episodes open at a time."""
    gpus_per_node: int = 8
    tokens_per_attempt: int = 512
    attempts_per_episode: float = 2.5
    prompt_tokens: int = 256
    feedback_tokens: int = 32
    rollouts_per_prompt: int = 8
    slice_tokens: int = 0
    """``multiattempt.stop_at_answer_every``; 0 where stop_at_answer is off."""
    pool_share: float = 0.1
    """Of the attempts, those that a verifier process decides."""
    poll_interval_s: float = 0.1
    """Between two looks of the replay buffer."""

    @property
    def requests_per_attempt(self) -> int:
        """Requests to the engine for one attempt."""
        return math.ceil(self.tokens_per_attempt / self.slice_tokens) if self.slice_tokens else 1

    @property
    def response_tokens(self) -> float:
        """Of an episode, feedback included."""
        attempts = self.attempts_per_episode
        return attempts * self.tokens_per_attempt + (attempts - 1) * self.feedback_tokens

    @property
    def read_tokens(self) -> float:
        """What a request's server has to have read, on average: the prompt and half of the response."""
        return self.prompt_tokens + self.response_tokens / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """CPU time of one message or episode, microseconds, as scaling.py measures them: with few others under way."""

    balancer_request: float
    """Of the load balancer: an acquire and a release."""
    worker_attempt: float
    """Of an agent-loop worker: this package's loop, an attempt, the engine's answer at once and without Ray."""
    worker_request: float
    """The same: a request to the engine through the load balancer, by Ray."""
    worker_episode: float
    """The same: the reward's call and the put into TransferQueue."""
    worker_prompt: float
    """The same: the two changes of a prompt's status."""
    worker_log: float
    """The same: an episode's line in the log (its own thread)."""
    pool_call: float
    """Of a verifier process: an attempt that the loop's process does not decide itself."""
    reward_episode: float
    controller_episode: float
    """Of TransferQueue's controller: an episode's put."""
    controller_prompt: float
    """The same: the two changes of a prompt's status."""
    controller_listed: float
    """The same: one key of one look of the replay buffer."""
    look_listed: float
    """Wall time of a look, for one key; the most of it is the trainer's own."""
    storage_episode: float
    """Of all storage units."""
    trainer_episode: float
    """Of the trainer: reading an episode's record and making the step's figures of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of the pipeline at one size."""

    name: str
    rate: float
    """Messages (episodes, keys) a second."""
    cores: float
    """CPU that they take, in cores of the machine that the costs are from."""
    default: int | None
    """Processes that verl starts unless told otherwise; 1 where there can be only one."""
    knob: str
    """What sets their number; empty where nothing does."""

    @property
    def busy(self) -> float:
        """Share of the default processes' time, each with a core."""
        return self.cores / (self.default or 1)

    def needed(self, target: float = 0.5) -> int:
        """Processes that keep each below ``target`` of a core."""
        return max(1, math.ceil(self.cores / target))


def rates(load: Load, nodes: int) -> dict[str, float]:
    """Attempts, requests, episodes and prompts a second, and episodes open at a time."""
    gpus = nodes * load.gpus_per_node
    attempts = gpus * load.tokens_per_gpu_s / load.tokens_per_attempt
    episodes = attempts / load.attempts_per_episode
    return {
        "open_episodes": float(gpus * load.episodes_per_gpu),
        "attempts": attempts,
        "requests": attempts * load.requests_per_attempt,
        "episodes": episodes,
        "prompts": episodes / load.rollouts_per_prompt,
    }


def parts(load: Load, costs: Costs, nodes: int) -> list[Part]:
    """Every part of the pipeline around the engines, at a size."""
    per_s = rates(load, nodes)
    attempts, requests, episodes, prompts = (per_s[name] for name in ("attempts", "requests", "episodes", "prompts"))
    # A look lists every prompt, and every rollout that has ended: half of a step's on average.
    keys = per_s["open_episodes"] * (1 / load.rollouts_per_prompt + 0.5)
    look_s = keys * costs.look_listed / 1e6
    listed = keys / (load.poll_interval_s + look_s)
    worker = attempts * costs.worker_attempt + requests * costs.worker_request + episodes * costs.worker_episode
    worker += prompts * costs.worker_prompt
    controller = episodes * costs.controller_episode + prompts * costs.controller_prompt
    agent, data = "actor_rollout_ref.rollout.agent.num_workers", "transfer_queue.backend.SimpleStorage."
    rows = [
        ("load balancer", MESSAGES_PER_REQUEST * requests, requests * costs.balancer_request, 1, ""),
        ("agent-loop workers", requests, worker, AGENT_WORKERS, agent),
        ("verifier processes", attempts * load.pool_share, attempts * load.pool_share * costs.pool_call,
         2 * AGENT_WORKERS, "multiattempt.verifier.num_workers"),
        ("reward workers", episodes, episodes * costs.reward_episode, REWARD_WORKERS, "reward.num_workers"),
        ("TransferQueue controller", 3 * episodes + 4 * prompts, controller, 1, ""),
        ("the same, keys listed in looks", listed, listed * costs.controller_listed, 1, ""),
        ("storage units", episodes, episodes * costs.storage_episode, STORAGE_UNITS, data + "num_data_storage_units"),
        ("trainer: this package's figures", episodes, episodes * costs.trainer_episode, 1, ""),
        ("episode log, all logged", episodes, episodes * costs.worker_log, AGENT_WORKERS, agent),
    ]  # fmt: skip
    return [
        Part(name=name, rate=rate, cores=us / 1e6, default=default, knob=knob) for name, rate, us, default, knob in rows
    ]


def bytes_per_episode(load: Load) -> float:
    """Of the tensors that an episode puts into TransferQueue."""
    return load.prompt_tokens * PROMPT_BYTES + load.response_tokens * RESPONSE_BYTES


def sticky_share(open_episodes: float, entries: int = STICKY_ENTRIES) -> float:
    """Share of the later requests of episodes that the load balancer still sends to their own server.

    It forgets the conversation that it has not seen for longest. Of conversations that ask in no particular order, it
    remembers ``entries``.
    """
    return min(1.0, entries / open_episodes)


def read_again(load: Load, open_episodes: float) -> float:
    """Tokens that engines read a second time for each token that they generate, since the request came to another."""
    later = 1 - 1 / (load.attempts_per_episode * load.requests_per_attempt)
    lost = later * (1 - sticky_share(open_episodes))
    return lost * load.read_tokens * load.requests_per_attempt / load.tokens_per_attempt


def full_at(load: Load, costs: Costs) -> list[tuple[str, float]]:
    """What breaks, and the number of nodes at which it does with verl's defaults; what breaks first comes first."""
    one = parts(load, costs, 1)
    open_episodes = rates(load, 1)["open_episodes"]
    # The looks take what is left of the controller; they do not grow with the nodes as the rest does.
    sizes = [(part.name, 1 / part.busy) for part in one if part.busy > 0 and "looks" not in part.name]
    sizes.append(("the load balancer's memory of conversations", STICKY_ENTRIES / open_episodes))
    # Kept until the step has trained on them, beside the prompts' own keys where the trainer is asynchronous.
    sizes.append(("TransferQueue's capacity, a step of the open episodes", STORED_ROLLOUTS / open_episodes))
    return sorted(sizes, key=lambda item: item[1])


KINDS = {
    "load balancer": "balancer_", "agent-loop workers": "worker_", "reward workers": "reward_",
    "TransferQueue controller": "controller_", "storage units": "storage_",
}  # fmt: skip
"""Processes, and how the names of their costs begin."""


def scaled(costs: Costs, factors: Mapping[str, float]) -> Costs:
    """The costs of each kind of process times its factor; those of others as they are.

    Args:
        costs: as measured one by one.
        factors: by kind of process, as in `KINDS`.
    """
    changed = {
        field.name: getattr(costs, field.name) * factors.get(kind, 1.0)
        for kind, prefix in KINDS.items()
        for field in fields(Costs)
        if field.name.startswith(prefix)
    }
    return replace(costs, **changed)


def predicted(
    costs: Costs, *, episodes: int, prompts: int, attempts: int, requests: int, pool_calls: int
) -> dict[str, float]:
    """CPU seconds of each kind of process for a given number of messages; for the comparison with the simulation."""
    worker = attempts * costs.worker_attempt + requests * costs.worker_request
    worker += episodes * (costs.worker_episode + costs.worker_log) + prompts * costs.worker_prompt
    microseconds = {
        "agent-loop workers": worker,
        "load balancer": requests * costs.balancer_request,
        "reward workers": episodes * costs.reward_episode,
        "TransferQueue controller": episodes * costs.controller_episode + prompts * costs.controller_prompt,
        "storage units": episodes * costs.storage_episode,
        "verifier processes": pool_calls * costs.pool_call,
    }
    return {name: value / 1e6 for name, value in microseconds.items()}
