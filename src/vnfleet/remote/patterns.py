"""rclone's include patterns and the doubled names of mounts, for folders that are read without rclone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from pathlib import Path

_COPY = re.compile(r"(?P<stem>.+) \(\d+\)(?P<suffix>(?:\.[^.]+)*)")


class Pattern:
    """One include pattern as rclone reads it; every file matches None.

    ``*`` and ``?`` stay within a path segment, ``**`` does not, ``{a,b}`` offers a choice; a leading / starts at the
    listed folder, otherwise the pattern may start at any segment. Source: https://rclone.org/filtering/
    """

    def __init__(self, pattern: str | None) -> None:
        self._whole = None if pattern is None else re.compile(_expression(pattern))
        self._levels: list[re.Pattern[str]] | None = None
        if pattern is not None and pattern.startswith("/") and "**" not in pattern:
            # Folders that cannot lead to a match are not opened: on a mount that costs a round trip each.
            self._levels = [re.compile(_expression(f"/{level}")) for level in pattern[1:].split("/")]

    def matches(self, path: str) -> bool:
        """Return whether the file at `path` (POSIX, relative) is wanted."""
        return self._whole is None or self._whole.fullmatch(path) is not None

    def may_hold(self, folder: str) -> bool:
        """Return whether wanted files may lie below `folder`."""
        if self._levels is None:
            return True
        parts = folder.split("/")
        return len(parts) < len(self._levels) and self._levels[len(parts) - 1].fullmatch(parts[-1]) is not None


def original_of(name: str, beside: AbstractSet[str]) -> str:
    """Return the name a file was written under: mounts show a double of ``a.json`` as ``a (1).json`` beside it."""
    match = _COPY.fullmatch(name)
    if match is None:
        return name
    original = match["stem"] + match["suffix"]
    return original if original in beside else name


def copies_of(path: Path) -> Iterator[Path]:
    """Yield the doubles of `path` that a mount shows beside it."""
    if path.parent.is_dir():
        names = {one.name for one in path.parent.iterdir()}
        for name in sorted(names - {path.name}):
            if original_of(name, names | {path.name}) == path.name:
                yield path.with_name(name)


def _expression(pattern: str) -> str:
    anchored = pattern.startswith("/")
    parts: list[str] = []
    for token in re.findall(r"\*\*|[*?{},]|[^*?{},]+", pattern.removeprefix("/")):
        known = {"**": ".*", "*": "[^/]*", "?": "[^/]", "{": "(?:", "}": ")", ",": "|"}.get(token)
        parts.append(re.escape(token) if known is None else known)
    return ("" if anchored else "(?:.*/)?") + "".join(parts)
