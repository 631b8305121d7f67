"""Charts: axes span all values, and labels do not overlap."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.report.charts import nice_ticks, spread


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
