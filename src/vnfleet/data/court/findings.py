"""Findings: what a check says about a row, a symbol or the market, with its severity, verdict and evidence."""

from __future__ import annotations

import polars as pl

FINDING_SCHEMA: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "session": pl.Date(),
    "check": pl.String(),
    "severity": pl.String(),
    "verdict": pl.String(),
    "evidence": pl.String(),
}
CHECKS: dict[str, str] = {
    "duplicate": "a row occurs twice, exactly",
    "conflict": "rows of one session disagree",
    "weekend": "a bar on a day on which the market never trades",
    "price": "no positive close",
    "volume": "no volume, or a negative one",
    "range": "prices of a bar too far apart for any band",
    "stale": "a bar repeated, volume and all",
    "open": "no open",
    "ohlc": "high and low do not enclose open and close",
    "price_unit": "prices in another unit than the symbol's others",
    "volume_unit": "a volume in another unit than the second vendor's",
    "volume_spike": "a volume beyond a hundred times the largest of late",
    "tick": "a close off the price grid",
    "lot": "a volume off the round lot",
    "not_raw": "closes off the grid so often that they are adjusted ones",
    "not_final": "a close that the next reference, or a second vendor, denies",
    "last_tick": "likewise, by 0.2 % at most",
    "missing_step": "a corporate action the vendor did not adjust for",
    "wrong_step": "a step of the vendor that is wrong, or of another session",
    "disputed_step": "a step, or the lack of one, that the vendor's own fields make doubtful",
    "unexplained": "a jump beyond any plausible band",
    "contradicted": "a step that the raw move contradicts",
    "wrong_way": "a step against time",
    "flip": "a step that was taken back at once",
    "adjusted_close": "no adjusted close",
    "opinion": "a second vendor disagrees and is not followed, or not yet",
    "opinion_unheard": "a second vendor whose returns are so often others that it is not heard",
    "missing_session": "sessions of the market without a row",
    "off_axis": "a bar on a day that was no session of the market",
    "stale_tail": "a history that ends without volume at one price",
    "index_missing": "a session without a bar of the index",
    "market_hole": "an expected session that nobody has",
    "unexpected_session": "a session on a day that the calendar has closed",
    "drift": "a column that used to be there and is gone",
    "in_session": "a newest session that was read before its close",
}
"""Every check by name, and what it finds."""


def said(template: str, *values: str | pl.Expr) -> pl.Expr:
    """Return `template` with each {} replaced by a column or expression, "-" where null.

    (`pl.format` of polars 2.1 panics on some columns with a validity mask.)
    """
    texts = template.split("{}")
    pieces: list[pl.Expr] = [pl.lit(texts[0])]
    for value, text in zip(values, texts[1:], strict=True):
        expression = pl.col(value) if isinstance(value, str) else value
        pieces += [expression.cast(pl.String).fill_null("-"), pl.lit(text)]
    return pl.concat_str(pieces)


def findings(rows: pl.DataFrame, check: str, severity: str, verdict: str, evidence: pl.Expr) -> pl.DataFrame:
    """Return `rows` (symbol, session, whatever `evidence` needs) as findings of one check."""
    if rows.is_empty():
        return pl.DataFrame(schema=FINDING_SCHEMA)
    return rows.select(
        "symbol",
        "session",
        pl.lit(check).alias("check"),
        pl.lit(severity).alias("severity"),
        pl.lit(verdict).alias("verdict"),
        evidence.cast(pl.String).alias("evidence"),
    )
