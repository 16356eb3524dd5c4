"""An episode as text for a terminal."""

from __future__ import annotations

import json
import re
import textwrap
from typing import Any

from verl_multiattempt.metrics import repeats
from verl_multiattempt.record import RecordedEpisode
from verl_multiattempt.verifier import Outcome

_COLOURS = {
    "bold": "1",
    "dim": "2",
    "model": "34",
    "feedback": "33",
    Outcome.CORRECT: "1;32",
    Outcome.INCORRECT: "1;31",
    Outcome.NO_ANSWER: "1;35",
    Outcome.TIMEOUT: "1;35",
    Outcome.ERROR: "1;35",
}
# All that moves a cursor, starts an escape sequence, hides, or reorders what stands beside it.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str) -> str:
    r"""The text with control characters as ``\x1b``, so that a model's output cannot drive the terminal."""
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def episode_text(recorded: RecordedEpisode, *, colour: bool = False) -> str:
    """An episode with its verdicts, over several lines.

    Args:
        recorded: the episode.
        colour: whether to write the terminal's colour codes.
    """
    episode = recorded.episode
    lines = [_paint(_head(recorded), "bold", colour), f"ground truth: {printable(_plain(recorded.ground_truth))}"]
    for message in recorded.messages:
        lines += _block(message["role"], _plain(message["content"]), "dim", colour)
    for i, attempt in enumerate(episode.attempts):
        lines += _block(f"attempt {i + 1}/{episode.max_attempts}", attempt.text, "model", colour)
        verdict = attempt.verdict
        said = [_paint(verdict.outcome.value, verdict.outcome, colour)]
        if verdict.answer is not None:
            said.append(f"answer: {printable(verdict.answer)}")
        if i > 0 and repeats(episode, i):
            said.append("repeats an earlier answer")
        said += [printable(text) for text in (verdict.detail, verdict.fault and f"fault: {verdict.fault}") if text]
        lines.append(f"  => {'; '.join(said)} ({attempt.num_tokens} tokens, {attempt.stop})")
        if attempt.feedback is not None:
            lines += _block("feedback", attempt.feedback, "feedback", colour)
    return "\n".join(lines) + "\n"


def _head(recorded: RecordedEpisode) -> str:
    episode = recorded.episode
    ending = "solved" if episode.solved else "truncated" if episode.truncated else "not solved"
    return printable(
        f"=== step {recorded.step} {'validation' if recorded.validate else 'training'} {episode.question_id} "
        f"rollout {recorded.rollout}: {ending} after {episode.attempts_used} of {episode.max_attempts} attempts, "
        f"reward {recorded.reward:g}"
    )


def _block(label: str, text: str, style: str, colour: bool) -> list[str]:
    body = textwrap.indent(printable(text), "  | ", predicate=lambda line: True)
    return [f"{printable(label)}:", *(_paint(line, style, colour) for line in body.split("\n"))]


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _paint(text: str, style: str, colour: bool) -> str:
    return f"\x1b[{_COLOURS[style]}m{text}\x1b[0m" if colour else text
