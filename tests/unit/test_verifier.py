from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from verl_multiattempt import verifier as module
from verl_multiattempt.math_verifier import MathVerifier
from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import (
    Outcome,
    Question,
    Verdict,
    Verifier,
    check_verifier,
    load_verifier_class,
    make_verifier,
    register_verifier,
)


class Echo:
    """A verifier of a user's own."""

    def __init__(self, settings: VerifierSettings, *, gold: str = "1"):
        self.settings, self.gold = settings, gold

    async def verify(self, text: str, question: Question) -> Verdict:
        return Verdict(outcome=Outcome.CORRECT if text == self.gold else Outcome.INCORRECT)

    async def close(self) -> None:
        pass


ECHO = f"{__name__}.Echo"


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REGISTRY", dict(module._REGISTRY))


def refused(name: str) -> str:
    with pytest.raises(ValueError, match="verifier") as caught:
        load_verifier_class(name)
    return str(caught.value)


def test_math_is_registered() -> None:
    assert load_verifier_class("math") is MathVerifier


def test_import_path_needs_no_registration() -> None:
    assert load_verifier_class(ECHO) is Echo


def test_registered_name_is_found() -> None:
    register_verifier("echo", ECHO)
    assert load_verifier_class("echo") is Echo


def test_registering_the_same_class_twice_is_harmless() -> None:
    register_verifier("echo", ECHO)
    register_verifier("echo", ECHO)


def test_name_that_is_taken_is_refused() -> None:
    with pytest.raises(ValueError, match="name") as caught:
        register_verifier("math", ECHO)
    assert str(caught.value) == (
        "name must be free; got 'math', which is verl_multiattempt.math_verifier.MathVerifier. Register "
        f"{ECHO} under another name."
    )


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    register_verifier("echo", ECHO)
    assert refused("maths") == (
        "multiattempt.verifier.name must be one of compute_score, echo, math or package.module.Class; got 'maths'"
    )


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no_such_package.Class", "No module named 'no_such_package'"),
        ("verl_multiattempt.verifier.NoSuchClass", "has no attribute 'NoSuchClass'"),
        ("..Class", "TypeError: the 'package' argument is required"),
    ],
)
def test_path_that_cannot_be_imported_is_refused_with_the_reason(name: str, reason: str) -> None:
    sentence = refused(name)
    assert sentence.startswith(
        f"multiattempt.verifier.name must be one of compute_score, math or package.module.Class; got {name!r}, "
        "which cannot be imported: "
    )
    assert reason in sentence


@pytest.mark.parametrize("source", ["1 / 0", "def broken(:", "raise SystemError('x')"])
def test_module_that_fails_in_any_way_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    # Whatever a user's own module raises must end as a sentence, since the preflight catches ValueError.
    (tmp_path / "broken_verifier_module.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert "which cannot be imported: " in refused("broken_verifier_module.Class")


def test_verifier_is_made_with_settings_and_kwargs() -> None:
    settings = VerifierSettings(name=ECHO, kwargs={"gold": "7"})
    made = make_verifier(settings)
    assert isinstance(made, Echo)
    assert (made.settings, made.gold) == (settings, "7")


def test_kwargs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="kwargs") as caught:
        make_verifier(VerifierSettings(name="math", kwargs={"precision": 3}))
    assert str(caught.value).startswith("multiattempt.verifier.kwargs must fit math; got {'precision': 3}: ")
    assert "'precision'" in str(caught.value)


@pytest.mark.parametrize("made", [MathVerifier(VerifierSettings()), Echo(VerifierSettings())])
def test_verifiers_follow_the_protocol(made: Any) -> None:
    assert isinstance(made, Verifier)


def test_what_has_no_close_does_not_follow_the_protocol() -> None:
    assert not isinstance(object(), Verifier)


def test_class_that_is_no_verifier_is_refused_by_name() -> None:
    settings = VerifierSettings(name="verl_multiattempt.verifier.Outcome")
    with pytest.raises(
        ValueError, match=r"must name a class with the coroutines verify and close; got .* without verify"
    ):
        check_verifier(settings)


def test_arguments_that_do_not_fit_are_refused_without_making_a_verifier() -> None:
    with pytest.raises(ValueError, match=r"multiattempt\.verifier\.kwargs must fit .*; got \{'nope': 1\}"):
        check_verifier(VerifierSettings(name=ECHO, kwargs={"nope": 1}))


def test_gold_that_is_neither_text_nor_number_is_an_error() -> None:
    verdict = asyncio.run(MathVerifier(VerifierSettings()).verify("\\boxed{42}", Question(ground_truth={"a": 42})))
    assert verdict.outcome is Outcome.ERROR
    assert verdict.detail == "reward_model.ground_truth must be text, a number or a list of them; got {'a': 42}"
