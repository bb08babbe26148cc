"""The page of a check as a reader and a browser meet it: whole, self-contained, safe, true to court and prices."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnfleet.data.actions.adjustment import EVENTS_SCHEMA, chain_factors
from vnfleet.data.court.checks import check_bars
from vnfleet.data.court.quality import QUALITY_ROW_SCHEMA, QUALITY_SYMBOL_SCHEMA, QualityReport
from vnfleet.data.panel import build_panel
from vnfleet.data.sources.base import RAW_SCHEMA
from vnfleet.data.sources.simulated import Fault, FaultKind, SimulatedMarket, SimulatedSource
from vnfleet.reporting.check_browser import script_json
from vnfleet.reporting.check_charts import Curve, EvidencePicture, MonthBar, evidence_chart, month_charts
from vnfleet.reporting.check_evidence import evidence_of, pick
from vnfleet.reporting.check_inputs import CheckInputs, FitRule, inputs_of_panel, nothing_used
from vnfleet.reporting.check_page import (
    CHECK_TABLE_COLUMNS,
    check_document,
    check_table,
    render_check_page,
    write_check_page,
)
from vnfleet.reporting.check_verdict import changes_since, fitness, verdict_sentence
from vnfleet.reporting.check_words import check_words

AS_OF = date(2026, 11, 20)
KNOWN_AT = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)
MARKET = SimulatedMarket(num_symbols=12, start=date(2023, 1, 3), illiquid_frac=0.0, late_listing_frac=0.0)
HOSTILE = "<script>alert('x')</script>&\"</script>"
VOID = {"meta", "link", "br", "img", "input", "hr"}
DATA = Path(__file__).parents[2].parent / "shared" / "data"


@dataclass(frozen=True)
class NewBase:
    symbol: str
    factor: float
    overlap_sessions: int
    ex_dates: tuple[date, ...]


class Outline(HTMLParser):
    """Checks that tags close in order; collects ids, links, the visible text and that of every article."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.data: list[str] = []
        self.articles: dict[str, list[str]] = {}
        self.article = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
                if tag == "article":
                    self.article = value or ""
            if name in {"href", "src"}:
                self.links.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "article":
            self.article = ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.data.append(data)
        elif self.open and self.open[-1] not in {"style", "title"}:
            self.words.append(data)
            if self.article:
                self.articles.setdefault(self.article, []).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def article_of(self, *words: str) -> str:
        texts = [" ".join(" ".join(parts).split()) for parts in self.articles.values()]
        found = [text for text in texts if all(word in text for word in words)]
        assert found, (words, texts)
        return found[0]


def read(page: str) -> Outline:
    outline = Outline()
    outline.feed(page)
    outline.close()
    assert outline.open == []
    return outline


def traded(place: int, day: date) -> Fault:
    """Return a wrong adjusted close on the first session from `day` on that the symbol trades."""
    bars = SimulatedSource(MARKET).fetch([MARKET.symbols[place]], AS_OF).bars
    session = bars.filter((pl.col("session") >= day) & (pl.col("volume_shares") > 0)).row(0, named=True)["session"]
    return Fault(kind=FaultKind.WRONG_ADJUSTED, symbol=MARKET.symbols[place], session=session)


@pytest.fixture(scope="module")
def faults() -> dict[FaultKind, Fault]:
    kinds = (
        FaultKind.ZERO_CLOSE,
        FaultKind.OHLC_BREAK,
        FaultKind.MISSING_SESSION,
        FaultKind.DUPLICATED_ROW,
        FaultKind.UNADJUSTED_SPLIT,
        FaultKind.WRONG_ADJUSTED,
    )
    return {kind: replace(traded(place, date(2026, 3 + place, 10)), kind=kind) for place, kind in enumerate(kinds)}


@pytest.fixture(scope="module")
def inputs(faults: dict[FaultKind, Fault]) -> CheckInputs:
    history = SimulatedSource(replace(MARKET, faults=tuple(faults.values()))).fetch(None, AS_OF)
    panel = build_panel(history, AS_OF)
    events = chain_factors(check_bars(history.bars)[0])[1]
    made = inputs_of_panel(panel, raw=history.bars, events=events, source_names=("simulated",), known_at=KNOWN_AT)
    return replace(made, market_is_simulated=True)


def finding(
    symbol: str, day: date | None, check: str = "price", severity: str = "error", verdict: str = "mask", text: str = "x"
) -> tuple[str, date | None, str, str, str, str]:
    return (symbol, day, check, severity, verdict, text)


def report_of(
    rows: list[tuple[str, date | None, str, str, str, str]], verdicts: dict[str, str], last: date = AS_OF
) -> QualityReport:
    symbols = [
        (name, verdict, "" if verdict == "accept" else "why", 900, None, last) for name, verdict in verdicts.items()
    ]
    return QualityReport(
        rows=pl.DataFrame(rows, schema=QUALITY_ROW_SCHEMA, orient="row").sort("symbol", "session", "check"),
        symbols=pl.DataFrame(symbols, schema=QUALITY_SYMBOL_SCHEMA, orient="row").sort("symbol"),
    )


def hand_made(report: QualityReport, num_rows: int = 0) -> CheckInputs:
    """Return inputs with `num_rows` raw rows of one symbol and nothing else."""
    days = [date(2020, 1, 1) + timedelta(days=place) for place in range(num_rows)]
    raw = pl.DataFrame(
        {"symbol": ["AAA"] * num_rows, "session": days}, schema={"symbol": pl.String, "session": pl.Date}
    )
    return CheckInputs(
        report=report,
        used=nothing_used(),
        raw=raw.with_columns(pl.lit(None, dtype).alias(name) for name, dtype in list(RAW_SCHEMA.items())[2:]),
        events=pl.DataFrame(schema=EVENTS_SCHEMA),
        source_names=("files",),
        as_of=AS_OF,
        known_at=KNOWN_AT,
    )


def percent_text(frac: float) -> str:
    return f"{100 * frac:+.1f}".replace("-", "−") + "\N{NARROW NO-BREAK SPACE}%"


def test_one_file_that_loads_nothing_and_closes_its_tags(inputs: CheckInputs, tmp_path: Path) -> None:
    path = write_check_page(tmp_path / "reports" / "check.html", inputs)
    page = path.read_text(encoding="utf-8")
    outline = read(page)
    assert not re.search(r"https?://|@import|url\(|<link|<img|\bsrc=|\bfetch\(|innerHTML", page)
    assert all(link.startswith("#") for link in outline.links)
    assert {link[1:] for link in outline.links} <= set(outline.ids)
    assert len(outline.ids) == len(set(outline.ids))
    assert [item.name for item in path.parent.iterdir()] == ["check.html"]
    assert "Simulated market." in outline.text


def test_equal_inputs_give_equal_text(inputs: CheckInputs) -> None:
    assert render_check_page(inputs) == render_check_page(inputs)


def test_every_check_the_court_reports_has_plain_words(inputs: CheckInputs) -> None:
    checks = inputs.report.rows.get_column("check").unique().to_list()
    assert {check for check in checks if not check_words(check).meaning} == set()


def test_a_check_without_words_keeps_its_name() -> None:
    assert check_words("volume_unit_change").title == "Volume unit change"


def test_a_masked_close_of_zero_stands_next_to_what_is_used_instead(
    inputs: CheckInputs, faults: dict[FaultKind, Fault]
) -> None:
    fault = faults[FaultKind.ZERO_CLOSE]
    row = inputs.raw.filter((pl.col("symbol") == fault.symbol) & (pl.col("session") == fault.session)).row(
        0, named=True
    )
    card = read(render_check_page(inputs)).article_of(fault.symbol, str(fault.session), "masked")
    stored = " ".join(f"{row[name]:,.0f}" for name in ("open_vnd", "high_vnd", "low_vnd", "close_vnd", "volume_shares"))
    assert f"stored {stored} row not used – – – – –" in card
    assert f" {row['high_vnd']:,.0f} {row['low_vnd']:,.0f} 0 " in card


def test_a_repaired_high_stands_next_to_the_stored_one(inputs: CheckInputs, faults: dict[FaultKind, Fault]) -> None:
    fault = faults[FaultKind.OHLC_BREAK]
    row = inputs.raw.filter((pl.col("symbol") == fault.symbol) & (pl.col("session") == fault.session)).row(
        0, named=True
    )
    prices = [row[name] for name in ("open_vnd", "high_vnd", "low_vnd", "close_vnd")]
    card = read(render_check_page(inputs)).article_of(fault.symbol, str(fault.session), "repaired")
    assert row["high_vnd"] < row["low_vnd"]
    assert "stored " + " ".join(f"{price:,.0f}" for price in prices) in card
    assert f"used {prices[0]:,.0f} {max(prices):,.0f} {min(prices):,.0f} {prices[3]:,.0f}" in card


def test_rows_that_disagree_are_all_shown(inputs: CheckInputs, faults: dict[FaultKind, Fault]) -> None:
    fault = faults[FaultKind.DUPLICATED_ROW]
    card = read(render_check_page(inputs)).article_of(fault.symbol, str(fault.session), "disagree")
    rows = inputs.raw.filter((pl.col("symbol") == fault.symbol) & (pl.col("session") == fault.session))
    volumes = [f"{volume:,}" for volume in rows.get_column("volume_shares")]
    assert len(set(volumes)) == 2
    assert all(f"{rows.item(0, 'close_vnd'):,.0f} {volume}" in card for volume in volumes)


def test_the_moves_of_every_vendor_stand_side_by_side(inputs: CheckInputs, faults: dict[FaultKind, Fault]) -> None:
    fault = faults[FaultKind.WRONG_ADJUSTED]
    raw = inputs.raw.filter(pl.col("symbol") == fault.symbol).sort("session")
    place = raw.get_column("session").to_list().index(fault.session)
    close, vendor = raw.get_column("close_vnd").to_list(), raw.get_column("adjusted_close_vnd").to_list()
    other = raw.select("symbol", "session", adjusted_close_vnd=pl.col("adjusted_close_vnd") * 3)
    judged = report_of([finding(fault.symbol, fault.session, "wrong_step")], {fault.symbol: "accept"})
    (shown,) = evidence_of(replace(inputs, report=judged, opinions=other))
    moves = {move.css_class: move.text for move in shown.moves}
    assert moves["raw"] == percent_text(close[place] / close[place - 1] - 1)
    assert moves["vendor"] == moves["second"] == percent_text(vendor[place] / vendor[place - 1] - 1)
    assert vendor[place] / vendor[place - 1] == pytest.approx(1.05 * close[place] / close[place - 1], rel=2e-3)


def test_lines_of_any_base_meet_before_the_doubtful_session(
    inputs: CheckInputs, faults: dict[FaultKind, Fault]
) -> None:
    fault = faults[FaultKind.WRONG_ADJUSTED]
    other = inputs.raw.select("symbol", "session", adjusted_close_vnd=pl.col("adjusted_close_vnd") * 1000)
    judged = report_of([finding(fault.symbol, fault.session)], {fault.symbol: "accept"})
    (shown,) = evidence_of(replace(inputs, report=judged, opinions=other))
    hover = [title for title in re.findall(r"<title>([^<]*)</title>", shown.picture) if "Raw close" in title]
    before, now = (
        [int(told.replace(",", "")) for told in re.findall(r" ([\d,]+)$", title, re.MULTILINE)]
        for title in hover[14:16]
    )
    assert str(fault.session) in hover[15]
    assert len(before) == len(now) == 4  # used, second vendor, vendor, raw
    assert max(before) / min(before) < 1.003  # all on the raw close, up to the vendor's rounding
    assert now[1] / now[3] == pytest.approx(1.05, abs=0.003)  # the fault shows in the vendors' lines alone
    assert now[0] == pytest.approx(now[3], rel=1e-3)


def test_without_used_rows_the_stored_ones_are_still_drawn(inputs: CheckInputs, faults: dict[FaultKind, Fault]) -> None:
    fault = faults[FaultKind.ZERO_CLOSE]
    page = render_check_page(replace(inputs, used=nothing_used()))
    card = read(page).article_of(fault.symbol, str(fault.session), "masked")
    assert "not used" in card
    assert "Used here" not in card


def test_the_gravest_findings_are_drawn_first_and_one_of_each_check_before_a_second_of_any() -> None:
    days = [date(2024, 1, 1) + timedelta(days=40 * place) for place in range(20)]
    rows = [finding("AAA", day, "ohlc", "warn", "repair") for day in days]
    rows += [finding("BBB", day, "price") for day in days[:3]]
    rows += [finding("CCC", days[0], "flip", "warn", "quarantine"), finding("DDD", days[0], "range")]
    rows += [finding("*", days[0], "market_hole"), finding("EEE", None, "adjusted_close", "warn", "accept")]
    rows += [finding("FFF", days[0], "missing_session", "warn", "accept")]
    chosen = pick(report_of(rows, {}).rows, 6)
    assert chosen.get_column("check").to_list() == ["price", "price", "range", "ohlc", "ohlc", "flip"]
    assert chosen.filter(pl.col("check") == "ohlc").get_column("session").to_list() == [days[19], days[18]]


def test_a_run_of_days_is_drawn_once_while_other_findings_wait() -> None:
    days = [date(2024, 5, day) for day in range(6, 11)]
    rows = [finding("AAA", day, "stale") for day in days] + [finding("BBB", date(2020, 1, 2), "stale")]
    chosen = pick(report_of(rows, {}).rows, 3)
    assert chosen.select("symbol", "session").rows() == [("AAA", days[4]), ("BBB", date(2020, 1, 2)), ("AAA", days[3])]


def test_text_from_data_stays_text() -> None:
    report = report_of(
        [finding(HOSTILE, date(2020, 1, 2), HOSTILE, HOSTILE, HOSTILE, HOSTILE), finding("AAA", None, text=HOSTILE)],
        {HOSTILE: HOSTILE, "AAA": "accept"},
    )
    made = hand_made(report, 3)
    events = pl.DataFrame([(HOSTILE, date(2020, 1, 2), 1.1, HOSTILE)], schema=EVENTS_SCHEMA, orient="row")
    raw = made.raw.with_columns(symbol=pl.lit(HOSTILE), close_vnd=pl.lit(10_000.0), exchange=pl.lit(HOSTILE))
    page = render_check_page(
        replace(
            made,
            raw=raw,
            events=events,
            corporate=events.with_columns(confirmed=pl.lit(value=True), announced_source=pl.lit(HOSTILE)),
            previous=report_of([], {"BBB": HOSTILE}),
            source_names=(HOSTILE,),
            warnings=(HOSTILE,),
            rebased=(NewBase(HOSTILE, 0.9, 80, (date(2020, 1, 2),)),),
        )
    )
    outline = read(page)
    assert "alert('x')" not in page.replace("\\u003cscript\\u003ealert('x')", "")
    assert page.count("<script") == 1 + len(outline.data[1:])
    assert HOSTILE in outline.text


@given(st.lists(st.text()))
def test_embedded_json_says_the_same_and_cannot_leave_its_element(texts: list[str]) -> None:
    written = str(script_json(texts))
    assert json.loads(written) == texts
    assert not set("<>&") & set(written)


def test_the_page_holds_every_finding_also_those_it_does_not_show_at_once() -> None:
    days = [date(2020, 1, 1) + timedelta(days=place) for place in range(90)]
    rows = [finding(f"S{place % 7}", day, "ohlc", "warn", "repair", f"bar {place}") for place, day in enumerate(days)]
    outline = read(render_check_page(hand_made(report_of(rows, {"S0": "accept"}), 100)))
    document = json.loads(outline.data[-1])
    columns = [
        values if words is None else [words[place] for place in values]
        for words, values in zip(document["lists"], document["columns"], strict=True)
    ]
    assert list(zip(columns[0], columns[1], columns[5], strict=True)) == [
        (f"S{place % 7}", str(days[place]), f"bar {place}") for place in reversed(range(90))
    ]
    assert set(columns[2]) == {"Open or close outside high and low"}
    assert "first 40 of 90" in outline.text


def test_a_page_of_289_symbols_and_10000_findings_stays_below_2_mb() -> None:
    names = [f"S{place:03d}" for place in range(289)]
    days = [date(2012, 1, 2) + timedelta(days=place) for place in range(3000)]
    rows = [
        finding(
            names[place % 289],
            days[(place * 7) % 3000],
            ("ohlc", "price", "not_final", "wrong_step")[place % 4],
            ("warn", "error")[place % 2],
            ("repair", "mask")[place % 2],
            f"high and low must enclose open and close: o {place}.5 h {place + 3}.0 l {place - 4}.0 c {place}.0 v 99",
        )
        for place in range(10_000)
    ]
    raw = pl.DataFrame({"symbol": names}, schema={"symbol": pl.String}).join(
        pl.DataFrame({"session": days[:1500]}, schema={"session": pl.Date}), how="cross"
    )
    prices = {name: pl.lit(12_345.0) for name in RAW_SCHEMA if name.endswith("_vnd")}
    raw = raw.with_columns(**prices, volume_shares=pl.lit(1000, pl.Int64), exchange=pl.lit("HOSE"))
    used = raw.with_columns(factor=pl.lit(1.0))
    report = report_of(rows, {name: "accept" if place % 9 else "quarantine" for place, name in enumerate(names)})
    page = render_check_page(replace(hand_made(report), raw=raw, used=used, opinions=raw))
    assert len(page.encode()) < 2_000_000
    assert page.count("<article") == 24


@pytest.mark.parametrize(
    ("accepted", "retired", "quarantined", "masked", "state"),
    [
        (98, 30, 2, 0, "fit"),
        (100, 0, 0, 2, "fit"),
        (100, 0, 0, 3, "care"),
        (100, 0, 0, 10, "care"),
        (100, 0, 0, 11, "unfit"),
        (96, 0, 4, 0, "care"),
        (90, 0, 10, 0, "care"),
        (89, 0, 11, 0, "unfit"),
        (0, 5, 1, 0, "unfit"),
    ],
)
def test_the_feed_is_fit_by_the_stated_rule(
    accepted: int, retired: int, quarantined: int, masked: int, state: str
) -> None:
    kinds = ["accept"] * accepted + ["retired"] * retired + ["quarantine"] * quarantined
    verdicts = {f"S{place:03d}": kind for place, kind in enumerate(kinds)}
    rows = [finding("S000", date(2020, 1, 1) + timedelta(days=place)) for place in range(masked)]
    made = replace(
        hand_made(report_of(rows, verdicts), 1000),
        rule=FitRule(min_accepted_frac=0.9, max_masked_frac=0.01, care_quarantined_frac=0.03, care_masked_frac=0.002),
    )
    assert fitness(made).state == state
    assert (state == "unfit") == ("not fit" in verdict_sentence(made))


def test_symbols_that_end_all_at_once_make_the_feed_unfit() -> None:
    before = report_of([], {f"S{place:03d}": "accept" for place in range(100)})

    def after(retired: int) -> str:
        verdicts = {f"S{place:03d}": "retired" if place < retired else "accept" for place in range(100)}
        return fitness(replace(hand_made(report_of([], verdicts), 1000), previous=before)).state

    assert [after(retired) for retired in (0, 2, 3, 10, 11)] == ["fit", "fit", "care", "care", "unfit"]


def test_a_newest_day_read_too_early_asks_for_care() -> None:
    late = finding("*", AS_OF, "in_session", "warn", "accept")
    old = finding("*", date(2020, 1, 2), "drift", "error", "accept")
    assert fitness(hand_made(report_of([old], {"AAA": "accept"}), 10)).state == "fit"
    judged = fitness(hand_made(report_of([late], {"AAA": "accept"}), 10))
    assert (judged.state, judged.reasons) == ("care", ("on 2026-11-20: read before the close",))


def test_a_whole_market_is_judged_by_the_symbols_that_are_wanted() -> None:
    verdicts = {"AAA": "accept", "BBB": "accept"} | {f"X{place:02d}": "quarantine" for place in range(50)}
    made = hand_made(report_of([], verdicts), 1000)
    assert fitness(made).state == "unfit"
    assert fitness(replace(made, wanted=("AAA", "BBB"))).state == "fit"
    assert fitness(replace(made, wanted=("AAA", "BBB", "NOT"))).state == "unfit"  # told by nobody


def test_the_sentence_counts_symbols_and_rows() -> None:
    days = [date(2020, 1, day) for day in range(1, 5)]
    rows = [finding("AAA", day, "ohlc", "warn", "repair") for day in days]
    rows += [
        finding("AAA", days[0], "open", "warn", "repair"),
        finding("AAA", None, "adjusted_close", "warn", "repair"),
    ]
    rows += [finding("AAA", days[1]), finding("AAA", days[2], "flip", "warn", "quarantine")]
    verdicts = {f"S{place:02d}": "accept" for place in range(97)} | {"AAA": "retired", "BBB": "quarantine"}
    assert verdict_sentence(hand_made(report_of(rows, verdicts), 1000)) == (
        "97 of 99 symbols accepted, 1 retired and 1 quarantined; of 1,000 rows 4 repaired, 1 masked and 1 with the "
        "vendor's adjustment refused: the feed is fit to train on."
    )


def test_what_changed_since_the_previous_check_is_said() -> None:
    kept = finding("AAA", date(2026, 11, 2))
    before = report_of(
        [kept, finding("AAA", None)], {"AAA": "accept", "BBB": "accept", "OUT": "accept"}, date(2026, 11, 13)
    )
    new = [finding("AAA", date(2026, 11, 3)), finding("BBB", date(2026, 11, 19), "ohlc", "warn", "repair")]
    now = report_of([kept, *new], {"AAA": "accept", "BBB": "quarantine", "NEW": "accept"})
    changed = changes_since(now, before)
    said = " ".join(changed.sentences)
    assert "BBB is quarantined now, before accepted." in said
    assert "NEW is new: accepted." in said
    assert "OUT is no longer told by the source." in said
    assert "Newest session 2026-11-20, it was 2026-11-13." in said
    assert (
        "2 new findings, 1 of them errors, 1 gone; 1 of the new ones in sessions the previous check had seen." in said
    )
    assert "“Open or close outside high and low” was found for the first time (1)." in said
    assert changed.new.select("symbol", "check").rows() == [("AAA", "price"), ("BBB", "ohlc")]


def test_the_same_check_twice_changes_nothing(inputs: CheckInputs) -> None:
    changed = changes_since(inputs.report, inputs.report)
    assert changed.sentences == ("The findings are the same as before.",)
    assert changed.new.is_empty()


def test_checks_are_counted_with_their_share_of_the_rows() -> None:
    rows = [finding("AAA", date(2020, 1, day), "ohlc", "warn", "repair", f"bar {day}") for day in (1, 2, 3)]
    page = render_check_page(hand_made(report_of(rows, {"AAA": "accept"}), 4000))
    text = read(page).text
    assert "warning repaired 3 7.50 1 2020-01-03 AAA 2020-01-03: bar 3 see chart" in text  # 3 of 4,000


def test_corporate_actions_and_re_basings_are_listed() -> None:
    corporate = pl.DataFrame(
        {
            "symbol": ["AAA", "AAA", "BBB"],
            "session": [date(2024, 1, 5), date(2025, 6, 2), date(2025, 6, 3)],
            "factor_step": [1.1, 1.02, 2.0],
            "kind": ["stock_dividend_or_bonus", "cash_dividend", "split"],
            "confirmed": [True, False, None],
            "cash_vnd": [None, 500.0, None],
        }
    )
    made = replace(
        hand_made(report_of([], {"AAA": "accept", "BBB": "accept"}), 10),
        corporate=corporate,
        events=pl.DataFrame(
            [("AAA", date(2024, 1, 5), 1.1, "adjustment"), ("AAA", date(2023, 3, 1), 0.97, "wrong_way")],
            schema=EVENTS_SCHEMA,
            orient="row",
        ),
        missing=pl.DataFrame(
            {
                "symbol": ["CCC"],
                "ex_date": [date(2024, 8, 9)],
                "kind": ["bonus"],
                "implied_step": [1.25],
                "absorbed": [False],
                "source": ["vndirect"],
            }
        ),
        rebased=(NewBase("AAA", 0.9804, 80, (date(2025, 6, 2),)), NewBase("BBB", 0.5, 77, ())),
    )
    text = read(render_check_page(made)).text
    assert "BBB 2025-06-03 2.0000 split" in text
    assert "AAA 2025-06-02 1.0200 cash dividend 500 no" in text
    assert "AAA 2024-01-05 1.1000 stock dividend or bonus yes" in text
    assert text.count("AAA 2024-01-05") == 1
    assert "AAA 2023-03-01 0.9700 not used: wrong direction" in text
    assert "CCC 2024-08-09 bonus shares 1.2500 no vndirect" in text
    assert text.index("BBB 2025-06-03") < text.index("AAA 2025-06-02") < text.index("AAA 2024-01-05")
    assert "AAA 2025-06-02 0.9804 −2.0 % 80" in text
    assert "BBB – 0.5000 −50.0 % 77" in text


def test_a_feed_with_nothing_in_it_has_a_page_too() -> None:
    text = read(render_check_page(hand_made(report_of([], {})))).text
    assert "Not fit to train on" in text
    assert "no symbol was accepted" in text


def test_a_single_vendor_is_said_to_be_one(inputs: CheckInputs) -> None:
    alone = "Only one vendor was heard"
    assert alone in read(render_check_page(inputs)).text
    heard = inputs.raw.select("symbol", "session", "adjusted_close_vnd")
    assert alone not in read(render_check_page(replace(inputs, opinions=heard))).text


def test_the_terminal_table_puts_the_gravest_check_first() -> None:
    rows = [finding("AAA", date(2020, 1, day), "ohlc", "warn", "repair") for day in range(1, 8)]
    rows += [
        finding("BBB", date(2021, 5, 6), "price", text="no positive close"),
        finding("*", date(2020, 2, 3), "market_hole", "warn", "accept"),
    ]
    table = check_table(report_of(rows, {}))
    assert [len(row) for row in table] == [len(CHECK_TABLE_COLUMNS)] * 3
    assert table[0] == (
        "No positive close",
        "error",
        "masked",
        "1",
        "1",
        "2021-05-06",
        "BBB 2021-05-06: no positive close",
    )
    assert [row[3] for row in table] == ["1", "7", "1"]
    assert table[2][4] == "whole market"


def test_the_document_is_json_and_states_the_total_behind_its_cap(inputs: CheckInputs) -> None:
    document = json.loads(json.dumps(check_document(inputs.report, max_findings=5), allow_nan=False))
    assert document["findings_total"] == inputs.report.rows.height > 5
    assert len(document["findings"]) == 5
    assert document["findings"][0]["severity"] == "error"
    assert sum(check["count"] for check in document["checks"]) == document["findings_total"]
    assert sum(document["symbols_by_verdict"].values()) == len(document["symbols"]) == 12
    assert {"mask", "repair", "quarantine", "accept"} <= set(document["findings_by_verdict"])
    assert document["symbols"][0]["last_session"] == "2026-11-20"


def test_a_price_far_off_becomes_an_arrow_and_leaves_the_others_to_scale() -> None:
    days = tuple(date(2024, 1, day) for day in range(1, 6))
    prices = (10_000.0, 10_100.0, 0.0, 10_050.0, None)
    chart = evidence_chart(
        EvidencePicture(title="AAA", sessions=days, marked=2, curves=(Curve("Raw close", "raw", prices, dots=True),))
    )
    assert chart.count('class="off raw"') == 1
    assert '<text class="off"' in chart
    assert ">10,000<" in chart  # the scale still begins near the other prices
    assert "2024-01-05\nno row" in chart
    assert chart.count('class="dot raw"') == 3


def test_nothing_known_draws_nothing() -> None:
    day = date(2024, 1, 2)
    assert evidence_chart(EvidencePicture(title="AAA", sessions=(day,), marked=0, curves=())) == ""


def test_months_become_years_on_a_phone() -> None:
    bars = [
        MonthBar(f"{2015 + place // 12}-{place % 12 + 1:02d}", (("mask", "masked", 1), ("repair", "repaired", place)))
        for place in range(60)
    ]
    pair = month_charts(bars, "Findings")
    assert pair.wide.count('class="hit"') == 60
    assert pair.narrow.count('class="hit"') == 5
    assert "2015\nmasked: 12\nrepaired: 66" in pair.narrow  # 0 + 1 + ... + 11


def test_frames_without_their_columns_and_times_without_a_zone_are_refused(inputs: CheckInputs) -> None:
    with pytest.raises(ValueError, match=r"raw frame lacks .*close_vnd"):
        replace(inputs, raw=inputs.raw.drop("close_vnd"))
    with pytest.raises(ValueError, match=r"corporate frame lacks .*kind"):
        replace(inputs, corporate=inputs.events.drop("kind"))
    with pytest.raises(ValueError, match="time zone"):
        replace(inputs, known_at=datetime(2026, 11, 20, 9, 0))  # noqa: DTZ001 - what is refused
    with pytest.raises(ValueError, match="min_accepted_frac"):
        FitRule(min_accepted_frac=90.0)


@pytest.mark.real_data
@pytest.mark.skipif(not DATA.is_dir(), reason="the real price files carry no licence and are not here")
def test_the_page_of_the_real_file_counts_what_the_court_found() -> None:
    from vnfleet.data.sources.files import FilesSource  # noqa: PLC0415 - only with the data at hand

    as_of = date(2024, 12, 31)
    history = FilesSource(DATA / "cafef_price_history_2012_2024.parquet").fetch(None, as_of)
    some = history.bars.get_column("symbol").unique().sort().head(40)  # all of them are the court's own tests
    history = replace(history, bars=history.bars.filter(pl.col("symbol").is_in(some.implode())))
    panel = build_panel(history, as_of)
    second = pl.read_parquet(DATA / "second_vendor_adjusted_2015_2024.parquet").select(
        "symbol",
        pl.col("date").cast(pl.Date).alias("session"),
        pl.col("close").cast(pl.Float64).alias("adjusted_close_vnd"),
    )
    events = chain_factors(check_bars(history.bars)[0])[1]
    made = inputs_of_panel(panel, raw=history.bars, events=events, source_names=("files", "second"), known_at=KNOWN_AT)
    page = render_check_page(replace(made, opinions=second))
    text = read(page).text
    assert len(page.encode()) < 2_000_000
    assert f"{len(panel.quality.live)} of 40 symbols accepted" in text
    assert f"{panel.quality.rows.height:,} findings" in text
    assert "Second vendor" in text
