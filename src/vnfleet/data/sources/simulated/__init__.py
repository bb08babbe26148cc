"""A vendor that does not exist: a seeded HOSE-like market with a planted signal, and faults on request."""

from vnfleet.data.sources.simulated.faults import Fault, FaultKind
from vnfleet.data.sources.simulated.market import SimulatedMarket
from vnfleet.data.sources.simulated.source import SimulatedSource

__all__ = ["Fault", "FaultKind", "SimulatedMarket", "SimulatedSource"]
