"""How lines look: told apart by colour, and again in grey by marker and dashes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

PUBLISHED = "published"
"""The kind of a line that was typed in from a publication."""

# Okabe and Ito's palette without its yellow, which is faint on white; neighbours differ in grey as well.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
# More than the colours, and no multiple of them: a pair comes again only after 77 arms.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">", "p")
GREY = "#707070"
LONGEST_LABEL = 120
PUBLISHED_MARKERS = ("x", "+", "1", "2", "3", "4")

KIND_LABELS = {
    "nested": "with feedback, nested",
    "paper": "with feedback, a run per k",
    "samples": "pass@k, independent",
    "no_feedback": "without feedback",
    PUBLISHED: "published",
    "": "",
}
_DASHES: dict[str, Any] = {
    "nested": "solid",
    "paper": "solid",
    "samples": (0, (5, 2)),
    "no_feedback": (0, (1.2, 1.4)),
    PUBLISHED: (0, (4, 1.5, 1, 1.5)),
    "": "solid",
}
_HOLLOW = ("paper", "samples")

_FALLBACK_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "WenQuanYi Zen Hei", "Arial Unicode MS", "PingFang SC",
    "Hiragino Sans", "Microsoft YaHei",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How one line is drawn."""

    colour: str
    marker: str
    dashes: Any
    hollow: bool
    """Its markers are filled with white."""

    def line_style(self) -> dict[str, Any]:
        """The arguments of matplotlib's ``plot`` and ``Line2D``."""
        return {
            "color": self.colour,
            "linestyle": self.dashes,
            "marker": self.marker,
            "markerfacecolor": "white" if self.hollow else self.colour,
            "markeredgecolor": self.colour,
        }


def look_of(arm: str, kind: str, arms: Sequence[str], published: Sequence[str] = ()) -> Look:
    """How the line of ``arm`` and ``kind`` is drawn in a figure of ``arms``.

    Arms differ in colour and marker, kinds in dashes and filling; the kinds of a single arm in colour and marker too.
    """
    if kind == PUBLISHED:
        marker = PUBLISHED_MARKERS[published.index(arm) % len(PUBLISHED_MARKERS)]
        return Look(colour=GREY, marker=marker, dashes=_DASHES[kind], hollow=False)
    number = arms.index(arm) if len(arms) > 1 else list(KIND_LABELS).index(kind) % (len(KIND_LABELS) - 1)
    return Look(
        colour=COLOURS[number % len(COLOURS)], marker=MARKERS[number % len(MARKERS)],
        dashes=_DASHES[kind], hollow=kind in _HOLLOW,
    )  # fmt: skip


def kind_look(kind: str) -> Look:
    """The legend's entry of a kind, where colour and marker mean arms."""
    return Look(colour=GREY, marker="o", dashes=_DASHES[kind], hollow=kind in _HOLLOW)


def shown(label: str) -> str:
    """A label as it can be drawn: one line, nothing unprintable, not longer than a legend bears."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in " ".join(label.split()))
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "\N{HORIZONTAL ELLIPSIS}"


def settings() -> dict[str, Any]:
    """Matplotlib's settings, for figures as wide as a column of a paper; the user's own do not play into them."""
    from matplotlib import font_manager

    installed = set(font_manager.get_font_names())
    return {
        "font.family": ["DejaVu Sans", *(name for name in _FALLBACK_FONTS if name in installed)],
        "font.size": 7.5,
        "axes.titlesize": 7.5,
        "axes.labelsize": 7.5,
        "figure.titlesize": 8.5,
        "xtick.labelsize": 7,
        "ytick.labelsize": 7,
        "legend.fontsize": 7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.linewidth": 0.6,
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "grid.color": "#dcdcdc",
        "grid.linewidth": 0.5,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0,
        "lines.linewidth": 1.3,
        "lines.markersize": 4,
        "lines.markeredgewidth": 1.0,
        "text.parse_math": False,
        "text.usetex": False,
        "axes.unicode_minus": True,
        "savefig.dpi": 300,
        # The same figure is the same file: ids from this salt instead of from chance.
        "svg.hashsalt": "verl_multiattempt",
        "svg.fonttype": "path",
    }
