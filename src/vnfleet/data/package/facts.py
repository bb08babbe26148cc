"""What the manifest of a package says, and what is checked before anything of it is believed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError

from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import short_id
from vnfleet.core.sealed import MANIFEST_NAME, Manifest
from vnfleet.data.package.tables import MARKET_TABLES, SYMBOLS

FORMAT = 1
PACKAGE_ID = r"^[0-9a-f]{16}$"
JSON: TypeAdapter[dict[str, JsonValue]] = TypeAdapter(dict[str, JsonValue])
_TABLE = re.compile(rf"({'|'.join(MARKET_TABLES)}|{SYMBOLS}[A-Za-z0-9][A-Za-z0-9._-]{{0,31}})")
_LEFT_BY_SYSTEMS = {"desktop.ini", "Thumbs.db", ".DS_Store"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CubeIdentity:
    """The features that were built from the packed panel: their id and a hash of their values, as the caller says."""

    cube_id: str
    features_sha256: str


class TableEntry(BaseModel):
    """A table of a package: SHA-256 of its contents (not of the file) and its length."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")]
    rows: Annotated[int, Field(ge=0)]


class PackageFacts(BaseModel):
    """What a package's manifest says about it. `known_at` is when its data were first packed, not part of its id."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: int = FORMAT
    package_id: Annotated[str, Field(pattern=PACKAGE_ID)]
    data_id: str
    as_of: date
    source: str
    known_at: AwareDatetime
    cube_id: str
    features_sha256: str
    tables: dict[str, TableEntry]

    def contents_id(self) -> str:
        """Return the id that these contents must have."""
        said = self.model_dump(mode="json", exclude={"package_id", "known_at"})
        return short_id(said)

    def file_of(self, table: str) -> str:
        """Return the file of a table, relative to the package."""
        return f"{table}-{self.tables[table].sha256[:16]}.parquet"


def parse_facts(meta: Mapping[str, JsonValue], folder: Path) -> PackageFacts:
    """Return what a manifest says about a package; raises `BadDataError` when it cannot be true."""
    refuse_newer_format(meta, folder)
    try:
        facts = PackageFacts.model_validate(meta)
    except ValidationError as error:
        raise BadDataError(
            "the manifest of a package is damaged", where=folder, found=str(error).splitlines()[:3]
        ) from error
    strange = [name for name in facts.tables if not _TABLE.fullmatch(name)]
    if strange or facts.package_id != facts.contents_id():
        raise BadDataError(
            "the manifest of a package was changed",
            where=folder,
            expected=facts.contents_id(),
            found=strange or facts.package_id,
        )
    return facts


def refuse_newer_format(meta: Mapping[str, JsonValue], folder: Path) -> None:
    """Raise `BadDataError` when a newer vnfleet wrote `folder`."""
    found = meta.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise BadDataError(
            "a package was written by a newer vnfleet",
            where=folder,
            expected=FORMAT,
            found=found,
            fix="upgrade vnfleet",
        )


def refuse_other_files(folder: Path, manifest: Manifest, expected: set[str]) -> None:
    """Raise `BadDataError` when the manifest lists, or the folder holds, anything but the `expected` files."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}
    there = {name for name in there if name.rsplit("/", 1)[-1] not in _LEFT_BY_SYSTEMS} - {MANIFEST_NAME}
    for what, found in (("manifest", set(manifest.files)), ("folder", there)):
        if found != expected:
            raise BadDataError(
                f"the {what} of a package has files that do not belong to it, or lacks some",
                where=folder,
                expected=sorted(expected - found)[:3] or f"{len(expected)} files",
                found=sorted(found - expected)[:3] or f"{len(found)} files",
                fix="delete this folder and fetch it again",
            )


def bytes_in(folder: Path, manifest: Manifest) -> int:
    """Return the size of a sealed folder."""
    return sum((folder / name).stat().st_size for name in (*manifest.files, MANIFEST_NAME))
