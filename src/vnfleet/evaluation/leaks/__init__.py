"""Proof that a pipeline does not know the future: checks over its functions, and the report of what they found.

`prove` runs every check over a `Pipeline`; the checks can be called one by one. What is *too good* only warns
(`plausible`). Sources of the traps: `docs/` names them, the mutation suite in the tests plants them one by one.
"""

from __future__ import annotations

from vnfleet.evaluation.leaks.inputs import FittedScaler
from vnfleet.evaluation.leaks.poison import dealt_anew, poisoned
from vnfleet.evaluation.leaks.prover import Fitted, Learner, Pipeline, prove
from vnfleet.evaluation.leaks.report import LeakCheck, LeakReport

__all__ = [
    "Fitted",
    "FittedScaler",
    "LeakCheck",
    "LeakReport",
    "Learner",
    "Pipeline",
    "dealt_anew",
    "poisoned",
    "prove",
]
