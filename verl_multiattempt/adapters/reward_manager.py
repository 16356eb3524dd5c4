"""``MultiAttemptRewardManager``: the reward from an episode's record."""

from __future__ import annotations

from typing import Any

from verl import DataProto
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase

from verl_multiattempt.adapters.agent_loop import RECORD_FIELD, question_of, read_settings
from verl_multiattempt.episode import Attempt, Episode, Stop
from verl_multiattempt.reward import episode_reward
from verl_multiattempt.rollout import decide
from verl_multiattempt.verifier import Outcome, Verifier, make_verifier


class MultiAttemptRewardManager(RewardManagerBase):
    """Rewards episodes by their record, and rollouts without one (verl's single-turn loop) by verifying them.

    The text of a rollout with feedback in it is never searched for an answer: the feedback is not the model's.
    """

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        compute_score: Any,
        reward_router_address: str | None = None,
        reward_model_tokenizer: Any = None,
    ):
        super().__init__(config, tokenizer, compute_score)
        self.settings = read_settings(config)
        self._verifier: Verifier | None = None

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """Reward one rollout.

        Args:
            data: the outputs of the rollout; the last one counts.

        Returns:
            ``reward_score`` and ``reward_extra_info``, whose numbers verl's validation averages: ``acc``,
            ``acc_within_<k>`` for k up to the validation's allowance, and more.
        """
        # Of an item alone: to take one out of all tensors takes as long as the rest.
        extra_fields = data.non_tensor_batch.get("tool_extra_fields")
        record = None if extra_fields is None else (extra_fields[-1] or {}).get(RECORD_FIELD)
        episode = Episode.from_record(record) if record is not None else await self._single_attempt(data[-1:][0])
        settings = self.settings
        # Of an episode with a record, the agent loop has seen to this.
        if record is None and episode.undecided and settings.reward.on_verifier_failure == "fail":
            raise RuntimeError(
                "a verification failed and multiattempt.reward.on_verifier_failure is fail: "
                f"{episode.attempts[-1].verdict.detail}"
            )
        return {
            "reward_score": float(episode_reward(episode, settings.reward)),
            "reward_extra_info": reward_extra_info(episode, settings.val_max_attempts or settings.max_attempts),
        }

    async def _single_attempt(self, item: Any) -> Episode:
        """The rollout of a loop that keeps no record, as an episode of one attempt."""
        if self._verifier is None:
            self._verifier = make_verifier(self.settings.verifier)
        responses = item.batch["responses"]
        length = int(item.batch["attention_mask"][-responses.shape[-1] :].sum())
        ids = responses[:length].tolist()
        text = await self.loop.run_in_executor(None, lambda: self.tokenizer.decode(ids, skip_special_tokens=True))
        verifier, question = self._verifier, question_of(item.non_tensor_batch)
        verdict = await decide(lambda attempt: verifier.verify(attempt, question), text, question.data_source)
        ended = bool(ids) and ids[-1] == self.tokenizer.eos_token_id
        stop = Stop.END_OF_TURN if ended else Stop.CONVERSATION_LIMIT
        episode = Episode(max_attempts=1)
        episode.add(Attempt(text=text, verdict=verdict, stop=stop, num_tokens=length))
        return episode


def reward_extra_info(episode: Episode, max_attempts: int) -> dict[str, float]:
    """Numbers of one episode for verl's validation metrics; the same keys for every episode.

    Args:
        episode: an ended episode.
        max_attempts: largest k of ``acc_within_<k>``.
    """
    return {
        "acc": float(episode.solved),
        **{f"acc_within_{k}": float(episode.solved_within(k)) for k in range(1, max_attempts + 1)},
        "answered": float(episode.answered),
        "attempts_used": float(episode.attempts_used),
        "max_attempts": float(episode.max_attempts),
        "truncated": float(episode.truncated),
        "timeouts": float(sum(attempt.verdict.outcome is Outcome.TIMEOUT for attempt in episode.attempts)),
        "errors": float(sum(attempt.verdict.outcome is Outcome.ERROR for attempt in episode.attempts)),
    }
