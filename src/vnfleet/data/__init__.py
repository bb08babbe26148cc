"""Prices: sources, the append-only raw store, adjustment, the quality court and the panel everybody reads."""
