"""verl's agent-loop manager, which tells episodes whether they are validation and whether they are logged."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import ray
from omegaconf import open_dict
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ
from verl.utils import tensordict_utils as tu

from verl_multiattempt.adapters.agent_loop import VALIDATE_FIELD, read_settings
from verl_multiattempt.adapters.episode_log import LOGGED_FIELD, log_directory
from verl_multiattempt.adapters.wiring import AGENT_LOOP
from verl_multiattempt.record_writer import RecordQuota


def agent_loop_config_path() -> str:
    """Absolute path of the YAML that names the agent loop."""
    return str(files("verl_multiattempt.config") / "agent_loop.yaml")


class MultiAttemptAgentLoopManager(AgentLoopManagerTQ):
    """Set by ``actor_rollout_ref.rollout.agent.agent_loop_manager_class``.

    Does two things that verl 0.9.1 gives an agent loop no other way to have: it names the loop to the workers by
    import path (verl registers loops in a table of each process), and it hands on the batch's ``validate``, which
    ``AgentLoopWorkerTQ.generate_sequences`` takes out before the loops run. It chooses the rollouts for the episode
    log, since it alone sees the batches of all workers. And it gives the workers even shares in turn: verl's are of
    ceil(prompts / workers) prompts from the first worker on, so of 65 prompts 31 of 64 workers get none, and a prompt
    that replaces a filtered one always comes to the first.
    """

    _next_worker = 0

    def __init__(self, config: Any, *args: Any, **kwargs: Any):
        agent = config.actor_rollout_ref.rollout.agent
        if agent.agent_loop_config_path is None:
            with open_dict(agent):
                agent.agent_loop_config_path = agent_loop_config_path()
        self._record = self._set_up_log(config)
        super().__init__(config, *args, **kwargs)

    def _set_up_log(self, config: Any) -> RecordQuota | None:
        settings = read_settings(config)
        if not settings.record.enabled:
            return None
        with open_dict(config.multiattempt):
            # One folder for all workers, whatever directory they run in.
            config.multiattempt.record.dir = str(log_directory(config, settings))
        return RecordQuota(settings.record.every_n_steps, settings.record.max_episodes_per_step)

    def _rollouts_logged(self, prompts: Any, validate: bool) -> list[int]:
        """How many rollouts of each prompt go into the log, ``[num_prompts]``."""
        if self._record is None:
            return [0] * len(prompts)
        config = self.rollout_config
        default = config.val_kwargs.n if validate else config.n
        rollouts = prompts["__rollout_n__"] if "__rollout_n__" in prompts else [default] * len(prompts)
        return self._record.choose([int(n) for n in rollouts], step=int(prompts["global_steps"]), validate=validate)

    def generate_sequences(self, prompts: Any) -> None:
        """Dispatch a batch to the workers, marked as validation or not, and to be logged or not."""
        loop = self.rollout_config.agent.default_agent_loop
        if "agent_name" in prompts and loop == AGENT_LOOP:
            raise ValueError(
                "the dataset must give no field agent_name, which makes verl run other agent loops than multiattempt; "
                "got one. Drop it."
            )
        validate = bool(prompts["validate"]) if "validate" in prompts else False
        tu.assign_non_tensor_data(prompts, VALIDATE_FIELD, validate)
        tu.assign_non_tensor_stack(prompts, LOGGED_FIELD, self._rollouts_logged(prompts, validate))
        workers = self.agent_loop_workers
        sizes = even_sizes(len(prompts), len(workers))
        chosen = [workers[(self._next_worker + i) % len(workers)] for i in range(len(sizes))]
        self._next_worker = (self._next_worker + len(sizes)) % len(workers)
        ray.get(
            [
                worker.generate_sequences.remote(share)
                for worker, share in zip(chosen, prompts.split(sizes), strict=True)
            ]
        )


def even_sizes(prompts: int, workers: int) -> list[int]:
    """Sizes of the workers' shares of a batch, ``[at most workers]``; they differ by 1 at most."""
    shares = min(prompts, workers)
    return [prompts // shares + (i < prompts % shares) for i in range(shares)]
