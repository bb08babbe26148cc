"""How the chart feeds differ from each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

_BAD_INDEX_DAYS = frozenset({date(2018, 8, 22), date(2020, 12, 25)})


@dataclass(frozen=True, slots=True, kw_only=True)
class UdfProfile:
    """One feed.

    host, stock_path, index_path : where it answers. resolution : its word for daily bars. headers : None takes a usual
    header away. enveloped : the reply lies in ``{"code": "SUCCESS", "data": ...}``. has_status : the reply has `s`.
    first_day : nothing is older. unknown_status : HTTP status for a symbol it does not know; None where that is an
    empty reply. bad_index_days : days on which its VNINDEX is known to be wrong, left out. advice : after a refusal.
    """

    name: str
    host: str
    stock_path: str
    index_path: str
    resolution: str
    headers: Mapping[str, str | None] = field(default_factory=dict)
    enveloped: bool = False
    has_status: bool = True
    first_day: date = date(2000, 7, 28)
    unknown_status: int | None = None
    bad_index_days: frozenset[date] = frozenset()
    advice: str = (
        "ask nothing for some hours, then more slowly; collect from an ordinary connection in Vietnam; or use another "
        "source"
    )


PROFILES: Mapping[str, UdfProfile] = {
    # 406 on an Accept header (one client), so none is sent; an empty range is "ok" with empty arrays.
    "vndirect_dchart": UdfProfile(
        name="vndirect_dchart",
        host="https://dchart-api.vndirect.com.vn",
        stock_path="/dchart/history",
        index_path="/dchart/history",
        resolution="D",
        headers={"Accept": None},
        first_day=date(2013, 1, 2),
    ),
    # An unknown symbol is SUCCESS and empty; data centres get 403 "Security Check".
    "ssi": UdfProfile(
        name="ssi",
        host="https://iboard-api.ssi.com.vn",
        stock_path="/statistics/charts/history",
        index_path="/statistics/charts/history",
        resolution="1D",
        enveloped=True,
        bad_index_days=_BAD_INDEX_DAYS,
        advice="SSI refuses data centres (Colab, Kaggle and cloud machines): collect from a home or office line and "
        "ship the data, or use another source",
    ),
    # Two index bars a day. A client measured that bonus issues before the middle of 2021 are not all adjusted here.
    "vps": UdfProfile(
        name="vps",
        host="https://histdatafeed.vps.com.vn",
        stock_path="/tradingview/history",
        index_path="/tradingview/history",
        resolution="D",
        bad_index_days=_BAD_INDEX_DAYS,
    ),
    # No `s`; an unknown symbol is HTTP 400; index bars are stamped 02:00 UTC.
    "dnse": UdfProfile(
        name="dnse",
        host="https://services.entrade.com.vn",
        stock_path="/chart-api/v2/ohlcs/stock",
        index_path="/chart-api/v2/ohlcs/index",
        resolution="1D",
        has_status=False,
        first_day=date(2012, 1, 1),
        unknown_status=400,
    ),
}
"""Facts from public clients and live probes of 2026; nothing is documented by the vendors."""
