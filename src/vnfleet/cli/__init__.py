"""The command line: parses, calls the cycle or a room, prints; every decision is made below it.

``main`` turns errors into messages and exit codes, ``week`` holds the commands that run the cycle, ``serving`` those
that look after releases, ``looking`` those that only look. Heavy rooms are imported inside the commands, so that
``vnfleet --help`` answers at once.
"""

from vnfleet.cli.main import main

__all__ = ["main"]
