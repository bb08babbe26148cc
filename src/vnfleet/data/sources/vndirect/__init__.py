"""VNDirect's finfo: raw and adjusted bars, references, boards of a day, announced corporate actions."""

from vnfleet.data.sources.vndirect.source import Vndirect

__all__ = ["Vndirect"]
