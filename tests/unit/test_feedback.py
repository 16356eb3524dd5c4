from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_multiattempt.feedback import feedback_text, open_messages, opening_text, shorten
from verl_multiattempt.settings import FeedbackSettings, OpeningSettings

OPENING = OpeningSettings(text="{max_attempts} attempt{s}.")
USER = {"role": "user", "content": "2 + 3?"}
SYSTEM = {"role": "system", "content": "Be brief."}


def test_default_opening_reads_as_english_for_one_and_several() -> None:
    end = "to answer the question. Put the final answer of each attempt in \\boxed{}."
    assert opening_text(OpeningSettings(), 1) == f"You have 1 attempt {end}"
    assert opening_text(OpeningSettings(), 5) == f"You have 5 attempts {end}"


def test_default_feedback_reads_as_english_for_one_and_several() -> None:
    assert feedback_text(FeedbackSettings(), 1) == "Your answer is incorrect. You have 1 attempt left."
    assert feedback_text(FeedbackSettings(), 4) == "Your answer is incorrect. You have 4 attempts left."


# Placing the opening.


def test_opening_is_a_new_system_message_where_there_is_none() -> None:
    assert open_messages([USER], OPENING, 2) == [{"role": "system", "content": "2 attempts."}, USER]


def test_opening_joins_the_system_message_there_is() -> None:
    assert open_messages([SYSTEM, USER], OPENING, 1) == [{"role": "system", "content": "Be brief.\n\n1 attempt."}, USER]


def test_opening_replaces_an_empty_system_message() -> None:
    assert open_messages([{"role": "system", "content": ""}, USER], OPENING, 1)[0]["content"] == "1 attempt."


def test_opening_takes_a_place_of_its_own_before_a_late_system_message() -> None:
    assert open_messages([USER, SYSTEM], OPENING, 1) == [{"role": "system", "content": "1 attempt."}, USER, SYSTEM]


def test_opening_in_an_empty_prompt_is_its_only_message() -> None:
    assert open_messages([], OPENING, 1) == [{"role": "system", "content": "1 attempt."}]


def test_opening_goes_before_the_first_user_message_where_no_system_message_can_be() -> None:
    answer = {"role": "assistant", "content": "?"}
    opened = open_messages([answer, USER, answer, USER], OPENING, 3, placement="user")
    assert opened == [answer, {"role": "user", "content": "3 attempts.\n\n2 + 3?"}, answer, USER]


def test_system_message_goes_before_the_opening_where_no_system_message_can_be() -> None:
    opened = open_messages([SYSTEM, USER], OPENING, 3, placement="user")
    assert opened == [{"role": "user", "content": "Be brief.\n\n3 attempts.\n\n2 + 3?"}]


def test_prompt_is_not_changed() -> None:
    prompt = [dict(SYSTEM), dict(USER)]
    for placement in ("system", "user"):
        open_messages(prompt, OPENING, 2, placement=placement)
    assert prompt == [SYSTEM, USER]


def test_other_keys_of_a_message_stay() -> None:
    assert open_messages([{**SYSTEM, "name": "n"}, USER], OPENING, 1)[0]["name"] == "n"


def test_no_user_message_to_place_the_opening_in_is_refused() -> None:
    with pytest.raises(ValueError, match="user message") as caught:
        open_messages([{"role": "assistant", "content": "?"}], OPENING, 2, placement="user")
    assert str(caught.value) == "prompt must contain a user message to place the opening in; got roles ['assistant']"


@pytest.mark.parametrize("placement", ["system", "user"])
@pytest.mark.parametrize("content", [[{"type": "text", "text": "2 + 3?"}], None])
def test_content_that_is_no_text_is_refused_where_the_opening_is_merged_into_it(placement: str, content: Any) -> None:
    with pytest.raises(ValueError, match="must be text") as caught:
        open_messages([{"role": placement, "content": content}], OPENING, 2, placement=placement)
    assert str(caught.value) == f"prompt[].content must be text where the opening is merged into it; got {content!r}"


def test_content_that_is_no_text_may_stand_beside_the_opening() -> None:
    image = {"role": "user", "content": [{"type": "image"}]}
    assert open_messages([image], OPENING, 2)[1] == image


# The verifier's own text.


def test_verifier_text_is_shown_only_where_it_is_asked_for() -> None:
    on = FeedbackSettings(text="{attempts_left} left.", use_verifier_text=True)
    off = FeedbackSettings(text="{attempts_left} left.")
    assert feedback_text(on, 2, "Test 3 fails.") == "Test 3 fails.\n2 left."
    assert feedback_text(off, 2, "Test 3 fails.") == "2 left."
    assert feedback_text(on, 2, None) == feedback_text(on, 2, "") == "2 left."


def test_braces_of_the_verifier_are_text() -> None:
    on = FeedbackSettings(text="{attempts_left} left.", use_verifier_text=True)
    assert feedback_text(on, 1, "No \\boxed{} {attempts_left} {") == "No \\boxed{} {attempts_left} {\n1 left."


def test_long_verifier_text_loses_its_middle() -> None:
    assert shorten("abcdefghijklmnopqrstuvwxyz", 20) == "abcdefg [...] uvwxyz"
    on = FeedbackSettings(text="{attempts_left} left.", use_verifier_text=True, max_verifier_chars=20)
    assert feedback_text(on, 1, "abcdefghijklmnopqrstuvwxyz") == "abcdefg [...] uvwxyz\n1 left."


def test_text_of_exactly_the_limit_stays_whole() -> None:
    assert shorten("a" * 20, 20) == "a" * 20


@given(st.text(max_size=200), st.integers(20, 120))
def test_shortened_text_has_at_most_the_limit_and_keeps_both_ends(text: str, limit: int) -> None:
    short = shorten(text, limit)
    assert len(short) == min(len(text), limit)
    assert short[:6] == text[:6]
    assert not text or short[-6:] == text[-6:]
