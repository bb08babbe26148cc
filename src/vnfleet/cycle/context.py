"""One week in memory: its settings and folders, and the panel, features and folds, loaded when first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime

import numpy as np
import polars as pl

from vnfleet.core.clock import Clock, utc_text
from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import short_id
from vnfleet.core.sealed import is_whole
from vnfleet.cycle.config import CycleConfig
from vnfleet.cycle.gathering import universe_of
from vnfleet.cycle.runner import Facts, Observer, StepOutcome
from vnfleet.cycle.workdir import Folders
from vnfleet.data.outcomes import forward_returns, outcome_frame
from vnfleet.data.panel import Panel, PanelStore, Served
from vnfleet.data.sources.base import RawHistory
from vnfleet.data.universe import UniverseChoice, most_traded
from vnfleet.evaluation.metrics import MIN_SYMBOLS
from vnfleet.evaluation.splits import LIVE, Fold, SplitRule, live_fold, yearly_folds
from vnfleet.features.cube import CUBE_KIND, FeatureCube, build_cube, cube_id_of, load_cube, save_cube
from vnfleet.training.dataset import TrainingData
from vnfleet.training.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """Which record of prices a week reads: whose, who else is heard, and as it was known at which moment.

    A week that is looked at again later reads the same, whatever was collected since.
    """

    source: str
    opinions: tuple[str, ...]
    known_at: datetime | None

    def as_facts(self) -> Facts:
        """Return the record as a step's facts."""
        known_at = None if self.known_at is None else utc_text(self.known_at)
        return {"source": self.source, "opinions": list(self.opinions), "known_at": known_at}

    @classmethod
    def of_step(cls, collected: StepOutcome) -> Record:
        """Return the record that a collect step wrote."""
        opinions, known_at = collected.facts.get("opinions"), collected.facts.get("known_at")
        return cls(
            source=collected.text("source"),
            opinions=tuple(str(name) for name in opinions) if isinstance(opinions, list) else (),
            known_at=datetime.fromisoformat(known_at) if isinstance(known_at, str) else None,
        )


@dataclass(slots=True, kw_only=True)
class WeekContext:
    """What every step of a week is given.

    Attributes
    ----------
    as_of : the last day of data. only : symbols of a partial run, empty for a whole one.
    last_step : where the run ends; time is kept for the steps up to it.
    """

    config: CycleConfig
    folders: Folders
    as_of: date
    clock: Clock
    observer: Observer
    only: tuple[str, ...] = ()
    full: bool = False
    accept_degraded: bool = False
    ask_anew: bool = False
    record: Record | None = None
    last_step: str = "report"
    _served: Served | None = None
    _universe: UniverseChoice | None = None
    _recipe: Recipe | None = None
    _cube: FeatureCube | None = None
    _data: TrainingData | None = None
    _folds: tuple[Fold, ...] | None = None
    _outcomes: pl.DataFrame | None = None

    @property
    def is_partial(self) -> bool:
        """True when only some artifacts are written; such a run never moves the current release."""
        return bool(self.only)

    @property
    def recipe(self) -> Recipe:
        """What is trained; one object for the whole run, so that its identity cannot change in the middle."""
        if self._recipe is None:
            self._recipe = Recipe(self.config.model, self.config.training, self.config.objective)
        return self._recipe

    @recipe.setter
    def recipe(self, fitted: Recipe) -> None:
        """Take the recipe that fits the time there is."""
        self._recipe = fitted

    @property
    def setting_id(self) -> str:
        """Identity of how folds and symbols are chosen: with the recipe, what is judged and released."""
        return short_id([asdict(self.config.split_rule), asdict(self.config.universe)])

    @property
    def min_symbols(self) -> int:
        """Symbols a session needs for a rank IC: 30, or half the models of a small fleet."""
        return min(MIN_SYMBOLS, max(2, self.config.universe.models // 2))

    def panel(self) -> Panel:
        """Return the judged prices up to `as_of`."""
        return self.served().panel

    def served(self) -> Served:
        """Return the panel with what it was judged from."""
        if self._served is None:
            assert self.record is not None, "collect comes first"
            store = PanelStore(self.folders.workdir, self.record.source, self.record.opinions, self.config.calendar)
            self._served = store.serve_with_evidence(self.as_of, self.record.known_at, symbols_of=self._chosen)
        return self._served

    def universe(self) -> UniverseChoice | None:
        """Return how the panel's symbols were chosen; None when the source has no more than are wanted."""
        self.served()
        return self._universe

    def _chosen(self, history: RawHistory) -> Sequence[str]:
        self._universe = universe_of(history, self.config, self.as_of)
        if self._universe is not None:
            return self._universe.symbols
        return history.bars.get_column("symbol").unique().sort().to_list()

    def cube(self) -> FeatureCube:
        """Return the features of the panel, from disk when they are sealed there, else built and sealed."""
        if self._cube is None:
            folder = self.folders.features / cube_id_of(self.panel())
            if is_whole(folder, CUBE_KIND):
                self._cube = load_cube(folder)
            else:
                self._cube = build_cube(self.panel())
                save_cube(self._cube, self.folders.features)
        return self._cube

    def data(self) -> TrainingData:
        """Return features and forward returns on one axis: what units train on."""
        if self._data is None:
            cube, panel = self.cube(), self.panel()
            if cube.symbols != panel.symbols or cube.sessions != panel.sessions:
                raise BadDataError("features and panel have different axes", where=cube.cube_id)
            returns_HST = forward_returns(panel, self.config.model.horizons).astype(np.float32)
            self._data = TrainingData(
                cube.sessions, cube.symbols, cube.names, cube.values_STF, cube.present_ST, returns_HST
            )
        return self._data

    def outcomes(self) -> pl.DataFrame:
        """Return the known outcomes of all symbols at the judged horizon."""
        if self._outcomes is None:
            panel = self.panel()
            self._outcomes = outcome_frame(panel, self.config.horizon_sessions, panel.symbols)
        return self._outcomes

    def folds(self) -> tuple[Fold, ...]:
        """Return the judged folds, oldest first, then the live one."""
        if self._folds is None:
            sessions, rule = self.panel().sessions, self.config.split_rule
            years = self.config.folds.years or self._newest_years(rule)
            judged = yearly_folds(sessions, years, rule, self._universe_of)
            live = live_fold(sessions, rule, self._live_universe_of)
            self._folds = (*judged, live)
        return self._folds

    def judged_folds(self) -> tuple[Fold, ...]:
        """Return the walk-forward folds."""
        return tuple(fold for fold in self.folds() if fold.fold_id != LIVE)

    def live(self) -> Fold:
        """Return the production fold."""
        return self.folds()[-1]

    def _universe_of(self, before: date) -> tuple[str, ...]:
        return self._primary_symbols(before, None)

    def _live_universe_of(self, before: date) -> tuple[str, ...]:
        return self._primary_symbols(before, self.panel().quality.live)

    def _primary_symbols(self, before: date, eligible: Sequence[str] | None) -> tuple[str, ...]:
        universe = self.config.universe
        return most_traded(
            self.panel(),
            universe.models,
            universe.window_sessions,
            before,
            pinned=universe.pinned,
            excluded=universe.excluded,
            eligible=eligible,
        )

    def _newest_years(self, rule: SplitRule) -> list[int]:
        """Return the newest years that have enough history before them, oldest first."""
        config, sessions = self.config, self.panel().sessions
        needed = max(rule.needed_sessions, config.universe.window_sessions)
        first_of = {session.year: index for index, session in reversed(list(enumerate(sessions)))}
        years = sorted(year for year, index in first_of.items() if index >= needed)
        if not years:
            raise BadDataError(
                "too little history to judge a single year",
                expected=f"{needed} sessions before it",
                found=f"{len(sessions)} sessions since {sessions[0]}" if sessions else "no sessions",
                fix="collect more history, or lower [training] valid_sessions or [folds] min_train_sessions",
            )
        return years[-config.folds.newest :]
