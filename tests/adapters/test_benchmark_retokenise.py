"""What `benchmarks/retokenise.py` counts, by hand and with a real byte-level tokenizer."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from engine_replay import make_bpe  # noqa: E402
from retokenise import attempts_of, change_of, measure, summary  # noqa: E402

TOKENIZER = make_bpe(["the cat and the hat and the bat"] * 20, 300)


def encode(text: str) -> list[int]:
    return list(TOKENIZER.encode(text, add_special_tokens=False))


def test_what_the_tokenizer_itself_writes_comes_back() -> None:
    change = change_of(encode("the cat and"), encode, TOKENIZER.decode)
    assert not change.changed
    assert change.num_changed == 0


def test_another_spelling_of_the_same_text_has_changed() -> None:
    ids = encode("the cat")
    letters = [token for letter in "the" for token in encode(letter)]
    spelled = [*letters, *encode(" cat")]
    assert len(ids) < len(spelled)
    change = change_of(spelled, encode, TOKENIZER.decode)
    assert change.changed
    assert (change.length, change.new_length, change.num_changed) == (len(spelled), len(ids), len(letters))
    assert not change.replaced


def test_half_a_character_is_told_apart() -> None:
    first_byte = encode("é")[0]
    change = change_of([first_byte], encode, TOKENIZER.decode)
    assert change.changed
    assert change.replaced
    found = summary([change, change_of(encode("the cat"), encode, TOKENIZER.decode)])
    assert (found["share"], found["share_no_utf8"], found["utf8_sequences"], found["utf8_share"]) == (0.5, 0.5, 1, 0.0)


def test_attempts_are_what_was_sampled_without_the_end_of_the_turn() -> None:
    assert list(attempts_of([1, 2, 9, 7, 7, 3, 9], [1, 1, 1, 0, 0, 1, 1], frozenset({9}))) == [[1, 2], [3]]
    assert list(attempts_of([1, 2], [1, 1], frozenset({9}))) == [[1, 2]]


def test_a_conversation_has_changed_where_one_attempt_has() -> None:
    end = TOKENIZER.eos_token_id
    good, bad = encode("the cat"), [*encode("t"), *encode("h"), *encode("e")]
    output = SimpleNamespace(
        prompt_ids=encode("and"), response_ids=[*good, end, *bad, end],
        response_mask=[1] * len(good) + [0] + [1] * (len(bad) + 1),
    )  # fmt: skip
    found = measure([output], encode, TOKENIZER.decode, frozenset({end}))
    assert (found["attempts"]["sequences"], found["attempts"]["changed"]) == (2, 1)
    assert (found["conversations"]["sequences"], found["conversations"]["changed"]) == (1, 1)
    assert found["first 64 tokens"] == {"sequences": 0}
    assert found["attempts"]["share_other_length"] == 0.5


def test_summary_of_shares_and_tokens() -> None:
    changes = [change_of(encode("the cat"), encode, TOKENIZER.decode)] * 3 + [
        change_of([*encode("t"), *encode("h"), *encode("e")], encode, TOKENIZER.decode)
    ]
    found = summary(changes)
    assert found["share"] == 0.25
    assert found["mean_changed_tokens"] == 3
    low, high = found["share_95"]
    assert low < 0.25 < high
