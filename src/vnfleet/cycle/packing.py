"""The training package: what was collected, judged and packed here, verified and merged on another machine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pydantic import JsonValue

from vnfleet.core.clock import Clock, SystemClock
from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.core.ids import arrays_sha256
from vnfleet.core.sealed import MANIFEST_NAME
from vnfleet.cycle.config import CycleConfig
from vnfleet.cycle.context import Record, WeekContext
from vnfleet.cycle.runner import Observer, SilentObserver
from vnfleet.cycle.steps.evidence import named_actions
from vnfleet.cycle.weekly import newest_collected
from vnfleet.cycle.workdir import Folders, locked
from vnfleet.data.package import (
    CubeIdentity,
    Package,
    Update,
    catch_up,
    copy_package,
    packages_in,
    read_package,
    updates_in,
    write_package,
    write_update,
)
from vnfleet.features.cube import FeatureCube, build_cube, save_cube


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A package, and the increment that leads to it from the one before; None for the first, or without a change.

    is_old : the same contents had been packed before.
    """

    package: Package
    update: Update | None
    is_old: bool

    def as_json(self) -> dict[str, JsonValue]:
        """Return what was packed as plain JSON values."""
        update = self.update
        return {
            "package_id": self.package.package_id,
            "folder": str(self.package.folder),
            "as_of": self.package.facts.as_of.isoformat(),
            "size_bytes": self.package.size_bytes,
            "update": None if update is None else str(update.folder),
            "update_size_bytes": None if update is None else update.size_bytes,
        }


def pack(
    workdir: Path,
    *,
    config: CycleConfig | None = None,
    as_of: date | None = None,
    observer: Observer | None = None,
    clock: Clock | None = None,
) -> Packed:
    """Write what was collected up to `as_of` (None: all of it) as a training package, and the increment to it.

    Raises `BadDataError` when nothing was collected, or no symbol is fit for use.
    """
    folders = Folders(workdir)
    collected = newest_collected(folders.cycles)
    with locked(workdir, "packing data"):
        week = WeekContext(
            config=config or CycleConfig(),
            folders=folders,
            as_of=as_of or date.fromisoformat(collected.text("as_of")),
            clock=clock or SystemClock(),
            observer=observer or SilentObserver(),
            record=Record.of_step(collected),
        )
        assert week.record is not None, "just set"
        earlier = [package for package in packages_in(folders.package) if package.facts.as_of <= week.as_of]
        package = write_package(
            week.panel(),
            named_actions(week, week.served()).actions,
            folders.package,
            source=week.record.source,
            known_at=week.record.known_at or week.clock.now(),
            cube=identity_of(week.cube()),
        )
        # the increment is written again when a killed run sealed the package and not its increment
        before = [one for one in earlier if one.package_id != package.package_id]
        update = write_update(before[-1], package, folders.updates) if before else None
        is_old = len(before) < len(earlier)
    return Packed(package=package, update=update, is_old=is_old)


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """A package that was verified, merged and proven: the features built from it here are those of the packer."""

    package: Package
    cube: FeatureCube

    def as_json(self) -> dict[str, JsonValue]:
        """Return what was unpacked as plain JSON values."""
        return {
            "package_id": self.package.package_id,
            "folder": str(self.package.folder),
            "as_of": self.package.facts.as_of.isoformat(),
            "cube_id": self.cube.cube_id,
            "num_symbols": len(self.cube.symbols),
            "num_sessions": len(self.cube.sessions),
        }


def unpack(folder: Path, workdir: Path) -> Unpacked:
    """Take over the package in `folder`, or every increment below it that leads on from a package here, and prove it.

    folder : one package, or a folder of increments (`data/weekly_updates` of the other side).

    Raises `UsageError` when it is neither, or no package is here to start from; `BadDataError` when a file is damaged,
    missing or too many, or when the features built here are not those of the packer. Nothing is half merged.
    """
    folders = Folders(workdir)
    if not folder.is_dir():
        raise UsageError("there is no such folder", where=folder, expected="a training package, or weekly_updates")
    with locked(workdir, "unpacking data"):
        if (folder / MANIFEST_NAME).is_file():
            package = copy_package(folder, folders.package)
        else:
            if inside := packages_in(folder):
                raise UsageError(
                    "this folder holds packages, it is none itself",
                    where=folder,
                    expected="one of them: " + ", ".join(package.package_id for package in inside),
                    fix=f"vnfleet data unpack {inside[-1].folder}",
                )
            here = packages_in(folders.package)
            if not here:
                raise UsageError(
                    "there is no package here that increments could start from",
                    where=folders.package,
                    fix="unpack a whole package first: vnfleet data unpack .../training_package/<id>",
                )
            package = catch_up(folders.package, folder, here[-1].package_id)
            if package.package_id == here[-1].package_id:
                _refuse_a_gap(package, updates_in(folder), folder)
        packed = read_package(package.folder)
        cube = build_cube(packed.panel)
        packed.confirm_features(identity_of(cube))
        save_cube(cube, folders.features)
    return Unpacked(package=package, cube=cube)


def _refuse_a_gap(package: Package, updates: tuple[Update, ...], folder: Path) -> None:
    """Raise when `updates` lead to later packages and none of them starts from the one that is here."""
    later = [update for update in updates if update.facts.new.as_of > package.facts.as_of]
    if updates and not later:
        return
    raise BadDataError(
        "no increment here leads on from the package that is here",
        expected=f"one that starts from {package.package_id} ({package.facts.as_of})",
        found=", ".join(f"{update.facts.base_package_id} to {update.facts.new.as_of}" for update in later)
        or "no increments",
        where=folder,
        fix="fetch the missing increments, or unpack the newest whole package",
    )


def identity_of(cube: FeatureCube) -> CubeIdentity:
    """Return by what a cube built elsewhere is recognised."""
    arrays = {"values_STF": cube.values_STF, "present_ST": cube.present_ST}
    return CubeIdentity(cube_id=cube.cube_id, features_sha256=arrays_sha256(arrays))
