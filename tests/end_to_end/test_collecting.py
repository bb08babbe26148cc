"""Prices from vendors, through the command line: stand-ins answer on the loopback in the vendors' own formats."""

from __future__ import annotations

import json
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from vnfleet.cli.main import main
from vnfleet.core.clock import FixedClock
from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.cycle.packing import pack, unpack
from vnfleet.cycle.weekly import run_cycle
from vnfleet.data.panel import PanelStore
from vnfleet.data.record.store import RawStore
from vnfleet.data.sources.base import RawHistory
from vnfleet.data.sources.simulated import SimulatedMarket, SimulatedSource
from vnfleet.data.sources.standins.cafef_bulk import cafef_bulk_stand_in
from vnfleet.data.sources.standins.server import Answer, FaultKind, StandIn
from vnfleet.data.sources.standins.udf import UdfVendor
from vnfleet.data.sources.standins.vndirect import VndirectVendor
from vnfleet.settings import load_settings

MONDAY, TUESDAY = date(2023, 3, 13), date(2023, 3, 14)
EVENING = FixedClock(datetime(2023, 3, 14, 12, tzinfo=UTC))
MARKET = SimulatedMarket(
    num_symbols=12, start=date(2021, 1, 4), late_listing_frac=0.0, illiquid_frac=0.0, suspensions_per_year=0.0
)
FAST = "requests_per_second = 1000000.0\nmax_concurrent = 4\n"


@pytest.fixture(scope="module")
def history() -> RawHistory:
    return SimulatedSource(MARKET).fetch(None, TUESDAY)


class Vendors:
    """Stand-ins that live as long as the test, and the settings that name them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack, self.hosts = folder, stack, dict[str, str]()

    def add(self, name: str, stand_in: StandIn) -> StandIn:
        server = self.stack.enter_context(stand_in)
        self.hosts[name] = server.url
        return server

    def settings(self, kind: str, extra: str = "") -> Path:
        hosts = "".join(f'{name} = "{url}"\n' for name, url in self.hosts.items())
        path = self.folder / "vnfleet.toml"
        text = f'[source]\nkind = "{kind}"\n{FAST}{extra}\n[source.hosts]\n{hosts}[universe]\nmodels = 5\n'
        tomllib.loads(text)
        path.write_text(text, encoding="utf-8")
        return path

    def collect(self, settings: Path, day: date = TUESDAY) -> dict[str, object]:
        config = load_settings(file=settings)
        week = run_cycle(config, workdir=self.folder / "work", as_of=day, last_step="collect", clock=EVENING)
        return {**week.steps[0].facts, "summary": week.steps[0].summary}


@pytest.fixture
def vendors(tmp_path: Path) -> Iterator[Vendors]:
    with ExitStack() as stack:
        yield Vendors(tmp_path, stack)


def closes(workdir: Path, source: str) -> pl.DataFrame:
    return RawStore(workdir / "data" / "raw").read(source, TUESDAY).bars.select("symbol", "session", "close_vnd")


def test_the_bulk_zips_become_the_panel_the_market_traded(vendors: Vendors, history: RawHistory) -> None:
    vendors.add("cafef_bulk", cafef_bulk_stand_in(history, [TUESDAY]))
    facts = vendors.collect(vendors.settings("cafef_bulk"))
    assert facts["newest_session"] == "2023-03-14"
    assert closes(vendors.folder / "work", "cafef_bulk").equals(history.bars.select("symbol", "session", "close_vnd"))


def test_a_dry_run_asks_nothing_and_says_how_much(
    vendors: Vendors, history: RawHistory, capsys: pytest.CaptureFixture[str]
) -> None:
    server = vendors.add("vndirect", StandIn(VndirectVendor(history=history, clock=EVENING).answer))
    arguments = ["--config", str(vendors.settings("vndirect")), "--workdir", str(vendors.folder / "work")]
    assert main(["collect", *arguments, "--as-of", str(TUESDAY), "--dry-run", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)["plans"][0]
    assert plan["source"] == "vndirect"
    assert plan["requests"] > 0
    assert server.requests == []
    assert not (vendors.folder / "work").exists()


def test_a_dry_run_with_opinions_that_cannot_list_says_what_comes_later(
    vendors: Vendors, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = vendors.settings("cafef_bulk", 'fallback = ["vndirect"]\ncross_check = ["vndirect", "vps"]')
    arguments = ["--config", str(settings), "--workdir", str(vendors.folder / "work"), "--as-of", str(TUESDAY)]
    assert main(["collect", *arguments, "--dry-run", "--json"]) == 0
    plans = {plan["source"]: plan for plan in json.loads(capsys.readouterr().out)["plans"]}
    assert list(plans) == ["cafef_bulk", "vndirect", "vps"]
    assert "after the first collection" in plans["vps"]["sentence"]


def test_a_column_mapping_the_wrong_way_round_is_a_mistake_of_the_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vnfleet.toml"
    path.write_text('[source]\npath = "prices"\ncolumns = { Ma = "symbol" }\n', encoding="utf-8")
    assert main(["collect", "--config", str(path), "--workdir", str(tmp_path / "work")]) == 2
    said = capsys.readouterr().err
    assert "vnfleet.toml" in said
    assert 'close = "Last"' in said


def test_a_second_day_asks_for_the_overlap_only(vendors: Vendors, history: RawHistory) -> None:
    vendor = VndirectVendor(history=history, clock=EVENING)
    server = vendors.add("vndirect", StandIn(vendor.answer, empty=vendor.empty))
    settings = vendors.settings("vndirect")
    vendors.collect(settings, MONDAY)
    asked = len(server.requests)
    facts = vendors.collect(settings)
    assert 0 < len(server.requests) - asked < asked
    assert facts["newest_session"] == "2023-03-14"
    got = closes(vendors.folder / "work", "vndirect")
    assert got.filter(pl.col("session") == TUESDAY).height == 12
    assert got.equals(
        history.bars.select("symbol", "session", "close_vnd").filter(pl.col("session") >= got["session"][0])
    )


def test_when_the_preferred_vendor_refuses_the_next_one_serves_whole(vendors: Vendors, history: RawHistory) -> None:
    refused = vendors.add("cafef_bulk", StandIn(lambda _: Answer(status=403, body=b"no")))
    vendor = VndirectVendor(history=history, clock=EVENING)
    vendors.add("vndirect", StandIn(vendor.answer, empty=vendor.empty))
    facts = vendors.collect(vendors.settings("cafef_bulk", 'fallback = ["vndirect"]'))
    assert facts["source"] == "vndirect"
    assert "cafef_bulk failed" in str(facts["summary"])
    assert len(refused.requests) == 1  # a refusal is not argued with
    assert not RawStore(vendors.folder / "work" / "data" / "raw").has("cafef_bulk")


def test_a_vendor_does_not_confirm_itself(vendors: Vendors, history: RawHistory) -> None:
    vendors.add("cafef_bulk", StandIn(lambda _: Answer(status=403, body=b"no")))
    vendor = VndirectVendor(history=history, clock=EVENING)
    vendors.add("vndirect", StandIn(vendor.answer, empty=vendor.empty))
    extra = 'fallback = ["vndirect"]\ncross_check = ["vndirect"]'
    facts = vendors.collect(vendors.settings("cafef_bulk", extra))
    assert (facts["source"], facts["opinions"]) == ("vndirect", [])


def test_a_clock_that_went_back_is_refused_before_anything_is_written(vendors: Vendors, history: RawHistory) -> None:
    vendors.add("cafef_bulk", cafef_bulk_stand_in(history, [MONDAY, TUESDAY]))
    settings = vendors.settings("cafef_bulk")
    vendors.collect(settings, MONDAY)
    before = closes(vendors.folder / "work", "cafef_bulk")
    earlier = FixedClock(datetime(2023, 3, 13, 12, tzinfo=UTC))
    with pytest.raises(BadDataError, match="this machine's clock"):
        run_cycle(
            load_settings(file=settings),
            workdir=vendors.folder / "work",
            as_of=MONDAY,
            last_step="collect",
            clock=earlier,
        )
    assert closes(vendors.folder / "work", "cafef_bulk").equals(before)


def test_a_missing_file_gives_way_to_the_next_source(vendors: Vendors, history: RawHistory, tmp_path: Path) -> None:
    vendors.add("cafef_bulk", cafef_bulk_stand_in(history, [TUESDAY]))
    extra = f'path = "{tmp_path / "absent.parquet"}"\nfallback = ["cafef_bulk"]'
    facts = vendors.collect(vendors.settings("files", extra))
    assert facts["source"] == "cafef_bulk"


@pytest.mark.parametrize(
    "line",
    [
        'columns = { open = "close", close = "close" }',
        'cross_check = ["vps", "vps"]',
        'per_symbol = ["no such!"]',
        'per_symbol = ["ACB"]',
    ],
)
def test_settings_that_cannot_mean_anything_are_refused_by_name(
    line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vnfleet.toml"
    path.write_text(f'[source]\nkind = "files"\npath = "prices"\n{line}\n', encoding="utf-8")
    assert main(["collect", "--config", str(path), "--workdir", str(tmp_path / "work")]) == 2
    assert line.split(maxsplit=1)[0] in capsys.readouterr().err


def test_a_silent_second_opinion_does_not_stop_the_week(vendors: Vendors, history: RawHistory) -> None:
    vendors.add("cafef_bulk", cafef_bulk_stand_in(history, [TUESDAY]))
    vendor = UdfVendor(vendor="vps", history=history, clock=EVENING)
    vendors.add("vps", StandIn(vendor.answer, empty=vendor.empty))
    vendors.add("ssi", StandIn(lambda _: Answer(), faults={0: FaultKind.CAPTCHA}))
    facts = vendors.collect(vendors.settings("cafef_bulk", 'cross_check = ["vps", "ssi"]'))
    assert facts["opinions"] == ["vps"]
    assert "ssi was silent" in str(facts["summary"])
    told = PanelStore(vendors.folder / "work", "cafef_bulk", ("vps",)).serve_with_evidence(TUESDAY)
    assert [opinion.source for opinion in told.opinions] == ["vps"]
    work, day = str(vendors.folder / "work"), TUESDAY.isoformat()
    assert main(["check", "--config", str(vendors.folder / "vnfleet.toml"), "--workdir", work, "--as-of", day]) == 0
    page = (vendors.folder / "work" / "reports" / f"check-{day}.html").read_text(encoding="utf-8")
    assert "ssi was silent" in page
    assert told.panel.quality.rows.filter(pl.col("severity") == "error").is_empty()


def test_a_feed_that_lost_half_the_market_is_rejected_and_what_is_stored_stays(
    vendors: Vendors, history: RawHistory, capsys: pytest.CaptureFixture[str]
) -> None:
    vendors.add("cafef_bulk", cafef_bulk_stand_in(history, [MONDAY]))
    vendors.collect(vendors.settings("cafef_bulk"), MONDAY)
    before = closes(vendors.folder / "work", "cafef_bulk")
    half = history.only(MARKET.symbols[:6])
    vendors.add("cafef_bulk", cafef_bulk_stand_in(half, [TUESDAY]))
    settings = vendors.settings("cafef_bulk")
    code = main(
        ["collect", "--config", str(settings), "--workdir", str(vendors.folder / "work"), "--as-of", str(TUESDAY)]
    )
    assert code == 3
    said = capsys.readouterr().err
    assert "the feed is worse than what is stored" in said
    assert "next:" in said
    assert closes(vendors.folder / "work", "cafef_bulk").equals(before)


def test_of_a_larger_market_the_most_traded_stand_in_the_panel_and_the_reason_is_told(
    vendors: Vendors, history: RawHistory
) -> None:
    vendors.add("cafef_bulk", cafef_bulk_stand_in(history, [TUESDAY]))
    settings = vendors.settings("cafef_bulk", "")
    text = settings.read_text(encoding="utf-8") + "collected = 6\n[folds]\nyears = [2022]\n"
    settings.write_text(text, encoding="utf-8")
    config = load_settings(file=settings)
    week = run_cycle(config, workdir=vendors.folder / "work", as_of=TUESDAY, last_step="check", clock=EVENING)
    value = (pl.col("close_vnd") * pl.col("volume_shares")).sum()
    year = history.bars.filter(pl.col("session").dt.year() == 2021)
    expected = set(year.group_by("symbol").agg(value=value).top_k(3, by="value").get_column("symbol"))
    assert week.quality is not None
    assert 6 <= len(week.quality.symbols) < 12
    assert expected <= set(week.quality.accepted)  # far ahead in 2021: chosen before 2022
    assert "6 symbols chosen before 2022-01-01" in str(week.steps[-1].facts["survivorship"])


def test_what_is_packed_here_is_unpacked_there_week_by_week(tmp_path: Path) -> None:
    config = tmp_path / "vnfleet.toml"
    config.write_text(
        f'[source]\nkind = "simulated"\n[simulated]\nnum_symbols = 12\nstart = {MARKET.start}\n'
        "[universe]\nmodels = 5\n",
        encoding="utf-8",
    )
    settings = load_settings(file=config)
    here, there = tmp_path / "here", tmp_path / "there"
    run_cycle(settings, workdir=here, as_of=MONDAY, last_step="collect", clock=EVENING)
    first = pack(here, config=settings)
    assert unpack(first.package.folder, there).package.package_id == first.package.package_id
    run_cycle(settings, workdir=here, as_of=date(2023, 3, 20), last_step="collect")
    second = pack(here, config=settings)
    assert second.update is not None
    assert second.update.size_bytes < first.package.size_bytes / 2
    with pytest.raises(UsageError, match="holds packages") as refusal:
        unpack(here / "data" / "training_package", there)
    assert second.package.package_id in str(refusal.value)
    merged = unpack(here / "data" / "weekly_updates", there)
    assert merged.package.package_id == second.package.package_id
    assert unpack(here / "data" / "weekly_updates", there).package.package_id == second.package.package_id

    # killed between the package and its increment: the next run makes the increment after all
    shutil.rmtree(here / "data" / "weekly_updates")
    again = pack(here, config=settings)
    assert again.is_old
    assert again.update is not None
    assert again.update.facts.base_package_id == first.package.package_id

    # an increment that leads on from somewhere else is no success
    elsewhere = tmp_path / "elsewhere"
    unpack(first.package.folder, elsewhere)
    run_cycle(settings, workdir=here, as_of=date(2023, 3, 27), last_step="collect")
    third = pack(here, config=settings)
    assert third.update is not None
    shutil.rmtree(again.update.folder)
    with pytest.raises(BadDataError, match="no increment here leads on"):
        unpack(here / "data" / "weekly_updates", elsewhere)
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadDataError, match="no increment here leads on"):
        unpack(tmp_path / "empty", elsewhere)
    assert merged.cube.sessions[-1] == date(2023, 3, 20)
