"""The log of trials: every variant that was judged on walk-forward sessions here, whatever came of it.

The best of many variants looks skilled by luck alone, so the tests that allow for a search need all of them
(`evaluation.proof`, the deflated Sharpe ratio). A variant is a recipe with a strategy (or a version of the user's own
model), the folds and symbols it was judged on, and the way an account followed it; the same on newer prices is the same
trial. One sealed folder each,
``logs/trials/<trial_id>/``, written as soon as its figures are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
from pydantic import JsonValue

from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import frame_sha256, short_id
from vnfleet.core.sealed import sealing, verify

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

    variant_id : what was judged, and on which folds and symbols.
    policy_id : how an account followed it; empty while only its rankings were judged.
    daily : `DAILY_SCHEMA`, ascending; rank IC, and the return of its simulated account over equal weight.
    """

    variant_id: str
    policy_id: str
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
    """All trials of a work directory, oldest first."""

    trials: tuple[Trial, ...]

    @property
    def book_id(self) -> str:
        """Identity of all that is in it."""
        return short_id([[trial.variant_id, trial.policy_id, frame_sha256(trial.daily)] for trial in self.trials])

    @property
    def num_trials(self) -> int:
        """How many variants were judged: of each as many as there were accounts that followed it, at least one."""
        ways: dict[str, set[str]] = {}
        for trial in self.trials:
            ways.setdefault(trial.variant_id, set()).update({trial.policy_id} - {""})
        return sum(max(1, len(policies)) for policies in ways.values())

    @property
    def sharpe_sd(self) -> float | None:
        """Standard deviation (ddof 1) of the trials' Sharpe ratios per session; None while there are fewer than ten.

        A few of them say little: two strategies of one recipe are nearly twins, and would let the best of many pass.
        """
        known = [trial.sharpe for trial in self.trials if trial.sharpe is not None]
        return float(np.std(known, ddof=1)) if len(known) >= _MIN_SPREAD_TRIALS else None

    def daily_ic(self) -> pl.DataFrame:
        """Return model_id (the variant), session, rank_ic of all; sessions without a ranking are left out."""
        longest = {trial.variant_id: trial for trial in sorted(self.trials, key=lambda trial: trial.daily.height)}
        frames = [
            trial.daily.select(pl.lit(variant_id).alias("model_id"), "session", "rank_ic")
            for variant_id, trial in sorted(longest.items())
        ]
        empty = pl.DataFrame(schema={"model_id": pl.String, "session": pl.Date, "rank_ic": pl.Float64})
        return pl.concat([empty, *frames]).drop_nulls("rank_ic")


def record_trial(folder: Path, variant_id: str, daily: pl.DataFrame, now: datetime, *, policy_id: str = "") -> None:
    """Write the variant into the log at `folder`.

    A known one keeps its date, and its figures where they reach further than `daily`: an older week may be looked at
    again.
    """
    series = daily.select(pl.col(name).cast(dtype) for name, dtype in DAILY_SCHEMA.items()).sort("session")
    trial_id = f"{variant_id}-{policy_id}" if policy_id else variant_id
    known = _read(folder / trial_id)
    if known is not None and (known.daily.equals(series) or _last(known.daily) > _last(series)):
        return
    first = now if known is None or known.daily.is_empty() else known.recorded_at
    meta: dict[str, JsonValue] = {"variant_id": variant_id, "policy_id": policy_id, "recorded_at": first.isoformat()}
    with sealing(folder / trial_id, TRIAL_KIND, meta) as scratch:
        series.write_parquet(scratch / DAILY_NAME)


def read_trials(folder: Path) -> TrialBook:
    """Return every trial in the log at `folder`; a damaged one still counts, without its figures."""
    found = [trial for trial in (_read(path) for path in sorted(folder.glob("[!.]*"))) if trial is not None]
    return TrialBook(
        trials=tuple(sorted(found, key=lambda trial: (trial.recorded_at, trial.variant_id, trial.policy_id)))
    )


def _last(daily: pl.DataFrame) -> date:
    last = daily.get_column("session").max()
    return last if isinstance(last, date) else date.min


def _read(folder: Path) -> Trial | None:
    """Return the trial in `folder`, None when there is no folder; a damaged one has no figures."""
    if not folder.is_dir():
        return None
    try:
        meta = verify(folder, TRIAL_KIND).meta
        daily = pl.read_parquet(folder / DAILY_NAME)
        return Trial(
            variant_id=str(meta["variant_id"]),
            policy_id=str(meta["policy_id"]),
            recorded_at=datetime.fromisoformat(str(meta["recorded_at"])),
            daily=daily,
        )
    except (BadDataError, OSError, ValueError, KeyError, pl.exceptions.PolarsError):
        return Trial(
            variant_id=folder.name,
            policy_id="",
            recorded_at=datetime.min.replace(tzinfo=UTC),
            daily=pl.DataFrame(schema=DAILY_SCHEMA),
        )
