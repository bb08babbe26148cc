"""Forecasters: the Stockformer, its artifacts, and the baselines it must beat."""
