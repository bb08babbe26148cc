"""What the leak prover found: one record per check, and the report of all of them."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class LeakCheck(BaseModel):
    """One check.

    Attributes
    ----------
    name : which check, and after a colon of what (``"fit_poison:ridge"``).
    passed : True or False; None when the data cannot tell.
    blocks : a failure forbids a release; otherwise it warns.
    value, limit : the figure that was judged and what it may be at most (or must equal); None where there is none.
    words : what was found, for people.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    passed: bool | None
    blocks: bool = True
    value: float | None = None
    limit: float | None = None
    words: str

    @property
    def leaks(self) -> bool:
        """True when a blocking check failed."""
        return self.blocks and self.passed is False

    @property
    def line(self) -> str:
        """The check as one line."""
        failed = "LEAK" if self.blocks else "warning"
        verdict = {True: "passed", False: failed, None: "cannot tell"}[self.passed]
        return f"{verdict:<11} {self.name}: {self.words}"


class LeakReport(BaseModel):
    """All checks of one pipeline, in the order they were made."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = 1
    checks: tuple[LeakCheck, ...]

    @property
    def has_leak(self) -> bool:
        """True when a blocking check failed."""
        return any(check.leaks for check in self.checks)

    @property
    def failed(self) -> tuple[LeakCheck, ...]:
        """Checks that failed, those that only warn included."""
        return tuple(check for check in self.checks if check.passed is False)

    def lines(self) -> tuple[str, ...]:
        """Return the report for people: the verdict, then one line per check."""
        leaks = [check.name for check in self.checks if check.leaks]
        warnings = sum(check.passed is False and not check.blocks for check in self.checks)
        unknown = sum(check.passed is None for check in self.checks)
        verdict = f"The future leaks into the past: {', '.join(leaks)}." if leaks else "No leak was found."
        counts = f"{len(self.checks)} checks, {len(leaks)} leaks, {warnings} warnings, {unknown} cannot tell."
        return (f"{verdict} {counts}", *(check.line for check in self.checks))
