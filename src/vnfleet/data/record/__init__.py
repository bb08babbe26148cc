"""The record of what vendors said: collected with care, compared with what is known, append-only."""
