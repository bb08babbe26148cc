"""The log of trials: every variant that was judged on walk-forward sessions here, whatever came of it.

The best of many variants looks skilled by luck alone, so the tests that allow for a search need all of them
(`evaluation.proof`, the deflated Sharpe ratio). One sealed folder a variant, ``logs/trials/<model_id>/``: the same
recipe on newer prices is the same trial. A week counts the trials recorded up to its own, so that a week run again
decides the same whatever was tried since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import frame_sha256, short_id
from vnfleet.core.sealed import read_manifest, sealing, verify

TRIAL_KIND = "trial"
DAILY_NAME = "daily.parquet"
DAILY_SCHEMA: dict[str, pl.DataType] = {
    "session": pl.Date(),
    "rank_ic": pl.Float64(),
    "active_return_frac": pl.Float64(),
}
_MIN_RETURNS = 60
_MIN_SPREAD_TRIALS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One variant: when it was first judged, and its daily figures.

    daily : `DAILY_SCHEMA`, ascending; rank IC, and the return of its simulated account over equal weight.
    """

    model_id: str
    recorded_at: datetime
    daily: pl.DataFrame

    @property
    def sharpe(self) -> float | None:
        """Mean over standard deviation (ddof 1) of the active returns, per session; None under 60 of them."""
        returns_T = self.daily.get_column("active_return_frac").drop_nulls().to_numpy()
        if returns_T.size < _MIN_RETURNS or np.ptp(returns_T) == 0:
            return None
        return float(returns_T.mean() / returns_T.std(ddof=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialBook:
    """The trials a week knows of, oldest first."""

    trials: tuple[Trial, ...]

    @property
    def book_id(self) -> str:
        """Identity of all that is in it."""
        return short_id([[trial.model_id, frame_sha256(trial.daily)] for trial in self.trials])

    @property
    def sharpe_sd(self) -> float | None:
        """Standard deviation (ddof 1) of the trials' Sharpe ratios per session; None while there are fewer than ten.

        A few of them say little: two strategies of one recipe are nearly twins, and would let the best of many pass.
        """
        known = [trial.sharpe for trial in self.trials if trial.sharpe is not None]
        return float(np.std(known, ddof=1)) if len(known) >= _MIN_SPREAD_TRIALS else None

    def daily_ic(self) -> pl.DataFrame:
        """Return model_id, session, rank_ic of all trials; sessions without a ranking are left out."""
        frames = [
            trial.daily.select(pl.lit(trial.model_id).alias("model_id"), "session", "rank_ic") for trial in self.trials
        ]
        empty = pl.DataFrame(schema={"model_id": pl.String, "session": pl.Date, "rank_ic": pl.Float64})
        return pl.concat([empty, *frames]).drop_nulls("rank_ic")


def record_trial(folder: Path, model_id: str, daily: pl.DataFrame, now: datetime) -> None:
    """Write the variant into the log at `folder`; a known one keeps its date and takes the newer series."""
    series = daily.select(pl.col(name).cast(dtype) for name, dtype in DAILY_SCHEMA.items()).sort("session")
    known = _read(folder / model_id)
    if known is not None and known.daily.equals(series):
        return
    first = now if known is None else known.recorded_at
    with sealing(folder / model_id, TRIAL_KIND, {"model_id": model_id, "recorded_at": first.isoformat()}) as scratch:
        series.write_parquet(scratch / DAILY_NAME)


def trials_up_to(folder: Path, model_ids: Sequence[str]) -> TrialBook:
    """Return the trials recorded up to the newest of `model_ids`, which must be in the log."""
    found = [trial for trial in (_read(path) for path in sorted(folder.glob("[!.]*"))) if trial is not None]
    own = [trial.recorded_at for trial in found if trial.model_id in model_ids]
    if not own:
        raise BadDataError("a trial is not in the log", where=folder, expected=list(model_ids))
    known = [trial for trial in found if trial.recorded_at <= max(own)]
    return TrialBook(trials=tuple(sorted(known, key=lambda trial: (trial.recorded_at, trial.model_id))))


def _read(folder: Path) -> Trial | None:
    """Return the trial sealed in `folder`, None when there is none; a damaged one still counts, without its figures."""
    try:
        if read_manifest(folder, TRIAL_KIND) is None:
            return None
        meta = verify(folder, TRIAL_KIND).meta
        daily = pl.read_parquet(folder / DAILY_NAME)
        return Trial(
            model_id=str(meta["model_id"]), recorded_at=datetime.fromisoformat(str(meta["recorded_at"])), daily=daily
        )
    except (BadDataError, OSError, ValueError, KeyError, pl.exceptions.PolarsError):
        long_ago = datetime.min.replace(tzinfo=UTC)
        return Trial(model_id=folder.name, recorded_at=long_ago, daily=pl.DataFrame(schema=DAILY_SCHEMA))
