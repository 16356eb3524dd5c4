from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from tests.tokenizers import CHATML, CHATML_SYSTEM_FIRST, ONE_QUESTION, STRICT, make_tokenizer
from verl_multiattempt.chat import scaffold as chat
from verl_multiattempt.chat.layout import Layout, special_ids
from verl_multiattempt.chat.scaffold import ChatScaffold, render, resolve_scaffold

FEEDBACK = "Your answer is incorrect. You have 3 attempts left."
TOKENIZER = make_tokenizer()
PAD, START, END, TOOL = TOKENIZER.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|tool|>"])
# Thinking models: what was thought before the last user message is not rendered again.
THINKING = CHATML.replace(
    "message['content'] +",
    "(message['content'].split('</think>')[-1] if message['role'] == 'assistant' else message['content']) +",
)
# Leaves out system messages without a word, as some templates do.
SILENT = "{% for message in messages %}{% if message['role'] != 'system' %}" + CHATML.split("%}", 1)[1].replace(
    "{% endfor %}", "{% endif %}{% endfor %}"
)
# Leaves out system messages but the first.
FIRST_SYSTEM_ONLY = SILENT.replace("!= 'system'", "!= 'system' or loop.first")


def scaffold(template: str = CHATML, **options: Any) -> ChatScaffold:
    return resolve_scaffold(make_tokenizer(template), **{"sample_feedback": FEEDBACK, **options})


def text(ids: list[int]) -> str:
    return str(TOKENIZER.decode(ids))


# Roles.


@pytest.mark.parametrize(
    ("template", "placement", "role"),
    [
        (CHATML, "system", "system"),
        (CHATML_SYSTEM_FIRST, "system", "user"),
        (STRICT, "user", "user"),
        (THINKING, "system", "system"),
        (SILENT, "user", "user"),
        (FIRST_SYSTEM_ONLY, "system", "user"),
    ],
    ids=["ChatML", "system first", "strict", "thinking", "system dropped", "late system dropped"],
)
def test_roles_are_found_out_by_asking_the_template(template: str, placement: str, role: str) -> None:
    found = scaffold(template)
    assert (found.opening_placement, found.feedback_role) == (placement, role)


@pytest.mark.parametrize("template", [CHATML, CHATML_SYSTEM_FIRST, STRICT])
def test_user_may_be_asked_for_where_system_would_do(template: str) -> None:
    assert scaffold(template, feedback_role="user").feedback_role == "user"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (CHATML_SYSTEM_FIRST, "system must come first"),
        (STRICT, "roles must alternate"),
        (SILENT, "the template does not render a system message after the assistant's"),
    ],
)
def test_role_that_the_template_cannot_render_is_refused(template: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"feedback\.role") as caught:
        scaffold(template, feedback_role="system")
    assert str(caught.value) == (
        "multiattempt.feedback.role must be a role that the chat template renders after an assistant message; "
        f"got 'system' (system: {reason}). Set it to auto, or use another chat template."
    )


def test_template_for_one_question_is_refused_with_the_reason_of_each_role() -> None:
    with pytest.raises(ValueError, match=r"system: one message only; user: one message only"):
        scaffold(ONE_QUESTION)


def test_template_that_is_broken_is_refused() -> None:
    with pytest.raises(ValueError, match=r"feedback\.role must be a role that the chat template renders"):
        scaffold("{{ nonsense.attribute.of.nothing }}")


@pytest.mark.parametrize("template", [None, ""])
def test_no_chat_template_is_refused(template: str | None) -> None:
    tokenizer = deepcopy(make_tokenizer())
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match="has a chat template; got none"):
        resolve_scaffold(tokenizer, sample_feedback=FEEDBACK)


def test_template_arguments_are_passed_on() -> None:
    template = CHATML.replace("assistant\n' }}", "assistant\n' }}{{ prefill }}")
    assert text(scaffold(template, template_kwargs={"prefill": "So: "}).between_attempts(FEEDBACK)).endswith("\nSo: ")


# Tokens between two attempts.


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (CHATML, f"<|im_end|>\n<|im_start|>system\n{FEEDBACK}<|im_end|>\n<|im_start|>assistant\n"),
        (CHATML_SYSTEM_FIRST, f"<|im_end|>\n<|im_start|>user\n{FEEDBACK}<|im_end|>\n<|im_start|>assistant\n"),
        (STRICT, f"<|im_end|><|im_start|>user\n{FEEDBACK}<|im_end|><|im_start|>assistant\n"),
        (THINKING, f"<|im_end|>\n<|im_start|>system\n{FEEDBACK}<|im_end|>\n<|im_start|>assistant\n"),
    ],
    ids=["ChatML", "system first", "strict", "thinking"],
)
def test_between_attempts_is_what_the_template_writes_there(template: str, expected: str) -> None:
    ids = scaffold(template).between_attempts(FEEDBACK)
    assert text(ids) == expected
    assert ids == TOKENIZER.encode(expected, add_special_tokens=False)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip))
def test_any_feedback_is_rendered_as_the_whole_conversation_would_be(feedback: str) -> None:
    found = scaffold()
    question, answer = {"role": "user", "content": "2 + 3?"}, {"role": "assistant", "content": "\\boxed{4}"}
    before = TOKENIZER.encode("<|im_start|>user\n2 + 3?<|im_end|>\n<|im_start|>assistant\n\\boxed{4}")
    whole = render(
        TOKENIZER, [question, answer, {"role": "system", "content": feedback}], {}, add_generation_prompt=True
    )
    assert before + found.between_attempts(feedback) == whole


def test_end_of_turn_that_the_model_sampled_is_not_written_again() -> None:
    found = scaffold()
    between = found.between_attempts(FEEDBACK)
    assert between[0] == END
    assert found.context_after(END, FEEDBACK) == between[1:]


@pytest.mark.parametrize("last", [None, PAD, TOOL, START, 300])
def test_end_of_turn_is_written_where_the_attempt_ended_without_it(last: int | None) -> None:
    found = scaffold()
    assert found.context_after(last, FEEDBACK) == found.between_attempts(FEEDBACK)


@pytest.mark.parametrize(
    ("last", "inserted"), [(END, "\n"), (None, "<|im_end|>\n"), (TOOL, "<|im_end|>\n")], ids=["ended", "cut", "control"]
)
def test_context_is_in_two_parts_the_end_of_turn_and_the_feedback(last: int | None, inserted: str) -> None:
    found = scaffold()
    end, feedback = found.context_parts(last, FEEDBACK)
    assert text(end) == inserted
    assert text(feedback) == f"<|im_start|>system\n{FEEDBACK}<|im_end|>\n<|im_start|>assistant\n"
    assert end + feedback == found.context_after(last, FEEDBACK)


def test_why_other_layouts_are_not_taken_is_kept() -> None:
    assert scaffold(CHATML_SYSTEM_FIRST).reasons == {
        ("system", "system"): "system must come first", ("user", "system"): "system must come first",
    }  # fmt: skip
    assert scaffold().reasons == {}


def test_answers_of_the_imaginary_conversations_leave_no_trace() -> None:
    for template in (CHATML, CHATML_SYSTEM_FIRST, STRICT):
        assert "It is" not in text(scaffold(template).between_attempts(FEEDBACK))


def test_feedback_is_rendered_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found, calls = scaffold(), []
    real = Layout.between
    monkeypatch.setattr(Layout, "between", lambda *args: calls.append(args) or real(*args))
    for left in (1, 2, 1, 2, 1):
        found.between_attempts(f"You have {left} left.")
    assert len(calls) == 2


def test_kept_renderings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "_CACHE_SIZE", 3)
    found = scaffold()
    for number in range(10):
        assert f"no {number}." in text(found.between_attempts(f"no {number}."))
        assert len(found._cache) <= 3


# Tokens that end an attempt.


def test_end_of_turn_and_control_tokens() -> None:
    found = scaffold()
    assert found.end_ids == {END}
    assert found.control_ids == {PAD, START, TOOL}
    assert found.stop_token_ids() == sorted([PAD, START, END, TOOL])


def test_eos_token_beside_the_templates_end_of_turn_ends_the_turn_too() -> None:
    # Base models: eos is <|endoftext|>, and the template writes <|im_end|>.
    tokenizer = deepcopy(make_tokenizer())
    tokenizer.eos_token = "<|endoftext|>"
    found = resolve_scaffold(tokenizer, sample_feedback=FEEDBACK)
    assert found.end_ids == {PAD, END}
    assert found.control_ids == {START, TOOL}
    # It is no end of turn to the template, which gets its own.
    assert found.context_after(PAD, FEEDBACK)[0] == END


def test_template_without_a_token_for_the_end_of_turn() -> None:
    plain = (
        "{% for message in messages %}{{ '[' + message['role'] + ']' + message['content'] + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"
    )
    found = scaffold(plain)
    assert found.end_ids == {END}  # the tokenizer's eos token
    assert text(found.between_attempts(FEEDBACK)) == f"\n[system]{FEEDBACK}\n[assistant]"
    assert found.context_after(END, FEEDBACK) == found.between_attempts(FEEDBACK)


def test_allowed_special_token_does_not_end_an_attempt() -> None:
    found = scaffold(allowed_special_tokens=["<|tool|>"])
    assert found.control_ids == {PAD, START}
    assert TOOL not in found.stop_token_ids()


def test_end_of_turn_cannot_be_allowed_away() -> None:
    assert scaffold(allowed_special_tokens=["<|im_end|>"]).end_ids == {END}


def test_special_ids_are_those_that_decoding_skips() -> None:
    assert special_ids(TOKENIZER) == {PAD, START, END, TOOL}
    assert TOKENIZER.decode(sorted(special_ids(TOKENIZER)), skip_special_tokens=True) == ""


def test_attempt_text_is_without_control_tokens() -> None:
    ids = TOKENIZER.encode("so \\boxed{42}<|tool|><|im_end|>", add_special_tokens=False)
    assert scaffold().attempt_text(ids) == "so \\boxed{42}"
    assert scaffold().attempt_text([]) == ""


def test_spaces_of_an_attempt_stay_as_sampled() -> None:
    ids = TOKENIZER.encode("  1 , 2 . \n", add_special_tokens=False)
    assert scaffold().attempt_text(ids) == "  1 , 2 . \n"


# Turn headers that the tokenizer does not hold for special, as DeepSeek-R1-Distill's.


def test_turn_headers_are_control_tokens_even_where_they_are_not_special() -> None:
    tokenizer = make_tokenizer(CHATML, headers_special=False)
    assert START not in special_ids(tokenizer)
    found = resolve_scaffold(tokenizer, sample_feedback=FEEDBACK)
    assert START in found.control_ids
    assert found.as_plain_text("<|im_start|>assistant") == "< |im_start|>assistant"
    assert found.attempt_text([START, *tokenizer.encode("x")]) == "x"


def test_what_follows_the_header_in_a_generation_prompt_is_the_models_to_write() -> None:
    thinking = CHATML.replace("'<|im_start|>assistant\n' }}", "'<|im_start|>assistant\n<|tool|>' }}")
    assert "<|tool|>" in thinking
    found = resolve_scaffold(make_tokenizer(thinking, headers_special=False), sample_feedback=FEEDBACK)
    assert TOOL not in found.control_ids
    assert START in found.control_ids


def test_feedback_that_the_tokenizer_rewrites_is_rendered() -> None:
    tokenizer = deepcopy(TOKENIZER)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    found = resolve_scaffold(tokenizer, sample_feedback=FEEDBACK)
    assert "caf\u00e9" in tokenizer.decode(found.between_attempts("cafe\u0301 is wrong"))
