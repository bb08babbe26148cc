"""What a week is made of: the wiring's own settings, and every room's config beside them.

One frozen dataclass a table of ``vnfleet.toml``; `vnfleet.settings` fills them, nothing below reads a dict.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from vnfleet.data.sources.files.layouts import OUR_NAMES
from vnfleet.data.sources.simulated import SimulatedMarket
from vnfleet.evaluation.splits import SplitRule
from vnfleet.market.calendar import CalendarOverrides
from vnfleet.model.stockformer import StockformerConfig, preset
from vnfleet.releases.gate import GateLimits, RefreshLimits
from vnfleet.trading.portfolio import TopKPolicy
from vnfleet.trading.simulator import AccountTerms
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.recipe import ObjectiveConfig, TrainingConfig

PRESETS = ("desktop", "plan")
MIN_TEST_SESSIONS = 5
"""A week, the shortest time a set of models serves; shorter blocks would fit nearly the same models again and again."""
_SYMBOL = re.compile(r"[A-Z0-9]{2,10}")
_URL = re.compile(r"https?://[^\s/:]+(:[0-9]{1,5})?(/\S*)?")
_MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,39}")
_ENTRY_POINT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def _refuse_odd_symbols(symbols: Iterable[str]) -> None:
    for symbol in symbols:
        if not _SYMBOL.fullmatch(symbol):
            raise ValueError(f"not a symbol: {symbol!r} (expected upper-case letters and digits)")


PrimaryKind = Literal["files", "simulated", "cafef_bulk", "cafef_pages", "vndirect"]
OpinionKind = Literal[
    "files", "simulated", "cafef_bulk", "cafef_pages", "vndirect", "vndirect_dchart", "ssi", "vps", "dnse"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceConfig:
    """Where prices come from, who steps in, and who else is heard.

    Attributes
    ----------
    kind : "files" (files in CafeF's, AmiBroker's or a plain format), "cafef_bulk" (CafeF's zips of the whole market),
        "cafef_pages" (CafeF symbol by symbol), "vndirect", or "simulated" (a seeded market, for trying out).
    path : the file or folder; needed by "files".
    listings : optional CSV with symbol, exchange, sector; also the symbols asked of vendors that are asked one by one.
    unit : unit of plain files; "auto" decides by the size of the prices and refuses when unsure.
    columns : for plain files with other column names: ours (`close`) -> theirs (`Last`).
    fallback : asked in this order when `kind` fails. Each keeps its own history: two vendors are never spliced.
    cross_check : second opinions; they never enter the panel, the court compares their returns.
    cross_check_path : the file or folder of a "files" second opinion; its prices are adjusted ones.
    per_symbol : symbols whose whole history "cafef_bulk" takes from CafeF's pages, because its zips lose what was
        before a transfer between exchanges (ACB).
    max_age_days : the newest session may be this many calendar days older than `as_of`.
    requests_per_second, max_concurrent : politeness, per host.
    hosts : other addresses for vendors, by source name: a mirror, a proxy, a stand-in.
    """

    kind: PrimaryKind = "files"
    path: Path | None = None
    listings: Path | None = None
    unit: Literal["auto", "vnd", "thousand_vnd"] = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    fallback: tuple[PrimaryKind, ...] = ()
    cross_check: tuple[OpinionKind, ...] = ()
    cross_check_path: Path | None = None
    per_symbol: tuple[str, ...] = ()
    max_age_days: int = 7
    requests_per_second: float = 1.0
    max_concurrent: int = 1
    hosts: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what nothing can meet."""
        if self.max_age_days < 1:
            raise ValueError(f"max_age_days must be at least 1, found {self.max_age_days}")
        if not self.requests_per_second > 0 or self.max_concurrent < 1:
            raise ValueError("requests_per_second must be above 0, max_concurrent at least 1")
        if self.kind in self.fallback or len(set(self.fallback)) != len(self.fallback):
            raise ValueError(f"fallback names a source twice: {[self.kind, *self.fallback]}")
        if self.kind in self.cross_check and self.kind != "files":
            raise ValueError(f"{self.kind} cannot check itself: name another source in cross_check")
        if unknown := sorted(set(self.hosts) - {*get_args(PrimaryKind), *get_args(OpinionKind)}):
            raise ValueError(f"hosts names unknown sources: {unknown}")
        theirs = list(self.columns.values())
        if repeated := sorted({name for name in theirs if theirs.count(name) > 1}):
            raise ValueError(f"columns: {repeated[0]!r} is named for more than one of ours")
        if len(set(self.cross_check)) != len(self.cross_check):
            raise ValueError(f"cross_check names a source twice: {list(self.cross_check)}")
        if self.per_symbol and self.kind != "cafef_bulk":
            raise ValueError('per_symbol is for kind "cafef_bulk" only')
        _refuse_odd_symbols(self.per_symbol)
        for name, url in self.hosts.items():
            if not _URL.fullmatch(url):
                raise ValueError(f"hosts: {name} needs an address such as https://mirror.example, found {url!r}")
        if unknown := sorted(set(self.columns) - set(OUR_NAMES)):
            raise ValueError(
                f"columns: {unknown[0]!r} is none of our names ({', '.join(OUR_NAMES)}); write ours = theirs, such as "
                'close = "Last"'
            )
        if "files" in self.cross_check and self.cross_check_path is None:
            raise ValueError('a "files" cross_check needs cross_check_path')


@dataclass(frozen=True, slots=True, kw_only=True)
class UniverseConfig:
    """Which symbols are collected into the panel, and which get a model.

    Attributes
    ----------
    collected : how many symbols stand behind features and training: the most traded before today and before each
        judged year, so that names that stopped trading stay in the years they were tradable in.
    models : how many symbols are primary: scored, deployed, one artifact each.
    window_sessions : they are the most traded by median traded value over this many sessions before the fold.
    pinned, excluded : symbols that are always, or never, among them.
    """

    collected: int = 289
    models: int = 102
    window_sessions: int = 250
    pinned: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse counts below one and names that are no symbols."""
        if min(self.collected, self.models, self.window_sessions) < 1:
            raise ValueError("collected, models and window_sessions must be at least 1")
        if both := sorted(set(self.pinned) & set(self.excluded)):
            raise ValueError(f"{', '.join(both)} cannot be pinned and excluded")
        if self.collected < self.models:
            raise ValueError(f"{self.models} models need at least as many collected symbols, found {self.collected}")
        _refuse_odd_symbols((*self.pinned, *self.excluded))


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldsConfig:
    """Which calendar years are judged, each by models that were fitted on the years before.

    Attributes
    ----------
    years : the years; empty means the newest `newest` years that have enough history before them.
    newest : see `years`; the running year counts.
    min_train_sessions : a fold with less history than this is refused (or left out when years are chosen for you).
    embargo_sessions : left out before every boundary beyond the label's length, which is always left out.
    train_sessions : only the newest so many sessions before a year or block teach and tune (a rolling window): those to
        fit on, those of validation and the gap between them must fit into it; nothing means all.
    test_sessions : judge a year in blocks of so many sessions, each by models of its own; nothing means in one.
        At least `MIN_TEST_SESSIONS`; a rest shorter than half a block joins the block before it.
    """

    years: tuple[int, ...] = ()
    newest: int = 5
    min_train_sessions: int = 500
    embargo_sessions: int = 0
    train_sessions: int | None = None
    test_sessions: int | None = None

    def __post_init__(self) -> None:
        """Refuse repeated years and empty parts."""
        if len(set(self.years)) != len(self.years):
            raise ValueError(f"years repeat: {list(self.years)}")
        if min(self.newest, self.min_train_sessions) < 1:
            raise ValueError("newest and min_train_sessions must be at least 1")
        if self.embargo_sessions < 0:
            raise ValueError(f"embargo_sessions must not be negative, found {self.embargo_sessions}")
        if self.train_sessions is not None and self.train_sessions < 1:
            raise ValueError(f"train_sessions must be at least 1 (leave it out for all), found {self.train_sessions}")
        if self.test_sessions is not None and self.test_sessions < MIN_TEST_SESSIONS:
            raise ValueError(
                f"test_sessions must be at least {MIN_TEST_SESSIONS}, a week: every block has models of its own (leave "
                f"it out for one block a year), found {self.test_sessions}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasesConfig:
    """How releases are kept.

    Attributes
    ----------
    keep_last : this many releases stay on disk for a rollback; the current one always does.
    """

    keep_last: int = 5

    def __post_init__(self) -> None:
        """A rollback needs two releases."""
        if self.keep_last < 2:
            raise ValueError(f"keep_last must be at least 2, found {self.keep_last}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteConfig:
    """Where training units are computed.

    Attributes
    ----------
    mode : "local" (here) or "hybrid" (through the remote, what stays open is done here).
    remote : rclone remote or local folder that both sides see, such as ``gdrive:VN-Quant-Training``.
    wait_minutes : how long to wait for workers before the open units are trained here.
    grace_minutes : without a sign of life from any worker for this long, the wait is over sooner.
    poll_seconds : how often the remote is asked.
    bandwidth_limit : as rclone writes it, such as "4M" (bytes a second); empty for none.
    """

    mode: Literal["local", "hybrid"] = "local"
    remote: str = ""
    wait_minutes: float = 720.0
    grace_minutes: float = 15.0
    poll_seconds: float = 30.0
    bandwidth_limit: str = ""

    def __post_init__(self) -> None:
        """Refuse a hybrid run without a remote."""
        if self.mode == "hybrid" and not self.remote:
            raise ValueError('mode "hybrid" needs a remote')
        if min(self.wait_minutes, self.grace_minutes) < 0 or self.poll_seconds <= 0:
            raise ValueError("wait_minutes and grace_minutes must not be negative, poll_seconds must be above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class UserModelConfig:
    """A model of your own as one more entrant of the race; it is judged beside the others and never deployed.

    Attributes
    ----------
    name : what it is called; it appears as ``user_<name>`` everywhere.
    predictions : a file of forecasts (parquet or CSV: symbol, session, score; what else it may hold is in
        `vnfleet.cycle.user_model`). Whether they looked ahead cannot be seen in a file.
    entry_point : instead of a file, a function that is called for every judged year: "my_package.model:forecast".
    """

    name: str = "model"
    predictions: Path | None = None
    entry_point: str = ""

    def __post_init__(self) -> None:
        """Refuse two models in one slot, and names that cannot be called."""
        if not _MODEL_NAME.fullmatch(self.name):
            raise ValueError(f"name must be of small letters, digits and _, found {self.name!r}")
        if self.predictions is not None and self.entry_point:
            raise ValueError("give predictions or an entry_point, not both")
        if self.entry_point and not _ENTRY_POINT.fullmatch(self.entry_point):
            raise ValueError(f'entry_point must look like "package.module:function", found {self.entry_point!r}')

    @property
    def is_given(self) -> bool:
        """True when there is a model to race."""
        return self.predictions is not None or bool(self.entry_point)

    @property
    def model_id(self) -> str:
        """What the entrant and its forecasts are called; no other entrant's name begins like this."""
        return f"user_{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleConfig:
    """Everything a week depends on besides its date: one field per table of ``vnfleet.toml``."""

    source: SourceConfig = field(default_factory=SourceConfig)
    simulated: SimulatedMarket = field(default_factory=SimulatedMarket)
    calendar: CalendarOverrides = field(default_factory=CalendarOverrides)
    universe: UniverseConfig = field(default_factory=UniverseConfig)
    folds: FoldsConfig = field(default_factory=FoldsConfig)
    model: StockformerConfig = field(default_factory=StockformerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    portfolio: TopKPolicy = field(default_factory=TopKPolicy)
    account: AccountTerms = field(default_factory=AccountTerms)
    gate: GateLimits = field(default_factory=GateLimits)
    refresh: RefreshLimits = field(default_factory=RefreshLimits)
    releases: ReleasesConfig = field(default_factory=ReleasesConfig)
    remote: RemoteConfig = field(default_factory=RemoteConfig)
    user_model: UserModelConfig = field(default_factory=UserModelConfig)

    def __post_init__(self) -> None:
        """Refuse folds whose parts do not fit into each other."""
        _ = self.split_rule

    @property
    def horizon_sessions(self) -> int:
        """The horizon that is judged: the longest of the return path."""
        return self.model.horizon_sessions

    @property
    def split_rule(self) -> SplitRule:
        """How folds are cut; raises `ValueError` when their parts do not fit into each other."""
        return SplitRule(
            horizon_sessions=self.horizon_sessions,
            valid_sessions=self.training.valid_sessions,
            min_train_sessions=self.folds.min_train_sessions,
            embargo_sessions=self.folds.embargo_sessions,
            train_sessions=self.folds.train_sessions,
            test_sessions=self.folds.test_sessions,
        )


def preset_config(name: Literal["desktop", "plan"]) -> CycleConfig:
    """Return the defaults of a preset: `desktop` (the measured recipe) or `plan` (the written plan's model and fit).

    The plan's: one model per symbol on its own history, three depths (4, 5, 6 layers; dropout 0.10, 0.15, 0.20), 60
    sessions of window attention, 100 epochs of batches of 32, five of them warm-up, then cosine.
    """
    if name == "desktop":
        return CycleConfig()
    training = TrainingConfig(
        strategy="separate",
        ensemble="depths",
        max_epochs=100,
        patience_epochs=15,
        learning_rate=1e-3,
        weight_decay=1e-5,
        schedule="cosine",
        warmup_frac=0.05,
        chunk_sessions=32,
    )
    return CycleConfig(model=preset("plan"), training=training)
