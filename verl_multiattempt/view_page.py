r"""The viewer's HTML page: its assets, an index of the episodes, and their contents in compressed chunks.

The index is what the list and its filters need; it stands before the script, which draws the list before the browser
has read the rest. What follows is packed in chunks (gzip, base64): the questions, unpacked when they are searched, and
the contents of the episodes, unpacked when one is opened.

Texts of a model are hostile. They are JSON in ASCII with ``<``, ``>`` and ``&`` as ``\u003c`` and so on, or base64; the
script puts them into the page as text nodes alone; and the page's Content-Security-Policy admits no script but its own,
by hash, and no request to anywhere.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TextIO

from verl_multiattempt.answer import boxed_spans
from verl_multiattempt.metrics import repeats
from verl_multiattempt.record import RecordedEpisode, to_json
from verl_multiattempt.verifier import Outcome
from verl_multiattempt.view_summary import Summary
from verl_multiattempt.view_text import HIDDEN
from verl_multiattempt.whole_file import written_whole

SCRIPTS = ("view_text.js", "view_plots.js", "view_episode.js", "view_list.js")
CHUNK_CHARS = 500_000
"""A chunk is closed when its JSON has grown beyond this."""
MAX_LISTED_CHARS = 500
"""Of a question and its id, what the index has for the list; the search has all of them."""
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
    chunks = list(_chunks(to_json(_contents(recorded)) for recorded in episodes))
    columns, questions = _index(episodes)
    searched = list(_chunks(map(to_json, ("\n".join(question) for question in questions))))
    positions = [(number, offset) for number, (_, size) in enumerate(chunks) for offset in range(size)]
    index = {
        "headline": _headline(summary, len(episodes), title),
        "flags": FLAGS,
        "outcomes": [[letter, outcome.value] for outcome, letter in LETTERS.items()],
        "hidden": "".join(f"\\u{{{first:x}}}-\\u{{{last:x}}}" for first, last in HIDDEN),
        "summary": summary.to_json(),
        "num_searched": len(searched),
        "questions": [[text[:MAX_LISTED_CHARS] for text in question[:2]] for question in questions],
        "rows": {**columns, "chunk": [chunk for chunk, _ in positions], "offset": [offset for _, offset in positions]},
    }
    style, script = _asset("view.css"), "\n".join(_asset(name) for name in SCRIPTS)
    values = {
        "policy": _policy(style, script),
        "title": html.escape(f"Episodes: {_visible(title)}"),
        "style": style,
        "script": script,
        "index": script_json(index),
    }
    with written_whole(out) as draft, draft.open("w", encoding="utf-8", newline="\n") as file:
        _fill(file, values, {"search": searched, "chunk": chunks})


def _fill(file: TextIO, values: dict[str, str], packed: dict[str, list[tuple[str, int]]]) -> None:
    # Odd pieces are names; what is filled in is not looked at again.
    for position, piece in enumerate(re.split(r"\{\{(\w+)\}\}", _asset("view.html"))):
        if position % 2 == 0:
            file.write(piece)
        elif piece == "packed":
            for name, chunks in packed.items():
                _write_chunks(file, name, chunks)
        else:
            file.write(values[piece])


def script_json(value: Any) -> str:
    """JSON that can stand in a script element: ASCII, without ``<``, ``>`` and ``&``."""
    text = to_json(value)
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


def _contents(recorded: RecordedEpisode) -> dict[str, Any]:
    """The log's line, with what the page shows beside it."""
    record = recorded.to_record()
    for i, (attempt, line) in enumerate(zip(recorded.episode.attempts, record["attempts"], strict=True)):
        line["repeats"] = i > 0 and repeats(recorded.episode, i)
        line["answer_span"] = answer_span(attempt.text, attempt.verdict.answer)
    return record


def _chunks(texts: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Texts of JSON packed as lists, and how many are in each."""
    chunk: list[str] = []
    size = 0
    for text in texts:
        chunk.append(text)
        size += len(text)
        if size > CHUNK_CHARS:
            yield _pack(chunk), len(chunk)
            chunk, size = [], 0
    if chunk:
        yield _pack(chunk), len(chunk)


def _pack(texts: list[str]) -> str:
    packed = gzip.compress(f"[{','.join(texts)}]".encode("ascii"), compresslevel=6, mtime=0)
    return base64.b64encode(packed).decode("ascii")


def _write_chunks(file: TextIO, name: str, chunks: list[tuple[str, int]]) -> None:
    for number, (packed, _) in enumerate(chunks):
        file.write(f'<script type="text/plain" id="{name}-{number}">{packed}</script>\n')


def _index(episodes: Sequence[RecordedEpisode]) -> tuple[dict[str, list[Any]], list[tuple[str, str, str]]]:
    """What the list shows and filters by, in columns; and each distinct question with its id and ground truth."""
    questions: dict[tuple[str, str, str], int] = {}
    columns: dict[str, list[Any]] = {
        name: []
        for name in ("step", "rollout", "reward", "max_attempts", "used", "tokens", "outcomes", "flags", "question")
    }
    for recorded in episodes:
        episode = recorded.episode
        question = (_question(recorded), episode.question_id, str(recorded.ground_truth))
        row = {
            "step": recorded.step,
            "rollout": recorded.rollout,
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
    return columns, list(questions)


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
    return (content if isinstance(content, str) else to_json(content)).strip()


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
