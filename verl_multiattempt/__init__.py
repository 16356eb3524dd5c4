"""Multi-attempt reinforcement learning for verl. Importing this package imports neither torch nor verl."""

from verl_multiattempt.answer import extract_answer
from verl_multiattempt.episode import Attempt, Episode, Stop
from verl_multiattempt.reward import episode_reward
from verl_multiattempt.rollout import Generation, run_episode
from verl_multiattempt.settings import Settings
from verl_multiattempt.verifier import Outcome, Question, Verdict, Verifier, register_verifier

__version__ = "0.1.0"

__all__ = [
    "Attempt",
    "Episode",
    "Generation",
    "Outcome",
    "Question",
    "Settings",
    "Stop",
    "Verdict",
    "Verifier",
    "episode_reward",
    "extract_answer",
    "register_verifier",
    "run_episode",
]
