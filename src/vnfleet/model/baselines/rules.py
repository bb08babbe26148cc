"""Which baselines there are, and which feature each rule of one feature reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from vnfleet.core.errors import BadDataError

BaselineName = Literal[
    "always_up", "last_direction", "reversal_1d", "reversal_5d", "momentum_120d", "ridge", "lightgbm"
]
BASELINE_NAMES: tuple[BaselineName, ...] = get_args(BaselineName)


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureRule:
    """Score by one feature: its name in the catalogue, the sign it takes, and whether only its direction counts."""

    feature: str
    sign: float
    direction_only: bool = False

    @property
    def words(self) -> str:
        """The rule in short, such as ``-ret_5`` or ``direction of ret_1``."""
        signed = f"{'-' if self.sign < 0 else ''}{self.feature}"
        return f"direction of {signed}" if self.direction_only else signed

    def position_in(self, feature_names: Sequence[str], name: str) -> int:
        """Return where the feature stands; raises `BadDataError` naming the baseline `name` when it is absent."""
        if self.feature not in feature_names:
            raise BadDataError(
                f"{name} needs a feature that is not there", expected=self.feature, found=list(feature_names)
            )
        return feature_names.index(self.feature)


FEATURE_RULES: Mapping[BaselineName, FeatureRule] = {
    "last_direction": FeatureRule(feature="ret_1", sign=1.0, direction_only=True),
    "reversal_1d": FeatureRule(feature="ret_1", sign=-1.0),
    "reversal_5d": FeatureRule(feature="ret_5", sign=-1.0),
    "momentum_120d": FeatureRule(feature="ret_120", sign=1.0),
}
"""One-session reversal and five-session reversal: Lehmann 1990, Jegadeesh 1990; half a year of momentum: Jegadeesh and
Titman 1993. The naive forecast of direction is that the last one goes on."""
