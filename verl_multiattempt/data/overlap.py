r"""Finding questions that are the same, or nearly, whatever their spacing, case and LaTeX spelling.

Two questions are the same where their normal texts are equal. They overlap where they share enough n-grams of words:
``share`` of those of the shorter one. One n-gram in common is not enough by itself: competition questions end alike
("... where $m$ and $n$ are relatively prime positive integers. Find $m+n$." has more than 13 words).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field

_SPACING = re.compile(
    r"\\[()\[\],!;: ]|\\(?:left|right|bigg?|quad|qquad|displaystyle|textstyle|limits|hfill|newline)(?![a-z])|\\\\"
    r"|\\?\$|~"
)
_FONT = re.compile(r"\\(?:text|textbf|textit|emph|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_SAME = {r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\leq": r"\le", r"\geq": r"\ge", r"\neq": r"\ne", r"\ldots": "...",
         r"\dots": "..."}  # fmt: skip
_THOUSANDS = re.compile(r"(?<=\d),(?:\\!)?(?=\d{3}(?!\d))")
_SHORT_FRACTION = re.compile(r"\\frac(\d)(\d)")
_IN_WORD = re.compile(r"(?<=[^\W\d_])'(?=[^\W\d_])")
_SINGLE = re.compile(r"\{\s*(\\[a-z]+|\d+(?:\.\d+)?|[^\W\d_]+)\s*\}")
_TOKEN = re.compile(r"\\[a-z]+|\\.|\d+(?:\.\d+)?|[^\W\d_]+|\S", flags=re.DOTALL)
_PLAIN = {0x2019: "'", 0x2212: "-"}
_PUNCTUATION = frozenset('.,;:?!"`“”…')


def tokens_of(text: str) -> list[str]:
    r"""Words, numbers, LaTeX commands and signs of a question, in lower case, without spacing and punctuation."""
    text = unicodedata.normalize("NFKC", text).casefold().translate(_PLAIN)
    text = _FONT.sub(r" \1 ", _THOUSANDS.sub("", text))
    text = _IN_WORD.sub("", _SPACING.sub(" ", text))
    for written, same in _SAME.items():
        text = re.sub(rf"{re.escape(written)}(?![a-z])", lambda _, same=same: same, text)  # type: ignore[misc]
    text = _SINGLE.sub(r" \1 ", _SHORT_FRACTION.sub(r"\\frac \1 \2", text))
    return [token for token in _TOKEN.findall(text) if token not in _PUNCTUATION]


def normal_text(tokens: list[str]) -> str:
    """One text for all spacings of the tokens: ``2 x`` is ``2x``, but ``1 2`` is not ``12``."""
    parts: list[str] = []
    for token in tokens:
        if parts and ((parts[-1][-1].isdigit() and token[0].isdigit()) or parts[-1][0] == "\\"):
            parts.append(" ")
        parts.append(token)
    return "".join(parts)


def words_of(tokens: list[str]) -> list[str]:
    """The tokens that are words, numbers or commands; signs and brackets vary most from copy to copy."""
    return [token for token in tokens if token[0].isalnum() or (token[0] == "\\" and token[1:].isalpha())]


def ngrams_of(words: list[str], n: int) -> set[tuple[str, ...]]:
    """All sequences of ``n`` neighbouring words; none where there are fewer."""
    return set(zip(*(words[start:] for start in range(n)), strict=False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A question of an evaluation set that another question is, or overlaps with."""

    kind: str
    """``text``: their normal texts are equal; ``ngrams``: they share enough n-grams."""
    of: str
    """Place of the evaluation set's question."""
    share: float
    """Of the shorter question's n-grams; 1 for equal texts."""


@dataclass(slots=True, kw_only=True)
class QuestionIndex:
    """The questions of one evaluation set, to look others up in."""

    n: int
    """Words in an n-gram; a question of fewer is found by its normal text alone."""
    share: float
    """Smallest share of the shorter question's n-grams that is an overlap."""
    _places: list[str] = field(default_factory=list)
    _sizes: list[int] = field(default_factory=list)
    """Number of n-grams of each question."""
    _texts: dict[str, int] = field(default_factory=dict)
    _ngrams: dict[tuple[str, ...], list[int]] = field(default_factory=dict)
    """Numbers of the questions that have it."""

    def __len__(self) -> int:
        return len(self._places)

    def add(self, question: str, place: str) -> None:
        """Put a question in."""
        number, tokens = len(self._places), tokens_of(question)
        ngrams = ngrams_of(words_of(tokens), self.n)
        self._places.append(place)
        self._sizes.append(len(ngrams))
        self._texts.setdefault(normal_text(tokens), number)
        for ngram in ngrams:
            self._ngrams.setdefault(ngram, []).append(number)

    def find(self, question: str) -> Match | None:
        """The evaluation set's question that ``question`` is, or overlaps with most; None where there is none."""
        tokens = tokens_of(question)
        if (same := self._texts.get(normal_text(tokens))) is not None:
            return Match(kind="text", of=self._places[same], share=1.0)
        ngrams = ngrams_of(words_of(tokens), self.n)
        shared = Counter(number for ngram in ngrams for number in self._ngrams.get(ngram, ()))
        shares = ((count / min(len(ngrams), self._sizes[number]), -number) for number, count in shared.items())
        share, number = max(shares, default=(0.0, 0))
        if share < self.share or not shared:
            return None
        return Match(kind="ngrams", of=self._places[-number], share=share)
