"""Training data on its way: cut into cells, sent in packs, and put together again to the same bytes.

::

    data/packages/<data_id>.json    the index of a package, written last: its manifest, and where each cell lies
    data/objects/<sha256>           packs of cells, and files that travel whole; never changed, shared by packages

The arrays of a package share the axes that its manifest names in ``meta["symbols"]`` and ``meta["sessions"]``. A cell
is what all of them say of one symbol in one block of sessions: a calendar year, or a month of the newest year. Next
week only the cells that changed travel: the newest month, a symbol that joined, a year that a vendor revised. The
receiver believes nothing but the `data_id`, which covers every byte.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from vnfleet.core.atomic import (
    TMP_MARK,
    discard,
    disk_errors_for_people,
    fsync_file,
    fsync_folder,
    replace,
    sweep,
    write_text,
)
from vnfleet.core.errors import BadDataError, RemoteError, UsageError
from vnfleet.core.ids import canonical_json, sha256_hex, sha256_of_file
from vnfleet.core.sealed import MANIFEST_NAME, Manifest, verify
from vnfleet.remote.cells import CellReader, CellWriter, Cut, cut_of, layouts_of
from vnfleet.remote.packs import INDEX_SCHEMA_VERSION, Pack, PackageIndex, Packer
from vnfleet.remote.parcels import set_aside
from vnfleet.remote.rclone import RemoteAbsentError, RemoteDamagedError
from vnfleet.remote.transfer import Transfer

PACKAGES, OBJECTS = "data/packages", "data/objects"
MOST_PACKS = 64  # then everything is sent anew: what a receiver has to read stays few files, and mostly alive
_SHORT = 16  # hex digits that tell a changed cell from an unchanged one; the data_id proves the whole
_ATTEMPTS = 2
_OUTBOX = ".sending-"


def package_id(manifest: Manifest) -> str:
    """Return the identity of a data package: file hashes *and* meta, which names the axes of its arrays."""
    return sha256_hex(canonical_json({"files": manifest.files, "kind": manifest.kind, "meta": manifest.meta}).encode())


def index_name(data_id: str) -> str:
    """Return where the index of a package lies."""
    return f"{PACKAGES}/{data_id}.json"


def read_index(remote: Transfer, data_id: str) -> PackageIndex | None:
    """Return the index of a package; None when there is none that can be read."""
    try:
        index = PackageIndex.model_validate_json(remote.read_text(index_name(data_id)))
        index.read_manifest()
    except (RemoteAbsentError, RemoteDamagedError, ValidationError, UsageError):
        return None
    return index if index.schema_version <= INDEX_SCHEMA_VERSION else None


def send_package(folder: Path, remote: Transfer, kind: str) -> int:
    """Upload what the remote lacks of the sealed package in `folder`, its index last; return the bytes that travelled.

    Raises `BadDataError` when the folder does not verify.
    """
    manifest = verify(folder, kind)
    data_id = package_id(manifest)
    there = {entry.path: entry.size_bytes for entry in remote.list(OBJECTS)}
    known = read_index(remote, data_id)
    if known is not None and known.objects() <= there.keys():
        return 0
    layouts = layouts_of(folder, sorted(manifest.files), manifest.meta)
    whole = {name: sha for name, sha in manifest.files.items() if name not in {one.name for one in layouts}}
    sent_bytes = 0
    sweep(folder.parent, _OUTBOX)
    with tempfile.TemporaryDirectory(prefix=_OUTBOX, dir=folder.parent) as scratch:
        outbox = Packer(Path(scratch))
        for name, sha in whole.items():
            if there.get(sha) != (folder / name).stat().st_size:
                shutil.copyfile(folder / name, outbox.folder / sha)
        cut = cut_of(manifest.meta, layouts)
        before = _base(remote, there)
        new, kept = _compared(CellReader(folder, cut), cut, before, outbox)
        objects = sorted(path.name for path in outbox.folder.iterdir())
        sent_bytes = sum((outbox.folder / name).stat().st_size for name in objects)
        remote.put_folder(outbox.folder, OBJECTS, objects)
    text = (folder / MANIFEST_NAME).read_text(encoding="utf-8")
    index = PackageIndex(manifest=text, layouts=layouts, packs=(*kept, *new)).model_dump_json()
    remote.write_text(index_name(data_id), index)
    return sent_bytes + len(index)


def _base(remote: Transfer, there: dict[str, int]) -> tuple[Pack, ...]:
    """Return the packs of the newest package on the remote that are still there; none when there are too many."""
    entries = sorted(remote.list(PACKAGES, "/*.json"), key=lambda entry: (entry.modified, entry.path), reverse=True)
    for entry in entries:
        index = read_index(remote, entry.path.removesuffix(".json"))
        if index is not None:
            packs = tuple(pack for pack in index.packs if there.get(pack.sha256) == pack.size_bytes)
            return packs if len(packs) < MOST_PACKS else ()
    return ()


def _compared(
    reader: CellReader, cut: Cut, before: Sequence[Pack], packer: Packer
) -> tuple[tuple[Pack, ...], tuple[Pack, ...]]:
    """Pack the cells that changed; return the new packs, and those of before that still hold a cell."""
    known = {(cell[0], cell[1]): (cell[2], pack.sha256) for pack in before for cell in pack.cells()}
    alive: set[str] = set()
    for block in cut.blocks:
        for row, symbol in enumerate(cut.symbols):
            payload = reader.cell(block, row)
            short = sha256_hex(payload)[:_SHORT]
            had = known.get((block, symbol))
            if had is not None and had[0] == short:
                alive.add(had[1])
            else:
                packer.add(block, symbol, short, payload)
    return packer.finish(), tuple(pack for pack in before if pack.sha256 in alive)


def fetch_package(remote: Transfer, data_id: str, target: Path, kind: str, *, quarantine: Path) -> Manifest:
    """Bring the package `data_id` to `target`, downloading what is not in ``objects/`` beside it; return its manifest.

    That folder then holds the objects of this package and no others.

    A whole `target` is kept as it is. Raises `BadDataError` when the package is not on the remote, is another one, or
    came damaged twice; what came is then in `quarantine`.
    """
    if (target / MANIFEST_NAME).is_file():
        try:
            manifest = verify(target, kind)
        except BadDataError:
            set_aside(target, quarantine)
        else:
            if package_id(manifest) == data_id:
                return manifest
            set_aside(target, quarantine)
    index = read_index(remote, data_id)
    if index is None:
        raise BadDataError(
            "the data of a job is not on the remote", where=index_name(data_id), fix="run the desktop's cycle again"
        )
    found = package_id(index.read_manifest())
    if found != data_id:
        raise BadDataError("this is not the job's data", expected=data_id, found=found, where=index_name(data_id))
    store = target.parent / "objects"
    with disk_errors_for_people(target):
        _fetch_objects(remote, index, store, quarantine)
        scratch = target.with_name(f".{target.name}{TMP_MARK}{uuid.uuid4().hex[:8]}")
        try:
            _assemble(index, store, scratch)
            manifest = verify(scratch, kind)
            for path in (path for path in scratch.rglob("*") if path.is_file()):
                fsync_file(path)
            replace(scratch, target)
            fsync_folder(target.parent)
        except BadDataError:
            if scratch.exists():
                set_aside(scratch, quarantine)
            raise
        finally:
            discard(scratch)
    for path in store.iterdir():
        if path.name not in index.objects():
            discard(path)
    return manifest


def _fetch_objects(remote: Transfer, index: PackageIndex, store: Path, quarantine: Path) -> None:
    """Download the objects that are not here and prove each by its name."""
    store.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, _ATTEMPTS + 1):
        wanted = sorted(sha for sha in index.objects() if not _is_right(store / sha, sha))
        if not wanted:
            return
        for sha in wanted:
            discard(store / sha)
        remote.get_folder(OBJECTS, store, wanted)
        wrong = [sha for sha in wanted if not _is_right(store / sha, sha)]
        if not wrong:
            return
        if attempt == _ATTEMPTS:
            for sha in wrong:
                set_aside(store / sha, quarantine)
                with contextlib.suppress(RemoteError):
                    remote.move(f"{OBJECTS}/{sha}", f"quarantine/object-{sha}")
            raise BadDataError(
                "training data came damaged or not at all, twice",
                where=f"{OBJECTS}/{wrong[0]}",
                fix="run the desktop's cycle again: what is damaged was put aside and is sent anew",
            )


def _is_right(path: Path, sha: str) -> bool:
    return path.is_file() and sha256_of_file(path) == sha


def _assemble(index: PackageIndex, store: Path, scratch: Path) -> None:
    """Write the package from its objects; raises `BadDataError` when a cell is missing."""
    manifest = index.read_manifest()
    scratch.mkdir(parents=True)
    for name, sha in index.whole_files().items():
        (scratch / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(store / sha, scratch / name)
    if strangers := {layout.name for layout in index.layouts} - manifest.files.keys():
        raise BadDataError("an index names files that are not in its package", found=min(strangers))
    cut = cut_of(manifest.meta, index.layouts)
    places = {
        (block, symbol): (number, offset)
        for number, pack in enumerate(index.packs)
        for block, symbol, _, offset, size in pack.cells()
        if block in cut.blocks and size == cut.cell_bytes(block)
    }
    rows = {symbol: row for row, symbol in enumerate(cut.symbols)}
    needed = {(block, symbol) for block in cut.blocks for symbol in rows}
    if missing := needed - places.keys():
        raise BadDataError("an index lacks a part of its package", found=" ".join(min(missing)))
    by_pack: dict[int, list[tuple[int, str, str]]] = {}
    for (block, symbol), (number, offset) in places.items():
        if symbol in rows:
            by_pack.setdefault(number, []).append((offset, block, symbol))
    writer = CellWriter(scratch, cut)
    for number, cells in sorted(by_pack.items()):
        with (store / index.packs[number].sha256).open("rb") as file:
            for offset, block, symbol in sorted(cells):
                file.seek(offset)
                payload = file.read(cut.cell_bytes(block))
                if len(payload) != cut.cell_bytes(block):
                    raise BadDataError("an index names cells beyond their pack", found=index.packs[number].sha256)
                writer.put(block, rows[symbol], payload)
    writer.close()
    write_text(scratch / MANIFEST_NAME, index.manifest)
