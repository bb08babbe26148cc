"""A week that never happened: seeded inputs of the size of a real one (102 symbols, 5 years, 6 models)."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import product

import numpy as np
import polars as pl
import pytest

from vnfleet.evaluation.metrics import MONTHLY_SCHEMA, SUMMARY_SCHEMA
from vnfleet.evaluation.reliability import RELIABILITY_SCHEMA, SELECTIVE_SCHEMA
from vnfleet.evaluation.scorecard import SCORECARD_SCHEMA
from vnfleet.releases.plan_policy import plan_policy_report
from vnfleet.releases.verdict import Check, GateDecision
from vnfleet.reporting.report import ReportInputs

NUM_SYMBOLS = 102
YEARS = ("2020", "2021", "2022", "2023", "2024")
MODELS = {"adapted": 0.108, "pooled": 0.105, "lightgbm": 0.088, "ridge": 0.061, "reversal_1d": 0.043, "always_up": None}
SECTORS = ("Tài chính", "Nguyên vật liệu", "Công nghệ", "Bất động sản", "Tiêu dùng thiết yếu", "Năng lượng & điện")
WORDS = ("Hòa Phát", "Đầu tư Thế giới", "Vĩnh Hoàn", "Khoáng sản Bắc Giang", "Điện lực Dầu khí", "Đường Quảng Ngãi")


def symbols() -> list[str]:
    letters = "ABCDEGHIKLMNPRSTV"
    return ["".join(triple) for triple in product("BDHPSV", letters, "CMGT")][::4][:NUM_SYMBOLS]


def sessions() -> list[date]:
    days = (date(2020, 1, 2) + timedelta(days=index) for index in range(1826))
    return [day for day in days if day.weekday() < 5]


def summary(rng: np.random.Generator) -> pl.DataFrame:
    rows = []
    for model_id, skill in MODELS.items():
        for period in (*YEARS, "all"):
            half = 0.012 if period == "all" else 0.028
            ic = None if skill is None else skill + (0.0 if period == "all" else float(rng.normal(0, 0.02)))
            up = 0.472 + (0.0 if period == "all" else float(rng.normal(0, 0.03)))
            relative = 0.5 + 0.33 * (ic or 0.0)
            absolute = max(up, 1 - up) + (0.004 if skill else -0.03)
            rows.append(
                {
                    "model_id": model_id,
                    "horizon_sessions": 5,
                    "year": period,
                    "num_sessions": 1245 if period == "all" else 249,
                    "num_rows": 126000 if period == "all" else 25200,
                    "rank_ic": ic,
                    "rank_ic_low": None if ic is None else ic - half,
                    "rank_ic_high": None if ic is None else ic + half,
                    "icir": None if ic is None else ic / 0.19,
                    "accuracy_absolute": absolute,
                    "accuracy_absolute_low": absolute - half,
                    "accuracy_absolute_high": absolute + half,
                    "base_rate_up": up,
                    "base_accuracy": max(up, 1 - up),
                    "accuracy_relative": None if skill is None else relative,
                    "accuracy_relative_low": None if skill is None else relative - half / 2,
                    "accuracy_relative_high": None if skill is None else relative + half / 2,
                    "rmse": 0.0421 if skill else None,
                    "mae": 0.0304 if skill else None,
                }
            )
    return pl.DataFrame(rows, schema=SUMMARY_SCHEMA)


def monthly(rng: np.random.Generator) -> pl.DataFrame:
    rows = []
    for (model_id, skill), index in product(MODELS.items(), range(60)):
        if skill is None:
            continue
        value, half = float(rng.normal(skill, 0.07)), float(rng.uniform(0.06, 0.11))
        month = date(2020 + index // 12, index % 12 + 1, 1)
        rows.append((model_id, 5, month, value, value - half, value + half, 21))
    return pl.DataFrame(rows, schema=MONTHLY_SCHEMA, orient="row")


def per_symbol(rng: np.random.Generator) -> pl.DataFrame:
    scores = np.round(rng.normal(0, 1, NUM_SYMBOLS), 4)
    order = (-scores).argsort().argsort() + 1
    rows = [
        {
            "symbol": symbol,
            "company": f"Công ty Cổ phần {WORDS[index % len(WORDS)]}",
            "sector": SECTORS[index % len(SECTORS)],
            "serving": "pooled" if index % 9 == 4 else "adapted",
            "rank": int(order[index]),
            "score": float(scores[index]),
            "expected_return_frac": None if index == 7 else float(0.004 * scores[index] + 0.001),
            "direction_prob": None if index == 7 else float(0.5 + 0.05 * np.tanh(scores[index])),
            "accuracy_frac": float(rng.normal(0.535, 0.02)),
            "sharpe_252": float(rng.normal(0.7, 0.5)),
            "max_drawdown_frac": float(rng.uniform(0.08, 0.5)),
            "rmse_frac": float(rng.uniform(0.025, 0.06)),
            "num_sessions": int(rng.integers(900, 1246)),
            "plan_verdict": "fails drawdown" if index % 3 else "passes accuracy, Sharpe",
        }
        for index, symbol in enumerate(symbols())
    ]
    return pl.DataFrame(rows)


def equity(rng: np.random.Generator) -> pl.DataFrame:
    days = sessions()
    market = rng.normal(0.0002, 0.011, len(days))
    frames = []
    for name, edge, noise in (
        ("Deployed models", 0.0007, 0.004),
        ("Equal weight", 0.00015, 0.002),
        ("VNINDEX", 0.0, 0.0),
        ("Best baseline", 0.0004, 0.004),
    ):
        path = 1e9 * np.exp(np.cumsum(market + edge + rng.normal(0, noise, len(days)) if noise else market))
        frames.append(pl.DataFrame({"series": name, "session": days, "equity_vnd": path}))
    return pl.concat(frames)


def decision(rng: np.random.Generator) -> GateDecision:
    numbers = pl.DataFrame(
        {
            "symbol": symbols(),
            "accuracy_frac": rng.normal(0.535, 0.02, NUM_SYMBOLS),
            "sharpe": rng.normal(0.7, 0.5, NUM_SYMBOLS),
            "max_drawdown_frac": rng.uniform(0.08, 0.5, NUM_SYMBOLS),
            "rmse": rng.uniform(0.025, 0.06, NUM_SYMBOLS),
        }
    )
    return GateDecision(
        kind="recipe",
        outcome="deploy",
        serving="adapted",
        serves_baseline=False,
        sentence="Deployed: the per-symbol adapted models rank better than LightGBM by 0.020, more than luck makes.",
        checks=(
            Check(name="enough", passed=True, words="1,245 common sessions, at least 250 are needed."),
            Check(name="skill", passed=True, words="Daily rank IC 0.108, 95 % interval 0.096 to 0.120, above zero."),
            Check(name="lead", passed=True, words="Leads the best baseline (LightGBM) by 0.020, p = 0.004."),
            Check(name="years", passed=True, words="No calendar year lost money in ranking terms."),
            Check(name="ledger", passed=None, words="The ledger is too young to object: 0 weeks have a known outcome."),
        ),
        plan=plan_policy_report(numbers),
        num_sessions=1245,
    )


@pytest.fixture
def inputs() -> ReportInputs:
    """A week as the cycle would hand it over."""
    rng = np.random.default_rng(7)
    return ReportInputs(
        cycle_id="2026-W47",
        as_of=date(2026, 11, 20),
        created_at=datetime(2026, 11, 22, 12, 4, tzinfo=UTC),
        workdir_name="work",
        market_is_simulated=False,
        decision=decision(rng),
        previous_release_id="2026-11-13-0041-9b1c02de",
        deployed_release_id="2026-11-20-0042-5fe01a77",
        changes=(
            "5 new sessions (16 to 20 November), no revision of older prices.",
            "The recipe changed: receptive field 59 sessions instead of 60.",
            "DGC and HAG entered the 102 most traded, BSC and VPT left.",
        ),
        summary=summary(rng),
        monthly_ic=monthly(rng),
        serving_model_id="adapted",
        per_symbol=per_symbol(rng),
        equity=equity(rng),
        sim_metrics=pl.DataFrame(
            {
                "series": ["Deployed models", "Equal weight", "VNINDEX", "Best baseline"],
                "total_return_frac": [1.61, 0.62, 0.31, 1.02],
                "annual_return_frac": [0.214, 0.101, 0.055, 0.151],
                "annual_volatility_frac": [0.231, 0.224, 0.207, 0.236],
                "sharpe_252": [0.93, 0.45, 0.27, 0.64],
                "max_drawdown_frac": [0.284, 0.371, 0.402, 0.318],
                "turnover_per_year": [21.4, 2.1, None, 24.0],
            }
        ),
        refused_orders=pl.DataFrame(
            {
                "reason": ["buy at the ceiling, nothing for sale", "not settled yet", "less than one lot"],
                "count": [312, 58, 41],
            }
        ),
        quality_rows=pl.DataFrame(
            {
                "check": ["return beyond the band", "volume missing", "adjusted close jumps"],
                "severity": ["error", "warn", "info"],
                "verdict": ["mask", "accept", "repair"],
                "count": [214, 1390, 37],
                "example": ["HAG 2021-05-04: +9.1 % with a 7 % band", "BMC 2020-02-11", "SSI 2022-07-12"],
            }
        ),
        quality_symbols=pl.DataFrame(
            {
                "symbol": [*symbols(), "XYZ"],
                "verdict": ["accept"] * NUM_SYMBOLS + ["quarantine"],
                "reasons": [""] * NUM_SYMBOLS + ["fewer than 100 sessions"],
            }
        ),
        steps=pl.DataFrame(
            {
                "step": ["collect", "check", "features", "train", "evaluate", "backtest", "gate", "deploy", "report"],
                "seconds": [12.4, 3.2, 21.0, 1843.0, 24.0, 18.5, 2.2, 1.1, 0.4],
                "peak_memory_mib": [412.0, 433.0, 1210.0, 3891.0, 1544.0, 980.0, 610.0, 402.0, 420.0],
                "reused": [True, False, False, False, False, False, False, False, False],
            }
        ),
        warnings=(
            "The 289 symbols were chosen on 2024 liquidity: every figure before 2024 carries that survivorship.",
            "The account is a simulation: it fills at the open and moves no price.",
        ),
        model_names=(
            ("adapted", "Stockformer, adapted per symbol"),
            ("pooled", "Stockformer, pooled"),
            ("lightgbm", "LightGBM"),
            ("ridge", "Ridge"),
            ("reversal_1d", "1-day reversal"),
            ("always_up", "Always up"),
        ),
    )


def scorecard(rng: np.random.Generator) -> pl.DataFrame:
    """The serving model in all its slices: every year, seven sectors, three terciles; 5 sessions ahead."""
    sizes = {name: 20 if index == 0 else 9 for index, name in enumerate(SECTORS)}
    slices = [
        ("all", "all", 1245, 102, 0.012),
        *(("year", year, 249, 102, 0.027) for year in YEARS),
        *(("liquidity", name, 1245, 34, 0.019) for name in ("least traded", "middle", "most traded")),
        *(("sector", name, 1245, size, 0.03 if size > 9 else 0.045) for name, size in sizes.items()),
    ]
    rows: list[tuple[object, ...]] = []
    for (kind, group, days, size, half), model_id in product(slices, ("adapted", "pooled")):
        ic = 0.108 if kind == "all" else float(rng.normal(0.07, 0.05))
        for metric, value, reach in (("rank_ic", ic, half), ("accuracy_relative", 0.5 + 0.33 * ic, half / 2.5)):
            values = (value, value - reach, value + reach, days, days * size)
            rows.append((model_id, 5, kind, group, metric, *values))
    rows += [
        ("adapted", 5, "all", "all", metric, *values, 1245, 126000)
        for metric, values in {
            "base_rate_up": (0.472, 0.45, 0.494),
            "base_accuracy": (0.528, 0.506, 0.55),
            "brier": (0.2481, 0.247, 0.2492),
            "brier_skill": (0.0044, 0.0012, 0.0076),
            "volatility_coverage_68": (0.712, 0.694, 0.730),
            "volatility_coverage_95": (0.944, 0.935, 0.953),
            "icir": (0.57, 0.45, 0.7),
        }.items()
    ]
    return pl.DataFrame(rows, schema=SCORECARD_SCHEMA, orient="row")


def reliability(rng: np.random.Generator) -> pl.DataFrame:
    said = np.linspace(0.43, 0.55, 10)
    rose = 0.472 + 0.7 * (said - said.mean()) + rng.normal(0, 0.006, 10)
    rows = [
        ("adapted", 5, number + 1, float(said[number]), float(rose[number]), float(rose[number]) - 0.024,
         float(rose[number]) + 0.024, 12600)
        for number in range(10)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=RELIABILITY_SCHEMA, orient="row")


def selective() -> pl.DataFrame:
    curves = {"relative": (0.5356, 0.543, 0.556, 0.565, 0.571), "absolute": (0.532, 0.535, 0.541, 0.544, 0.548)}
    rows = [
        ("adapted", 5, kind, kept, value, value - half, value + half, round(126000 * kept), 1245)
        for kind, values in curves.items()
        for kept, value, half in zip(
            (1.0, 0.5, 0.2, 0.1, 0.05), values, (0.006, 0.008, 0.011, 0.014, 0.02), strict=True
        )
    ]
    return pl.DataFrame(rows, schema=SELECTIVE_SCHEMA, orient="row")


def symbols_shrunk(rng: np.random.Generator) -> pl.DataFrame:
    raw = rng.normal(0.535, 0.03, NUM_SYMBOLS)
    return pl.DataFrame(
        {
            "model_id": "adapted",
            "horizon_sessions": 5,
            "symbol": symbols(),
            "num_rows": 1245,
            "accuracy_relative": raw,
            "se": 0.021,
            "accuracy_shrunk": 0.535 + 0.2 * (raw - 0.535),
            "shrunk_sd": 0.011,
            "veto_z": 3.2,
            "p_one_sided": 0.1,
            "discovered": raw > 0.585,
        }
    )


@pytest.fixture
def proven(inputs: ReportInputs) -> ReportInputs:
    """The same week with the whole proof of skill."""
    rng = np.random.default_rng(11)
    decision = inputs.decision.model_copy(
        update={
            "vetoed": ("BAG", "HAT"),
            "told": (
                "the new set's simulated account made +21.4 % a year, the old one's +19.8 %.",
                "each model was judged on 1,245 sessions it had never seen.",
                "mean accuracy 53.2 % (52.0 to 54.4 %), below the plan's 54 %; always saying down reaches 52.8 %.",
            ),
        }
    )
    return replace(
        inputs,
        decision=decision,
        proof_lines=(
            "up or down: right in 53.2 % of 126,000 calls, 51.1 % by the mix of calls alone, p = 0.003.",
            "Against LightGBM the daily ranking is better: p = 0.011; against ridge: p < 0.001.",
            "The best of all variants beats the best baseline after allowing for the search: p = 0.021.",
            "1,245 sessions this noisy would have shown a rank IC of 0.015 four times in five, smaller ones not.",
        ),
        num_trials=40,
        scorecard=scorecard(rng),
        reliability=reliability(rng),
        selective=selective(),
        symbols_shrunk=symbols_shrunk(rng),
        leak_checks=pl.DataFrame(
            [
                ("truncation", True, True, "features and forecasts are the same when later prices are cut off."),
                ("future_poison", True, True, "wild prices after a session move nothing before it."),
                (
                    "shuffled_labels:ridge",
                    True,
                    True,
                    "rank IC 0.002 (-0.011 to 0.015).",
                ),
                (
                    "too_good_lightgbm:adapted",
                    False,
                    False,
                    "0.020 above LightGBM on the same fold.",
                ),
                ("scaler_provenance", None, True, "no stored scaler: the models of this week were not trained here."),
            ],
            schema={"name": pl.String, "passed": pl.Boolean, "blocks": pl.Boolean, "words": pl.String},
            orient="row",
        ),
        waterfall=pl.DataFrame(
            [
                ("ideal", "any share, any amount, at the price wanted, free of charge", 0.386, 0.0, 1.62),
                ("lots", "whole lots only", 0.384, 0.002, 1.61),
                ("fees", "fees of both sides", 0.302, 0.082, 1.29),
                ("tax", "the tax on selling", 0.279, 0.023, 1.2),
                ("limits", "no buying at the ceiling, no selling at the floor", 0.241, 0.038, 1.05),
                ("delivery", "shares can be sold only after they are delivered", 0.247, -0.006, 1.07),
                ("participation", "at most a tenth of the day's volume", 0.214, 0.033, 0.93),
            ],
            schema={
                "step": pl.String,
                "words": pl.String,
                "annual_return_frac": pl.Float64,
                "cost_frac": pl.Float64,
                "sharpe_252": pl.Float64,
            },
            orient="row",
        ),
        sim_metrics=inputs.sim_metrics.with_columns(capacity_vnd=pl.Series([48.3e9, None, None, 2.9e8])),
    )
