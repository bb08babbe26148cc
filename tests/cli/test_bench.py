"""The bench commands: what cannot be meant is refused, and a report becomes tables, one document and a page."""

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from vnfleet.bench.report import BenchReport, MachineFacts
from vnfleet.bench.table import Cell, Table
from vnfleet.cli.main import main

REPORT = BenchReport(
    name="train_labels",
    title="Labels per second",
    tables=(Table(title="t", columns=("labels/s",), rows=((Cell("12", 12.0, "measured"),),), notes=("a note",)),),
    machine=MachineFacts.here(),
    data="a small market",
    command="vnfleet bench train",
    measured_at=datetime(2026, 11, 23, tzinfo=UTC),
    whole=True,
    code="recipe abc",
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Catch what the commands ask for instead of measuring."""
    seen = SimpleNamespace(gathered=None, job=None, options=None, infer=None)

    def gather(config: object, workdir: Path, **rest: object) -> str:
        seen.gathered = (config, workdir, rest)
        return "material"

    def run_train(job: str, material: str, options: object, **_: object) -> BenchReport:
        assert material == "material"
        seen.job, seen.options = job, options
        return REPORT

    def run_plan(material: str, options: object, **_: object) -> BenchReport:
        assert material == "material"
        seen.job, seen.options = "plan", options
        return REPORT

    def run_infer(material: str, **rest: object) -> BenchReport:
        assert material == "material"
        seen.infer = rest
        return REPORT

    monkeypatch.setattr("vnfleet.bench.gathering.gather", gather)
    monkeypatch.setattr("vnfleet.bench.train.run_train_bench", run_train)
    monkeypatch.setattr("vnfleet.bench.train.run_plan_bench", run_plan)
    monkeypatch.setattr("vnfleet.bench.train.run_infer_report", run_infer)
    return seen


def test_a_run_prints_one_document_and_writes_the_page(
    asked: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "train", "--job", "weekly", "--quick", "--workdir", str(tmp_path), "--out", str(tmp_path / "b")]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"]
    assert document["tables"][0]["rows"] == [[{"text": "12", "value": 12.0, "mark": "measured"}]]
    assert Path(document["page"]).read_text(encoding="utf-8").startswith("# Labels per second")
    assert asked.job == "weekly"
    assert asked.options.quick


def test_people_see_the_table_its_notes_and_the_legend(
    asked: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "train", "--workdir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "12 (m)" in said
    assert "a note" in said
    assert "(c) claimed by somebody else" in said
    assert asked.job == "labels"


def test_without_prices_a_market_is_simulated_in_a_folder_of_its_own(asked: SimpleNamespace, tmp_path: Path) -> None:
    assert main(["bench", "plan", "--quick", "--workdir", str(tmp_path)]) == 0
    config, workdir, rest = asked.gathered
    assert config.source.kind == "simulated"
    assert workdir == tmp_path / "bench"
    assert rest["as_of"].isoformat() == "2023-12-29"


def test_a_simulated_market_of_the_settings_is_kept(
    asked: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = '[source]\nkind = "simulated"\n[simulated]\nnum_symbols = 33\n[universe]\nmodels = 31\n[folds]\nnewest = 3\n'
    (tmp_path / "vnfleet.toml").write_text(text, encoding="utf-8")
    assert main(["bench", "plan", "--quick", "--workdir", str(tmp_path)]) == 0
    config, _, rest = asked.gathered
    assert (config.simulated.num_symbols, config.universe.models, config.folds.newest) == (33, 31, 3)
    assert rest["as_of"] is None  # as in a week
    said = capsys.readouterr().err
    assert "settings: " in said
    assert "built-in" not in said


def test_the_built_in_market_is_named(
    asked: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "plan", "--quick", "--models", "8", "--workdir", str(tmp_path)]) == 0
    assert "the built-in simulated market of 48 symbols" in capsys.readouterr().err
    assert asked.gathered[0].universe.models == 8


def test_a_path_alone_means_files(asked: SimpleNamespace, tmp_path: Path) -> None:
    prices = tmp_path / "prices.parquet"
    words = ["--path", str(prices), "--as-of", "2024-12-31", "--year", "2021", "--workdir", str(tmp_path)]
    assert main(["bench", "train", *words]) == 0
    config, _, rest = asked.gathered
    assert (config.source.kind, config.source.path) == ("files", prices)
    assert rest["year"] == 2021


def test_trained_models_can_be_measured(asked: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "VCB_stockformer.pt").touch()
    assert main(["bench", "infer", "--models-folder", str(tmp_path), "--workdir", str(tmp_path)]) == 0
    assert asked.infer["models"] == tmp_path


@pytest.mark.parametrize(("folder", "words"), [("nowhere", "no such folder"), (".", "has no models")])
def test_a_folder_without_models_is_refused_before_anything_is_gathered(
    folder: str, words: str, asked: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "infer", "--models-folder", str(tmp_path / folder), "--workdir", str(tmp_path)]) == 2
    assert words in capsys.readouterr().err
    assert asked.gathered is None


@pytest.mark.parametrize("option", [["--whole"], ["--exchange", "x"]])
def test_options_of_another_job_are_refused(
    option: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "train", "--job", "labels", *option, "--workdir", str(tmp_path)]) == 2
    assert option[0] in capsys.readouterr().err


def test_an_unknown_job_is_refused(tmp_path: Path) -> None:
    assert main(["bench", "train", "--job", "everything", "--workdir", str(tmp_path)]) == 2


def test_a_narrow_window_gets_rows_one_below_the_other(
    asked: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = tuple(f"{name} heading" for name in "abcdefgh")
    wide = Table(title="wide", columns=columns, rows=(tuple(Cell(f"{name[0]}1") for name in columns),))
    monkeypatch.setattr(f"{__name__}.REPORT", replace(REPORT, tables=(wide,)))
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["bench", "train", "--workdir", str(tmp_path)]) == 0
    assert "  a heading: a1\n      b heading: b1\n      c heading: c1\n" in capsys.readouterr().out
    monkeypatch.setenv("COLUMNS", "140")
    assert main(["bench", "train", "--workdir", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert any(all(name in line for name in columns) for line in said.splitlines())
    assert asked.job == "labels"
