"""The canvas and the axis that all charts share."""

import math
from xml.etree import ElementTree

import pytest

from tain.foundation.svg import Axis, Canvas, draw_axis

SVG = "{http://www.w3.org/2000/svg}"


def drawn(canvas: Canvas) -> ElementTree.Element:
    return ElementTree.fromstring(canvas.picture(height=100.0, description="a <chart>"))


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.0, 60.0], [0, 10, 20, 30, 40, 50, 60]),
        ([41.2, 77.9], [40, 50, 60, 70, 80]),
        ([-0.3, 1.0], [-0.5, 0, 0.5, 1]),
        ([5.0, math.nan, math.inf], [5, 5.0000002]),
        ([], [0, 20, 40, 60, 80, 100]),
    ],
)
def test_scales_have_round_ends_and_about_six_ticks(values, ticks):
    assert Axis.around(values, start=0.0, end=1.0).ticks() == pytest.approx(ticks)


def test_close_values_do_not_make_steps_below_the_least_range():
    assert Axis.around([50.0, 50.01], start=0.0, end=1.0, least_range=1.0).ticks() == pytest.approx([50.0, 50.2])


def test_ends_of_a_scale_lie_at_its_ends_in_the_picture():
    axis = Axis.around([0.0, 60.0], start=300.0, end=100.0)  # values grow upwards
    assert [axis.at(value) for value in (0.0, 30.0, 60.0)] == [300.0, 200.0, 100.0]


@pytest.mark.parametrize("upright", [True, False])
def test_an_axis_has_a_line_and_labels_at_each_tick(upright):
    canvas, axis = Canvas(200.0), Axis.around([-10.0, 50.0], start=10.0, end=190.0)
    draw_axis(canvas, axis, upright=upright, grid=(20.0, 80.0), labels=(15.0, 85.0))
    picture = drawn(canvas)
    along = "y1" if upright else "x1"
    assert [float(line.get(along, "")) for line in picture.iter(f"{SVG}line")] == pytest.approx(
        [axis.at(tick) for tick in axis.ticks()], abs=0.05
    )
    assert [text.text for text in picture.iter(f"{SVG}text")] == [f"{tick:g}" for tick in axis.ticks() for _ in range(2)]
    dark = [line for line in picture.iter(f"{SVG}line") if line.get("stroke") == "#666666"]
    assert [float(line.get(along, "")) for line in dark] == [axis.at(0.0)]  # the scale crosses zero there


def test_words_and_attributes_are_escaped():
    canvas = Canvas(100.0)
    canvas.text(1.0, 2.0, "a < b & 'c'", fill='"red"')
    (text,) = drawn(canvas).iter(f"{SVG}text")
    assert (text.text, text.get("fill")) == ("a < b & 'c'", '"red"')


def test_what_lies_behind_is_drawn_first():
    canvas = Canvas(100.0)
    canvas.add("circle", cx=1.0, cy=1.0, r=1.0)
    canvas.line(0.0, 0.0, 1.0, 1.0, behind=True)
    tags = [element.tag.removeprefix(SVG) for element in drawn(canvas)]
    assert tags == ["title", "rect", "line", "circle"]


def test_a_long_title_is_broken_to_fit_the_width():
    canvas = Canvas(300.0)
    below = canvas.title("a finding that is longer than one line of a narrow picture", x=10.0, y=20.0)
    lines = [text.text or "" for text in drawn(canvas).iter(f"{SVG}text")]
    assert len(lines) > 1 and below == 20.0 + 20.0 * len(lines)
    assert max(map(len, lines)) * 8.7 <= 280


def test_a_picture_inside_a_page_leaves_its_look_to_the_style_sheet():
    canvas = Canvas(100.0)
    canvas.text(1.0, 2.0, "name", css="name")
    inline = canvas.inline(height=50.0, description='bars "a"', css="chart")
    (text,) = ElementTree.fromstring(inline).iter("text")
    assert set(text.attrib) == {"class", "x", "y", "text-anchor"}
    assert "xmlns" not in inline and 'class="chart"' in inline
