"""Reports for people: one self-contained HTML file per cycle, from frames and the gate's decision.

Knows nothing about how forecasts are made; charts are inline SVG written here, nothing is loaded from a network.
"""
