"""What the gate says: records that reports print, releases store and commands turn into exit codes.

Every record is frozen and travels as JSON. Unknown numbers are None, never NaN.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, JsonValue

DecisionKind = Literal["first", "recipe", "refresh"]
Outcome = Literal["deploy", "keep", "undecided"]


class Check(BaseModel):
    """One question the gate asked; `passed` is None where there was nothing to judge it on.

    `value` and `limit` are in the unit the `words` name; `words` is the answer in one plain sentence.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    passed: bool | None
    value: FiniteFloat | None = None
    limit: FiniteFloat | None = None
    words: str


class PlanCriterion(BaseModel):
    """One limit of the written plan, applied to each model alone.

    `num_models` counts the models that have this number; `null_pass_frac` is the share of models without any skill
    that pass the same limit (None where nobody measured it).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    limit: FiniteFloat
    num_models: int
    num_passing: int
    pass_frac: FiniteFloat | None
    null_pass_frac: FiniteFloat | None
    words: str


class PlanPolicyReport(BaseModel):
    """The written plan's own gate: shown beside the decision, deciding it only under the policy "plan".

    `criteria` holds accuracy, sharpe, max_drawdown and rmse. `three_frac` is the share of models passing accuracy,
    Sharpe and drawdown together, `all_frac` those plus RMSE; the null shares are those of models without any skill:
    counted on `num_null_models` shuffled ones by the same rule on the same prices, or quoted where that is None.
    `passing` and `failing` name the models that pass all four limits and the others (an unknown number is no pass).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_models: int
    criteria: tuple[PlanCriterion, ...]
    accuracy_and_sharpe_frac: FiniteFloat | None
    accuracy_and_sharpe_null_frac: FiniteFloat
    three_frac: FiniteFloat | None
    three_null_frac: FiniteFloat
    all_frac: FiniteFloat | None
    mean_accuracy_frac: FiniteFloat | None
    reaches_mean_54: bool | None
    reaches_mean_55: bool | None
    words: str
    all_null_frac: FiniteFloat | None = None
    num_null_models: int | None = None
    passing: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()


class GateDecision(BaseModel):
    """Whether a trained set goes live, what serves if it does, and why.

    `serving` is what serves after this decision: "adapted", "pooled", the name of a baseline, or "" where nothing
    does. `sentence` is the verdict for a person. "undecided" changes nothing, exactly as "keep". `vetoed` are symbols
    of a set that goes live which the pooled model serves instead of their own. `told` are further sentences for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: DecisionKind
    outcome: Outcome
    serving: str
    serves_baseline: bool
    sentence: str
    checks: tuple[Check, ...]
    plan: PlanPolicyReport
    gate_policy: Literal["fleet", "plan"] = "fleet"
    num_sessions: int = 0
    candidate_id: str | None = None
    champion_id: str | None = None
    vetoed: tuple[str, ...] = ()
    told: tuple[str, ...] = ()

    @property
    def deploys(self) -> bool:
        """True when the current release changes."""
        return self.outcome == "deploy"

    def lines(self) -> tuple[str, ...]:
        """Return the whole decision in words, verdict first, for terminals, mails and reports."""
        marks = {True: "yes", False: "NO", None: "-"}
        checks = (f"  [{marks[check.passed]}] {check.words}" for check in self.checks)
        served = f"served by the pooled model instead of their own: {', '.join(self.vetoed)}"
        told = (*([served] if self.vetoed else []), *self.told)
        return (self.sentence, *checks, *(f"  {text}" for text in (*told, *self.plan.words.splitlines())))

    def as_json(self) -> dict[str, JsonValue]:
        """Return the decision as plain JSON values, ready for a manifest."""
        payload: dict[str, JsonValue] = self.model_dump(mode="json")
        return payload
