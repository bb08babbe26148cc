"""Ground floor: errors, clock, atomic files, ids, sealed folders and the frames every room exchanges.

Imports nothing else of vnfleet.
"""
