"""An evaluation counts what training counts: the same attempts, through both loops, give the same figures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.adapters.harness import ScriptedServer, row, run_attempts
from tests.tokenizers import make_tokenizer
from verl_multiattempt.chat.scaffold import ChatScaffold, resolve_scaffold
from verl_multiattempt.episode import Episode
from verl_multiattempt.feedback import feedback_text, open_messages
from verl_multiattempt.metrics import episode_metrics
from verl_multiattempt.rollout import run_episode
from verl_multiattempt.settings import Settings
from verl_multiattempt.verifier import Question, make_verifier

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "tiny_math"))

import evaluate

TOKENIZER = make_tokenizer()
ALLOWANCE = 4
GOLD = "42"


def ids(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False))


class Scripted:
    """The script of the agent loop's server, as the evaluation's model."""

    def __init__(self, attempts: list[list[int]], scaffold: ChatScaffold):
        self._server = ScriptedServer(attempts)
        self._stop_ids = scaffold.stop_token_ids()

    async def generate(self, key: str, ids: list[int], max_tokens: int) -> list[int]:
        params = {"max_tokens": max_tokens, "stop_token_ids": self._stop_ids}
        return list((await self._server.generate(key, prompt_ids=ids, sampling_params=params)).token_ids)


async def evaluated(attempts: list[list[int]], settings: Settings, response_length: int) -> Episode:
    """The episode as evaluate.py runs it."""
    scaffold = resolve_scaffold(TOKENIZER, sample_feedback=feedback_text(settings.feedback, 1))
    made = evaluate.Attempts(
        "q", Scripted(attempts, scaffold), scaffold, settings, response_length=response_length  # type: ignore[arg-type]
    )  # fmt: skip
    verifier, episode = make_verifier(settings.verifier), Episode(max_attempts=ALLOWANCE)
    question = Question(ground_truth=GOLD)
    messages = open_messages(row()["raw_prompt"], settings.opening, ALLOWANCE, placement=scaffold.opening_placement)
    await run_episode(episode, messages, made.generate, lambda text: verifier.verify(text, question),
                      feedback=settings.feedback, feedback_role=scaffold.feedback_role)  # fmt: skip
    await verifier.close()
    episode.num_context_tokens = made.num_context_tokens()
    return episode


WRONG, AGAIN = "so \\boxed{41}<|im_end|>", "\\boxed{82/2}<|im_end|>"
NONE, RIGHT = "hm<|im_end|>", "\\boxed{42}<|im_end|>"
CASES: dict[str, tuple[list[str], dict[str, Any], int]] = {
    "solved at once": ([RIGHT], {}, 512),
    "solved at the last attempt": ([WRONG, AGAIN, NONE, RIGHT], {}, 512),
    "never solved": ([WRONG, WRONG, NONE, AGAIN], {}, 512),
    "attempts cut": (["\\boxed{1} and so on and on", RIGHT], {"max_tokens_per_attempt": 16}, 512),
    "no room for feedback": ([WRONG], {}, 40),
    "cut by the conversation": ([WRONG, "on and on and on and on " * 40], {}, 200),
}


@pytest.mark.parametrize("case", CASES)
async def test_both_loops_count_the_same(case: str) -> None:
    texts, changes, response_length = CASES[case]
    attempts = [ids(text) for text in texts]
    output, _, _ = await run_attempts(
        attempts, settings={**changes, "max_attempts": ALLOWANCE}, response_length=response_length,
        fields={"reward_model": {"ground_truth": GOLD}},
    )  # fmt: skip
    settings = Settings.from_mapping({"max_attempts": ALLOWANCE, **changes})
    both = [
        Episode.from_record(output.extra_fields["multiattempt"]),
        await evaluated(attempts, settings, response_length),
    ]
    trained, tested = (episode_metrics([episode], settings.reward, ALLOWANCE) for episode in both)
    assert trained.keys() == tested.keys()
    timed = {name for name in trained if "verification_s/" in name}
    assert {n: v for n, v in trained.items() if n not in timed} == {n: v for n, v in tested.items() if n not in timed}
    assert trained["multiattempt/attempts"] == len(texts)
    if len(texts) > 1:
        assert trained["multiattempt/context_tokens/share"] > 0
