"""LightGBM's setting, chosen on development years only: every trial, its daily rank IC and the test against today's.

    python benchmarks/lightgbm_tuning.py --data FOLDER --workdir FOLDER --trials trials.json [--baselines]
        [--report table.md]

FOLDER holds the price file of CafeF's format and its listings; they are no part of the project. Prices end with the
last development year: nothing later is read at all. A trial is one setting on every fold (fitted as the product fits
its baseline: rounds by validation, then fitted on train and validation), scored by the daily rank IC of the 102
primary symbols of the fold. Trials that are in the file already are not run again; several seeds are averaged by their
scores. The table compares every trial with the first one by a paired block bootstrap. Results are dated in
benchmarks/lightgbm_tuning_202611.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl

from vnfleet.core.atomic import write_text
from vnfleet.data.outcomes import forward_returns, outcome_frame
from vnfleet.data.panel import Panel, PanelStore
from vnfleet.data.record.store import RawStore
from vnfleet.data.sources.files import FilesSource
from vnfleet.data.universe import most_traded
from vnfleet.evaluation.comparison import superior_predictive_ability
from vnfleet.evaluation.metrics import daily_rank_ic, primary_rows, summarise
from vnfleet.evaluation.skill import mean_interval, paired_difference
from vnfleet.evaluation.splits import Fold, SplitRule, yearly_folds
from vnfleet.features.cube import build_cube, cube_id_of, load_cube, save_cube
from vnfleet.model.baselines import BASELINE_NAMES, BaselineData, fit_baseline
from vnfleet.model.baselines.boosted import BoostSetting, fit_boosted, fit_boosted_stopping
from vnfleet.model.baselines.rows import Floats, labelled_rows

YEARS = (2015, 2016, 2017)
LAST = date(2017, 12, 31)
HORIZON_SESSIONS = 5
PRIMARY = 102
VALID_SESSIONS = 250
MIN_TRAIN_SESSIONS = 300  # the fold of 2015 has fewer than the product's 500

_FIRST = BoostSetting(
    num_seeds=1,
    learning_rate=0.1,
    num_leaves=31,
    min_rows_in_leaf=500,
    feature_frac=0.6,
    lambda_l2=10.0,
    max_rounds=200,
    min_rounds=30,
    patience_rounds=30,
)
_SLOW = replace(_FIRST, learning_rate=0.05, max_rounds=400, min_rounds=60, patience_rounds=60)
_WIDE = replace(_SLOW, min_rows_in_leaf=1500)
_WIDE_3 = replace(_WIDE, num_seeds=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One variant: what differs, and the setting."""

    name: str
    setting: BoostSetting


TRIALS = (
    Trial(name="as it was: rate 0.1, 31 leaves of 500, features 0.6, lambda 10", setting=_FIRST),
    Trial(name="as it was, seeds 0-2 averaged", setting=replace(_FIRST, num_seeds=3)),
    Trial(name="rate 0.05 (400 rounds, floor and patience 60)", setting=_SLOW),
    Trial(name="rate 0.05, 15 leaves", setting=replace(_SLOW, num_leaves=15)),
    Trial(name="rate 0.05, 63 leaves", setting=replace(_SLOW, num_leaves=63)),
    Trial(name="rate 0.05, 31 leaves of 1,500", setting=_WIDE),
    Trial(name="rate 0.05, 31 leaves of 150", setting=replace(_SLOW, min_rows_in_leaf=150)),
    Trial(name="rate 0.05, features 0.3", setting=replace(_SLOW, feature_frac=0.3)),
    Trial(name="rate 0.05, lambda 100", setting=replace(_SLOW, lambda_l2=100.0)),
    Trial(
        name="rate 0.03 (600 rounds, floor and patience 100)",
        setting=replace(_FIRST, learning_rate=0.03, max_rounds=600, min_rounds=100, patience_rounds=100),
    ),
    # the second round, chosen after the ten above had been seen
    Trial(name="rate 0.1, leaves of 1,500, seeds 0-2", setting=replace(_FIRST, min_rows_in_leaf=1500, num_seeds=3)),
    Trial(name="rate 0.05, leaves of 1,500, seeds 0-2", setting=_WIDE_3),
    Trial(name="rate 0.05, leaves of 1,500, lambda 100, seeds 0-2", setting=replace(_WIDE_3, lambda_l2=100.0)),
    Trial(name="rate 0.05, leaves of 4,000, seeds 0-2", setting=replace(_WIDE_3, min_rows_in_leaf=4000)),
    Trial(name="rate 0.05, 63 leaves of 1,500, seeds 0-2", setting=replace(_WIDE_3, num_leaves=63)),
    Trial(
        name="rate 0.05, leaves of 1,500, always 150 rounds, seeds 0-2",
        setting=replace(_WIDE_3, max_rounds=150, min_rounds=150, patience_rounds=150),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """What every trial is fitted and scored on."""

    panel: Panel
    data: BaselineData
    folds: tuple[Fold, ...]
    outcomes: pl.DataFrame


def prepared(data: Path, workdir: Path) -> Material:
    """Return features, returns, folds and outcomes of the development years."""
    history = FilesSource(data / "cafef_price_history_2012_2024.parquet", data / "universe_289.csv").fetch(None, LAST)
    store = RawStore(workdir / "data" / "raw")
    if not store.has("files"):
        store.merge("files", history, datetime(2025, 8, 22, tzinfo=UTC))
    panel = PanelStore(workdir, "files").serve(LAST)
    if panel.sessions[-1] > LAST:
        raise ValueError(f"the panel must end with the development years, found {panel.sessions[-1]}")
    folder = workdir / "features" / cube_id_of(panel)
    cube = load_cube(folder) if folder.is_dir() else build_cube(panel)
    if not folder.is_dir():
        save_cube(cube, workdir / "features")
    return Material(
        panel=panel,
        data=BaselineData(
            values_STF=cube.values_STF,
            present_ST=cube.present_ST,
            returns_HST=forward_returns(panel, (HORIZON_SESSIONS,)),
            horizons=(HORIZON_SESSIONS,),
            symbols=panel.symbols,
            sessions=panel.sessions,
            feature_names=cube.names,
        ),
        folds=yearly_folds(
            panel.sessions,
            YEARS,
            SplitRule(
                horizon_sessions=HORIZON_SESSIONS,
                valid_sessions=VALID_SESSIONS,
                min_train_sessions=MIN_TRAIN_SESSIONS,
            ),
            lambda before: most_traded(panel, PRIMARY, 250, before),
        ),
        outcomes=outcome_frame(panel, HORIZON_SESSIONS, panel.symbols),
    )


def run_trial(trial: Trial, material: Material) -> dict[str, object]:
    """Return the daily rank IC of one trial, the rounds that validation chose, and CPU seconds per fold."""
    daily: dict[str, float] = {}
    rounds_of: dict[str, list[int]] = {}
    seconds: list[float] = []
    for fold in material.folds:
        train, valid, refit = (
            labelled_rows(material.data, part, HORIZON_SESSIONS, "fit") for part in (fold.train, fold.valid, fold.refit)
        )
        symbol_N, session_N = np.nonzero(material.data.present_ST[:, fold.test.start : fold.test.stop])
        session_N = session_N + fold.test.start
        start = time.process_time()
        _, rounds = fit_boosted_stopping(train, valid, 0, trial.setting)
        scorer = fit_boosted(refit, rounds, 0, trial.setting)
        seconds.append(time.process_time() - start)
        rounds_of[fold.fold_id] = list(rounds)
        score_N = scorer.score(material.data.values_STF[symbol_N, session_N])
        daily |= primary_ic(material, fold, symbol_N, session_N, score_N)
    return {"name": trial.name, "daily": daily, "rounds": rounds_of, "cpu_seconds": seconds}


def primary_ic(
    material: Material, fold: Fold, symbol_N: np.ndarray, session_N: np.ndarray, score_N: Floats
) -> dict[str, float]:
    """Return session -> rank IC over the fold's primary symbols."""
    none = pl.lit(None, pl.Float64)
    predictions = pl.DataFrame(
        {
            "symbol": pl.Series(material.data.symbols, dtype=pl.String).gather(symbol_N),
            "session": pl.Series(material.data.sessions, dtype=pl.Date).gather(session_N),
            "score": score_N,
        }
    ).select(
        pl.lit("trial").alias("model_id"),
        pl.lit(fold.fold_id).alias("fold_id"),
        "symbol",
        "session",
        pl.lit(HORIZON_SESSIONS, pl.Int32).alias("horizon_sessions"),
        "score",
        none.alias("direction_prob"),
        none.alias("expected_return_frac"),
        none.alias("volatility_frac"),
    )
    ours = predictions.filter(pl.col("symbol").is_in(fold.universe))
    known = daily_rank_ic(ours, material.outcomes).drop_nulls("rank_ic")
    return {session.isoformat(): ic for session, ic in known.select("session", "rank_ic").iter_rows()}


def table(records: list[dict[str, object]]) -> str:
    """Return the trials as a Markdown table; the change is against the first one, on the same sessions."""
    years = " | ".join(map(str, YEARS))
    lines = [
        f"| trial | rounds | {years} | mean [95 %] | change [95 %] | p (better) | CPU s a fold |",
        "|---|---|" + "---|" * (len(YEARS) + 4),
    ]
    first = series_of(records[0])
    for record in records:
        series = series_of(record)
        if list(series) != list(first):
            raise ValueError(f"{record['name']} was scored on other sessions")
        values = np.array(list(series.values()))
        yearly = [np.mean([ic for session, ic in series.items() if session.startswith(str(year))]) for year in YEARS]
        low, high = mean_interval(values)
        change = paired_difference(values, np.array(list(first.values())))
        compared = (
            f"{change.mean_difference:+.4f} [{change.low:+.4f}, {change.high:+.4f}] | {change.p_one_sided:.3f}"
            if record is not records[0]
            else "|"
        )
        rounds, seconds = record["rounds"], record["cpu_seconds"]
        assert isinstance(rounds, dict)
        assert isinstance(seconds, list)
        chosen = " / ".join(", ".join(map(str, rounds[str(year)])) for year in YEARS)
        lines.append(
            f"| {record['name']} | {chosen} | {' | '.join(f'{ic:.4f}' for ic in yearly)} | "
            f"{values.mean():.4f} [{low:.4f}, {high:.4f}] | {compared} | {sum(seconds) / len(YEARS):.0f} |"
        )
    return "\n".join(lines) + "\n"


def search_words(records: list[dict[str, object]]) -> str:
    """Return p that no trial is truly better than the first one, allowing for the search among all of them."""
    losses_TK = np.array([1 - np.array(list(series_of(record).values())) for record in records]).T
    found = superior_predictive_ability(losses_TK[:, 1:], losses_TK[:, 0])
    return (
        f"The best of {len(records) - 1} against the first, allowing for the search: "
        f"p {found.p_spa:.3f} (Hansen), {found.p_reality_check:.3f} (White).\n"
    )


def baseline_table(material: Material) -> str:
    """Return every baseline of the product on the same folds as a Markdown table."""
    lines = [
        "| baseline | setting by fold | rank IC [95 %] | up or down [95 %] | above the median [95 %] | CPU s |",
        "|---|---|---|---|---|---|",
    ]
    universe_of_fold = {fold.fold_id: fold.universe for fold in material.folds}
    for name in BASELINE_NAMES:
        frames, settings, start = [], [], time.process_time()
        for fold in material.folds:
            fitted = fit_baseline(name, material.data, fold, 0, horizon_sessions=HORIZON_SESSIONS)
            settings.append(fitted.setting)
            frames.append(
                fitted.predict(
                    material.data.values_STF,
                    material.data.present_ST,
                    material.data.symbols,
                    material.data.sessions,
                    fold.test,
                    model_id=name,
                    fold_id=fold.fold_id,
                    feature_names=material.data.feature_names,
                )
            )
        seconds = (time.process_time() - start) / len(material.folds)
        primary = primary_rows(pl.concat(frames), universe_of_fold)
        row = summarise(primary, material.outcomes).filter(year="all").row(0, named=True)
        figures = [_with_interval(row, metric) for metric in ("rank_ic", "accuracy_absolute", "accuracy_relative")]
        said = settings[0] if len(set(settings)) == 1 else " / ".join(settings)
        lines.append(f"| {name} | {said} | {' | '.join(figures)} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


def _with_interval(row: dict[str, object], metric: str) -> str:
    value, low, high = (row[f"{metric}{end}"] for end in ("", "_low", "_high"))
    return "" if value is None else f"{value:.4f} [{low:.4f}, {high:.4f}]"


def series_of(record: dict[str, object]) -> dict[str, float]:
    """Return session -> rank IC in order."""
    daily = record["daily"]
    assert isinstance(daily, dict)
    return {str(session): float(daily[session]) for session in sorted(daily)}


def main() -> int:
    """Run the trials that have not been run, then print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name in ("--data", "--workdir", "--trials"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--baselines", action="store_true", help="score every baseline of the product as well")
    asked = parser.parse_args()
    records: list[dict[str, object]] = (
        json.loads(asked.trials.read_text(encoding="utf-8")) if asked.trials.is_file() else []
    )
    done = {record["name"] for record in records}
    needed = asked.baselines or len(done) < len(TRIALS)
    material = prepared(asked.data, asked.workdir) if needed else None
    for trial in TRIALS:
        if trial.name in done or material is None:
            continue
        records.append(run_trial(trial, material))
        write_text(asked.trials, json.dumps(records))
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {table([records[0], records[-1]]).splitlines()[-1]}\n")
    found = f"{table(records)}\n{search_words(records)}"
    if asked.baselines and material is not None:
        found += f"\n{baseline_table(material)}"
    if asked.report is not None:
        write_text(asked.report, found)
    sys.stdout.write(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
