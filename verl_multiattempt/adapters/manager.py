"""verl's agent-loop manager, which tells episodes whether they are validation."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from omegaconf import open_dict
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ
from verl.utils import tensordict_utils as tu

from verl_multiattempt.adapters.agent_loop import VALIDATE_FIELD
from verl_multiattempt.adapters.preflight import AGENT_LOOP


def agent_loop_config_path() -> str:
    """Absolute path of the YAML that names the agent loop."""
    return str(files("verl_multiattempt.config") / "agent_loop.yaml")


class MultiAttemptAgentLoopManager(AgentLoopManagerTQ):
    """Set by ``actor_rollout_ref.rollout.agent.agent_loop_manager_class``.

    Does two things that verl 0.9.1 gives an agent loop no other way to have: it names the loop to the workers by
    import path (verl registers loops in a table of each process), and it hands on the batch's ``validate``, which
    ``AgentLoopWorkerTQ.generate_sequences`` takes out before the loops run.
    """

    def __init__(self, config: Any, *args: Any, **kwargs: Any):
        agent = config.actor_rollout_ref.rollout.agent
        if agent.agent_loop_config_path is None:
            with open_dict(agent):
                agent.agent_loop_config_path = agent_loop_config_path()
        super().__init__(config, *args, **kwargs)

    def generate_sequences(self, prompts: Any) -> None:
        """Dispatch a batch to the workers, marked as validation or not."""
        loop = self.rollout_config.agent.default_agent_loop
        if "agent_name" in prompts and loop == AGENT_LOOP:
            raise ValueError(
                "the dataset must give no field agent_name, which makes verl run other agent loops than multiattempt; "
                "got one. Drop it."
            )
        validate = bool(prompts["validate"]) if "validate" in prompts else False
        tu.assign_non_tensor_data(prompts, VALIDATE_FIELD, validate)
        super().generate_sequences(prompts)
