"""The time there is: a deadline or a budget in minutes, and the plan of work cut to fit before it starts.

What may be given up is fixed: first seeds, then epochs (a whole, shorter learning-rate cycle), never anything else, and
never without saying so. The decision is taken once; nothing looks at the clock while training runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from itertools import cycle

from vnfleet.core.clock import ICT
from vnfleet.core.errors import UsageError

MIN_SEEDS, MIN_EPOCHS = 1, 2
RESERVE_SECONDS = 180.0  # evaluation to report on two cores, where no earlier cycle is known
MAX_AHEAD = timedelta(days=366)  # what is further away is a slip of the pen
SLACK_FRAC = 0.1  # measured seconds per step vary by a few percent from minute to minute
_CLOCK_TIME = re.compile(r"\d{1,2}:\d{2}")
_THREE_QUARTERS, _TWO_THIRDS = 0.75, 2.0 / 3.0


def parse_deadline(text: str, now: datetime) -> datetime:
    """Return the moment `text` names: ``2026-11-23T08:45``, in Vietnam time unless it names a zone.

    A bare clock time such as ``08:45`` is the next one in Vietnam, which suits a schedule that repeats.

    - text: what a person wrote.
    - now: the current time, aware.

    Raises
    ------
    UsageError
        When it is no moment, a day without a time, not after `now`, or more than a year away.
    """
    text = text.strip()
    try:
        moment = _next_clock_time(text, now) if _CLOCK_TIME.fullmatch(text) else _moment(text).astimezone(ICT)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            "a deadline cannot be read",
            expected="a moment such as 2026-11-23T08:45 (Vietnam time) or the next 08:45",
            found=repr(text),
        ) from error
    if moment <= now:
        raise UsageError(
            "the deadline has passed",
            expected=f"a moment after {moment_words(now)}",
            found=moment_words(moment),
            fix="pass a later --deadline, or none",
        )
    if moment - now > MAX_AHEAD:
        raise UsageError("the deadline is more than a year away", found=moment_words(moment))
    return moment


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if ":" not in text and "T" not in text.upper():
        raise ValueError("a day without a time")
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=ICT)


def _next_clock_time(text: str, now: datetime) -> datetime:
    hour, minute = text.split(":")
    local = now.astimezone(ICT)
    moment = datetime.combine(local.date(), time(int(hour), int(minute)), tzinfo=ICT)
    return moment if moment > local else moment + timedelta(days=1)


def moment_words(moment: datetime) -> str:
    """Return an aware moment as people here read it: ``2026-11-23 08:45 ICT``."""
    return moment.astimezone(ICT).strftime("%Y-%m-%d %H:%M ICT")


def duration_words(seconds: float) -> str:
    """Return a duration as words: ``40 s``, ``12 min``, ``3 h 05 min``; negative ones count as 0."""
    if seconds < 90.0:
        return f"{max(0, round(seconds))} s"
    minutes = round(seconds / 60.0)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLeft:
    """Time for training: `seconds` from now (negative when the reserve alone is too long), everything done by `until`.

    `reserve_seconds` are kept for the steps after training; both times are seconds, `until` is aware.
    """

    seconds: float
    until: datetime
    reserve_seconds: float

    @property
    def words(self) -> str:
        """The time as one sentence."""
        reserve = duration_words(self.reserve_seconds)
        return (
            f"everything is to be done by {moment_words(self.until)}: {duration_words(self.seconds)} for training, "
            f"{reserve} kept for the steps after it"
        )


def time_left(*, budget_minutes: float, deadline: str, now: datetime, reserve_seconds: float) -> TimeLeft | None:
    """Return the time for training, or None when neither a budget nor a deadline was asked for.

    - budget_minutes: minutes from `now`; 0 means none.
    - deadline: see `parse_deadline`; empty means none. With both, the earlier one counts.
    - now: the current time, aware.
    - reserve_seconds: kept for the steps after training.

    Raises
    ------
    UsageError
        When the deadline cannot be read or has passed, or the budget is no number of minutes of a year or less.
    """
    if not 0.0 <= budget_minutes <= MAX_AHEAD.total_seconds() / 60.0:  # refuses NaN too
        raise UsageError("a budget must be a number of minutes, of a year at most", found=budget_minutes)
    ends: list[datetime] = []
    if budget_minutes > 0.0:
        ends.append(now + timedelta(minutes=budget_minutes))
    if deadline.strip():
        ends.append(parse_deadline(deadline, now))
    if not ends:
        return None
    until = min(ends)
    seconds = (until - now).total_seconds() - reserve_seconds
    return TimeLeft(seconds=seconds, until=until, reserve_seconds=reserve_seconds)


def reserve_after(steps: Sequence[str], earlier: Sequence[Mapping[str, float]]) -> float:
    """Return the seconds to keep for `steps`, the steps that follow training.

    - steps: their names; none means that nothing follows.
    - earlier: seconds by step of earlier cycles. Each step counts with the longest time it ever took; a step that no
      cycle knows counts with its equal share of `RESERVE_SECONDS`.
    """
    share = RESERVE_SECONDS / max(1, len(steps))
    known = ((cycle_seconds[step] for cycle_seconds in earlier if step in cycle_seconds) for step in steps)
    return sum(max(seconds, default=share) for seconds in known)


def epoch_rungs(max_epochs: int) -> tuple[int, ...]:
    """Return `max_epochs` and the shorter cycles tried instead, each 3/4 or 2/3 of the one before, down to 2.

    Few and fixed, so that two weeks with slightly different time left train the same recipe: 8, 6, 4, 3, 2.
    """
    rungs, exact, factors = [max_epochs], float(max_epochs), cycle((_THREE_QUARTERS, _TWO_THIRDS))
    while rungs[-1] > MIN_EPOCHS:
        exact *= next(factors)
        shorter = max(MIN_EPOCHS, round(exact))
        if shorter < rungs[-1]:
            rungs.append(shorter)
    return tuple(rungs)


def ladder(num_seeds: int, max_epochs: int) -> Iterator[tuple[int, int]]:
    """Yield (seeds, epochs) in the order they are tried: what was asked, fewer seeds, then 1 seed and fewer epochs."""
    for seeds in range(num_seeds, MIN_SEEDS - 1, -1):
        yield seeds, max_epochs
    for epochs in epoch_rungs(max_epochs)[1:]:
        yield MIN_SEEDS, epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetChoice:
    """What is trained in the time there is, beside what was asked.

    Attributes
    ----------
    asked_seeds, asked_epochs, asked_seconds : what the recipe asks for and how long that would take.
    num_seeds, max_epochs, expected_seconds : what is trained and how long that takes.
    seconds_left : time for training; None means no limit.
    """

    asked_seeds: int
    asked_epochs: int
    asked_seconds: float
    num_seeds: int
    max_epochs: int
    expected_seconds: float
    seconds_left: float | None

    @property
    def is_reduced(self) -> bool:
        """True when less is trained than was asked for: another recipe."""
        return (self.num_seeds, self.max_epochs) != (self.asked_seeds, self.asked_epochs)

    @property
    def fits(self) -> bool:
        """True when it is expected to end in time with a tenth in hand."""
        return self.seconds_left is None or _fits(self.expected_seconds, self.seconds_left)

    @property
    def late_seconds(self) -> float:
        """Expected delay beyond the time left; 0 when there is none."""
        return 0.0 if self.seconds_left is None else max(0.0, self.expected_seconds - self.seconds_left)

    @property
    def words(self) -> str:
        """What was asked, what fits, what was given up and what that means, for people."""
        if not self.asked_seconds:
            return f"{_size(self.asked_seeds, self.asked_epochs)}: all finished before, nothing is left to train"
        asked = f"{_size(self.asked_seeds, self.asked_epochs)}, about {duration_words(self.asked_seconds)}"
        if self.seconds_left is None:
            return f"{asked}; no deadline or budget"
        left = f"{duration_words(self.seconds_left)} left for training" if self.seconds_left > 0.0 else "no time left"
        if not self.is_reduced:
            return f"{asked}; {left}: {'fits, nothing is given up' if self.fits else self._lateness()}"
        chosen = f"{_size(self.num_seeds, self.max_epochs)}, about {duration_words(self.expected_seconds)}"
        ending = "" if self.fits else f" ({self._lateness()})"
        return (
            f"asked for {asked}; {left}: training {chosen}{ending}. Given up: {self._given_up()}. "
            f"The recipe id changes with it ({self._reuse()}), and the gate judges it as another recipe"
        )

    def _lateness(self) -> str:
        if not self.late_seconds:
            return "the quickest valid set there is, with less than a tenth of its time to spare"
        late = duration_words(self.late_seconds)
        return f"not even the quickest valid set fits: started all the same, about {late} late"

    def _given_up(self) -> str:
        seeds, epochs = self.asked_seeds - self.num_seeds, self.asked_epochs - self.max_epochs
        parts = [f"{seeds} of {self.asked_seeds} seeds"] * bool(seeds)
        parts += [f"{epochs} of at most {self.asked_epochs} epochs (the whole cycle is shorter)"] * bool(epochs)
        return " and ".join(parts)

    def _reuse(self) -> str:
        if self.max_epochs == self.asked_epochs:
            return "members that are finished are reused"
        return "members of longer cycles are not reused"


def fit_to_budget(
    estimate_of: Callable[[int, int], float], *, num_seeds: int, max_epochs: int, seconds_left: float | None
) -> BudgetChoice:
    """Return the first rung of the ladder that fits into `seconds_left` with a tenth in hand.

    When none fits, the quickest is chosen all the same: a set that is late is worth more than none. That need not be
    the smallest one, because units that are finished already are those of the recipe as asked for.

    - estimate_of: seconds of the units still open with so many seeds and epochs; asked only as far as needed.
    - num_seeds, max_epochs: what the recipe asks for; never exceeded.
    - seconds_left: time for training, None for no limit. Negative values are too little for anything.
    """
    tried: dict[tuple[int, int], float] = {}
    for rung in ladder(num_seeds, max_epochs):
        tried[rung] = estimate_of(*rung)
        if seconds_left is None or _fits(tried[rung], seconds_left):
            chosen = rung
            break
    else:
        chosen = min(tried, key=tried.__getitem__)
    return BudgetChoice(
        asked_seeds=num_seeds,
        asked_epochs=max_epochs,
        asked_seconds=tried[num_seeds, max_epochs],
        num_seeds=chosen[0],
        max_epochs=chosen[1],
        expected_seconds=tried[chosen],
        seconds_left=seconds_left,
    )


def _fits(seconds: float, seconds_left: float) -> bool:
    # nothing to train always fits, even when the time is up
    return seconds <= 0.0 or seconds * (1.0 + SLACK_FRAC) <= seconds_left


def _size(num_seeds: int, max_epochs: int) -> str:
    seeds = f"{num_seeds} seed{'s' * (num_seeds != 1)}"
    return f"{seeds} and at most {max_epochs} epoch{'s' * (max_epochs != 1)}"
