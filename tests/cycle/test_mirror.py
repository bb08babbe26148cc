"""Releases on a remote: sent manifest last, fetched, proved, judged, and never a mixture of two sets."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from vnfleet.core import atomic
from vnfleet.core.errors import BadDataError, RemoteError, UsageError
from vnfleet.core.frames import OUTCOME_SCHEMA, PREDICTION_SCHEMA
from vnfleet.core.sealed import MANIFEST_NAME, Manifest, read_manifest
from vnfleet.cycle import mirror
from vnfleet.cycle.config import CycleConfig
from vnfleet.cycle.mirror import (
    Fetched,
    fetch_release,
    is_here,
    mirror_in_words,
    mirror_release,
    release_to_fetch,
    release_to_mirror,
    releases_there,
)
from vnfleet.cycle.received import judge_received, known_outcomes
from vnfleet.cycle.workdir import Folders
from vnfleet.model.artifact import Artifact, artifact_name, read_artifact, write_artifact
from vnfleet.model.ensemble import Calibration, Ensemble, Member, Scaler
from vnfleet.model.stockformer import StockformerConfig, initial_weights
from vnfleet.releases.registry import ReleaseContents, build_release, open_release
from vnfleet.remote.folder import FolderTransfer

SYMBOLS = ("FPT", "HPG", "VCB")
NAMES = ("a", "b", "c")
AS_OF = date(2026, 11, 20)
CONFIG = StockformerConfig(num_features=3, d_model=8, num_heads=2, num_layers=1, d_ff=8, band_sessions=4)


def no_sleep(_: float) -> None:
    return None


def make_artifact(symbol: str, seed: int = 0) -> Artifact:
    ensemble = Ensemble(
        feature_names=NAMES,
        scaler=Scaler(np.zeros(3, np.float32), np.ones(3, np.float32)),
        label_scale_H=np.full(CONFIG.num_horizons, 0.03, np.float32),
        calibration=Calibration(0.0, 1.0),
        members=(Member(CONFIG, initial_weights(CONFIG, seed), None, 1.0),),
    )
    return Artifact(
        symbol=symbol,
        ensemble=ensemble,
        strategy="pooled",
        reference_universe=SYMBOLS,
        ids={"recipe_id": "r"},
        validation={"set_rank_ic": 0.1, "accuracy": 0.53},
    )


def forecasts(sign: float = 1.0, sessions: int = 80) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Walk-forward forecasts and what followed, which they rank perfectly (or, with -1, the wrong way round)."""
    days = [AS_OF - timedelta(days=day) for day in range(sessions)]
    rows = [(symbol, day, place) for day in days for place, symbol in enumerate(SYMBOLS)]
    key = {
        "symbol": [symbol for symbol, _, _ in rows],
        "session": [day for _, day, _ in rows],
        "horizon_sessions": [5] * len(rows),
    }
    said = {"model_id": "m", "fold_id": "2026", "score": [sign * place for *_, place in rows]}
    nothing: dict[str, None] = dict.fromkeys(("direction_prob", "expected_return_frac", "volatility_frac"))
    predictions = pl.DataFrame({**key, **said, **nothing}).select(
        pl.col(name).cast(kind) for name, kind in PREDICTION_SCHEMA.items()
    )
    known = {"return_frac": [0.01 * place for *_, place in rows], "benchmark_return_frac": 0.01, "known_on": AS_OF}
    outcomes = pl.DataFrame({**key, **known}).select(pl.col(name).cast(kind) for name, kind in OUTCOME_SCHEMA.items())
    return predictions, outcomes


def make_release(
    workdir: Path,
    *,
    as_of: date = AS_OF,
    seed: int = 0,
    edit: Callable[[Artifact], Artifact] = lambda artifact: artifact,
    sign: float = 1.0,
) -> str:
    """Build a release of three models in the work directory; `edit` spoils the model of HPG."""
    trained = workdir / "trained"
    walk = workdir / "walk"
    walk.mkdir(parents=True, exist_ok=True)
    forecasts(sign)[0].write_parquet(walk / "predictions.parquet")
    paths = {symbol: trained / artifact_name(symbol) for symbol in SYMBOLS}
    for symbol, path in paths.items():
        artifact = make_artifact(symbol, seed)
        write_artifact(path, edit(artifact) if symbol == "HPG" else artifact)
    contents = ReleaseContents(
        artifacts=paths, serving=dict.fromkeys(SYMBOLS, "pooled"), members={"walk_forward": walk}, facts={"x": seed}
    )
    return build_release(workdir / "models_prod", as_of, contents)


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    return tmp_path / "desk"


@pytest.fixture
def other(tmp_path: Path) -> Folders:
    folders = Folders(tmp_path / "other")
    folders.workdir.mkdir()
    return folders


@pytest.fixture
def remote(tmp_path: Path) -> FolderTransfer:
    return FolderTransfer(tmp_path / "home", sleep=no_sleep)


def send(desk: Path, release_id: str, remote: FolderTransfer, *, anew: bool = False) -> mirror.Mirrored:
    return mirror_release(desk / "models_prod", release_id, remote, anew=anew, sleep=no_sleep)


def fetch(other: Folders, release_id: str, remote: FolderTransfer) -> Fetched:
    return fetch_release(other, release_id, remote, judge=judge_received)


def test_a_release_is_mirrored_whole_and_once(desk: Path, remote: FolderTransfer) -> None:
    release_id = make_release(desk)
    assert release_to_mirror(desk / "models_prod") == release_id
    done = send(desk, release_id, remote)
    there = {entry.path for entry in remote.list(f"models/{release_id}")}
    assert there == {*(artifact_name(symbol) for symbol in SYMBOLS), "serving.json", MANIFEST_NAME} | {
        "members/walk_forward/predictions.parquet"
    }
    assert (done.sent, done.sent_files, done.num_files) == (True, 6, 6)
    again = send(desk, release_id, remote)
    assert (again.sent, again.sent_files, again.sent_bytes) == (False, 0, 0)
    (listed,) = releases_there(remote)
    assert (listed.release_id, listed.has_manifest, listed.num_models) == (release_id, True, len(SYMBOLS))
    assert listed.num_bytes == done.sent_bytes


def test_the_manifest_lands_last_and_only_after_everything_is_seen(
    desk: Path, remote: FolderTransfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    release_id = make_release(desk)
    put = remote.put_folder

    def lossy(source: Path, name: str, files: Sequence[str]) -> None:
        put(source, name, files)
        remote.delete(f"{name}/{artifact_name('HPG')}")  # the drive said yes and lost it

    monkeypatch.setattr(remote, "put_folder", lossy)
    with pytest.raises(RemoteError, match="does not show what was sent"):
        send(desk, release_id, remote)
    assert not remote.exists(f"models/{release_id}/{MANIFEST_NAME}")
    monkeypatch.undo()
    done = send(desk, release_id, remote)  # only what is missing travels
    assert done.sent_files == 2


def test_what_is_cut_short_or_doubled_on_the_remote_is_repaired(desk: Path, remote: FolderTransfer) -> None:
    release_id = make_release(desk)
    send(desk, release_id, remote)
    folder = remote.root / "models" / release_id
    (folder / artifact_name("FPT")).write_bytes(b"short")
    (folder / "VCB_stockformer (1).pt").write_bytes(b"double")
    assert send(desk, release_id, remote).sent_files == 3
    assert read_manifest(folder, "release") is not None
    assert not (folder / "VCB_stockformer (1).pt").exists()
    assert not send(desk, release_id, remote).sent


def test_anew_replaces_other_bytes_of_the_same_length(desk: Path, other: Folders, remote: FolderTransfer) -> None:
    release_id = make_release(desk)
    send(desk, release_id, remote)
    spoiled = remote.root / "models" / release_id / artifact_name("FPT")
    payload = bytearray(spoiled.read_bytes())
    payload[len(payload) // 2] ^= 1
    spoiled.write_bytes(payload)
    with pytest.raises(BadDataError, match="--up --anew"):
        fetch(other, release_id, remote)
    assert any((other.workdir / "quarantine").iterdir())
    assert not list(other.models.glob("*.pt"))
    assert not send(desk, release_id, remote).sent  # by its length nothing is wrong
    assert send(desk, release_id, remote, anew=True).sent_files == 6
    assert fetch(other, release_id, remote).num_models == len(SYMBOLS)


def test_after_a_release_its_mirror_is_told_in_words_and_never_fails(desk: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert mirror_in_words(desk / "models_prod", str(home)) == "no release to mirror"
    release_id = make_release(desk)
    assert f"{release_id} is on the remote: 6 of 6 files sent" in mirror_in_words(desk / "models_prod", str(home))
    assert mirror_in_words(desk / "models_prod", str(home)) == f"{release_id} is on the remote, all 6 files"
    said = mirror_in_words(desk / "models_prod", str(tmp_path / "not" / "mounted"))
    assert said.startswith("the live release is not mirrored: the folder of the remote is not there (next: mount")


def test_a_damaged_release_here_is_not_sent(desk: Path, remote: FolderTransfer) -> None:
    release_id = make_release(desk)
    (desk / "models_prod" / "releases" / release_id / artifact_name("FPT")).write_bytes(b"torn")
    with pytest.raises(BadDataError):
        send(desk, release_id, remote)
    assert remote.list("models") == ()


def test_a_release_comes_down_as_the_latest_set_and_as_a_release(
    desk: Path, other: Folders, remote: FolderTransfer
) -> None:
    release_id = make_release(desk)
    send(desk, release_id, remote)
    assert release_to_fetch(other, remote) == release_id
    came = fetch(other, release_id, remote)
    assert came.num_models == len(SYMBOLS)
    assert open_release(other.models_prod, release_id).symbols == SYMBOLS
    assert sorted(path.name for path in other.models.iterdir()) == [artifact_name(symbol) for symbol in SYMBOLS]
    for symbol in SYMBOLS:
        assert read_artifact(other.models / artifact_name(symbol)).symbol == symbol
    assert not (other.models_prod / "current").exists()  # nothing goes live by being downloaded
    assert is_here(other, release_id)
    assert release_to_fetch(other, remote) is None


def test_only_finished_and_newer_releases_are_fetched(desk: Path, other: Folders, remote: FolderTransfer) -> None:
    old = make_release(desk, as_of=date(2026, 11, 13))
    new = make_release(desk, seed=1)
    for release_id in (old, new):
        send(desk, release_id, remote)
    remote.delete(f"models/{new}/{MANIFEST_NAME}")
    (remote.root / "models" / "2026-99-99-009-01234567").mkdir()
    (remote.root / "models" / "2026-99-99-009-01234567" / MANIFEST_NAME).write_text("{}", encoding="utf-8")
    assert release_to_fetch(other, remote) == old
    fetch(other, old, remote)
    assert release_to_fetch(other, remote) is None
    with pytest.raises(RemoteError, match="no such finished release"):
        fetch(other, new, remote)
    send(desk, new, remote)
    assert release_to_fetch(other, remote) == new


def test_the_set_that_was_there_moves_away_whole(desk: Path, other: Folders, remote: FolderTransfer) -> None:
    other.models.mkdir()
    for symbol in (*SYMBOLS, "ACB"):
        (other.models / artifact_name(symbol)).write_text("old", encoding="utf-8")
    release_id = make_release(desk)
    send(desk, release_id, remote)
    fetch(other, release_id, remote)
    assert sorted(path.name for path in other.models.glob("*.pt")) == [artifact_name(symbol) for symbol in SYMBOLS]
    kept = other.models / f"replaced-by-{release_id}"
    assert sorted(path.name for path in kept.iterdir()) == [artifact_name(symbol) for symbol in ("ACB", *SYMBOLS)]


@pytest.mark.parametrize("steps", range(1, 9))
def test_a_kill_at_any_rename_never_mixes_two_sets_and_is_finished_by_running_again(
    steps: int, desk: Path, other: Folders, remote: FolderTransfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    other.models.mkdir()
    for symbol in SYMBOLS:
        (other.models / artifact_name(symbol)).write_text("old", encoding="utf-8")
    release_id = make_release(desk)
    send(desk, release_id, remote)
    done = 0

    class KilledError(BaseException):
        pass

    def dying(real: Callable[..., None]) -> Callable[..., None]:
        def step(*arguments: object) -> None:
            nonlocal done
            done += 1
            if done == steps:
                raise KilledError
            real(*arguments)

        return step

    monkeypatch.setattr(mirror, "replace", dying(atomic.replace))
    monkeypatch.setattr(mirror, "write_file", dying(atomic.write_file))
    try:
        fetch(other, release_id, remote)
    except KilledError:
        texts = {path.read_bytes() == b"old" for path in other.models.glob("*.pt")}
        assert len(texts) <= 1
        assert not is_here(other, release_id)
    monkeypatch.undo()
    if not is_here(other, release_id):
        fetch(other, release_id, remote)
    assert sorted(path.name for path in other.models.glob("*.pt")) == [artifact_name(symbol) for symbol in SYMBOLS]
    assert open_release(other.models_prod, release_id).symbols == SYMBOLS
    assert {path.read_bytes() for path in (other.models / f"replaced-by-{release_id}").iterdir()} == {b"old"}


def poisoned(artifact: Artifact) -> Artifact:
    member = artifact.ensemble.members[0]
    name = min(member.weights)
    weights = {**member.weights, name: torch.full_like(member.weights[name], float("inf"))}
    members = (dataclasses.replace(member, weights=weights),)
    return dataclasses.replace(artifact, ensemble=dataclasses.replace(artifact.ensemble, members=members))


def dead(artifact: Artifact) -> Artifact:
    member = artifact.ensemble.members[0]
    weights = {name: torch.zeros_like(tensor) for name, tensor in member.weights.items()}
    members = (dataclasses.replace(member, weights=weights),)
    return dataclasses.replace(artifact, ensemble=dataclasses.replace(artifact.ensemble, members=members))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (poisoned, "HPG: tensor .* is not finite"),
        (dead, "HPG: its forecast is the same whatever it is shown"),
        (lambda artifact: dataclasses.replace(artifact, symbol="ACB"), "HPG: the file is a model of ACB"),
        (lambda artifact: dataclasses.replace(artifact, validation={"accuracy": 1.7}), "HPG: its accuracy is 1.700"),
        (lambda artifact: dataclasses.replace(artifact, validation={"set_rank_ic": 2.0}), "no correlation can be"),
    ],
)
def test_a_set_with_one_bad_model_is_refused_and_nothing_of_it_is_used(
    edit: Callable[[Artifact], Artifact], said: str, desk: Path, other: Folders, remote: FolderTransfer
) -> None:
    release_id = make_release(desk, edit=edit)
    send(desk, release_id, remote)
    with pytest.raises(BadDataError, match=said):
        fetch(other, release_id, remote)
    assert not list(other.models.glob("*.pt"))
    assert not is_here(other, release_id)
    assert any((other.workdir / "quarantine").iterdir())


def test_a_model_file_made_by_hand_is_refused_in_words(tmp_path: Path) -> None:
    release_id = make_release(tmp_path)
    path = tmp_path / "models_prod" / "releases" / release_id / artifact_name("HPG")
    payload = torch.load(path, weights_only=True)
    facts = json.loads(payload["facts_json"])
    del facts["score_sd"]
    torch.save({**payload, "facts_json": json.dumps(facts)}, path)
    with pytest.raises(BadDataError, match="HPG: the file does not say what a model must say"):
        judge_received(path.parent)


def test_forecasts_that_rank_the_past_the_wrong_way_round_are_refused(tmp_path: Path) -> None:
    outcomes = forecasts()[1]
    good, bad = make_release(tmp_path / "good"), make_release(tmp_path / "bad", sign=-1.0)
    folder = tmp_path / "good" / "models_prod" / "releases" / good
    assert "mean rank correlation +1.000 over 80 sessions" in judge_received(folder, outcomes)[1]
    assert "scored again" not in judge_received(folder, forecasts(sessions=59)[1])[1]  # too few to say anything
    with pytest.raises(BadDataError, match="wrong way round"):
        judge_received(tmp_path / "bad" / "models_prod" / "releases" / bad, outcomes)


@pytest.mark.parametrize(
    ("serving", "said"),
    [
        ({"../../x": "pooled"}, "cannot be a symbol"),
        ({"FPT": "../../x"}, "cannot be a symbol"),
        ({"FPT": "ridge"}, "the baseline ridge"),
        ({"ACB": "pooled"}, "ACB: a model file is missing"),
        ({}, "cannot be a symbol"),
        ([], "does not say what serves"),
    ],
)
def test_what_serves_must_name_symbols_and_models_of_the_release(serving: object, said: str, tmp_path: Path) -> None:
    release_id = make_release(tmp_path)
    folder = tmp_path / "models_prod" / "releases" / release_id
    (folder / "serving.json").write_text(json.dumps(serving), encoding="utf-8")
    with pytest.raises(BadDataError, match=said):
        judge_received(folder)


@pytest.mark.parametrize("name", ["../outside", "/outside", "members/../../outside"])
def test_a_manifest_that_leaves_its_folder_writes_nothing(
    name: str, desk: Path, other: Folders, remote: FolderTransfer
) -> None:
    release_id = make_release(desk)
    send(desk, release_id, remote)
    path = remote.root / "models" / release_id / MANIFEST_NAME
    manifest = Manifest.model_validate_json(path.read_bytes()).model_dump(mode="json")
    manifest["files"][name] = "0" * 64
    path.write_text(json.dumps(manifest), encoding="utf-8")
    (remote.root / "outside").write_text("x", encoding="utf-8")
    with pytest.raises(BadDataError):
        fetch(other, release_id, remote)
    assert not list(other.workdir.rglob("outside"))


def test_a_release_under_another_name_is_refused(desk: Path, other: Folders, remote: FolderTransfer) -> None:
    release_id = make_release(desk)
    send(desk, release_id, remote)
    renamed = "2027-01-01-009-0123abcd"
    shutil.move(remote.root / "models" / release_id, remote.root / "models" / renamed)
    with pytest.raises(BadDataError, match="another release"):
        fetch(other, renamed, remote)
    with pytest.raises(UsageError, match="no release"):
        fetch(other, "../x", remote)


def test_without_collected_prices_nothing_is_scored_again(tmp_path: Path) -> None:
    assert known_outcomes(tmp_path, CycleConfig()) is None
