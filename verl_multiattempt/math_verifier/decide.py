r"""Whether an answer is the gold answer: the quick decision, and the whole one.

`decide_exactly` takes microseconds and runs in the caller's process. `decide` runs in a worker (see `make_handler`): it
computes expressions, and asks math-verify about what this package does not read (integrals, sums, limits).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import lru_cache
from typing import NoReturn

from verl_multiattempt.answer import boxed_spans, extract_answer
from verl_multiattempt.math_verifier.compare import Comparison
from verl_multiattempt.math_verifier.computed import computed_equal, computed_ratio_sign, same_solutions
from verl_multiattempt.math_verifier.forms import Answer, Leaf
from verl_multiattempt.math_verifier.normal import normal_form
from verl_multiattempt.math_verifier.rounding import NeedsWorker, Tolerance, exact_equal
from verl_multiattempt.math_verifier.structure import read_answer
from verl_multiattempt.math_verifier.text import Token, Unreadable

MAX_ANSWER_CHARS = 20_000
"""A longer answer is INCORRECT without a look, unless it is the gold's very text."""
MAX_QUICK_CHARS = 250
"""Longer ones go to a worker, so that the event loop never waits for them."""
MAX_QUICK_MARKS = 24
"""The same for those with more brackets and separators: nested and long lists take longer to compare."""


def published_gold(gold: object) -> str:
    r"""The text of a gold as published: a number, LaTeX, ``#### 18`` after a solution, or in ``\boxed{}``."""
    text = str(gold)
    if "####" in text:
        text = text.rpartition("####")[2].strip()
    if "\\boxed" in text:
        text = ", ".join(_last_boxes(text)) or text
    return text


_BETWEEN_BOXES = re.compile(r"[\s$\\()\[\]]*(?:[^\\]{0,20}?(?:,|;|\band|\bor))?[\s$\\()\[\]]*")


def _last_boxes(text: str) -> list[str]:
    r"""Content of the last box, and of those that a comma or "and" joins to it: ``\boxed{1} and \boxed{2}``."""
    spans = [span for span in boxed_spans(text) if text[slice(*span)].strip()]
    boxes: list[str] = []
    for i in range(len(spans) - 1, -1, -1):
        start, end = spans[i]
        if boxes and not _BETWEEN_BOXES.fullmatch(text[end + 1 : text.rindex("\\boxed", 0, spans[i + 1][0])]):
            break
        boxes.insert(0, text[start:end].strip())
    return boxes


# The caches are small: what they hold is many small objects, and each full garbage collection walks over all of them.
@lru_cache(maxsize=512)
def _read_gold(text: str) -> tuple[Answer, ...]:
    return tuple(read_answer(text, is_gold=True))


@lru_cache(maxsize=64)
def _read_quickly(text: str) -> tuple[Answer, ...]:
    """A short answer; the decision and the normal form both need it read."""
    return tuple(read_answer(text))


def normal_answer(answer: str) -> str | None:
    """The normal form (see `verl_multiattempt.math_verifier.normal`); None where it is not read quickly."""
    if not _is_quick(answer):
        return None
    try:
        return normal_form(_read_quickly(answer)[0])
    except Unreadable:
        return None


def decide_exactly(answer: str, gold: str, tolerance: Tolerance) -> bool | None:
    """Decide what needs no more than rational arithmetic; None for the rest.

    Args:
        answer: content of the box.
        gold: from `published_gold`.
        tolerance: of roundings.
    """
    if answer == gold:
        return True
    if is_too_long(answer, gold):
        return False
    if not _is_quick(answer) or not _is_quick(gold):
        return None
    comparison = Comparison(lambda g, a: exact_equal(g, a, tolerance), _needs_worker, _needs_worker)
    try:
        return comparison.any_same(_read_gold(gold), _read_quickly(answer))
    except (NeedsWorker, Unreadable):
        return None


def _is_quick(text: str) -> bool:
    """Whether reading and comparing the text takes well below a millisecond, whatever it is."""
    limit = MAX_QUICK_CHARS if text.isascii() else MAX_QUICK_CHARS // 10  # one sign may stand for eighteen
    return len(text) <= limit and sum(map(text.count, "([{,;")) <= MAX_QUICK_MARKS


def _needs_worker(first: tuple[Token, ...], second: tuple[Token, ...]) -> NoReturn:
    raise NeedsWorker


def decide(answer: str, gold: str, tolerance: Tolerance) -> bool:
    """Decide in full.

    Raises:
        MemoryError, RecursionError: the comparison could not be made.
        Unreadable: the gold is too long or nested too deeply, and the answer is not the same text.
    """
    if answer.split() == gold.split():
        return True
    if is_too_long(answer, gold):
        return False

    def leaf_equal(g: Leaf, a: Leaf) -> bool:
        try:
            return computed_equal(g, a, tolerance)
        except Unreadable:
            return _covered_by_math_verify(g.tokens, a.tokens) and ask_math_verify(answer, gold)

    golds = _read_gold(gold)
    try:
        answers = read_answer(answer)
    except Unreadable:
        return False
    return Comparison(leaf_equal, computed_ratio_sign, same_solutions).any_same(golds, answers)


def is_too_long(answer: str, gold: str) -> bool:
    """Whether one of them is not read for its length: equal text alone is CORRECT then."""
    return max(len(answer), len(gold)) > MAX_ANSWER_CHARS


_OPERATORS = {"int", "sum", "prod", "lim", "iint", "oint", "beginvmatrix"}


def _covered_by_math_verify(*sides: tuple[Token, ...]) -> bool:
    """Whether a side has an operator that math-verify knows and this package does not."""
    return any(token.kind == "command" and token.value in _OPERATORS for side in sides for token in side)


def ask_math_verify(answer: str, gold: str) -> bool:
    """math-verify's opinion, without its signal-based time limits.

    Raises:
        MemoryError, RecursionError: the comparison could not be made.
    """
    # It warns that its own time limits are off; the pool's are the real ones.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    from math_verify import LatexExtractionConfig, parse, verify

    target = [LatexExtractionConfig(boxed_match_priority=-1)]
    parsed = [
        parse(f"${side.strip().strip('$')}$", target, fallback_mode="no_fallback", parsing_timeout=None)
        for side in (gold, answer)
    ]
    if not all(parsed):
        return False
    try:
        return bool(verify(*parsed, timeout_seconds=None, raise_on_error=True))
    except (MemoryError, RecursionError):
        raise
    except Exception:
        return False


FEEDBACK_NO_BOX = "No \\boxed{} answer was found. Put the final answer in \\boxed{}."
FEEDBACK_OPEN_BOX = "The \\boxed{ was not closed, so no answer was found. Put the final answer in \\boxed{}."
FEEDBACK_EMPTY_BOX = "The \\boxed{} was empty. Put the final answer in \\boxed{}."


def find_answer(text: str) -> tuple[str | None, str | None]:
    """The answer of an attempt; or None, and what to tell the model about its format."""
    if (answer := extract_answer(text)) is not None:
        return answer, None
    if "\\boxed" not in text:
        return None, FEEDBACK_NO_BOX
    return None, FEEDBACK_EMPTY_BOX if boxed_spans(text) else FEEDBACK_OPEN_BOX


def make_handler(relative_tolerance: float) -> Callable[[tuple[str, list[str], bool]], dict[str, object]]:
    """The function of a worker of the pool.

    It takes an answer, or a whole attempt to find it in, the golds, and which of the two it is; it returns ``correct``,
    and for an attempt ``answer`` and ``feedback``. sympy and math-verify are imported and warm when this returns, so
    that every worker forked from here is.
    """
    tolerance = Tolerance(relative=relative_tolerance)
    decide("\\frac{x}{2}", "x/2", tolerance)
    ask_math_verify("\\int_0^1 x dx", "\\frac{1}{2}")

    def handle(request: tuple[str, list[str], bool]) -> dict[str, object]:
        text, golds, is_attempt = request
        answer, feedback = find_answer(text) if is_attempt else (text, None)
        correct = answer is not None and any(decide(answer, gold, tolerance) for gold in golds)
        found = {"answer": answer and answer[:MAX_ANSWER_CHARS], "feedback": feedback} if is_attempt else {}
        return {"correct": correct, **found}

    return handle
