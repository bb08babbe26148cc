"""A model of the user's own: what it is given, what is taken from it, and what is refused in words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import polars as pl
import pytest

from vnfleet.core.errors import BadDataError, UsageError, VnfleetError
from vnfleet.core.frames import PREDICTION_SCHEMA
from vnfleet.cycle.config import CycleConfig, UserModelConfig
from vnfleet.cycle.context import WeekContext
from vnfleet.cycle.user_forecasts import refuse_look_ahead
from vnfleet.cycle.user_model import UserFold, user_fold, user_model_identity, user_predictions
from vnfleet.evaluation.splits import Fold
from vnfleet.market.calendar import trading_sessions
from vnfleet.training.dataset import TrainingData

SYMBOLS = tuple(f"S{number:02d}" for number in range(12))
SESSIONS = tuple(trading_sessions(date(2022, 1, 4), date(2022, 12, 30))[:80])
FOLD = Fold(
    fold_id="2022",
    train=range(5, 30),
    valid=range(35, 45),
    refit=range(5, 45),
    test=range(50, 70),
    universe=SYMBOLS[:8],
)
PLAIN = """
import polars as pl

def forecast(fold):
    rows = []
    for s, symbol in enumerate(fold.symbols):
        for t in fold.test:
            if fold.present_ST[s, t]:
                rows.append((symbol, fold.sessions[t], float(fold.values_STF[s, t, 0])))
    return pl.DataFrame(rows, schema=["symbol", "session", "score"], orient="row")
"""


@pytest.fixture(scope="module")
def data() -> TrainingData:
    generator = np.random.default_rng(3)
    shape = (len(SYMBOLS), len(SESSIONS))
    return TrainingData(
        SESSIONS,
        SYMBOLS,
        ("a", "b"),
        generator.standard_normal((*shape, 2)).astype(np.float32),
        generator.random(shape) < 0.95,
        generator.standard_normal((len(CycleConfig().model.horizons), *shape)).astype(np.float32),
    )


@pytest.fixture
def week(data: TrainingData) -> WeekContext:
    return cast("WeekContext", SimpleNamespace(data=lambda: data, config=CycleConfig()))


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], UserModelConfig]]:
    """Write a user's module and return the settings that name its function."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source: str) -> UserModelConfig:
        (tmp_path / "mine_alone.py").write_text(source, encoding="utf-8")
        return UserModelConfig(name="mine", entry_point="mine_alone:forecast")

    yield write
    sys.modules.pop("mine_alone", None)


def _rows(data: TrainingData, sessions: range) -> pl.DataFrame:
    """A forecast of every row with features, like a user's file."""
    rows = [
        (symbol, data.sessions[t], 0.1 * s + 0.01 * t, 0.5, 7)
        for s, symbol in enumerate(data.symbols)
        for t in sessions
        if data.present_ST[s, t]
    ]
    return pl.DataFrame(rows, schema=["symbol", "session", "score", "direction_prob", "rank_of_mine"], orient="row")


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_a_file_races_with_its_rows_of_the_judged_sessions(
    week: WeekContext, data: TrainingData, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"mine.{ending}"
    whole = _rows(data, range(len(SESSIONS)))  # training and later sessions too
    if ending == "csv":
        whole.write_csv(path)
    else:
        whole.write_parquet(path)
    frame = user_predictions(week, FOLD, UserModelConfig(name="mine", predictions=path))
    assert dict(frame.schema) == PREDICTION_SCHEMA
    expected = _rows(data, FOLD.test).select("symbol", "session", "score").sort("symbol", "session")
    assert frame.select("symbol", "session", "score").sort("symbol", "session").equals(expected)
    assert frame["model_id"].unique().to_list() == ["user_mine"]
    assert frame["fold_id"].unique().to_list() == ["2022"]
    assert frame["horizon_sessions"].unique().to_list() == [CycleConfig().horizon_sessions]
    assert frame["direction_prob"].unique().to_list() == [0.5]
    assert frame["volatility_frac"].null_count() == frame.height


def test_of_several_horizons_the_judged_one_races(week: WeekContext, data: TrainingData, tmp_path: Path) -> None:
    rows = _rows(data, FOLD.test)
    both = pl.concat([rows.with_columns(horizon_sessions=h, score=pl.col("score") * h) for h in (1, 5)])
    both.write_parquet(tmp_path / "mine.parquet")
    frame = user_predictions(week, FOLD, UserModelConfig(predictions=tmp_path / "mine.parquet"))
    assert frame["score"].sum() == pytest.approx(5 * rows["score"].sum())


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda rows: rows.drop("score"), "lack score"),
        (lambda rows: pl.concat([rows, rows.head(1)]), "repeats a key"),
        (lambda rows: rows.with_columns(score=float("nan")), "NaN"),
        (lambda rows: rows.with_columns(direction_prob=1.5), "probability"),
        (lambda rows: rows.with_columns(score=pl.lit("high")), "wrong kind"),
        (lambda rows: rows.with_columns(session=pl.date(2022, 4, 30)), "2022-04-30"),  # a holiday
        (lambda rows: rows.with_columns(horizon_sessions=20), "other horizons"),
        (lambda rows: rows.with_columns(model_id=pl.col("symbol")), "several models"),
        (lambda rows: rows.filter(pl.col("session") > SESSIONS[55]), "missing in fold 2022"),
        (lambda rows: rows.with_columns(score=pl.lit(None, dtype=pl.Float64)), "missing in fold 2022"),
    ],
)
def test_a_file_that_cannot_race_is_refused_by_name(
    week: WeekContext,
    data: TrainingData,
    tmp_path: Path,
    spoil: Callable[[pl.DataFrame], pl.DataFrame],
    words: str,
) -> None:
    path = tmp_path / "mine.parquet"
    spoil(_rows(data, FOLD.test)).write_parquet(path)
    with pytest.raises(BadDataError, match=words) as caught:
        user_predictions(week, FOLD, UserModelConfig(predictions=path))
    assert str(path) in str(caught.value)


def test_nine_rows_in_ten_are_enough_and_secondary_symbols_may_be_absent(
    week: WeekContext, data: TrainingData, tmp_path: Path
) -> None:
    path = tmp_path / "mine.parquet"
    primary = _rows(data, FOLD.test).filter(pl.col("symbol").is_in(SYMBOLS[:8]))
    allowed = primary.height // 10
    primary.sample(fraction=1.0, shuffle=True, seed=1).slice(allowed).write_parquet(path)
    assert user_predictions(week, FOLD, UserModelConfig(predictions=path)).height == primary.height - allowed
    primary.slice(allowed + 1).write_parquet(path)
    with pytest.raises(BadDataError, match="90%"):
        user_predictions(week, FOLD, UserModelConfig(predictions=path))


@pytest.mark.parametrize(("name", "content"), [("gone.csv", None), ("torn.parquet", b"PAR1torn"), ("torn.csv", b"")])
def test_a_file_that_cannot_be_read_is_an_error_for_people(
    week: WeekContext, tmp_path: Path, name: str, content: bytes | None
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(VnfleetError, match=name):
        user_predictions(week, FOLD, UserModelConfig(predictions=path))


def test_a_function_is_given_no_return_outside_training_and_nothing_after_the_test(data: TrainingData) -> None:
    given = user_fold(data, FOLD, CycleConfig().model.horizons, 5)
    assert given.sessions == SESSIONS[:70]
    assert given.values_STF.shape == (12, 70, 2)
    np.testing.assert_array_equal(given.returns_HST[:, :, 5:45], data.returns_HST[:, :, 5:45])
    assert np.isnan(np.delete(given.returns_HST, np.s_[5:45], axis=2)).all()
    half = given.until(60)
    for seen in (given, half):
        for array in (seen.values_STF, seen.present_ST, seen.returns_HST):
            assert not array.flags.writeable
            assert array.base is None  # no way from here to later sessions
    assert not np.shares_memory(half.values_STF, given.values_STF)
    with pytest.raises(AttributeError):
        given.fold_id = "other"  # type: ignore[misc]
    data.values_STF[0, 0, 0] = data.values_STF[0, 0, 0]  # the week's own arrays stay as they were


def test_a_function_races_with_what_it_returns(
    week: WeekContext, data: TrainingData, written: Callable[[str], UserModelConfig]
) -> None:
    frame = user_predictions(week, FOLD, written(PLAIN))
    first = frame.row(0, named=True)
    assert (first["model_id"], first["fold_id"]) == ("user_mine", "2022")
    assert frame.height == data.present_ST[:, 50:70].sum()
    s, t = SYMBOLS.index(first["symbol"]), SESSIONS.index(first["session"])
    assert first["score"] == pytest.approx(float(data.values_STF[s, t, 0]))


@pytest.mark.parametrize(
    ("look", "noticed"),
    [
        ("fold.values_STF[s, t, 0] - fold.values_STF[:, fold.test, 0].mean()", True),  # whole-window normalisation
        ("fold.values_STF[s, min(t + 1, fold.test.stop - 1), 0]", True),  # shift(-1)
        ("__import__('random').random()", True),  # no seed
        ("fold.values_STF[s, t - 9 : t + 1, 0].mean()", False),
        ("fold.values_STF[s, t, 0] * float(fold.returns_HST[-1, s, 40])", False),
    ],
)
def test_looking_ahead_within_the_test_is_noticed(
    week: WeekContext, written: Callable[[str], UserModelConfig], look: str, noticed: bool
) -> None:
    config = written(PLAIN.replace("fold.values_STF[s, t, 0]", look))
    if noticed:
        with pytest.raises(UsageError, match="looks ahead"):
            user_predictions(week, FOLD, config)
    else:
        assert user_predictions(week, FOLD, config).height > 0


def test_a_function_that_keeps_its_first_answer_cannot_hide_that_it_looks_ahead(
    week: WeekContext, written: Callable[[str], UserModelConfig]
) -> None:
    ahead = "fold.values_STF[s, min(t + 1, fold.test.stop - 1), 0]"
    body = PLAIN.replace("fold.values_STF[s, t, 0]", ahead).replace("def forecast", "def _fresh")
    cache = "\nkept = {}\ndef forecast(fold):\n    made = kept.setdefault(fold.fold_id, _fresh(fold))\n"
    cut = "    return made.filter(pl.col('session') <= fold.sessions[-1])\n"
    with pytest.raises(BadDataError, match="missing in fold 2022"):
        user_predictions(week, FOLD, written(body + cache + cut))
    sys.modules.pop("mine_alone")
    calls = "lengths = []\n" + PLAIN.replace("    rows = []", "    lengths.append(len(fold.sessions)); rows = []")
    user_predictions(week, FOLD, written(calls))
    assert sys.modules["mine_alone"].lengths == [60, 70]


EARLY = pl.DataFrame(
    {
        "symbol": [*"ABCDEF"] * 2,
        "session": [SESSIONS[50]] * 6 + [SESSIONS[51]] * 6,
        "score": [0.31, -0.12, 0.05, 0.0, 1e-9, -0.4, 0.2, 0.1, -0.3, 0.7, -0.6, 0.4],
        "direction_prob": [0.6, 0.4, 0.5, 0.5, 0.51, 0.3, 0.5, 0.5, 0.5, 0.7, 0.2, 0.6],
        "expected_return_frac": [None] * 12,
        "volatility_frac": [0.02] * 12,
    },
    schema_overrides={"expected_return_frac": pl.Float64},
)


@pytest.mark.parametrize(
    ("change", "noticed"),
    [
        ({}, False),
        ({"score": pl.col("score") * (1 + 1e-7)}, False),  # rounding
        ({"score": pl.col("score") + 1e-10}, False),  # rounding of a difference
        ({"score": pl.col("score") + 1e-3}, True),
        ({"score": pl.when(pl.col("symbol") == "A").then(pl.col("score") + 1e-4).otherwise("score")}, True),
        ({"direction_prob": pl.col("direction_prob") - 1e-9}, True),  # turns a call
        ({"volatility_frac": pl.col("volatility_frac") + pl.col("score") * 1e-9}, True),  # ranks as it should not
        ({"score": pl.when(pl.col("symbol") != "C").then("score")}, True),
    ],
)
@pytest.mark.parametrize("huge", [1.0, 1e12])
def test_one_huge_number_hides_no_other(change: dict[str, pl.Expr], noticed: bool, huge: float) -> None:
    large = pl.when(pl.col("symbol") == "F").then(pl.col("score") * huge).otherwise("score")
    early = EARLY.with_columns(score=large)
    whole = EARLY.with_columns(**change).with_columns(score=large)
    if not noticed:
        refuse_look_ahead(whole, early, SESSIONS[51], "mine")
        return
    with pytest.raises(UsageError, match="looks ahead"):
        refuse_look_ahead(whole, early, SESSIONS[51], "mine")


def _network(values_NF: np.ndarray, kind: type[np.floating], num_layers: int) -> np.ndarray:
    """Forecasts of a random network computed in `kind`."""
    generator = np.random.default_rng(7)
    hidden = values_NF.astype(kind)
    for _ in range(num_layers):
        weights = generator.standard_normal((hidden.shape[1], 64)) * np.sqrt(2.0 / hidden.shape[1])
        hidden = np.maximum(hidden @ weights.astype(kind), 0)
        hidden = (hidden - hidden.mean(axis=1, keepdims=True)) / hidden.std(axis=1, keepdims=True)
    return np.asarray(hidden @ (generator.standard_normal(hidden.shape[1]) / 8.0).astype(kind))


def _frame(score_N: np.ndarray, num_symbols: int, prob_N: np.ndarray | float = 0.5) -> pl.DataFrame:
    """Forecasts of `num_symbols` symbols in each session; the volatility is the market's, the same for all."""
    num_sessions = len(score_N) // num_symbols
    market = np.repeat(0.01 + 0.001 * np.arange(num_sessions), num_symbols)
    return pl.DataFrame(
        {
            "symbol": [f"S{s:03d}" for _ in range(num_sessions) for s in range(num_symbols)],
            "session": [SESSIONS[t] for t in range(num_sessions) for _ in range(num_symbols)],
            "score": score_N.astype(np.float64),
            "direction_prob": np.broadcast_to(prob_N, score_N.shape).astype(np.float64),
            "expected_return_frac": np.zeros(len(score_N)),
            "volatility_frac": market.astype(score_N.dtype).astype(np.float64),
        }
    )


@pytest.mark.parametrize("num_layers", [0, 2, 8])
@pytest.mark.parametrize(("level", "unit"), [(0.0, 1.0), (0.0, 1e-4), (0.0, 1e6), (1.0, 0.02), (-30.0, 1.0)])
def test_rounding_of_honest_networks_is_no_look_ahead(num_layers: int, level: float, unit: float) -> None:
    values = np.random.default_rng(5).standard_normal((60 * 100, 40)).astype(np.float32)
    frames = []
    for kind in (np.float32, np.float64):
        said = _network(values, kind, num_layers)
        frames.append(_frame(kind(level) + kind(unit) * said, 100, 1 / (1 + np.exp(-said))))
    rounded, exact = frames
    assert (rounded["score"] != exact["score"]).to_numpy().mean() > 0.9
    assert (rounded["volatility_frac"] != exact["volatility_frac"]).any()
    refuse_look_ahead(rounded, exact, SESSIONS[59], "mine")


@pytest.mark.parametrize(
    ("leak_frac", "level", "noticed"),
    [
        (1e-3, 0.0, True),
        (1e-3, 100.0, True),
        (1e-3, 1e3, True),
        (1.0, 1e5, True),
        (1e-5, 0.0, False),
        (1e-5, 100.0, False),
    ],
)
@pytest.mark.parametrize("num_symbols", [2, 5, 100])
def test_what_leaks_counts_by_the_spread_whatever_the_level(
    num_symbols: int, leak_frac: float, level: float, noticed: bool
) -> None:
    """Scores lie 1 apart, so no order tells anything here; half of a session's lie within `num_symbols` / 4."""
    future = np.random.default_rng(9).standard_normal(60 * num_symbols)
    score = level + np.tile(np.arange(num_symbols), 60) - 0.3
    early, whole = _frame(score, num_symbols), _frame(score + leak_frac * num_symbols / 4 * future, num_symbols)
    if not noticed:
        refuse_look_ahead(whole, early, SESSIONS[59], "mine")
        return
    with pytest.raises(UsageError, match="looks ahead"):
        refuse_look_ahead(whole, early, SESSIONS[59], "mine")


@pytest.mark.parametrize("group", [2, 10])
def test_a_future_that_only_breaks_ties_is_noticed(group: int) -> None:
    future = np.random.default_rng(4).standard_normal(60 * 20)
    tied = np.tile(1.0 + np.arange(20) // group, 60)
    with pytest.raises(UsageError, match="looks ahead"):
        refuse_look_ahead(_frame(tied + 1e-9 * future, 20), _frame(tied, 20), SESSIONS[59], "mine")


def test_most_scores_the_same_leave_the_others_their_rounding() -> None:
    few = np.where(np.arange(60 * 20) % 20 < 3, 1.0 + np.arange(60 * 20) % 20, 0.0)
    refuse_look_ahead(_frame(few * (1 + 3e-5), 20), _frame(few, 20), SESSIONS[59], "mine")
    with pytest.raises(UsageError, match="looks ahead"):
        refuse_look_ahead(_frame(few * (1 + 1e-3), 20), _frame(few, 20), SESSIONS[59], "mine")


def test_where_most_numbers_are_huge_the_small_ones_are_told_by_rank_and_side() -> None:
    sizes = pl.when(pl.col("symbol").is_in(["A", "B", "C", "D"])).then(1e15).otherwise(1.0)
    early = EARLY.with_columns(score=sizes * (pl.col("score").abs() + 0.01))
    small = pl.col("symbol").is_in(["E", "F"])
    whole = early.with_columns(score=pl.when(small).then(-pl.col("score") - 1e-9).otherwise("score"))
    with pytest.raises(UsageError, match="4 of 12 rows differ"):
        refuse_look_ahead(whole, early, SESSIONS[51], "mine")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def forecast(fold):\n    return fold.price", "AttributeError.*mine_alone.py line 2"),
        ("def forecast(fold):\n    fold.values_STF[0, 0, 0] = 1", "read-only"),
        ("import sys\ndef forecast(fold):\n    sys.exit(3)", "SystemExit: 3"),
        ("def forecast(fold):\n    return [1, 2]", "found: list"),
        ("def predict(fold):\n    return 1", "no such function"),
        ("import a_library_that_is_not_there", "ModuleNotFoundError.*a_library_that_is_not_there"),
        ("def forecast(fold:", "SyntaxError"),
        (PLAIN.replace("in fold.test", "in fold.valid"), "does not judge"),
    ],
)
def test_what_a_users_code_does_wrong_is_an_error_for_people(
    week: WeekContext, written: Callable[[str], UserModelConfig], source: str, words: str
) -> None:
    with pytest.raises(VnfleetError, match=words) as caught:
        user_predictions(week, FOLD, written(source))
    assert "mine_alone" in str(caught.value)


def test_the_identity_follows_the_file_and_the_source(
    tmp_path: Path, written: Callable[[str], UserModelConfig]
) -> None:
    assert user_model_identity(UserModelConfig()) == []
    path = tmp_path / "mine.csv"
    path.write_text("a")
    file = UserModelConfig(predictions=path)
    before = user_model_identity(file)
    path.write_text("b")
    assert user_model_identity(file) != before
    code = written(PLAIN)
    before = user_model_identity(code)
    assert user_model_identity(written(PLAIN)) == before
    assert user_model_identity(written(PLAIN + "# another version")) != before
    package = tmp_path / "mine_package"
    package.mkdir()
    for name in ("__init__.py", "model.py", "helper.py"):
        (package / name).write_text("")
    inside = UserModelConfig(entry_point="mine_package.model:forecast")
    before = user_model_identity(inside)
    (package / "helper.py").write_text("x = 1")
    assert user_model_identity(inside) != before
    with pytest.raises(UsageError, match="cannot be imported"):
        user_model_identity(UserModelConfig(entry_point="no_such_package.model:forecast"))
    with pytest.raises(UsageError, match="no such file"):
        user_model_identity(UserModelConfig(predictions=tmp_path / "gone.csv"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "My Model"},
        {"entry_point": "my_package.model"},
        {"entry_point": "../evil:run"},
        {"entry_point": "a:b", "predictions": Path("c.csv")},
    ],
)
def test_settings_that_name_no_model_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"name|entry_point"):
        UserModelConfig(**wrong)  # type: ignore[arg-type]


def test_without_a_file_or_a_function_there_is_no_user_model() -> None:
    assert not UserModelConfig().is_given
    assert UserModelConfig(predictions=Path("mine.csv")).is_given
    assert UserModelConfig(name="lstm_2", entry_point="a:b").model_id == "user_lstm_2"


def test_the_fold_a_function_sees_ends_where_it_is_told(data: TrainingData) -> None:
    given = user_fold(data, FOLD, CycleConfig().model.horizons, 5)
    half = given.until(60)
    assert isinstance(half, UserFold)
    assert (half.test, half.sessions[-1], half.returns_HST.shape[2]) == (range(50, 60), SESSIONS[59], 60)
