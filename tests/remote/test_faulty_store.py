"""The lying store lies as told, and an untold one does not."""

import random
from pathlib import Path

import pytest
from tests.remote.faulty_store import Door, FaultyStore, Weather

from vnfleet.core.errors import RemoteError, UsageError
from vnfleet.remote.rclone import RemoteAbsentError, RemoteUnavailableError


class Place:
    """A store with two doors and a clock that waiting moves."""

    def __init__(self, weather: Weather | None = None) -> None:
        self.seconds = 0.0
        self.store = FaultyStore(weather or Weather(), random.Random(1), lambda: self.seconds)
        self.a, self.b = (Door(self.store, name, self.wait) for name in "ab")

    def wait(self, seconds: float) -> None:
        self.seconds += seconds


def test_in_good_weather_it_is_a_remote_like_others(tmp_path: Path) -> None:
    place = Place()
    (tmp_path / "one").write_text("1")
    (tmp_path / "two").write_text("2")
    place.a.put_folder(tmp_path, "x/y", ["one", "two"])
    place.a.put_file(tmp_path / "one", "x/.z.tmp-1")
    assert [entry.path for entry in place.b.list("x")] == ["y/one", "y/two"]
    assert [entry.path for entry in place.b.list(".", "/x/*/one")] == ["x/y/one"]
    assert place.b.exists("x/y")
    place.b.move("x/y", "x/w")
    assert not place.a.exists("x/y")
    place.a.get_folder("x/w", tmp_path / "back", ["one", "absent"])
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["one"]
    place.a.get_file("x/w/two", tmp_path / "two-again")
    assert (tmp_path / "two-again").read_text() == "2"
    place.a.delete("x/w/one")
    with pytest.raises(RemoteAbsentError):
        place.b.read_text("x/w/one")
    place.b.purge("x")
    assert place.a.list(".", leftovers=True) == ()
    with pytest.raises(UsageError):
        place.a.purge(".")
    assert place.seconds > 0


def test_others_see_old_content_for_a_while() -> None:
    place = Place(Weather(latency=0.0, stale_frac=1.0, stale_seconds=60.0))
    place.a.write_text("f", "old")
    place.wait(60)
    place.a.write_text("f", "new")
    assert place.a.read_text("f") == "new"
    assert place.b.read_text("f") == "old"
    place.wait(60)
    assert place.b.read_text("f") == "new"


def test_listings_are_late() -> None:
    place = Place(Weather(latency=0.0, stale_frac=1.0, stale_seconds=60.0))
    place.a.write_text("f", "x")
    assert place.a.list(".") == ()
    place.wait(60)
    assert len(place.b.list(".")) == 1


def test_two_files_may_have_one_name() -> None:
    place = Place(Weather(latency=0.0, double=1.0))
    place.a.write_text("f", "1")
    place.b.write_text("f", "2")
    assert [entry.path for entry in place.a.list(".")] == ["f", "f"]
    assert place.a.read_text("f") == "2"
    place.a.delete("f")
    assert place.b.list(".") == ()


def test_uploads_end_in_the_middle() -> None:
    place = Place(Weather(torn=1.0))
    with pytest.raises(RemoteUnavailableError):
        place.a.write_text("f", "whole")
    assert place.store.truth("f") == b"wh"
    place = Place(Weather(silently_torn=1.0))
    place.a.write_text("f", "whole")
    assert place.store.truth("f") == b"wh"
    place = Place(Weather(unthanked=1.0))
    with pytest.raises(RemoteUnavailableError):
        place.a.write_text("f", "whole")
    assert place.store.truth("f") == b"whole"


def test_downloads_break_or_change(tmp_path: Path) -> None:
    for weather, error in ((Weather(cut=1.0), True), (Weather(damaged=1.0), False)):
        place = Place(weather)
        place.a.write_text("f", "whole")
        if error:
            with pytest.raises(RemoteError):
                place.a.get_file("f", tmp_path / "f")
        else:
            assert place.a.read_text("f") != "whole"


def test_a_rename_gets_lost() -> None:
    place = Place(Weather(lost_move=1.0))
    place.a.write_text("f", "x")
    place.a.move("f", "g")
    assert place.store.names() == ["f"]


def test_calls_are_refused_in_a_burst_only() -> None:
    place = Place(Weather(latency=0.0, bursts=((10.0, 20.0),), refused_frac=1.0))
    place.a.write_text("f", "x")
    place.wait(10)
    with pytest.raises(RemoteUnavailableError, match="slow down"):
        place.a.read_text("f")
    place.wait(10)
    assert place.a.read_text("f") == "x"


def test_lies_end() -> None:
    place = Place(Weather(torn=1.0, lies_until=5.0))
    place.wait(6)
    place.a.write_text("f", "whole")
    assert place.store.truth("f") == b"whole"
    assert place.store.truth("f", at=5.0) is None
