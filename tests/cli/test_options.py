from datetime import date

import pytest

from vnfleet.cli.options import join_symbols, parsed_date, parsed_symbols, parsed_years
from vnfleet.core.errors import UsageError


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("2020-2024", [2020, 2021, 2022, 2023, 2024]),
        ("2022", [2022]),
        ("2020,2022", [2020, 2022]),
        ("2020, 2022 2024", [2020, 2022, 2024]),
        (None, None),
    ],
)
def test_folds_are_a_span_or_a_list_of_years(text: str | None, years: list[int] | None) -> None:
    assert parsed_years(text) == years


@pytest.mark.parametrize("text", ["", "soon", "2024-2020", "20-24", "2020,x"])
def test_folds_that_are_no_years_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no years"):
        parsed_years(text)


def test_a_day_is_read_and_anything_else_refused() -> None:
    assert parsed_date("2024-12-31") == date(2024, 12, 31)
    assert parsed_date(None) is None
    with pytest.raises(UsageError, match="no day"):
        parsed_date("31/12/2024")


@pytest.mark.parametrize(
    ("words", "symbols"),
    [
        (["train", "--symbols", "FPT", "VCB", "HPG", "--json"], ("FPT", "VCB", "HPG")),
        (["train", "--symbols", "FPT,VCB"], ("FPT", "VCB")),
        (["train", "--symbols", "fpt", "FPT"], ("FPT",)),
    ],
)
def test_symbols_are_written_the_way_the_plan_writes_them(words: list[str], symbols: tuple[str, ...]) -> None:
    joined = join_symbols(words)
    assert parsed_symbols(joined[joined.index("--symbols") + 1]) == symbols
    assert joined[:2] == words[:2]
    assert joined[3:] == [word for word in words if word == "--json"]


def test_words_without_symbols_stay_as_they_are() -> None:
    assert join_symbols(["status", "--json"]) == ["status", "--json"]
    assert join_symbols(["train", "--symbols"]) == ["train", "--symbols"]


def test_symbols_that_are_given_but_empty_do_not_mean_all() -> None:
    assert parsed_symbols(None) == ()
    for nothing in ("", " , "):
        with pytest.raises(UsageError, match="names no symbol"):
            parsed_symbols(nothing)
