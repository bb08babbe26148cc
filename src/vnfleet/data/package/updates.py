"""Weekly increments: `data/weekly_updates/<new_package_id>/` leads from one package to the next.

What travels for a table depends on what happened to it: nothing when it is the same, only the new rows when the old
ones are unchanged, the whole table when its past changed (a symbol that was re-based by its vendor, or repaired). The
new rows of all symbols share one file: 289 files of five rows would be mostly Parquet headers, and as many requests to
a drive that answers a few a second.

An increment names both packages, and the contents of every table of the new one: it is applied to exactly the package
it was made from, or refused; what it gives is proved table by table before it is sealed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.core.lock import holding
from vnfleet.core.sealed import MANIFEST_NAME, Manifest, read_manifest, sealing, verify
from vnfleet.data.package.facts import (
    FORMAT,
    JSON,
    PACKAGE_ID,
    PackageFacts,
    bytes_in,
    parse_facts,
    refuse_newer_format,
    refuse_other_files,
)
from vnfleet.data.package.folder import Package, open_package, remove_unfinished_folders, seal_package
from vnfleet.data.package.tables import SYMBOLS, read_table, table_sha256, write_table

UPDATE_KIND = "package-update"
_NEW_ROWS = "new_rows.parquet"


class UpdateFacts(BaseModel):
    """What an increment's manifest says.

    new : the package it leads to. extended : tables of which only the new rows travel. replaced : tables that travel
    whole, new ones too. removed : tables of the base that are gone. All others are the same in both packages.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = FORMAT
    base_package_id: Annotated[str, Field(pattern=PACKAGE_ID)]
    new: PackageFacts
    extended: tuple[str, ...]
    replaced: tuple[str, ...]
    removed: tuple[str, ...]

    def files(self) -> set[str]:
        """Return the files an increment like this is made of."""
        names = {_whole_file(self.new, name) for name in self.replaced}
        names |= {_rows_file(name) for name in self.extended}
        return names


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A sealed increment on this machine. size_bytes : of all files, the manifest included."""

    folder: Path
    facts: UpdateFacts
    size_bytes: int

    @property
    def revision(self) -> tuple[str, str]:
        """The package it starts from and the one it leads to."""
        return self.facts.base_package_id, self.facts.new.package_id

    @property
    def sentence(self) -> str:
        """What it does, in words."""
        facts = self.facts
        symbols = {
            how: sum(name.startswith(SYMBOLS) for name in getattr(facts, how))
            for how in ("extended", "replaced", "removed")
        }
        return (
            f"{facts.base_package_id} -> {facts.new.package_id} ({facts.new.as_of}): {symbols['extended']} symbols get "
            f"new rows, {symbols['replaced']} are replaced whole, {symbols['removed']} leave"
        )


def write_update(base: Package, new: Package, root: Path) -> Update | None:
    """Seal what leads from `base` to `new` as `root`/<id of new> (root: data/weekly_updates); None: they are the same.

    Only the manifest of `base` is looked at. An increment to the same package from another base is replaced.

    Raises `UsageError` when `new` is older than `base`, `BadDataError` when `new` is damaged, `BusyError` while another
    process packs there, `ResourceError` on a full disk.
    """
    if base.package_id == new.package_id:
        return None
    if new.facts.as_of < base.facts.as_of:
        raise UsageError(
            "an increment cannot lead back in time",
            expected=f"{base.facts.as_of} or later",
            found=new.facts.as_of,
            fix="name the older package as the base",
        )
    whole: dict[str, pl.DataFrame] = {}
    rows: dict[str, list[pl.DataFrame]] = {}
    extended: list[str] = []
    for name, entry in new.facts.tables.items():
        old = base.facts.tables.get(name)
        if old is not None and old.sha256 == entry.sha256:
            continue
        table = new.table(name)
        if old is not None and 0 < old.rows < entry.rows and table_sha256(table.head(old.rows)) == old.sha256:
            extended.append(name)
            rows.setdefault(_rows_file(name), []).append(table.slice(old.rows))
        else:
            whole[name] = table
    facts = UpdateFacts(
        base_package_id=base.package_id,
        new=new.facts,
        extended=tuple(extended),
        replaced=tuple(whole),
        removed=tuple(sorted(set(base.facts.tables) - set(new.facts.tables))),
    )
    target = root / new.package_id
    with holding(root / ".lock", "packing an increment"):
        remove_unfinished_folders(target)
        with sealing(target, UPDATE_KIND, JSON.validate_json(facts.model_dump_json())) as scratch:
            for name, table in whole.items():
                write_table(scratch / _whole_file(new.facts, name), table)
            for file, parts in rows.items():
                write_table(scratch / file, pl.concat(parts))
    return open_update(target)


def open_update(folder: Path) -> Update:
    """Return the increment in `folder` after checking every file.

    Raises `BadDataError` naming what is absent, damaged, too many, of another kind or of a newer format.
    """
    manifest = verify(folder, UPDATE_KIND)
    facts = _parsed(manifest, folder)
    refuse_other_files(folder, manifest, facts.files())
    return Update(folder=folder, facts=facts, size_bytes=bytes_in(folder, manifest))


def updates_in(root: Path) -> tuple[Update, ...]:
    """Return the increments under `root` whose manifests have arrived, oldest day first; whatever else is there is not.

    Raises `BadDataError` as `open_update` does.
    """
    folders = sorted(folder for folder in root.iterdir() if folder.is_dir()) if root.is_dir() else []
    arrived = [folder for folder in folders if not folder.name.startswith(".") and read_manifest(folder, UPDATE_KIND)]
    return tuple(sorted(map(open_update, arrived), key=lambda update: update.facts.new.as_of))


def apply_update(base: Path, update: Path) -> Package:
    """Put the package that `update` leads to beside `base` and return it; applying it again finds what is there.

    Raises `BadDataError` when `update` was made from another package, the base is absent, or anything is damaged or too
    many on either side: nothing is written then. `BusyError` and `ResourceError` as `write_package` does.
    """
    step = open_update(update)
    facts = step.facts
    if not (base / MANIFEST_NAME).is_file():
        raise BadDataError(
            "the package that this increment starts from is not here",
            expected=facts.base_package_id,
            where=base,
            fix="fetch that package, or the whole new one",
        )
    start = open_package(base)
    if start.package_id == facts.new.package_id:
        return start
    if start.package_id != facts.base_package_id:
        raise BadDataError(
            "this increment was made for another package",
            expected=f"package {facts.base_package_id}",
            found=f"package {start.package_id} of {start.facts.as_of}",
            where=update,
            fix="apply the increments in their order, none left out, or fetch the whole new package",
        )
    tables = _new_tables(start, step)
    kept = set(facts.new.tables) - set(tables)
    return seal_package(base.parent, facts.new, dict.fromkeys(kept, start), tables)


def catch_up(packages: Path, updates: Path, package_id: str) -> Package:
    """Apply every increment under `updates` that leads on from `package_id`, one after the other; return the last.

    packages : where packages lie, and where the new ones are put. Increments for other packages are left alone, and so
    is a folder whose manifest has not arrived; of two that start from the same one, that to the later day counts.

    Raises `BadDataError` as `apply_update` does; the packages made until then stay.
    """
    package = open_package(packages / package_id)
    folders = sorted(folder for folder in updates.iterdir() if folder.is_dir()) if updates.is_dir() else []
    manifests = [(folder, read_manifest(folder, UPDATE_KIND)) for folder in folders if not folder.name.startswith(".")]
    steps = [(folder, _parsed(manifest, folder)) for folder, manifest in manifests if manifest is not None]
    visited = {package.package_id}
    while True:
        onward = [
            (folder, facts)
            for folder, facts in steps
            if facts.base_package_id == package.package_id and facts.new.package_id not in visited
        ]
        if not onward:
            return package
        folder, _ = max(onward, key=lambda step: (step[1].new.as_of, step[1].new.known_at))
        package = apply_update(package.folder, folder)
        visited.add(package.package_id)


def _parsed(manifest: Manifest, folder: Path) -> UpdateFacts:
    refuse_newer_format(manifest.meta, folder)
    try:
        facts = UpdateFacts.model_validate(manifest.meta)
    except ValidationError as error:
        raise BadDataError(
            "the manifest of an increment is damaged", where=folder, found=str(error).splitlines()[:3]
        ) from error
    parse_facts(JSON.validate_json(facts.new.model_dump_json()), folder)
    strange = sorted({*facts.extended, *facts.replaced} - set(facts.new.tables))
    if strange or set(facts.extended) & set(facts.replaced):
        raise BadDataError("the manifest of an increment was changed", where=folder, found=strange[:3])
    return facts


def _new_tables(start: Package, step: Update) -> dict[str, pl.DataFrame]:
    """Return the tables that are not the same in both packages, each proved against its hash."""
    facts = step.facts
    new_rows: dict[str, pl.DataFrame] = {}
    for file in {_rows_file(name) for name in facts.extended}:
        rows = read_table(step.folder / file)
        if file == _NEW_ROWS:
            parts = rows.partition_by("symbol", as_dict=True, maintain_order=True)
            new_rows |= {f"{SYMBOLS}{key[0]}": part for key, part in parts.items()}
        else:
            new_rows[file.removeprefix("rows/").removesuffix(".parquet")] = rows
    tables = {name: read_table(step.folder / _whole_file(facts.new, name)) for name in facts.replaced}
    for name in facts.extended:
        if name not in start.facts.tables or name not in new_rows:
            raise _contradiction(step, name)
        try:
            tables[name] = pl.concat([start.table(name), new_rows[name]])
        except pl.exceptions.PolarsError as error:
            raise _contradiction(step, name) from error
    for name, entry in facts.new.tables.items():
        old = start.facts.tables.get(name)
        found = table_sha256(tables[name]) if name in tables else None if old is None else old.sha256
        if found != entry.sha256:
            raise _contradiction(step, name)
    return tables


def _contradiction(step: Update, name: str) -> BadDataError:
    return BadDataError(
        "an increment does not give the table that it promises",
        where=f"{name} of {step.folder}",
        fix="fetch the whole new package",
    )


def _whole_file(facts: PackageFacts, name: str) -> str:
    return f"whole/{facts.file_of(name)}"


def _rows_file(name: str) -> str:
    return _NEW_ROWS if name.startswith(SYMBOLS) else f"rows/{name}.parquet"
