"""Prices from files on disk: CafeF's own fields or zips, AmiBroker exports, plain OHLCV; one file or a folder."""

from vnfleet.data.sources.files.source import FilesSource
from vnfleet.data.sources.files.units import Unit

__all__ = ["FilesSource", "Unit"]
