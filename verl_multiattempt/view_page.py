r"""The viewer's HTML page: its assets, an index of the episodes, and their contents in compressed chunks.

The index is what the list and its filters need; it stands before the script, which draws the list before the browser
has read the rest. The contents follow in chunks (gzip, base64), unpacked when an episode is opened.

Texts of a model are hostile. They are JSON in ASCII with ``<``, ``>`` and ``&`` as ``\u003c`` and so on, or base64; the
script puts them into the page as text nodes alone; and the page's Content-Security-Policy admits no script but its own,
by hash, and no request to anywhere.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import math
import os
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TextIO

from verl_multiattempt.answer import boxed_spans
from verl_multiattempt.metrics import repeats
from verl_multiattempt.record import RecordedEpisode
from verl_multiattempt.verifier import Outcome
from verl_multiattempt.view_summary import Summary

SCRIPTS = ("view_text.js", "view_plots.js", "view_episode.js", "view_list.js")
CHUNK_CHARS = 500_000
"""A chunk is closed when its JSON has grown beyond this."""
MAX_SEARCHED_CHARS = 2000
"""Of a question, its id and its ground truth, what the list's search looks at."""
FLAGS = {"solved": 1, "truncated": 2, "undecided": 4, "repeats": 8, "validate": 16}
LETTERS = {Outcome.CORRECT: "C", Outcome.INCORRECT: "I", Outcome.NO_ANSWER: "N", Outcome.TIMEOUT: "T",
           Outcome.ERROR: "E"}  # fmt: skip


def write_page(out: Path, episodes: Sequence[RecordedEpisode], summary: Summary, *, title: str) -> None:
    """Write the page; a page that was there is replaced once the new one is whole.

    Args:
        out: the page's path.
        episodes: those to list, in the order of the log.
        summary: of all episodes read.
        title: where the log lies.

    Raises:
        OSError: the page cannot be written.
    """
    chunks = list(_chunks(episodes))
    positions = [(number, offset) for number, (_, size) in enumerate(chunks) for offset in range(size)]
    index = {
        "headline": _headline(summary, len(episodes), title),
        "flags": FLAGS,
        "outcomes": [[letter, outcome.value] for outcome, letter in LETTERS.items()],
        "summary": summary.to_json(),
        **_index(episodes, positions),
    }
    style, script = _asset("view.css"), "\n".join(_asset(name) for name in SCRIPTS)
    values = {
        "policy": _policy(style, script),
        "title": html.escape(f"Episodes: {_visible(title)}"),
        "style": style,
        "script": script,
        "index": script_json(index),
    }
    half_written = out.with_name(out.name + ".part")
    try:
        with half_written.open("w", encoding="utf-8", newline="\n") as file:
            _fill(file, values, chunks)
        os.replace(half_written, out)
    finally:
        half_written.unlink(missing_ok=True)


def _fill(file: TextIO, values: dict[str, str], chunks: list[tuple[str, int]]) -> None:
    # Odd pieces are names; what is filled in is not looked at again.
    for position, piece in enumerate(re.split(r"\{\{(\w+)\}\}", _asset("view.html"))):
        if position % 2 == 0:
            file.write(piece)
        elif piece == "chunks":
            _write_chunks(file, chunks)
        else:
            file.write(values[piece])


def script_json(value: Any) -> str:
    """JSON that can stand in a script element: ASCII, without ``<``, ``>`` and ``&``."""
    text = _json(value)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def answer_span(text: str, answer: str | None) -> tuple[int, int] | None:
    r"""Where the answer stands, in its last ``\boxed{}`` or else anywhere; in UTF-16 units, as JavaScript counts."""
    if not answer:
        return None
    boxes = [(start, end) for start, end in boxed_spans(text) if text[start:end].strip() == answer]
    start = boxes[-1][0] if boxes else text.rfind(answer)
    if start < 0:
        return None
    end = boxes[-1][1] if boxes else start + len(answer)
    return _utf16_length(text[:start]), _utf16_length(text[:end])


def _utf16_length(text: str) -> int:
    return len(text) if text.isascii() else len(text) + sum(character > "\uffff" for character in text)


def _json(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError:  # NaN, which a browser's JSON does not have; the writer writes none, other tools might
        return json.dumps(_finite(value), allow_nan=False, separators=(",", ":"))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _contents(recorded: RecordedEpisode) -> dict[str, Any]:
    """The log's line, with what the page shows beside it."""
    record = recorded.to_record()
    for i, (attempt, line) in enumerate(zip(recorded.episode.attempts, record["attempts"], strict=True)):
        line["repeats"] = i > 0 and repeats(recorded.episode, i)
        line["answer_span"] = answer_span(attempt.text, attempt.verdict.answer)
    return record


def _chunks(episodes: Sequence[RecordedEpisode]) -> Iterator[tuple[str, int]]:
    """The contents packed, and how many episodes are in each chunk."""
    texts: list[str] = []
    for recorded in episodes:
        texts.append(_json(_contents(recorded)))
        if sum(map(len, texts)) > CHUNK_CHARS:
            yield _pack(texts), len(texts)
            texts = []
    if texts:
        yield _pack(texts), len(texts)


def _pack(texts: list[str]) -> str:
    packed = gzip.compress(f"[{','.join(texts)}]".encode("ascii"), compresslevel=6, mtime=0)
    return base64.b64encode(packed).decode("ascii")


def _write_chunks(file: TextIO, chunks: list[tuple[str, int]]) -> None:
    for number, (packed, _) in enumerate(chunks):
        file.write(f'<script type="text/plain" id="chunk-{number}">{packed}</script>\n')


def _index(episodes: Sequence[RecordedEpisode], positions: list[tuple[int, int]]) -> dict[str, Any]:
    """What the list shows and filters by, in columns; each distinct question once."""
    questions: dict[tuple[str, ...], int] = {}
    columns: dict[str, list[Any]] = {
        name: [] for name in ("step", "reward", "max_attempts", "used", "tokens", "outcomes", "flags", "question")
    }
    for recorded in episodes:
        episode = recorded.episode
        texts = (_question(recorded), episode.question_id, str(recorded.ground_truth))
        question = tuple(text[:MAX_SEARCHED_CHARS] for text in texts)
        row = {
            "step": recorded.step,
            "reward": recorded.reward,
            "max_attempts": episode.max_attempts,
            "used": episode.attempts_used,
            "tokens": sum(attempt.num_tokens for attempt in episode.attempts),
            "outcomes": "".join(LETTERS[attempt.verdict.outcome] for attempt in episode.attempts),
            "flags": _flags(recorded),
            "question": questions.setdefault(question, len(questions)),
        }
        for name, value in row.items():
            columns[name].append(value)
    columns["chunk"] = [chunk for chunk, _ in positions]
    columns["offset"] = [offset for _, offset in positions]
    return {"questions": list(questions), "rows": columns}


def _flags(recorded: RecordedEpisode) -> int:
    episode = recorded.episode
    said = {
        "solved": episode.solved,
        "truncated": episode.truncated,
        "undecided": episode.undecided,
        "repeats": any(repeats(episode, i) for i in range(1, episode.attempts_used)),
        "validate": recorded.validate,
    }
    return sum(FLAGS[name] for name, holds in said.items() if holds)


def _question(recorded: RecordedEpisode) -> str:
    """The last message of the user before the first attempt."""
    contents = [message["content"] for message in recorded.messages if message.get("role") == "user"]
    if not contents:
        return ""
    content: Any = contents[-1]
    return (content if isinstance(content, str) else _json(content)).strip()


def _headline(summary: Summary, num_listed: int, title: str) -> str:
    steps = summary.steps
    span = f"step {steps[0]}" if len(steps) == 1 else f"steps {steps[0]} to {steps[-1]}"
    said = f"{summary.num_episodes:,} episodes, {span}, of {title}"
    if num_listed == summary.num_episodes:
        return said
    return f"{said}. Listed below: the newest {num_listed:,}; the figures are of all."


def _visible(text: str) -> str:
    """The text as UTF-8 can hold it; a path may have lone surrogates."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _policy(style: str, script: str) -> str:
    return (
        f"default-src 'none'; script-src '{_sha256(script)}'; style-src '{_sha256(style)}'; base-uri 'none'; "
        "form-action 'none'"
    )


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _asset(name: str) -> str:
    return (files("verl_multiattempt") / "assets" / name).read_text(encoding="utf-8")
