"""A panel as the tables of a package, and back: one table per symbol, and a few small ones for the whole market.

The table of a symbol has one row per session with a bar or a finding of the court:

| column | meaning |
|---|---|
| symbol, session | key |
| open_vnd .. close_vnd, volume_shares, factor, reference_vnd, break_before | the panel's bar: raw prices, repaired |
| adj_open_vnd .. adj_close_vnd | raw * factor, for readers without this code |
| is_bar | the session is part of the panel; False: masked, or nothing traded, and the columns above are null |
| verdict | what the court decided about the session ("mask", "repair", "accept+repair" ...), null: nothing found |
| findings | a list of the court's findings: check, severity, verdict, evidence; null: nothing found |

The others: `events` (corporate actions), `vnindex`, `sessions` (the market axis), `listings`, `verdicts` (one row per
symbol, quarantined ones too) and `findings` (about the whole market, whole symbols and symbols without a table).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import frame_sha256, short_id
from vnfleet.data.court.quality import QualityReport
from vnfleet.data.panel import PANEL_SCHEMA, Panel, assembled

SYMBOLS = "symbols/"
EVENTS, VNINDEX, SESSIONS, LISTINGS, VERDICTS, FINDINGS = (
    "events",
    "vnindex",
    "sessions",
    "listings",
    "verdicts",
    "findings",
)
MARKET_TABLES = (EVENTS, VNINDEX, SESSIONS, LISTINGS, VERDICTS, FINDINGS)
_KEY = ("symbol", "session")
_PRICES = ("open", "high", "low", "close")


def tables_of(panel: Panel, events: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return the tables of `panel` by name; those of symbols are named ``symbols/FPT``.

    events : symbol, session and any other plain columns, such as those of `EVENTS_SCHEMA`.
    """
    rows = panel.quality.rows
    detail = [name for name in rows.columns if name not in _KEY]
    of_bars = pl.col("symbol").is_in(panel.symbols) & pl.col("session").is_not_null()
    per_session = (
        rows.filter(of_bars)
        .group_by(_KEY, maintain_order=True)
        .agg(verdict=pl.col("verdict").unique().sort().str.join("+"), findings=pl.struct(detail))
    )
    joined = (
        panel.bars.with_columns(
            *((pl.col(f"{price}_vnd") * pl.col("factor")).alias(f"adj_{price}_vnd") for price in _PRICES), is_bar=True
        )
        .join(per_session, on=_KEY, how="full", coalesce=True)
        .with_columns(pl.col("is_bar").fill_null(value=False))
        .sort(_KEY)
    )
    parts = joined.partition_by("symbol", as_dict=True, maintain_order=True)
    empty = joined.clear()
    return {
        **{SYMBOLS + symbol: parts.get((symbol,), empty) for symbol in panel.symbols},
        EVENTS: events,
        VNINDEX: panel.index,
        SESSIONS: pl.DataFrame({"session": pl.Series(panel.sessions, dtype=pl.Date)}),
        LISTINGS: panel.listings,
        VERDICTS: panel.quality.symbols,
        FINDINGS: rows.filter(~of_bars),
    }


def panel_of(tables: Mapping[str, pl.DataFrame], as_of: date) -> Panel:
    """Return the panel that `tables` were made of; nothing is judged again.

    Raises `BadDataError` when a table is absent or lacks a column.
    """
    symbols = tuple(sorted(name.removeprefix(SYMBOLS) for name in tables if name.startswith(SYMBOLS)))
    absent = sorted(set(MARKET_TABLES) - set(tables))
    if absent or not symbols:
        raise BadDataError("a training package lacks tables", expected=MARKET_TABLES, found=sorted(tables)[:10])
    joined = pl.concat([tables[SYMBOLS + symbol] for symbol in symbols])
    lacking = sorted({*PANEL_SCHEMA, "is_bar", "findings"} - set(joined.columns))
    if lacking:
        raise BadDataError(
            "the prices of a training package lack columns",
            expected=lacking,
            found=joined.columns,
            fix="pack them again with this version of vnfleet",
        )
    others = tables[FINDINGS]
    of_bars = (
        joined.select(*_KEY, "findings")
        .drop_nulls("findings")
        .explode("findings")
        .unnest("findings")
        .select(others.columns)
    )
    return assembled(
        as_of=as_of,
        sessions=tuple(tables[SESSIONS].get_column("session").to_list()),
        symbols=symbols,
        bars=joined.filter("is_bar").select(list(PANEL_SCHEMA)),
        index=tables[VNINDEX],
        listings=tables[LISTINGS],
        quality=QualityReport(
            rows=pl.concat([others, of_bars]).sort("symbol", "session", "check", maintain_order=True),
            symbols=tables[VERDICTS],
        ),
    )


def table_sha256(table: pl.DataFrame) -> str:
    """Return the identity of a table's contents: columns, types, values and row order, whatever file holds them."""
    nested = [name for name, dtype in table.schema.items() if isinstance(dtype, pl.List)]
    parts = [frame_sha256(table.drop(nested))]
    for name in nested:
        entries = table.select(name).with_row_index("row").drop_nulls(name).explode(name)
        parts += [name, frame_sha256(entries.unnest(name))]
    return parts[0] if len(parts) == 1 else short_id(parts)


def write_table(path: Path, table: pl.DataFrame) -> None:
    """Write one Parquet file; for scratch folders, which are sealed as a whole."""
    buffer = io.BytesIO()
    table.write_parquet(buffer, compression="zstd", compression_level=9, statistics=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


def read_table(path: Path) -> pl.DataFrame:
    """Return one Parquet file; raises `BadDataError` when it is none."""
    try:
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadDataError("a table cannot be read", where=path, found=str(error).splitlines()[0][:200]) from error
