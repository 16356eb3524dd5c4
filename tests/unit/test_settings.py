from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass
from importlib.resources import files
from typing import Any

import pytest
import yaml

from verl_multiattempt.settings import (
    DEFAULT_FEEDBACK,
    DEFAULT_OPENING,
    FeedbackSettings,
    OpeningSettings,
    RecordSettings,
    RewardSettings,
    Settings,
    VerifierSettings,
)

Path = tuple[str, ...]


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    """The node ``multiattempt:`` of the recipe, as written."""
    text = (files("verl_multiattempt.config") / "recipe" / "multiattempt.yaml").read_text(encoding="utf-8")
    node = yaml.safe_load(text)["multiattempt"]
    assert isinstance(node, dict)
    return node


def leaves(node: Any, path: Path = ()) -> dict[Path, tuple[type, Any]]:
    """Every value of nested mappings by its path, with its type (1 == 1.0 == True in Python, not in a config)."""
    if isinstance(node, dict) and node:
        return {key: leaf for name, value in node.items() for key, leaf in leaves(value, (*path, name)).items()}
    if isinstance(node, tuple):
        node = list(node)
    return {path: (type(node), node)}


# The recipe is the mirror of the dataclasses.


def test_recipe_has_every_key_and_default_of_the_dataclasses_and_no_other(recipe: dict[str, Any]) -> None:
    assert leaves(recipe) == leaves(asdict(Settings()))


def test_recipe_keeps_the_order_of_the_dataclasses(recipe: dict[str, Any]) -> None:
    assert list(leaves(recipe)) == list(leaves(asdict(Settings())))


def test_settings_from_the_recipe_are_the_defaults(recipe: dict[str, Any]) -> None:
    assert Settings.from_mapping(recipe) == Settings() == Settings.from_mapping({})


def test_default_texts_are_those_of_the_recipe(recipe: dict[str, Any]) -> None:
    assert recipe["opening"]["text"] == DEFAULT_OPENING == OpeningSettings().text
    assert recipe["feedback"]["text"] == DEFAULT_FEEDBACK == FeedbackSettings().text


def test_from_mapping_is_the_inverse_of_asdict() -> None:
    settings = Settings(
        min_attempts=2, max_attempts=3, distribution="weighted", weights=(0.25, 0.75), scope="rollout", seed=-7,
        val_max_attempts=1, max_tokens_per_attempt=64, min_tokens_per_attempt=64, stop_at_answer=True,
        stop_at_answer_every=1, allowed_special_tokens=("<think>",), opening=OpeningSettings(text="{max_attempts}"),
        feedback=FeedbackSettings(text="{attempts_left}{s}", role="user", use_verifier_text=True,
                                  max_verifier_chars=20),
        reward=RewardSettings(correct=2, answered=0, unanswered=-3.5, attempt_discount=0.5,
                              on_verifier_failure="fail"),
        verifier=VerifierSettings(name="a.B", num_workers=1, timeout_s=0.1, memory_limit_mb=256, kwargs={"x": [1]}),
        record=RecordSettings(enabled=True, dir="log", every_n_steps=10, max_episodes_per_step=None),
    )  # fmt: skip
    assert Settings.from_mapping(asdict(settings)) == settings


def test_every_setting_can_be_set_by_its_key() -> None:
    # A field that from_mapping forgot would keep its default.
    for node in fields(Settings):
        value = getattr(Settings(), node.name)
        inner = asdict(value) if is_dataclass(value) else value
        assert getattr(Settings.from_mapping({node.name: inner}), node.name) == value


def test_list_becomes_tuple_so_that_settings_stay_immutable() -> None:
    settings = Settings.from_mapping(
        {"max_attempts": 2, "distribution": "weighted", "weights": [0.5, 0.5], "allowed_special_tokens": ["<a>"]}
    )
    assert settings.weights == (0.5, 0.5)
    assert settings.allowed_special_tokens == ("<a>",)


# Each value that cannot work has one sentence: key, what it must be, what it is, and the remedy.

NEED = "multiattempt."
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"min_attempts": 0}, "min_attempts must be an integer of at least 1; got 0"),
    ({"max_attempts": 0}, "max_attempts must be an integer of at least 1; got 0"),
    ({"max_attempts": True}, "max_attempts must be an integer of at least 1; got True"),
    ({"max_attempts": 5.0}, "max_attempts must be an integer of at least 1; got 5.0"),
    ({"max_attempts": None}, "max_attempts must be an integer of at least 1; got None"),
    ({"min_attempts": "1"}, "min_attempts must be an integer of at least 1; got '1'"),
    (
        {"min_attempts": 6},
        "min_attempts must be at most multiattempt.max_attempts (5); got 6. Lower min_attempts or raise max_attempts.",
    ),
    ({"min_tokens_per_attempt": 0}, "min_tokens_per_attempt must be an integer of at least 1; got 0"),
    ({"stop_at_answer_every": 0}, "stop_at_answer_every must be an integer of at least 1; got 0"),
    ({"val_max_attempts": 0}, "val_max_attempts must be null or an integer of at least 1; got 0"),
    ({"max_tokens_per_attempt": -1}, "max_tokens_per_attempt must be null or an integer of at least 1; got -1"),
    (
        {"max_tokens_per_attempt": 15},
        "min_tokens_per_attempt must be at most multiattempt.max_tokens_per_attempt (15); got 16",
    ),
    ({"seed": 0.5}, "seed must be an integer; got 0.5"),
    ({"seed": None}, "seed must be an integer; got None"),
    ({"stop_at_answer": "yes"}, "stop_at_answer must be true or false; got 'yes'"),
    ({"distribution": "normal"}, "distribution must be one of uniform, fixed, weighted; got 'normal'"),
    ({"scope": "prompt"}, "scope must be one of auto, group, rollout; got 'prompt'"),
    ({"allowed_special_tokens": "<think>"}, "allowed_special_tokens must be a list of texts; got '<think>'"),
    ({"allowed_special_tokens": [7]}, "allowed_special_tokens must be a list of texts; got (7,)"),
    (
        {"weights": [1.0]},
        "weights must be null unless multiattempt.distribution is weighted; got (1.0,). "
        "Set multiattempt.distribution=weighted or remove the weights.",
    ),
    (
        {"distribution": "weighted"},
        "weights must be a list of probabilities when multiattempt.distribution is weighted; got None",
    ),
    (
        {"distribution": "weighted", "weights": [1.5, -0.5]},
        "weights must be a list of probabilities when multiattempt.distribution is weighted; got (1.5, -0.5)",
    ),
    (
        {"distribution": "weighted", "weights": 0.5},
        "weights must be a list of probabilities when multiattempt.distribution is weighted; got 0.5",
    ),
    (
        {"distribution": "weighted", "max_attempts": 2, "weights": [float("nan"), 1.0]},
        "weights must be a list of probabilities when multiattempt.distribution is weighted; got (nan, 1.0)",
    ),
    (
        {"distribution": "weighted", "min_attempts": 2, "max_attempts": 4, "weights": [0.5, 0.5]},
        "weights must have one probability for each of 2..4 (3); got [0.5, 0.5]",
    ),
    (
        {"distribution": "weighted", "max_attempts": 2, "weights": [0.5, 0.4]},
        "weights must sum to 1 (they sum to 0.9); got [0.5, 0.4]",
    ),
    ({"opening": {"text": ""}}, "opening.text must be a non-empty text; got ''"),
    ({"opening": {"text": None}}, "opening.text must be a non-empty text; got None"),
    (
        {"opening": {"text": "Answer."}},
        "opening.text must contain the placeholder {max_attempts}; got 'Answer.'",
    ),
    (
        {"opening": {"text": "{max_attempts}: \\boxed{}"}},
        "opening.text must use no other placeholder than {max_attempts} and {s} (the plural's s); "
        "got '{max_attempts}: \\\\boxed{}'. Write {{ and }} for literal braces, as in \\boxed{{}}.",
    ),
    (
        {"opening": {"text": "{max_attempts} {x"}},
        "opening.text must be a valid format text; got '{max_attempts} {x'. "
        "expected '}' before end of string; write {{ and }} for literal braces.",
    ),
    (
        {"opening": {"text": "{max_attempts:>{s}}"}},
        "opening.text must use no other placeholder than {max_attempts} and {s} (the plural's s); "
        "got '{max_attempts:>{s}}'. Write {{ and }} for literal braces, as in \\boxed{{}}.",
    ),
    (
        {"opening": {"text": "{max_attempts.__class__}"}},
        "opening.text must contain the placeholder {max_attempts}; got '{max_attempts.__class__}'",
    ),
    (
        {"feedback": {"text": "You have {max_attempts}."}},
        "feedback.text must contain the placeholder {attempts_left}; got 'You have {max_attempts}.'",
    ),
    (
        {"feedback": {"text": "{attempts_left!r}"}},
        "feedback.text must use no other placeholder than {attempts_left} and {s} (the plural's s); "
        "got '{attempts_left!r}'. Write {{ and }} for literal braces, as in \\boxed{{}}.",
    ),
    ({"feedback": {"role": "tool"}}, "feedback.role must be one of auto, system, user; got 'tool'"),
    ({"feedback": {"use_verifier_text": 1}}, "feedback.use_verifier_text must be true or false; got 1"),
    (
        {"feedback": {"max_verifier_chars": 19}},
        "feedback.max_verifier_chars must be an integer of at least 20; got 19",
    ),
    ({"reward": {"scheme": "ufo"}}, "reward.scheme must be the name of a reward scheme (paper); got 'ufo'"),
    ({"reward": {"correct": "1"}}, "reward.correct must be a finite number; got '1'"),
    ({"reward": {"answered": float("inf")}}, "reward.answered must be a finite number; got inf"),
    ({"reward": {"unanswered": None}}, "reward.unanswered must be a finite number; got None"),
    ({"reward": {"attempt_discount": 0}}, "reward.attempt_discount must be above 0 and at most 1; got 0"),
    ({"reward": {"attempt_discount": 1.01}}, "reward.attempt_discount must be above 0 and at most 1; got 1.01"),
    (
        {"reward": {"on_verifier_failure": "skip"}},
        "reward.on_verifier_failure must be one of incorrect, fail; got 'skip'",
    ),
    ({"verifier": {"name": ""}}, "verifier.name must be a registered name or an import path; got ''"),
    (
        {"verifier": {"num_workers": 0}},
        "verifier.num_workers must be an integer of at least 1; got 0. One or two are enough.",
    ),
    (
        {"verifier": {"timeout_s": 0}},
        "verifier.timeout_s must be a finite number of seconds above 0; got 0. The default is 5.",
    ),
    (
        {"verifier": {"timeout_s": float("nan")}},
        "verifier.timeout_s must be a finite number of seconds above 0; got nan. The default is 5.",
    ),
    (
        {"verifier": {"memory_limit_mb": 255}},
        "verifier.memory_limit_mb must be an integer of at least 256 (MiB); got 255. The default is 2048.",
    ),
    (
        {"verifier": {"kwargs": [1]}},
        "verifier.kwargs must be a mapping; got (1,). Set its keys one by one: "
        "+multiattempt.verifier.kwargs.<key>=<value>.",
    ),
    ({"verifier": None}, "verifier must be a mapping; got None"),
    ({"record": {"enabled": "yes"}}, "record.enabled must be true or false; got 'yes'"),
    ({"record": {"dir": ""}}, "record.dir must be null or the path of a folder; got ''"),
    ({"record": {"every_n_steps": 0}}, "record.every_n_steps must be an integer of at least 1; got 0"),
    (
        {"record": {"max_episodes_per_step": 0}},
        "record.max_episodes_per_step must be null or an integer of at least 1; got 0. "
        "Set multiattempt.record.enabled=false to log none.",
    ),
    (
        {"record": {"max_episodes_per_step": 1.5}},
        "record.max_episodes_per_step must be null or an integer of at least 1; got 1.5",
    ),
]


@pytest.mark.parametrize(("mapping", "sentence"), REFUSED, ids=lambda value: str(value)[:50])
def test_refused_with_the_exact_sentence(mapping: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match="multiattempt") as caught:
        Settings.from_mapping(mapping)
    assert str(caught.value) == NEED + sentence


def test_unknown_key_is_named_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="multiattempt") as caught:
        Settings.from_mapping({"max_attempt": 3})
    assert str(caught.value) == (
        "multiattempt must have no other keys than min_attempts, max_attempts, distribution, weights, scope, seed, "
        "val_max_attempts, max_tokens_per_attempt, min_tokens_per_attempt, stop_at_answer, stop_at_answer_every, "
        "allowed_special_tokens, opening, feedback, reward, verifier, record; got 'max_attempt'"
    )


def test_unknown_nested_key_is_named_with_its_path() -> None:
    with pytest.raises(ValueError, match="multiattempt") as caught:
        Settings.from_mapping({"reward": {"wrong": -1}})
    assert str(caught.value) == (
        "multiattempt.reward must have no other keys than scheme, correct, answered, unanswered, attempt_discount, "
        "on_verifier_failure; got 'wrong'"
    )


def test_mapping_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^multiattempt must be a mapping; got 'on'$"):
        Settings.from_mapping("on")  # type: ignore[arg-type]


# Values at the edge of what is allowed.


@pytest.mark.parametrize(
    "mapping",
    [
        {"min_attempts": 5},
        {"max_attempts": 1},
        {"max_tokens_per_attempt": 16},
        {"distribution": "weighted", "max_attempts": 3, "weights": [0.1, 0.2, 0.7]},
        {"distribution": "weighted", "max_attempts": 3, "weights": [1 / 3, 1 / 3, 1 / 3]},
        {"distribution": "weighted", "max_attempts": 3, "weights": [0, 0, 1]},
        {"reward": {"attempt_discount": 1}},
        {"reward": {"correct": -1}},
        {"feedback": {"max_verifier_chars": 20}},
        {"verifier": {"memory_limit_mb": 256}},
        {"record": {"max_episodes_per_step": 1}},
        {"record": {"max_episodes_per_step": None}},
        {"opening": {"text": "{max_attempts}{max_attempts}"}},
        {"feedback": {"text": "{{}}{attempts_left}"}},
    ],
    ids=str,
)
def test_edge_value_is_allowed(mapping: dict[str, Any]) -> None:
    Settings.from_mapping(mapping)
