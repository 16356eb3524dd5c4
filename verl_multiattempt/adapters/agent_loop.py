"""``MultiAttemptAgentLoop``: verl's agent loop around `verl_multiattempt.rollout.run_episode`."""

from __future__ import annotations

import gc
import logging
import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput

from verl_multiattempt.adapters.compute_score import with_reward_function
from verl_multiattempt.adapters.engine import Limits, VerlEngine
from verl_multiattempt.adapters.episode_log import is_logged, make_writer, render_episode
from verl_multiattempt.adapters.rendered_example import log_example, speaks_for_the_run
from verl_multiattempt.attempts import episode_max_attempts, prompt_key, resolve_scope, row_index
from verl_multiattempt.chat.attempt_generator import AttemptGenerator, EpisodeError
from verl_multiattempt.chat.layout_check import SAMPLE_TEXT
from verl_multiattempt.chat.scaffold import ChatScaffold, resolve_scaffold
from verl_multiattempt.episode import Episode
from verl_multiattempt.feedback import feedback_text, open_messages
from verl_multiattempt.record_writer import EpisodeWriter
from verl_multiattempt.reward import episode_reward
from verl_multiattempt.rollout import run_episode
from verl_multiattempt.settings import Settings
from verl_multiattempt.verifier import Question, Verdict, Verifier, make_verifier

logger = logging.getLogger(__name__)

RECORD_FIELD = "multiattempt"
"""Key of the episode's record in ``AgentLoopOutput.extra_fields``."""
VALIDATE_FIELD = "multiattempt_validate"
"""Field of the batch that says whether it is validation (set by `verl_multiattempt.adapters.manager`)."""


@dataclass(slots=True)
class _Shared:
    """What the episodes of a worker process share."""

    settings: Settings
    scaffold: ChatScaffold
    verifier: Verifier
    limits: Limits
    scope: str
    writer: EpisodeWriter | None
    """Of the episode log; None where it is off."""


def read_settings(config: DictConfig) -> Settings:
    """The validated settings of ``config.multiattempt``, with the reward function that verl's own keys name.

    Raises:
        ValueError: the key is absent, or a value cannot work.
    """
    return Settings.from_mapping(settings_values(config))


def settings_values(config: DictConfig) -> Any:
    """What `read_settings` validates.

    Raises:
        ValueError: the key is absent.
    """
    node = config.get("multiattempt")
    if node is None:
        raise ValueError("multiattempt must be in the config; got nothing. Add +recipe=multiattempt to the command.")
    values = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    return with_reward_function(values, config)


def scaffold_for(settings: Settings, tokenizer: Any, template_kwargs: Any) -> ChatScaffold:
    """The chat scaffold for these settings; raises as `resolve_scaffold` does."""
    longest = max(settings.max_attempts, settings.val_max_attempts or 1)
    return resolve_scaffold(
        tokenizer,
        feedback_role=settings.feedback.role,
        sample_feedback=feedback_text(settings.feedback, max(1, longest - 1), SAMPLE_TEXT),
        opening=settings.opening,
        template_kwargs=OmegaConf.to_container(template_kwargs, resolve=True)
        if isinstance(template_kwargs, DictConfig)
        else template_kwargs,
        allowed_special_tokens=settings.allowed_special_tokens,
        max_attempts=longest,
    )


class MultiAttemptAgentLoop(AgentLoopBase):
    """Runs one rollout as an episode of up to ``max_attempts`` attempts.

    Made by verl for each rollout; the settings, the chat scaffold and the verifier's processes are made once for each
    worker process.
    """

    _shared: ClassVar[tuple[object, _Shared] | None] = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.shared = self._get_shared()

    def _get_shared(self) -> _Shared:
        cls = MultiAttemptAgentLoop
        if cls._shared is None or cls._shared[0] is not self.config:
            settings = read_settings(self.config)
            scaffold = scaffold_for(settings, self.tokenizer, self.apply_chat_template_kwargs)
            scope = resolve_scope(settings.scope, self.rollout_config.n)
            writer = make_writer(self.config, settings)
            verifier, limits = make_verifier(settings.verifier), Limits.from_config(self.rollout_config)
            if cls._shared is None:
                freeze_heap()
            cls._shared = (self.config, _Shared(settings, scaffold, verifier, limits, scope, writer))
            _introduce(settings, scaffold, scope, writer)
        return cls._shared[1]

    async def run(self, sampling_params: dict[str, Any], priority: int = 0, **kwargs: Any) -> AgentLoopOutput:
        """Run one episode.

        Args:
            sampling_params: verl's sampling parameters.
            priority: verl's scheduling priority of the rollout.
            **kwargs: the row's fields, as verl's dataset gives them.

        Returns:
            Prompt, response, mask and log-probabilities (design: token invariants), with the episode's record in
            ``extra_fields["multiattempt"]``.

        Raises:
            EpisodeError: the episode cannot be finished or trained on.
            ValueError: the row cannot be used.
        """
        started_at, started = time.time(), time.perf_counter()
        shared, settings = self.shared, self.shared.settings
        prompt = list(kwargs["raw_prompt"])
        for message in prompt:
            if not isinstance(message.get("content"), str):
                raise ValueError(f"prompt[].content must be text; got {message.get('content')!r:.200}")
        extra_info = kwargs.get("extra_info") or {}
        index = row_index(extra_info)
        key = prompt_key(prompt, index)
        validate = bool(kwargs.get(VALIDATE_FIELD, False))
        episode = Episode(
            max_attempts=episode_max_attempts(
                settings,
                step=int(kwargs.get("global_steps", -1)),
                prompt=key,
                rollout=int(kwargs.get("session_id", 0)),
                scope=shared.scope,
                validate=validate,
                extra_info=extra_info,
            ),
            question_id=f"{kwargs.get('data_source', '')}/{key if index is None else index}",
        )
        question = question_of(kwargs)
        messages = open_messages(
            prompt, settings.opening, episode.max_attempts, placement=shared.scaffold.opening_placement
        )
        engine = VerlEngine(loop=self, sampling_params=sampling_params, priority=int(priority))
        generator = AttemptGenerator(shared.scaffold, settings, engine.open_stream, engine.sample)
        try:
            conversation = await run_episode(
                episode,
                messages,
                generator.generate,
                lambda text: self._verify(text, question),
                feedback=settings.feedback,
                feedback_role=shared.scaffold.feedback_role,
            )
            output = self._output(episode, generator, engine, num_turns=len(conversation))
        except Exception as error:
            # verl logs the traceback with its random uid; this says which question it was.
            logger.error("multiattempt: episode of question %s failed: %s", episode.question_id, error)
            raise
        if shared.writer is not None and is_logged(kwargs):
            shared.writer.submit(
                render_episode(
                    kwargs,
                    episode=episode,
                    stream=generator.stream,
                    tokenizer=self.tokenizer,
                    messages=messages,
                    index=index,
                    reward=episode_reward(episode, settings.reward),
                    validate=validate,
                    started_at=started_at,
                    seconds=time.perf_counter() - started,
                )
            )
        return output

    async def _verify(self, text: str, question: Question) -> Verdict:
        verdict = await self.shared.verifier.verify(text, question)
        if verdict.feedback:
            # Lone surrogates, which a program's output may hold, no tokenizer takes.
            text = verdict.feedback.encode("utf-8", "replace").decode()
            verdict = replace(verdict, feedback=self.shared.scaffold.as_plain_text(text))
        return verdict

    def _output(
        self, episode: Episode, generator: AttemptGenerator, engine: VerlEngine, num_turns: int
    ) -> AgentLoopOutput:
        stream = generator.stream
        stream.drop_trailing_context()
        if not stream.response_ids:
            raise EpisodeError("the engine returned no token at all, so there is nothing to train on")
        if episode.undecided and self.shared.settings.reward.on_verifier_failure == "fail":
            details = [attempt.verdict.detail for attempt in episode.attempts]
            raise EpisodeError(f"a verification failed and multiattempt.reward.on_verifier_failure is fail: {details}")
        episode.num_context_tokens = stream.response_mask.count(0)
        return AgentLoopOutput(
            prompt_ids=stream.prompt_ids,
            response_ids=stream.response_ids,
            response_mask=stream.response_mask,
            response_logprobs=stream.response_logprobs,
            routed_experts=None
            if engine.routed_experts is None
            else engine.routed_experts[: len(stream.prompt_ids) + len(stream.response_ids)],
            num_turns=num_turns,
            metrics={
                "generate_sequences": generator.seconds,
                "tool_calls": sum(attempt.verdict.seconds for attempt in episode.attempts),
                "num_preempted": engine.num_preempted,
            },
            # turn_scores and tool_rewards: verl's own loops always set them, and the batch must have one schema.
            extra_fields={
                **engine.extra_fields, "turn_scores": [], "tool_rewards": [], RECORD_FIELD: episode.to_record()
            },
        )  # fmt: skip


def freeze_heap() -> None:
    """Take what the process has loaded by now out of the garbage collector's sight, as vLLM does in its own processes.

    It stays to the end anyway, and with torch and verl in it a full collection stops the event loop, and so all
    episodes, for hundreds of milliseconds.
    """
    gc.collect()
    gc.freeze()


def _introduce(settings: Settings, scaffold: ChatScaffold, scope: str, writer: EpisodeWriter | None) -> None:
    """Log what episodes are like; in one of the run's worker processes, since it is the same in all."""
    if not speaks_for_the_run():
        return
    logger.warning(
        "multiattempt: episodes of %d..%d attempts (%s, scope %s), feedback as %s message, opening in the %s message",
        settings.min_attempts, settings.max_attempts, settings.distribution, scope, scaffold.feedback_role,
        scaffold.opening_placement,
    )  # fmt: skip
    if writer is not None:
        logger.warning("multiattempt: episodes are logged to %s", writer.directory)
    log_example(scaffold, settings)


def question_of(row: dict[str, Any]) -> Question:
    """What the verifier may know of a row.

    Raises:
        ValueError: the row has no ``reward_model.ground_truth``.
    """
    reward_model = row.get("reward_model") or {}
    if reward_model.get("ground_truth") is None:
        raise ValueError(f"reward_model.ground_truth must be in every row; got {reward_model!r}")
    return Question(
        ground_truth=reward_model["ground_truth"],
        data_source=str(row.get("data_source", "")),
        extra_info=row.get("extra_info") or {},
    )
