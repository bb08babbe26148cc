"""Splits, metrics and honest statistics: prediction and outcome frames in, verdicts out; knows nothing of models."""
