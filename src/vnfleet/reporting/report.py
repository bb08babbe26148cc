"""The weekly report: one self-contained HTML file that a person enjoys reading.

No script or style is loaded from anywhere: the page works offline, prints, and reads without JavaScript (which only
sorts, filters and folds). Everything that came from data passes through jinja2's autoescape.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl
from jinja2 import Environment, PackageLoader, StrictUndefined

from vnfleet import __version__
from vnfleet.core.atomic import write_text
from vnfleet.reporting import accounts, formats, proof_tables, proof_views, tables, views
from vnfleet.reporting.inputs import ReportInputs

__all__ = ["ReportInputs", "render_report", "write_report"]


def write_report(path: Path, inputs: ReportInputs) -> Path:
    """Write the report of one cycle to `path` (one HTML file, atomically) and return `path`.

    Raises `ResourceError` when the disk is full; the previous file then stays as it was.
    """
    write_text(path, render_report(inputs))
    return path


def render_report(inputs: ReportInputs) -> str:
    """Return the report of one cycle as HTML; equal inputs give equal text."""
    strongest, weakest, num_forecasts = tables.strongest_and_weakest(inputs)
    growth, falls = accounts.equity_charts(inputs)
    figures = accounts.sim_metrics(inputs)
    refused = inputs.refused_orders.filter(pl.col("count") > 0).sort("count", descending=True)
    quarantined = inputs.quality_symbols.filter(pl.col("verdict") != "accept")
    symbols, alone = proof_views.symbol_table(inputs)
    page = _environment().get_template("report.html.j2")
    return page.render(
        inputs=inputs,
        version=__version__,
        state=views.state_of(inputs),
        serving_name=views.model_name(inputs, inputs.serving_model_id),
        num_sessions=views.serving_numbers(inputs).get("num_sessions"),
        tiles=views.tiles(inputs),
        facts=tables.facts(inputs, figures),
        figures=figures,
        monthly=views.monthly_chart(inputs),
        models=views.leaderboard(inputs),
        growth=growth,
        falls=falls,
        series_names=accounts.series_names(inputs),
        skill=proof_views.skill(inputs),
        where=proof_views.where(inputs),
        sureness=proof_views.sureness(inputs),
        leaks=proof_tables.leaks(inputs),
        costs=proof_tables.costs(inputs),
        plan_rows=tables.plan_rows(inputs),
        plan_sentence=tables.plan_sentence(inputs),
        strongest=strongest,
        weakest=weakest,
        num_forecasts=num_forecasts,
        serving_kinds=tuple(inputs.per_symbol.get_column("serving").drop_nulls().unique().sort()),
        refused=refused,
        quarantined=quarantined,
        quality_sentence=tables.quality_sentence(inputs),
        steps=tables.step_rows(inputs),
        time_sentence=tables.time_sentence(inputs),
        symbols=symbols,
        alone=alone,
        symbol_columns=tables.present(tables.SYMBOL_COLUMNS, symbols),
        forecast_columns=tables.present(tables.FORECAST_COLUMNS, strongest),
        sim_columns=tables.present(tables.SIM_COLUMNS, inputs.sim_metrics),
        refused_columns=tables.REFUSED_COLUMNS,
        quality_columns=tables.QUALITY_COLUMNS,
        quarantine_columns=tables.QUARANTINE_COLUMNS,
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("vnfleet.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=formats.number,
        percent=formats.percent,
        duration=formats.duration,
        memory=formats.memory,
        day=formats.day,
        moment=formats.moment,
    )
    environment.globals.update(number_range=formats.number_range, percent_range=formats.percent_range)
    return environment
