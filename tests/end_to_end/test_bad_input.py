"""Bad input: a clear error, the promised exit code, and the deployed set as it was."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from vnfleet.cli.main import main
from vnfleet.data.sources.simulated import SimulatedSource

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Factory

pytestmark = pytest.mark.xdist_group("end_to_end")


@pytest.fixture(scope="module")
def prices(finished: tuple[Factory, object]) -> pl.DataFrame:
    """The simulated market as a plain OHLCV table in VND."""
    factory = finished[0]
    bars = SimulatedSource(factory.config.simulated).fetch(None, factory.first_week)
    plain = bars.bars.rename(
        {"session": "date", "volume_shares": "volume", "adjusted_close_vnd": "adj_close"}
        | {f"{name}_vnd": name for name in ("open", "high", "low", "close")}
    )
    index = bars.index.select(
        pl.lit("VNINDEX").alias("symbol"),
        pl.col("session").alias("date"),
        *(pl.col("close_points").alias(name) for name in ("open", "high", "low", "close", "adj_close")),
        pl.lit(0, pl.Int64).alias("volume"),
    )
    columns = index.columns
    return pl.concat([plain.select(columns), index])


def run(factory: Factory, *more: str, command: str = "cycle") -> int:
    """Run a command on files; the deployed set must survive it unchanged."""
    before = factory.deployed()
    assert before
    code = main(factory.arguments(command, "--source", "files", *more))
    assert factory.deployed() == before
    return code


def saved(frame: pl.DataFrame, folder: Path) -> str:
    path = folder / "prices.parquet"
    frame.write_parquet(path)
    return str(path)


def test_a_missing_file(factory: Factory, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(factory, "--path", str(tmp_path / "absent.parquet")) == 3
    assert "absent.parquet" in capsys.readouterr().err


def test_no_file_at_all(factory: Factory, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(factory) == 2
    assert "--path" in capsys.readouterr().err


def test_a_truncated_parquet(
    factory: Factory, prices: pl.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(saved(prices, tmp_path))
    path.write_bytes(path.read_bytes()[:-2000])
    assert run(factory, "--path", str(path)) == 3
    assert "truncated" in capsys.readouterr().err


def test_a_symbol_with_forty_rows_is_quarantined_and_the_others_go_on(
    factory: Factory, prices: pl.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = prices.filter(pl.col("symbol") == "XAA").tail(40).with_columns(symbol=pl.lit("NEW"))
    path = saved(pl.concat([prices, short]), tmp_path)
    assert run(factory, "--path", path, command="check") == 0
    assert "1 quarantined" in capsys.readouterr().err
    assert run(factory, "--path", path, "--symbols", "NEW", command="train") == 2
    said = capsys.readouterr().err
    assert "NEW is quarantined" in said
    assert "40" in said


def test_negative_prices_are_quarantined_or_masked_and_told(
    factory: Factory, prices: pl.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    upside_down = pl.when(pl.col("symbol") == "XAA").then(-pl.col("close")).otherwise(pl.col("close"))
    path = saved(prices.with_columns(close=upside_down), tmp_path)
    assert run(factory, "--path", path, "--symbols", "XAA", command="train") in {2, 3}
    assert "XAA" in capsys.readouterr().err


def test_an_unknown_symbol_is_answered_with_near_ones(factory: Factory, capsys: pytest.CaptureFixture[str]) -> None:
    before = factory.deployed()
    assert main(factory.arguments("cycle", "--symbols", "XAA", "XBX")) == 2
    said = capsys.readouterr().err
    assert "unknown symbol XBX" in said
    assert "did you mean" in said
    assert factory.deployed() == before


def test_three_symbols_only(
    factory: Factory, prices: pl.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    three = prices.filter(pl.col("symbol").is_in(["XAA", "XAB", "XAC", "VNINDEX"]))
    assert run(factory, "--path", saved(three, tmp_path)) == 3
    said = capsys.readouterr().err
    assert "not enough traded symbols" in said
    assert "found: 3" in said


def test_prices_that_end_long_before_the_week(
    factory: Factory, prices: pl.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = prices.filter(pl.col("date").dt.year() < 2023)
    assert run(factory, "--path", saved(old, tmp_path)) == 3
    assert "--as-of 2022-12-30" in capsys.readouterr().err


def test_a_typo_in_the_settings(factory: Factory, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = factory.deployed()
    settings = tmp_path / "vnfleet.toml"
    settings.write_text("[training]\nnum_sed = 3\n", encoding="utf-8")
    assert main(["cycle", "--config", str(settings), "--workdir", str(factory.workdir)]) == 2
    assert "did you mean num_seeds?" in capsys.readouterr().err
    assert factory.deployed() == before


@pytest.mark.parametrize(
    "words",
    [["cycel"], ["cycle", "--fold", "2022"], ["cycle", "--folds", "soon"], ["cycle", "--as-of", "monday"],
     ["predict", "--output", "x.doc"], ["rollback", "--workdir", "{empty}"], ["predict", "--workdir", "{empty}"],
     ["deploy", "no-such-release"]],
)  # fmt: skip
def test_a_command_that_means_nothing(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word.format(empty=tmp_path) for word in words]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_bug_is_one_line_and_a_log_file(
    factory: Factory, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Path) -> None:
        raise ZeroDivisionError("a bug planted by a test")

    monkeypatch.setattr("vnfleet.cycle.status.look", broken)
    assert main(["status", "--workdir", str(factory.workdir)]) == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said
    log = Path(said.rsplit("details: ", maxsplit=1)[1].strip().rstrip(")"))
    assert "a bug planted by a test" in log.read_text(encoding="utf-8")
    assert log.is_relative_to(factory.workdir)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB, where this process may mount one."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"this machine refuses to mount a small file system: {done.stderr.strip()}")
    yield folder
    subprocess.run([shutil.which("umount") or "umount", str(folder)], check=True)


def test_a_full_disk(finished: tuple[Factory, object], small_disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    factory = finished[0]
    workdir = small_disk / "work"
    shutil.copytree(factory.workdir / "models_prod", workdir / "models_prod")
    before = {path: path.read_bytes() for path in (workdir / "models_prod").rglob("*") if path.is_file()}
    words = ["cycle", "--config", str(factory.settings), "--as-of", factory.next_week.isoformat()]
    assert main([*words, "--workdir", str(workdir)]) == 6
    assert "disk is full" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in before} == before
