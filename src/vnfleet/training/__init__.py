"""Turns folds of features and returns into trained units: plan of work, trainer, checkpoints, engines."""
