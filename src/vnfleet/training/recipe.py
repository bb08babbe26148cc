"""The recipe: everything that decides what a trained model is, apart from the data, and its identity."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from typing import Literal

from vnfleet.core.errors import UsageError
from vnfleet.core.ids import canonical_json, short_id, source_sha256
from vnfleet.model.stockformer import StockformerConfig

_SOURCES = ("vnfleet.features", "vnfleet.model", "vnfleet.training")
# where and how fast units are computed is no part of what they are, nor are the rivals they race
_NOT_SOURCES = (
    "vnfleet.training.engines",
    "vnfleet.training.machine",
    "vnfleet.model.inference",
    "vnfleet.model.baselines",
)
_LIBRARIES = ("torch", "polars", "polars-talib", "lightgbm")
SCHEMA_VERSION = 2
MIN_CHUNK_SESSIONS = 4
MIN_CROSS_SECTION = 20
MAX_COUNT = 2_000

Strategy = Literal["pooled", "adapted", "separate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveConfig:
    """What networks are rewarded for: weights of the terms of the loss.

    Attributes
    ----------
    rank_ic_weight : minus the mean per-session correlation of score and target rank.
    pairwise_weight : logistic loss on pairs of symbols of one session (RankNet, Burges et al. 2005).
    rank_mse_weight : squared distance of score and target rank.
    path_weight, path_loss : returns of all horizons in units of their in-fold deviation, Huber or squared.
    direction_weight, direction_target : binary cross-entropy of the score as the log-odds of a rise ("absolute") or of
        beating the median symbol of that session ("market_relative"); unchanged prices count as half.
        The median is that of all symbols collected, also for models of one symbol.
    volatility_weight : Gaussian likelihood of the returns, given the return head's forecast as a constant.
    min_labels_per_session : sessions with fewer labelled symbols have no cross-sectional term.
    primary_share : share of the cross-sectional terms that is taken over the primary symbols only.
    """

    rank_ic_weight: float = 1.0
    pairwise_weight: float = 0.0
    rank_mse_weight: float = 0.1
    path_weight: float = 0.02
    path_loss: Literal["huber", "mse"] = "huber"
    direction_weight: float = 0.0
    direction_target: Literal["absolute", "market_relative"] = "absolute"
    volatility_weight: float = 0.02
    min_labels_per_session: int = 30
    primary_share: float = 0.5

    def __post_init__(self) -> None:
        """Refuse weights that reward nothing, and cross-sections that are noise."""
        weights = {item.name: getattr(self, item.name) for item in dataclasses.fields(self) if "weight" in item.name}
        if negative := sorted(name for name, weight in weights.items() if weight < 0.0):
            raise ValueError(f"{negative[0]} must not be negative, found {weights[negative[0]]}")
        if not any(weights.values()):
            raise ValueError("every weight is 0: nothing would be learned")
        if self.min_labels_per_session < MIN_CROSS_SECTION:
            raise ValueError(
                f"a cross-sectional loss on fewer than {MIN_CROSS_SECTION} symbols is noise: "
                f"min_labels_per_session >= {MIN_CROSS_SECTION}, found {self.min_labels_per_session}"
            )
        if not 0.0 <= self.primary_share <= 1.0:
            raise ValueError(f"primary_share must lie in [0, 1], found {self.primary_share}")

    @property
    def is_cross_sectional(self) -> bool:
        """True when symbols of one session are compared with each other."""
        return self.rank_ic_weight + self.pairwise_weight + self.rank_mse_weight > 0.0

    def own_series(self) -> ObjectiveConfig:
        """Return the terms a model of one symbol alone can have; raises `ValueError` when there is none."""
        return dataclasses.replace(self, rank_ic_weight=0.0, pairwise_weight=0.0, rank_mse_weight=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How networks are fitted.

    Attributes
    ----------
    strategy : which models the files hold: "adapted" (one backbone, deltas per symbol), "pooled" (the backbone), or
        "separate" (the written plan's way: one model per symbol, own history only). "pooled" always races.
    num_seeds : members of the ensemble, seeds 0 .. num_seeds - 1.
    ensemble : "seeds" (equal shapes) or "depths" (member i has i more layers and 0.05 i more dropout, as in the plan).
    max_epochs : epochs of the learning-rate cycle.
    patience_epochs : 0 runs the whole cycle; else the selection fit stops after so many epochs without a better
        validation figure and the best epoch counts.
    learning_rate, weight_decay : AdamW (Loshchilov and Hutter 2019).
    schedule, warmup_frac : "onecycle" (one cosine cycle, Smith and Topin 2018), "cosine" (linear warm-up, then cosine
        to 0) or "constant" after a linear warm-up, over `max_epochs`.
    clip_norm : gradient norm limit of each model.
    ema_decay : per-step decay of an exponential moving average of the weights that replaces them; 0 means none.
    chunk_sessions : decision sessions of one batch; all symbols of a session are always together.
        For "separate" with window attention: windows of one batch of one model.
    accumulation : batches per optimisation step.
    runs_per_batch : for "separate" with streaming attention: runs of `chunk_sessions` in one batch of one model.
    delta_penalties : lambdas tried for `adapted`; "infinity" (102 equal models) is always in the race.
    delta_epochs, delta_learning_rate : the fit of per-symbol deltas on the frozen backbone.
    valid_sessions : the tail of the training sessions that picks epochs, lambda and calibration.
    """

    strategy: Strategy = "adapted"
    num_seeds: int = 3
    ensemble: Literal["seeds", "depths"] = "seeds"
    max_epochs: int = 8
    patience_epochs: int = 0
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    schedule: Literal["onecycle", "cosine", "constant"] = "onecycle"
    warmup_frac: float = 0.3
    clip_norm: float = 1.0
    ema_decay: float = 0.0
    chunk_sessions: int = 32
    accumulation: int = 1
    runs_per_batch: int = 4
    delta_penalties: tuple[float, ...] = (100.0, 10.0)
    delta_epochs: int = 1
    delta_learning_rate: float = 5e-4
    valid_sessions: int = 250

    def __post_init__(self) -> None:
        """Refuse settings that cannot mean anything."""
        counts = ("num_seeds", "max_epochs", "accumulation", "runs_per_batch", "delta_epochs")
        for name in (*counts, "valid_sessions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
            if getattr(self, name) > MAX_COUNT:
                raise ValueError(f"{name} must be at most {MAX_COUNT}, found {getattr(self, name)}")
        if not MIN_CHUNK_SESSIONS <= self.chunk_sessions <= MAX_COUNT:
            raise ValueError(
                f"chunk_sessions must lie between {MIN_CHUNK_SESSIONS} and {MAX_COUNT}, found {self.chunk_sessions}"
            )
        if len({f"{penalty:g}" for penalty in self.delta_penalties}) != len(self.delta_penalties):
            raise ValueError(f"delta_penalties repeat: {list(self.delta_penalties)}")
        if self.patience_epochs < 0:
            raise ValueError(f"patience_epochs must not be negative, found {self.patience_epochs}")
        if self.learning_rate <= 0 or self.delta_learning_rate <= 0:
            raise ValueError("learning rates must be positive")
        if self.clip_norm <= 0 or self.weight_decay < 0:
            raise ValueError("clip_norm must be positive, weight_decay not negative")
        if not 0.0 <= self.ema_decay < 1.0 or not 0.0 <= self.warmup_frac < 1.0:
            raise ValueError("ema_decay and warmup_frac must lie in [0, 1)")
        if any(penalty <= 0 for penalty in self.delta_penalties):
            raise ValueError("delta_penalties must be positive; infinity needs no entry")


@dataclass(frozen=True)
class Recipe:
    """Network shape, training settings and objective; with sources and library versions they make `recipe_id`."""

    model: StockformerConfig = field(default_factory=StockformerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        """What races: the strategy the files are written with, and always the shared model."""
        return ("pooled",) if self.training.strategy == "pooled" else (self.training.strategy, "pooled")

    @cached_property
    def recipe_id(self) -> str:
        """Identity of what is trained: settings, source hash of the rooms involved and library versions."""
        return short_id([self.unit_recipe_id, self.training.num_seeds])

    @cached_property
    def unit_recipe_id(self) -> str:
        """Identity of what one member is: the recipe without the number of seeds, so that fewer seeds reuse members."""
        settings = json.loads(self.to_json())
        del settings["training"]["num_seeds"]
        facts = {
            "settings": settings,
            "sources": source_sha256(*_SOURCES, without=_NOT_SOURCES),
            "libraries": {name: version(name).split("+")[0] for name in _LIBRARIES},
        }
        return short_id(facts)

    def member_config(self, seed: int) -> StockformerConfig:
        """Return the shape of the member with that seed; with depths, a streaming band shrinks to see no further."""
        if self.training.ensemble == "seeds" or seed == 0:
            return self.model
        layers = self.model.num_layers + seed
        return dataclasses.replace(
            self.model,
            num_layers=layers,
            dropout=round(self.model.dropout + 0.05 * seed, 6),
            band_sessions=max(2, (self.model.receptive_field_sessions - 1) // layers + 1)
            if self.model.attention == "streaming"
            else self.model.band_sessions,
        )

    def separate_config(self, seed: int) -> StockformerConfig:
        """Return the shape of one symbol's own network: its score is its return forecast."""
        return dataclasses.replace(self.member_config(seed), score="return")

    @property
    def context_sessions(self) -> int:
        """Sessions needed before a forecast: the longest of all members."""
        return max(self.member_config(seed).context_sessions for seed in range(self.training.num_seeds))

    def to_json(self) -> str:
        """Return the recipe as canonical JSON."""
        return canonical_json(
            {
                "schema_version": SCHEMA_VERSION,
                "model": dataclasses.asdict(self.model),
                "training": dataclasses.asdict(self.training),
                "objective": dataclasses.asdict(self.objective),
            }
        )

    @staticmethod
    def from_json(text: str) -> Recipe:
        """Return the recipe that `to_json` wrote; an unknown key or value is a `UsageError`."""
        try:
            record = json.loads(text)
            training, model = dict(record["training"]), dict(record["model"])
            training["delta_penalties"] = tuple(training.get("delta_penalties", ()))
            model["path_sessions"] = tuple(model.get("path_sessions", ()))
            return Recipe(
                StockformerConfig(**model), TrainingConfig(**training), ObjectiveConfig(**record["objective"])
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError("a recipe cannot be read", found=str(error), fix="write it with this vnfleet") from error
