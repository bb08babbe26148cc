"""Walk-forward folds, purged and embargoed: which sessions may teach, tune and judge.

A decision session t is an index on the panel's market axis, and its label is known at the close of t + h, so its
label window is the sessions t+1..t+h. Before every boundary the last h decision sessions are purged, so no label of
one part reaches into the next, and `embargo_sessions` more are left out (López de Prado, *Advances in Financial
Machine Learning*, ch. 7; walking forward no training row ever follows a test, so the purge alone is enough and the
embargo is caution).

::

    |------------ train ------------| gap |------ valid ------| gap |------- test -------|    gap = h + embargo
    |------------------------ refit --------------------------|
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    fold_id : the calendar year that is judged (``"2022"``) or a block of it (``"2022.1"``), ``"live"`` for production.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """How a fold is cut out of the sessions before its test.

    Parameters
    ----------
    horizon_sessions : h, the longest label; that many decision sessions are purged before every boundary.
    valid_sessions : length of the validation tail.
    min_train_sessions : a fold with fewer decision sessions in train is refused.
    embargo_sessions : so many more are left out at every boundary.
    train_sessions : only the newest so many decision sessions before the test teach and tune (a rolling window);
        None: all of them (an expanding one).
    test_sessions : a year is judged in blocks of so many sessions, each by models of its own; None: in one block. What
        is left at the end joins the block before it when it is shorter than half a block, so blocks have between half
        and one and a half times as many sessions; a year shorter than a block is one block.

    Raises
    ------
    ValueError
        When a length is impossible, or the rolling window is too short for its parts.
    """

    horizon_sessions: int
    valid_sessions: int
    min_train_sessions: int
    embargo_sessions: int = 0
    train_sessions: int | None = None
    test_sessions: int | None = None

    def __post_init__(self) -> None:
        if min(self.horizon_sessions, self.valid_sessions, self.min_train_sessions) < 1:
            raise ValueError(
                "horizon_sessions, valid_sessions and min_train_sessions must be at least 1, found "
                f"{self.horizon_sessions}, {self.valid_sessions}, {self.min_train_sessions}"
            )
        if self.embargo_sessions < 0 or (self.test_sessions is not None and self.test_sessions < 1):
            raise ValueError("embargo_sessions must not be negative, test_sessions must be at least 1")
        if self.train_sessions is not None and self.train_sessions < self.needed_sessions - self.gap_sessions:
            raise ValueError(
                f"train_sessions {self.train_sessions} is too short: {self.min_train_sessions} to train on, a gap of "
                f"{self.gap_sessions} and {self.valid_sessions} of validation must fit into it"
            )

    @property
    def gap_sessions(self) -> int:
        """Decision sessions left out before every boundary: purged and embargoed."""
        return self.horizon_sessions + self.embargo_sessions

    @property
    def needed_sessions(self) -> int:
        """Sessions that must lie before a test."""
        return self.min_train_sessions + self.valid_sessions + 2 * self.gap_sessions


def yearly_folds(
    sessions: Sequence[date], years: Sequence[int], rule: SplitRule, universe_of: Callable[[date], tuple[str, ...]]
) -> tuple[Fold, ...]:
    """Return the folds that judge all of these calendar years' sessions in the panel, oldest first within a year.

    `sessions` is the panel's market axis, strictly ascending; the newest year may be partial. A year in one block is
    the fold ``"2022"``, blocks of it are ``"2022.1"``, ``"2022.2"``, ... The last one may be longer or shorter than the
    others (see `SplitRule`); in a running year it grows from week to week. `universe_of` gets the first test session
    and must look only at sessions strictly before it.

    Raises
    ------
    BadDataError
        When a year has no sessions in the panel, or too few sessions lie before a fold.
    """
    _check(sessions)
    folds: list[Fold] = []
    for year in years:
        inside = [index for index, session in enumerate(sessions) if session.year == year]
        if not inside:
            raise BadDataError(
                f"the panel has no session in {year}", expected=f"{sessions[0]}..{sessions[-1]}", found=year
            )
        whole = range(inside[0], inside[-1] + 1)
        for block, test in enumerate(_blocks(whole, rule.test_sessions), start=1):
            fold_id = str(year) if rule.test_sessions is None else f"{year}.{block}"
            universe = tuple(universe_of(sessions[test.start]))
            folds.append(_fold(sessions, fold_id, test, test.start, rule, universe))
    return tuple(folds)


def live_fold(sessions: Sequence[date], rule: SplitRule, universe_of: Callable[[date], tuple[str, ...]]) -> Fold:
    """Return the production fold: as if the test began right after the last panel session.

    `refit` ends with the newest session whose label is known at the panel's last close (less the embargo). `test` is
    that last session, the one a forecast is made at: its label window lies wholly in the future. `universe_of` gets
    the day after it, so the last session itself may be used. Raises as `yearly_folds` does.
    """
    _check(sessions)
    end = len(sessions)
    universe = tuple(universe_of(sessions[-1] + timedelta(days=1)))
    return _fold(sessions, LIVE, range(end - 1, end), end, rule, universe)


def _blocks(year: range, length: int | None) -> list[range]:
    """Cut a year's sessions into blocks of `length`; a rest shorter than half of it joins the last block."""
    if length is None or len(year) <= length:
        return [year]
    starts = list(range(year.start, year.stop, length))
    if 2 * (year.stop - starts[-1]) < length:
        del starts[-1]
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], year.stop], strict=True)]


def _fold(
    sessions: Sequence[date], fold_id: str, test: range, first_unseen: int, rule: SplitRule, universe: tuple[str, ...]
) -> Fold:
    """Return the fold whose refit sessions have labels known before session index `first_unseen` opens."""
    refit_stop = first_unseen - rule.gap_sessions
    valid_start = refit_stop - rule.valid_sessions
    train_stop = valid_start - rule.gap_sessions
    start = 0 if rule.train_sessions is None else max(0, refit_stop - rule.train_sessions)
    if train_stop - start < rule.min_train_sessions:
        raise BadDataError(
            f"too little history before fold {fold_id}",
            expected=(
                f"{rule.min_train_sessions} train + {rule.valid_sessions} validation + 2 x {rule.gap_sessions} left out"
            ),
            found=f"{first_unseen} sessions since {sessions[0]}",
            fix="judge a later year, collect more history, or lower valid_sessions or min_train_sessions",
        )
    return Fold(
        fold_id=fold_id,
        train=range(start, train_stop),
        valid=range(valid_start, refit_stop),
        refit=range(start, refit_stop),
        test=test,
        universe=universe,
    )


def _check(sessions: Sequence[date]) -> None:
    if not sessions:
        raise BadDataError("the panel has no sessions")
    for earlier, later in pairwise(sessions):
        if later <= earlier:
            raise BadDataError(
                "sessions are not strictly ascending", expected=f"a session after {earlier}", found=later
            )
