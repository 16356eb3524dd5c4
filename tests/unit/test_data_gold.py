r"""The gold of a published row: in a field, in \boxed{}, after ####, first of a list."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verl_multiattempt.data.gold import (
    GoldRule,
    find_gold,
    from_box,
    from_field,
    from_first,
    from_hashes,
    looks_like_a_container,
    parse_gold_rule,
)


@pytest.mark.parametrize(
    ("value", "gold"),
    [
        ("p - q", "p - q"),
        ("  204 ", "204"),
        (27.0, "27"),
        (27, "27"),
        (-0.5, "-0.5"),
        (1e22, "10000000000000000000000"),
        (Decimal("27.00"), "27"),
        (Decimal("0.10"), "0.10"),
        ("27.0", "27.0"),
        (r"$\frac{1}{2 n+2}$", r"\frac{1}{2 n+2}"),
        ("$$x$$", "x"),
        ("$x$, $y$", "$x$, $y$"),
        (r"\$18.90", r"\$18.90"),
        ("$", "$"),
    ],
    ids=repr,
)
def test_field_is_taken_as_published_and_numbers_without_a_needless_fraction(value: Any, gold: str) -> None:
    assert from_field(value) == gold


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", "must not be empty; got ''"),
        ("  ", "must not be empty"),
        (None, "must be text or a number; got None"),
        (True, "must be text or a number; got True"),
        ({"a": 1}, "must be text or a number; got {'a': 1}"),
        (["2"], "must be text or a number; got ['2']. Use COLUMN:first for a list."),
        (math.nan, "must be a finite number; got nan"),
        (math.inf, "must be a finite number; got inf"),
    ],
    ids=repr,
)
def test_field_that_is_no_gold(value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=r"^must ") as caught:
        from_field(value)
    assert str(caught.value).startswith(problem)


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)))
def test_number_is_written_so_that_it_reads_back(number: float) -> None:
    assert float(from_field(number)) == float(number)


@pytest.mark.parametrize(
    ("solution", "gold"),
    [
        (r"so \boxed{3}. No: \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{x = 1} and \boxed{x = 2}", "x = 1, x = 2"),
        (r"the answer is \fbox{7}", "7"),
        (r"or $\framebox{204}$ minutes", "204"),
        (r"therefore $\boxed 7$.", "7"),
        (r"therefore $\boxed 2.$", "2"),
        (r"part #### 5 then \boxed{6}", "6"),
    ],
)
def test_box_of_a_solution(solution: str, gold: str) -> None:
    assert from_box(solution) == gold


@pytest.mark.parametrize("solution", ["no box", r"\boxed{", r"\boxed{}", None, 5, ""])
def test_solution_without_a_box_is_named(solution: Any) -> None:
    with pytest.raises(ValueError, match=r"^must have the gold in \\boxed\{\}; got "):
        from_box(solution)


def test_end_of_a_long_solution_is_shown() -> None:
    with pytest.raises(ValueError, match=r"got \.\.\.x{96}'$"):
        from_box("x" * 500)


@pytest.mark.parametrize(("answer", "gold"), [("a\n#### 18", "18"), ("#### 1\n#### 1,234 ", "1,234")])
def test_what_stands_after_the_last_hashes(answer: str, gold: str) -> None:
    assert from_hashes(answer) == gold


@pytest.mark.parametrize("answer", ["18", "####", "#### \n", None, 18])
def test_answer_without_hashes_is_named(answer: Any) -> None:
    with pytest.raises(ValueError, match=r"^must have the gold after ####; got "):
        from_hashes(answer)


@pytest.mark.parametrize(
    ("value", "gold"), [(["$2^{1009}$"], "2^{1009}"), (["1", "2"], "1"), ((3.0,), "3"), ("5", "5"), (7, "7")]
)
def test_first_of_a_list_or_the_value_alone(value: Any, gold: str) -> None:
    assert from_first(value) == gold


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("['$2$' '$3$']", "2"),
        ("['$2$'\n '$3$']", "2"),
        ("['$2$', '$3$']", "2"),
        (r"['$\\frac{1}{2}$']", r"\frac{1}{2}"),
        ('["1", "2"]', "1"),
        (r'["$\\frac{1}{2}$"]', r"\frac{1}{2}"),
        ("""["it's", 'b']""", "it's"),
        ("[1. 2.]", "1"),
        (" [3, 4] ", "3"),
        ("$[3, 4]$", "[3, 4]"),
    ],
)
def test_list_in_a_cell_of_text_is_read(text: str, gold: str) -> None:
    assert from_first(text) == gold


@pytest.mark.parametrize(
    "text",
    ["[", "[0, 1)", "['a''b']", "[x]", "[[1]]", "['a']]", r"['$\sqrt2$']", r'["$\frac12$"]', r'["$\neq 2$"]',
     "[" * 100_000, f"[{'9' * 5000}]"],
)  # fmt: skip
def test_text_that_begins_like_a_list_and_is_none_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must "):
        from_first(text)


@pytest.mark.parametrize(
    "gold",
    ["['$2$' '$3$']", '["1", "2"]', "{'a': 1}", "('1',)", "array(['2'], dtype=object)", "[1 2 3]", r"['x\'y']"],
)
def test_gold_that_is_a_container_as_text(gold: str) -> None:
    assert looks_like_a_container(gold)


@pytest.mark.parametrize("gold", ["[1, 2]", "[0, 1)", "(1, 2)", r"\{1, 2\}", "f'(x)", "{2}", "(a)", "[3]"])
def test_answer_in_brackets_is_no_container(gold: str) -> None:
    assert not looks_like_a_container(gold)


@pytest.mark.parametrize("value", [Decimal("9" * 5000), Decimal("1e5000"), 10**400])
def test_number_of_thousands_of_digits(value: Any) -> None:
    if value == 10**400:
        assert from_field(value) == str(value)
        return
    with pytest.raises(ValueError, match=r"^must be a number of fewer digits; got \d"):
        from_field(value)


@pytest.mark.parametrize("value", [[], [None], [""], [["1"]], None])
def test_list_without_a_gold_is_named(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^must "):
        from_first(value)


RULES = (GoldRule(column="answer"), GoldRule(column="solution", how="boxed"))


def test_first_column_that_the_row_has_decides() -> None:
    assert find_gold({"answer": 1, "solution": r"\boxed{2}"}, RULES) == "1"
    assert find_gold({"answer": None, "solution": r"\boxed{2}"}, RULES) == "2"
    assert find_gold({"solution": r"\boxed{2}"}, RULES) == "2"


def test_column_that_is_there_and_wrong_is_no_reason_to_look_elsewhere() -> None:
    with pytest.raises(ValueError, match=r"^answer must not be empty; got ''$"):
        find_gold({"answer": "", "solution": r"\boxed{2}"}, RULES)


@pytest.mark.parametrize(("row", "got"), [({"answer": None}, "None"), ({"q": "a", "a": "b"}, "the columns q, a")])
def test_row_without_any_of_the_columns(row: dict[str, Any], got: str) -> None:
    with pytest.raises(ValueError, match=f"^answer or solution must hold the gold answer; got {got}$"):
        find_gold(row, RULES)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("answer", GoldRule(column="answer")),
        ("solution:boxed", GoldRule(column="solution", how="boxed")),
        ("a:b:first", GoldRule(column="a:b", how="first")),
    ],
)
def test_rule_as_written_on_the_command_line(text: str, rule: GoldRule) -> None:
    assert parse_gold_rule(text) == rule


@pytest.mark.parametrize("text", ["", ":boxed", "answer:", "answer:regex"])
def test_rule_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"^gold must be COLUMN or COLUMN:HOW, with HOW one of field, boxed, hashes"):
        parse_gold_rule(text)
