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
# All but tab, line feed and space that moves a cursor, starts an escape sequence, hides, reorders what stands beside
# it, or is seen as nothing or as a mere space: Unicode's categories Cc, Cf, Cs, Zl, Zp and Zs, its property
# Default_Ignorable_Code_Point (which Python does not have), the blank of Braille, and what is no character.
_RANGES = (
    "0-8 b-1f 7f-a0 ad 34f 600-605 61c 6dd 70f 890-891 8e2 115f-1160 1680 17b4-17b5 180b-180f 2000-200f 2028-202f "
    "205f-206f 2800 3000 3164 d800-dfff fdd0-fdef fe00-fe0f feff ffa0 fff0-fffb 110bd 110cd 13430-1343f 1bca0-1bca3 "
    "1d173-1d17a e0000-e0fff"
)
_PLANES = 17
HIDDEN = tuple(
    (int(first, 16), int(last or first, 16)) for first, _, last in (item.partition("-") for item in _RANGES.split())
) + tuple(((plane << 16) + 0xFFFE, (plane << 16) + 0xFFFF) for plane in range(_PLANES))
"""First and last of each range of characters that are shown by their code."""
_HIDDEN = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in HIDDEN) + "]")


def printable(text: str) -> str:
    r"""The text with what is not seen as ``\x1b``, ``\u200b`` ...; so a model's output cannot drive the terminal."""
    return _HIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


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
        # A server that only gives text may not say how many tokens it was.
        tokens = f"{attempt.num_tokens} tokens, " if attempt.num_tokens or not attempt.text else ""
        lines.append(f"  => {'; '.join(said)} ({tokens}{attempt.stop})")
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
