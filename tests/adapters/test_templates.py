"""Episodes under the chat templates of the model families in use: what is decided, shown and trained on."""

from __future__ import annotations

import asyncio
import time
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.adapters.harness import run_attempts
from tests.adapters.invariants import check_rollout
from tests.adapters.test_agent_loop import episode_of, row
from tests.chat_templates import (
    CHANGING_TEXTS,
    FAMILIES,
    FUSSY,
    HARMONY,
    HARMONY_FINAL,
    HARMONY_TOKENS,
    LLAMA3,
    NOT_THE_MODELS,
    PREFILL,
    QWEN3,
    REFUSED,
    REMINDER,
    REOPENED,
    REWRITING,
    THOUGHTS,
    UNMARKED,
    Family,
    odd_tokenizer,
)
from tests.tokenizers import make_byte_tokenizer
from verl_multiattempt.adapters.agent_loop import scaffold_for
from verl_multiattempt.chat import layout
from verl_multiattempt.chat.attempt_generator import AttemptGenerator, Sampled
from verl_multiattempt.chat.findings import find
from verl_multiattempt.chat.scaffold import ChatScaffold, resolve_scaffold
from verl_multiattempt.chat.tokens import FEEDBACK as FEEDBACK_KIND
from verl_multiattempt.chat.tokens import INSERTED, MODEL, TokenStream
from verl_multiattempt.episode import Stop
from verl_multiattempt.feedback import Message, open_messages
from verl_multiattempt.settings import FeedbackSettings, OpeningSettings, Settings

FEEDBACK = "Your answer is incorrect. You have 3 attempts left."
SYSTEM_TEXT = "Think of every carry."
families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())


def scaffold_of(family: Family, **options: Any) -> ChatScaffold:
    return resolve_scaffold(
        family.tokenizer, **{"sample_feedback": FEEDBACK, "template_kwargs": family.kwargs, **options}
    )


def encode(family: Family, text: str, *, end: bool = True) -> list[int]:
    tokenizer = family.tokenizer
    ids = tokenizer.encode(family.lead + text, add_special_tokens=False)
    return [*ids, tokenizer.convert_tokens_to_ids(family.end)] if end else ids


def run(family: Family, attempts: list[list[int]], **options: Any) -> Any:
    return asyncio.run(
        run_attempts(attempts, tokenizer=family.tokenizer, template_kwargs=family.kwargs, **options)
    )  # fmt: skip


def check(family: Family, output: Any, server: Any, loop: Any, prompt: list[dict[str, Any]]) -> Any:
    episode, scaffold = episode_of(output), loop.shared.scaffold
    check_rollout(
        prompt_ids=output.prompt_ids,
        response_ids=output.response_ids,
        response_mask=output.response_mask,
        response_logprobs=output.response_logprobs,
        response_length=loop.shared.limits.response_length,
        episode=episode,
        opening=open_messages(
            prompt, loop.shared.settings.opening, episode.max_attempts, placement=scaffold.opening_placement
        ),
        sampled=[server.sampled(i) for i in range(episode.attempts_used)],
        scaffold=scaffold,
        feedback_role=scaffold.feedback_role,
        verbatim=family.verbatim,
        exact_spaces=family.exact_spaces,
    )
    return episode


# What the start check decides.


@families
def test_layout_and_end_of_turn(family: Family) -> None:
    found = scaffold_of(family)
    token = family.tokenizer.convert_tokens_to_ids
    assert (found.opening_placement, found.feedback_role) == (family.placement, family.role)
    assert found.end_ids == {token(family.end), token(family.eos)}
    inserted, feedback = found.context_parts(None, FEEDBACK)
    text, expected = family.tokenizer.decode(inserted), family.closing or family.end
    assert (text if family.exact_spaces else text.replace(" ", "")) == expected
    assert FEEDBACK in family.tokenizer.decode(feedback)


@families
def test_end_of_turn_that_was_sampled_is_not_written_twice(family: Family) -> None:
    found = scaffold_of(family)
    end = family.tokenizer.convert_tokens_to_ids(family.end)
    between, after = found.between_attempts(FEEDBACK), found.context_after(end, FEEDBACK)
    if not found.closing:  # the template has no end of turn that could be sampled
        assert after == between
    else:
        assert end in between[: len(between) - len(after)]
        assert after == between[between.index(end) + 1 :]


# Another attempt without any feedback between.


@pytest.mark.parametrize("name", FAMILIES)
def test_attempt_without_feedback_opens_as_any_other_attempt_or_is_refused(name: str) -> None:
    family, expected = FAMILIES[name], REOPENED.get(name)
    found = scaffold_of(family)
    if expected is None:
        with pytest.raises(ValueError, match="must open a turn of the model right after its last one") as caught:
            found.reopened_parts(None)
        assert "\n" not in str(caught.value)
        return
    end = family.tokenizer.convert_tokens_to_ids(family.end)
    for last in (None, end):
        inserted, opened = found.reopened_parts(last)
        assert inserted == found.context_parts(last, FEEDBACK)[0]
        assert found.context_parts(last, FEEDBACK)[1][-len(opened) :] == opened
        text = family.tokenizer.decode(opened)
        assert (text if family.exact_spaces else text.replace(" ", "")) == expected


@pytest.mark.parametrize("name", REOPENED)
def test_generator_goes_on_without_feedback_where_the_messages_end_with_an_attempt(name: str) -> None:
    family = FAMILIES[name]
    found = scaffold_of(family)
    scripted = [encode(family, "so \\boxed{41}"), encode(family, "I do n", end=False), encode(family, "\\boxed{42}")]
    replies = iter(scripted)

    async def open_stream(messages: list[Message]) -> TokenStream:
        return TokenStream(prompt_ids=found.layout.render(messages, prompt=True), capacity=500)

    async def sample(ids: list[int], most: int) -> Sampled:
        return Sampled(ids=next(replies), logprobs=None)

    async def episode() -> TokenStream:
        generator = AttemptGenerator(found, Settings(min_tokens_per_attempt=1), open_stream, sample)
        messages: list[Message] = [{"role": "user", "content": "Compute 6*7 = ?"}]
        for _ in scripted:
            generation = await generator.generate(messages)
            assert generation is not None
            messages.append({"role": "assistant", "content": generation.text})
        return generator.stream

    stream = asyncio.run(episode())
    segments = [(segment.kind, list(segment.ids)) for segment in stream.segments()[1:]]
    after_end, opened = found.reopened_parts(scripted[0][-1])
    after_cut, _ = found.reopened_parts(None)
    expected = [(MODEL, scripted[0]), (INSERTED, after_end), (FEEDBACK_KIND, opened), (MODEL, scripted[1]),
                (INSERTED, after_cut), (FEEDBACK_KIND, opened), (MODEL, scripted[2])]  # fmt: skip
    assert segments == [(kind, ids) for kind, ids in expected if ids]


def test_attempt_without_feedback_that_the_template_cannot_open_fails_in_one_sentence() -> None:
    family = FAMILIES["fussy"]
    with pytest.raises(ValueError, match=r"\(the last turn is not a user\)\. Leave these attempts out, or use another"):
        scaffold_of(family).reopened_parts(None)


def test_turn_is_reopened_as_the_template_ends_and_opens_turns() -> None:
    # Continues the last answer where there is no message after it, as some templates do.
    family = FAMILIES["Qwen2.5"]
    template = family.template.replace(
        "if add_generation_prompt", "if add_generation_prompt and messages[-1]['role'] != 'assistant'"
    )
    found = resolve_scaffold(make_byte_tokenizer(template, family.special, eos=family.eos), sample_feedback=FEEDBACK)
    with pytest.raises(ValueError, match="it writes nothing that opens a turn there"):
        found.reopened_parts(None)


@families
def test_findings(family: Family) -> None:
    found = find(scaffold_of(family))
    assert len(found) == len(family.findings), found
    for sentence, beginning in zip(found, family.findings, strict=True):
        assert sentence.startswith(beginning)
        assert sentence.endswith((".", ")."))


@families
def test_whole_row_with_a_system_message_reaches_the_model(family: Family) -> None:
    prompt = [{"role": "system", "content": SYSTEM_TEXT}, *row()["raw_prompt"]]
    output, server, loop = run(family, [encode(family, "so \\boxed{42}")], fields={"raw_prompt": prompt})
    check(family, output, server, loop, prompt)
    text = family.tokenizer.decode(output.prompt_ids)
    positions = [text.index(part) for part in (SYSTEM_TEXT, "You have 5 attempts", prompt[1]["content"])]
    assert positions == sorted(positions)


@families
def test_beginning_of_text_is_written_once(family: Family) -> None:
    output, _, _ = run(family, [encode(family, "so \\boxed{41}"), encode(family, "so \\boxed{42}")])
    bos = family.tokenizer.bos_token_id
    if bos is None:
        return
    assert output.prompt_ids.count(bos) == 1
    # Llama 2's stands before every question.
    assert output.response_ids.count(bos) == (1 if family is FAMILIES["Llama 2"] else 0)


def test_templates_own_double_beginning_of_text_is_found() -> None:
    family = FAMILIES["Llama 3"]
    tokenizer = make_byte_tokenizer("{{ bos_token }}" + LLAMA3, family.special, eos=family.eos, bos=family.bos)
    found = find(resolve_scaffold(tokenizer, sample_feedback=FEEDBACK))
    assert found[-1] == "The template writes '<|begin_of_text|>' twice at the start. Take one out of the template."


@pytest.mark.parametrize(
    ("kwargs", "date"), [({}, time.strftime("%d %b %Y")), ({"date_string": "26 Jul 2024"}, "26 Jul 2024")]
)
def test_date_in_the_prompt_is_found_unless_it_is_fixed(kwargs: dict[str, str], date: str) -> None:
    found = scaffold_of(FAMILIES["Llama 3.1"], template_kwargs=kwargs)
    prompt = found.layout.text(found.layout.messages([], FEEDBACK), prompt=True)
    assert f"Today Date: {date}" in prompt
    assert any("today's date" in sentence for sentence in find(found)) == (not kwargs)


# Thoughts.


def test_feedback_role_decides_whether_qwen3_keeps_thoughts_and_auto_takes_the_one_that_does() -> None:
    family = FAMILIES["Qwen3"]
    assert not [sentence for sentence in find(scaffold_of(family)) if sentence.startswith(THOUGHTS)]
    told = find(scaffold_of(family, feedback_role="user"))
    assert told[0].startswith(THOUGHTS)
    assert "With multiattempt.feedback.role=system this template keeps them." in told[0]


def test_template_that_has_no_role_that_keeps_thoughts_tells_of_another_template() -> None:
    told = find(scaffold_of(FAMILIES["DeepSeek-R1"]))
    assert "set actor_rollout_ref.model.custom_chat_template to a template that keeps them" in told[0]


@pytest.mark.parametrize("role", ["system", "user"])
def test_thoughts_stay_in_what_the_model_is_shown_and_trained_on(role: str) -> None:
    family = FAMILIES["Qwen3"]
    first = encode(family, "<think>\nlet me see\n</think>\n\nso \\boxed{41}")
    output, server, loop = run(
        family, [first, encode(family, "so \\boxed{42}")], settings={"feedback": {"role": role}}
    )  # fmt: skip
    check(family, output, server, loop, row()["raw_prompt"])
    assert server.requests[1]["prompt_ids"][: len(output.prompt_ids) + len(first)] == [*output.prompt_ids, *first]
    assert output.response_ids[: len(first)] == first
    assert output.response_mask[: len(first)] == [1] * len(first)


def test_thought_that_the_generation_prompt_opens_is_not_sampled_and_not_trained_on() -> None:
    family = FAMILIES["DeepSeek-R1"]
    think = family.tokenizer.convert_tokens_to_ids("<think>")
    attempts = [encode(family, f"let me see\n</think>\n\nso \\boxed{{{answer}}}") for answer in (41, 42)]
    output, server, loop = run(family, attempts)
    assert check(family, output, server, loop, row()["raw_prompt"]).solved
    assert output.prompt_ids.count(think) == 1
    masks = [mask for token, mask in zip(output.response_ids, output.response_mask, strict=True) if token == think]
    assert masks == [0]


def test_thinking_marks_that_are_special_do_not_end_an_attempt() -> None:
    tokenizer = make_byte_tokenizer(
        QWEN3, ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"), eos="<|im_end|>"
    )
    found = resolve_scaffold(tokenizer, sample_feedback=FEEDBACK)
    assert not {tokenizer.convert_tokens_to_ids(mark) for mark in ("<think>", "</think>")} & set(found.stop_token_ids())
    assert find(found)[-1] == "The tokenizer holds <think> and </think> for special; they do not end an attempt."
    ids = tokenizer.encode("<think>\nhm\n</think>\n\n\\boxed{42}<|im_end|>", add_special_tokens=False)
    output, _, _ = asyncio.run(run_attempts([ids], tokenizer=tokenizer))
    assert episode_of(output).solved
    assert output.response_ids == ids


# What the model writes itself before its answer, in special tokens.


@pytest.mark.parametrize("name", ["Cohere", "Seed"])
@pytest.mark.parametrize("thinks", [False, True])
def test_attempt_of_a_model_that_writes_special_tokens_goes_on_to_its_answer(name: str, thinks: bool) -> None:
    family = FAMILIES[name]
    start, end = family.thought_marks
    thought = family.tokenizer.encode(f"{start}let me see{end}", add_special_tokens=False) if thinks else []
    first = [*thought, *encode(family, "so \\boxed{41}")]
    output, server, loop = run(family, [first, encode(family, "so \\boxed{42}")])
    episode = check(family, output, server, loop, row()["raw_prompt"])
    assert [attempt.stop for attempt in episode.attempts] == [Stop.END_OF_TURN] * 2
    assert output.response_ids[: len(first)] == first
    assert episode.attempts[0].text == ("let me see" if thinks else "") + "so \\boxed{41}"
    assert episode.solved
    headers = {"Cohere": "<|START_OF_TURN_TOKEN|>", "Seed": "<seed:bos>"}
    assert family.tokenizer.convert_tokens_to_ids(headers[name]) in loop.shared.scaffold.control_ids


def test_marks_that_only_the_template_names_do_not_end_an_attempt() -> None:
    template = REWRITING["thoughts in marks of its own"][0]
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<musing>", "</musing>", "<|tool|>")
    tokenizer = make_byte_tokenizer(template, special, eos="<|im_end|>")
    found = resolve_scaffold(tokenizer, sample_feedback=FEEDBACK)
    assert set(tokenizer.convert_ids_to_tokens(found.control_ids)) == {"<|endoftext|>", "<|im_start|>", "<|tool|>"}
    assert find(found)[-1] == "The tokenizer holds <musing> and </musing> for special; they do not end an attempt."


def test_token_that_only_the_generation_prompt_leaves_out_does_not_end_an_attempt_after_a_prefill() -> None:
    prompt = "<|CHATBOT_TOKEN|>' }}{% endif %}"
    family = FAMILIES["Cohere"]
    template = family.template.replace(prompt, prompt.replace("' }}", "<|START_THINKING|>' }}"))
    assert template != family.template
    tokenizer = make_byte_tokenizer(template, family.special, eos=family.eos, bos=family.bos)
    found = resolve_scaffold(tokenizer, sample_feedback=FEEDBACK)
    assert tokenizer.decode(found.lead) == "<|START_RESPONSE|>"


@pytest.mark.parametrize("role", ["auto", "user"])
def test_model_that_writes_the_headers_of_its_messages_is_refused_with_the_remedy(role: str) -> None:
    tokenizer = make_byte_tokenizer(HARMONY, HARMONY_TOKENS, eos="<|return|>")
    with pytest.raises(ValueError, match="must name a model whose chat template") as caught:
        resolve_scaffold(tokenizer, sample_feedback=FEEDBACK, feedback_role=role)
    message = str(caught.value)
    assert "generation prompt ends before '<|channel|>final<|message|>', which holds marks of other messages" in message
    assert message.endswith("custom_chat_template to another one whose generation prompt ends with "
                            "'<|channel|>final<|message|>'.")  # fmt: skip
    assert "\n" not in message
    remedy = make_byte_tokenizer(HARMONY_FINAL, HARMONY_TOKENS, eos="<|return|>")
    assert resolve_scaffold(remedy, sample_feedback=FEEDBACK, feedback_role=role).lead == ()


def test_thought_that_ends_as_a_message_does_is_refused() -> None:
    template = REWRITING["thoughts in marks of its own"][0].replace("</musing>", "<|im_end|>")
    with pytest.raises(
        ValueError, match=r"takes what stands before '<\|im_end\|>' for a thought, which ends a message"
    ):
        resolve_scaffold(odd_tokenizer(template), sample_feedback=FEEDBACK)


# The user's own texts.


PROBES = [value for name, value in vars(layout).items() if name.isupper() and isinstance(value, str | tuple)]
PROBE_TEXTS = [text for value in PROBES for text in ([value] if isinstance(value, str) else value)]


@families
def test_no_text_of_the_user_changes_the_layout(family: Family) -> None:
    assert {layout.OPENING, layout.QUESTION, layout.FEEDBACK, *layout.ANSWERS} <= set(PROBE_TEXTS)
    everything = "Wrong. Answer the question again. What is 2 + 3? " + " ".join(PROBE_TEXTS) + " 4 left"
    plain = scaffold_of(family)
    for text in (everything, *PROBE_TEXTS):
        found = scaffold_of(family, sample_feedback=text, opening=OpeningSettings(text=f"{text}: {{max_attempts}}"))
        assert found.layout == plain.layout
        assert (found.reasons, found.end_ids, found.control_ids) == (plain.reasons, plain.end_ids, plain.control_ids)
        assert find(found) == find(plain)


def test_added_token_in_a_feedback_text_ends_no_attempt() -> None:
    tokenizer = make_byte_tokenizer(FAMILIES["Qwen2.5"].template, FAMILIES["Qwen2.5"].special, added=("<answer>",),
                                    eos="<|im_end|>")  # fmt: skip
    found = resolve_scaffold(tokenizer, sample_feedback="Wrong. Put it between <answer> and </answer>.")
    assert tokenizer.convert_tokens_to_ids("<answer>") not in found.control_ids


@pytest.mark.parametrize("name", CHANGING_TEXTS)
def test_texts_that_the_template_changes_go_elsewhere_or_are_refused(name: str) -> None:
    template, expected, role = CHANGING_TEXTS[name]
    tokenizer = odd_tokenizer(template)
    if role is None:
        with pytest.raises(ValueError, match="must name a model whose chat template") as caught:
            resolve_scaffold(tokenizer, sample_feedback=FEEDBACK)
        assert "the template changes a user message, or cuts it, from " in str(caught.value)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)
        return
    found = resolve_scaffold(tokenizer, sample_feedback=FEEDBACK)
    assert (found.opening_placement, found.feedback_role) == (expected, role)
    assert find(found)[0].startswith("There can be no system message (the template")
    prompt = [{"role": "system", "content": "Think of\nevery carry & <sign>."}, *row()["raw_prompt"]]
    attempts = [tokenizer.encode("so \\boxed{42}<|im_end|>", add_special_tokens=False)]
    output, _, _ = asyncio.run(run_attempts(attempts, tokenizer=tokenizer, fields={"raw_prompt": prompt}))
    text = tokenizer.decode(output.prompt_ids)
    assert prompt[0]["content"] in text
    assert "You have 5 attempts to answer the question. Put the final answer of each attempt in \\boxed{}." in text


def test_feedback_that_the_template_changes_is_refused_for_the_role() -> None:
    # Long enough for the imaginary feedback, not for the real one.
    template = CHANGING_TEXTS["60 characters of a system message"][0].replace("60", "40")
    with pytest.raises(
        ValueError, match=r"feedback\.role must be .* got 'system' \(system: the template changes a sys"
    ):
        resolve_scaffold(odd_tokenizer(template), sample_feedback=FEEDBACK, feedback_role="system")


def test_verifiers_text_is_tried_where_it_is_shown() -> None:
    tokenizer = odd_tokenizer(CHANGING_TEXTS["system message escaped"][0])
    assert scaffold_for(Settings(), tokenizer, {}).feedback_role == "system"
    shown = Settings(feedback=FeedbackSettings(use_verifier_text=True))
    assert scaffold_for(shown, tokenizer, {}).feedback_role == "user"


# Refusals.


def test_template_that_renders_no_role_is_refused_in_one_sentence() -> None:
    family = FAMILIES["fussy"]
    template = FUSSY.replace("'user', 'assistant'", "'assistant'")
    with pytest.raises(ValueError, match=r"multiattempt\.feedback\.role must be") as caught:
        resolve_scaffold(make_byte_tokenizer(template, family.special, eos=family.eos), sample_feedback=FEEDBACK)
    message = str(caught.value)
    assert "unknown role" in message
    assert message.endswith("Set it to auto, or use another chat template.")
    assert "\n" not in message


@pytest.mark.parametrize("name", REFUSED)
def test_template_that_cannot_hold_the_longest_episode_is_refused_with_the_remedy(name: str) -> None:
    template, reason, fits = REFUSED[name]
    tokenizer = odd_tokenizer(template)
    with pytest.raises(ValueError, match="must") as caught:
        resolve_scaffold(tokenizer, sample_feedback=FEEDBACK, max_attempts=5)
    message = str(caught.value)
    assert reason in message
    assert "\n" not in message
    assert message.endswith(
        f", or multiattempt.max_attempts and val_max_attempts to at most {fits}."
        if fits
        else ("Set it to auto, or use another chat template.", "custom_chat_template to another one.")
    )
    if fits:  # the remedy is one
        resolve_scaffold(tokenizer, sample_feedback=FEEDBACK, max_attempts=fits)


def test_validations_allowance_is_tried_too() -> None:
    tokenizer = odd_tokenizer(REFUSED["no more than seven messages"][0])
    assert scaffold_for(Settings(max_attempts=3), tokenizer, {}).opening_placement == "system"
    # A message fewer, without a system message.
    assert scaffold_for(Settings(max_attempts=3, val_max_attempts=4), tokenizer, {}).opening_placement == "user"
    for settings_ in (Settings(max_attempts=3, val_max_attempts=5), Settings(max_attempts=5, val_max_attempts=1)):
        with pytest.raises(ValueError, match=r"an episode of 5 attempts; got one that does not \(with 5 attempts: too"):
            scaffold_for(settings_, tokenizer, {})


@pytest.mark.parametrize(("max_attempts", "refused"), [(1, False), (2, False), (41, False), (42, True), (300, True)])
def test_longest_episode_is_rendered_however_long(max_attempts: int, refused: bool) -> None:
    template = REFUSED["no more than seven messages"][0].replace("> 7", "> 81")
    if refused:
        with pytest.raises(ValueError, match=f"with {max_attempts} attempts: too long"):
            resolve_scaffold(odd_tokenizer(template), sample_feedback=FEEDBACK, max_attempts=max_attempts)
    else:
        resolve_scaffold(odd_tokenizer(template), sample_feedback=FEEDBACK, max_attempts=max_attempts)


@pytest.mark.parametrize("name", ["Qwen3", "DeepSeek-R1", "Mistral"])
def test_number_of_renderings_is_bounded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = deepcopy(FAMILIES[name].tokenizer)
    calls: list[int] = []
    real = tokenizer.apply_chat_template
    monkeypatch.setattr(tokenizer, "apply_chat_template", lambda *args, **kw: calls.append(1) or real(*args, **kw))
    counts = []
    for max_attempts in (8, 200):
        calls.clear()
        find(resolve_scaffold(tokenizer, sample_feedback=FEEDBACK, max_attempts=max_attempts))
        counts.append(len(calls))
    assert counts[1] <= counts[0] + 8  # the longest episode, in each layout
    assert counts[0] <= 250


@pytest.mark.parametrize("name", NOT_THE_MODELS)
def test_nothing_but_the_models_attempts_is_written_as_the_models_turn(name: str) -> None:
    template, placement, role = NOT_THE_MODELS[name]
    tokenizer = odd_tokenizer(template)
    found = resolve_scaffold(tokenizer, sample_feedback=FEEDBACK)
    assert (found.opening_placement, found.feedback_role) == (placement, role)
    with pytest.raises(
        ValueError, match=r"feedback\.role must be .* got 'system' \(system: the template writes"
    ) as caught:
        resolve_scaffold(tokenizer, sample_feedback=FEEDBACK, feedback_role="system")
    assert ("as a turn of the model" in str(caught.value)) == (not name.startswith("no generation"))


# Templates that write the past otherwise.


@pytest.mark.parametrize("name", REWRITING)
def test_every_rewriting_of_the_past_is_told_and_the_sampled_tokens_stay(name: str) -> None:
    template, told = REWRITING[name]
    tokenizer = odd_tokenizer(template)
    found = find(resolve_scaffold(tokenizer, sample_feedback=FEEDBACK))
    assert len(found) == 1
    assert told in found[0]
    assert "The model is shown, and trained on, what it sampled" in found[0]
    attempts = [
        tokenizer.encode(text, add_special_tokens=False) + [tokenizer.eos_token_id]
        for text in ("[THINK]\nhm\n[/THINK]\n\nso it has to be \\boxed{41}", "<musing>hm</musing>\\boxed{42}")
    ]
    output, server, _ = asyncio.run(run_attempts(attempts, tokenizer=tokenizer))
    shown = server.requests[1]["prompt_ids"]
    assert shown[: len(output.prompt_ids) + len(attempts[0])] == [*output.prompt_ids, *attempts[0]]


@pytest.mark.parametrize("role", ["system", "user"])
def test_reminder_in_the_last_user_message_stays_where_the_model_saw_it(role: str) -> None:
    tokenizer = odd_tokenizer(REMINDER)
    scaffold = resolve_scaffold(tokenizer, sample_feedback=FEEDBACK, feedback_role=role)
    found = find(scaffold)
    if role == "system":  # the question remains the last user message
        assert found == []
        return
    assert found == [
        "Once later messages follow, the template writes the earlier ones otherwise: it leaves out "
        "'Think step by step.'. The model is shown, and trained on, what it sampled, and what it was shown, as it stood"
        " then; a server that renders the history anew would show the other. With multiattempt.feedback.role=system "
        "this template changes nothing."
    ]
    assert tokenizer.decode(scaffold.between_attempts(FEEDBACK)).count("Think step by step.") == 1


def test_change_that_begins_with_a_later_attempt_is_told_where_there_are_so_many() -> None:
    tokenizer = odd_tokenizer(REWRITING["answers cut later"][0])
    assert find(resolve_scaffold(tokenizer, sample_feedback=FEEDBACK, max_attempts=3)) == []
    assert find(resolve_scaffold(tokenizer, sample_feedback=FEEDBACK, max_attempts=4)) != []
    tokenizer = odd_tokenizer(REWRITING["answers cut later"][0].replace("+ 5 <", "+ 29 <"))
    assert find(resolve_scaffold(tokenizer, sample_feedback=FEEDBACK, max_attempts=15)) == []
    assert find(resolve_scaffold(tokenizer, sample_feedback=FEEDBACK, max_attempts=16)) != []


def test_prefill_is_told_apart_from_a_beginning_that_changes_too() -> None:
    template = "{{ 'Messages: ' ~ (messages | length) ~ '\\n' }}" + FAMILIES["Qwen3 thinking"].template
    found = find(resolve_scaffold(odd_tokenizer(template), sample_feedback=FEEDBACK))
    assert len(found) == 2
    assert ": it writes 'Messages: 10' for 'Messages: 2'. The model" in found[0]
    assert found[1].startswith(PREFILL + r" '<think>\n', which")


def test_template_that_marks_nobodys_messages_is_told() -> None:
    found = find(resolve_scaffold(odd_tokenizer(UNMARKED), sample_feedback=FEEDBACK))
    assert found == [
        "The template marks nobody's messages: the model can tell feedback from its own attempts by the text alone."
    ]


# What the model is shown and trained on.


@families
def test_sequence_is_the_templates_own_rendering_where_it_rewrites_nothing(family: Family) -> None:
    tokenizer = family.tokenizer
    texts = ["so \\boxed{41}", "I do not know", "so \\boxed{40}", "no", "so \\boxed{42}"]
    output, server, loop = run(family, [encode(family, text) for text in texts])
    episode = check(family, output, server, loop, row()["raw_prompt"])
    assert episode.solved
    shared = loop.shared
    messages = open_messages(row()["raw_prompt"], shared.settings.opening, 5, placement=family.placement)
    for attempt, text, request in zip(episode.attempts, texts, server.requests, strict=True):
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=False, add_generation_prompt=True, **family.kwargs
        )
        if family.rewrites or not shared.scaffold.closing:
            assert request is server.requests[0] or request["prompt_ids"] != rendered
        elif family.exact_spaces:
            assert request["prompt_ids"] == rendered
        else:
            assert _no_spaces(tokenizer, request["prompt_ids"]) == _no_spaces(tokenizer, rendered)
        messages += [{"role": "assistant", "content": text}, {"role": family.role, "content": attempt.feedback}]


def _no_spaces(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids)).replace(" ", "")


@families
@pytest.mark.parametrize("control", [False, True])
def test_attempt_cut_off_or_ended_by_a_control_token_gets_its_end_of_turn(family: Family, control: bool) -> None:
    found = scaffold_of(family)
    cut = encode(family, "so I thi", end=False)
    junk = [min(found.control_ids)] if control else []
    output, server, loop = run(
        family, [[*cut, *junk], encode(family, "so \\boxed{42}")],
        settings={"max_tokens_per_attempt": None if control else len(cut), "min_tokens_per_attempt": 1}
        if control else {"min_tokens_per_attempt": 1},
    )  # fmt: skip
    episode = check(family, output, server, loop, row()["raw_prompt"])
    assert episode.attempts[0].stop is (Stop.CONTROL_TOKEN if control else Stop.END_OF_TURN)
    inserted = output.response_ids[len(cut) + len(junk) :][: found.turn_end]
    assert inserted == found.between_attempts(FEEDBACK)[: found.turn_end]


@families
@pytest.mark.parametrize("ending", ["\n", "  \n\n ", "\t", "\u00e9\U0001f600", ""])
def test_white_space_around_an_attempt_is_kept_as_sampled(family: Family, ending: str) -> None:
    first = encode(family, f"{ending}so \\boxed{{41}}{ending}")
    output, server, loop = run(family, [first, encode(family, "so \\boxed{42}")])
    check(family, output, server, loop, row()["raw_prompt"])
    assert output.response_ids[: len(first)] == first


def test_a_turn_of_two_ends_that_the_model_closes_with_the_second_alone_is_not_closed_again() -> None:
    (family,) = (family for family in FAMILIES.values() if family.closing == "<|END_RESPONSE|><|END_OF_TURN_TOKEN|>")
    first = [*encode(family, "no", end=False), family.tokenizer.convert_tokens_to_ids("<|END_OF_TURN_TOKEN|>")]
    output, server, loop = run(family, [first, encode(family, "so \\boxed{42}")])
    check(family, output, server, loop, row()["raw_prompt"])
    text = family.tokenizer.decode(output.response_ids)
    assert text.startswith("<|START_RESPONSE|>no<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>")


names = st.sampled_from(sorted(FAMILIES))
SAID = ("so \\boxed{42}", "\\boxed{41} then", "\n no ", "", "</think>", "<think>\n", "a</think>\n\n\\boxed{4}")
texts = st.one_of(st.sampled_from(SAID), st.text(max_size=10))


@st.composite
def scripts(draw: st.DrawFn) -> tuple[Family, list[list[int]]]:
    """A family and five attempts of its model: texts, any tokens, ends of all kinds, and what follows them."""
    family = FAMILIES[draw(names)]
    found = scaffold_of(family)
    stops = found.stop_token_ids()
    plain = st.lists(st.integers(0, len(family.tokenizer) - 1).filter(lambda i: i not in stops), max_size=8)
    attempts = []
    for _ in range(5):
        # A text may spell a control token, which then is one: it ends the attempt, as an engine would.
        ids = encode(family, draw(texts), end=False) + draw(plain)
        end = draw(st.sampled_from([[], *([token] for token in stops)]))
        attempts.append([*ids, *end, *draw(plain)])
    assume(attempts[0])  # without any token there is nothing to train on
    return family, attempts


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    script=scripts(),
    max_attempts=st.integers(1, 5),
    response_length=st.integers(1, 250),
    attempt_limit=st.one_of(st.none(), st.integers(4, 30)),
    stop_at_answer=st.booleans(),
    aborts=st.frozensets(st.integers(0, 6), max_size=2),
)
def test_token_invariants_hold_for_any_family(
    script: tuple[Family, list[list[int]]], max_attempts: int, response_length: int, attempt_limit: int | None,
    stop_at_answer: bool, aborts: frozenset[int],
) -> None:  # fmt: skip
    family, attempts = script
    options = {
        "max_attempts": max_attempts, "max_tokens_per_attempt": attempt_limit, "min_tokens_per_attempt": 2,
        "stop_at_answer": stop_at_answer, "stop_at_answer_every": 5,
    }  # fmt: skip
    output, server, loop = run(family, attempts, settings=options, response_length=response_length, aborts=aborts)
    episode = check(family, output, server, loop, row()["raw_prompt"])
    assert episode.ended
    assert 1 <= episode.attempts_used <= max_attempts
