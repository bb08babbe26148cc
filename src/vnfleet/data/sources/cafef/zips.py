"""One zip of CafeF's bulk download: its name, what may be inside, and its rows as a frame.

The page `cafef.vn/du-lieu/du-lieu-download.chn` offers `CafeF.{KIND}.Upto{DDMMYYYY}.zip` (whole history) and
`CafeF.{KIND}.{DDMMYYYY}.zip` (one session) in a folder YYYYMMDD. Inside, one CSV an exchange with dots in the date
(`CafeF.HSX.Upto04.09.2026.csv`, raw files `CafeF.RAW_HSX...`): UTF-8 with a byte-order mark, the header `HEADER`,
prices in thousand VND, indices in points, matched volume that is never adjusted (project reference on CafeF's files).
A zip is a stranger's: sizes, names and checksums are looked at before anything is believed, and nothing is unpacked.
"""

from __future__ import annotations

import logging
import re
import zipfile
import zlib
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path, PurePosixPath

import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.market.rules import Exchange

HEADER = "<Ticker>,<DTYYYYMMDD>,<Open>,<High>,<Low>,<Close>,<Volume>"
BOARDS: dict[str, Exchange | None] = {"HSX": Exchange.HOSE, "HNX": Exchange.HNX, "UPCOM": Exchange.UPCOM}
"""CafeF's names of the exchanges."""
STOCK_TICKER = r"^[A-Z][A-Z0-9]{2}$"
"""A stock has exactly three characters; funds, warrants and bonds have more."""
MOST_MEMBER_BYTES = 512 * 2**20
"""The largest real member has about 70 MB."""
_MOST_MEMBERS = 32
_MOST_RATIO = 250
_RATIO_FREE_BYTES = 8 * 2**20
_FIX = "download the file again; if it stays so, CafeF has changed its format"
_LOGGER = logging.getLogger(__name__)
_NAME = re.compile(r"CafeF\.(SolieuGD|SolieuGD\.Raw|Index)\.(Upto)?(\d{8})\.zip", re.IGNORECASE)
_MEMBER = re.compile(r"CafeF\.(RAW_)?(HSX|HNX|UPCOM|INDEX)\.(Upto)?(\d\d\.\d\d\.\d{4})\.csv", re.IGNORECASE)
_COLUMNS: dict[str, pl.DataType] = {
    "symbol": pl.String(),
    "session": pl.String(),
    "open": pl.Float64(),
    "high": pl.Float64(),
    "low": pl.Float64(),
    "close": pl.Float64(),
    "volume": pl.Float64(),
}
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError)
"""What `zipfile` raises on damaged files."""
_CUT_OFF = "a line of a file inside a zip is cut off"
_EXCHANGE = pl.Enum([exchange.value for exchange in Exchange])


class BulkKind(StrEnum):
    """The three files that make a set: adjusted prices, raw prices, indices."""

    ADJUSTED = "SolieuGD"
    RAW = "SolieuGD.Raw"
    INDEX = "Index"


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkName:
    """What the name of a zip says: its kind, its day, and whether it holds the whole history up to that day."""

    kind: BulkKind
    day: date
    upto: bool = True

    @classmethod
    def parse(cls, name: str) -> BulkName | None:
        """Return what a file name means, or None when it is no CafeF bulk zip."""
        found = _NAME.fullmatch(name)
        if found is None:
            return None
        kinds = {kind.value.lower(): kind for kind in BulkKind}
        try:
            day = datetime.strptime(found[3], "%d%m%Y").date()  # noqa: DTZ007 - a day, not a moment
        except ValueError:
            return None
        return cls(kind=kinds[found[1].lower()], day=day, upto=found[2] is not None)

    @property
    def file_name(self) -> str:
        """The name of the zip: DDMMYYYY."""
        return f"CafeF.{self.kind}.{'Upto' if self.upto else ''}{self.day:%d%m%Y}.zip"

    @property
    def folder(self) -> str:
        """The folder on CafeF's server: YYYYMMDD."""
        return f"{self.day:%Y%m%d}"

    @property
    def members(self) -> dict[str, Exchange | None]:
        """The CSVs inside and their exchange; None for the indices."""
        when = f"{'Upto' if self.upto else ''}{self.day:%d.%m.%Y}"
        if self.kind == BulkKind.INDEX:
            return {f"CafeF.INDEX.{when}.csv": None}
        mark = "RAW_" if self.kind == BulkKind.RAW else ""
        return {f"CafeF.{mark}{board}.{when}.csv": exchange for board, exchange in BOARDS.items()}


def is_member_name(name: str) -> bool:
    """Return whether `name` is what CafeF calls a CSV inside its zips."""
    return _MEMBER.fullmatch(name) is not None


def read_zip(path: Path) -> pl.DataFrame:
    """Return the rows of one zip, told apart by nothing but its name.

    Columns symbol, session, open, high, low, close (thousand VND, points in the index file), volume (shares, Int64),
    exchange (Enum, null for indices); in the order of the files, repeated rows and zero prices included, empty cells
    null. Of the stock files only stocks are kept (`STOCK_TICKER`).

    Raises `BadDataError` naming the file, and the member and line where there is one, when the zip is cut off, damaged,
    no zip at all (a web page), too big to be true, holds names that leave a folder, lacks a member, or a member is not
    UTF-8, has another header, a decimal comma or a cell that is no number or date.
    """
    name = BulkName.parse(path.name)
    if name is None:
        raise BadDataError(
            "a file is not named as CafeF names its bulk files",
            expected="CafeF.SolieuGD.Upto04092026.zip, or Raw, or Index (day, month, year)",
            found=path.name,
            where=path.parent,
        )
    with _open(path) as archive:
        members = _checked_members(archive, name, path)
        return pl.concat(
            _rows(_payload(archive, info, path), f"{path}, {info.filename}", exchange) for info, exchange in members
        )


def check_zip(path: Path, name: BulkName) -> None:
    """Look at a zip without reading its rows: whole, its members those that `name` promises, their checksums right.

    Raises `BadDataError` as `read_zip` does.
    """
    with _open(path) as archive:
        for info, _ in _checked_members(archive, name, path):
            _payload(archive, info, path)


def _open(path: Path) -> zipfile.ZipFile:
    try:
        with path.open("rb") as handle:
            head = handle.read(256)
        if not head.startswith(b"PK"):
            raise BadDataError(
                "a file is not the zip that its name says",
                expected="a zip file",
                found=_first_bytes(head),
                where=path,
                fix=_FIX,
            )
        return zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise BadDataError(
            "a zip file is truncated or damaged",
            expected="a whole zip file",
            found=f"{error} ({path.stat().st_size if path.exists() else 0:,} bytes)",
            where=path,
            fix=_FIX,
        ) from error


def _first_bytes(head: bytes) -> str:
    if not head:
        return "an empty file"
    text = head[:80].decode("utf-8", errors="replace").strip()
    return f"a web page: {text!r}" if text.startswith("<") else repr(text)


def _checked_members(
    archive: zipfile.ZipFile, name: BulkName, path: Path
) -> list[tuple[zipfile.ZipInfo, Exchange | None]]:
    infos = archive.infolist()
    if len(infos) > _MOST_MEMBERS:
        raise BadDataError(
            "a zip holds too many files", expected=f"at most {_MOST_MEMBERS}", found=len(infos), where=path
        )
    for info in infos:
        inside = PurePosixPath(info.filename.replace("\\", "/"))
        if inside.is_absolute() or ".." in inside.parts or ":" in info.filename or "\x00" in info.orig_filename:
            raise BadDataError("a zip holds a name that leaves its folder", found=info.filename, where=path, fix=_FIX)
        swollen = info.file_size > max(_RATIO_FREE_BYTES, _MOST_RATIO * info.compress_size)
        if info.file_size > MOST_MEMBER_BYTES or swollen:
            raise BadDataError(
                "a zip unpacks to more than a price file can hold",
                expected=f"at most {MOST_MEMBER_BYTES / 2**20:.0f} MiB, {_MOST_RATIO} times its packed size",
                found=f"{info.file_size / 2**20:,.0f} MiB out of {info.compress_size:,} bytes",
                where=f"{path}, {info.filename}",
                fix="do not use this file",
            )
        if info.compress_type not in _PACKINGS or info.flag_bits & 1:
            raise BadDataError(
                "a file inside a zip is encrypted or packed in an unusual way",
                found=f"method {info.compress_type}, flags {info.flag_bits}",
                where=f"{path}, {info.filename}",
                fix=_FIX,
            )
    by_name = {info.filename.lower(): info for info in infos}
    expected = name.members
    if missing := [member for member in expected if member.lower() not in by_name]:
        raise BadDataError(
            "a zip does not hold the files that its name promises",
            expected=", ".join(missing),
            found=", ".join(info.filename for info in infos[:8]) or "nothing",
            where=path,
            fix=_FIX,
        )
    if others := sorted(set(by_name) - {member.lower() for member in expected}):
        _LOGGER.warning("%s: also holds %s, not read", path, ", ".join(others))
    return [(by_name[member.lower()], exchange) for member, exchange in expected.items()]


def _payload(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> bytes:
    try:
        with archive.open(info) as handle:
            return handle.read()
    except _DAMAGE as error:
        raise BadDataError(
            "a file inside a zip is damaged",
            found=str(error) or type(error).__name__,
            where=f"{path}, {info.filename}",
            fix=_FIX,
        ) from error


def _rows(payload: bytes, where: str, exchange: Exchange | None) -> pl.DataFrame:
    _check_header(payload, where)
    try:
        table = pl.read_csv(
            payload,
            has_header=False,
            skip_rows=1,
            schema=_COLUMNS,
            quote_char=None,
            null_values=["", "NaN", "--"],
            raise_if_empty=False,
        )
    except pl.exceptions.PolarsError as error:
        raise _line_error(payload, where, str(error).splitlines()[0][:160]) from error
    if table.is_empty():
        raise BadDataError("a file inside a zip has no rows", where=where, fix=_FIX)
    if sum(table.null_count().row(0)):
        _refuse_short_lines(payload, where)
    sessions = table.get_column("session").str.to_date("%Y%m%d", strict=False)
    if sessions.null_count():
        row = sessions.is_null().arg_max() or 0
        raise BadDataError(
            "a row has no readable date",
            expected="yyyymmdd",
            found=",".join(map(str, table.row(row))),
            where=f"{where}, line {row + 2}",
            fix=_FIX,
        )
    kept = pl.col("symbol").str.contains(STOCK_TICKER) if exchange is not None else pl.col("symbol").is_not_null()
    prices = [pl.when(pl.col(name).is_finite()).then(pl.col(name)) for name in ("open", "high", "low", "close")]
    return (
        table.with_columns(sessions)
        .filter(kept)
        .select(
            "symbol",
            "session",
            *prices,
            pl.col("volume").round().cast(pl.Int64, strict=False),
            pl.lit(None if exchange is None else exchange.value, _EXCHANGE).alias("exchange"),
        )
    )


def _check_header(payload: bytes, where: str) -> None:
    first = payload[:400].split(b"\n", 1)[0]
    if first.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in first:
        raise BadDataError("a file is not in UTF-8", expected="UTF-8", found="UTF-16", where=where, fix=_FIX)
    header = first.decode("utf-8-sig", errors="replace").strip()
    if header.replace(" ", "").lower() == HEADER.lower():
        return
    raise BadDataError(
        "a file inside a zip has another header" if header else "a file inside a zip is empty",
        expected=HEADER,
        found=header[:200] or "nothing",
        where=where,
        fix=_FIX,
    )


def _refuse_short_lines(payload: bytes, where: str) -> None:
    """Refuse lines that lack cells: the parser would fill them with null, and a cut file would pass for a whole one."""
    for number, line in enumerate(payload.splitlines()[1:], start=2):
        if line and line.count(b",") != len(_COLUMNS) - 1:
            raise _wrong_line(number, line, where, _CUT_OFF)


def _line_error(payload: bytes, where: str, found: str) -> BadDataError:
    """Name the first line that does not fit the format."""
    for number, line in enumerate(payload.splitlines()[1:], start=2):
        cells = line.split(b",")
        if line and len(cells) < len(_COLUMNS):
            return _wrong_line(number, line, where, _CUT_OFF)
        if len(cells) > len(_COLUMNS):
            return _wrong_line(number, line, where, "a line has too many cells: is its decimal sign a comma?")
        if line and not all(_is_number(cell) for cell in cells[2:]):
            return _wrong_line(number, line, where, "a line holds something that is no number")
    return BadDataError("a file inside a zip cannot be read", found=found, where=where, fix=_FIX)


def _is_number(cell: bytes) -> bool:
    try:
        float(cell or b"0")
    except ValueError:
        return cell == b"--"
    return True


def _wrong_line(number: int, line: bytes, where: str, what: str) -> BadDataError:
    return BadDataError(
        what,
        expected=HEADER,
        found=line[:120].decode("utf-8", errors="replace"),
        where=f"{where}, line {number}",
        fix=_FIX,
    )
