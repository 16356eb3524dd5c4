"""The logits processor with which benchmarks make vLLM follow a plan: against vLLM's own batch updates and a batch."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# First, so that vLLM finds its platform.
import verl  # noqa: F401

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path[:0] = [str(BENCHMARKS), str(BENCHMARKS.parent / "examples" / "tiny_math")]

torch = pytest.importorskip("torch")
pytest.importorskip("vllm")

from planned_tokens import CONFIG_KEY, PlannedTokens, filler_config, filler_ids, planned_args  # noqa: E402
from vllm import SamplingParams  # noqa: E402
from vllm.v1.sample.logits_processor import BatchUpdate, MoveDirectionality  # noqa: E402

from make import make_tokenizer  # noqa: E402

VOCAB, END, FILLER = 10, 9, [2, 3, 4]


@pytest.fixture
def processor() -> Any:
    config = SimpleNamespace(
        additional_config={CONFIG_KEY: {"filler_ids": FILLER, "end_id": END}},
        model_config=SimpleNamespace(get_vocab_size=lambda: VOCAB),
    )
    return PlannedTokens(config, torch.device("cpu"), False)


def params(**plan: Any) -> SamplingParams:
    return SamplingParams(extra_args=planned_args(**plan))


def add(processor: Any, *requests: tuple[int, SamplingParams, list[int]]) -> None:
    added = [(row, one, None, sampled) for row, one, sampled in requests]
    processor.update_state(BatchUpdate(batch_size=len(added), removed=(), added=added, moved=()))


def allowed(processor: Any, rows: int = 1) -> list[list[int]]:
    """Tokens that each row may sample."""
    logits = processor.apply(torch.zeros(rows, VOCAB))
    return [(row > float("-inf")).nonzero().flatten().tolist() for row in logits]


def test_an_attempt_is_filler_then_the_answer_then_filler_then_the_end(processor: Any) -> None:
    sampled: list[int] = []
    add(processor, (0, params(done=0, length=7, answer=[5, 6], ramble=2), sampled))
    found = []
    for _ in range(7):
        found.append(allowed(processor)[0])
        sampled.append(0)  # vLLM's list grows behind the processor's back
    assert found == [FILLER, FILLER, [5], [6], FILLER, FILLER, [END]]


def test_a_slice_goes_on_where_the_one_before_ended(processor: Any) -> None:
    sampled: list[int] = []
    add(processor, (0, params(done=3, length=7, answer=[5, 6], ramble=2), sampled))
    assert allowed(processor) == [[6]]
    sampled += [6, 2, 2]
    assert allowed(processor) == [[END]]


def test_rows_have_plans_of_their_own_and_others_are_left_alone(processor: Any) -> None:
    add(
        processor,
        (0, params(done=0, length=1, answer=[], ramble=0), []),
        (1, SamplingParams(), []),
        (2, params(done=0, length=9, answer=[5], ramble=0), []),
    )
    assert allowed(processor, 3) == [[END], list(range(VOCAB)), FILLER]


def test_plans_move_with_their_requests_and_leave_with_them(processor: Any) -> None:
    end, filler = params(done=0, length=1, answer=[], ramble=0), params(done=0, length=9, answer=[5], ramble=0)
    add(processor, (0, end, []), (1, filler, []))
    swap = BatchUpdate(batch_size=2, removed=(), added=(), moved=((0, 1, MoveDirectionality.SWAP),))
    processor.update_state(swap)
    assert allowed(processor, 2) == [FILLER, [END]]
    processor.update_state(
        BatchUpdate(batch_size=1, removed=(0,), added=(), moved=((1, 0, MoveDirectionality.UNIDIRECTIONAL),))
    )
    assert allowed(processor, 1) == [[END]]
    add(processor, (0, SamplingParams(), []))
    assert allowed(processor, 1) == [list(range(VOCAB))]


@pytest.mark.parametrize("wrong", [{"length": 3}, {"done": 5}, {"ramble": 9}])
def test_a_plan_that_does_not_fit_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="length must hold the answer"):
        planned_args(**{"done": 0, "length": 5, "answer": [1, 2], "ramble": 1, **wrong})


def test_filler_comes_back_as_it_was_however_it_is_mixed_with_answers() -> None:
    tokenizer = make_tokenizer()
    config = filler_config(tokenizer)
    assert config["end_id"] == tokenizer.eos_token_id
    filler = filler_ids(tokenizer)
    assert len(filler) > 16
    answer = tokenizer.encode("\\boxed{1234}", add_special_tokens=False)
    for shift in range(len(filler)):
        mixed = filler[shift:] + filler[:shift]
        ids = [*mixed, *answer, *mixed[:3], tokenizer.eos_token_id]
        assert tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False) == ids
