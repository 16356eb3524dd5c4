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
yuan
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
am AM
pm PM
"""
_UNITS = {alias: line.split()[0] for line in _NAMES.strip().splitlines() for alias in line.split()}
_POWERS = {"square": "2", "squared": "2", "sq": "2", "cubic": "3", "cubed": "3", "cu": "3"}


def canonical_unit(text: str) -> str | None:
    """The unit that ``text`` names, such as ``centimeter^2`` or ``mile/hour``; None where a word of it is no unit.

    Args:
        text: words with ``^``, ``/`` and braces, for example ``" cm ^2"`` or ``"square feet"``.
    """
    text = re.sub(r"[{}()]", "", text).replace("*", " ")
    text = re.sub(r"\bmph\b", "miles/hour", text)
    parts = []
    for part in re.split(r"/|\bper\b", text):
        power, name = "", None
        for word in re.findall(r"[A-Za-z]+|\^\s*-?\d+|\d+", part):
            if word in _UNITS or word.lower() in _UNITS:
                name = _UNITS.get(word) or _UNITS[word.lower()]
            elif word.lower() in _POWERS:
                power = _POWERS[word.lower()]
            elif word.startswith("^") or word.isdigit():
                power = word.strip("^ ")
            else:
                return None
        if name is None:
            return None
        parts.append(f"{name}^{power}" if power and power != "1" else name)
    return "/".join(parts)


_NOT_THINGS = frozenset(
    """not no wrong false incorrect right true unless maybe perhaps possibly except but if then is are isn't was never
    plus minus times over more less than at least most about sorry error unknown unsure guess between
    to off""".split()  # noqa: SIM905
)


def is_counted_thing(text: str) -> bool:
    """Whether words after a number may name what is counted ("5 apples"), and do not take the number back."""
    words = re.sub(r"\^\s*\d", " ", re.sub(r"[{}]", "", text)).lower().replace(".", " ").split()
    is_noun_like = (re.fullmatch("[a-zà-ÿ-]+", word) and word not in _NOT_THINGS for word in words)
    return 0 < len(words) <= 4 and all(is_noun_like)
