"""What carried checkpoints are called, what they say of themselves, and the folder of a unit that they come from."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from vnfleet.core.atomic import discard, write_text
from vnfleet.core.ids import canonical_json
from vnfleet.core.sealed import MANIFEST_NAME, Manifest, is_whole, read_manifest
from vnfleet.remote.transfer import Transfer

CARRIED_KIND = "carried-checkpoint"
CHECKPOINT_KIND = "checkpoint"  # as in training.checkpoint, which is a sibling room
ENVIRONMENT_NAME = "environment.json"  # as in training.environment
BUILT_ON_NAME = "built_on.json"
KEPT_CHECKPOINTS = 2
STAGE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
LOCAL_NAME = re.compile(r"ckpt-(\d+)")
_NAME = re.compile(r"t(\d+)-s(\d+)-([0-9a-f]{6})")


class CarriedFacts(BaseModel):
    """The meta of a carried checkpoint. `order` counts the checkpoints of one claim; `built_on` see `Carrier`.

    `beside` are the content hashes of the other stages' newest checkpoints where it was made: a later stage stands on
    the end of an earlier one, so that they go together or not at all.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    unit_id: str
    stage: str
    step: int
    token: int
    order: int
    worker_id: str
    built_on: dict[str, str]
    beside: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A carried checkpoint on the remote, as its manifest tells it; nothing of it is proved yet."""

    name: str
    facts: CarriedFacts
    content_sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a set of checkpoints is: steps by stage."""

    steps: Mapping[str, int]

    @property
    def rank(self) -> tuple[int, int]:
        """More stages are further, then more steps: stages follow each other and none is left out."""
        return len(self.steps), sum(self.steps.values())

    @property
    def words(self) -> str:
        """The newest steps as text."""
        return ", ".join(f"{stage} step {step}" for stage, step in sorted(self.steps.items())) or "the beginning"


def local_progress(folder: Path) -> Progress:
    """Return how far the whole checkpoints in a unit's local folder are."""
    steps: dict[str, int] = {}
    for path in sorted(folder.glob("*/ckpt-*")):
        match = LOCAL_NAME.fullmatch(path.name)
        if match is not None and is_whole(path, CHECKPOINT_KIND):
            steps[path.parent.name] = max(steps.get(path.parent.name, 0), int(match[1]))
    return Progress(steps=steps)


def newest_contents(folder: Path, *, without: str) -> dict[str, str]:
    """Return the content hash of the newest checkpoint of every stage in a unit's local folder but one."""
    found: dict[str, str] = {}
    for stage, path in newest_checkpoints(folder).items():
        manifest = read_manifest(path, CHECKPOINT_KIND)
        if stage != without and manifest is not None:
            found[stage] = manifest.content_sha256
    return found


def newest_checkpoints(folder: Path) -> dict[str, Path]:
    """Return the newest sealed checkpoint of every stage in a unit's local folder, the oldest of them first."""
    newest: dict[str, Path] = {}
    for path in sorted(folder.glob(f"*/ckpt-*/{MANIFEST_NAME}")):
        if LOCAL_NAME.fullmatch(path.parent.name) and STAGE_NAME.fullmatch(path.parent.parent.name):
            newest[path.parent.parent.name] = path.parent
    return dict(sorted(newest.items(), key=lambda item: (item[1] / MANIFEST_NAME).stat().st_mtime_ns))


def carried_content(manifest: Manifest, inner: str) -> str:
    """Return the content hash of the checkpoint in the folder `inner` of a carried one, from the latter's manifest."""
    files = {
        name.removeprefix(f"{inner}/"): sha for name, sha in manifest.files.items() if name.startswith(f"{inner}/")
    }
    files.pop(MANIFEST_NAME, None)
    return manifest.model_copy(update={"files": files}).content_sha256


def cuts_of(candidates: Sequence[Candidate]) -> Iterator[dict[str, Candidate]]:
    """Yield sets of checkpoints by stage that stand on each other, the one that counts first."""
    by_rank = sorted(candidates, key=lambda one: (one.facts.token, one.facts.order, one.name), reverse=True)
    for newest in by_rank:
        cut = {newest.facts.stage: newest}
        for stage, content in newest.facts.beside.items():
            fits = (one for one in by_rank if one.facts.stage == stage and one.content_sha256 == content)
            found = next(fits, None)
            if found is None:
                break
            cut[stage] = found
        else:
            yield cut


def units_with_checkpoints(remote: Transfer) -> frozenset[str]:
    """Return the units that have carried checkpoints on the remote."""
    return frozenset(entry.path.split("/")[0] for entry in remote.list("checkpoints", "/*/stages/*/*/manifest.json"))


def remove_checkpoints(remote: Transfer, unit_id: str) -> None:
    """Remove the carried checkpoints of a unit whose result is safe."""
    remote.purge(stages_of(unit_id))


def stages_of(unit_id: str) -> str:
    """Return where the checkpoints of a unit lie on the remote."""
    return f"checkpoints/{unit_id}/stages"


def listed_checkpoints(remote: Transfer, unit_id: str) -> dict[str, list[str]]:
    """Return the names of the checkpoints on the remote by stage, the one that counts last."""
    found: dict[str, list[str]] = {}
    for entry in remote.list(stages_of(unit_id), f"/*/*/{MANIFEST_NAME}"):
        stage, name, _ = entry.path.split("/")
        if STAGE_NAME.fullmatch(stage) and _NAME.fullmatch(name) and name not in found.setdefault(stage, []):
            found[stage].append(name)
    return {stage: sorted(names, key=rank_of) for stage, names in found.items() if names}


def rank_of(name: str) -> tuple[int, int, str]:
    """Return token, step and claim of a checkpoint's name; of two the greater one counts."""
    match = _NAME.fullmatch(name)
    assert match is not None, "checked when it was listed"
    return int(match[1]), int(match[2]), match[3]


def remember_built_on(folder: Path, built_on: Mapping[str, str]) -> None:
    """Write down, in a unit's local folder, which results it is built on."""
    write_text(folder / BUILT_ON_NAME, canonical_json(dict(built_on)))


def empty_unit(folder: Path) -> None:
    """Remove stages, result and records of a unit, not its lock."""
    for path in list(folder.iterdir()) if folder.is_dir() else []:
        if path.is_dir() or path.suffix == ".json":
            discard(path)


def link_folder(source: Path, target: Path) -> None:
    """Make `target` a second name of the files in `source`, or a copy where the disk knows no links."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            link(path, target / path.relative_to(source))


def link(source: Path, target: Path) -> None:
    """Give a file, or all files of a folder, a second name, or copy them where the disk knows no links."""
    if source.is_dir():
        link_folder(source, target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
