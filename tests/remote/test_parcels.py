import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from vnfleet.core.errors import BadDataError, UsageError
from vnfleet.core.sealed import sealing, verify
from vnfleet.remote import parcels
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.parcels import fetch_sealed, send_sealed, sent_manifest, withdraw_parcel
from vnfleet.remote.transfer import Transfer

KIND = "unit"


def sealed(folder: Path, text: str = "weights") -> Path:
    with sealing(folder, KIND, {"seed": 1}) as scratch:
        (scratch / "inner").mkdir()
        (scratch / "inner" / "weights.bin").write_text(text)
        (scratch / "facts.json").write_text("{}")
    return folder


class Meddling(FolderTransfer):
    """Spoils the first `times` downloads."""

    times = 0

    def get_folder(self, name: str, target: Path, files: Sequence[str]) -> None:
        super().get_folder(name, target, files)
        if self.times:
            self.times -= 1
            (target / files[0]).write_text("spoilt")


def test_a_parcel_arrives_whole(remote: Transfer, tmp_path: Path) -> None:
    sent = verify(sealed(tmp_path / "local"), KIND)
    assert send_sealed(tmp_path / "local", remote, "checkpoints/u/result", KIND)
    got = fetch_sealed(remote, "checkpoints/u/result", tmp_path / "in" / "u", KIND, quarantine=tmp_path / "q")
    assert got == sent
    assert verify(tmp_path / "in" / "u", KIND).content_sha256 == sent.content_sha256
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["u"]


def test_a_parcel_that_is_there_is_not_sent_again(plain_remote: FolderTransfer, tmp_path: Path) -> None:
    sealed(tmp_path / "local")
    assert send_sealed(tmp_path / "local", plain_remote, "p", KIND)
    assert not send_sealed(tmp_path / "local", plain_remote, "p", KIND)


def test_half_an_upload_is_ignored(remote: Transfer, tmp_path: Path) -> None:
    sealed(tmp_path / "local")

    def connection_lost() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        send_sealed(tmp_path / "local", remote, "p", KIND, connection_lost)
    assert remote.exists("p/inner/weights.bin")  # the payload went first
    assert fetch_sealed(remote, "p", tmp_path / "in", KIND, quarantine=tmp_path / "q") is None
    assert not (tmp_path / "in").exists()


def test_a_corrupted_file_is_refused_and_quarantined(remote: Transfer, tmp_path: Path) -> None:
    send_sealed(sealed(tmp_path / "local"), remote, "p", KIND)
    remote.write_text("p/inner/weights.bin", "WEIGHTS")  # equal length: rclone itself would not notice
    with pytest.raises(BadDataError, match=r"weights\.bin"):
        fetch_sealed(remote, "p", tmp_path / "in", KIND, quarantine=tmp_path / "q")
    assert not (tmp_path / "in").exists()
    (kept,) = (tmp_path / "q").iterdir()
    assert (kept / "inner" / "weights.bin").read_text() == "WEIGHTS"


def test_one_bad_download_is_healed_by_the_next(plain_remote: FolderTransfer, tmp_path: Path) -> None:
    send_sealed(sealed(tmp_path / "local"), plain_remote, "p", KIND)
    meddling = Meddling(plain_remote.root)
    meddling.times = 1
    assert fetch_sealed(meddling, "p", tmp_path / "in", KIND, quarantine=tmp_path / "q") is not None
    assert not (tmp_path / "q").exists()


def test_a_file_that_vanished_is_refused(plain_remote: FolderTransfer, tmp_path: Path) -> None:
    send_sealed(sealed(tmp_path / "local"), plain_remote, "p", KIND)
    plain_remote.move("p/facts.json", "elsewhere")
    with pytest.raises(BadDataError, match="missing"):
        fetch_sealed(plain_remote, "p", tmp_path / "in", KIND, quarantine=tmp_path / "q")


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/outside", "a/../../outside", "..\\outside", "C:outside", "out\nside", "out\0side"]
)
def test_a_manifest_that_leaves_its_folder_is_refused(plain_remote: FolderTransfer, tmp_path: Path, name: str) -> None:
    plain_remote.write_text("outside", "evil")
    manifest = {"schema_version": 1, "kind": KIND, "files": {name: "0" * 64}, "meta": {}}
    plain_remote.write_text("p/manifest.json", json.dumps(manifest))
    with pytest.raises(BadDataError, match="damaged"):
        fetch_sealed(plain_remote, "p", tmp_path / "in" / "p", KIND, quarantine=tmp_path / "q")
    assert not list(tmp_path.glob("in/*"))
    assert not (tmp_path / "outside").exists()


def test_a_parcel_of_another_kind_is_refused(plain_remote: FolderTransfer, tmp_path: Path) -> None:
    send_sealed(sealed(tmp_path / "local"), plain_remote, "p", KIND)
    with pytest.raises(BadDataError, match="another kind"):
        fetch_sealed(plain_remote, "p", tmp_path / "in", "training-data", quarantine=tmp_path / "q")


def test_a_good_local_copy_is_kept_and_a_damaged_one_replaced(plain_remote: FolderTransfer, tmp_path: Path) -> None:
    send_sealed(sealed(tmp_path / "local"), plain_remote, "p", KIND)
    target = tmp_path / "in"
    fetch_sealed(plain_remote, "p", target, KIND, quarantine=tmp_path / "q")
    before = (target / "facts.json").stat().st_ino
    fetch_sealed(plain_remote, "p", target, KIND, quarantine=tmp_path / "q")
    assert (target / "facts.json").stat().st_ino == before
    (target / "facts.json").write_text("damaged here")
    fetch_sealed(plain_remote, "p", target, KIND, quarantine=tmp_path / "q")
    assert (target / "facts.json").read_text() == "{}"


def test_a_withdrawn_parcel_no_longer_counts_but_is_kept(remote: Transfer, tmp_path: Path) -> None:
    send_sealed(sealed(tmp_path / "local"), remote, "checkpoints/u/result", KIND)
    new_name = withdraw_parcel(remote, "checkpoints/u/result")
    assert remote.list("checkpoints") == ()
    assert [entry.path for entry in remote.list(new_name)] == [
        "manifest.json",
        "payload/facts.json",
        "payload/inner/weights.bin",
    ]


def test_a_manifest_that_is_no_text_is_refused_and_can_be_withdrawn(remote: Transfer, tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"\xff\xfe\x00")
    remote.put_file(tmp_path / "noise", "p/manifest.json")
    with pytest.raises(BadDataError, match="damaged"):
        sent_manifest(remote, "p")
    with pytest.raises(BadDataError, match="damaged"):
        fetch_sealed(remote, "p", tmp_path / "in" / "p", KIND, quarantine=tmp_path / "q")
    assert remote.exists(f"{withdraw_parcel(remote, 'p')}/manifest.json")
    assert sent_manifest(remote, "p") is None


def test_names_that_only_the_remote_refuses_are_bad_data_too(
    plain_remote: FolderTransfer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        raise UsageError("this name may not be used on a remote", found=name)

    send_sealed(sealed(tmp_path / "local"), plain_remote, "p", KIND)
    monkeypatch.setattr(parcels, "stay_inside", refuse)
    with pytest.raises(BadDataError, match="may not be"):
        fetch_sealed(plain_remote, "p", tmp_path / "in" / "p", KIND, quarantine=tmp_path / "q")
