"""The pictures: that the artists hold the numbers, that nothing is lost or covered, that files are the same again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure

from tests.evaluation_results import flat_results, make_results, write
from verl_multiattempt.plots.curves import evaluation_sheets, read_reference
from verl_multiattempt.plots.draw import draw, house_style, legend_entries, render
from verl_multiattempt.plots.lines import Line, Point
from verl_multiattempt.plots.read import Results, read_results
from verl_multiattempt.plots.sheet import Panel, Sheet
from verl_multiattempt.plots.style import COLOURS, MARKERS, look_of


@pytest.fixture(autouse=True)
def _styled() -> Iterator[None]:
    with house_style():
        yield


def read(folder: Path, *documents: dict[str, Any]) -> list[Results]:
    return [read_results(write(folder / f"{i}.json", document)) for i, document in enumerate(documents)]


def data_lines(figure: Figure, panel: int = 0) -> list[tuple[list[float], list[float]]]:
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[panel].get_lines()]


def band(figure: Figure, number: int = 0) -> dict[float, tuple[float, float]]:
    """Lower and upper end of a band by x."""
    bands = [c for c in figure.axes[0].collections if isinstance(c, PolyCollection)]
    vertices = bands[number].get_paths()[0].vertices
    return {float(x): (float(ys.min()), float(ys.max())) for x in np.unique(vertices[:, 0])
            for ys in [vertices[vertices[:, 0] == x][:, 1]]}  # fmt: skip


def texts(figure: Figure) -> str:
    return " ".join([figure.get_suptitle(), *(text.get_text() for text in figure.texts)]).replace("\n", " ")


def test_line_and_band_of_one_file_are_its_numbers_in_percent(tmp_path: Path) -> None:
    sheet = evaluation_sheets(read(tmp_path, flat_results("arm", {1: 0.4, 2: 0.5, 3: 0.95})))[0]
    figure = draw(sheet, 3.5)
    [(xs, ys)] = data_lines(figure)
    assert xs == [1, 2, 3]
    assert ys == pytest.approx([40, 50, 95])
    ends = band(figure)
    assert [ends[x] for x in (1, 2, 3)] == [pytest.approx(e) for e in ((30, 50), (40, 60), (85, 100))]
    assert "interval over questions" in texts(figure)
    assert figure.get_suptitle() == "arm: accuracy@k, tiny (10 questions)"


def test_line_and_band_of_seeds_are_mean_and_t_interval(tmp_path: Path) -> None:
    seeds = [flat_results("arm", {1: v, 2: v}, model=f"seed {v}") for v in (0.4, 0.5, 0.6)]
    figure = draw(evaluation_sheets(read(tmp_path, *seeds))[0], 3.5)
    [(_, ys)] = data_lines(figure)
    assert ys == pytest.approx([50, 50])
    half = 4.30265 * 10 / 3**0.5
    assert band(figure)[1] == pytest.approx((50 - half, 50 + half), abs=1e-3)
    assert "t-interval over seeds" in texts(figure)
    assert figure.legends[0].get_texts()[0].get_text() == "with feedback, nested (3 seeds)"


def test_a_single_k_shows_its_interval_as_a_bar(tmp_path: Path) -> None:
    figure = draw(evaluation_sheets(read(tmp_path, flat_results("arm", {3: 0.5})))[0], 3.5)
    [bars] = [c for c in figure.axes[0].collections if isinstance(c, LineCollection)]
    assert bars.get_segments()[0].tolist() == [[3, 40], [3, pytest.approx(60)]]
    assert list(figure.axes[0].get_xticks()) == [3]
    assert "Bars: 95" in texts(figure)


def test_intervals_of_lines_with_a_single_k_stand_side_by_side(tmp_path: Path) -> None:
    results = read(tmp_path, *(flat_results(f"arm {i}", {3: 0.5}) for i in range(3)))
    figure = draw(evaluation_sheets(results)[0], 3.5)
    places = [segment[0][0] for c in figure.axes[0].collections if isinstance(c, LineCollection)
              for segment in c.get_segments()]  # fmt: skip
    assert len(places) == 3
    assert min(b - a for a, b in zip(sorted(places), sorted(places)[1:], strict=False)) > 0.05
    assert max(abs(place - 3) for place in places) < 0.35
    assert [xs for xs, _ in data_lines(figure)] == [[place] for place in places]
    assert list(figure.axes[0].get_xticks()) == [3]


def test_many_lines_have_bars_side_by_side_instead_of_bands(tmp_path: Path) -> None:
    documents = [flat_results(f"arm {i}", {1: 0.5, 2: 0.6}) for i in range(7)]
    figure = draw(evaluation_sheets(read(tmp_path, *documents))[0], 3.5)
    assert not [c for c in figure.axes[0].collections if isinstance(c, PolyCollection)]
    firsts = [xs[0] for xs, _ in data_lines(figure)]
    assert len(set(firsts)) == 7
    assert max(abs(x - 1) for x in firsts) < 0.4


def test_0_and_100_percent_lie_inside_the_axes(tmp_path: Path) -> None:
    figure = draw(evaluation_sheets(read(tmp_path, flat_results("arm", {1: 0.0, 2: 1.0})))[0], 3.5)
    low, high = figure.axes[0].get_ylim()
    assert -5 < low < 0
    assert 100 < high < 105


def test_arms_with_missing_k_keep_the_k_they_have(tmp_path: Path) -> None:
    results = read(tmp_path, flat_results("a", {1: 0.5, 3: 0.6}), flat_results("b", {1: 0.5, 2: 0.6, 5: 0.7}))
    figure = draw(evaluation_sheets(results)[0], 3.5)
    assert [xs for xs, _ in data_lines(figure)] == [[1, 3], [1, 2, 5]]
    assert list(figure.axes[0].get_xticks()) == [1, 2, 3, 4, 5]


def test_each_benchmark_has_its_panel_and_a_missing_one_leaves_its_arm_out(tmp_path: Path) -> None:
    results = read(tmp_path, make_results("a", benchmarks=["aime24", "amc23"]), make_results("b", benchmarks=["amc23"]))
    accuracy, benchmarks, _ = evaluation_sheets(results)
    assert [(p.title, [line.arm for line in p.lines]) for p in benchmarks.panels] == [
        ("aime24 (n = 30)", ["a"]), ("amc23 (n = 40)", ["a", "b"]),
    ]  # fmt: skip
    assert "Not every line is the mean of the same benchmarks." in accuracy.caption
    assert any("a (nested) of aime24, amc23; b (nested) of amc23" in note for note in accuracy.notes)


def test_panels_by_temperature_share_their_y_axis(tmp_path: Path) -> None:
    results = read(tmp_path, *(make_results("a", temperature=t, benchmarks=["aime24"]) for t in (1.0, 0.0)))
    by_mode = evaluation_sheets(results, panel_by="temperature")[0]
    assert [(panel.title, [line.arm for line in panel.lines]) for panel in by_mode.panels] == [
        ("greedy", ["a"]), ("T=1", ["a"]),
    ]  # fmt: skip
    figure = draw(by_mode, 3.5)
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    together = evaluation_sheets(results)[0]
    assert [line.arm for line in together.panels[0].lines] == ["a, T=1", "a, greedy"]


def test_panels_by_arm_are_a_row_for_each_label_and_a_column_for_each_temperature(tmp_path: Path) -> None:
    made = [make_results(label, temperature=t, benchmarks=["aime24"]) for t in (1.0, 0.0) for label in ("a", "b")]
    accuracy = evaluation_sheets(read(tmp_path, *made), panel_by="arm")[0]
    assert [(panel.title, [line.arm for line in panel.lines]) for panel in accuracy.panels] == [
        ("a, greedy", ["a"]), ("a, T=1", ["a"]), ("b, greedy", ["b"]), ("b, T=1", ["b"]),
    ]  # fmt: skip
    assert accuracy.columns == 2
    greedy = evaluation_sheets(read(tmp_path, *made[2:]), panel_by="arm")[0]
    assert [panel.title for panel in greedy.panels] == ["a", "b"]
    assert greedy.columns == 2


def test_an_arm_has_the_same_colour_in_every_figure_that_is_made_together(tmp_path: Path) -> None:
    results = read(tmp_path, *(make_results(label, benchmarks=["aime24"]) for label in ("warm start", "single")))
    accuracy = evaluation_sheets(results)[0]
    alone = replace(accuracy, panels=tuple(replace(p, lines=p.lines[1:]) for p in accuracy.panels))
    beside = replace(alone, together_with=tuple(accuracy.arms))

    def colour(sheet: Sheet, number: int) -> object:
        return draw(sheet, 3.5).axes[0].lines[number].get_color()

    assert colour(beside, 0) == colour(accuracy, 1)
    assert colour(alone, 0) == colour(accuracy, 0)
    assert [look.colour for _, look in legend_entries(beside)] == [colour(accuracy, 1)]


def test_six_panels_are_two_rows_of_three(tmp_path: Path) -> None:
    sheet = evaluation_sheets(read(tmp_path, make_results("a", benchmarks=["aime24"])))[1]
    figure = draw(replace(sheet, panels=sheet.panels * 6), 7)
    assert {ax.get_subplotspec().get_geometry()[:2] for ax in figure.axes} == {(2, 3)}


def test_seeds_without_the_same_k_are_noted(tmp_path: Path) -> None:
    results = read(tmp_path, flat_results("a", {1: 0.5, 2: 0.6}), flat_results("a", {1: 0.4}, model="other"))
    sheet = evaluation_sheets(results)[0]
    assert [point.x for point in sheet.panels[0].lines[0].points] == [1]
    assert "a (nested, mean): k = 2 is not drawn, because not all of its seeds have it." in sheet.notes


def test_unlike_numbers_of_questions_are_noted(tmp_path: Path) -> None:
    other = flat_results("b", {1: 0.5})
    other["curves"]["nested"]["tiny"]["questions"] = 500
    sheet = evaluation_sheets(read(tmp_path, flat_results("a", {1: 0.5}), other))[0]
    assert "(10 to 500 questions)" in sheet.title
    assert any("tiny: not every evaluation has the same number of questions: 10 in " in note for note in sheet.notes)


def test_kinds_of_one_arm_differ_in_dashes_and_markers(tmp_path: Path) -> None:
    kinds = ("nested", "paper", "samples", "no_feedback")
    sheets = evaluation_sheets(read(tmp_path, make_results("a", kinds=kinds, benchmarks=["aime24"])))
    looks = [look for _, look in legend_entries(sheets[0])]
    assert [look.dashes == "solid" for look in looks] == [True, True, False, False]
    assert len({str(look.dashes) for look in looks}) == 3
    assert len({(look.marker, look.hollow) for look in looks}) == 4
    assert sheets[0].panels[0].y_label == "solved (%)"
    assert {line.kind for line in sheets[2].lines} == {"nested", "paper", "no_feedback"}, "samples have no retries"


def test_legend_names_arms_and_kinds_apart_where_both_are_several(tmp_path: Path) -> None:
    kinds = ("nested", "samples")
    results = read(tmp_path, *(make_results(label, kinds=kinds, benchmarks=["aime24"]) for label in "ab"))
    assert [label for label, _ in legend_entries(evaluation_sheets(results)[0])] == [
        "a", "b", "with feedback, nested", "pass@k, independent",
    ]  # fmt: skip


def test_no_two_of_many_arms_look_alike() -> None:
    arms = [str(i) for i in range(len(COLOURS) * len(MARKERS))]
    looks = {look_of(arm, "nested", arms) for arm in arms}
    assert len(looks) == len(arms) == 77
    first = [look_of(arm, "nested", arms) for arm in arms[:11]]
    assert len({look.marker for look in first}) == 11, "told apart in grey"


HOSTILE = [
    "$5 and $x$",
    "_hidden",
    "a\\frac{1}{2}",
    "100 % #1 {",
    "Ünïcödé λ",
    "two\nlines\tand\x00nul",
    "\ud800",
    "L" * 500,
]


@pytest.mark.filterwarnings("error")
def test_hostile_labels_are_shown_as_they_are(tmp_path: Path) -> None:
    sheet = evaluation_sheets(read(tmp_path, *(flat_results(label, {1: 0.5}) for label in HOSTILE)))[0]
    figure = draw(sheet, 3.5)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[:5] == HOSTILE[:5]
    assert labels[5] == "two lines and�nul"
    assert labels[6] == "�"
    assert labels[7].replace("\n", "") == "L" * 119 + "…"
    files, _ = render(sheet, 3.5)
    assert set(files) == {"accuracy.png", "accuracy.svg"}


def test_characters_that_no_font_has_are_noted_once(tmp_path: Path) -> None:
    sheet = evaluation_sheets(read(tmp_path, flat_results("\U00012000", {1: 0.5})))[0]
    _, notes = render(sheet, 3.5)
    assert len([note for note in notes if "the installed fonts lack some characters" in note]) == 1


@pytest.mark.parametrize("width", [2.0, 3.5, 7.0])
def test_nothing_covers_the_data_or_leaves_the_page(width: float, tmp_path: Path) -> None:
    documents = [
        make_results(f"arm {i} with quite a long name", seed=i, benchmarks=["aime24", "amc23"]) for i in range(3)
    ]
    reference = read_reference("paper=45.6,52.5")
    for sheet in evaluation_sheets(read(tmp_path, *documents), [reference]):
        figure = draw(sheet, width)
        figure.canvas.draw()
        page = figure.bbox
        legend = figure.legends[0].get_window_extent()
        title, caption = (text.get_window_extent() for text in figure.texts)
        for box in (title, legend, caption):
            assert box.x0 >= -0.5
            assert box.x1 <= page.x1 + 0.5
            assert box.y0 >= -0.5
        for ax in figure.axes:
            assert ax.get_tightbbox().y0 >= legend.y1 - 0.5
            assert ax.get_tightbbox().y1 <= title.y0 + 0.5
        assert legend.y0 >= caption.y1 - 0.5


def test_published_figures_are_grey_and_named_as_such(tmp_path: Path) -> None:
    reference = read_reference("a = b=45.6, 52.5,51.7")
    sheet = evaluation_sheets(read(tmp_path, flat_results("arm", {1: 0.5, 2: 0.6})), [reference])[0]
    figure = draw(sheet, 3.5)
    xs, ys = data_lines(figure)[-1]
    assert (xs, ys) == ([1, 2, 3], pytest.approx([45.6, 52.5, 51.7]))
    line = figure.axes[0].get_lines()[-1]
    red, green, blue, _ = matplotlib.colors.to_rgba(line.get_color())
    assert red == green == blue
    assert line.get_linestyle() != "-"
    assert figure.legends[0].get_texts()[-1].get_text() == "a = b (published)"
    assert "Grey: published figures, not measured here." in texts(figure)


@pytest.mark.parametrize("text", ["", "x", "=1", "x=", "x=1,,2", "x=101", "x=-1", "x=nan", "x=a"])
def test_malformed_reference_is_one_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="reference must be LABEL=P1,P2"):
        read_reference(text)


def test_the_same_figure_is_the_same_bytes_whatever_the_users_settings(tmp_path: Path) -> None:
    sheet = evaluation_sheets(read(tmp_path, flat_results("arm", {1: 0.4, 2: 0.5})))[0]
    first, _ = render(sheet, 3.5)
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "svg.hashsalt": "other", "text.usetex": True}):
        second, _ = render(sheet, 3.5)
    assert first == second
    assert b"<dc:date>" not in first["accuracy.svg"]


def test_y_axis_along_steps_is_not_stretched_by_the_interval_of_two_seeds() -> None:
    points = tuple(Point(x=x, value=0.5 + x / 10, low=-9.0, high=9.0) for x in range(3))

    def limits(num_seeds: int) -> tuple[float, float]:
        line = Line(arm="a", kind="", points=points, num_seeds=num_seeds)
        panel = Panel(title="", x_label="", y_label="", lines=(line,), percent=False, every_x=False)
        return draw(Sheet(name="t", title="t", caption="", panels=(panel,)), 3.5).axes[0].get_ylim()

    assert limits(2) == pytest.approx((0.49, 0.71))
    assert limits(3)[0] < -9
