"""What neuralforecast_peer.py runs in its own environment: two transformers of neuralforecast on the exported frame.

TFT reads the 50 features; PatchTST has our encoder's shape but reads past returns alone. Both are global models over
all symbols with the library's own settings, but for the windows of a step and a limit of minutes, because a whole fit
takes hours on a CPU. The target is the return of the next sessions, the score of a symbol its sum over the horizon.
They are fitted once on what was known before the judged year, like everybody else in the table.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from datetime import date, timedelta
from importlib.metadata import version
from pathlib import Path

import polars as pl
import pytorch_lightning as lightning
import torch
from neuralforecast import NeuralForecast
from neuralforecast.models import TFT, PatchTST

NAMES = {"tft": "neuralforecast TFT", "patchtst": "neuralforecast PatchTST"}
READS = {"tft": "50 features and returns", "patchtst": "returns alone"}
PLANNED_STEPS = {"tft": 1000, "patchtst": 5000}  # the library's own defaults


class StepCounter(lightning.Callback):
    """Counts optimiser steps."""

    steps = 0

    def on_train_batch_end(self, *_: object) -> None:
        """Count one."""
        StepCounter.steps += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exchange", type=Path, required=True)
    parser.add_argument("--models", nargs="+", choices=sorted(NAMES), default=sorted(NAMES))
    parser.add_argument("--minutes", type=float, default=10.0, help="time of each fit; the rest is extrapolated")
    parser.add_argument("--windows", type=int, default=256, help="windows of a step (the library's own: 1024)")
    parser.add_argument("--test-sessions", type=int, help="forecast the first so many judged sessions only")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    fold = json.loads((options.exchange / "fold.json").read_text(encoding="utf-8"))
    frame = pl.read_parquet(options.exchange / "frame.parquet")
    train = frame.filter(pl.col("session") <= date.fromisoformat(fold["last_train_session"]))
    train = train.filter(pl.len().over("unique_id") > fold["window_sessions"] + fold["horizon_sessions"])
    for name in options.models:
        StepCounter.steps = 0
        started = time.perf_counter()
        fitted = fit(name, fold, train.drop("session"), options)
        fit_seconds = time.perf_counter() - started
        started = time.perf_counter()
        forecasts = forecast(fitted, fold, frame, options.test_sessions)
        forecast_seconds = time.perf_counter() - started
        forecasts.write_parquet(options.exchange / f"neuralforecast_{name}.parquet")
        parameters = sum(parameter.numel() for parameter in fitted.models[0].parameters())
        steps = StepCounter.steps
        facts = {
            "fold_id": fold["fold_id"],
            "name": NAMES[name],
            "setting": f"neuralforecast {version('neuralforecast')}, one global model, reads {READS[name]}, "
            f"{parameters:,} parameters, {steps} of {PLANNED_STEPS[name]} steps of {options.windows} windows, "
            f"torch {torch.__version__}, {torch.get_num_threads()} threads",
            "fit_seconds": fit_seconds,
            "forecast_seconds": forecast_seconds,
            "seconds_per_step": fit_seconds / max(steps, 1),
            "steps": steps,
            "planned_steps": PLANNED_STEPS[name],
        }
        (options.exchange / f"neuralforecast_{name}.json").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        print(json.dumps(facts))


def fit(name: str, fold: dict[str, object], train: pl.DataFrame, options: argparse.Namespace) -> NeuralForecast:
    """Fit one model until its steps or the minutes are used up."""
    shared = {
        "h": fold["horizon_sessions"],
        "input_size": fold["window_sessions"],
        "max_steps": PLANNED_STEPS[name],
        "max_time": timedelta(minutes=options.minutes),
        "windows_batch_size": options.windows,
        "callbacks": [StepCounter()],
        "random_seed": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
    }
    if name == "tft":
        model = TFT(**shared, hist_exog_list=list(fold["features"]), hidden_size=64, scaler_type="standard")
    else:
        model = PatchTST(
            **shared, encoder_layers=4, n_heads=8, hidden_size=128, linear_hidden_size=512, patch_len=5, stride=5
        )
        train = train.select("unique_id", "ds", "y")
    fitted = NeuralForecast(models=[model], freq=1)
    fitted.fit(train)
    return fitted


def forecast(
    fitted: NeuralForecast, fold: dict[str, list[str]], frame: pl.DataFrame, num_sessions: int | None
) -> pl.DataFrame:
    """Forecast every judged session from what is known at its close: (symbol, session, score)."""
    window, parts = fold["window_sessions"], []
    frame = frame.filter(pl.col("unique_id").is_in(fold["universe"]))
    for today in [date.fromisoformat(day) for day in fold["test_sessions"][:num_sessions]]:
        known = frame.filter(pl.col("session") <= today)
        known = known.filter(pl.col("session").max().over("unique_id") == today)  # traded today
        known = known.filter(pl.len().over("unique_id") >= window)
        if not known.height:
            continue
        path = fitted.predict(df=known.group_by("unique_id", maintain_order=True).tail(window).drop("session"))
        column = next(name for name in path.columns if name not in ("unique_id", "ds"))
        score = path.group_by("unique_id").agg(score=pl.col(column).cast(pl.Float64).sum())
        parts.append(score.select(symbol="unique_id", session=pl.lit(today), score="score"))
    return pl.concat(parts).sort("session", "symbol")


if __name__ == "__main__":
    main()
