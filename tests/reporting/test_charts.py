"""Axes and marks, against hand-computed positions and rules that hold for any data."""

from __future__ import annotations

import itertools
import re
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfleet.reporting.charts import (
    NARROW,
    WIDE,
    IntervalPoint,
    Scale,
    Series,
    date_ticks,
    interval_chart,
    nice_ticks,
    strip,
    time_chart,
)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 10.0, (0.0, 2.0, 4.0, 6.0, 8.0, 10.0)),
        (-0.31, 0.0, (-0.4, -0.3, -0.2, -0.1, 0.0)),
        (93.0, 322.0, (50.0, 100.0, 150.0, 200.0, 250.0, 300.0, 350.0)),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: tuple[float, ...]) -> None:
    assert nice_ticks(low, high) == pytest.approx(expected)


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), count=st.integers(2, 10))
def test_ticks_cover_the_data_evenly(low: float, span: float, count: int) -> None:
    ticks = nice_ticks(low, low + span, count)
    step = ticks[1] - ticks[0]
    assert ticks[0] <= low + 1e-6 * step
    assert ticks[-1] >= low + span - 1e-6 * step
    assert len(ticks) <= count + 2
    assert all(b - a == pytest.approx(step, rel=1e-3) for a, b in itertools.pairwise(ticks))


def test_a_flat_line_still_has_an_axis() -> None:
    assert len(nice_ticks(5.0, 5.0)) >= 2
    assert len(nice_ticks(0.0, 0.0)) >= 2


def test_scale_maps_the_ends_onto_the_ends() -> None:
    scale = Scale(10.0, 20.0, 100.0, 0.0)
    assert (scale(10.0), scale(15.0), scale(20.0)) == (100.0, 50.0, 0.0)


def test_long_spans_are_labelled_by_year_short_ones_by_month() -> None:
    years = date_ticks(date(2020, 3, 2), date(2024, 11, 22))
    assert [label for _, label in years] == ["2021", "2022", "2023", "2024"]
    months = date_ticks(date(2024, 10, 15), date(2025, 2, 20))
    assert [label for _, label in months] == ["2024-11", "2024-12", "2025", "2025-02"]


def test_interval_points_sit_where_their_value_is() -> None:
    points = [IntervalPoint("2024-01", 0.0, -0.1, 0.1), IntervalPoint("2024-02", -0.2, None, None)]
    svg = interval_chart(points, title="t", text=str, frame=NARROW, css_class="narrow")
    # ticks -0.2 .. 0.1 over pixels 212 .. 14: one third of 198 is 66, so 0.0 lies at 80
    assert 'cy="80.0"' in svg
    assert 'cy="212.0"' in svg
    assert 'class="pt down"' in svg
    assert "<title>2024-01: 0.0 (-0.1 to 0.1)</title>" in svg
    assert "<title>2024-02: -0.2</title>" in svg


def test_no_points_no_chart() -> None:
    assert interval_chart([], title="t", text=str, frame=WIDE, css_class="wide") == ""
    assert time_chart([Series("a", (), ())], title="t", text=str, frame=WIDE, css_class="wide") == ""


@given(ends=st.lists(st.floats(90, 110), min_size=2, max_size=6))
def test_names_at_the_ends_of_lines_never_overlap(ends: list[float]) -> None:
    days = (date(2024, 1, 1), date(2024, 6, 1))
    series = [Series(f"n{index}", days, (100.0, end)) for index, end in enumerate(ends)]
    svg = time_chart(series, title="t", text=str, frame=WIDE, css_class="wide")
    places = sorted(float(y) for y in re.findall(r'class="end s\d" x="[\d.]+" y="([\d.]+)"', svg))
    assert len(places) == len(ends)
    assert all(b - a >= 14.8 for a, b in itertools.pairwise(places))
    assert places[0] >= WIDE.top
    assert places[-1] <= WIDE.y_end + 5


def test_hovering_a_month_tells_every_series() -> None:
    days = (date(2024, 1, 2), date(2024, 1, 31), date(2024, 2, 29))
    series = [Series("Fleet", days, (100.0, 104.0, 110.0)), Series("VNINDEX", days, (100.0, 99.0, 98.0))]
    svg = time_chart(series, title="t", text=lambda value: f"{value:.0f}", frame=WIDE, css_class="wide")
    assert "<title>2024-01\nFleet: 104\nVNINDEX: 99</title>" in svg
    assert svg.count('class="hit"') == 2


def test_a_strip_names_its_value_interval_and_marks() -> None:
    point = IntervalPoint("Rank IC", 0.1, 0.08, 0.12)
    svg = strip(point, (-0.05, 0.15), ((0.0, "no skill"),), str, width=216, labelled=True)
    assert 'aria-label="Rank IC: 0.1, 0.08 to 0.12"' in svg
    assert 'cx="158.0"' in svg  # (0.1 + 0.05) / 0.2 of 200 pixels, from 8
    assert "<title>no skill: 0.0</title>" in svg
    assert ">no skill</text>" in svg


def test_names_are_escaped() -> None:
    days = (date(2024, 1, 1), date(2024, 2, 1))
    svg = time_chart([Series("a<b>&", days, (1.0, 2.0))], title='"q"', text=str, frame=WIDE, css_class="wide")
    assert "a&lt;b&gt;&amp;" in svg
    assert "<b>" not in svg
    assert 'aria-label="&#34;q&#34;"' in svg
