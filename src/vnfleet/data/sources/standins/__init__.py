"""Stand-in vendors: servers on this machine that answer as the real ones do, quirks and faults included.

They let every source be tried, tested and measured without a network and without anybody's data.
"""
