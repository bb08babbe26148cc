"""The simulated accounts: their order, their names, growth and drawdown as charts."""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from vnfleet.reporting import charts
from vnfleet.reporting.charts import ChartPair, Series
from vnfleet.reporting.formats import number, percent
from vnfleet.reporting.inputs import ReportInputs

_LINE_POINTS = 260
_MAX_LINES = 6
_BENCHMARKS = ("equal weight", "vnindex")
_PEOPLE_NAMES = {
    "adapted": "Adapted models",
    "pooled": "Pooled model",
    "lightgbm": "LightGBM",
    "last_direction": "Last direction again",
    "reversal_1d": "1-session reversal",
    "reversal_5d": "5-session reversal",
    "momentum_120d": "120-session momentum",
    "champion": "Current release",
    "VNINDEX": "VNINDEX",
}


def people_name(name: str) -> str:
    """Return how people call a strategy, baseline or account; a name that is not known stays as it is."""
    return _PEOPLE_NAMES.get(name, name[:1].upper() + name[1:])


def account_order(inputs: ReportInputs) -> tuple[str, ...]:
    """Return the simulated series as they are coloured and compared: ours, equal weight, the index, then the rest."""
    names = inputs.equity.get_column("series").unique(maintain_order=True).to_list()
    benchmarks = [name for name in names[1:] if name.casefold() in _BENCHMARKS]
    rest = [name for name in names[1:] if name not in benchmarks]
    return (*names[:1], *sorted(benchmarks, key=lambda name: _BENCHMARKS.index(name.casefold())), *rest)


def equity_charts(inputs: ReportInputs) -> tuple[ChartPair, ChartPair]:
    """Return growth of 100 and drawdown of every simulated series, thinned to at most 260 points each."""
    growth, falls = [], []
    for name in account_order(inputs)[:_MAX_LINES]:
        known = inputs.equity.filter(pl.col("series") == name).drop_nulls().sort("session")
        if not known.height:
            continue
        value = pl.col("equity_vnd")
        curve = known.select(
            pl.col("session"),
            growth=100 * value / value.first(),
            fall=value / value.cum_max() - 1,
            bucket=pl.int_range(pl.len()) * _LINE_POINTS // pl.len()
            if known.height > _LINE_POINTS
            else pl.int_range(pl.len()),
        )
        thin = curve.group_by("bucket", maintain_order=True).agg(
            pl.col("session").last(), pl.col("growth").last(), pl.col("fall").min()
        )
        days = tuple(thin.get_column("session"))
        growth.append(Series(people_name(name), days, tuple(thin.get_column("growth"))))
        falls.append(Series(people_name(name), days, tuple(thin.get_column("fall"))))
    return (
        _time_pair(growth, "Growth of 100, costs and market rules included", lambda value: number(value, 0)),
        _time_pair(falls, "Drawdown from the highest value so far", lambda value: percent(value, 0), area=True),
    )


def _time_pair(series: list[Series], title: str, text: Callable[[float], str], *, area: bool = False) -> ChartPair:
    wide = charts.time_chart(series, title=title, text=text, frame=charts.WIDE, css_class="wide", area=area)
    narrow = charts.time_chart(series, title=title, text=text, frame=charts.NARROW, css_class="narrow", area=area)
    return ChartPair(wide, narrow)


def series_names(inputs: ReportInputs) -> tuple[str, ...]:
    """Return the drawn series by the names people know, in the order that colours them."""
    return tuple(people_name(name) for name in account_order(inputs)[:_MAX_LINES])


def sim_metrics(inputs: ReportInputs) -> pl.DataFrame:
    """Return the figures of the accounts in the order of the charts, by the names people know."""
    order = {name: place for place, name in enumerate(account_order(inputs))}
    rows = inputs.sim_metrics.with_columns(
        place=pl.col("series").replace_strict(order, default=len(order), return_dtype=pl.Int32)
    )
    shown = rows.sort("place", maintain_order=True).drop("place")
    return shown.with_columns(pl.col("series").map_elements(people_name, return_dtype=pl.String))
