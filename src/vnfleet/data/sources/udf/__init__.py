"""One adapter for chart feeds that speak UDF, with a profile for each vendor."""

from vnfleet.data.sources.udf.source import Udf

__all__ = ["Udf"]
