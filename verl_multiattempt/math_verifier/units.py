"""Units of measure, so that "5 cm" and "5 centimeters" are one answer and "5 cm" and "5 m" are two."""

from __future__ import annotations

import re

_NAMES = """
meter m meters metre metres
centimeter cm centimeters centimetre centimetres
millimeter mm millimeters millimetre millimetres
kilometer km kilometers kilometre kilometres
inch in inches
foot ft feet
yard yd yds yards
mile mi miles
second s sec secs seconds
minute min mins minutes
hour h hr hrs hours
day days
week weeks
month months
year yr yrs years
gram g grams
kilogram kg kilograms
milligram mg milligrams
pound lb lbs pounds
ounce oz ounces
ton tons
liter l L liters litre litres
milliliter ml mL milliliters
gallon gal gallons
quart quarts
pint pints
cup cups
tablespoon tbsp tablespoons
teaspoon tsp teaspoons
acre acres
dollar dollars usd USD bucks
cent cents
yuan rmb
euro euros
rupee rupees rs
degree deg degrees
radian rad radians
celsius
fahrenheit
kelvin K kelvins
percent percentage percents pct
newton N newtons
joule J joules
watt W watts
volt V volts
hertz Hz
mole mol moles
molar M
ohm Ω ohms
micrometer µm μm micrometers microns
ampere A amp amps amperes
unit units
am AM
pm PM
"""
_UNITS = {alias: line.split()[0] for line in _NAMES.strip().splitlines() for alias in line.split()}
_PREFIXES = {
    "p": "pico", "n": "nano", "µ": "micro", "μ": "micro", "m": "milli", "c": "centi", "k": "kilo",
    "M": "mega", "G": "giga",
}  # fmt: skip
_PREFIXED = {"Hz", "W", "J", "N", "V", "A", "Pa", "s", "m", "g", "mol", "B", "b", "Ω", "F", "C", "eV", "cal", "M", "K"}
_POWERS = {"square": 2, "squared": 2, "sq": 2, "cubic": 3, "cubed": 3, "cu": 3}


def canonical_unit(text: str) -> str | None:
    """The unit that ``text`` names, such as ``centimeter^2`` or ``hour^-1*mile``; None where a word of it is no unit.

    Args:
        text: words with ``^``, ``*``, ``/`` and braces, for example ``" cm ^2"`` or ``"square feet"``.
    """
    text = re.sub(r"\bmph\b", "miles/hour", re.sub(r"[{}()]", " ", text))
    text = re.sub(r"-\s+(?=\d)", "-", text)
    powers: dict[str, int] = {}
    for number, part in enumerate(re.split(r"/|\bper\b", text)):
        factors = _factors(part)
        if not factors:
            return None
        for name, power in factors:
            powers[name] = powers.get(name, 0) + (power if number == 0 else -power)
    return "*".join(f"{name}^{power}" if power != 1 else name for name, power in sorted(powers.items()) if power)


def _factors(text: str) -> list[tuple[str, int]] | None:
    """The units of a product with their powers; None where there is something else among them."""
    factors: list[tuple[str, int]] = []
    ahead = 1
    for word in re.findall(r"[^\W\d_]+|\^\s*-?\d+|\d+|[^\w\s*.]", text):
        power = _POWERS.get(word.lower())
        if (name := _name(word)) is not None:
            factors.append((name, ahead))
            ahead = 1
        elif power is not None and word.lower() not in ("squared", "cubed"):
            ahead = power
        elif factors and (power is not None or (word[-1].isdigit() and word.startswith("^"))):
            factors[-1] = (factors[-1][0], factors[-1][1] * (power or int(word.strip("^ "))))
        else:
            return None
    return factors if ahead == 1 else None


def _name(word: str) -> str | None:
    if word in _UNITS:
        return _UNITS[word]
    if len(word) > 2 and word.lower() in _UNITS:
        return _UNITS[word.lower()]
    if word[:1] in _PREFIXES and word[1:] in _PREFIXED:
        return f"{_PREFIXES[word[0]]}{_UNITS.get(word[1:], word[1:])}"
    return None


_NOT_THINGS = frozenset(
    """not no wrong false incorrect right true unless maybe perhaps possibly except but if then is are isn't was
    never cannot can't wait plus minus times over more less than at least most sorry error unknown unsure guess
    between to off or and a half halves halved third thirds fourth fourths fifth fifths sixth sixths seventh
    eighth eighths ninth ninths tenth tenths hundredth hundredths thousandth thousandths millionth dozen dozens
    quarters score squared cubed factorial doubled tripled root fewer greater higher lower above below under in
    of out for every each past inclusive before after until pi zero one two three four five six seven eight nine
    ten eleven twelve hundred thousand million billion trillion""".split()  # noqa: SIM905
)


def is_counted_thing(text: str) -> bool:
    """Whether words after a number may name what is counted ("5 apples"), and do not take the number back."""
    words = re.sub(r"\^\s*-?\d+|[{}()/*]", " ", text).replace(".", " ").split()
    is_noun_like = (
        re.fullmatch("[A-Za-zà-ÿµμ-]{2,}", word) and not word.isupper() and word.lower() not in _NOT_THINGS
        for word in words
    )
    return 0 < len(words) <= 4 and all(is_noun_like)


def counted_thing(text: str) -> str:
    """The thing's name for comparison: lower case, singular, without "approximately" and the like."""
    words = [word for word in re.sub(r"[^A-Za-zà-ÿ]+", " ", text).lower().split() if not word.startswith("approx")]
    return " ".join(word.removesuffix("s") for word in words)
