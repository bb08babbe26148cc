"""Measure the quality court on known faults of real prices and on planted faults; write a dated markdown table.

    python benchmarks/quality_court.py --data DIR [--out quality_court.md] [--per-kind 60]

DIR holds the CafeF history, the second vendor's and the two lists of known faults (no licence: not in the project).
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import time
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import polars as pl

from vnfleet.data.actions.steps import vendor_steps
from vnfleet.data.court.checks import check_bars
from vnfleet.data.court.drill import drill, with_references
from vnfleet.data.court.opinions import Opinion, opinion_of
from vnfleet.data.court.quality import Examination, examine
from vnfleet.data.sources.base import RawHistory, raw_history
from vnfleet.data.sources.files.source import FilesSource
from vnfleet.data.sources.simulated import SimulatedMarket, SimulatedSource
from vnfleet.market.calendar import trading_sessions

AS_OF = date(2024, 12, 31)
LISTED = (date(2015, 1, 1), date(2021, 12, 31))
HELD_OUT = (date(2022, 1, 1), date(2024, 12, 31))
STEP_CHECKS = ("missing_step", "wrong_step", "disputed_step", "unexplained", "contradicted", "wrong_way", "flip")
CLOSE_CHECKS = ("not_final",)
SAME_LOG = 0.0008
WIDER_LOG = 0.002
SAME_RETURN = 0.003


def wilson(found: int, of: int) -> str:
    """Return `found` of `of` in percent with its 95 % Wilson interval."""
    if of == 0:
        return "-"
    z, share = 1.959964, found / of
    centre = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of)) / (1 + z * z / of)
    return f"{found} of {of} = {share:.1%} [{max(0.0, centre - half):.0%}, {min(1.0, centre + half):.0%}]"


def load(data: Path) -> RawHistory:
    """Return CafeF's history with the references it states: close minus `ThayDoi`."""
    path = data / "cafef_price_history_2012_2024.parquet"
    history = FilesSource(path, data / "universe_289.csv").fetch(None, AS_OF)
    if history.bars["stated_reference_vnd"].is_not_null().any():
        return history
    change = pl.col("ThayDoi").str.extract(r"^([-+]?[0-9.,]+)").str.replace(",", ".").cast(pl.Float64, strict=False)
    told = (
        pl.read_parquet(path)
        .select(
            symbol="Symbol",
            session=pl.col("Ngay").str.to_date("%d/%m/%Y"),
            stated=((pl.col("GiaDongCua") - change) * 1000).round(2),
        )
        .filter(pl.col("stated") > 0)
        .unique(("symbol", "session"))
    )
    bars = history.bars.join(told, on=("symbol", "session"), how="left")
    bars = bars.with_columns(stated_reference_vnd="stated").drop("stated")
    return raw_history(bars, history.index, history.listings)


def second_vendor(data: Path) -> Opinion:
    """Return the second vendor's adjusted closes."""
    frame = pl.read_parquet(data / "second_vendor_adjusted_2015_2024.parquet").select(
        "symbol",
        session="date",
        adjusted_close_vnd=pl.col("close").cast(pl.Float64),
        close_vnd=None,
        open_vnd=None,
        high_vnd=None,
        low_vnd=None,
        volume_shares="volume",
    )
    return opinion_of("second", raw_history(frame, None, None))


@dataclass(frozen=True, slots=True)
class Truth:
    """Rows both vendors cover, with whether the primary's return agrees with the second's on it and on the next."""

    rows: pl.DataFrame

    @classmethod
    def of(cls, history: RawHistory, opinion: Opinion, same_log: float = SAME_LOG) -> Truth:
        """Compare adjusted returns of the vendor as told: raw closes and its own steps, before the court."""
        bars, _ = check_bars(history.bars)
        bars = bars.with_columns(step=pl.Series(vendor_steps(bars).step))
        both = (
            bars.with_columns(level=pl.col("step").log().cum_sum().over("symbol"))
            .join(opinion.bars.select("symbol", "session", other="adjusted_close_vnd"), on=("symbol", "session"))
            .sort("symbol", "session")
        )
        apart = (pl.col("other") / pl.col("close_vnd")).log() - pl.col("level")
        rounding = pl.when(pl.col("step") != 1.0).then(11.0 / pl.col("adjusted_close_vnd")).otherwise(0.0)
        both = both.with_columns(same=(apart - apart.shift(1)).abs().over("symbol") <= same_log + rounding)
        same = pl.col("same") & pl.col("same").shift(-1).over("symbol").fill_null(value=True)
        return cls(both.select("symbol", "session", agrees=same).drop_nulls())

    def false_alarms(self, examined: Examination, years: tuple[date, date]) -> tuple[int, int]:
        """Return alarms about steps and closes where the vendors agree, and the rows judged."""
        rows = self.rows.filter(pl.col("session").is_between(*years))
        alarms = (
            examined.report.rows.filter(pl.col("check").is_in([*STEP_CHECKS, *CLOSE_CHECKS]))
            .unique(("symbol", "session"))
            .join(rows, on=("symbol", "session"))
        )
        return alarms.filter("agrees").height, rows.height


def recall(examined: Examination, cases: pl.DataFrame, checks: tuple[str, ...]) -> tuple[int, int, int]:
    """Return cases found, cases whose adjusted return is right afterwards, cases whose row is not used (any more)."""
    said = examined.report.rows.filter(pl.col("check").is_in(checks)).select("symbol", "session").unique()
    found = cases.join(said, on=("symbol", "session"), how="semi").height
    adjusted = pl.col("close_vnd") * pl.col("factor")
    after = examined.bars.filter(pl.col("volume_shares") > 0).select(
        "symbol", "session", gross=(adjusted / adjusted.shift(1)).over("symbol")
    )
    truth = pl.coalesce("g_fireant", "g_vnstock", "g_haivy")
    judged = cases.with_columns(truth=truth).join(after, on=("symbol", "session"), how="left")
    right = judged.filter((pl.col("gross") / pl.col("truth") - 1).abs() <= SAME_RETURN).height
    return found, right, judged["gross"].null_count()


def known_faults(data: Path, history: RawHistory, opinion: Opinion) -> list[str]:
    """Return the lines on the known faults and the false alarms."""
    read = {name: pl.read_csv(data / f"cafef_{name}_2015_2021.csv", try_parse_dates=True) for name in _LISTS}
    cases = {name: frame.rename({"date": "session"}) for name, frame in read.items()}
    covered = opinion.bars.select("symbol", "session")
    truth, wider = Truth.of(history, opinion), Truth.of(history, opinion, WIDER_LOG)
    loosely = []
    lines = [
        (
            "| | wrong adjustments found | repaired right | closes that are not final, found | repaired right "
            "| masked or unused | false alarms per 10,000 rows 2015-21 | 2022-24 | seconds |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for label, opinions in (("CafeF alone", ()), ("CafeF and the second vendor", (opinion,))):
        examine(history, AS_OF, None, opinions)  # compiles
        began = time.perf_counter()
        examined = examine(history, AS_OF, None, opinions)
        seconds = time.perf_counter() - began
        steps = recall(examined, cases["adj_errors"], STEP_CHECKS)
        closes = recall(examined, cases["suspect_closes"], CLOSE_CHECKS)
        alarms = [truth.false_alarms(examined, years) for years in (LISTED, HELD_OUT)]
        loose = [wider.false_alarms(examined, years) for years in (LISTED, HELD_OUT)]
        loosely.append(f"{label} " + " and ".join(f"{count / rows * 1e4:.2f}" for count, rows in loose))
        lines.append(
            f"| {label} | {wilson(steps[0], cases['adj_errors'].height)} | {steps[1]} "
            f"| {wilson(closes[0], cases['suspect_closes'].height)} | {closes[1]} | {closes[2]} | "
            + " | ".join(f"{count / rows * 1e4:.2f} ({count} of {rows:,})" for count, rows in alarms)
            + f" | {seconds:.1f} |"
        )
    lines.append(
        f"\nWere differences of returns up to {WIDER_LOG:.1%} called agreement, the false alarms would be: "
        f"{', '.join(loosely)} per 10,000 rows in 2015-21 and 2022-24."
    )
    for name, frame in cases.items():
        inside = frame.join(covered, on=("symbol", "session"), how="semi").height
        lines.append(f"\nOf the {frame.height} cases in `cafef_{name}`, the second vendor covers {inside}.")
    return lines


_LISTS = ("adj_errors", "suspect_closes")


def drilled(history: RawHistory, as_of: date, calendar: list[date] | None, per_kind: int, seed: int) -> list[str]:
    """Return the table of planted faults, with and without a second vendor (the history itself, as it was)."""
    other = opinion_of("second", history)
    alone = drill(history, as_of, calendar, per_kind=per_kind, seed=seed)
    two = drill(history, as_of, calendar, (other,), per_kind=per_kind, seed=seed)
    lines = ["| planted fault | alone | with a second vendor | said, with a second vendor |", "|---|---|---|---|"]
    for one, both in zip(alone.iter_rows(named=True), two.iter_rows(named=True), strict=True):
        lines.append(
            f"| {one['kind']} | {wilson(one['found'], one['planted'])} "
            f"| {wilson(both['found'], both['planted'])} | {both['said']} |"
        )
    return lines


def simulated(num_symbols: int) -> tuple[RawHistory, date, list[date]]:
    """Return a simulated market with stated references, its last day and its calendar."""
    market = SimulatedMarket(seed=5, num_symbols=num_symbols, start=date(2017, 1, 3))
    as_of = date(2023, 12, 29)
    return with_references(SimulatedSource(market).fetch(None, as_of)), as_of, trading_sessions(market.start, as_of)


def clean_alarms(history: RawHistory, as_of: date, calendar: list[date]) -> str:
    """Return a sentence on what the court says about a market without faults."""
    said = {}
    for label, opinions in (("alone", ()), ("with a second vendor", (opinion_of("second", history),))):
        rows = examine(history, as_of, calendar, opinions).report.rows
        said[label] = rows.filter(pl.col("check") != "missing_session").height
    return (
        f"The clean simulated market ({history.bars.height:,} rows): "
        + ", ".join(f"{count} findings {label}" for label, count in said.items())
        + " (sessions without a trade apart)."
    )


def report(data: Path | None, per_kind: int, num_symbols: int) -> str:
    """Return the whole document."""
    machine = (
        f"Machine: {os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"polars {pl.__version__}. Command: `python benchmarks/quality_court.py --data DIR --per-kind {per_kind}`."
    )
    lines = [
        f"# The quality court, {datetime.now().astimezone():%Y-%m-%d}",
        "",
        machine,
        "",
    ]
    if data is not None:
        history, opinion = load(data), second_vendor(data)
        lines += ["## Known faults of CafeF, 289 symbols, 2012-2024", "", *known_faults(data, history, opinion), ""]
        lines += [*_NOTES, ""]
    market, as_of, calendar = simulated(num_symbols)
    lines += [
        f"## Planted faults, simulated market of {num_symbols} symbols, 2017-2023",
        "",
        clean_alarms(market, as_of, calendar),
        "",
        *drilled(market, as_of, calendar, min(per_kind, num_symbols), seed=1),
        "",
    ]
    if data is not None:
        liquid = history.bars.group_by("symbol").len().sort("len", "symbol", descending=True).head(60)["symbol"]
        few = RawHistory(history.bars.filter(pl.col("symbol").is_in(liquid.implode())), history.index, history.listings)
        lines += [
            "## Planted faults, CafeF's 60 longest histories (taken as right before planting)",
            "",
            *drilled(few, AS_OF, trading_sessions(date(2012, 1, 3), AS_OF), min(per_kind, 60), seed=2),
            "",
        ]
    return "\n".join(lines)


_DEFINITIONS = (
    "**Definitions.** A case is *found* when the court names that symbol and session with one of its checks on steps "
    f"({', '.join(STEP_CHECKS)}) or on closes ({', '.join(CLOSE_CHECKS)}), whatever the verdict. *Repaired right*: the "
    "adjusted return after the court is within 0.3 % of the other vendors' (`g_fireant`, else `g_vnstock`, else "
    "`g_haivy`). A *false alarm* is a symbol and session with such a finding where CafeF's adjusted return as told "
    "(raw closes and its own steps) equals the second vendor's within 0.08 % (rounding of the adjusted close to 10 VND "
    "on top where there is a step), on that session and on the next; only sessions both vendors have are counted. "
    "Closes at most 0.2 % off are repaired as well, under the name `last_tick`: neither found nor alarms here."
)
_CIRCULAR = (
    "**What two vendors cannot show.** The lists were made by comparing vendors, this second one among them: with it "
    "as a witness a high recall is what to expect. Most alarms are then disagreements by construction, so the false "
    "alarms say little about the second vendor's own errors. Where the reference or the band sides with CafeF the "
    "court says `opinion` and changes nothing: so with the corporate actions of CSV, none of which the second "
    "vendor has. Of the cases missed, most are ones on which both vendors tell the same."
)
_TRACELESS = (
    "**What CafeF alone cannot show.** 15 of the 39 wrong adjustments leave no trace in CafeF's own fields: no step, "
    "the raw move inside the band, the stated reference equal to the previous close. Another 4 leave little: three "
    "steps of a plausible but wrong size with a silent reference, and one fall a tick beyond a limit. The aim of 70 % "
    "with one vendor is missed, and out of reach on this list. *Found* alone is mostly a doubt: only those in the next "
    "column are repaired, and 5 more jumps are absorbed into the factor (return 0, marked as a break)."
)
_HOLD_OUT = (
    "**Hold-out.** Rules were settled on 2015-2021. The first look at 2022-2024 gave 7.42 false alarms per 10,000 rows "
    "alone (0.30 with the second vendor): 68 of 75 were references rounded to 100 VND on single names, a fault already "
    "seen, and excused, on whole days of December 2021; the rest were mainly lone references that neither the open nor "
    "the next step confirmed. Two rules were widened for that (a whole hundred within 50 VND counts only among "
    "many; a lone reference repairs a step only if the open agrees), so 2022-2024 is no longer unseen."
)
_NOTES = (_DEFINITIONS, "", _CIRCULAR, "", _TRACELESS, "", _HOLD_OUT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--per-kind", type=int, default=60)
    parser.add_argument("--symbols", type=int, default=80)
    arguments = parser.parse_args()
    text = report(arguments.data, arguments.per_kind, arguments.symbols)
    if arguments.out is None:
        print(text)
    else:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
