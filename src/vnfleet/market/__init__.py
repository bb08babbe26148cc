"""Rules of HOSE, HNX and UPCoM as dated, sourced tables: bands, ticks, lots, settlement, costs, sessions (pure)."""
