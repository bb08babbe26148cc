"""What the commands of the shared folder show."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vnfleet.cli.terminal import Terminal, duration

if TYPE_CHECKING:
    from vnfleet.cycle.remote_audit import Audit
    from vnfleet.cycle.remote_home import HomeCheck
    from vnfleet.cycle.remote_sync import Synced
    from vnfleet.remote.progress import TransferProgress

_NOTE_SECONDS = 5.0
_SHOWN = 20
_MIB = 2**20


@dataclass(slots=True)
class ProgressTeller:
    """Tells how far a transfer is, now and then, on stderr."""

    terminal: Terminal
    _told: float = field(default_factory=time.monotonic)

    def __call__(self, progress: TransferProgress) -> None:
        """Leave a line every few seconds."""
        now = time.monotonic()
        if now - self._told < _NOTE_SECONDS:
            return
        self._told = now
        left = "" if progress.eta_seconds is None else f", about {duration(progress.eta_seconds)} left"
        sizes = f"{size_words(progress.bytes_done)} of {size_words(progress.bytes_total)}"
        speed = f"{size_words(progress.bytes_per_second)}/s"
        self.terminal.note(f"{progress.files_done} of {progress.files_total} files, {sizes}, {speed}{left}")


def tell_check(terminal: Terminal, text: str, found: HomeCheck) -> None:
    """Show how long each thing took on the remote called `text`, the models there, and what it lacks."""
    took = [(name, f"{seconds:.2f}") for name, seconds in found.seconds.items()]
    terminal.table(shown_remote(text), ("what", "seconds"), took)
    rows = [
        (one.release_id, one.num_models, size_words(one.num_bytes), "" if one.has_manifest else "not finished")
        for one in found.releases
    ]
    if rows:
        terminal.table("Models there", ("release", "models", "size", ""), rows)
    else:
        terminal.say("no models there yet: vnfleet remote sync --up sends the live set")
    for line in found.missing:
        terminal.say(f"!! {line}: vnfleet remote init")
    terminal.say("the remote gives back what is written to it")


def tell_sync(terminal: Terminal, done: Synced) -> None:
    """Show what travelled, or would, and what was left alone."""
    words = {"up": "to the remote", "down": "to here", "conflict": "left alone"}
    shown = done.moves[:_SHOWN]
    if shown:
        rows = [(words[move.way], move.path, size_words(move.num_bytes), move.why) for move in shown]
        terminal.table("Files that would travel" if done.dry_run else "Files", ("", "file", "size", "why"), rows)
    if len(done.moves) > _SHOWN:
        terminal.say(f"and {len(done.moves) - _SHOWN} more (all of them: --json)")
    counts = [
        f"{len(moves)} {words[way]} ({size_words(sum(move.num_bytes for move in moves))})"
        for way in ("up", "down")
        if (moves := done.of(way))
    ]
    conflicts = done.of("conflict")
    terminal.say(f"files: {', '.join(counts) or 'nothing to do'}; {done.num_equal} are equal on both sides")
    if conflicts:
        terminal.say(f"{len(conflicts)} left alone: with --up this machine's version wins, with --down the remote's")


def tell_audit(terminal: Terminal, text: str, found: Audit) -> None:
    """Show the space on the remote called `text`, what lies there, and what nobody needs."""
    space = found.space
    parts = [
        f"{name} {size_words(value)}"
        for name, value in (
            ("in all", space.total_bytes),
            ("used", space.used_bytes),
            ("free", space.free_bytes),
            ("in the trash", space.trashed_bytes),
        )
        if value is not None
    ]
    terminal.say(f"{shown_remote(text)}: {', '.join(parts) or 'this remote does not tell its space'}")
    rows = [(f"{name}/" if name else "(root)", files, size_words(size)) for name, (files, size) in found.sizes.items()]
    terminal.table("What lies there", ("folder", "files", "size"), rows)
    if found.waste:
        waste = [("" if one.removable else "!!", one.what, size_words(one.num_bytes)) for one in found.waste]
        terminal.table("What nobody needs (!! look yourself)", ("", "what", "size"), waste)
    else:
        terminal.say("nothing there that nobody needs")
    if space.trashed_bytes:
        terminal.say(
            f"The trash holds {size_words(space.trashed_bytes)} that count as used; it is the whole account's, so "
            f"vnfleet never empties it:  rclone cleanup {_name_of(text)}, or the drive's web page"
        )


def _name_of(text: str) -> str:
    return f"{text.partition(':')[0]}:" if ":" in text else "<remote>:"


def shown_remote(text: str) -> str:
    """Return how the remote is called, without the passwords a connection string may carry."""
    from vnfleet.remote.rclone import without_secrets  # noqa: PLC0415

    return without_secrets(text)


def size_words(num_bytes: float) -> str:
    """Return a size for a person: "412 B", "3.1 MiB", "14.2 GiB"."""
    for unit, scale in (("GiB", 2**30), ("MiB", _MIB), ("KiB", 2**10)):
        if num_bytes >= scale:
            return f"{num_bytes / scale:.1f} {unit}"
    return f"{num_bytes:.0f} B"
