"""Charts: every value stands where the axis says, gaps stay gaps, text is escaped."""

import math
import re
import xml.etree.ElementTree as ET

import pytest

from bptt.errors import ArgumentError
from bptt.report.chart import HEIGHT, SHAPES, WIDTH, Band, Chart, Line, Mark, told_apart
from bptt.report.chart_svg import BOTTOM, LEFT, RIGHT, TOP, draw_svg


def paths(text):
    """The paths of the inner picture: those of the parts."""
    figure = ET.fromstring(text)
    return [node.attrib["d"] for node in figure.find("svg").find("svg").iter("path")]


def points(path):
    return [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) (-?[\d.]+)", path)]


def draw(*parts, **options):
    return draw_svg(Chart("t", parts, x="a", y="b", **options))


def test_values_stand_where_the_axis_says():
    (path,) = paths(draw(Line("l", [0, 1, 2], [0, 5, 10]), xlim=(0, 2), ylim=(0, 10)))
    middle = ((LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2)
    assert points(path) == [(LEFT, HEIGHT - BOTTOM), middle, (WIDTH - RIGHT, TOP)]


def test_a_log_axis_is_even_in_powers():
    (path,) = paths(draw(Line("l", [1, 2, 3], [1e-4, 1e-2, 1]), log=True, ylim=(1e-4, 1)))
    high, middle, low = (y for _, y in points(path))
    assert (high, low) == (HEIGHT - BOTTOM, TOP)
    assert middle == (high + low) / 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -1.0])
def test_what_cannot_be_drawn_leaves_a_gap(bad):
    (path,) = paths(draw(Line("l", [1, 2, 3, 4], [1, bad, 2, 3]), log=True))
    assert path.count("M") == 2
    assert len(points(path)) == 3


def test_a_band_goes_there_and_back():
    (path,) = paths(draw(Band("b", [1, 2], [1, 1], [3, 4])))
    assert path.endswith("Z")
    assert len(points(path)) == 4


def test_marks_and_text():
    text = draw(Line("x < y", [1, 2], [1, 2]), Mark("here & now", y=1.5), Mark("", x=1.2))
    assert "x &lt; y" in text
    assert "here &amp; now" in text
    assert len(paths(text)) == 3
    assert "off" not in draw(Line("l", [1, 2], [1, 2]), Mark("off", y=9), ylim=(0, 3))


def test_one_value_and_none():
    assert "nan" not in draw(Line("l", [3], [7.0], dots=True))
    with pytest.raises(ArgumentError, match="give xlim and ylim"):
        draw(Line("l", [1, 2], [math.nan, math.nan]))


@pytest.mark.parametrize("count", range(1, 6))
@pytest.mark.parametrize("dash", ["", "dashed", "dotted"])
def test_lines_of_one_dash_are_told_apart_by_shapes(count, dash):
    lines = [Line(f"l{n}", range(30), [n + 1.0] * 30, dash=dash) for n in range(count)]
    found = told_apart([Mark("m", y=1.0), *lines])
    looks = [found.get(n + 1) for n in range(count)]
    assert looks == [None, *SHAPES][:count]
    assert len(set(looks)) == count
    figure = ET.fromstring(draw(*lines))
    legend = ["".join(p.attrib["d"] for p in li.iter("path")) for li in figure.iter("li")]
    assert len(set(legend)) == count
    curves = figure.find("svg").find("svg").findall("path")
    assert len(curves) == 2 * count - 1


def test_lines_without_a_name_or_with_dashes_of_their_own_have_no_shapes():
    parts = [
        Line("", [1], [1]),
        Line("", [1], [2]),
        Line("a", [1], [3]),
        Line("b", [1], [3], dash="dotted"),
    ]
    assert told_apart(parts) == {}


@pytest.mark.parametrize("points", [1, 2, 5, 30, 400])
@pytest.mark.parametrize("shape", range(4))
def test_a_shape_stands_on_its_curve_however_short_it_is(points, shape):
    lines = [Line(f"l{n}", range(points), range(points)) for n in range(shape + 2)]
    curve = ET.fromstring(draw(*lines)).find("svg").find("svg").findall("path")[-1].attrib["d"]
    assert 1 <= curve.count("M") <= 2 * 6
    assert "nan" not in curve
