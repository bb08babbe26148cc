"""What rclone answers in JSON, as far as we read it; the field names are rclone's."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, TypeAdapter


class Listed(BaseModel):
    """One record of `rclone lsjson`."""

    model_config = ConfigDict(extra="ignore")

    Path: str
    Size: int
    ModTime: str = ""
    IsDir: bool


class About(BaseModel):
    """The answer of `rclone about --json`."""

    model_config = ConfigDict(extra="ignore")

    total: int | None = None
    used: int | None = None
    free: int | None = None
    trashed: int | None = None


class Features(BaseModel):
    """What a remote can do."""

    model_config = ConfigDict(extra="ignore")

    About: bool = False
    BucketBased: bool = False
    DuplicateFiles: bool = False


class Abilities(BaseModel):
    """The part of `rclone backend features` that changes what we do."""

    model_config = ConfigDict(extra="ignore")

    Hashes: list[str] | None = None
    Features: Features


LISTING = TypeAdapter(list[Listed])
STAT: TypeAdapter[Listed | None] = TypeAdapter(Listed | None)
