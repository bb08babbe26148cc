"""vnfleet: the weekly model factory for Vietnamese stocks."""

__version__ = "0.1.0"
