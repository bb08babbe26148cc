import json
from pathlib import Path

import pytest

from vnfleet.core.errors import UsageError
from vnfleet.cycle.config import CycleConfig
from vnfleet.settings import (
    find_settings,
    load_settings,
    resolved,
    resolved_schema,
    write_resolved,
)


def written(folder: Path, text: str, name: str = "vnfleet.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_when_nothing_is_written_the_defaults_of_the_rooms_stand() -> None:
    assert load_settings() == CycleConfig()
    assert CycleConfig().universe.models == 102


def test_every_table_is_read_and_converted_to_its_room(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        [source]
        kind = "simulated"
        [universe]
        models = 48
        pinned = ["FPT", "VCB"]
        [folds]
        years = [2022, 2023]
        [training]
        num_seeds = 2
        delta_penalties = [0.5]
        [account]
        start_cash_vnd = 500_000_000
        costs = { fee_frac = 0.002 }
        [remote]
        remote = "gdrive:VN-Quant-Training"
        """,
    )
    config = load_settings(file=file)
    assert config.source.kind == "simulated"
    assert config.universe.models == 48
    assert config.universe.pinned == ("FPT", "VCB")
    assert config.folds.years == (2022, 2023)
    assert config.training.num_seeds == 2
    assert config.training.delta_penalties == (0.5,)
    assert config.account.start_cash_vnd == 500_000_000
    assert config.account.costs.fee_frac == 0.002
    assert config.remote.remote == "gdrive:VN-Quant-Training"
    assert config.remote.mode == "local"


def test_the_command_line_beats_the_environment_and_the_environment_beats_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, "[training]\nnum_seeds = 2\nmax_epochs = 5\npatience_epochs = 3\n")
    environ = {"VNFLEET_TRAINING__NUM_SEEDS": "4", "VNFLEET_TRAINING__MAX_EPOCHS": "6", "HOME": "/home/somebody"}
    config = load_settings(file=file, environ=environ, overrides={"training": {"num_seeds": 7}})
    assert config.training.num_seeds == 7
    assert config.training.max_epochs == 6
    assert config.training.patience_epochs == 3


def test_lists_in_the_environment_are_json_or_commas() -> None:
    environ = {"VNFLEET_UNIVERSE__PINNED": "FPT,VCB", "VNFLEET_FOLDS__YEARS": "[2021, 2022]"}
    config = load_settings(environ=environ)
    assert config.universe.pinned == ("FPT", "VCB")
    assert config.folds.years == (2021, 2022)


@pytest.mark.parametrize(
    ("text", "unknown", "meant"),
    [
        ("[trainig]\nnum_seeds = 2\n", "trainig", "training"),
        ("[training]\nnum_sed = 2\n", "num_sed", "num_seeds"),
        ("[universe]\nmodel = 2\n", "model", "models"),
        ('preset = "destop"\n', "destop", "desktop"),
        ("epoch = 3\n", "epoch", "epochs"),
    ],
)
def test_a_typo_is_an_error_that_says_what_was_meant(tmp_path: Path, text: str, unknown: str, meant: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(file=written(tmp_path, text))
    assert unknown in str(caught.value)
    assert f"did you mean {meant}?" in str(caught.value)
    assert "vnfleet.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[training]\nnum_seeds = "three"\n', "num_seeds"),
        ("[training]\nnum_seeds = 0\n", "num_seeds must be at least 1"),
        ("[model]\nd_model = 30\nnum_heads = 4\n", "not a multiple"),
        ('[universe]\npinned = ["fpt"]\n', "not a symbol"),
        ('[remote]\nmode = "hybrid"\n', "needs a remote"),
        ('[source]\nkind = "ftp"\n', "kind"),
        ("[folds]\nyears = [2022, 2022]\n", "repeat"),
        ("num_seeds = [\n", "cannot be understood"),
        ("gradient_accumulation = 4\n", "lower batch_size"),
    ],
)
def test_an_impossible_value_is_refused_with_its_reason(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_settings(file=written(tmp_path, text))


def test_a_missing_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such settings file"):
        load_settings(file=tmp_path / "absent.toml")


def test_the_plan_preset_is_the_written_plans_model_and_fit() -> None:
    config = load_settings(preset="plan")
    shape = config.model
    assert (shape.attention, shape.d_model, shape.num_heads, shape.num_layers, shape.d_ff) == ("window", 128, 8, 4, 512)
    assert (config.training.max_epochs, config.training.learning_rate, config.training.patience_epochs) == (
        100,
        1e-3,
        15,
    )
    assert load_settings(preset="plan", overrides={"model": {"num_layers": 2}}).model.num_layers == 2


def test_the_resolved_form_speaks_the_plans_names() -> None:
    record = resolved(load_settings(overrides={"training": {"max_epochs": 50, "chunk_sessions": 32}}))
    assert record["epochs"] == 50
    assert record["batch_size"] == 32
    assert record["gradient_accumulation"] == 1
    for name in ("learning_rate", "weight_decay", "d_model", "num_heads", "num_layers", "d_ff", "dropout", "patience"):
        assert name in record


def test_the_resolved_form_is_accepted_back_unchanged(tmp_path: Path) -> None:
    given: dict[str, dict[str, object]] = {
        "source": {"kind": "simulated"},
        "folds": {"years": [2022]},
        "training": {"num_seeds": 2},
        "simulated": {"num_symbols": 50},
        "universe": {"pinned": ["XAA"]},
    }
    config = load_settings(overrides=given)
    path = write_resolved(config, tmp_path / "configs")
    assert path.name == "training_config.json"
    assert load_settings(file=path) == config
    assert load_settings(file=path, overrides={"training": {"num_seeds": 5}}).training.num_seeds == 5


def test_the_schema_beside_it_names_every_key(tmp_path: Path) -> None:
    config = CycleConfig()
    write_resolved(config, tmp_path)
    schema = json.loads((tmp_path / "training_config.schema.json").read_text(encoding="utf-8"))
    record = json.loads((tmp_path / "training_config.json").read_text(encoding="utf-8"))
    assert schema["additionalProperties"] is False
    assert set(record) == set(schema["properties"])
    for table, keys in record.items():
        if isinstance(keys, dict):
            assert set(keys) == set(schema["properties"][table]["properties"])
    assert schema == resolved_schema(config)


def test_a_resolved_file_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="another version"):
        load_settings(file=written(tmp_path, '{"schema_version": 99}', "training_config.json"))


def test_settings_are_looked_for_in_the_workdir_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, workdir = tmp_path / "here", tmp_path / "work"
    here.mkdir()
    workdir.mkdir()
    monkeypatch.chdir(here)
    assert find_settings(None, workdir) is None
    own = written(here, "")
    assert find_settings(None, workdir) == Path(own.name)
    assert find_settings(None, workdir) is not None
    inside = written(workdir, "")
    assert find_settings(None, workdir) == inside
    assert find_settings(tmp_path / "x.toml", workdir) == tmp_path / "x.toml"


@pytest.mark.parametrize("key", ["learning_rate = nan", "learning_rate = inf", "delta_penalties = [1.0, inf]"])
def test_numbers_that_are_none_are_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected: a finite number"):
        load_settings(file=written(tmp_path, f"[training]\n{key}\n"))


def test_a_byte_order_mark_before_the_settings_is_skipped(tmp_path: Path) -> None:
    assert load_settings(file=written(tmp_path, "\ufeff[universe]\nmodels = 60\n")).universe.models == 60
