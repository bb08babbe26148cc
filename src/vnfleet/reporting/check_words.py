"""The court's code words in plain ones: what each check looks for, how grave it is, what was done about it."""

from __future__ import annotations

from dataclasses import dataclass

SEVERITIES = ("error", "warn", "info")
"""From the gravest on; words that are not known come last."""
VERDICTS = ("mask", "repair", "quarantine", "accept")
"""In the order of what was changed in the data; words that are not known come last."""
MARKET_WORDS = "whole market"


@dataclass(frozen=True, slots=True)
class CheckWords:
    """A check for people: its title, and what it means for somebody who trades on these prices."""

    title: str
    meaning: str


_CHECKS: dict[str, CheckWords] = {
    "duplicate": CheckWords("Row told twice", "Identical rows of one session; one is kept."),
    "conflict": CheckWords("Rows of one session disagree", "The vendor tells two different bars; neither is believed."),
    "weekend": CheckWords("Bar on a weekend", "The market never trades then: a phantom of the vendor."),
    "price": CheckWords("No positive close", "A close of zero, below zero or absent is no price."),
    "volume": CheckWords("No usable volume", "Volume is absent or negative."),
    "range": CheckWords("High and low too far apart", "Further apart than any price band of any exchange allows."),
    "stale": CheckWords("Frozen feed", "The same bar with the same volume again and again."),
    "open": CheckWords("No opening price", "The previous close, moved into the day's own range, stands in."),
    "ohlc": CheckWords("Open or close outside high and low", "High and low were widened to enclose all four prices."),
    "off_axis": CheckWords("Traded while the market was closed", "So few symbols have this day that it is no session."),
    "unexplained": CheckWords(
        "Jump nobody explains", "Beyond any plausible band, without a corporate action: the return is taken as zero."
    ),
    "flip": CheckWords("Adjustment that came straight back", "A vendor's factor left for a session or two: not used."),
    "wrong_way": CheckWords("Adjustment in the wrong direction", "The factor stepped, raw prices did not: not used."),
    "contradicted": CheckWords("Adjustment the raw prices contradict", "The claimed step does not fit: not used."),
    "not_final": CheckWords(
        "Close that was not the final one", "The next session's reference, or another vendor, tells another close."
    ),
    "missing_step": CheckWords(
        "Adjustment the vendor forgot", "A corporate action is in the prices, not in its factor."
    ),
    "wrong_step": CheckWords("Adjustment of the wrong size", "Other evidence agrees on another step, which is used."),
    "disputed_step": CheckWords("Adjustment in dispute", "The evidence speaks both ways; the vendor's step is kept."),
    "opinion": CheckWords("Another vendor disagrees", "Heard and weighed; the stored value stands."),
    "opinion_unheard": CheckWords(
        "Another vendor not heard",
        "Its returns are so often others that one of the two must be wrong: nothing is taken.",
    ),
    "price_unit": CheckWords("Prices in another unit", "Thousand VND among VND or the like: brought to VND."),
    "volume_unit": CheckWords("Volumes in another unit", "Lots among shares or the like: brought to shares."),
    "not_raw": CheckWords("Prices that are not raw", "Closes off every tick: the vendor tells adjusted prices as raw."),
    "tick": CheckWords("Close off the tick", "No order could have had this price on HOSE."),
    "lot": CheckWords("Volume off the lot", "No multiple of HOSE's lot, though all volumes before were."),
    "volume_spike": CheckWords("Volume spike", "Many times the highest volume before: a block deal, or a fault."),
    "stale_tail": CheckWords("Suspended at the end", "The newest rows have no volume and one price."),
    "drift": CheckWords("A column went missing", "The vendor's format changed: what was there before is absent."),
    "in_session": CheckWords("Read before the close", "The newest session has too little volume to be a whole day."),
    "adjusted_close": CheckWords(
        "No adjusted close", "Where the vendor is silent, the last known factor is carried on."
    ),
    "missing_session": CheckWords(
        "Sessions without a row", "The market traded, this symbol has nothing. Never filled."
    ),
    "index_missing": CheckWords("VNINDEX has no bar", "Symbols traded, the index has nothing."),
    "market_hole": CheckWords("Whole session missing", "The calendar expects a session, the source has nothing."),
    "unexpected_session": CheckWords(
        "Session on a closed day", "The market traded on a day the calendar has as a holiday: the data win."
    ),
}
SEVERITY_WORDS = {"error": "error", "warn": "warning", "info": "note"}
VERDICT_WORDS = {
    "mask": "masked",
    "repair": "repaired",
    "quarantine": "adjustment refused",
    "accept": "noted, kept",
}
SYMBOL_VERDICT_WORDS = {"accept": "accepted", "retired": "retired", "quarantine": "quarantined"}
SYMBOL_VERDICT_MEANING = {
    "accepted": "fit for training and for forecasts",
    "retired": "its past may be used, it is not to be traded now: to leave it out would be to look ahead",
    "quarantined": "not used at all until the reasons are gone",
}
EVENT_WORDS = {
    "adjustment": "adjustment",
    "cash_dividend": "cash dividend",
    "stock_dividend": "stock dividend",
    "stock_dividend_or_bonus": "stock dividend or bonus",
    "bonus": "bonus shares",
    "split": "split",
    "rights": "rights issue",
    "rights_or_mixed": "rights or several at once",
    "unknown": "unknown kind",
    "unexplained": "unexplained jump, absorbed",
    "repaired": "step put right by the court",
    "flip": "not used: came straight back",
    "wrong_way": "not used: wrong direction",
    "contradicted": "not used: raw prices contradict",
}


def check_words(check: str) -> CheckWords:
    """Return the words of a check; one that is not known keeps its name without the underscores."""
    name = check.replace("_", " ").strip() or "unnamed check"
    return _CHECKS.get(check, CheckWords(name[:1].upper() + name[1:], ""))


def said_of(words: dict[str, str], code: str) -> str:
    """Return the plain word of `code`, or the code without its underscores."""
    return words.get(code, code.replace("_", " "))
