import io
import json
from datetime import date
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

from vnfleet.cli.terminal import Terminal, TerminalObserver, watching
from vnfleet.core.frames import PREDICTION_SCHEMA
from vnfleet.cycle.runner import StepOutcome


def outcome(*, reused: bool) -> StepOutcome:
    return StepOutcome(
        name="check",
        key="k",
        folder=Path(),
        reused=reused,
        seconds=1.25,
        peak_memory_mib=300.0,
        summary="2 rows",
        facts={},
    )


def test_with_json_stdout_holds_one_document_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(as_json=True)
    terminal.say("for people")
    terminal.table("Table", ("a",), [(1,)])
    terminal.document({"ok": True, "day": date(2024, 12, 31)})
    said = capsys.readouterr()
    assert json.loads(said.out) == {"ok": True, "day": "2024-12-31"}
    assert "for people" in said.err


def test_without_json_no_document_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal()
    terminal.document({"ok": True})
    terminal.table("Releases", ("name", "size"), [("one", None)])
    said = capsys.readouterr().out
    assert "ok" not in said
    assert "one" in said
    assert "-" in said


def test_without_a_terminal_progress_is_plain_lines_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with watching(Terminal()) as observer:
        observer.step_started("check")
        observer.progress("check", 1, 4, "a part")
        observer.step_finished(outcome(reused=False))
        observer.step_finished(outcome(reused=True))
    said = capsys.readouterr()
    assert said.out == ""
    assert "1.2 s, 300 MiB" in said.err
    assert "reused" in said.err
    assert "\x1b" not in said.err


def test_forecasts_show_the_strongest_first_and_a_dash_for_what_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    import polars as pl  # noqa: PLC0415

    rows = [
        ("m", one, date(2024, 12, 31), 5, "live", score, None, None, None)
        for one, score in (("AAA", 0.5), ("BBB", 2.0))
    ]
    Terminal().forecasts(date(2024, 12, 31), pl.DataFrame(rows, schema=PREDICTION_SCHEMA, orient="row"))
    said = capsys.readouterr().out
    assert said.index("BBB") < said.index("AAA")
    assert "+2.00" in said


def test_on_a_terminal_progress_between_two_steps_and_sentences_do_no_harm() -> None:
    screen = io.StringIO()
    with Progress(console=Console(file=screen, force_terminal=True, width=100)) as bars:
        observer = TerminalObserver(Terminal(), bars)
        observer.step_started("features")
        observer.step_finished(outcome(reused=False))
        observer.progress("train", 0.0, 4.0, "measuring")
        observer.told("train", "measuring one training step")
        observer.step_started("train")
        observer.progress("train", 1.0, 4.0, "a unit")
    assert "measuring one training step" in screen.getvalue()
