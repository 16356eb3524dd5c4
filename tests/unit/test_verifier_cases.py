"""Every case of tests/verifier_cases.jsonl through the real verifier, in one pool; one test a form."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Question, Verdict, make_verifier

CASES_FILE = Path(__file__).resolve().parents[1] / "verifier_cases.jsonl"
NUM_AT_ONCE = 64


def load_cases() -> list[dict[str, Any]]:
    return [json.loads(line) for line in CASES_FILE.read_text(encoding="utf-8").splitlines()]


CASES = load_cases()
FORMS = sorted({case["form"] for case in CASES})


def attempt_text(case: dict[str, Any]) -> str:
    """The attempt of a case: its whole text, or a sentence with the answer in a box."""
    if "text" in case:
        return case["text"]
    return f"Hence the result follows. The final answer is \\boxed{{{case['answer']}}}."


async def verify_all(cases: list[dict[str, Any]]) -> list[Verdict]:
    verifier = make_verifier(VerifierSettings(num_workers=2, timeout_s=10.0))
    at_once = asyncio.Semaphore(NUM_AT_ONCE)

    async def verify(case: dict[str, Any]) -> Verdict:
        async with at_once:
            return await verifier.verify(attempt_text(case), Question(ground_truth=case["gold"]))

    try:
        return await asyncio.gather(*map(verify, cases))
    finally:
        await verifier.close()


@pytest.fixture(scope="module")
def verdicts_by_form() -> dict[str, list[tuple[dict[str, Any], Verdict]]]:
    by_form = defaultdict(list)
    for case, verdict in zip(CASES, asyncio.run(verify_all(CASES)), strict=True):
        by_form[case["form"]].append((case, verdict))
    return by_form


@pytest.mark.parametrize("form", FORMS)
def test_verdicts_of_form(form: str, verdicts_by_form: dict[str, list[tuple[dict[str, Any], Verdict]]]) -> None:
    wrong = [
        f"gold {case['gold']!r}, {'text' if 'text' in case else 'answer'} {case.get('text', case.get('answer'))!r}: "
        f"expected {case['verdict']}, got {verdict.outcome}{f' ({verdict.detail})' if verdict.detail else ''}"
        for case, verdict in verdicts_by_form[form]
        if verdict.outcome != case["verdict"]
    ]
    assert not wrong, f"{len(wrong)} of {len(verdicts_by_form[form])} cases of form {form}:\n" + "\n".join(wrong)


def test_there_are_at_least_300_cases() -> None:
    assert len(CASES) >= 300


def test_cases_have_the_keys_of_their_kind() -> None:
    for number, case in enumerate(CASES, start=1):
        assert set(case) - {"why"} in ({"form", "gold", "answer", "verdict"}, {"form", "gold", "text", "verdict"}), (
            f"line {number}"
        )
        assert case["verdict"] in ("CORRECT", "INCORRECT", "NO_ANSWER"), f"line {number}"
        assert isinstance(case["gold"], str | int | float), f"line {number}"


def test_every_form_has_ten_cases_and_right_and_wrong_answers() -> None:
    for form in FORMS:
        verdicts = Counter(case["verdict"] for case in CASES if case["form"] == form)
        assert verdicts.total() >= 10, form
        assert {"CORRECT", "INCORRECT"} <= set(verdicts), form


def test_no_case_is_there_twice() -> None:
    counts = Counter((json.dumps(case["gold"]), attempt_text(case)) for case in CASES)
    assert [case for case, count in counts.items() if count > 1] == []
