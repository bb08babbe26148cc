"""Numbers as people read them: percent only here, a real minus sign, a dash for what is not known."""

from __future__ import annotations

import math
from calendar import day_name, month_name
from datetime import date, datetime

from vnfleet.core.clock import ICT

UNKNOWN = "–"
_MINUS = "−"
_THIN = "\N{NARROW NO-BREAK SPACE}"
_MINUTE, _HOUR = 60, 3600
_GIB = 1024
_MILLION, _BILLION = 1e6, 1e9


def number(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """Return ``1,234.50``, ``+0.11`` or a dash for None and NaN; never ``-0.00``."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    rounded = round(value, digits) + 0.0
    text = f"{rounded:+,.{digits}f}" if signed and rounded else f"{rounded:,.{digits}f}"
    return text.replace("-", _MINUS)


def percent(frac: float | None, digits: int = 1, *, signed: bool = False) -> str:
    """Return a fraction as percent: 0.538 gives ``53.8 %``."""
    if frac is None or not math.isfinite(frac):
        return UNKNOWN
    return f"{number(100 * frac, digits, signed=signed)}{_THIN}%"


def percent_range(low: float | None, high: float | None, digits: int = 1) -> str:
    """Return ``52.9 to 54.6 %``, or a dash when either end is not known."""
    if low is None or high is None:
        return UNKNOWN
    return f"{number(100 * low, digits)} to {percent(high, digits)}"


def number_range(low: float | None, high: float | None, digits: int = 3) -> str:
    """Return ``0.081 to 0.139``, or a dash when either end is not known."""
    if low is None or high is None:
        return UNKNOWN
    return f"{number(low, digits)} to {number(high, digits)}"


def vnd(value: float | None) -> str:
    """Return an amount of money as ``12.4 bn VND`` or ``850 m VND``."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if abs(value) >= _BILLION:
        return f"{number(value / _BILLION, 1)} bn VND"
    return f"{number(value / _MILLION, 0)} m VND"


def duration(seconds: float | None) -> str:
    """Return ``3.4 s``, ``2 min 05 s`` or ``1 h 12 min``."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds < _MINUTE:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02d} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE:02d} min"


def memory(mib: float | None) -> str:
    """Return a peak of memory as ``812 MiB`` or ``3.2 GiB``."""
    if mib is None or not math.isfinite(mib):
        return UNKNOWN
    return f"{mib / _GIB:.1f} GiB" if mib >= _GIB else f"{mib:.0f} MiB"


def day(value: date) -> str:
    """Return ``Friday 20 November 2026``."""
    return f"{day_name[value.weekday()]} {value.day} {month_name[value.month]} {value.year}"


def moment(value: datetime) -> str:
    """Return an aware time in Vietnam: ``2026-11-22 19:04 ICT``."""
    return f"{value.astimezone(ICT):%Y-%m-%d %H:%M} ICT"
