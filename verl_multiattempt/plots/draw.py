"""Pictures of sheets, and the files they are kept in."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from verl_multiattempt.plots.lines import Line
from verl_multiattempt.plots.sheet import Panel, Sheet, has_interval
from verl_multiattempt.plots.style import KIND_LABELS, Look, kind_look, look_of, settings, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
MIN_PANEL_INCHES = 1.65
"""Narrower panels have no room for their tick labels."""
SMALLEST_SPAN = 10.0
"""In percent. A flat line fills no axis with noise."""
MARGIN = 0.06
"""Inches around title, legend and caption."""


@contextmanager
def house_style() -> Iterator[None]:
    """Matplotlib with this package's settings alone."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings())  # type: ignore[arg-type]
        yield


def render(sheet: Sheet, width: float) -> tuple[dict[str, bytes], list[str]]:
    """The figure in every format, by file name, and what there is to say about it.

    Args:
        sheet: the figure.
        width: in inches. Letters keep their size.
    """
    files: dict[str, bytes] = {}
    with house_style(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure = draw(sheet, width)
        for ending in FORMATS:
            buffer = io.BytesIO()
            figure.savefig(buffer, format=ending, metadata={"Date": None} if ending == "svg" else None)
            files[f"{sheet.name}.{ending}"] = buffer.getvalue()
    notes = list(sheet.notes)
    if any("missing from font" in str(warning.message) for warning in caught):
        notes.append(
            "the installed fonts lack some characters of the labels, which are drawn as boxes. "
            "Install a font that has them (such as Noto Sans CJK) or use other labels."
        )
    for warning in caught:
        if "missing from font" not in str(warning.message):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return files, notes


def draw(sheet: Sheet, width: float) -> Figure:
    """The figure, to be called within `house_style`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = sheet.columns or max(1, min(len(sheet.panels), int(width / MIN_PANEL_INCHES)))
    width = max(width, columns * MIN_PANEL_INCHES)
    rows = -(-len(sheet.panels) // columns)
    columns = sheet.columns or -(-len(sheet.panels) // rows)  # rows of about the same number of panels
    figure = Figure(figsize=(width, 2.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    axes = [grid[i // columns][i % columns] for i in range(rows * columns)]
    for unused in axes[len(sheet.panels) :]:
        unused.remove()
    places = {point.x for line in sheet.lines for point in line.points}
    for number, (ax, panel) in enumerate(zip(axes, sheet.panels, strict=False)):
        _draw_panel(ax, panel, sheet)
        _draw_axes(ax, panel, sheet, places)
        ax.set_title(_wrapped(figure, panel.title, width / columns - 0.45, 7.5), loc="left")
        if number % columns and sheet.panels[number - 1].y_label == panel.y_label:
            ax.set_ylabel("")
        if number + columns < len(sheet.panels):
            ax.set_xlabel("")
    _surround(figure, sheet, width, panels_height=rows * (2.35 if len(sheet.panels) == 1 else 1.65))
    return figure


def _draw_panel(ax: Axes, panel: Panel, sheet: Sheet) -> None:
    if not panel.lines:
        ax.text(0.5, 0.5, "no results", transform=ax.transAxes, ha="center", va="center", color="#404040")
    scale = 100 if panel.percent else 1
    for number, line in enumerate(panel.lines):
        look = look_of(line.arm, line.kind, sheet.palette, sheet.published)
        # Side by side, bars of lines that meet stay apart.
        shift = (number - (len(panel.lines) - 1) / 2) * min(0.07, 0.6 / len(panel.lines)) if panel.bars else 0
        xs = [point.x + shift for point in line.points]
        ys = [point.value * scale for point in line.points]
        ax.plot(xs, ys, **look.line_style(), markevery=_markers_at(number, xs, panel), zorder=3)
        if has_interval(line):
            _draw_interval(ax, line, look, xs, scale, as_bars=panel.bars or len(xs) == 1)


def _markers_at(number: int, xs: Sequence[float], panel: Panel) -> slice:
    """Where a line has markers: at each number of attempts; along many steps a few, where other lines have none."""
    if panel.every_x:
        return slice(None)
    apart = max(1, len(xs) // 6)
    start = (number + 1) * apart // (len(panel.lines) + 1)
    return slice(start, None, apart) if len(panel.lines) > 1 else slice(0, 0)


def _draw_interval(ax: Axes, line: Line, look: Look, xs: list[float], scale: float, *, as_bars: bool) -> None:
    lows = [scale * (point.value if point.low is None else point.low) for point in line.points]
    highs = [scale * (point.value if point.high is None else point.high) for point in line.points]
    if as_bars:
        ax.vlines(xs, lows, highs, colors=look.colour, linewidth=0.9, zorder=2)
    else:
        ax.fill_between(xs, lows, highs, color=look.colour, alpha=0.16, linewidth=0, zorder=1)


def _draw_axes(ax: Axes, panel: Panel, sheet: Sheet, places: set[int]) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_xlabel(panel.x_label)
    ax.set_ylabel(panel.y_label)
    first, last = min(places), max(places)
    if panel.every_x and last - first < 12:
        ax.set_xticks(range(first, last + 1))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    margin = 0.35 if panel.every_x else max(0.5, 0.02 * (last - first))
    ax.set_xlim(first - margin, last + margin)
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10], min_n_ticks=3))
    ax.set_ylim(*_y_limits([p for p in sheet.panels if p is panel or (panel.y_group and p.y_group == panel.y_group)]))


def _ends(panel: Panel, line: Line) -> Iterator[float]:
    """What the y axis has to hold of a line: along steps not the interval of two seeds, which flattens every curve."""
    for point in line.points:
        yield point.value
        if point.low is not None and point.high is not None and (panel.every_x or line.num_seeds > 2):
            yield point.low
            yield point.high


def _y_limits(panels: Sequence[Panel]) -> tuple[float, float]:
    scale = 100 if panels[0].percent else 1
    ends = [end * scale for panel in panels for line in panel.lines for end in _ends(panel, line)]
    if not ends:
        return 0.0, 100.0
    low, high = min(ends), max(ends)
    span = max(high - low, SMALLEST_SPAN if panels[0].percent else 1e-3 * max(abs(low), abs(high), 1e-3))
    middle, half = (low + high) / 2, span * 0.55
    low, high = middle - half, middle + half
    if panels[0].percent:  # stay near what a share can be; a marker on the edge is still whole
        low, high = max(low, -3.0), min(high, 103.0)
    return low, high


def _surround(figure: Figure, sheet: Sheet, width: float, panels_height: float) -> None:
    """Title above, legend and caption below, each as high as its text needs, so that nothing covers data."""
    title = figure.suptitle(_wrapped(figure, sheet.title, width - 2 * MARGIN, 8.5), x=MARGIN / width, ha="left")
    caption = figure.text(
        MARGIN / width,
        0,
        _wrapped(figure, sheet.caption, width - 2 * MARGIN, 6.5),
        fontsize=6.5,
        color="#404040",
        va="bottom",
    )
    legend_height = _legend_height(figure, sheet, width)
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    title_height = title.get_window_extent(renderer).height / figure.dpi
    caption_height = caption.get_window_extent(renderer).height / figure.dpi if sheet.caption else 0
    below = 3 * MARGIN + caption_height + legend_height
    height = title_height + 0.1 + panels_height + below
    figure.set_size_inches(width, height)
    caption.set_y(MARGIN / height)
    for legend in figure.legends:
        legend.set_bbox_to_anchor((MARGIN / width, (2 * MARGIN + caption_height) / height))
    figure.get_layout_engine().set(rect=(0, below / height, 1, 1 - below / height))  # type: ignore[union-attr, call-arg]


def _legend_height(figure: Figure, sheet: Sheet, width: float) -> float:
    """Add the legend with as many columns as fit; its height in inches."""
    from matplotlib.lines import Line2D

    entries = legend_entries(sheet)
    if not entries:
        return 0
    handles = [Line2D([], [], **look.line_style()) for _, look in entries]
    for columns in range(min(4, len(entries)), 0, -1):
        legend = figure.legend(
            handles, [str(i) for i in range(len(entries))], loc="lower left", bbox_to_anchor=(MARGIN / width, 0),
            ncols=columns, frameon=False, handlelength=3, columnspacing=1.2, borderaxespad=0, borderpad=0,
        )  # fmt: skip
        # Set here: matplotlib takes a label that begins with an underscore for one to leave out.
        for text, (label, _) in zip(legend.get_texts(), entries, strict=True):
            text.set_text(_wrapped(figure, label, width - 2 * MARGIN - 0.4, 7))
        extent = legend.get_window_extent(figure.canvas.get_renderer())  # type: ignore[attr-defined]
        if columns == 1 or extent.width <= (width - 2 * MARGIN) * figure.dpi:
            return extent.height / figure.dpi
        legend.remove()
    raise AssertionError("one column is always taken")


def legend_entries(sheet: Sheet) -> list[tuple[str, Look]]:
    """Label and look of each entry: the arms, then the kinds where there are several, then what was published."""
    arms, kinds = sheet.arms, sheet.kinds
    entries: list[tuple[str, Look]] = []
    if len(arms) == 1 and kinds != [""]:
        entries = [(KIND_LABELS[kind] + sheet.seeds(arms[0]), look_of(arms[0], kind, sheet.palette)) for kind in kinds]
    else:
        kind = kinds[0] if len(kinds) == 1 else ""
        entries = [(shown(arm) + sheet.seeds(arm), look_of(arm, kind, sheet.palette)) for arm in arms]
        if len(kinds) > 1:
            entries += [(KIND_LABELS[kind], kind_look(kind)) for kind in kinds]
    published = sheet.published
    return entries + [(f"{shown(name)} (published)", look_of(name, "published", arms, published)) for name in published]


def _wrapped(figure: Figure, text: str, inches: float, points: float) -> str:
    """``text`` in lines that are at most so wide when drawn in letters of this size."""
    from matplotlib.font_manager import FontProperties

    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    font = FontProperties(size=points)

    def width(line: str) -> float:
        return float(renderer.get_text_width_height_descent(line, font, False)[0]) / figure.dpi

    letters = max(8, int(inches * 72 / (0.4 * points)))
    lines = textwrap.wrap(text, letters)
    while letters > 8 and any(width(line) > inches for line in lines):
        letters -= 1
        lines = textwrap.wrap(text, letters)
    return "\n".join(lines)
