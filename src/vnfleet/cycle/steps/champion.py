"""Who is to be beaten: the release that served before the set of this week."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl
from pydantic import JsonValue

from vnfleet.core.errors import BadDataError
from vnfleet.core.frames import as_prediction_frame
from vnfleet.cycle.context import WeekContext
from vnfleet.releases.deploy import current_release, open_current
from vnfleet.releases.registry import STRATEGIES, Release, list_releases, open_release

WALK_FORWARD = "walk_forward"
WALK_FORWARD_NAME = "predictions.parquet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Champion:
    """A release and what it told about itself when it was built.

    Attributes
    ----------
    setting_id : how its folds and symbols were chosen, see `WeekContext.setting_id`; empty in releases that do not
        tell.
    serving : a strategy or a baseline. model_id : of its walk-forward predictions.
    """

    release: Release
    recipe_id: str
    setting_id: str
    serving: str
    model_id: str

    def is_of(self, week: WeekContext) -> bool:
        """Return True when `week` makes the same thing again from newer data: recipe, folds and choice of symbols."""
        return (self.recipe_id, self.setting_id) == (week.recipe.recipe_id, week.setting_id)

    @property
    def serves_baseline(self) -> bool:
        """True when a baseline serves and the models run in shadow."""
        return self.serving not in STRATEGIES

    @property
    def release_id(self) -> str:
        """Name of the release."""
        return self.release.release_id

    @property
    def predictions(self) -> pl.DataFrame:
        """Its walk-forward predictions on the primary symbols, under a model_id no entrant of this week has."""
        path = self.release.member_folder(WALK_FORWARD) / WALK_FORWARD_NAME
        try:
            frame = pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise BadDataError("a release lost its walk-forward predictions", where=path) from error
        return as_prediction_frame(frame.with_columns(model_id=pl.lit(self.race_id)))

    @property
    def race_id(self) -> str:
        """Its model_id in this week's race."""
        return f"champion-{self.release_id}"


def champion_of(models_prod: Path, set_id: str) -> Champion | None:
    """Return the champion for the set `set_id`, or None when nothing served before it.

    A set that is already live is judged against what served before it, so that a week run again decides the same.
    """
    now = current_release(models_prod)
    if now is None:
        return None
    release = open_current(models_prod, now)
    if release.facts.get("set_id") == set_id:
        before = release.facts.get("champion_release_id")
        if not isinstance(before, str):
            return None
        release = open_release(models_prod, before)
    return Champion(
        release=release,
        recipe_id=fact(release, "recipe_id"),
        setting_id=str(release.facts.get("setting_id", "")),
        serving=fact(release, "serving"),
        model_id=fact(release, "model_id"),
    )


def validation_history(models_prod: Path, recipe_id: str, before: Champion) -> tuple[float, ...]:
    """Return the validation rank IC of the releases of one recipe up to `before`, oldest first."""
    found: list[float] = []
    for release in list_releases(models_prod):
        value: JsonValue = release.facts.get("validation_ic")
        if release.seq <= before.release.seq and release.facts.get("recipe_id") == recipe_id:
            found += [float(value)] if isinstance(value, int | float) else []
    return tuple(found)


def fact(release: Release, name: str) -> str:
    """Return a fact that a release must tell about itself."""
    value = release.facts.get(name)
    if not isinstance(value, str):
        raise BadDataError("a release does not tell enough about itself", where=release.folder, expected=name)
    return value
