"""The written plan's `LocalDataPreparation`: prices, features and the package that travels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from vnfleet.cli.options import parsed_symbols, settings_of
from vnfleet.core.clock import Clock
from vnfleet.core.errors import UsageError
from vnfleet.cycle.config import CycleConfig
from vnfleet.cycle.own_models import featured_week, refuse_unknown
from vnfleet.cycle.packing import pack
from vnfleet.cycle.runner import Observer
from vnfleet.cycle.weekly import Week, run_cycle
from vnfleet.data.package import Package
from vnfleet.features.cube import FeatureCube


class LocalDataPreparation:
    """Prepares training data below `data_dir`, the ``data`` folder of a work directory.

    Features compare symbols with each other, so the whole market is collected, featured and packed; the symbols that
    are named are made sure to be in it.

    Parameters
    ----------
    data_dir : must be called ``data``: the folders beside it (``models``, ``logs``) belong to it.
    config : None: ``vnfleet.toml`` in the work directory or the current folder, with the environment over it.
    as_of : the last day of data; None: the last close.

    Raises `UsageError` when `data_dir` has another name, or the settings mean nothing.
    """

    def __init__(
        self,
        data_dir: str | Path = "./data",
        *,
        config: CycleConfig | None = None,
        as_of: date | None = None,
        observer: Observer | None = None,
        clock: Clock | None = None,
    ) -> None:
        folder = Path(data_dir).absolute()
        if folder.name != "data":
            raise UsageError(
                "the data folder of a work directory is called data", expected="./data", found=str(data_dir)
            )
        self.workdir = folder.parent
        self.config = config or settings_of(self.workdir)
        self._as_of, self._observer, self._clock = as_of, observer, clock

    def collect_data(self, symbols: Sequence[str]) -> Week:
        """Fetch prices up to the day asked for; a changed past is a new revision. Raises what a source raises."""
        week = run_cycle(
            self._with(symbols),
            workdir=self.workdir,
            as_of=self._as_of,
            last_step="collect",
            observer=self._observer,
            clock=self._clock,
        )
        self._as_of = week.as_of
        return week

    def engineer_features(self, symbols: Sequence[str]) -> FeatureCube:
        """Return the 50 features of every collected symbol; raises `UsageError` when one of `symbols` has none."""
        week = featured_week(
            self.workdir,
            config=self._with(symbols),
            as_of=self._as_of,
            observer=self._observer,
            clock=self._clock,
        )
        cube = week.cube()
        refuse_unknown(_chosen(symbols), cube.symbols)
        return cube

    def prepare_training_data_package(self, symbols: Sequence[str]) -> Package:
        """Return the sealed package of judged prices below ``data/training_package``; never a pickle."""
        self.engineer_features(symbols)
        packed = pack(
            self.workdir,
            config=self._with(symbols),
            as_of=self._as_of,
            observer=self._observer,
            clock=self._clock,
        )
        return packed.package

    def _with(self, symbols: Sequence[str]) -> CycleConfig:
        """Return the settings with `symbols` among those that are always collected."""
        universe = self.config.universe
        pinned = tuple(dict.fromkeys((*universe.pinned, *_chosen(symbols))))
        try:
            return replace(self.config, universe=replace(universe, pinned=pinned))
        except ValueError as error:
            raise UsageError("these symbols cannot be prepared", found=str(error)) from error


def _chosen(symbols: Sequence[str]) -> tuple[str, ...]:
    return parsed_symbols(symbols if isinstance(symbols, str) else " ".join(symbols))
