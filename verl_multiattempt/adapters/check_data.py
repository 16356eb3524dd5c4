"""Rows, lengths and an episode to show for ``multiattempt check``."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_multiattempt.adapters.dataset_check import Row, read_rows
from verl_multiattempt.adapters.rendered_example import RenderedExample, render_example
from verl_multiattempt.attempts import row_max_attempts
from verl_multiattempt.chat.scaffold import ChatScaffold, render
from verl_multiattempt.feedback import feedback_text, open_messages
from verl_multiattempt.math_verifier.verifier import golds_of
from verl_multiattempt.settings import Settings

_SAMPLE_SIZE = 1000
_MOST_ROOMS = 8
"""Up to this many attempts the room for each is told, and then for the largest allowance."""
_IMAGINARY: Row = {
    "prompt": [{"role": "user", "content": "What is 2 + 3?"}],
    "reward_model": {"ground_truth": "5"},
}


@dataclass(slots=True, kw_only=True)
class DataSample:
    """Some rows of the training or the validation files."""

    num_rows: int = 0
    """Of all files."""
    rows: list[tuple[int, Row]] = field(default_factory=list)
    """Up to 1,000 rows with their numbers, drawn without regard to their place."""
    shown: tuple[int, Row] | None = None
    """The row that was asked for; None where there is no such row."""

    def prompt_lengths(self, scaffold: ChatScaffold, settings: Settings) -> dict[str, Any]:
        """Tokens of the prompts with their openings: of the sample, the longest and the 99th percentile."""
        lengths = sorted(len(opened_prompt(scaffold, settings, row)) for _, row in self.rows)
        return {
            "num_rows": self.num_rows,
            "num_sampled": len(lengths),
            "prompt_tokens_max": lengths[-1],
            "prompt_tokens_p99": lengths[math.ceil(0.99 * len(lengths)) - 1],
        }


def sample_rows(config: DictConfig, wanted: int, key: str = "train_files") -> DataSample | None:
    """Draw rows of ``data.<key>``; None where they cannot be read, which the preflight has told.

    Args:
        config: the whole config.
        wanted: number of the row to show.
        key: ``train_files`` or ``val_files``.
    """
    if OmegaConf.select(config, "data.custom_cls.path") is not None:
        return None
    sample, random_numbers = DataSample(), random.Random(0)
    try:
        for number, row in enumerate(read_rows(config, key)):
            sample.num_rows += 1
            if number == wanted:
                sample.shown = (number, row)
            # Each row ends up in the sample with the same probability (reservoir sampling).
            if number < _SAMPLE_SIZE:
                sample.rows.append((number, row))
            elif (place := random_numbers.randrange(number + 1)) < _SAMPLE_SIZE:
                sample.rows[place] = (number, row)
        for _, row in sample.rows:
            gold_attempt(row), _opened(row, Settings(), "system")
    except Exception:  # missing files, other columns, rows of another shape
        return None
    return sample if sample.rows else None


def gold_attempt(row: Row) -> tuple[str, str]:
    r"""The row's gold as text, and an attempt that gives it in ``\boxed{}``."""
    ground_truth = row["reward_model"]["ground_truth"]
    golds = golds_of(ground_truth)
    gold = golds[0] if golds else str(ground_truth)
    return gold, f"\\boxed{{{gold}}}"


def _allowance(row: Row, settings: Settings) -> int:
    return row_max_attempts(row.get("extra_info")) or settings.max_attempts


def _opened(row: Row, settings: Settings, placement: str) -> list[dict[str, Any]]:
    return open_messages(row["prompt"], settings.opening, _allowance(row, settings), placement=placement)


def opened_prompt(scaffold: ChatScaffold, settings: Settings, row: Row) -> list[int]:
    """Token ids of a row's prompt with its opening, ``[num_tokens]``."""
    messages = _opened(row, settings, scaffold.opening_placement)
    return render(scaffold.tokenizer, messages, scaffold.template_kwargs, add_generation_prompt=True)


def lengths_of(config: DictConfig, scaffold: ChatScaffold, settings: Settings, largest: int) -> dict[str, Any]:
    """Lengths in tokens that decide on memory and on how many attempts there is room for.

    ``response_room`` is what the longest prompt leaves of the engine's ``max_model_len``, where that is less than the
    response may take.

    Args:
        config: the whole config.
        scaffold: for the tokens of opening and feedback.
        settings: the task's settings.
        largest: the largest allowance of an episode, by the settings or by a row.
    """
    bare = render(scaffold.tokenizer, _IMAGINARY["prompt"], scaffold.template_kwargs, add_generation_prompt=True)
    feedback = len(scaffold.between_attempts(feedback_text(settings.feedback, max(1, largest - 1))))
    prompt, response = int(config.data.max_prompt_length), int(config.data.max_response_length)
    model_len = config.actor_rollout_ref.rollout.get("max_model_len")
    room = response if model_len is None else max(0, min(response, int(model_len) - prompt))
    longest = prompt + response if model_len is None else min(prompt + response, int(model_len))
    episodes = int(config.data.train_batch_size) * int(config.actor_rollout_ref.rollout.n)
    each = settings.max_tokens_per_attempt
    ks = [*range(1, min(largest, _MOST_ROOMS) + 1), *([largest] if largest > _MOST_ROOMS else [])]
    return {
        "max_prompt_length": prompt,
        "max_response_length": response,
        "max_model_len": model_len,
        "response_room": room,
        "opening_tokens": len(opened_prompt(scaffold, settings, _IMAGINARY)) - len(bare),
        "feedback_tokens": feedback,
        "verifier_feedback_chars": settings.feedback.max_verifier_chars if settings.feedback.use_verifier_text else 0,
        "largest_allowance": largest,
        "tokens_of_each_attempt": {str(k): max(0, (room - (k - 1) * feedback) // k) for k in ks},
        "max_tokens_per_attempt": each,
        "min_tokens_per_attempt": settings.min_tokens_per_attempt,
        "attempts_that_fit": None if each is None else (room + feedback) // (each + feedback),
        "episodes_per_step": episodes,
        "tokens_per_step_at_most": episodes * longest,
    }


def render_row(scaffold: ChatScaffold, settings: Settings, row: Row | None) -> RenderedExample:
    """An imaginary episode of the row's question, or of an imaginary one, with the row's allowance."""
    row = row or _IMAGINARY
    allowed = replace(settings, min_attempts=1, max_attempts=_allowance(row, settings), distribution="uniform",
                      weights=None)  # fmt: skip
    return render_example(scaffold, allowed, row["prompt"])
