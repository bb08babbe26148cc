"""The recipe: everything that decides what a trained model is, apart from the data, and its identity."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version

from vnfleet.core.errors import UsageError
from vnfleet.core.ids import canonical_json, short_id, source_sha256
from vnfleet.model.stockformer import StockformerConfig

_SOURCES = ("vnfleet.features", "vnfleet.model", "vnfleet.training")
_LIBRARIES = ("torch", "polars", "polars-talib", "lightgbm")
SCHEMA_VERSION = 1
MIN_CHUNK_SESSIONS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How networks are fitted.

    Attributes
    ----------
    num_seeds : members of the ensemble, seeds 0 .. num_seeds - 1.
    max_epochs, patience_epochs : the selection fit stops after `patience_epochs` without a better validation rank IC.
    learning_rate, weight_decay, warmup_frac : AdamW under one cosine cycle over `max_epochs` (Smith and Topin 2018).
    clip_norm : gradient norm limit.
    chunk_sessions : decision sessions of one batch; all symbols of a session are always together.
    min_labels_per_session : sessions with fewer labelled symbols have no cross-sectional loss.
    primary_share : share of the rank loss that is taken over the primary symbols only; the rest is over all symbols.
    mse_weight, path_weight, volatility_weight : weights beside the rank-IC loss of weight 1.
    delta_penalties : lambdas tried for `adapted`; "infinity" (102 equal models) is always in the race.
    delta_epochs, delta_learning_rate : the fit of per-symbol deltas on the frozen backbone.
    valid_sessions : the tail of the training sessions that picks epochs, lambda and calibration.
    num_threads : CPU threads; 0 means all cores this process may use.
    precision : "auto" takes bf16 matrix products where the CPU has AMX, else float32.
    """

    num_seeds: int = 3
    max_epochs: int = 8
    patience_epochs: int = 4
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    warmup_frac: float = 0.3
    clip_norm: float = 1.0
    chunk_sessions: int = 32
    min_labels_per_session: int = 30
    primary_share: float = 0.5
    mse_weight: float = 0.1
    path_weight: float = 0.02
    volatility_weight: float = 0.02
    delta_penalties: tuple[float, ...] = (100.0, 10.0)
    delta_epochs: int = 1
    delta_learning_rate: float = 5e-4
    valid_sessions: int = 250
    num_threads: int = 0
    precision: str = "auto"

    def __post_init__(self) -> None:
        """Refuse settings that cannot mean anything."""
        for name in ("num_seeds", "max_epochs", "patience_epochs", "chunk_sessions", "delta_epochs", "valid_sessions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.chunk_sessions < MIN_CHUNK_SESSIONS:
            raise ValueError(f"chunk_sessions must be at least {MIN_CHUNK_SESSIONS}, found {self.chunk_sessions}")
        if self.min_labels_per_session < 20:
            raise ValueError("a cross-sectional loss on fewer than 20 symbols is noise: min_labels_per_session >= 20")
        if not 0.0 <= self.primary_share <= 1.0:
            raise ValueError(f"primary_share must lie in [0, 1], found {self.primary_share}")
        if self.learning_rate <= 0 or self.delta_learning_rate <= 0:
            raise ValueError("learning rates must be positive")
        if any(penalty <= 0 for penalty in self.delta_penalties):
            raise ValueError("delta_penalties must be positive; infinity needs no entry")
        if self.precision not in ("auto", "float32", "bf16"):
            raise ValueError(f"precision must be auto, float32 or bf16, found {self.precision}")


@dataclass(frozen=True)
class Recipe:
    """Network shape and training settings; with sources and library versions they make `recipe_id`."""

    model: StockformerConfig = field(default_factory=StockformerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    @cached_property
    def recipe_id(self) -> str:
        """Identity of what is trained: settings, source hash of the rooms involved and library versions."""
        facts = {
            "settings": json.loads(self.to_json()),
            "sources": source_sha256(*_SOURCES),
            "libraries": {name: version(name).split("+")[0] for name in _LIBRARIES},
        }
        return short_id(facts)

    def to_json(self) -> str:
        """Return the recipe as canonical JSON; `num_threads` stays out, it is a property of the machine."""
        training = dataclasses.asdict(self.training)
        training.pop("num_threads")
        return canonical_json(
            {"schema_version": SCHEMA_VERSION, "model": dataclasses.asdict(self.model), "training": training}
        )

    @staticmethod
    def from_json(text: str) -> Recipe:
        """Return the recipe that `to_json` wrote; an unknown key or value is a `UsageError`."""
        try:
            record = json.loads(text)
            training = dict(record["training"])
            training["delta_penalties"] = tuple(training.get("delta_penalties", ()))
            return Recipe(StockformerConfig(**record["model"]), TrainingConfig(**training))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError("a recipe cannot be read", found=str(error), fix="write it with this vnfleet") from error
