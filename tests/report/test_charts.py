"""Charts: axes span all values, and labels do not overlap."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.report.charts import Curve, Point, line_chart, nice_ticks, spread


@given(st.floats(0, 0.99), st.floats(0.001, 1e6))
def test_ticks_span_all_values(low, width):
    ticks = nice_ticks(low, low + width)
    assert ticks[0] <= low + 1e-6 * width
    assert ticks[-1] >= low + width - 1e-6 * width
    assert 2 <= len(ticks) <= 8


@given(st.lists(st.floats(0, 300), max_size=8).map(sorted))
def test_labels_do_not_overlap(places):
    moved = spread(places, 15)
    assert len(moved) == len(places)
    assert all(right - left >= 15 - 1e-6 for left, right in pairwise(moved))
    if places:
        assert sum(moved) / len(moved) == pytest.approx(sum(places) / len(places), abs=1e-6)


@pytest.mark.parametrize("rate", [0.0, 0.55, 1.0])
def test_a_chart_of_equal_rates_has_an_axis(rate):
    points = (Point(1, rate, rate, rate), Point(2, rate, rate, rate))
    chart = str(line_chart([Curve("eef", "b", points)], [], title="t", x_title="x", whole_x=True))
    assert f">{100 * rate:g}<" in chart
