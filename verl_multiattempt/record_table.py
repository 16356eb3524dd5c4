"""The episode log as a ``datasets`` table; see `verl_multiattempt.record.to_dataset`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from verl_multiattempt.record import RecordedEpisode


def make_table(episodes: Iterable[RecordedEpisode]) -> Any:
    """The episodes as a ``datasets.Dataset``, a row an episode."""
    from datasets import Dataset

    features = _features()
    rows = [_row(recorded) for recorded in episodes]
    return Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


def _row(recorded: RecordedEpisode) -> dict[str, Any]:
    truth, index = recorded.ground_truth, recorded.index
    row = {
        **recorded.to_record(),
        "messages": [{**message, "content": _text(message["content"])} for message in recorded.messages],
        "index": None if index is None else str(index),
        "ground_truth": _text(truth),
        "solved": recorded.episode.solved,
        "attempts_used": recorded.episode.attempts_used,
    }
    valid: dict[str, Any] = _valid_unicode(row)
    return valid


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _valid_unicode(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {key: _valid_unicode(item) for key, item in value.items()}
    return [_valid_unicode(item) for item in value] if isinstance(value, list) else value


def _features() -> Any:
    """The table's types, written down so that a log of any content gives the same ones."""
    from datasets import Features, Value

    text, count, number, flag = Value("large_string"), Value("int64"), Value("float64"), Value("bool")
    texts = ("text", "stop", "feedback", "outcome", "answer", "normal_answer", "verifier_feedback", "detail", "fault")
    attempt = {
        **dict.fromkeys(texts, text),
        "num_tokens": count,
        **dict.fromkeys(("logprob_mean", "generate_s", "seconds"), number),
    }
    return Features(
        {
            **dict.fromkeys(("question_id", "data_source", "index", "worker", "ground_truth"), text),
            **dict.fromkeys(("schema", "step", "rollout", "dropped", "max_attempts", "num_context_tokens"), count),
            **dict.fromkeys(("started_at", "seconds", "reward"), number),
            **dict.fromkeys(("validate", "truncated", "solved"), flag),
            "attempts_used": count,
            "messages": [{"role": text, "content": text}],
            "attempts": [attempt],
            "segments": [{"kind": text, "text": text, "num_tokens": count}],
        }
    )
