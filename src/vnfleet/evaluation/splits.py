"""Walk-forward folds, purged: which sessions may teach, tune and judge.

A decision session t is an index on the panel's market axis, and its label is known at the close of t + h, so its
label window is the sessions t+1..t+h. Before every boundary the last h decision sessions are dropped, so no label of
one part reaches into the next (López de Prado, *Advances in Financial Machine Learning*, ch. 7).

::

    |------------ train ------------|  h  |------ valid ------|  h  |------- test -------|
    |------------------------ refit --------------------------|
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

from vnfleet.core.errors import BadDataError

LIVE = "live"
_PARTS = ("train", "valid", "refit", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """One fold: ranges of decision sessions (indices on the panel's market axis) and its primary symbols.

    Attributes
    ----------
    fold_id : the calendar year that is judged (``"2022"``), or ``"live"`` for production.
    train, valid : fitted on and tuned on; no label window of `train` reaches `valid`.
    refit : everything whose label is known before `test` opens: train, the purged gap, and valid.
    test : judged sessions; for ``"live"`` the last panel session, whose labels nobody knows yet.
    universe : primary symbols, chosen on data before the first test session.

    Raises
    ------
    ValueError
        When a range is empty, does not step by one, or is out of order.
    """

    fold_id: str
    train: range
    valid: range
    refit: range
    test: range
    universe: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.fold_id:
            raise ValueError("a fold needs a fold_id")
        for name in _PARTS:
            part: range = getattr(self, name)
            if part.step != 1 or part.start < 0 or len(part) == 0:
                raise ValueError(f"fold {self.fold_id}: {name} must be a non-empty range of sessions, found {part}")
        in_order = self.train.stop <= self.valid.start and self.valid.stop == self.refit.stop <= self.test.start
        if not in_order or self.refit.start != self.train.start:
            raise ValueError(f"fold {self.fold_id}: parts are out of order: {self}")

    def to_record(self) -> dict[str, object]:
        """Return the fold as JSON values; ranges become ``[start, stop]``."""
        ranges = {name: [getattr(self, name).start, getattr(self, name).stop] for name in _PARTS}
        return {"fold_id": self.fold_id, **ranges, "universe": list(self.universe)}

    @classmethod
    def from_record(cls, record: Mapping[str, object]) -> Fold:
        """Return the fold that `to_record` wrote; raises `BadDataError` on anything else."""
        expected = ("fold_id", *_PARTS, "universe")
        if set(record) != set(expected):
            raise BadDataError("a fold record has other fields", expected=list(expected), found=sorted(record))
        fold_id, universe = record["fold_id"], record["universe"]
        if not isinstance(fold_id, str):
            raise BadDataError("a fold record has a wrong fold_id", expected="text", found=fold_id)
        if not isinstance(universe, list | tuple):
            raise BadDataError("a fold record has a wrong universe", expected="a list of symbols", found=universe)
        symbols = tuple(symbol for symbol in universe if isinstance(symbol, str))
        if len(symbols) != len(universe):
            raise BadDataError("a fold record has a wrong universe", expected="a list of symbols", found=universe)
        train, valid, refit, test = (_range_of(record[name], name) for name in _PARTS)
        try:
            return cls(fold_id=fold_id, train=train, valid=valid, refit=refit, test=test, universe=symbols)
        except ValueError as error:
            raise BadDataError("a fold record contradicts itself", found=str(error)) from error


def yearly_folds(
    sessions: Sequence[date],
    years: Sequence[int],
    *,
    horizon_sessions: int,
    valid_sessions: int,
    min_train_sessions: int,
    universe_of: Callable[[date], tuple[str, ...]],
) -> tuple[Fold, ...]:
    """Return one expanding fold per calendar year, each tested on all of that year's sessions in the panel.

    `sessions` is the panel's market axis, strictly ascending; the newest year may be partial. `horizon_sessions` is h,
    the longest label. A fold with fewer than `min_train_sessions` decision sessions in train is refused.
    `universe_of` gets the first test session and must look only at sessions strictly before it.

    Raises
    ------
    ValueError
        On impossible settings.
    BadDataError
        When a year has no sessions in the panel, or too few sessions lie before it.
    """
    _check(sessions, horizon_sessions, valid_sessions, min_train_sessions)
    folds: list[Fold] = []
    for year in years:
        inside = [index for index, session in enumerate(sessions) if session.year == year]
        if not inside:
            raise BadDataError(
                f"the panel has no session in {year}", expected=f"{sessions[0]}..{sessions[-1]}", found=year
            )
        test = range(inside[0], inside[-1] + 1)
        train, valid, refit = _before(
            sessions,
            test.start,
            str(year),
            horizon_sessions=horizon_sessions,
            valid_sessions=valid_sessions,
            min_train_sessions=min_train_sessions,
        )
        universe = tuple(universe_of(sessions[test.start]))
        folds.append(Fold(fold_id=str(year), train=train, valid=valid, refit=refit, test=test, universe=universe))
    return tuple(folds)


def live_fold(
    sessions: Sequence[date],
    *,
    horizon_sessions: int,
    valid_sessions: int,
    min_train_sessions: int,
    universe_of: Callable[[date], tuple[str, ...]],
) -> Fold:
    """Return the production fold: as if the test began right after the last panel session.

    `refit` ends with the newest session whose label is known at the panel's last close. `test` is that last session,
    the one a forecast is made at: its label window lies wholly in the future. `universe_of` gets the day after it,
    so the last session itself may be used. Arguments and errors as for `yearly_folds`.
    """
    _check(sessions, horizon_sessions, valid_sessions, min_train_sessions)
    end = len(sessions)
    train, valid, refit = _before(
        sessions,
        end,
        LIVE,
        horizon_sessions=horizon_sessions,
        valid_sessions=valid_sessions,
        min_train_sessions=min_train_sessions,
    )
    universe = tuple(universe_of(sessions[-1] + timedelta(days=1)))
    return Fold(fold_id=LIVE, train=train, valid=valid, refit=refit, test=range(end - 1, end), universe=universe)


def _before(
    sessions: Sequence[date],
    test_start: int,
    fold_id: str,
    *,
    horizon_sessions: int,
    valid_sessions: int,
    min_train_sessions: int,
) -> tuple[range, range, range]:
    """Return (train, valid, refit): t + h < test_start for refit, t + h < valid.start for train."""
    refit_stop = test_start - horizon_sessions
    valid_start = refit_stop - valid_sessions
    train_stop = valid_start - horizon_sessions
    if train_stop < min_train_sessions:
        raise BadDataError(
            f"too little history before fold {fold_id}",
            expected=f"{min_train_sessions} train + {valid_sessions} validation + 2 x {horizon_sessions} purged",
            found=f"{test_start} sessions since {sessions[0]}",
            fix="judge a later year, collect more history, or lower valid_sessions or min_train_sessions",
        )
    return range(train_stop), range(valid_start, refit_stop), range(refit_stop)


def _check(sessions: Sequence[date], horizon_sessions: int, valid_sessions: int, min_train_sessions: int) -> None:
    if min(horizon_sessions, valid_sessions, min_train_sessions) < 1:
        raise ValueError(
            "horizon_sessions, valid_sessions and min_train_sessions must be at least 1, found "
            f"{horizon_sessions}, {valid_sessions}, {min_train_sessions}"
        )
    if not sessions:
        raise BadDataError("the panel has no sessions")
    for earlier, later in pairwise(sessions):
        if later <= earlier:
            raise BadDataError(
                "sessions are not strictly ascending", expected=f"a session after {earlier}", found=later
            )


def _range_of(value: object, name: str) -> range:
    if isinstance(value, list | tuple) and len(value) == 2:
        start, stop = value
        if type(start) is int and type(stop) is int:
            return range(start, stop)
    raise BadDataError(f"a fold record has a wrong {name}", expected="[start, stop]", found=value)
