from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
import ray

from tests.adapters.harness import ScriptedServer, compose_config, make_loop, run_attempts
from tests.chat_templates import FAMILIES, REWRITING, THOUGHTS, Family, odd_tokenizer
from tests.tokenizers import CHATML, CHATML_SYSTEM_FIRST, make_tokenizer
from verl_multiattempt.adapters.rendered_example import RenderedExample, log_example, render_example, speaks_for_the_run
from verl_multiattempt.chat.scaffold import ChatScaffold, resolve_scaffold
from verl_multiattempt.record import Segment
from verl_multiattempt.settings import Settings

FEEDBACK = "Your answer is incorrect. You have 3 attempts left."
families = pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())


def scaffold(template: str = CHATML, **options: Any) -> ChatScaffold:
    return resolve_scaffold(make_tokenizer(template), sample_feedback=FEEDBACK, **options)


def kinds(example: RenderedExample) -> list[str]:
    return [segment.kind for segment in example.segments]


def test_drawn_example() -> None:
    drawn = str(render_example(scaffold(CHATML_SYSTEM_FIRST), Settings(max_attempts=4)))
    assert drawn == (
        "An imaginary episode, as the model is shown it (mask 1: sampled and trained on, 0: not trained on;"
        " \u21b5: a line break)\n"
        "      prompt (48)  0 | <|im_start|>system\u21b5\n"
        "                   0 | You have 4 attempts to answer the question. Put the final answer of each attempt in "
        "\\boxed{}.<|im_end|>\u21b5\n"
        "                   0 | <|im_start|>user\u21b5\n"
        "                   0 | What is 2 + 3?<|im_end|>\u21b5\n"
        "                   0 | <|im_start|>assistant\u21b5\n"
        "       model (14)  1 | It is \\boxed{wrong}.<|im_end|>\n"
        "     inserted (1)  0 | \u21b5\n"
        "    feedback (21)  0 | <|im_start|>user\u21b5\n"
        "                   0 | Your answer is incorrect. You have 3 attempts left.<|im_end|>\u21b5\n"
        "                   0 | <|im_start|>assistant\u21b5\n"
        "       model (17)  1 | I do not know, so\n"
        "     inserted (2)  0 | <|im_end|>\u21b5\n"
        "    feedback (22)  0 | <|im_start|>user\u21b5\n"
        "                   0 | Your answer is incorrect. You have 2 attempts left.<|im_end|>\u21b5\n"
        "                   0 | <|im_start|>assistant\u21b5\n"
        "       model (14)  1 | It is \\boxed{right}.<|im_end|>\n"
        "The opening is in the system message, feedback is a user message (as a system message: system must come first)"
        ", an attempt ends with '<|im_end|>'."
    )


@families
def test_example_is_what_the_agent_loop_makes_of_the_same_attempts(family: Family) -> None:
    tokenizer = family.tokenizer
    found = resolve_scaffold(tokenizer, sample_feedback=FEEDBACK, template_kwargs=family.kwargs)
    question = [{"role": "user", "content": "Compute 12*34 mod 6 = ?"}]
    example = render_example(found, Settings(), question)
    opens = any(segment.text.startswith("Let me see") for segment in example.segments)
    start, close = family.thought_marks
    removed = bool(start) and any(finding.startswith(THOUGHTS) for finding in example.findings)
    thought = f"Let me see.\n{close}\n\n" if opens else f"{start}\nLet me see.\n{close}\n\n" if removed else ""
    thought += family.lead
    end = tokenizer.convert_tokens_to_ids(family.end)
    attempts = [
        [*tokenizer.encode(f"{thought}It is \\boxed{{wrong}}.", add_special_tokens=False), end],
        tokenizer.encode(f"{family.lead}I do not know, so", add_special_tokens=False),
        [*tokenizer.encode(f"{thought}It is \\boxed{{right}}.", add_special_tokens=False), end],
    ]
    # The answer to be found, so that the third attempt ends the episode.
    output, _, _ = asyncio.run(
        run_attempts(attempts, tokenizer=tokenizer, template_kwargs=family.kwargs,
                     fields={"reward_model": {"style": "rule", "ground_truth": "right"}})
    )  # fmt: skip
    assert sum(segment.num_tokens for segment in example.segments) == len(output.prompt_ids) + len(output.response_ids)
    assert example.text == tokenizer.decode([*output.prompt_ids, *output.response_ids])
    masks = [int(segment.kind == "model") for segment in example.segments[1:] for _ in range(segment.num_tokens)]
    assert masks == output.response_mask


@pytest.mark.parametrize(
    ("max_attempts", "expected"),
    [
        (1, ["prompt", "model"]),
        (2, ["prompt", "model", "inserted", "feedback", "model"]),
        (3, ["prompt", "model", "inserted", "feedback", "model", "inserted", "feedback", "model"]),
    ],
)
def test_example_has_as_many_attempts_as_are_allowed(max_attempts: int, expected: list[str]) -> None:
    example = render_example(scaffold(), Settings(max_attempts=max_attempts))
    assert kinds(example) == expected
    assert example.segments[-1].text == "It is \\boxed{right}.<|im_end|>"


def test_example_of_a_row_shows_its_prompt() -> None:
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
    example = render_example(scaffold(), Settings(), prompt)
    assert example.segments[0] == Segment(
        kind="prompt",
        num_tokens=example.segments[0].num_tokens,
        text="<|im_start|>system\nBe brief.\n\nYou have 5 attempts to answer the question. Put the final answer of "
        "each attempt in \\boxed{}.<|im_end|>\n<|im_start|>user\n2 + 2?<|im_end|>\n<|im_start|>assistant\n",
    )
    assert prompt[0]["content"] == "Be brief."


def test_findings_are_drawn_as_notes() -> None:
    family = FAMILIES["DeepSeek-R1"]
    example = render_example(resolve_scaffold(family.tokenizer, sample_feedback=FEEDBACK), Settings())
    notes = [line for line in str(example).splitlines() if line.startswith("Note: ")]
    assert notes == [f"Note: {finding}" for finding in example.findings]
    assert len(notes) == 2


def test_thoughts_are_drawn_in_the_templates_own_marks() -> None:
    found = resolve_scaffold(odd_tokenizer(REWRITING["thoughts in brackets"][0]), sample_feedback=FEEDBACK)
    example = render_example(found, Settings())
    assert [segment.text for segment in example.segments if segment.kind == "model"] == [
        "[THINK]\nLet me see.\n[/THINK]\n\nIt is \\boxed{wrong}.<|im_end|>",
        "I do not know, so",
        "[THINK]\nLet me see.\n[/THINK]\n\nIt is \\boxed{right}.<|im_end|>",
    ]
    assert example.findings[0].startswith("The template removes what was thought ([THINK] ... [/THINK])")


@pytest.mark.parametrize(
    ("name", "wrote"),
    [("Cohere", ["<|START_RESPONSE|>It is \\boxed{wrong}.<|END_RESPONSE|>", "<|START_RESPONSE|>I do not know, so"]),
     ("Seed", ["<seed:think>\nLet me see.\n</seed:think>\n\nIt is \\boxed{wrong}.<seed:eos>", "I do not know, so"])],
)  # fmt: skip
def test_example_shows_the_special_tokens_that_such_a_model_writes(name: str, wrote: list[str]) -> None:
    found = resolve_scaffold(FAMILIES[name].tokenizer, sample_feedback=FEEDBACK)
    example = render_example(found, Settings())
    assert [segment.text for segment in example.segments if segment.kind == "model"][:2] == wrote


def test_example_is_logged_once_by_a_worker(caplog: pytest.LogCaptureFixture) -> None:
    config = compose_config()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            make_loop(config, ScriptedServer([]))
    assert caplog.text.count("An imaginary episode") == 1
    assert "1 | It is \\boxed{right}.<|im_end|>" in caplog.text


@pytest.mark.parametrize("speaks", [True, False])
def test_worker_that_does_not_speak_for_the_run_introduces_nothing(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, speaks: bool
) -> None:
    # Which one speaks is tested below, with verl's names of the workers.
    monkeypatch.setattr("verl_multiattempt.adapters.agent_loop.speaks_for_the_run", lambda: speaks)
    with caplog.at_level(logging.WARNING):
        make_loop(compose_config(), ScriptedServer([]))
    assert ("multiattempt: episodes of 1..5 attempts" in caplog.text) is speaks
    assert ("An imaginary episode" in caplog.text) is speaks


def test_example_that_cannot_be_rendered_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    # A template that cannot do with white space around an answer, which no check before has tried.
    template = "{% if messages[-2]['content'].startswith(' ') %}{{ raise_exception('spaces!') }}{% endif %}" + CHATML
    with caplog.at_level(logging.WARNING):
        log_example(scaffold(template), Settings())
    assert "no example of an episode could be rendered: spaces!" in caplog.text


def test_only_the_first_of_the_runs_workers_logs() -> None:
    assert speaks_for_the_run()  # not a worker at all

    class Worker:
        def speaks(self) -> bool:
            from verl_multiattempt.adapters.rendered_example import speaks_for_the_run

            return speaks_for_the_run()

    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        names = ("agent_loop_worker_0_1a2b3c4d", "agent_loop_worker_10_1a2b3c4d")  # as verl names them
        workers = [ray.remote(num_cpus=0)(Worker).options(name=name).remote() for name in names]
        assert ray.get([worker.speaks.remote() for worker in workers]) == [True, False]
    finally:
        ray.shutdown()
