r"""LaTeX as published and as models write it, to a short list of tokens.

Layout (``\left``, spacing, fonts, ``$``), spelling variants (``\dfrac``, Unicode signs) and thousands separators go;
everything that changes the meaning stays. Runs in time linear in the text.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

from verl_multiattempt.answer import matching_braces
from verl_multiattempt.math_verifier.spelling import (
    CURRENCY,
    FUNCTIONS,
    LAYOUT,
    PLAIN_FUNCTIONS,
    PLAIN_GREEK,
    SINGLE_LETTERS,
    SPACES,
    SUBSCRIPTS,
    SUPERSCRIPTS,
    SYNONYMS,
    TEXT_COMMANDS,
    UNICODE,
    UNIT_WORDS,
    WORDS,
)

MAX_TOKENS = 20_000
"""A longer text is not read: no answer is near that long."""

ROW = "\ue002"
"""Stands for ``\\``, the end of a matrix row."""
_TEXT_OPEN, _TEXT_CLOSE = "\ue000", "\ue001"
"""Around what stood in ``\text{...}`` and its like."""


class Token(NamedTuple):
    r"""A number, letter, ``\\command``, sign, or a run of text."""

    kind: str
    """``number``, ``letter``, ``command``, ``sign``, ``text``."""
    value: str
    space: bool
    """Whether white space stood before it."""


class Unreadable(ValueError):
    """The text is no expression this package reads."""


_UNICODE_RE = re.compile("|".join(map(re.escape, UNICODE)))

_DOUBLED = re.compile(r"\\\\(?:[dt]?frac|sqrt|left|right|pi|text|cdot|times|infty|boxed|pm|circ|theta|cup)(?![a-z])")
_MODULUS = re.compile(
    r"(?:\\text\s*\{\s*)?\((?:\\(?:text|mathrm|operatorname)\s*\{\s*mod\s*\}|\\[bp]?mod|mod)\s*\}?\s*\{?([\w]+)\}?\)\s*\}?"
)
_ORDINAL = re.compile(r"(?<=\d)\s*\^\s*\{?\s*\\(?:text|mathrm)\s*\{\s*(?:st|nd|rd|th)\s*\}\s*\}?")
_UNIT_VECTOR = re.compile(
    r"\\(?:mathbf|hat|vec|boldsymbol|bm|widehat)\s*\{\s*(?:\\(?:mathbf|imath|jmath)\s*\{?)?([ijk])\s*\}+"
)
_GEOMETRY = re.compile(
    r"\\(?:triangle|angle|overline|overrightarrow|overleftrightarrow|widehat|arc)\s*"
    r"(?:\{\s*([A-Z]{2,4})\s*\}|([A-Z]{2,4})(?![a-zA-Z]))"
)
_BRACED_ARRAY = re.compile(
    r"\\left\s*\\\{\s*\\begin\s*\{array\}\s*(?:\{[lcr|\s]*\})?((?:(?!\\begin|\\end).)*)\\end\s*\{array\}\s*\\right\s*\.",
    re.DOTALL,
)
_OUTWARD = re.compile(r"([\[\]])([^\[\]]*)([\[\]])")
_BLACKBOARD = re.compile(r"\\mathbb\s*\{?\s*([RCZNQ])\s*\}?")
_TEXT_RE = re.compile(rf"\\(?:{TEXT_COMMANDS})\*?\s*\{{")
_DROPPED_ARGUMENT = re.compile(
    r"\\(?:hspace|vspace|label|tag|color|textcolor|phantom|kern|mkern|hskip|mspace)\*?\s*\{[^{}]*\}"
)
_PLAIN_NAMES = re.compile(rf"(?<![a-zA-Z\\])({PLAIN_FUNCTIONS}|{PLAIN_GREEK})(?=[^a-zA-Z]|$|[a-z](?![a-zA-Z]))")
_GLUED_FUNCTION = re.compile(r"(?<![a-zA-Z\\])([b-zA-Z])(?=(?:sin|cos|tan|exp|sqrt|log|ln|sinh|cosh|tanh)\()")
_ENVIRONMENT = re.compile(r"\\(begin|end)\s*\{\s*([a-zA-Z]+)\*?\s*\}(?:\s*(?:\[[a-z]\])?\{[lcr|\s@{}]*\})?")
_E_NOTATION = re.compile(r"(?<![a-zA-Z\d.])(\d+(?:\.\d+)?|\.\d+)[eE]([+-]?\d+)(?![a-zA-Z\d.])")
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?: \d{3})+(?![\d,]| \d|\.\d+\.)")
_WORD = re.compile(r"(?<![a-zA-Z\\\ue000])(?:[a-zA-Z]+(?:-[a-z]{3,}|'[a-z]+)*)(?![a-zA-Z])")
_QUANTITY = re.compile(r"(-?\d[\d.,]*)\s+([A-Za-z][A-Za-z\s.^]*)")
"""A number and words in one run of text."""
_MATHEMATICS = re.compile(r"(?=.*[\d<>=+*/^()\[\]-])(?:[^A-Za-z]|(?<![A-Za-z])[A-Za-z](?![A-Za-z]))*")
"""A run of text without a word in it: ``\\text{x = 5}``."""
_UNIT_LETTERS = re.compile(rf"(?=[^0-9]*[A-Za-z])[{''.join(sorted(SINGLE_LETTERS))}*/ ^0-9-]+")
"""``m/s``, which is no quotient of variables."""
_STATED = re.compile(r"(?:the )?(?:final )?answer(?: is)?\s*:?\s+(-?[\d.,/]+)$", re.IGNORECASE)
_ELLIPSIS = re.compile(r"(?<![\d.])(\d+\.\d{0,40}?)(\d{1,6}?)\2{2,40}(?:\.\.\.|\\l?dots(?![a-z])|\\cdots)")
"""``0.333...``: the same digits three times, and then dots."""
_COMMAND = re.compile(r"\\([a-zA-Z]+\*?)")
_THOUSANDS_SPACE = re.compile(r"(?<=\d)(?:\\[,;: ]|~|\{\s\})\s*(?=\d{3}(?!\d))")
_TOKEN = re.compile(
    rf"(?P<space>\s+)|(?P<number>\d+(?:\.\d+|\.(?![\d.]))?|\.\d+)|\\(?P<command>[a-zA-Z]+)|{_TEXT_OPEN}(?P<text>[^{_TEXT_OPEN}{_TEXT_CLOSE}]*)"
    rf"{_TEXT_CLOSE}|(?P<letter>[^\W\d_])|\\(?P<escaped>[{{}}%&#_|$])|(?P<sign>.)",
    re.DOTALL,
)


def normalise(text: str) -> str:
    """The text with layout gone and spellings unified; see the module's docstring."""
    text = _unescape(text.strip().strip("*").removesuffix("\\"))
    text = _MODULUS.sub(r"\\pmod{\1}", text)
    text = re.sub(r"\^\s*\{?\s*\\prime\s*\}?", "'", text)
    text = _join_thousands(_drop_layout(_unify_signs(text)))
    text = _BLACKBOARD.sub(r"\\\1 ", text)
    text = _unify_numbers(_mark_texts(text))
    text = _COMMAND.sub(_replace_command, text)
    text = "".join(part if i % 2 else _unify_plain(part) for i, part in enumerate(_TEXT_RUN.split(text)))
    text = _trim(_mark_words(text))
    return _inward_brackets(text) if text[:1] == "]" or text[-1:] == "[" else text


def _inward_brackets(text: str) -> str:
    """``(0,1)`` for ``]0,1[``."""
    match = _OUTWARD.fullmatch(text)
    if match is None:
        return text
    opening, inner, closing = match.groups()
    return ("(" if opening == "]" else "[") + inner + (")" if closing == "[" else "]")


_TEXT_RUN = re.compile(f"({_TEXT_OPEN}[^{_TEXT_CLOSE}]*{_TEXT_CLOSE})")


def _unify_plain(text: str) -> str:
    """Commands for functions, Greek letters and signs that are written without a backslash."""
    text = _GLUED_FUNCTION.sub(r"\1 ", text)
    text = _PLAIN_NAMES.sub(lambda match: f"\\{SYNONYMS.get(match.group(), match.group())} ", text)
    for sign, latex in _ASCII_SIGNS.items():
        text = text.replace(sign, latex)
    return text


_ASCII_SIGNS = {"<=": r"\le ", ">=": r"\ge ", "!=": r"\ne ", "**": "^", "==": "=", "+/-": r"\pm ", "+-": r"\pm "}


def _unescape(text: str) -> str:
    """Take one backslash off where commands were escaped once too often."""
    if "\\\\begin" in text or ("\\begin" not in text and _DOUBLED.search(text)):
        text = text.replace("\\\\", "\\")
    return text


def _unify_signs(text: str) -> str:
    """LaTeX for Unicode signs, superscripts and subscripts; invisible characters go."""
    text = _UNICODE_RE.sub(lambda match: UNICODE[match.group()], text)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿˣ⁽⁾]+", lambda m: "^{" + m.group().translate(SUPERSCRIPTS) + "}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉₊₋ₙₓ]+", lambda m: "_{" + m.group().translate(SUBSCRIPTS) + "}", text)
    text = re.sub("[①-⑳]", lambda m: rf",\\text{{c{ord(m.group()) - ord('①') + 1}}},", text)
    text = unicodedata.normalize("NFKC", text)
    return re.sub("[\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\u00ad\ue000-\ue002]", "", text)


def _drop_layout(text: str) -> str:
    r"""Drop sizes, fonts and math delimiters; ``\\`` becomes `ROW`, ``\$`` becomes `CURRENCY`."""
    text = re.sub(r"\\q?quad(?=[a-zA-Z])", " ", text)
    text = re.sub(r"\\\\(?:\s*\[[^\[\]]{0,12}(?:pt|em|ex|mm|cm)\])?|\\cr(?![a-zA-Z])|\\tabularnewline", ROW, text)
    text = _BRACED_ARRAY.sub(r"\\begin{cases}\1\\end{cases}", text)
    text = text.replace(r"\left.", "").replace(r"\right.", "")
    text = _GEOMETRY.sub(r"\1\2", _UNIT_VECTOR.sub(r"\1_v ", _ORDINAL.sub("", text)))
    text = _COMMAND.sub(_replace_layout, text)
    for delimiter in (r"\(", r"\)", r"\[", r"\]"):
        text = text.replace(delimiter, "")
    text = text.replace(r"\$", CURRENCY)
    text = text.replace("$", "" if text.count("$") != 1 else CURRENCY)
    return _ENVIRONMENT.sub(lambda match: f"\\{match.group(1)}{match.group(2)} ", text)


def _join_thousands(text: str) -> str:
    r"""Digit groups set apart by ``{,}``, ``,\!`` or a thin space; other spacing commands become a space."""
    text = re.sub(r"(?<=\d)(?<!(?<!\d)0)(?:,\s*\\!\s*(?=\d)|\{\s*,\s*\}(?:\s*\\!)?(?=\d{3}(?!\d)))", "", text)
    text = re.sub(r"\{\s*([:=<>+*/,;-])\s*\}", r"\1", text)
    text = re.sub(r",\s*\\!\s*", ",", text).replace(r"\!", "")
    text = _THOUSANDS_SPACE.sub("", text)
    text = re.sub(r"\\[,;:> ]|~|\\/", " ", text)
    return _DROPPED_ARGUMENT.sub(" ", text)


def _unify_numbers(text: str) -> str:
    r"""``0.333...`` and ``0.(3)`` as ``0.\overline{3}``, ``1.5e3`` as a product, ``1 000`` as one number."""
    text = _ELLIPSIS.sub(r"\1\\overline{\2}", text)
    text = re.sub(r"(?<![\d.])(\d+\.\d*)\((\d+)\)", r"\1\\overline{\2}", text)
    text = _E_NOTATION.sub(r"\1\\cdot 10^{\2}", text)
    return _SPACED_THOUSANDS.sub(lambda match: match.group().replace(" ", ""), text)


def _mark_words(text: str) -> str:
    """Make text of bare words: known ones (units, "and"), and letters in a row too many for a product of variables."""
    text = re.sub(r"\b([aApP])\.\s?[mM]\b\.?", rf"{_TEXT_OPEN}\1m{_TEXT_CLOSE}", text)
    parts = re.split(f"({_TEXT_OPEN}[^{_TEXT_CLOSE}]*{_TEXT_CLOSE}|\\\\[a-zA-Z]+)", text)
    return "".join(part if i % 2 else _WORD.sub(_mark_word, part) for i, part in enumerate(parts))


def _mark_word(match: re.Match[str]) -> str:
    word = match.group()
    is_word = word.lower() in WORDS or len(word) > 3 or (len(word) > 2 and word[0].isupper() and word[1:].islower())
    if word.lower() in UNIT_WORDS:  # mg/k is a product of variables, 5 mg is not
        before = match.string[: match.start()].rstrip()
        is_word = before[-1:].isdigit() or before.endswith("}") or before.endswith(_TEXT_CLOSE)
    return f"{_TEXT_OPEN}{word}{_TEXT_CLOSE}" if is_word else word


def _replace_layout(match: re.Match[str]) -> str:
    name = match.group(1)
    if name in LAYOUT:
        return " " if name in {"displaystyle", "rm", "bf"} else ""
    return " " if name in SPACES else match.group()


def _replace_command(match: re.Match[str]) -> str:
    name = match.group(1)
    new = SYNONYMS.get(name, name)
    if new == "circ" and name == "degree":
        return r"^\circ "
    if new.isalpha():
        return f"\\{new} "
    return f"\\{new}" if new in "{}" else new


def _mark_texts(text: str) -> str:
    r"""Replace ``\text{...}`` and its like; nested ones become one run."""
    parts: list[str] = []
    position = 0
    while match := _TEXT_RE.search(text, position):
        parts.append(text[position : match.start()])
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        content = text[match.end() : end - 1] if depth == 0 else text[match.end() :]
        parts.append(_text_run(_TEXT_RE.sub("", content).replace("{", "").replace("}", ""), match.group()))
        position = end
    return "".join(parts) + text[position:]


def _text_run(content: str, command: str) -> str:
    content = re.sub(r"\\cdot(?![a-z])|\\times(?![a-z])", "*", content).replace(r"\mu", "µ").replace(r"\Omega", "Ω")
    stripped = re.sub(r"\b([ap])\.\s?m\b\.?", r"\1m", " ".join(content.split()), flags=re.IGNORECASE)
    if stripped in FUNCTIONS and not (stripped in ("sec", "min") and command.startswith("\\text")):
        return f"\\{stripped} "
    if stripped == ",":
        return ","
    if not stripped or (_MATHEMATICS.fullmatch(stripped) and not _UNIT_LETTERS.fullmatch(stripped)):
        return f" {stripped} "
    if len(stripped) == 1 and command.startswith((r"\mathrm", r"\operatorname")) and stripped in "eidxyz":
        return stripped
    parts = re.split(r"\s*,\s*(?:and |or )?| (?:and|or) ", stripped)
    if len(parts) > 1 and all(len(part) <= 2 for part in parts):  # \text{A and C}
        return ",".join(f"{_TEXT_OPEN}{part}{_TEXT_CLOSE}" for part in parts)
    if match := _STATED.match(stripped):
        return f"{_TEXT_OPEN}answer{_TEXT_CLOSE} {match.group(1)}"
    if match := _QUANTITY.fullmatch(stripped):
        return f" {match.group(1)} {_TEXT_OPEN}{match.group(2)}{_TEXT_CLOSE}"
    return f"{_TEXT_OPEN}{stripped}{_TEXT_CLOSE}"


def _trim(text: str) -> str:
    """Drop emphasis, closing punctuation and braces around the whole."""
    for _ in range(3):
        text = text.strip().strip("`*" + ROW).strip()
        text = text[:-1].strip() if text[-1:] in (".", ",", ";", ":") else text
        text = _without_outer_braces(text)
        if len(text) > 2 and text[0] == text[-1] and text[0] in "\"'":
            text = text[1:-1]
    return text


def _without_outer_braces(text: str) -> str:
    closes = matching_braces(text)
    start, end = 0, len(text)
    while start < end and closes.get(start) == end - 1:
        start, end = start + 1, end - 1
    inner = text[start:end]
    # {1,2} is a set whose author forgot that TeX eats the braces.
    return f"\\{{{inner}\\}}" if start and "," in inner else inner


def tokenise(text: str) -> list[Token]:
    """Tokens of a normalised text.

    Raises:
        Unreadable: more than `MAX_TOKENS`.
    """
    tokens: list[Token] = []
    space = False
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "sign"
        if kind == "space":
            space = True
            continue
        value = match.group(kind)
        if kind == "escaped":
            kind, value = "sign", "\\" + value if value in "{}|" else value
        if kind == "text":
            value = " ".join(value.split())
        tokens.append(Token(kind, value, space))
        space = False
        if len(tokens) > MAX_TOKENS:
            raise Unreadable("too long")
    return tokens
