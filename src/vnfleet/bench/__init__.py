"""Measured speed: the same work by the plan's recipe, by peers and by the fleet, on this machine, in one run."""
