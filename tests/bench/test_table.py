"""Tables say of every figure where it comes from."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from vnfleet.bench.report import BenchReport, MachineFacts
from vnfleet.bench.table import (
    NOTHING,
    Cell,
    Table,
    claimed,
    counts_text,
    mean_cell,
    rate_cell,
    rough_cell,
    seconds_cell,
    share_cell,
    words,
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0421, "42.1 ms"),
        (12.34, "12.3 s"),
        (89.0, "89.0 s"),
        (150.0, "2.5 min"),
        (5399.0, "90.0 min"),
        (93600.0, "26.0 h"),
    ],
)
def test_durations_are_said_in_the_unit_people_use(seconds: float, text: str) -> None:
    assert str(seconds_cell(seconds, "measured")) == f"{text} (m)"


def test_every_mark_has_its_letter() -> None:
    assert str(rate_cell(11.234, "estimated")) == "11.2 (e)"
    assert str(rate_cell(9870.4, "claimed")) == "9,870 (c)"
    assert str(share_cell(0.0213, "measured")) == "2.1% (m)"
    assert str(words("plain")) == "plain"


def test_a_mean_comes_with_its_interval() -> None:
    assert str(mean_cell(0.105, 0.085, 0.124)) == "0.105 [0.085, 0.124] (m)"
    assert "no interval" in str(mean_cell(0.1, None, None))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0421, "40 ms"), (12.34, "10 s"), (150.0, "2 min"), (5399.0, "90 min"), (93600.0, "30 h")]
)
def test_a_rough_duration_has_one_digit(seconds: float, text: str) -> None:
    assert str(rough_cell(seconds)) == f"{text} (e)"


def test_counts_are_said_in_full() -> None:
    assert counts_text(40, 1, 2) == "40 models x 1 seed x 2 epochs"
    assert counts_text(1, 3, "at most 8") == "1 model x 3 seeds x at most 8 epochs"


def test_who_claims_nothing_has_a_dash_without_a_mark() -> None:
    assert str(claimed(None)) == "-"
    assert str(claimed("free")) == "free (c)"


def test_a_busy_machine_is_said_in_words() -> None:
    facts = replace(MachineFacts.here(), cores=2, load=1.9)
    assert facts.warning is None
    assert "load average 1.9 before the run" in facts.sentence
    busy = replace(facts, load=6.4).warning
    assert busy is not None
    assert "the machine was busy" in busy
    assert replace(facts, load=None).warning is None


def test_a_row_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="2 cells for 1 columns"):
        Table(title="t", columns=("a",), rows=((NOTHING, NOTHING),))


def test_markdown_keeps_a_pipe_inside_its_cell() -> None:
    table = Table(title="t", columns=("a", "b"), rows=((words("x|y"), NOTHING),), notes=("why",))
    assert table.markdown().splitlines() == ["## t", "", "| a | b |", "|---|---|", "| x\\|y | - |", "", "- why"]


def test_the_record_is_json_without_nan_and_a_dated_page(tmp_path: Path) -> None:
    table = Table(title="t", columns=("a",), rows=((Cell("?", float("nan"), "measured"),),))
    report = BenchReport(
        name="train_labels",
        title="Labels",
        tables=(table,),
        machine=MachineFacts.here(),
        data="a market",
        command="vnfleet bench train",
        measured_at=datetime(2026, 11, 22, 20, tzinfo=UTC),
        whole=False,
        code="recipe abc",
    )
    json.dumps(report.as_json(), allow_nan=False)
    page = report.write(tmp_path)
    assert page.name == "train_labels_20261123.md"  # the day in Vietnam
    text = page.read_text(encoding="utf-8")
    assert "a quick slice" in text
    assert "(m) measured" in text
    assert "vnfleet bench train" in text
