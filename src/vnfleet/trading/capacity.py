"""How much money a way of trading can carry: the account size at which its orders still fit into the market."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vnfleet.core.errors import UsageError

Floats = NDArray[np.float64]

FITTING_FRAC = 0.9
"""This fraction of the orders must fit whole."""


def portfolio_capacity_vnd(
    requested_frac_N: Floats,
    traded_value_vnd_N: Floats,
    max_participation_frac: float,
) -> float | None:
    """Return the largest account in VND of whose orders `FITTING_FRAC` still fit whole under the participation limit.

    An order of a fraction f of the equity on a day on which V dong of the symbol were traded fits into accounts of up
    to max_participation_frac * V / f. The capacity is the size that at least nine orders in ten fit into; at any larger
    size more than one in ten is cut. It says nothing about moving the price, which starts earlier.

    requested_frac_N : each order's value over the equity it was sized with, 0 or more, purchases and sales alike [N].
    traded_value_vnd_N : value traded in that symbol on the order's session [N].
    max_participation_frac : largest share of the day's volume that an order may take, in (0, 1].

    Orders of nothing are left out, and orders on days without a trade (value 0 or NaN): those fail at any size.
    None when no order remains.

    Raises `UsageError` for unequal lengths, a negative or unknown order, a negative value, or an impossible limit.
    """
    if requested_frac_N.shape != traded_value_vnd_N.shape or requested_frac_N.ndim != 1:
        raise UsageError(
            "every order needs the value traded on its day",
            expected=requested_frac_N.shape,
            found=traded_value_vnd_N.shape,
        )
    if not 0.0 < max_participation_frac <= 1.0:
        raise UsageError("max_participation_frac must lie in (0, 1]", found=max_participation_frac)
    if (traded_value_vnd_N < 0).any():
        raise UsageError("traded values are 0 or more", found=traded_value_vnd_N.min())
    traded_N = traded_value_vnd_N > 0
    if not (np.isfinite(requested_frac_N) & (requested_frac_N >= 0))[traded_N].all():
        raise UsageError("orders are fractions of the equity, 0 or more", found=requested_frac_N[traded_N].min())
    counts_N = traded_N & (requested_frac_N > 0)
    largest_vnd = np.sort(max_participation_frac * traded_value_vnd_N[counts_N] / requested_frac_N[counts_N])
    if largest_vnd.size == 0:
        return None
    num_fitting = int(np.ceil(FITTING_FRAC * largest_vnd.size - 1e-9))
    return float(largest_vnd[largest_vnd.size - num_fitting])
