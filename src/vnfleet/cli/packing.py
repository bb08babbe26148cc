"""Commands that move judged prices between machines: data pack, data unpack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vnfleet.cli import options as o
from vnfleet.cli.terminal import terminal_of, watching

Folder = Annotated[
    Path, typer.Argument(help="A package (training_package/<id>), or the other side's weekly_updates folder.")
]
_BYTES_PER_MB = 1e6


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    data = typer.Typer(name="data", help="Move judged prices between machines.", no_args_is_help=True)
    data.command("pack", epilog="Example:  vnfleet data pack")(pack)
    data.command("unpack", epilog="Example:  vnfleet data unpack drive/data/training_package/0123456789abcdef")(unpack)
    app.add_typer(data)


def pack(context: typer.Context, as_of: o.AsOf = None, workdir: o.Workdir = o.WORKDIR, as_json: o.Json = False) -> int:
    """Write what was collected as a training package, and what changed since the last one as an increment."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    day = o.parsed_date(as_of)
    from vnfleet.cycle import packing  # noqa: PLC0415 - torch loads only when needed
    from vnfleet.settings import last_settings  # noqa: PLC0415

    with watching(terminal) as observer:
        packed = packing.pack(workdir, config=last_settings(workdir / "configs"), as_of=day, observer=observer)
    size = packed.package.size_bytes / _BYTES_PER_MB
    terminal.say(f"{packed.package.folder}: prices to {packed.package.facts.as_of}, {size:.1f} MB")
    if packed.update is not None:
        terminal.say(f"{packed.update.folder}: {packed.update.sentence}")
    elif packed.is_old:
        terminal.say("nothing new since this package was written")
    terminal.document({"ok": True, "exit_code": 0, **packed.as_json()})
    return 0


def unpack(context: typer.Context, folder: Folder, workdir: o.Workdir = o.WORKDIR, as_json: o.Json = False) -> int:
    """Verify a package or the increments since, merge them, rebuild the features and compare their hash."""
    terminal = terminal_of(context, workdir, as_json=as_json)
    from vnfleet.cycle import packing  # noqa: PLC0415 - torch loads only when needed

    done = packing.unpack(folder, workdir)
    terminal.say(
        f"{done.package.folder}: prices to {done.package.facts.as_of}, {len(done.cube.symbols)} symbols; every hash "
        f"holds, and the features built here are the packer's ({done.cube.cube_id})"
    )
    terminal.say("In Python: vnfleet.data.package.read_package(folder).panel; work without packages: vnfleet worker")
    terminal.document({"ok": True, "exit_code": 0, **done.as_json()})
    return 0
