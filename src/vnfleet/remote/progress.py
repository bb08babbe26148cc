"""How far a transfer is, and how fast it may go: shared by rclone and by plain folders."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from vnfleet.core.errors import UsageError

_UNITS = {"B": 1, "": 2**10, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "P": 2**50}
_RATE = r"(?:off|\d+(?:\.\d+)?(?:B|[KMGTP]i?B?)?)"
_RATES = re.compile(rf"({_RATE})(?::({_RATE}))?", re.IGNORECASE)
_SLOT = re.compile(rf"(?:(?:mon|tue|wed|thu|fri|sat|sun)-)?[0-2]?\d:[0-5]\d,{_RATES.pattern}", re.IGNORECASE)
_TELL_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferProgress:
    """How far one transfer is. Totals may still grow while its files are being looked up.

    Attributes
    ----------
    files_done, files_total : files that had to move; those already there and equal are not counted.
    bytes_done, bytes_total : bytes of those files.
    eta_seconds : seconds left at the present speed; None while unknown.
    bytes_per_second : present speed; 0.0 while unknown.
    """

    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    eta_seconds: float | None
    bytes_per_second: float


Told = Callable[[TransferProgress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """Speed limits in bytes per second, None for no limit (or one that rclone takes from its timetable)."""

    up: float | None = None
    down: float | None = None


def parse_bandwidth(text: str, *, with_timetable: bool = True) -> Bandwidth:
    """Return the limits that `text` means to rclone's ``--bwlimit``; none for "".

    ``4M`` is 4 MiB/s both ways, ``10M:1M`` is up:down, a bare number counts KiB/s, ``08:00,512k 23:00,off`` is a
    timetable (only `with_timetable`). Raises `UsageError` for anything else. Source: https://rclone.org/docs/#bwlimit-bwtimetable
    """
    if not text:
        return Bandwidth()
    rates = _RATES.fullmatch(text)
    if rates is not None:
        up = _bytes_per_second(rates[1])
        return Bandwidth(up=up, down=up if rates[2] is None else _bytes_per_second(rates[2]))
    if with_timetable and text.strip() and all(_SLOT.fullmatch(slot) for slot in text.split()):
        return Bandwidth()
    raise UsageError(
        "this is no bandwidth limit",
        found=repr(text),
        expected="bytes per second such as 4M or 512K, or up:down such as 10M:1M"
        + (", or a timetable like 08:00,1M 23:00,off" if with_timetable else " (a timetable needs rclone)"),
    )


def _bytes_per_second(rate: str) -> float | None:
    if rate.lower() == "off":
        return None
    number = re.match(r"[\d.]+", rate)
    assert number is not None
    value = float(number[0]) * _UNITS[rate[number.end() :].upper()[:1]]
    return value or None  # rclone reads 0 as no limit


@dataclass(slots=True, kw_only=True)
class Meter:
    """Counts what a plain copy moves, slows it down to a limit, and tells about it once a second."""

    files_total: int
    bytes_total: int
    bytes_per_second: float | None = None
    told: Told | None = None
    sleep: Callable[[float], None] = time.sleep
    monotonic: Callable[[], float] = time.monotonic
    _files_done: int = 0
    _bytes_done: int = 0
    _started: float = field(init=False)
    _told_at: float = field(init=False)

    def __post_init__(self) -> None:
        """Start the clock."""
        self._started = self._told_at = self.monotonic()

    def moved(self, num_bytes: int) -> None:
        """Count bytes; sleeps while that was faster than allowed."""
        self._bytes_done += num_bytes
        if self.bytes_per_second is not None:
            ahead_seconds = self._bytes_done / self.bytes_per_second - (self.monotonic() - self._started)
            if ahead_seconds > 0:
                self.sleep(ahead_seconds)
        if self.monotonic() - self._told_at >= _TELL_SECONDS:
            self.tell()

    def file_done(self) -> None:
        """Count one whole file; the last one is told at once."""
        self._files_done += 1
        if self._files_done == self.files_total:
            self.tell()

    def tell(self) -> None:
        """Hand the present state to `told`."""
        self._told_at = self.monotonic()
        if self.told is None:
            return
        seconds = self._told_at - self._started
        speed = self._bytes_done / seconds if seconds > 0 else 0.0
        left = max(self.bytes_total - self._bytes_done, 0)
        self.told(
            TransferProgress(
                files_done=self._files_done,
                files_total=self.files_total,
                bytes_done=self._bytes_done,
                bytes_total=self.bytes_total,
                eta_seconds=left / speed if speed > 0 else None,
                bytes_per_second=speed,
            )
        )
