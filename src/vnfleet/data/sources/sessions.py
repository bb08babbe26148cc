"""Which day a vendor's newest row may be of: today's is final only some time after the close."""

from __future__ import annotations

from datetime import date, time, timedelta

from vnfleet.core.clock import ICT, Clock

FINAL_FROM = time(15, 15)
"""Vendors' daily bars are final from about this time in Vietnam (measured on CafeF; closing auction ends 14:45)."""


def last_final_day(as_of: date, clock: Clock) -> date:
    """Return `as_of`, or yesterday in Vietnam while today's bars are not final and `as_of` is not before today."""
    now = clock.now().astimezone(ICT)
    return min(as_of, now.date() if now.time() >= FINAL_FROM else now.date() - timedelta(days=1))
