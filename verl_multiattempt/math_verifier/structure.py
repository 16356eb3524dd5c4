"""Reading the structure of an answer from its tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence

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
_UNDEFINED = frozenset(["undefined", "doesnotexist", "dne", "notdefined"])
_ALL_REALS = frozenset(["allrealnumbers", "allreals", "realnumbers", "thesetofrealnumbers", "anyrealnumber"])
_ABOUT = r"approx\.?|approximately|about|exactly|roughly"
_LEAD_IN = re.compile(
    r"(?:so|thus|therefore|hence)?[\s,]*(?:the|my)?\s*(?:final|correct|value|total)?\s*(?:answer|result|solution)?\s*"
    rf"(?:is|are|equals|equal to|{_ABOUT})\s*:?"
    rf"|(?:the\s*)?(?:final |correct )?(?:answer|result|solution)\s*:?|{_ABOUT}",
    re.IGNORECASE,
)


def read_answer(text: str) -> list[Answer]:
    """All readings of an answer; more than one only where a comma may separate thousands or values.

    Raises:
        Unreadable: too long or nested too deeply.
    """
    text = normalise(text)
    if _DECIMAL_COMMA.fullmatch(text):
        return [_read(tuple(tokenise(reading)), 0) for reading in (text, text.replace(",", "."))]
    joined = _THOUSANDS.sub(lambda match: match.group().replace(",", ""), text) if not _BRACKETED.match(text) else text
    readings = [_read(tuple(tokenise(joined)), 0)]
    if joined != text:
        readings.append(_read(tuple(tokenise(text)), 0))
    return readings


_THOUSANDS = re.compile(r"(?<![\d.,^_{])[1-9]\d{0,2}(?:,\d{3})+(?!\d|,\d)")
_DECIMAL_COMMA = re.compile(r"-?(?:0,\d+|\d+,\d{1,2}|\d+,\d{4,})")
_BRACKETED = re.compile(r"\s*(?:\(|\[|\\\{|\\begin)")


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
        if _LEAD_IN.fullmatch(lead.strip(" :,")):
            tokens = tokens[count:]
            while tokens and tokens[0].value == ":":
                tokens = tokens[1:]
    while len(tokens) > 1 and tokens[-1].kind == "sign" and tokens[-1].value in ".,;":
        tokens = tokens[:-1]
    return tokens


def _read_words(tokens: tuple[Token, ...]) -> Structure | None:
    has_text = any(token.kind == "text" for token in tokens)
    plain = all(token.kind in ("text", "letter") or token.value in "-'\".,!?()/:&" for token in tokens)
    original = " ".join(token.value for token in tokens)
    text = re.sub(r"[\W_]+", "", original).lower()
    if not tokens or (has_text and text in _EMPTY_SET):
        return Words(text="∅", original=original)
    if has_text and text in _UNDEFINED:
        return Words(text="undefined", original=original)
    if (has_text and text in _ALL_REALS) or (len(tokens) == 1 and tokens[0][:2] == ("command", "R")):
        return Words(text=ALL_REALS, original=original)
    if (len(tokens) == 1 and tokens[0].value == "emptyset") or [token.value for token in tokens] == ["\\{", "\\}"]:
        return Words(text="∅", original=original)
    if not (has_text and plain) or _separators(tokens):
        return None
    return Words(text=text, original=original)


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
    return [
        i for i, token in enumerate(tokens)
        if depths[i] == 0 and ((token.kind == "sign" and token.value in ",;") or _is_word(token, "and", "or", "and or")
                               or (token.kind == "command" and token.value in ("and", "or")))
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
    items = [_read(part, depth + 1) for part in parts]
    joined_by_or = all(_is_word(tokens[i], "or") or tokens[i][:2] == ("command", "or") for i in at)
    if joined_by_or and all(_is_inequality(item.structure) for item in items):
        return Union(parts=items)
    return Collection(opening="", closing="", items=_flattened(_share_name(items)))


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
        return _read(tokens[: at[rounded]], depth + 1).structure
    if not parts[0]:  # "= 5"
        return _read(parts[1], depth + 1).structure if len(parts) == 2 and tokens[0].value in ("=", "approx") else None
    if not all(parts):
        return None
    return Relation(sides=[_read(part, depth + 1) for part in parts], signs=[RELATIONS[tokens[i].value] for i in at])


def is_name(tokens: Sequence[Token]) -> bool:
    r"""Whether a side of an equation only names the value: ``x``, ``f(x)``, ``m + n``, ``F_{\max}``."""
    in_subscript, depth = False, 0
    for i, token in enumerate(tokens):
        if i and (tokens[i - 1].value == "_" or [t.value for t in tokens[i - 1 : i + 4]] == ["^", "{", "-", "1", "}"]):
            in_subscript = True
        if token.value == "^" and [t.value for t in tokens[i + 1 : i + 5]] != ["{", "-", "1", "}"]:
            return False
        if in_subscript:
            depth += {"{": 1, "}": -1}.get(token.value, 0)
            in_subscript = depth > 0
            continue
        if (
            token.kind == "number"
            and tokens[i - 1].value not in ("(", ",")
            and not (tokens[i - 1].kind == "letter" and i and not token.space)
        ):
            return False
        if token.kind == "command" and token.value not in GREEK | {"angle", "triangle", "overline", "max", "min"}:
            return False
        if token.kind == "sign" and token.value not in "()_{}+',:|^":
            return False
    return bool(tokens) and tokens[0].kind != "number"


def _read_matrix(tokens: tuple[Token, ...], depth: int) -> Structure | None:
    starts = [i for i, token in enumerate(tokens) if token.kind == "command" and token.value.startswith("begin")]
    if not starts or not tokens[-1].value.startswith("end") or len(starts) != 1:
        return None
    start = starts[0]
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


def _read_brackets(tokens: tuple[Token, ...], depth: int) -> Structure | None:
    if len(tokens) < 3 or tokens[0].value not in ("(", "[", "\\{") or tokens[-1].value not in (")", "]", "\\}"):
        return None
    depths = depths_of(tokens)
    if min(depths[1:-1]) < 1:
        return None
    inner = tokens[1:-1]
    opening, closing = tokens[0].value.strip("\\"), tokens[-1].value.strip("\\")
    if opening == "{" and (condition := _set_builder(inner)):
        return _read(condition, depth + 1).structure
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
    return Collection(opening=opening, closing=closing, items=_flattened([_read(part, depth + 1) for part in parts]))


def _set_builder(inner: tuple[Token, ...]) -> tuple[Token, ...] | None:
    r"""The condition of ``\{x \mid condition\}``."""
    for i, token in enumerate(inner[:6]):
        if token.value in ("|", ":") and i and inner[0].kind == "letter":
            return inner[i + 1 :] or None
    return None


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
