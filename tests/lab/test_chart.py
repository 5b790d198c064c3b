"""Charts: every value stands where the axis says, gaps stay gaps, text is escaped."""

import math
import re
import xml.etree.ElementTree as ET

import pytest

from bptt.errors import ArgumentError
from bptt.report.chart import HEIGHT, WIDTH, Band, Chart, Line, Mark
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
