"""Universe and outcomes on panels small enough to do by hand."""

from datetime import date

import numpy as np
import polars as pl
import pytest

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.data.court.quality import QUALITY_ROW_SCHEMA, QUALITY_SYMBOL_SCHEMA, QualityReport
from vnfleet.data.outcomes import forward_returns, outcome_frame
from vnfleet.data.panel import PANEL_SCHEMA, Panel, assembled
from vnfleet.data.universe import most_traded

DAYS = tuple(date(2024, 6, day) for day in (3, 4, 5, 6, 7, 10))


def panel_of(
    closes: dict[str, list[float | None]], *, volume: int = 100, breaks: frozenset[tuple[str, int]] = frozenset()
) -> Panel:
    """A panel with open = close - 1, factor 2 throughout; None = the symbol did not trade."""
    rows = [
        (symbol, DAYS[at], close - 1, close, close - 1, close, volume, 2.0, close, (symbol, at) in breaks, "HOSE")
        for symbol in sorted(closes)
        for at, close in enumerate(closes[symbol])
        if close is not None
    ]
    return assembled(
        as_of=DAYS[-1],
        sessions=DAYS,
        symbols=tuple(sorted(closes)),
        bars=pl.DataFrame(rows, schema=PANEL_SCHEMA, orient="row"),
        index=pl.DataFrame(schema={"session": pl.Date, "close_points": pl.Float64}),
        listings=pl.DataFrame(schema={"symbol": pl.String, "exchange": pl.String, "sector": pl.String}),
        quality=QualityReport(pl.DataFrame(schema=QUALITY_ROW_SCHEMA), pl.DataFrame(schema=QUALITY_SYMBOL_SCHEMA)),
    )


def test_a_return_runs_from_the_next_open_to_the_close_h_sessions_later() -> None:
    panel = panel_of({"AAA": [10.0, 11.0, 12.0, 13.0, 14.0, 15.0]})
    returns_HST = forward_returns(panel, [1, 2])
    nan = np.nan
    # h=1: close(t+1) / open(t+1) - 1 = 11/10, 12/11, ...; h=2: close(t+2) / open(t+1) - 1 = 12/10, 13/11, ...
    expected = [[0.1, 1 / 11, 1 / 12, 1 / 13, 1 / 14, nan], [0.2, 2 / 11, 2 / 12, 2 / 13, nan, nan]]
    np.testing.assert_allclose(returns_HST[:, 0], expected)


def test_absent_entry_or_exit_makes_a_return_unknown_but_not_the_days_between() -> None:
    returns_T = forward_returns(panel_of({"AAA": [10.0, 11.0, None, 13.0, 14.0, 15.0]}), [2])[0, 0]
    # t=0 exits on the absent session, t=1 enters on it; t=2 enters at 13-1 and exits at 14
    np.testing.assert_allclose(returns_T, [np.nan, np.nan, 14 / 12 - 1, 15 / 13 - 1, np.nan, np.nan])
    assert forward_returns(panel_of({"AAA": [10.0, 11.0, None, 13.0, 14.0, 15.0]}), [3])[0, 0, 0] == pytest.approx(0.3)


def test_a_break_on_the_way_makes_a_return_unknown() -> None:
    closes: dict[str, list[float | None]] = {"AAA": [10.0, 11.0, 12.0, 13.0, 14.0, 15.0]}
    returns_T = forward_returns(panel_of(closes, breaks=frozenset({("AAA", 3)})), [2])[0, 0]
    assert np.isfinite(returns_T).tolist() == [True, False, False, True, False, False]


def test_horizons_beyond_the_panel_are_unknown_and_zero_is_refused() -> None:
    panel = panel_of({"AAA": [10.0, 11.0, 12.0, 13.0, 14.0, 15.0]})
    assert np.isnan(forward_returns(panel, [6, 50])).all()
    with pytest.raises(UsageError, match="horizons"):
        forward_returns(panel, [0])


def test_outcomes_carry_the_median_of_all_symbols_and_the_day_they_are_known() -> None:
    panel = panel_of(
        {
            "AAA": [10.0, 11.0, 12.0, 13.0, 14.0, 15.0],
            "BBB": [10.0, 11.0, 11.0, 11.0, 11.0, 11.0],
            "CCC": [10.0, 11.0, 9.0, None, 9.0, 9.0],
        }
    )
    frame = outcome_frame(panel, 2, ["AAA", "CCC"])
    first = frame.filter((pl.col("symbol") == "AAA") & (pl.col("session") == DAYS[0])).row(0, named=True)
    assert first["return_frac"] == pytest.approx(0.2)
    assert first["benchmark_return_frac"] == pytest.approx(0.1)  # median of 0.2, 0.1 and -0.1
    assert first["known_on"] == DAYS[2]
    assert frame.filter(pl.col("symbol") == "CCC").get_column("session").to_list() == [DAYS[0], DAYS[3]]
    assert frame.get_column("horizon_sessions").unique().to_list() == [2]
    assert "BBB" not in frame.get_column("symbol").to_list()


def test_the_most_traded_are_those_with_the_highest_median_value() -> None:
    panel = panel_of(
        {
            "AAA": [10.0, 10.0, 10.0, 10.0, 900.0, 900.0],
            "BBB": [20.0, 20.0, 20.0, 20.0, 20.0, 20.0],
            "CCC": [30.0, None, None, 30.0, 30.0, 30.0],  # median over four sessions with two zeros: 15
            "DDD": [None, None, None, None, 999.0, 999.0],
        }
    )
    assert most_traded(panel, 2, 4, DAYS[4]) == ("BBB", "CCC")
    assert most_traded(panel, 1, 4, DAYS[4]) == ("BBB",)
    assert most_traded(panel, 2, 4, DAYS[4], excluded=["BBB"]) == ("AAA", "CCC")
    assert most_traded(panel, 2, 4, DAYS[4], pinned=["DDD"]) == ("BBB", "DDD")


def test_only_eligible_symbols_are_chosen_even_among_pinned_ones() -> None:
    panel = panel_of({"AAA": [10.0] * 6, "BBB": [20.0] * 6, "CCC": [30.0] * 6, "DDD": [5.0] * 6})
    assert most_traded(panel, 2, 4, DAYS[4], eligible=None) == ("BBB", "CCC")
    assert most_traded(panel, 2, 4, DAYS[4], eligible=("AAA", "BBB", "DDD")) == ("AAA", "BBB")
    assert most_traded(panel, 2, 4, DAYS[4], pinned=["DDD"], eligible=("AAA", "BBB", "DDD")) == ("BBB", "DDD")
    assert most_traded(panel, 2, 4, DAYS[4], pinned=["CCC"], eligible=("AAA", "BBB", "DDD")) == ("AAA", "BBB")
    with pytest.raises(BadDataError, match="not enough traded symbols"):
        most_traded(panel, 2, 4, DAYS[4], eligible=("AAA",))


def test_the_session_itself_and_later_ones_do_not_count() -> None:
    panel = panel_of({"AAA": [10.0, 10.0, 10.0, 10.0, 999.0, 999.0], "BBB": [20.0] * 6})
    assert most_traded(panel, 1, 4, DAYS[4]) == ("BBB",)
    assert most_traded(panel, 1, 2, date(2024, 6, 11)) == ("AAA",)


def test_a_universe_that_cannot_be_chosen_is_refused() -> None:
    panel = panel_of({"AAA": [10.0] * 6, "BBB": [None, None, None, None, None, 20.0]})
    with pytest.raises(BadDataError, match="not enough sessions"):
        most_traded(panel, 1, 5, DAYS[4])
    with pytest.raises(BadDataError, match="not enough traded symbols"):
        most_traded(panel, 2, 4, DAYS[4])
    with pytest.raises(BadDataError, match="pinned"):
        most_traded(panel, 1, 4, DAYS[4], pinned=["XYZ"])
    with pytest.raises(UsageError, match="cannot be chosen"):
        most_traded(panel, 0, 4, DAYS[4])
