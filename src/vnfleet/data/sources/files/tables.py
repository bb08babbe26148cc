"""One file as a table of texts (CSV) or typed columns (Parquet), and its columns as numbers and dates."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from vnfleet.core.errors import BadDataError

SUFFIXES = (".parquet", ".csv")
_SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_MAX_UNREADABLE_FRAC = 0.01
_DECIMAL_COMMA = r"^-?\d+,\d+$"
_THREE_DIGITS = r",\d{3}$"
_WEB_PAGE = re.compile(rb"\s*<(!doctype|html|\?xml)", re.IGNORECASE)


def read_table(path: Path) -> tuple[pl.DataFrame, str]:
    """Return what a Parquet or CSV file holds, and what separates its cells ("" in Parquet).

    The cells of a CSV are text, empty ones and "--", "NaN" null.

    The separator of a CSV is the one of comma, semicolon, tab and bar that its header has most of.

    Raises `BadDataError` naming the file when it is truncated, empty, not in UTF-8 or not what its name says.
    """
    try:
        if path.suffix.lower() == ".parquet":
            return pl.read_parquet(path), ""
        payload = path.read_bytes()
        _refuse_other_kinds(payload, path)
        separator = _separator(payload)
        _refuse_cut_tail(payload, separator, path)
        table = pl.read_csv(
            payload, infer_schema=False, null_values=["", "--", "NaN", "nan"], encoding="utf8", separator=separator
        )
    except pl.exceptions.ComputeError as error:
        if "more fields" not in str(error):
            raise _unreadable(path, error) from error
        raise BadDataError(
            "a line of a file has more cells than its header",
            expected=f"cells separated by a {_SEPARATORS[separator]}, numbers with a decimal point",
            found="a decimal comma, a thousands separator, or a broken line",
            where=path,
            fix="export the file with a decimal point, or with semicolons between the cells",
        ) from error
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    return table.filter(~pl.all_horizontal(pl.all().is_null())), separator  # blank lines say nothing


def _unreadable(path: Path, error: Exception) -> BadDataError:
    return BadDataError(
        "a file cannot be read: it is truncated, empty or not what its name says",
        expected=f"a whole {path.suffix or 'price'} file",
        found=str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
        where=path,
        fix="fetch or copy the file again",
    )


def _refuse_other_kinds(payload: bytes, path: Path) -> None:
    """Raise `BadDataError` when a text file is UTF-16, a web page or a workbook in disguise."""
    found = None
    if payload.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\x00" in payload[:400]:
        found = "UTF-16 text, or no text at all"
    elif _WEB_PAGE.match(payload.removeprefix(b"\xef\xbb\xbf")):
        found = "a web page"
    elif payload.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        found = "a workbook or a zip"
    if found:
        raise BadDataError(
            "a file is not what its name says",
            expected="a CSV file in UTF-8",
            found=found,
            where=path,
            fix="save it as CSV (UTF-8), or download it again",
        )


def _separator(payload: bytes) -> str:
    header = payload.lstrip()[:4000].splitlines()[:1]
    text = header[0].decode("utf-8", errors="replace") if header else ""
    return max(_SEPARATORS, key=text.count)


def _refuse_cut_tail(payload: bytes, separator: str, path: Path) -> None:
    """Refuse a last line with fewer cells than the header: a parser would fill it with null."""
    lines = payload[-4000:].rstrip().splitlines()
    header = payload.lstrip()[:4000].splitlines()[:1]
    if not header or not lines or b'"' in lines[-1] + header[0]:
        return
    mark = separator.encode()
    if lines[-1].count(mark) < header[0].count(mark):
        raise BadDataError(
            "the last line of a file is cut off",
            expected=f"{header[0].count(mark) + 1} cells, separated by a {_SEPARATORS[separator]}",
            found=lines[-1][-120:].decode("utf-8", errors="replace"),
            where=path,
            fix="fetch or copy the file again",
        )


def numbers_of(table: pl.DataFrame, columns: Mapping[str, str], separator: str, path: Path) -> pl.DataFrame:
    """Return columns of `table` as Float64 under new names (`columns`: their name -> the new one).

    A decimal comma is understood where the cells are not separated by commas, unless every one is followed by three
    digits (146,500 may be either). What is no number becomes null as long as it is rare (1 %).

    Raises `BadDataError` naming file, column and value.
    """
    texts = [name for name in columns if table.schema[name] == pl.String()]
    table = table.with_columns(pl.col(name).str.strip_chars() for name in texts)
    prices = [name for name in texts if columns[name] != "volume_shares"]
    if prices and separator != "," and _has_decimal_commas(table, prices, path):
        table = table.with_columns(pl.col(name).str.replace(",", ".", literal=True) for name in prices)
    numbers = table.select(_number(column).alias(name) for column, name in columns.items())
    for column, name in columns.items():
        unreadable = numbers.get_column(name).is_null() & table.get_column(column).is_not_null()
        if column in texts and unreadable.sum() > _MAX_UNREADABLE_FRAC * table.height:
            raise _no_numbers(table.get_column(column).filter(unreadable)[0], column, path)
    return numbers


def _number(column: str) -> pl.Expr:
    number = pl.col(column).cast(pl.Float64, strict=False)
    return pl.when(number.is_finite()).then(number)


def _has_decimal_commas(table: pl.DataFrame, columns: list[str], path: Path) -> bool:
    """Return whether commas are decimal signs."""
    values = pl.concat(table.get_column(name).rename("value") for name in columns)
    commas = values.filter(values.str.contains(",", literal=True).fill_null(value=False))
    if commas.is_empty():
        return False
    odd = commas.filter(~commas.str.contains(_DECIMAL_COMMA))
    points = values.filter(values.str.contains(".", literal=True).fill_null(value=False))
    if odd.len() or points.len():
        raise _no_numbers((odd if odd.len() else points)[0], ", ".join(columns), path)
    if commas.str.contains(_THREE_DIGITS).all():
        raise BadDataError(
            "a comma may be a decimal sign or a thousands separator",
            expected="a decimal point, and no thousands separators",
            found=commas[0],
            where=path,
            fix="export the file with a decimal point",
        )
    return True


def _no_numbers(found: object, column: str, path: Path) -> BadDataError:
    return BadDataError(
        "a price file has values that are not numbers",
        expected="numbers with a decimal point",
        found=found,
        where=f"{path}, column {column}",
        fix="export the file with a decimal point and without thousands separators",
    )


def dates_of(column: pl.Series, formats: tuple[str, ...], path: Path) -> pl.Series:
    """Return a column as dates, read by the one of `formats` that fits every cell; a time of day is cut off.

    Raises `BadDataError` when no format fits, or several do.
    """
    if column.dtype == pl.Date:
        return column
    if column.dtype == pl.Datetime:
        return column.cast(pl.Date)
    texts = column.cast(pl.String).str.strip_chars().str.replace(r"[T ].*$", "")
    readings = {form: texts.str.to_date(form, strict=False) for form in formats}
    fitting = [form for form, dates in readings.items() if dates.null_count() == 0]
    if len(fitting) == 1:
        return readings[fitting[0]]
    raise BadDataError(
        "a price file has dates that cannot be read in one way" if fitting else "a price file has unreadable dates",
        expected=" or ".join(fitting or formats).replace("%Y", "yyyy").replace("%m", "mm").replace("%d", "dd"),
        found=(texts[0] if fitting else texts.filter(readings[formats[0]].is_null())[0]) or "an empty cell",
        where=f"{path}, column {column.name}",
        fix="write the dates as yyyy-mm-dd",
    )
