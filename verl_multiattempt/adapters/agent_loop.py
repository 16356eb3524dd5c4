"""``MultiAttemptAgentLoop``: verl's agent loop around `verl_multiattempt.rollout.run_episode`."""

from __future__ import annotations

import bisect
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar
from uuid import uuid4

from omegaconf import DictConfig, OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopBase, AgentLoopOutput
from verl.experimental.agent_loop.tool_agent_loop import SPEC_DECODE_EXTRA_KEYS
from verl.workers.rollout.replica import TokenOutput

from verl_multiattempt.adapters.chat import ChatScaffold, resolve_scaffold
from verl_multiattempt.adapters.tokens import TokenStream
from verl_multiattempt.answer import extract_answer
from verl_multiattempt.attempts import episode_max_attempts, prompt_key, resolve_scope
from verl_multiattempt.episode import Episode, Stop
from verl_multiattempt.feedback import Message, feedback_text, open_messages
from verl_multiattempt.rollout import Generation, run_episode
from verl_multiattempt.settings import Settings
from verl_multiattempt.verifier import Question, Verdict, Verifier, make_verifier

logger = logging.getLogger(__name__)

RECORD_FIELD = "multiattempt"
"""Key of the episode's record in ``AgentLoopOutput.extra_fields``."""
VALIDATE_FIELD = "multiattempt_validate"
"""Field of the batch that says whether it is validation (set by `verl_multiattempt.adapters.manager`)."""
MAX_FRUITLESS_RESUMES = 8
"""Aborted generations in a row, without a new token, after which the episode fails."""
_ABORTED = ("abort", "aborted")


class EpisodeError(RuntimeError):
    """An episode cannot be finished or trained on; verl marks its rollout failed and the others go on."""


@dataclass(slots=True)
class _Shared:
    """What the episodes of a worker process share."""

    settings: Settings
    scaffold: ChatScaffold
    verifier: Verifier
    scope: str


def read_settings(config: DictConfig) -> Settings:
    """The validated settings of ``config.multiattempt``.

    Raises:
        ValueError: the key is absent, or a value cannot work.
    """
    node = config.get("multiattempt")
    if node is None:
        raise ValueError("multiattempt must be in the config; got nothing. Add +recipe=multiattempt to the command.")
    return Settings.from_mapping(OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node)


def scaffold_for(settings: Settings, tokenizer: Any, template_kwargs: Any) -> ChatScaffold:
    """The chat scaffold for these settings; raises as `resolve_scaffold` does."""
    return resolve_scaffold(
        tokenizer,
        feedback_role=settings.feedback.role,
        sample_feedback=feedback_text(settings.feedback, max(1, settings.max_attempts - 1)),
        template_kwargs=OmegaConf.to_container(template_kwargs, resolve=True)
        if isinstance(template_kwargs, DictConfig)
        else template_kwargs,
        allowed_special_tokens=settings.allowed_special_tokens,
    )


class MultiAttemptAgentLoop(AgentLoopBase):
    """Runs one rollout as an episode of up to ``max_attempts`` attempts.

    Made by verl for each rollout; the settings, the chat scaffold and the verifier's processes are made once for each
    worker process.
    """

    _shared: ClassVar[tuple[object, _Shared] | None] = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.response_length: int = self.rollout_config.response_length
        self.prompt_length: int = self.rollout_config.prompt_length
        self.shared = self._get_shared()

    def _get_shared(self) -> _Shared:
        cls = MultiAttemptAgentLoop
        if cls._shared is None or cls._shared[0] is not self.config:
            settings = read_settings(self.config)
            scaffold = scaffold_for(settings, self.tokenizer, self.apply_chat_template_kwargs)
            scope = resolve_scope(settings.scope, self.rollout_config.n)
            cls._shared = (self.config, _Shared(settings, scaffold, make_verifier(settings.verifier), scope))
            logger.warning(
                "multiattempt: episodes of %d..%d attempts (%s, scope %s), feedback as %s message, opening in the %s "
                "message", settings.min_attempts, settings.max_attempts, settings.distribution, scope,
                scaffold.feedback_role, scaffold.opening_placement,
            )  # fmt: skip
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
        shared, settings = self.shared, self.shared.settings
        prompt = list(kwargs["raw_prompt"])
        for message in prompt:
            if not isinstance(message.get("content"), str):
                raise ValueError(f"prompt[].content must be text; got {message.get('content')!r:.200}")
        extra_info = kwargs.get("extra_info") or {}
        key = prompt_key(prompt, _plain_index(extra_info.get("index")))
        episode = Episode(
            max_attempts=episode_max_attempts(
                settings,
                step=int(kwargs.get("global_steps", -1)),
                prompt=key,
                rollout=int(kwargs.get("session_id", 0)),
                scope=shared.scope,
                validate=bool(kwargs.get(VALIDATE_FIELD, False)),
                extra_info=extra_info,
            ),
            question_id=f"{kwargs.get('data_source', '')}/{extra_info.get('index', key)}",
        )
        question = question_of(kwargs)
        messages = open_messages(
            prompt, settings.opening, episode.max_attempts, placement=shared.scaffold.opening_placement
        )
        generator = _AttemptGenerator(loop=self, sampling_params=sampling_params, priority=int(priority))
        try:
            conversation = await run_episode(
                episode,
                messages,
                generator.generate,
                lambda text: self._verify(text, question),
                feedback=settings.feedback,
                feedback_role=shared.scaffold.feedback_role,
            )
            return self._output(episode, generator, num_turns=len(conversation))
        except Exception as error:
            # verl logs the traceback with its random uid; this says which question it was.
            logger.error("multiattempt: episode of question %s failed: %s", episode.question_id, error)
            raise

    async def _verify(self, text: str, question: Question) -> Verdict:
        verdict = await self.shared.verifier.verify(text, question)
        if verdict.feedback:
            # Lone surrogates, which a program's output may hold, no tokenizer takes.
            text = verdict.feedback.encode("utf-8", "replace").decode()
            verdict = replace(verdict, feedback=self.shared.scaffold.as_plain_text(text))
        return verdict

    def _output(self, episode: Episode, generator: _AttemptGenerator, num_turns: int) -> AgentLoopOutput:
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
            if generator.routed_experts is None
            else generator.routed_experts[: len(stream.prompt_ids) + len(stream.response_ids)],
            num_turns=num_turns,
            metrics={
                "generate_sequences": generator.seconds,
                "tool_calls": sum(attempt.verdict.seconds for attempt in episode.attempts),
                "num_preempted": generator.num_preempted,
            },
            # turn_scores and tool_rewards: verl's own loops always set them, and the batch must have one schema.
            extra_fields={
                **generator.extra_fields, "turn_scores": [], "tool_rewards": [], RECORD_FIELD: episode.to_record()
            },
        )  # fmt: skip


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


def _plain_index(index: Any) -> int | str | None:
    return index if index is None or isinstance(index, str | int) else str(index)


@dataclass(slots=True)
class _AttemptGenerator:
    """Generates the attempts of one episode, and keeps its tokens."""

    loop: MultiAttemptAgentLoop
    sampling_params: dict[str, Any]
    priority: int
    stream: TokenStream = field(init=False)
    extra_fields: dict[str, Any] = field(default_factory=dict)
    routed_experts: Any = None
    num_preempted: int = -1
    """-1: not available, as in verl."""
    seconds: float = 0.0
    _request_id: str = ""
    _num_requests: int = 0
    _started: bool = False

    def __post_init__(self) -> None:
        # One id for the whole episode keeps it on one server, where its prefix is cached.
        deterministic = getattr(self.loop.rollout_config, "full_determinism", False)
        self._request_id = f"det-{self.priority}" if deterministic else uuid4().hex

    async def generate(self, messages: list[Message]) -> Generation | None:
        """The next attempt (see `verl_multiattempt.rollout.Generate`)."""
        settings = self.loop.shared.settings
        if not self._started:
            await self._open(messages)
        else:
            context = self.loop.shared.scaffold.context_after(self._last_id(), messages[-1]["content"])
            if len(context) + settings.min_tokens_per_attempt > self.stream.room:
                return None
            self.stream.add_context(context)
        if self.stream.room < 1:
            return None
        start = len(self.stream.response_ids)
        stop = await self._sample(start)
        ids = self.stream.response_ids[start:]
        return Generation(text=self.loop.shared.scaffold.attempt_text(ids), stop=stop, num_tokens=len(ids))

    def _last_id(self) -> int | None:
        return self.stream.last_id if self.stream.response_ids else self.stream.prompt_ids[-1]

    async def _open(self, messages: list[Message]) -> None:
        # verl cuts a long prompt from the left, which would cut the opening off: so its length is checked first.
        loop = self.loop
        builder = loop.continuous_token_builder
        ids = await loop.loop.run_in_executor(None, lambda: builder.build_initial_tokens(messages))
        if len(ids) > loop.prompt_length:
            raise ValueError(
                f"data.max_prompt_length must hold the prompt with its opening ({len(ids)} tokens); "
                f"got {loop.prompt_length}"
            )
        capacity = loop.response_length
        if max_model_len := getattr(loop.rollout_config, "max_model_len", None):
            capacity = min(capacity, max_model_len - len(ids))
        self.stream = TokenStream(prompt_ids=list(ids), capacity=capacity)
        self._started = True

    async def _sample(self, start: int) -> Stop:
        """Sample one attempt into the stream, which has ``start`` response tokens now."""
        settings, scaffold, stream = self.loop.shared.settings, self.loop.shared.scaffold, self.stream
        limit = min(stream.room, settings.max_tokens_per_attempt or stream.room)
        fruitless = 0
        while (sampled := len(stream.response_ids) - start) < limit:
            asked = limit - sampled
            if settings.stop_at_answer:
                asked = min(asked, settings.stop_at_answer_every)
            output = await self._request(asked)
            ids = _until_stop(output.token_ids[:asked], scaffold)
            stream.add_sampled(ids, output.log_probs[: len(ids)] if output.log_probs else None)
            # First, so that the cut does not depend on where a slice ends.
            if settings.stop_at_answer and self._cut_after_answer(start):
                return Stop.ANSWER
            if ids and ids[-1] in scaffold.end_ids:
                return Stop.END_OF_TURN
            if ids and ids[-1] in scaffold.control_ids:
                return Stop.CONTROL_TOKEN
            if output.stop_reason in _ABORTED:
                # Weights are being synchronised: go on where the engine left off.
                fruitless = 0 if ids else fruitless + 1
                if fruitless > MAX_FRUITLESS_RESUMES:
                    raise EpisodeError(f"the engine aborted the generation {fruitless} times in a row")
            elif len(ids) < asked:
                # The engine ended it for a reason of its own (a stop string, its context limit).
                return Stop.END_OF_TURN if len(stream.response_ids) > start else Stop.EMPTY
        return Stop.CONVERSATION_LIMIT if stream.room == 0 else Stop.ATTEMPT_LIMIT

    def _cut_after_answer(self, start: int) -> bool:
        """Drop what follows the token that completes the attempt's first answer; whether there is one."""
        ids, scaffold = self.stream.response_ids[start:], self.loop.shared.scaffold

        def answered(length: int) -> bool:
            return extract_answer(scaffold.attempt_text(ids[:length])) is not None

        if not answered(len(ids)):
            return False
        # "The first n tokens hold an answer" is monotone in n.
        length = bisect.bisect_left(range(1, len(ids) + 1), True, key=answered) + 1
        self.stream.drop_after(start + length)
        return True

    async def _request(self, max_tokens: int) -> TokenOutput:
        params = {
            **self.sampling_params,
            "max_tokens": max_tokens,
            "stop_token_ids": self.loop.shared.scaffold.stop_token_ids(),
        }
        if self._num_requests and getattr(self.loop.rollout_config, "full_determinism", False):
            # The server would give each request of the episode the same seed, and so the same random numbers.
            params["seed"] = self.loop.rollout_config.seed + self._num_requests
        self._num_requests += 1
        started = time.perf_counter()
        output: TokenOutput = await self.loop.server_manager.generate(
            request_id=self._request_id,
            prompt_ids=self.stream.all_ids,
            sampling_params=params,
            priority=self.priority,
        )
        self.seconds += time.perf_counter() - started
        self._take_extras(output)
        return output

    def _take_extras(self, output: TokenOutput) -> None:
        """Carry over what verl wants to know of every generation, as its ToolAgentLoop does."""
        if output.num_preempted is not None:
            self.num_preempted = max(self.num_preempted, 0) + output.num_preempted
        if output.routed_experts is not None:
            self.routed_experts = output.routed_experts
        new = output.extra_fields
        if not self.extra_fields:
            self.extra_fields.update(new)
            return
        if new.get("max_global_steps") is not None:
            self.extra_fields["max_global_steps"] = new["max_global_steps"]
        for name in SPEC_DECODE_EXTRA_KEYS:
            if name in new and name in self.extra_fields:
                self.extra_fields[name] = int(self.extra_fields[name]) + int(new[name])


def _until_stop(ids: Sequence[int], scaffold: ChatScaffold) -> list[int]:
    """``ids`` up to and including the first end-of-turn or control token."""
    for position, token in enumerate(ids):
        if token in scaffold.end_ids or token in scaffold.control_ids:
            return list(ids[: position + 1])
    return list(ids)
