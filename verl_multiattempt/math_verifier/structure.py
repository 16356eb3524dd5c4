"""Reading the structure of an answer from its tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product

from verl_multiattempt.math_verifier.expression import GREEK
from verl_multiattempt.math_verifier.forms import (
    ALL_REALS,
    Answer,
    Collection,
    Leaf,
    Matrix,
    Relation,
    Structure,
    Union,
    Words,
    depths_of,
    infinity,
)
from verl_multiattempt.math_verifier.leaf import read_leaf
from verl_multiattempt.math_verifier.text import ROW, Token, Unreadable, normalise, tokenise

MAX_ITEMS = 5_000
RELATIONS = {"=": "=", "<": "<", ">": ">", "le": "<=", "ge": ">=", "ne": "!=", "approx": "=", "equiv": "=", "iff": "="}
_EMPTY_SET = frozenset(
    """nosolution nosolutions nosolutionsexist nosolutionexists norealsolution norealsolutions emptyset theemptyset
    none""".split()  # noqa: SIM905
)
_NO_SUCH = re.compile(
    "(?:therearen?o?t?|thereis|has|ithas)?no(?:such|real|integer|positive|possible|valid|other)*"
    "(?:solution|root|value|number|integer|zero|triple|pair)s?(?:exists?)?"
)
_INFINITE = frozenset(["infinity", "infinite", "infinitelymany", "infinitelymanysolutions"])
_NUMBER_WORDS = dict(
    zip(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"],
        range(13),
        strict=True,
    )
)
_UNDEFINED = frozenset(["undefined", "doesnotexist", "dne", "notdefined"])
_ALL_REALS = frozenset(["allrealnumbers", "allreals", "realnumbers", "thesetofrealnumbers", "anyrealnumber"])
_ABOUT = r"approx\.?|approximately|about|exactly|roughly"
_LEAD_IN = re.compile(
    r"(?:so|thus|therefore|hence)?[\s,]*(?:the|my)?\s*(?:final|correct|value|total)?\s*(?:answer|result|solution)?\s*"
    rf"(?:is|are|equals|equal to|{_ABOUT})\s*:?"
    rf"|(?:the\s*)?(?:final |correct )?(?:answer|result|solution)\s*:?|{_ABOUT}",
    re.IGNORECASE,
)


_STATEMENT = re.compile(
    r"(?!.*\b(?:not|n't|never|wrong|incorrect)\b)[A-Za-z][A-Za-z ]{0,60}(?: is| are| equals|:)"
    r"|Rs|INR|USD|EUR|GBP|approximately|about"
)
"""Words that say what the value is, such as "The maximum value is" or "Domain:"."""


def read_answer(text: str, *, is_gold: bool = False) -> list[Answer]:
    """All readings of an answer; more than one only where a comma may separate thousands or values.

    Args:
        text: as written.
        is_gold: do not read ``3,4`` as a decimal number: golds are in English.

    Raises:
        Unreadable: too long or nested too deeply.
    """
    text = normalise(text)
    if _DECIMAL_COMMA.fullmatch(text) and not is_gold:
        return [_read(tuple(tokenise(reading)), 0) for reading in (text, text.replace(",", "."))]
    joined = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text) if not _BRACKETED.match(text) else text
    readings = [tuple(tokenise(joined))]
    if joined != text:
        readings.append(tuple(tokenise(text)))
    if "\\in " in text or "where" in text or "for " in text:
        readings += [freed for tokens in readings for freed in _without_conditions(tokens)]
    return [_read(tokens, 0) for tokens in readings]


_NUMBER_SETS = ("Z", "R", "N", "Q", "C")


def _without_conditions(tokens: tuple[Token, ...]) -> list[tuple[Token, ...]]:
    r"""Tokens up to a final ``, k \in \mathbb{Z}`` or ``where ...``, also with k renamed to a fixed name."""
    for i in range(2, len(tokens)):
        names_set = tokens[i].value == "in" and i + 1 < len(tokens) and tokens[i + 1].value in _NUMBER_SETS
        if names_set and tokens[i - 1].kind == "letter":
            parameter = tokens[i - 1].value
            kept = list(tokens[: i - 1])
            while kept and kept[-1].value in (",", "(", ";", "for", "where"):
                kept.pop()
            renamed = (token._replace(value="κ") if token.value == parameter else token for token in kept)
            return [tuple(kept), tuple(renamed)] if kept else []
        if tokens[i].kind == "text" and re.match(r"(?:where|for (?:any|all|some|integer))\b", tokens[i].value):
            return [tokens[:i]]
    return []


_THOUSANDS = re.compile(r"(?<![\d.,^_{])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")
_DECIMAL_COMMA = re.compile(r"-?(?:0,\d+|\d+,\d{1,2}|\d+,\d{4,})")
_BRACKETED = re.compile(r"\s*(?:\(|\[|\\\{|\\begin)")


def read_tokens(tokens: tuple[Token, ...]) -> Answer:
    """The answer that these tokens make."""
    return _read(tokens, 0)


def _read(tokens: tuple[Token, ...], depth: int) -> Answer:
    if depth > 30:
        raise Unreadable("nested too deeply")
    tokens = _without_lead_in(tokens)
    structure = (
        _read_words(tokens) or _read_union(tokens, depth) or _read_list(tokens, depth) or _read_relation(tokens, depth)
        or _read_matrix(tokens, depth) or _read_brackets(tokens, depth) or _read_ratio(tokens, depth)
        or _read_signs(tokens, depth) or read_leaf(tokens)
    )  # fmt: skip
    return Answer(structure, tokens)


def _without_lead_in(tokens: tuple[Token, ...]) -> tuple[Token, ...]:
    """Drop "the answer is" and the like, and a final full stop, where something is left then."""
    count = 0
    while count < len(tokens) and tokens[count].kind == "text":
        count += 1
    if 0 < count < len(tokens):
        lead = " ".join(token.value for token in tokens[:count])
        if _LEAD_IN.fullmatch(lead.strip(" :,")) or _STATEMENT.fullmatch(lead):
            tokens = tokens[count:]
            while tokens and tokens[0].value == ":":
                tokens = tokens[1:]
    while len(tokens) > 1 and tokens[-1].kind == "sign" and tokens[-1].value in ".,;":
        tokens = tokens[:-1]
    return tokens


def _read_words(tokens: tuple[Token, ...]) -> Structure | None:
    num_texts = sum(token.kind == "text" for token in tokens)
    original = " ".join(token.value for token in tokens)
    text = _plain_text(tokens)
    if [token.value for token in tokens] in (["emptyset"], ["\\{", "\\}"], []):
        return Words(text="∅", original=original)
    if len(tokens) == 1 and tokens[0].value in ("nexists", "R") and tokens[0].kind == "command":
        return Words(text=ALL_REALS if tokens[0].value == "R" else "undefined", original=original)
    if not num_texts:
        return None
    if len(tokens) == 1 and text in _NUMBER_WORDS:
        return read_leaf((Token("number", str(_NUMBER_WORDS[text]), False),))
    if text in _INFINITE:
        return infinity("").structure
    for known, name in ((_EMPTY_SET, "∅"), (_UNDEFINED, "undefined"), (_ALL_REALS, ALL_REALS)):
        if text in known:
            return Words(text=name, original=original)
    if _NO_SUCH.fullmatch(text):
        return Words(text="∅", original=original)
    is_plain = all(token.kind in ("text", "letter") or token.value in _PUNCTUATION for token in tokens)
    has_letters = any(token.kind == "letter" for token in tokens)
    if not is_plain or (has_letters and num_texts < 2 and tokens[-1].kind != "letter") or _separators(tokens):
        return None
    return Words(text=text, original=original)


_PUNCTUATION = frozenset("'\".,!?()&-")


def _plain_text(tokens: Sequence[Token]) -> str:
    """Words without white space, articles and full stops; signs between variables stay."""
    words = [token.value.lower() if token.kind == "text" else token.value for token in tokens]
    text = re.sub(r"(?<=[a-z]{2})-(?=[a-z]{2})|[.'\",?&]|!$", " ", " ".join(words))
    return re.sub(r"\s+|^(?:an?|the|it is)\b", "", re.sub(r"^\s*(?:an?|the|it is)\s+", "", text))


def _split(tokens: tuple[Token, ...], at: Sequence[int]) -> list[tuple[Token, ...]]:
    parts, start = [], 0
    for position in [*at, len(tokens)]:
        parts.append(tokens[start:position])
        start = position + 1
    return parts


def _is_word(token: Token, *words: str) -> bool:
    return token.kind == "text" and token.value.lower().strip(" ,;") in words


def _read_union(tokens: tuple[Token, ...], depth: int) -> Structure | None:
    depths = depths_of(tokens)
    at = [i for i, token in enumerate(tokens) if token.value == "cup" and token.kind == "command" and depths[i] == 0]
    if at:
        parts = _split(tokens, at)
        if len(parts[0]) > 2 and parts[0][1].value == "in":
            parts[0] = parts[0][2:]
        sets = [_read(part, depth + 1) for part in parts]
        return _finite_union(sets) or Union(parts=sets)
    at = [i for i, token in enumerate(tokens) if token.value == "setminus" and depths[i] == 0]
    if len(at) == 1 and 0 < at[0] < len(tokens) - 1:
        return _without_points(*(_read(part, depth + 1) for part in _split(tokens, at)))
    if len(tokens) > 2 and tokens[1][:2] == ("command", "in") and tokens[0].kind == "letter":
        return _read(tokens[2:], depth + 1).structure
    return None


def _finite_union(sets: list[Answer]) -> Structure | None:
    items = []
    for part in sets:
        if not isinstance(part.structure, Collection) or part.structure.opening != "{":
            return None
        items.extend(part.structure.items)
    return Collection(opening="{", closing="}", items=items)


def _without_points(whole: Answer, points: Answer) -> Structure | None:
    """An interval, or the real line, less a few numbers: a union of open intervals."""
    if not isinstance(points.structure, Collection) or points.structure.opening != "{":
        return None
    numbered = [(item.structure.number, item) for item in points.structure.items if isinstance(item.structure, Leaf)]
    if len(numbered) > 1 and (len(numbered) != len(points.structure.items) or any(n is None for n, _ in numbered)):
        return None
    cuts = (
        [item for _, item in sorted(numbered, key=lambda pair: pair[0] or 0)]
        if len(numbered) > 1
        else points.structure.items
    )
    line = whole.structure
    if isinstance(line, Words) and line.text == ALL_REALS:
        line = Collection(opening="(", closing=")", items=[infinity("-"), infinity("")])
    if not isinstance(line, Collection) or len(line.items) != 2 or line.opening not in ("(", "["):
        return None
    ends = [line.items[0], *cuts, line.items[1]]
    parts: list[Answer] = []
    for i in range(len(ends) - 1):
        opening, closing = line.opening if i == 0 else "(", line.closing if i == len(ends) - 2 else ")"
        part = Collection(opening=opening, closing=closing, items=[ends[i], ends[i + 1]])
        tokens = (Token("sign", opening, False), *ends[i].tokens, Token("sign", ",", False), *ends[i + 1].tokens,
                  Token("sign", closing, False))  # fmt: skip
        parts.append(Answer(part, tokens))
    return Union(parts=parts)


def _separators(tokens: tuple[Token, ...]) -> list[int]:
    depths = depths_of(tokens)
    has_relation = any(token.value in RELATIONS for token in tokens)
    return [
        i for i, token in enumerate(tokens)
        if depths[i] == 0 and ((token.kind == "sign" and token.value in ",;") or _is_word(token, "and", "or", "and or")
                               or (has_relation and token.kind == "command" and token.value in ("and", "or")))
    ]  # fmt: skip


def _read_list(tokens: tuple[Token, ...], depth: int) -> Structure | None:
    at = _separators(tokens)
    if not at:
        return None
    parts = [part for part in _split(tokens, at) if part]
    if len(parts) > MAX_ITEMS:
        raise Unreadable("too many items")
    if not parts:
        raise Unreadable("separators alone")
    if len(parts) == 1:
        return _read(parts[0], depth + 1).structure
    if (groups := _groups(tokens, at)) is not None:
        return Collection(opening="", closing="", items=[_read(group, depth + 1) for group in groups])
    items = [_read(part, depth + 1) for part in parts]
    if all(_is_inequality(item.structure) for item in items):
        joined_by_or = all(_is_or(tokens[i]) for i in at)
        return Union(parts=items) if joined_by_or else Collection(opening="&", closing="", items=items)
    if all(_is_or(tokens[i]) for i in at) and any(map(_is_interval, items)):
        return Union(parts=items)
    return Collection(opening="", closing="", items=_flattened(_share_name(items)))


def _is_interval(item: Answer) -> bool:
    """Whether a pair in brackets can be nothing but an interval: half-open, or without an end."""
    pair = item.structure
    if not isinstance(pair, Collection) or len(pair.items) != 2 or pair.opening not in ("(", "["):
        return False
    return (pair.opening == "(") != (pair.closing == ")") or any(
        end.canonical.endswith("\\infty ") for end in pair.items
    )


def _is_or(token: Token) -> bool:
    return _is_word(token, "or") or token[:2] == ("command", "or")


def _groups(tokens: tuple[Token, ...], at: list[int]) -> list[tuple[Token, ...]] | None:
    """The pairs of ``x=1, y=2 or x=2, y=1``: parts between "or" or semicolons, of two or more equations each."""
    strong = [i for i in at if _is_or(tokens[i]) or tokens[i].value == ";"]
    if not strong or len(strong) == len(at):
        return None
    groups = [group for group in _split(tokens, strong) if group]
    sizes = {(len(_separators(group)), sum(token.value == "=" for token in group)) for group in groups}
    ((num_separators, num_equations),) = sizes if len(sizes) == 1 else ((0, 0),)
    return groups if num_separators and num_equations > num_separators else None


def _is_inequality(structure: Structure) -> bool:
    return isinstance(structure, Relation) and any(sign != "=" for sign in structure.signs)


def _share_name(items: list[Answer]) -> list[Answer]:
    """``x = 1, 2`` means ``x = 1, x = 2``."""
    first = items[0].structure
    if not isinstance(first, Relation) or any(isinstance(item.structure, Relation) for item in items[1:]):
        return items
    return [first.sides[-1], *items[1:]] if first.signs[-1] == "=" else items


def _flattened(items: list[Answer]) -> list[Answer]:
    r"""Items of a list with the two values of ``1 \pm \sqrt 2`` among them."""
    flat: list[Answer] = []
    for item in items:
        inner = item.structure
        if isinstance(inner, Collection) and inner.opening == "±":
            flat.extend(inner.items)
        else:
            flat.append(item)
    return flat


def _read_relation(tokens: tuple[Token, ...], depth: int) -> Structure | None:
    depths = depths_of(tokens)
    at = [i for i, token in enumerate(tokens) if depths[i] == 0 and token.kind != "text" and token.value in RELATIONS]
    if not at or at[-1] == len(tokens) - 1:
        return None
    parts = _split(tokens, at)
    rounded = next((k for k, i in enumerate(at) if tokens[i].value == "approx" and (k or not is_name(parts[0]))), None)
    if rounded is not None and parts[0]:  # "x = \\sqrt 2 \\approx 1.41": what is exact counts
        return None if _contradict(parts[rounded], parts[-1]) else _read(tokens[: at[rounded]], depth + 1).structure
    if not parts[0]:  # "= 5"
        return _read(parts[1], depth + 1).structure if len(parts) == 2 and tokens[0].value in ("=", "approx") else None
    if not all(parts):
        return None
    return Relation(sides=[_read(part, depth + 1) for part in parts], signs=[RELATIONS[tokens[i].value] for i in at])


def _contradict(exact: tuple[Token, ...], rounded: tuple[Token, ...]) -> bool:
    """Whether two numbers with an approximation sign between them are far apart."""
    numbers = [read_leaf(side).number for side in (exact, rounded) if side]
    if len(numbers) < 2 or numbers[0] is None or numbers[1] is None:
        return False
    return abs(numbers[0] - numbers[1]) * 20 > abs(numbers[0])


_NAMING = {
    "angle", "triangle", "overline", "bar", "max", "min", "frac", "lim", "to", "infty", "det", "gcd", "lcm", "partial",
    "sin", "cos", "tan",
}  # fmt: skip
"""Commands of a side that may be no more than the name of the value: ``\\frac{dy}{dx} =``, ``\\lim a_n =``."""
_INVERSE = ["^", "{", "-", "1", "}", "("]


def is_name(tokens: Sequence[Token]) -> bool:
    r"""Whether a side of an equation only names the value: ``x``, ``f(x)``, ``m + n``, ``F_{\max}``."""
    if tokens and tokens[0].value in ("int", "sum", "prod", "lim"):
        return True
    values = [token.value for token in tokens]
    in_index, depth = False, 0
    for i, token in enumerate(tokens):
        if i and values[i - 1] == "_":
            in_index = True
        if values[i : i + 6] == _INVERSE:
            in_index = True
            continue
        if in_index:
            depth += {"{": 1, "}": -1}.get(token.value, 0)
            in_index = depth > 0
            continue
        is_index = token.kind == "number" and i and (tokens[i - 1].kind == "letter" and not token.space)
        if token.kind == "number" and not (is_index or values[i - 1] in ("(", ",")):
            return False
        if token.kind == "command" and token.value not in GREEK | _NAMING:
            return False
        if token.kind == "sign" and token.value not in "(){}_+',:/":
            return False
    return bool(tokens) and tokens[0].kind != "number"


def is_simple_name(tokens: Sequence[Token]) -> bool:
    """Whether a side names one thing: a variable, ``f(x)``, points such as ``AB``, or words."""
    values = "".join(token.value for token in tokens if token.value not in GREEK)
    kinds = {token.kind for token in tokens}
    if "text" in kinds or any(token.value in ("angle", "triangle") for token in tokens):
        return is_name(tokens)
    return is_name(tokens) and _SIMPLE_NAME.fullmatch(values) is not None


_SIMPLE_NAME = re.compile(
    r"[A-Za-z]?'*(?:_(?:\w|\{\w+\})|\d+)?"  # x, x_1, \alpha_1 (whose letter is left out), y'
    r"|\([A-Za-z](?:,[A-Za-z])*\)"
    r"|[A-Z]{2,4}"
    r"|[A-Za-z](?:_\w|_\{\w+\})?'*(?:\^\{-1\})?\([\w,|]+\)"  # f(x), P(A|B)
)


def _read_matrix(tokens: tuple[Token, ...], depth: int) -> Structure | None:
    starts = [i for i, token in enumerate(tokens) if token.kind == "command" and token.value.startswith("begin")]
    if not starts or not tokens[-1].value.startswith("end") or len(starts) != 1:
        return None
    start = starts[0]
    if tokens[start].value in _SYSTEMS and not start:
        return _read_system(tokens, depth)
    if not tokens[start].value.endswith(("matrix", "array")) or tokens[start].value == "beginvmatrix":
        return None
    scale, body = tokens[:start], tokens[start + 1 : -1]
    rows = [row for row in _split(body, [i for i, token in enumerate(body) if token.value == ROW]) if row]
    cells = [_split(row, [i for i, token in enumerate(row) if token.value == "&"]) for row in rows]
    if sum(map(len, cells)) > MAX_ITEMS or not cells:
        raise Unreadable("too many items")
    if scale:
        left, right = Token("sign", "(", False), Token("sign", ")", False)
        cells = [[(*scale, left, *cell, right) for cell in row] for row in cells]
    return Matrix(rows=[[_read(cell, depth + 1) for cell in row] for row in cells])


_SYSTEMS = ("begincases", "beginaligned", "beginalign", "begingathered", "beginsplit")


def _read_system(tokens: tuple[Token, ...], depth: int) -> Structure | None:
    """The equations of a system as a list; None for a function defined by cases."""
    body = tokens[1:-1]
    if tokens[0].value != "begincases":
        body = tuple(token for token in body if token.value != "&")
    rows = [row for row in _split(body, [i for i, token in enumerate(body) if token.value == ROW]) if row]
    if any(token.value == "&" for token in body) or not 0 < len(rows) <= MAX_ITEMS:
        return None
    return Collection(opening="", closing="", items=[_read(row, depth + 1) for row in rows])


def _read_brackets(tokens: tuple[Token, ...], depth: int) -> Structure | None:
    if len(tokens) < 3 or tokens[0].value not in ("(", "[", "\\{") or tokens[-1].value not in (")", "]", "\\}"):
        return None
    depths = depths_of(tokens)
    if min(depths[1:-1]) < 1:
        return None
    inner = tokens[1:-1]
    opening, closing = tokens[0].value.strip("\\"), tokens[-1].value.strip("\\")
    if opening == "{" and (bar := _set_bar(inner)):
        if bar == 1 or inner[1].value == "in":
            return _read(inner[bar + 1 :], depth + 1).structure
        items = [Answer(read_leaf(part), part) for part in (inner[:bar], inner[bar + 1 :])]
        return Collection(opening="{|", closing="}", items=items)
    at = [
        i for i, token in enumerate(inner) if depths[i + 1] == 1 and token.value in (",", ";") and token.kind == "sign"
    ]
    if len(at) > MAX_ITEMS:
        raise Unreadable("too many items")
    if not at:
        item = _read(inner, depth + 1)
        if opening == "{":
            values = _flattened([item])
            return Collection(opening="{", closing="}", items=values)
        if isinstance(item.structure, Matrix | Collection | Words | Union):
            return item.structure
        return None  # brackets around an expression belong to it
    parts = _split(inner, at)
    if not all(parts):
        raise Unreadable("an empty item")
    items = [_read(part, depth + 1) for part in parts]
    if opening == "{":
        items = _flattened(items)
    elif any(_is_signed(item) for item in items) and len(items) <= MAX_SIGNED:
        return _signed_tuples(opening, closing, items)
    return Collection(opening=opening, closing=closing, items=items)


MAX_SIGNED = 6


def _is_signed(item: Answer) -> bool:
    return isinstance(item.structure, Collection) and item.structure.opening == "±"


def _signed_tuples(opening: str, closing: str, items: list[Answer]) -> Structure:
    r"""The tuples that ``(\pm 1, \pm 2)`` stands for."""
    choices = [item.structure.items if isinstance(item.structure, Collection) and _is_signed(item) else [item]
               for item in items]  # fmt: skip
    tuples = []
    for chosen in product(*choices):
        values = Collection(opening=opening, closing=closing, items=list(chosen))
        tokens = tuple(token for item in chosen for token in (Token("sign", ",", False), *item.tokens))
        tuples.append(Answer(values, (Token("sign", opening, False), *tokens[1:], Token("sign", closing, False))))
    return Collection(opening="", closing="", items=tuples)


def _set_bar(inner: tuple[Token, ...]) -> int:
    r"""Where the condition of ``\{x \mid condition\}`` begins; 0 where there is none."""
    depths = depths_of(inner)
    at = [i for i, token in enumerate(inner) if depths[i] == 0 and i and token.value in ("|", ":")]
    has_letter = any(token.kind == "letter" for token in inner[: at[0]]) if at else False
    is_condition = bool(at) and any(token.value in RELATIONS or token.value == "in" for token in inner[at[0] :])
    return at[0] if at and has_letter and is_condition and at[0] < len(inner) - 1 else 0


def _read_ratio(tokens: tuple[Token, ...], depth: int) -> Structure | None:
    depths = depths_of(tokens)
    at = [i for i, token in enumerate(tokens) if token.value == ":" and depths[i] == 0]
    if not at:
        return None
    parts = _split(tokens, at)
    if not all(parts):
        return None
    return Collection(opening=":", closing=":", items=[_read(part, depth + 1) for part in parts])


def _read_signs(tokens: tuple[Token, ...], depth: int) -> Structure | None:
    r"""Both values of an expression with ``\pm``."""
    if not any(token.kind == "command" and token.value in ("pm", "mp") for token in tokens):
        return None
    values = []
    for plus, minus in (("+", "-"), ("-", "+")):
        signs = {"pm": Token("sign", plus, False), "mp": Token("sign", minus, False)}
        values.append(_read(tuple(signs.get(token.value, token) for token in tokens), depth + 1))
    return Collection(opening="±", closing="", items=values)
