"""The work directory: where each thing lives, and the lock that lets one command change it at a time."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from vnfleet.core.errors import ResourceError, UsageError
from vnfleet.core.lock import holding


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders of one work directory; the names are the written plan's."""

    workdir: Path

    @property
    def raw(self) -> Path:
        """Append-only prices."""
        return self.workdir / "data" / "raw"

    @property
    def announced(self) -> Path:
        """Corporate actions as vendors announced them, append-only."""
        return self.workdir / "data" / "announced"

    @property
    def cache(self) -> Path:
        """What vendors answered, kept for a few days so that an interrupted collection goes on."""
        return self.workdir / "data" / "cache"

    @property
    def features(self) -> Path:
        """Feature cubes by id."""
        return self.workdir / "data" / "features"

    @property
    def quality(self) -> Path:
        """The newest quality report."""
        return self.workdir / "data" / "quality"

    @property
    def configs(self) -> Path:
        """The resolved settings of the last run, and the inference path measured here."""
        return self.workdir / "configs"

    @property
    def inference(self) -> Path:
        """What an inference path keeps between forecasts, such as ONNX files; it may be deleted."""
        return self.workdir / "data" / "inference"

    @property
    def package(self) -> Path:
        """Training data as it travels."""
        return self.workdir / "data" / "training_package"

    @property
    def updates(self) -> Path:
        """Weekly increments from one training package to the next."""
        return self.workdir / "data" / "weekly_updates"

    @property
    def units(self) -> Path:
        """Finished and resumable training units."""
        return self.workdir / "checkpoints"

    @property
    def forecasts(self) -> Path:
        """Walk-forward forecasts by id."""
        return self.workdir / "checkpoints" / "forecasts"

    @property
    def leaks(self) -> Path:
        """What the leak prover found, by what it depends on."""
        return self.workdir / "checkpoints" / "leaks"

    @property
    def models(self) -> Path:
        """The latest trained set."""
        return self.workdir / "models"

    @property
    def models_prod(self) -> Path:
        """Releases and the pointer to the current one."""
        return self.workdir / "models_prod"

    @property
    def cycles(self) -> Path:
        """Finished steps by week."""
        return self.workdir / "logs" / "cycles"

    @property
    def trials(self) -> Path:
        """Every variant that was ever judged here, so that luck of the draw can be allowed for."""
        return self.workdir / "logs" / "trials"

    @property
    def reports(self) -> Path:
        """Reports by week."""
        return self.workdir / "reports"


def locked(workdir: Path, doing: str) -> AbstractContextManager[None]:
    """Return the lock of `workdir` as a context; raises `BusyError` when another command changes it.

    Raises `UsageError` when `workdir` cannot be a folder, `ResourceError` when it may not be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError("the workdir is not a folder", where=workdir, fix="pass another --workdir") from error
    except PermissionError as error:
        raise ResourceError("the workdir cannot be written", where=workdir, fix="pass another --workdir") from error
    return holding(workdir / ".lock", doing)
