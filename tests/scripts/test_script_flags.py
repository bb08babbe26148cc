"""Flags of the plan's scripts: each has its effect or is refused, and verdicts become exit codes."""

from typing import Any

import pytest
import torch

from vnfleet.cli.plan import hybrid, local_cpu
from vnfleet.cli.plan.local_cpu import cpu_config
from vnfleet.cli.plan.preparation import LocalDataPreparation
from vnfleet.core.errors import UsageError
from vnfleet.cycle.artifact_check import check_artifacts, exit_code_of
from vnfleet.cycle.drive import name_on_remote
from vnfleet.cycle.inference import read_choice
from vnfleet.model.artifact import artifact_name


@pytest.mark.parametrize("flags", [("--epochs", "3"), ("--batch-size", "4"), ("--as-of", "2024-01-05")])
def test_a_flag_without_effect_is_an_error(
    flags: tuple[str, str], empty_desk: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(empty_desk.folder)
    assert local_cpu.main(["--validate-only", *flags]) == 2
    assert f"{flags[0]} has no effect with --validate-only" in capsys.readouterr().err


def test_epochs_and_batch_size_mean_windows_and_an_upper_limit(empty_desk: Any) -> None:
    plain = cpu_config(empty_desk.folder)
    assert (plain.training.max_epochs, plain.training.chunk_sessions, plain.training.accumulation) == (50, 4, 8)
    asked = cpu_config(empty_desk.folder, epochs=7, batch_size=16)
    assert (asked.training.max_epochs, asked.training.chunk_sessions) == (7, 16)
    for config in (plain, asked):
        assert (config.training.strategy, config.model.attention) == ("separate", "window")
        assert (config.machine.device, config.remote.mode) == ("cpu", "local")
    with pytest.raises(UsageError, match="chunk_sessions"):
        cpu_config(empty_desk.folder, batch_size=1)


def test_without_a_file_it_is_the_plans_model(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = cpu_config(tmp_path)
    assert (config.model.d_model, config.model.num_layers, config.model.window_sessions) == (128, 4, 60)
    assert config.training.ensemble == "depths"


def test_validating_trains_nothing_and_misses_models_with_a_way_out(
    empty_desk: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(empty_desk.folder)
    assert local_cpu.main(["--validate-only"]) == 3
    told = capsys.readouterr()
    assert [line.split()[:2] for line in told.out.splitlines()] == [["FPT", "bad"], ["VCB", "bad"], ["HPG", "bad"]]
    assert "local_cpu_training.py --symbols FPT VCB HPG" in told.err
    assert not (empty_desk.folder / "data").exists()
    assert not (empty_desk.folder / "checkpoints").exists()
    assert hybrid.main(["--mode", "validation"]) == 3
    assert "there are no models to validate" in capsys.readouterr().err


def test_an_empty_data_folder_is_filled_first_and_verdicts_become_codes(
    empty_desk: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(empty_desk.folder)
    flags = ["--symbols", "HPG", "VCB", "--epochs", "1", "--optimize-inference"]
    assert local_cpu.main(flags) == 0
    told = capsys.readouterr()
    assert "no prices were collected yet: they are fetched first" in told.err
    assert "2 models in models" in told.out
    choice = read_choice(empty_desk.folder / "configs" / "inference.json")
    assert choice is not None
    assert choice.num_symbols == 2

    models = empty_desk.folder / "models"
    before = {path: path.read_bytes() for path in models.iterdir()}
    code = local_cpu.main(["--validate-only", "--symbols", "HPG", "VCB"])
    verdicts = check_artifacts(models, ("HPG", "VCB"), None)
    assert code == exit_code_of(verdicts)
    assert "forecasts tried" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in models.iterdir()} == before

    good = torch.load(models / artifact_name("HPG"), weights_only=True)
    for accuracy, expected in ((0.6, 0), (0.52, 4)):
        facts = good["facts_json"].replace(f'"accuracy":{verdicts[0].accuracy_frac}', f'"accuracy":{accuracy}')
        torch.save({**good, "facts_json": facts}, models / artifact_name("HPG"))
        assert local_cpu.main(["--validate-only", "--symbols", "HPG"]) == expected
    flat = {name: torch.zeros_like(tensor) for name, tensor in good["tensors"].items()}
    torch.save({**good, "tensors": flat}, models / artifact_name("HPG"))
    assert local_cpu.main(["--validate-only", "--symbols", "HPG"]) == 3
    assert hybrid.main(["--mode", "validation", "--symbols", "HPG", "VCB"]) == 3
    assert "nothing was learned" in capsys.readouterr().out
    (models / artifact_name("HPG")).write_bytes((models / artifact_name("VCB")).read_bytes())
    assert local_cpu.main(["--validate-only", "--symbols", "HPG"]) == 3

    assert local_cpu.main(["--symbols", "HPX"]) == 2
    assert "did you mean HPG" in capsys.readouterr().err


def test_the_orchestrator_refuses_what_it_cannot_do(
    empty_desk: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty_desk.settings(remote=False)
    monkeypatch.chdir(empty_desk.folder)
    assert hybrid.main(["--mode", "hybrid"]) == 2
    assert "vnfleet remote init" in capsys.readouterr().err
    for flags in (["--mode", "sunday"], ["--mode", "hybrid", "--schedule", "weekly"], []):
        with pytest.raises(SystemExit) as refused:
            hybrid.main(flags)
        assert refused.value.code == 2


@pytest.mark.parametrize(
    ("remote", "path", "name"),
    [
        ("gdrive:VN-Quant-Training", "VN-Quant-Training/data", "data"),
        ("gdrive:VN-Quant-Training/", "VN-Quant-Training/data", "data"),
        ("gdrive:", "VN-Quant-Training/data", "VN-Quant-Training/data"),
        ("gdrive:work/VN-Quant-Training", "VN-Quant-Training/data", "data"),
        ("gdrive:VN-Quant-Training", "data", "data"),
        ("/mnt/drive/VN-Quant-Training", "VN-Quant-Training/data", "data"),
        (r"G:\My Drive\VN-Quant-Training", "VN-Quant-Training/data", "data"),
        ("gdrive:VN-Quant-Training", "VN-Quant-Training", ""),
    ],
)
def test_the_plans_path_lies_below_the_configured_remote(remote: str, path: str, name: str) -> None:
    assert name_on_remote(remote, path) == name


def test_the_data_folder_has_the_plans_name(empty_desk: Any) -> None:
    with pytest.raises(UsageError, match="is called data"):
        LocalDataPreparation(empty_desk.folder / "prices")
    assert LocalDataPreparation(empty_desk.folder / "data").workdir == empty_desk.folder
