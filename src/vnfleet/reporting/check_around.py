"""One symbol around one session: its lines on one price base, what was stored and what is used, one-session moves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date

import polars as pl
from markupsafe import Markup

from vnfleet.reporting.check_charts import Curve, EvidencePicture, evidence_chart
from vnfleet.reporting.check_words import EVENT_WORDS, VERDICT_WORDS, check_words, said_of
from vnfleet.reporting.formats import UNKNOWN, number, percent

FIELDS = ("open_vnd", "high_vnd", "low_vnd", "close_vnd", "volume_shares")
_MEETING_SESSIONS = 5
RAW, VENDOR, USED, SECOND = "raw", "vendor", "used", "second"
LEGEND = (
    (RAW, "Raw close, as stored"),
    (VENDOR, "Vendor's adjusted close"),
    (USED, "Adjusted close used here (raw × factor)"),
    (SECOND, "Second vendor's adjusted close"),
)
_SHORT = {RAW: "Raw, stored", VENDOR: "Vendor's adjusted", USED: "Used here", SECOND: "Second vendor"}


@dataclass(frozen=True, slots=True)
class ValueRow:
    """Open, high, low, close and volume of one row in words; `changed` says which differ from what was stored."""

    name: str
    values: tuple[str, ...]
    changed: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Move:
    """One vendor's return from the session before, in words."""

    css_class: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Around:
    """The rows of one symbol near one session, None where a table has nothing of the symbol."""

    session: date
    sessions: tuple[date, ...]
    raw: pl.DataFrame | None
    used: pl.DataFrame | None
    second: pl.DataFrame | None
    events: pl.DataFrame | None
    findings: pl.DataFrame | None

    def draw(self, title: str) -> tuple[Markup, tuple[Move, ...]]:
        """Return the chart, all lines on the base of the session before, and each line's move into the session."""
        marked = self.sessions.index(self.session)
        raw = self._line(self.raw, pl.col("close_vnd"))
        vendor = self._line(self.raw, pl.col("adjusted_close_vnd"))
        used = self._used_on_base(marked)
        if not any(used):
            vendor = _on_base_of(raw, vendor, range(marked - 1, marked))
        base = used if any(used) else vendor
        lines = {
            USED: used,
            SECOND: _on_base_of(base, self._line(self.second, pl.col("adjusted_close_vnd")), range(marked)),
            VENDOR: _on_base_of(base, vendor, range(marked)),
            RAW: raw,
        }
        names = dict(LEGEND)
        curves = tuple(
            Curve(names[name], name, values, dots=name == RAW)
            for name, values in lines.items()
            if any(value is not None for value in values)
        )
        picture = EvidencePicture(
            title=title,
            sessions=self.sessions,
            marked=marked,
            curves=curves,
            sticks=self._sticks(),
            bars=tuple(
                (name, _finite(rows[0]["open_vnd"]), _finite(rows[0]["low_vnd"]), _finite(rows[0]["high_vnd"]))
                for name, rows in ((RAW, self._stored()), (USED, self._kept()))
                if rows
            ),
            doubled=tuple(row["close_vnd"] for row in self._stored()[1:] if row["close_vnd"] is not None),
            events=self._events(),
            others=self._others(),
        )
        moves = tuple(
            Move(name, _SHORT[name], _move(values, marked))
            for name, values in reversed(lines.items())
            if any(value is not None for value in values)
        )
        return evidence_chart(picture), moves

    def _used_on_base(self, marked: int) -> tuple[float | None, ...]:
        """Return the adjusted closes used, on the base of the last session before the doubtful one that is used."""
        adjusted = self._line(self.used, pl.col("close_vnd") * pl.col("factor"))
        factors = self._line(self.used, pl.col("factor"))
        before = [factor for factor in factors[:marked] if factor]
        base = before[-1] if before else next((factor for factor in factors if factor), 1.0)
        return tuple(None if value is None else value / base for value in adjusted)

    def values(self, *, served: bool) -> tuple[ValueRow, ...]:
        """Return what was stored that session (more than one row when the vendor contradicts itself) and what is used.

        served : False: nothing of the symbol is used at all.
        """
        stored = self._stored()
        rows = [
            ValueRow("stored", tuple(_value(row[name]) for name in FIELDS), (False,) * len(FIELDS)) for row in stored
        ]
        kept = self._kept()
        if kept:
            before = stored[0] if stored else {}
            differs = tuple(kept[0][name] != before.get(name) for name in FIELDS)
            rows.append(ValueRow("used", tuple(_value(kept[0][name]) for name in FIELDS), differs))
        else:
            words = "row not used" if served and stored else "no row" if not stored else "symbol not used"
            rows.append(ValueRow(words, (UNKNOWN,) * len(FIELDS), (bool(stored),) * len(FIELDS)))
        return tuple(rows)

    def _stored(self) -> list[dict[str, float | int | None]]:
        if self.raw is None:
            return []
        return self.raw.filter(pl.col("session") == self.session).select(FIELDS).to_dicts()

    def _kept(self) -> list[dict[str, float | int | None]]:
        if self.used is None:
            return []
        return self.used.filter(pl.col("session") == self.session).select(FIELDS).to_dicts()

    def _sticks(self) -> tuple[tuple[float, float] | None, ...]:
        """Return low and high of the stored bars, None where either is unknown or they contradict each other."""
        lows = self._line(self.raw, pl.col("low_vnd"))
        highs = self._line(self.raw, pl.col("high_vnd"))
        return tuple(
            (low, high) if low and high and low <= high else None for low, high in zip(lows, highs, strict=True)
        )

    def _line(self, frame: pl.DataFrame | None, value: pl.Expr) -> tuple[float | None, ...]:
        if frame is None:
            return (None,) * len(self.sessions)
        near = frame.filter(pl.col("session").is_between(self.sessions[0], self.sessions[-1]))
        known = dict(near.unique("session", keep="first", maintain_order=True).select("session", value).iter_rows())
        return tuple(_finite(known.get(day)) for day in self.sessions)

    def _events(self) -> tuple[tuple[int, str], ...]:
        if self.events is None:
            return ()
        near = self.events.filter(pl.col("session").is_in(list(self.sessions)))
        return tuple(
            (
                self.sessions.index(row["session"]),
                f"{row['session']}: {said_of(EVENT_WORDS, row['kind'])}, step × {number(row['factor_step'], 4)}",
            )
            for row in near.iter_rows(named=True)
        )

    def _others(self) -> tuple[tuple[int, str], ...]:
        """Return the other findings inside the chart, one mark a session."""
        if self.findings is None:
            return ()
        near = self.findings.filter(pl.col("session").is_in(list(self.sessions)) & (pl.col("session") != self.session))
        marks: dict[int, list[str]] = {}
        for row in near.iter_rows(named=True):
            told = f"{row['session']}: {check_words(row['check']).title}, {said_of(VERDICT_WORDS, row['verdict'])}"
            marks.setdefault(self.sessions.index(row["session"]), []).append(told)
        return tuple((place, "\n".join(told)) for place, told in marks.items())


def _on_base_of(
    base: tuple[float | None, ...], values: tuple[float | None, ...], places: range
) -> tuple[float | None, ...]:
    """Return `values` times their middle ratio to `base` at the last of `places`; anywhere, when they never meet there.

    The middle of a few: a single wrong close must not move a whole line, nor an older step.
    """
    ratios = {
        place: one / other
        for place, (one, other) in enumerate(zip(base, values, strict=True))
        if one and other and one > 0 < other
    }
    met = [ratios[place] for place in places if place in ratios][-_MEETING_SESSIONS:] or list(ratios.values())
    scale = sorted(met)[len(met) // 2] if met else 1.0
    return tuple(None if value is None else value * scale for value in values)


def _move(values: tuple[float | None, ...], marked: int) -> str:
    now = values[marked]
    before = next((value for value in reversed(values[:marked]) if value), None)
    return UNKNOWN if now is None or before is None else percent(now / before - 1, 1, signed=True)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _value(value: float | None) -> str:
    return UNKNOWN if value is None else number(value, 0)
