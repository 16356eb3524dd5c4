"""The golds of public benchmarks against themselves, and against texts that differ from them mathematically."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from verl_multiattempt.settings import VerifierSettings
from verl_multiattempt.verifier import Outcome, Question, Verdict, make_verifier

FILES = {"math500": 500, "amc23": 40, "aime24": 30, "gsm8k_test": 1319}
"""Name of each file and its number of rows."""
MIN_REFUSED = 0.998
NUM_AT_ONCE = 64
NUM_PLACES = 3
"""Places of a gold, at most, at which a kind of perturbation is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One answer to one question of a file."""

    file: str
    kind: str
    """``same``, the name of a perturbation, or ``times 10`` and the like."""
    gold: Any
    answer: str

    def __str__(self) -> str:
        return f"{self.file}, {self.kind}: gold {self.gold!r}, answer {self.answer!r}"


def read_golds(file: Path) -> list[Any]:
    """The golds as published; of GSM8K, what stands after ``####``."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if "gsm8k" in file.name:
        return [row["answer"].rpartition("####")[2].strip() for row in rows]
    return [row["answer"] for row in rows]


def changed_digits(gold: str) -> Iterator[str]:
    """Another last digit, and another first one, in each number; not in the power of a unit."""
    powers_of_units = [match.span(1) for match in re.finditer(r"\\(?:text|mbox)\{[^}]*\}\^\{?(\d+)", gold)]
    numbers = [match for match in re.finditer(r"\d+", gold) if match.span() not in powers_of_units]
    for number in numbers:
        for place in sorted({number.start(), number.end() - 1}):
            yield gold[:place] + str(int(gold[place]) % 9 + 1) + gold[place + 1 :]


def flipped_signs(gold: str) -> Iterator[str]:
    """The opposite of each sign, and of a number without one."""
    for sign in re.finditer(r"[-+]", gold):
        yield gold[: sign.start()] + ("+" if sign.group() == "-" else "-") + gold[sign.end() :]
    if re.fullmatch(r"(\d+(\.\d+)?|\\d?frac\{\d+\}\{\d+\})", gold) and Decimal(re.sub(r"\D", "", gold)) != 0:
        yield "-" + gold


def _elements(content: str) -> list[str]:
    """Split at the commas that stand in no bracket."""
    elements, depth = [""], 0
    for character in content:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            elements.append("")
        else:
            elements[-1] += character
    return elements


def swapped_elements(gold: str) -> Iterator[str]:
    """The first two elements of a pair, tuple or interval, and the first two rows of a matrix, in the other order."""
    if (pair := re.fullmatch(r"(\\left)?\s*([(\[])([^()\[\]]+?)(\\right)?\s*([)\]])", gold)) is not None:
        first, second, *rest = _elements(pair.group(3))
        if first.strip() != second.strip():
            content = ",".join([second, first, *rest])
            yield f"{pair.group(2)}{content}{pair.group(5)}"
    if (matrix := re.fullmatch(r"(\\begin\{pmatrix\})(.*)(\\end\{pmatrix\})", gold)) is not None:
        first, second, *rest = matrix.group(2).split(r"\\")
        if first.strip() != second.strip():
            yield matrix.group(1) + r"\\".join([second, first, *rest]) + matrix.group(3)


def other_brackets(gold: str) -> Iterator[str]:
    """A half-open interval open and closed at its other ends, and one that reaches to infinity closed or open."""
    opening = re.match(r"(?:\\left)?\s*([(\[])", gold)
    closing = re.search(r"(?:\\right)?\s*([)\]])$", gold)
    if opening is None or closing is None or r"\cup" in gold:
        return
    content = gold[opening.end() : closing.start()]
    brackets = opening.group(1) + closing.group(1)
    if brackets == "(]" and r"\infty" in content:
        yield f"({content})"
    elif brackets == "(]":
        yield from (f"[{content})", f"({content})", f"[{content}]")
    elif r"\infty" in content and not content.strip().startswith("-"):
        yield f"[{content})"


def other_letters(gold: str) -> Iterator[str]:
    """Another word, another choice, another variable."""
    if (text := re.fullmatch(r"\\text\{(\(?)(\w)(.*)\}", gold)) is not None:
        letter = text.group(2)
        other = {"Z": "Y", "z": "y"}.get(letter, chr(ord(letter) + 1))
        yield rf"\text{{{text.group(1)}{other}{text.group(3)}}}"
        return
    without_commands = re.sub(r"\\[a-zA-Z]+(\{[a-z]*\})?", lambda match: " " * len(match.group()), gold)
    if r"\in " in gold or r"\text" in gold or r"\mbox" in gold:
        return
    for variable in sorted(set(re.findall(r"[a-zA-Z]", without_commands)) - set("ei")):
        unused = "w" if variable != "w" else "u"
        yield "".join(
            unused if shown == variable else character for shown, character in zip(without_commands, gold, strict=True)
        )


def one_more(gold: str) -> Iterator[str]:
    """The sum of the gold and 1, where it is a number or an expression."""
    if not re.search(r"[,=_]|\\(text|mbox|circ|in|cup|begin|\$)", gold):
        yield f"{gold} + 1"


def plain_number(gold: Any) -> Decimal | None:
    """The value of a gold that is a number, with separators, unit or currency or without; None for another gold."""
    text = re.sub(r"\\text\{.*|\\mbox\{.*|\^\\circ|\\\$|,(\\!\s*)?(?=\d{3})", "", str(gold)).strip()
    return Decimal(text) if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)", text) else None


def multiples(gold: Any) -> Iterator[tuple[str, str]]:
    """Ten, a hundred and a thousand times a numeric gold, and a tenth and a hundredth of it."""
    number = plain_number(gold)
    fraction = re.fullmatch(r"(-?)\\d?frac\{(\d+)\}\{(\d+)\}", str(gold))
    if number:
        for exponent in (1, 2, 3, -1, -2):
            value = number.scaleb(exponent)
            yield f"times {10.0**exponent:g}", f"{value:f}"
    elif fraction is not None:
        sign, numerator, denominator = fraction.groups()
        yield "times 10", rf"{sign}\frac{{{numerator}0}}{{{denominator}}}"
        yield "times 100", rf"{sign}\frac{{{numerator}00}}{{{denominator}}}"
        yield "times 0.01", rf"{sign}\frac{{{numerator}}}{{{denominator}00}}"


PERTURBATIONS: tuple[Callable[[str], Iterator[str]], ...] = (
    changed_digits,
    flipped_signs,
    swapped_elements,
    other_brackets,
    other_letters,
    one_more,
)


def trials_of(file: str, gold: Any) -> Iterator[Trial]:
    """All answers to one question."""
    text = str(gold)
    yield Trial(file=file, kind="same", gold=gold, answer=text)
    number = plain_number(gold)
    base = f"{number.normalize():f}" if isinstance(gold, float) and number is not None else text  # 27 for 27.0
    for perturbation in PERTURBATIONS:
        for answer in islice(perturbation(base), NUM_PLACES):
            yield Trial(file=file, kind=perturbation.__name__, gold=gold, answer=answer)
    for kind, answer in multiples(gold):
        yield Trial(file=file, kind=kind, gold=gold, answer=answer)


async def verify_all(trials: list[Trial]) -> list[Verdict]:
    verifier = make_verifier(VerifierSettings(num_workers=2, timeout_s=10.0))
    at_once = asyncio.Semaphore(NUM_AT_ONCE)

    async def verify(trial: Trial) -> Verdict:
        async with at_once:
            return await verifier.verify(
                f"So the answer is \\boxed{{{trial.answer}}}.", Question(ground_truth=trial.gold)
            )

    try:
        return await asyncio.gather(*map(verify, trials))
    finally:
        await verifier.close()


@pytest.fixture(scope="module")
def decided(benchmark_data: Path) -> list[tuple[Trial, Verdict]]:
    trials = [
        trial
        for file in FILES
        for gold in read_golds(benchmark_data / f"{file}.jsonl")
        for trial in trials_of(file, gold)
    ]
    return list(zip(trials, asyncio.run(verify_all(trials)), strict=True))


def exceptions(decided: list[tuple[Trial, Verdict]], expected: Outcome) -> list[str]:
    found = [f"{trial}: {verdict.outcome}" for trial, verdict in decided if verdict.outcome != expected]
    print("", f"{len(found)} exceptions of {len(decided)}", *found, sep="\n")
    return found


@pytest.mark.parametrize("file", FILES)
def test_gold_in_a_box_is_correct(file: str, decided: list[tuple[Trial, Verdict]]) -> None:
    same = [each for each in decided if each[0].file == file and each[0].kind == "same"]
    assert len(same) == FILES[file]
    assert exceptions(same, Outcome.CORRECT) == []


@pytest.mark.parametrize("file", FILES)
def test_perturbed_gold_is_incorrect(file: str, decided: list[tuple[Trial, Verdict]]) -> None:
    names = {perturbation.__name__ for perturbation in PERTURBATIONS}
    perturbed = [each for each in decided if each[0].file == file and each[0].kind in names]
    assert len(perturbed) >= 2 * FILES[file]
    found = exceptions(perturbed, Outcome.INCORRECT)
    assert 1 - len(found) / len(perturbed) >= MIN_REFUSED, "\n".join(found)


@pytest.mark.parametrize("file", FILES)
def test_multiple_of_the_gold_is_incorrect(file: str, decided: list[tuple[Trial, Verdict]]) -> None:
    times = [each for each in decided if each[0].file == file and each[0].kind.startswith("times")]
    assert len(times) >= 2 * FILES[file]
    assert exceptions(times, Outcome.INCORRECT) == []


@pytest.mark.parametrize(
    ("perturbation", "gold", "expected"),
    [
        (changed_digits, r"\frac{14}{3}", [r"\frac{24}{3}", r"\frac{15}{3}", r"\frac{14}{4}"]),
        (changed_digits, r"15\mbox{ cm}^2", [r"25\mbox{ cm}^2", r"16\mbox{ cm}^2"]),
        (changed_digits, "0", ["1"]),
        (flipped_signs, "p - q", ["p + q"]),
        (flipped_signs, "42", ["-42"]),
        (flipped_signs, "0", []),
        (swapped_elements, r"\left( 3, \frac{\pi}{2} \right)", [r"( \frac{\pi}{2} , 3)"]),
        (swapped_elements, r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", [r"\begin{pmatrix} 2 \\ 1 \end{pmatrix}"]),
        (swapped_elements, "1,-2", []),
        (other_brackets, "(3,4]", ["[3,4)", "(3,4)", "[3,4]"]),
        (other_brackets, r"(2,\infty)", [r"[2,\infty)"]),
        (other_brackets, r"(-\infty, 0]", [r"(-\infty, 0)"]),
        (other_brackets, "(2,4)", []),
        (other_letters, r"\text{(C)}", [r"\text{(D)}"]),
        (other_letters, r"\text{Evelyn}", [r"\text{Fvelyn}"]),
        (other_letters, r"\cot x", [r"\cot w"]),
        (other_letters, "6 - 5i", []),
        (one_more, r"3\sqrt{13}", [r"3\sqrt{13} + 1"]),
        (one_more, "1,-2", []),
    ],
)
def test_perturbations_change_what_they_say(
    perturbation: Callable[[str], Iterator[str]], gold: str, expected: list[str]
) -> None:
    assert list(perturbation(gold)) == expected


@pytest.mark.parametrize(
    ("gold", "expected"),
    [
        ("58,500", ["585000", "5850000", "58500000", "5850.0", "585.00"]),
        (27.0, ["270", "2700", "27000", "2.70", "0.270"]),
        (r"\$18.90", ["189.0", "1890", "18900", "1.890", "0.1890"]),
        (r"-\frac{3}{4}", [r"-\frac{30}{4}", r"-\frac{300}{4}", r"-\frac{3}{400}"]),
        ("0", []),
        ("x=5", []),
    ],
)
def test_multiples_of_numeric_golds(gold: Any, expected: list[str]) -> None:
    assert [answer for _, answer in multiples(gold)] == expected
