"""Rows of intervals and the reliability diagram, against hand-computed positions and rules that hold for any data."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from vnfleet.reporting.charts import IntervalPoint
from vnfleet.reporting.proof_charts import Bin, IntervalRow, Panel, interval_rows, reliability_chart, side_of

finite = st.floats(-1, 1)


def panel(title: str = "Rank IC", none: float = 0.0) -> Panel:
    return Panel(title=title, none=none, text=lambda value: f"{value:.2f}")


def drawn(rows: list[IntervalRow], panels: list[Panel], width: int = 400, label_width: int = 122) -> str:
    return interval_rows(rows, panels, title="t", width=width, label_width=label_width, css_class="wide")


def test_intervals_sit_where_their_values_are() -> None:
    rows = [IntervalRow("2024", (IntervalPoint("2024", 0.1, 0.0, 0.2),)), IntervalRow("2025", (None,))]
    svg = drawn(rows, [panel()])
    # 122 + 20 to 400 - 58 is 200 pixels for 0 to 0.2; the first row's middle lies half of 25 under 40
    assert '<path d="M142.0 52.5H342.0"/><circle cx="242.0" cy="52.5"' in svg
    assert "<title>2024: 0.10 (0.00 to 0.20)</title>" in svg
    assert re.search(r'class="value" x="396.0" y="81.5" text-anchor="end">–<', svg)


def test_every_panel_has_its_own_scale_and_line() -> None:
    row = IntervalRow("all", (IntervalPoint("all", 0.1, None, None), IntervalPoint("all", 0.6, None, None)))
    svg = drawn([row], [panel(), panel("Accuracy", 0.5)], width=678)
    assert [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', svg)] == [342.0, 620.0]  # both at the right end
    assert "<title>no skill: 0.00</title>" in svg
    assert "<title>no skill: 0.50</title>" in svg


def test_long_labels_are_cut_and_told_whole_on_demand() -> None:
    point = IntervalPoint("x", 0.1, None, None)
    svg = drawn([IntervalRow("Hàng tiêu dùng không thiết yếu", (point,), "7 symbols")], [panel()])
    assert "<title>Hàng tiêu dùng không thiết yếu, 7 symbols</title>Hàng tiêu dùng…</text>" in svg
    roomy = drawn([IntervalRow("Energy", (point,), "7 symbols")], [panel()], width=900, label_width=300)
    assert 'Energy<tspan class="aside" dx="6">7 symbols</tspan>' in roomy


def test_headings_alone_make_no_chart() -> None:
    assert drawn([IntervalRow("By year")], [panel()]) == ""
    assert reliability_chart([], title="t", text=str) == ""


@given(value=finite, one=finite, other=finite, none=finite)
def test_a_part_beyond_the_line_is_never_called_so_when_its_interval_holds_it(
    value: float, one: float, other: float, none: float
) -> None:
    low, high = sorted((one, other))
    side = side_of(IntervalPoint("x", value, low, high), none)
    assert (side == "unsure") == (low <= none <= high)
    assert side_of(IntervalPoint("x", value, None, None), none) == "unsure"


def test_honest_forecasts_lie_on_the_diagonal() -> None:
    bins = [Bin(0.4, 0.4, 0.35, 0.45, 100), Bin(0.5, 0.6, None, None, 1200)]
    svg = reliability_chart(bins, title="t", text=lambda value: f"{value:.0%}", base_rate=0.5)
    # 35 % to 60 % over pixels 52 to 386 across and 324 to 14 upwards
    assert '<path d="M118.8 324.0V200.0"/><circle cx="118.8" cy="262.0"' in svg
    assert 'cx="252.4" cy="14.0"' in svg
    assert "<title>said 50%, rose 60%, 1,200 forecasts</title>" in svg
    assert "of all forecasts 50% rose" in svg
    assert 'd="M52 138.0H386"' in svg  # 0.5 is three fifths of the way up


def test_a_base_rate_off_the_chart_is_not_drawn() -> None:
    svg = reliability_chart([Bin(0.4, 0.4, None, None, 9), Bin(0.5, 0.5, None, None, 9)], title="t", text=str,
                            base_rate=0.9)  # fmt: skip
    assert "of all forecasts" not in svg


def test_names_are_escaped() -> None:
    svg = drawn([IntervalRow("a<b>&", (IntervalPoint("a<b>&", 0.1, None, None),))], [panel("<i>")])
    assert "<b>" not in svg
    assert "<i>" not in svg
    assert "a&lt;b&gt;&amp;" in svg
