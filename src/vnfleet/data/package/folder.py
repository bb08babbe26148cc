"""A whole package: `data/training_package/<package_id>/`, sealed, every table in a file named after its contents.

`package_id` is made of the contents of all tables and of what is said about them (day, source, feature cube), not of
the files' bytes: the same data packed twice, or put together from an older package and an increment by another version
of the Parquet writer, is the same package.
"""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from vnfleet.core.atomic import TMP_MARK
from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import sha256_hex
from vnfleet.core.lock import holding
from vnfleet.core.sealed import sealing, verify
from vnfleet.data.package.facts import (
    JSON,
    PACKAGE_ID,
    CubeIdentity,
    PackageFacts,
    TableEntry,
    bytes_in,
    parse_facts,
    refuse_other_files,
)
from vnfleet.data.package.tables import (
    EVENTS,
    panel_of,
    read_table,
    table_sha256,
    tables_of,
    write_table,
)
from vnfleet.data.panel import Panel

PACKAGE_KIND = "training-package"


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A sealed package on this machine. files : SHA-256 of each. size_bytes : of all, the manifest included."""

    folder: Path
    facts: PackageFacts
    files: Mapping[str, str]
    size_bytes: int

    @property
    def package_id(self) -> str:
        """Identity of the contents; also the revision id that increments start from and lead to."""
        return self.facts.package_id

    def table(self, name: str) -> pl.DataFrame:
        """Return a table; raises `BadDataError` when its contents are not what the manifest says."""
        entry, path = self.facts.tables[name], self.folder / self.facts.file_of(name)
        found = read_table(path)
        if (found.height, table_sha256(found)) != (entry.rows, entry.sha256):
            raise BadDataError("a table of a package is not what its manifest says", where=path)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedPanel:
    """A panel as it was packed, with its corporate actions; served without judging anything again."""

    panel: Panel
    events: pl.DataFrame
    package: Package

    def confirm_features(self, found: CubeIdentity) -> None:
        """Raise `BadDataError` when the features built here are not those of the machine that packed.

        The values may differ in their last digits between numeric environments, and so may their hash.
        """
        facts = self.package.facts
        for what, expected, here in (
            ("the features built here have another identity than the packed ones", facts.cube_id, found.cube_id),
            (
                "the features built here have other values than the packed ones",
                facts.features_sha256,
                found.features_sha256,
            ),
        ):
            if here != expected:
                raise BadDataError(
                    what,
                    expected=expected,
                    found=here,
                    where=self.package.folder,
                    fix="use the same version of vnfleet and of its libraries on both machines",
                )


def write_package(
    panel: Panel, events: pl.DataFrame, root: Path, *, source: str, known_at: datetime, cube: CubeIdentity
) -> Package:
    """Seal `panel` as `root`/<package_id> (root: data/training_package of the work directory) and return it.

    events : corporate actions: symbol, session and any plain columns. known_at : aware, when the data were known.
    The same contents again find the package that is there; a damaged one is written anew. A killed run leaves nothing
    that counts, and the next one removes what it left.

    Raises `BusyError` while another process packs there and `ResourceError` on a full disk.
    """
    if known_at.tzinfo is None:
        raise ValueError("known_at must be time-zone aware")
    tables = tables_of(panel, events)
    facts = PackageFacts(
        package_id="0" * 16,
        data_id=panel.data_id,
        as_of=panel.as_of,
        source=source,
        known_at=known_at.astimezone(UTC).replace(microsecond=0),
        cube_id=cube.cube_id,
        features_sha256=cube.features_sha256,
        tables={name: TableEntry(sha256=table_sha256(table), rows=table.height) for name, table in tables.items()},
    )
    facts = facts.model_copy(update={"package_id": facts.contents_id()})
    return seal_package(root, facts, {}, tables)


def copy_package(folder: Path, root: Path) -> Package:
    """Take the package in `folder` (a shared drive, a USB stick) over as `root`/<package_id> and return the copy.

    Raises `BadDataError` as `open_package` does, or when `folder` changes meanwhile: nothing is written then.
    """
    package = open_package(folder)
    return seal_package(root, package.facts, dict.fromkeys(package.facts.tables, package), {})


def seal_package(
    root: Path, facts: PackageFacts, copies: Mapping[str, Package], tables: Mapping[str, pl.DataFrame]
) -> Package:
    """Seal a package from tables, and from tables that another package already holds as files (`copies`)."""
    target = root / facts.package_id
    with holding(root / ".lock", "packing data"):
        remove_unfinished_folders(target)
        there = _whole(target)
        if there is not None:
            return there
        with sealing(target, PACKAGE_KIND, JSON.validate_json(facts.model_dump_json())) as scratch:
            for name, table in tables.items():
                write_table(scratch / facts.file_of(name), table)
            for name, package in copies.items():
                _copy_file(package, facts.file_of(name), scratch)
    return open_package(target)


def _copy_file(package: Package, file: str, target: Path) -> None:
    payload = (package.folder / file).read_bytes()
    if sha256_hex(payload) != package.files[file]:
        raise BadDataError("a file changed while it was copied", where=package.folder / file)
    (target / file).parent.mkdir(parents=True, exist_ok=True)
    (target / file).write_bytes(payload)


def open_package(folder: Path) -> Package:
    """Return the package in `folder` after checking every file and its identity.

    Raises `BadDataError` naming what is absent, damaged, too many, of another kind or of a newer format.
    """
    manifest = verify(folder, PACKAGE_KIND)
    facts = parse_facts(manifest.meta, folder)
    refuse_other_files(folder, manifest, {facts.file_of(name) for name in facts.tables})
    return Package(folder=folder, facts=facts, files=manifest.files, size_bytes=bytes_in(folder, manifest))


def read_package(folder: Path | str) -> PackagedPanel:
    """Return the panel and the events packed in `folder`, with every file and table checked.

    Raises `BadDataError` as `open_package` does, and when the panel is not the one that was packed.
    """
    package = open_package(Path(folder))
    tables = {name: package.table(name) for name in package.facts.tables}
    panel = panel_of(tables, package.facts.as_of)
    if panel.data_id != package.facts.data_id:
        raise BadDataError(
            "a package does not give the panel that was packed",
            expected=package.facts.data_id,
            found=panel.data_id,
            where=folder,
        )
    return PackagedPanel(panel=panel, events=tables[EVENTS], package=package)


def packages_in(root: Path) -> tuple[Package, ...]:
    """Return the whole packages under `root`, oldest day first; whatever else lies there does not count."""
    folders = [folder for folder in root.iterdir() if re.fullmatch(PACKAGE_ID, folder.name)] if root.is_dir() else []
    found = [package for package in map(_whole, folders) if package is not None]
    return tuple(sorted(found, key=lambda package: (package.facts.as_of, package.facts.known_at)))


def remove_unfinished_folders(target: Path) -> None:
    """Delete what killed writers left beside `target`: its own scratch, and any that is older than a day.

    Call it while holding the lock. Other writers of the same place (training data for workers) live for minutes.
    """
    day_ago = time.time() - 86_400
    for stale in target.parent.glob(f".*{TMP_MARK}*"):
        if stale.name.startswith(f".{target.name}{TMP_MARK}") or stale.stat().st_mtime < day_ago:
            shutil.rmtree(stale, ignore_errors=True)


def _whole(folder: Path) -> Package | None:
    """Return the package in `folder`, or None when there is none that may be used."""
    try:
        return open_package(folder)
    except BadDataError:
        return None
