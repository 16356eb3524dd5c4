r"""Finding questions that are the same, or nearly, whatever their spacing, case and LaTeX spelling.

Two questions are the same where their normal texts are equal. They overlap where they share enough n-grams of words:
``share`` of those of the shorter one. One n-gram in common is not enough by itself: competition questions end alike
("... where $m$ and $n$ are relatively prime positive integers. Find $m+n$." has more than 13 words). A question of an
evaluation set that is too short for an n-gram overlaps with one that has the whole of it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field

SHORTEST = 6
"""Words of a question that is looked for inside others; of fewer, many a question begins alike by chance."""
_SPACING = re.compile(
    r"\\(?:[()\[\],!;:\s]|\Z)|\\(?:left|right|bigg?|quad|qquad|displaystyle|textstyle|limits|hfill|newline)(?![a-z])|\\\\"
    r"|\\?\$|~"
)
_FONT = re.compile(r"\\(?:text|textbf|textit|emph|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
_SAME = {r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\leq": r"\le", r"\geq": r"\ge", r"\neq": r"\ne", r"\ldots": "...",
         r"\dots": "...", r"\cdots": "...", r"\dotsb": "...", r"\dotsc": "..."}  # fmt: skip
# A number alone in brackets keeps its commas: (1,234) may be a point. LaTeX's {,} is always one of thousands.
_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?!,?\d)")
_LATEX_THOUSANDS = re.compile(r"(?<=\d)(?:\{,\}|,\\!)(?=\d{3}(?!\d))")
_BRACKETED = re.compile(r"[(\[{]\s*\Z"), re.compile(r"\s*\\?[)\]}]")
_SHORT_FRACTION = re.compile(r"\\frac(\d)(\d)")
_IN_WORD = re.compile(r"(?<=[^\W\d_])'(?=[^\W\d_])")
_SINGLE = re.compile(r"\{\s*(\\[a-z]+|\d+(?:\.\d+)?|[^\W\d_]+)\s*\}")
_TOKEN = re.compile(r"\\[a-z]+|\\.|(?<!\w)\.\d+|\d+(?:\.\d+)?|[^\W\d_]+|\.{3,}|\S", flags=re.DOTALL)
_BARE_DECIMAL = re.compile(r"\.\d")
_PLAIN = {0x2019: "'", 0x2212: "-", 0x2026: "..."}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni")
_SUPERSCRIPT = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ]+")
_PUNCTUATION = frozenset('.,;:?!"`“”')
_OPENING, _CLOSING = frozenset({"(", "[", r"\{"}), frozenset({")", "]", r"\}"})


def tokens_of(text: str) -> list[str]:
    r"""Words, numbers, LaTeX commands and signs of a question, in lower case, without spacing and punctuation.

    Signs that may be mathematics are kept: the ``!`` of ``5!``, the ``:`` of ``a:b``, the comma of ``(1, 2)``, dots.
    """
    text = _SUPERSCRIPT.sub(lambda found: f"^{{{found[0].translate(_SUPERSCRIPTS)}}}", text)
    # Not NFKC, for which 10² is 102.
    text = unicodedata.normalize("NFC", text).casefold().translate(_PLAIN)
    text = _FONT.sub(r" \1 ", _THOUSANDS.sub(_without_commas, _LATEX_THOUSANDS.sub("", text)))
    text = _IN_WORD.sub("", _SPACING.sub(" ", text))
    for written, same in _SAME.items():
        text = re.sub(rf"{re.escape(written)}(?![a-z])", lambda _, same=same: same, text)  # type: ignore[misc]
    text = _SINGLE.sub(r" \1 ", _SHORT_FRACTION.sub(r"\\frac \1 \2", text))
    return _without_punctuation(
        [f"0{token}" if _BARE_DECIMAL.match(token) else token for token in _TOKEN.findall(text)]
    )


def _without_commas(number: re.Match[str]) -> str:
    before, after = _BRACKETED
    alone = before.search(number.string, 0, number.start()) and after.match(number.string, number.end())
    return number[0] if alone else number[0].replace(",", "")


def _without_punctuation(tokens: list[str]) -> list[str]:
    """By the neighbours alone: copies of a question differ in spacing and in dollar signs."""
    kept: list[str] = []
    depth = 0
    for number, token in enumerate(tokens):
        following = tokens[number + 1] if number + 1 < len(tokens) else None
        depth = max(0, depth + (token in _OPENING) - (token in _CLOSING))
        if token not in _PUNCTUATION or (
            (token == "!" and number > 0 and _is_mathematics(tokens[number - 1]))
            or (token == ":" and number > 0 and _is_mathematics(tokens[number - 1]) and _is_mathematics(following))
            or (token in (",", ";") and depth and following not in _CLOSING)
        ):
            kept.append(token)
    return kept


def _is_mathematics(token: str | None) -> bool:
    """Whether it is a number, a name of up to two letters, a command, a bracket or a sign."""
    return token is not None and token not in _PUNCTUATION and (len(token) < 3 or not token.isalpha())


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
    """``text``: their normal texts are equal; ``ngrams``: they share enough n-grams, or the question has all of it."""
    of: str
    """Place of the evaluation set's question."""
    share: float
    """Of the shorter question's n-grams; 1 for equal texts."""


@dataclass(slots=True, kw_only=True)
class QuestionIndex:
    """The questions of one evaluation set, to look others up in."""

    n: int
    """Words in an n-gram. A question of fewer is found where another has the whole of it, or, where its own are fewer
    than `SHORTEST`, by its normal text alone."""
    share: float
    """Smallest share of the shorter question's n-grams that is an overlap."""
    _places: list[str] = field(default_factory=list)
    _sizes: list[int] = field(default_factory=list)
    """Number of n-grams of each question."""
    _texts: dict[str, int] = field(default_factory=dict)
    _ngrams: dict[tuple[str, ...], list[int]] = field(default_factory=dict)
    """Numbers of the questions that have it."""
    _short: dict[tuple[str, ...], list[tuple[int, list[str]]]] = field(default_factory=dict)
    """By their first `SHORTEST` tokens: numbers and tokens of questions with too few words for an n-gram."""

    def __len__(self) -> int:
        return len(self._places)

    def add(self, question: str, place: str) -> None:
        """Put a question in."""
        number, tokens = len(self._places), tokens_of(question)
        words = words_of(tokens)
        ngrams = ngrams_of(words, self.n)
        if SHORTEST <= len(words) < self.n:
            self._short.setdefault(tuple(tokens[:SHORTEST]), []).append((number, tokens))
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
        if shared and share >= self.share:
            return Match(kind="ngrams", of=self._places[-number], share=share)
        if (inside := self._short_one_in(tokens)) is not None:
            return Match(kind="ngrams", of=self._places[inside], share=1.0)
        return None

    def _short_one_in(self, tokens: list[str]) -> int | None:
        """The number of a short question whose tokens, signs as well, are all there, one after the other."""
        for start in range(len(tokens) - SHORTEST + 1):
            for number, short in self._short.get(tuple(tokens[start : start + SHORTEST]), ()):
                if tokens[start : start + len(short)] == short:
                    return number
        return None
