from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vnfleet.core.errors import BadDataError
from vnfleet.core.sealed import verify
from vnfleet.data.panel import Panel, assembled
from vnfleet.features.catalogue import FEATURE_NAMES
from vnfleet.features.cube import CUBE_KIND, FeatureCube, build_cube, cube_id_of, load_cube, save_cube


@pytest.fixture(scope="module")
def cube(troubled: Panel) -> FeatureCube:
    return build_cube(troubled)


def test_axes_dtypes_and_layout(cube: FeatureCube, troubled: Panel) -> None:
    assert cube.sessions == troubled.sessions
    assert cube.symbols == troubled.symbols
    assert cube.names == FEATURE_NAMES
    assert cube.values_STF.shape == (6, 300, 50)
    assert cube.values_STF.dtype == np.float32
    assert cube.values_STF.flags.c_contiguous
    assert cube.present_ST.dtype == np.bool_


def test_every_present_value_is_finite_and_every_absent_one_zero(cube: FeatureCube) -> None:
    assert np.isfinite(cube.values_STF).all()
    assert not cube.values_STF[~cube.present_ST].any()


def test_a_symbol_is_present_exactly_where_it_traded_after_120_own_sessions(cube: FeatureCube, troubled: Panel) -> None:
    traded_ST = np.isfinite(troubled.matrix("close_vnd"))
    expected_ST = traded_ST & (traded_ST.cumsum(axis=1) > 120)
    np.testing.assert_array_equal(cube.present_ST, expected_ST)


def test_arrays_refuse_writing(cube: FeatureCube) -> None:
    with pytest.raises(ValueError, match="read-only"):
        cube.values_STF[0, 0, 0] = 1.0
    with pytest.raises(ValueError, match="read-only"):
        cube.present_ST[0, 0] = True


@pytest.mark.parametrize("position", [121, 171, 205, 298])
def test_truncation_changes_no_feature_of_any_earlier_session(
    cube: FeatureCube, troubled: Panel, position: int
) -> None:
    cut = build_cube(troubled.until(troubled.sessions[position]))
    np.testing.assert_array_equal(cut.values_STF, cube.values_STF[:, : position + 1])
    np.testing.assert_array_equal(cut.present_ST, cube.present_ST[:, : position + 1])


def test_poisoning_the_future_changes_no_feature_of_the_past(cube: FeatureCube, troubled: Panel) -> None:
    position = 230
    after = pl.col("session") > troubled.sessions[position]
    columns = ("open_vnd", "high_vnd", "low_vnd", "close_vnd", "reference_vnd", "factor")
    bars = troubled.bars.with_columns(
        *(pl.when(after).then(pl.col(c) * 3.7).otherwise(pl.col(c)).alias(c) for c in columns),
        volume_shares=pl.when(after).then(pl.lit(1, dtype=pl.Int64)).otherwise(pl.col("volume_shares")),
    )
    index = troubled.index.with_columns(
        pl.when(after).then(1.0).otherwise(pl.col("close_points")).alias("close_points")
    )
    poisoned = build_cube(_with(troubled, bars, index))
    past = slice(None), slice(0, position + 1)
    np.testing.assert_array_equal(poisoned.values_STF[past], cube.values_STF[past])
    np.testing.assert_array_equal(poisoned.present_ST[past], cube.present_ST[past])
    assert (poisoned.values_STF[:, position + 1 :] != cube.values_STF[:, position + 1 :]).any()


def test_a_cube_survives_its_sealed_folder(cube: FeatureCube, tmp_path: Path) -> None:
    folder = save_cube(cube, tmp_path)
    assert folder == tmp_path / cube.cube_id
    assert save_cube(cube, tmp_path) == folder
    loaded = load_cube(folder)
    assert (loaded.sessions, loaded.symbols, loaded.names, loaded.cube_id) == (
        cube.sessions,
        cube.symbols,
        cube.names,
        cube.cube_id,
    )
    np.testing.assert_array_equal(loaded.values_STF, cube.values_STF)
    np.testing.assert_array_equal(loaded.present_ST, cube.present_ST)
    assert not loaded.values_STF.flags.writeable
    assert not loaded.present_ST.flags.writeable


def test_equal_cubes_have_equal_folder_hashes(cube: FeatureCube, troubled: Panel, tmp_path: Path) -> None:
    first = verify(save_cube(cube, tmp_path / "a"), CUBE_KIND)
    second = verify(save_cube(build_cube(troubled), tmp_path / "b"), CUBE_KIND)
    assert first.content_sha256 == second.content_sha256


def test_a_changed_file_is_refused_by_name(cube: FeatureCube, tmp_path: Path) -> None:
    folder = save_cube(cube, tmp_path)
    values = cube.values_STF.copy()
    values[0, 0, 0] += 1
    np.save(folder / "values_STF.npy", values)
    with pytest.raises(BadDataError, match=r"values_STF\.npy"):
        load_cube(folder)


def test_a_cube_of_other_features_is_refused(cube: FeatureCube, tmp_path: Path) -> None:
    names = ("moon_phase", *cube.names[1:])
    other = FeatureCube(cube.sessions, cube.symbols, names, cube.values_STF, cube.present_ST, "0" * 16)
    with pytest.raises(BadDataError, match="moon_phase"):
        load_cube(save_cube(other, tmp_path))


def test_arrays_that_do_not_fit_the_axes_are_refused(cube: FeatureCube) -> None:
    with pytest.raises(BadDataError, match="does not fit"):
        FeatureCube(cube.sessions[:-1], cube.symbols, cube.names, cube.values_STF, cube.present_ST, "x")


def test_the_id_follows_the_data_and_nothing_else(cube: FeatureCube, troubled: Panel) -> None:
    assert cube.cube_id == cube_id_of(troubled)
    assert cube.cube_id != cube_id_of(troubled.until(troubled.sessions[-2]))
    assert cube.cube_id != cube_id_of(troubled.restrict(["WHOLE", "GAPS"]))


def test_the_id_follows_the_exchange_because_limits_do(troubled: Panel) -> None:
    moved = assembled(
        as_of=troubled.as_of,
        sessions=troubled.sessions,
        symbols=troubled.symbols,
        bars=troubled.bars.with_columns(exchange=pl.lit("HNX")),
        index=troubled.index,
        listings=troubled.listings,
        quality=troubled.quality,
    )
    assert cube_id_of(troubled) != cube_id_of(moved)


def test_a_panel_without_index_is_refused(troubled: Panel) -> None:
    with pytest.raises(BadDataError, match="VNINDEX"):
        build_cube(_with(troubled, troubled.bars, troubled.index.clear()))


def test_a_short_hole_in_the_index_is_bridged_by_its_last_known_level(cube: FeatureCube, troubled: Panel) -> None:
    hole = troubled.index.filter(pl.col("session") != troubled.sessions[250])
    bridged = build_cube(_with(troubled, troubled.bars, hole))
    np.testing.assert_array_equal(bridged.present_ST, cube.present_ST)


def test_a_long_hole_in_the_index_masks_its_sessions(troubled: Panel) -> None:
    hole = troubled.index.filter(pl.col("session") < troubled.sessions[250])
    masked = build_cube(_with(troubled, troubled.bars, hole))
    assert not masked.present_ST[:, 262:].any()


def test_days_outside_the_recorded_rules_are_refused(troubled: Panel) -> None:
    shift = date(2007, 1, 2) - date(2016, 1, 4)
    early = pl.col("session") + shift
    moved = Panel(
        as_of=troubled.as_of,
        sessions=tuple(day + shift for day in troubled.sessions),
        symbols=troubled.symbols,
        bars=troubled.bars.with_columns(early),
        index=troubled.index.with_columns(early),
        listings=troubled.listings,
        quality=troubled.quality,
        data_id="early",
    )
    with pytest.raises(BadDataError, match="not known for this day"):
        build_cube(moved)


def _with(panel: Panel, bars: pl.DataFrame, index: pl.DataFrame) -> Panel:
    return Panel(
        as_of=panel.as_of,
        sessions=panel.sessions,
        symbols=panel.symbols,
        bars=bars,
        index=index,
        listings=panel.listings,
        quality=panel.quality,
        data_id=panel.data_id,
    )
