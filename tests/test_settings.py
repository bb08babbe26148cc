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
from vnfleet.training.machine.config import MachineConfig
from vnfleet.training.recipe import ObjectiveConfig, Recipe


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


def test_what_is_rewarded_and_how_a_machine_is_used_have_tables_of_their_own(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        gradient_accumulation = 8
        [model]
        horizon_sessions = 10
        path_sessions = [1, 5, 10]
        [training]
        strategy = "separate"
        ensemble = "depths"
        schedule = "cosine"
        [objective]
        rank_ic_weight = 0
        pairwise_weight = 0.5
        direction_weight = 0.3
        direction_target = "market_relative"
        path_loss = "mse"
        min_labels_per_session = 25
        [machine]
        engine = "ray"
        ray_address = "ray://desktop:10001"
        processes = 4
        num_threads = 2
        precision = "bf16"
        budget_minutes = 90
        """,
    )
    config = load_settings(file=file)
    assert config.training.accumulation == 8
    assert (config.training.strategy, config.training.ensemble, config.training.schedule) == (
        "separate",
        "depths",
        "cosine",
    )
    assert config.model.horizons == (1, 5, 10)
    assert config.horizon_sessions == 10
    assert config.objective == ObjectiveConfig(
        rank_ic_weight=0.0,
        pairwise_weight=0.5,
        direction_weight=0.3,
        direction_target="market_relative",
        path_loss="mse",
        min_labels_per_session=25,
    )
    assert config.machine == MachineConfig(
        engine="ray",
        ray_address="ray://desktop:10001",
        processes=4,
        num_threads=2,
        precision="bf16",
        budget_minutes=90.0,
    )
    path = write_resolved(config, tmp_path / "configs")
    assert load_settings(file=path) == config
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["gradient_accumulation"] == 8
    assert record["forecast_horizon"] == 10
    assert record["machine"]["processes"] == 4
    assert record["objective"]["direction_target"] == "market_relative"


def test_the_environment_reaches_the_objective_and_the_machine() -> None:
    environ = {
        "VNFLEET_OBJECTIVE__PAIRWISE_WEIGHT": "0.25",
        "VNFLEET_MACHINE__DEADLINE": "2026-11-23T08:45",
        "VNFLEET_MACHINE__PIN_CORES": "false",
        "VNFLEET_MODEL__PATH_SESSIONS": "1,5",
    }
    config = load_settings(environ=environ)
    assert config.objective.pairwise_weight == 0.25
    assert config.machine.deadline == "2026-11-23T08:45"
    assert config.machine.pin_cores is False
    assert config.model.horizons == (1, 5)


def test_settings_that_moved_are_refused_where_they_were(tmp_path: Path) -> None:
    for key in ("num_threads = 2", "min_labels_per_session = 30", "primary_share = 0.5"):
        with pytest.raises(UsageError, match=r"unknown key in \[training\]"):
            load_settings(file=written(tmp_path, f"[training]\n{key}\n"))


def test_the_machine_is_no_part_of_what_is_trained_and_the_objective_is() -> None:
    def recipe_id(overrides: dict[str, dict[str, object]]) -> str:
        config = load_settings(overrides=overrides)
        return Recipe(config.model, config.training, config.objective).recipe_id

    assert recipe_id({"machine": {"processes": 3, "num_threads": 2, "precision": "bf16"}}) == recipe_id({})
    assert recipe_id({"objective": {"pairwise_weight": 0.5}}) != recipe_id({})


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
        ("[objectiv]\npath_weight = 1.0\n", "objectiv", "objective"),
        ("[objective]\nmin_labels = 30\n", "min_labels", "min_labels_per_session"),
        ('[objective]\ndirection_targets = "absolute"\n', "direction_targets", "direction_target"),
        ("[machin]\nprocesses = 2\n", "machin", "machine"),
        ("[machine]\nnum_thread = 2\n", "num_thread", "num_threads"),
        ("[training]\nacumulation = 2\n", "acumulation", "accumulation"),
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
        ("[folds]\ntest_sessions = 4\n", r"test_sessions must be at least 5, a week: .*, found 4"),
        ("[folds]\ntrain_sessions = 0\n", "train_sessions must be at least 1"),
        ("[portfolio]\ntarget_volatility_frac = 10\n", r"write 0\.10 for 10 %"),
        ("num_seeds = [\n", "cannot be understood"),
        ("gradient_accumulation = 0\n", "accumulation must be at least 1"),
        ("[objective]\nmin_labels_per_session = 19\n", "fewer than 20 symbols is noise"),
        ("[objective]\nprimary_share = 1.5\n", "primary_share must lie in"),
        ("[objective]\npath_weight = -0.1\n", "path_weight must not be negative"),
        ('[objective]\npath_loss = "mae"\n', r"\[objective\] path_loss has an impossible value"),
        (
            "[objective]\nrank_ic_weight = 0\nrank_mse_weight = 0\npath_weight = 0\nvolatility_weight = 0\n",
            "nothing would be learned",
        ),
        ("[machine]\nnum_threads = -1\n", "must lie between 0"),
        ('[machine]\nengine = "slurm"\n', r"\[machine\] engine has an impossible value"),
        ('[machine]\nprecision = "fp8"\n', r"\[machine\] precision has an impossible value"),
        ("[machine]\nmemory_warn_frac = 0.0\n", "memory_warn_frac must lie in"),
        ("[machine]\ncheckpoint_frac = 1.5\n", "checkpoint_frac in"),
        ('[machine]\nbudget_minutes = 10\ndeadline = "2026-11-23T08:45"\n', "not both"),
        ('[machine]\nray_address = "auto"\n', 'ray_address is for engine "ray"'),
        ("[model]\npath_sessions = [1, 3]\n", r"must rise from 1 or more to horizon_sessions \(5\)"),
        ('[training]\nstrategy = "shared"\n', r"\[training\] strategy has an impossible value"),
        ('[training]\nensemble = "widths"\n', r"\[training\] ensemble has an impossible value"),
        ("[training]\nema_decay = 1.0\n", "ema_decay and warmup_frac must lie in"),
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
    training = config.training
    assert (training.max_epochs, training.learning_rate, training.patience_epochs) == (100, 1e-3, 15)
    assert (training.strategy, training.ensemble, training.num_seeds) == ("separate", "depths", 3)
    recipe = Recipe(config.model, training, config.objective)
    members = [recipe.separate_config(seed) for seed in range(training.num_seeds)]
    assert [(member.num_layers, member.dropout) for member in members] == [(4, 0.1), (5, 0.15), (6, 0.2)]
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


@pytest.mark.parametrize(
    "text",
    [
        "[training]\nlearning_rate = nan\n",
        "[training]\nlearning_rate = inf\n",
        "[training]\ndelta_penalties = [1.0, inf]\n",
        "[objective]\ndirection_weight = nan\n",
        "[machine]\nbudget_minutes = inf\n",
        "[machine]\nmemory_limit_gib = nan\n",
    ],
)
def test_numbers_that_are_none_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected: a finite number"):
        load_settings(file=written(tmp_path, text))


def test_a_byte_order_mark_before_the_settings_is_skipped(tmp_path: Path) -> None:
    assert load_settings(file=written(tmp_path, "\ufeff[universe]\nmodels = 60\n")).universe.models == 60
