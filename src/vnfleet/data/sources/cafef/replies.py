"""CafeF's replies, taken apart and distrusted: whether they are what was asked for, and whether they can be read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import polars as pl

from vnfleet.core.errors import BadDataError
from vnfleet.core.ids import canonical_json, sha256_hex
from vnfleet.data.sources.base import INDEX_SYMBOL
from vnfleet.data.sources.cafef.fields import CHANGE, NO_NUMBER, PRICES, REQUIRED, VND_PER_UNIT, VOLUME, cafef_bars
from vnfleet.data.sources.cafef.windows import Window
from vnfleet.data.sources.web import SourceAnswerError


@dataclass(frozen=True, slots=True)
class Row:
    """One session as CafeF tells it: every field as text, null as None."""

    session: date
    told: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Question:
    """What a page was asked for. before : the oldest session of the page before it, None for the first page."""

    symbol: str
    window: Window
    before: date | None
    where: str


def rows_of(reply: object, question: Question) -> list[Row]:
    """Return the rows of one reply.

    Raises `SourceAnswerError` when the reply is a refusal in disguise or of another shape, a field is missing or no
    number, or the rows are not those asked for: another symbol, dates ignored, the page before once more.
    """
    rows = [_row(told, question) for told in _told(reply, question.where)]
    oldest = min((row.session for row in rows), default=None)
    if question.before is not None and oldest is not None and oldest >= question.before:
        raise _wrong("CafeF sent a page twice", f"rows before {question.before}", oldest, question)
    return rows


def bars_of(rows: Sequence[Row], symbol: str) -> pl.DataFrame:
    """Return rows of one symbol as `RAW_SCHEMA`, oldest first, identical ones once; of the index in points."""
    names = (*REQUIRED, CHANGE)
    columns = {name: [row.told[name] for row in rows] for name in names}
    table = pl.DataFrame(columns, schema=dict.fromkeys(names, pl.String()))
    unit = 1.0 if symbol == INDEX_SYMBOL else VND_PER_UNIT
    try:
        return cafef_bars(table, f"{symbol} at CafeF", unit=unit).unique().sort("session")
    except BadDataError as error:
        raise SourceAnswerError("CafeF's rows cannot be understood", found=str(error).replace("\n", ";")) from error


def base_of(rows: Sequence[Row]) -> str:
    """Return what identifies the adjustment base of some rows: a re-based history gives another value."""
    told = [[row.told[name] for name in ("Ngay", "GiaDongCua", "GiaDieuChinh")] for row in rows]
    return sha256_hex(canonical_json(told).encode())


def _told(reply: object, where: str) -> Sequence[object]:
    data = reply.get("Data") if isinstance(reply, dict) else None
    if isinstance(reply, dict) and (reply.get("Success") is not True or not isinstance(data, dict)):
        raise SourceAnswerError(
            "CafeF refuses the question, though with status 200",
            found=f"Success {reply.get('Success')}, Data {type(data).__name__}, Message {reply.get('Message')!r}",
            where=where,
            fix="if the message is 'symbol is null or empty', the address has changed and the question got lost",
            again=True,
        )
    rows = (data.get("Data") or []) if isinstance(data, dict) else None
    if not isinstance(rows, list):
        raise SourceAnswerError(
            "CafeF's reply has another shape",
            expected="{Data: {Data: [rows]}}",
            found=str(reply)[:80],
            where=where,
            again=True,
        )
    return rows


def _row(told: object, question: Question) -> Row:
    if not isinstance(told, dict) or any(name not in told for name in REQUIRED):
        raise _wrong("CafeF's rows lack fields", ", ".join(REQUIRED), str(told)[:200], question)
    texts = {name: None if told.get(name) is None else str(told[name]).strip() for name in (*REQUIRED, CHANGE)}
    if (texts["Symbol"] or "").upper() != question.symbol:
        raise _wrong("CafeF tells another symbol", question.symbol, texts["Symbol"], question)
    session = _day(texts["Ngay"])
    if session is None:
        raise _wrong("CafeF tells a date that cannot be read", "dd/mm/yyyy", texts["Ngay"], question)
    if not question.window.start <= session <= question.window.end:
        expected = f"{question.window.start} to {question.window.end}"
        raise _wrong("CafeF ignored the dates asked for", expected, session, question)
    for name in (*PRICES, VOLUME):
        if not _is_number(texts[name]):
            raise _wrong(f"CafeF's {name} is not a number", "a number, or --", texts[name], question)
    return Row(session, texts)


def _day(text: str | None) -> date | None:
    parts = (text or "").split("/")
    if [len(part) for part in parts] != [2, 2, 4]:
        return None
    try:
        return date(int(parts[2]), int(parts[1]), int(parts[0]))
    except ValueError:
        return None


def _is_number(text: str | None) -> bool:
    if text is None or text in NO_NUMBER:
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True


def _wrong(what: str, expected: object, found: object, question: Question) -> SourceAnswerError:
    return SourceAnswerError(what, expected=expected, found=found, where=question.where, again=True)
