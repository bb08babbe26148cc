import contextlib
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from vnfleet.core.errors import RemoteError
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.leases import HeldLease, LeaseDesk, LeaseLostError, LeaseRecord, LeaseTimes
from vnfleet.remote.rclone import RemoteUnavailableError
from vnfleet.remote.timing import SystemTiming
from vnfleet.remote.transfer import Transfer

QUICK = LeaseTimes(lease_seconds=1.2, heartbeat_seconds=0.2, settle_seconds=0.05)
NAME = "status/j/u.lease.json"


class Unplugged(FolderTransfer):
    plugged = True

    def read_text(self, name: str) -> str:
        if not self.plugged:
            raise RemoteUnavailableError("unplugged")
        return super().read_text(name)


def claim(remote: Transfer, worker_id: str, times: LeaseTimes = QUICK) -> HeldLease | None:
    return LeaseDesk(remote, worker_id, times).claim("status/j", "u")


def read(remote: Transfer) -> LeaseRecord:
    return LeaseRecord.model_validate_json(remote.read_text(NAME))


def test_a_unit_has_one_holder(remote: Transfer) -> None:
    first = claim(remote, "a", LeaseTimes(lease_seconds=60.0, heartbeat_seconds=10.0, settle_seconds=0.05))
    assert first is not None
    assert claim(remote, "b") is None
    assert (read(remote).worker_id, read(remote).token) == ("a", 1)


def test_a_race_has_at_most_one_winner(plain_remote: FolderTransfer) -> None:
    times = LeaseTimes(lease_seconds=30, heartbeat_seconds=5, settle_seconds=0.6)
    plain_remote.make_folder("status")
    won: list[HeldLease] = []

    def contend(worker_id: str) -> None:
        held = claim(plain_remote, worker_id, times)
        if held is not None:
            with contextlib.suppress(LeaseLostError):
                held.renew()
                won.append(held)

    threads = [threading.Thread(target=contend, args=(f"w{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    won[0].renew()


def test_a_claim_that_was_written_over_while_it_settled_is_lost(plain_remote: FolderTransfer) -> None:
    class Meanwhile(SystemTiming):
        def sleep(self, seconds: float) -> None:
            assert 0 < seconds <= QUICK.settle_seconds
            others = read(plain_remote).model_copy(update={"worker_id": "b"})
            plain_remote.write_text(NAME, others.model_dump_json())

    held = LeaseDesk(plain_remote, "a", QUICK, Meanwhile()).claim("status/j", "u")
    assert held is not None
    with pytest.raises(LeaseLostError, match=r"b \(token 1\)"):
        held.renew()
    assert read(plain_remote).worker_id == "b"


def test_a_released_unit_goes_on_with_a_higher_token(plain_remote: FolderTransfer) -> None:
    first = claim(plain_remote, "a")
    assert first is not None
    first.release()
    second = claim(plain_remote, "b")
    assert second is not None
    assert second.token == 2
    with pytest.raises(LeaseLostError):
        first.renew()
    assert read(plain_remote).worker_id == "b"


def test_a_stale_lease_is_taken_over_after_watching_it(plain_remote: FolderTransfer) -> None:
    dead = claim(plain_remote, "dead")
    assert dead is not None
    desk = LeaseDesk(plain_remote, "b", QUICK)
    time.sleep(QUICK.lease_seconds)
    assert desk.claim("status/j", "u") is None  # expired, but seen for the first time
    time.sleep(2 * QUICK.heartbeat_seconds)
    held = desk.claim("status/j", "u")
    assert held is not None
    assert held.token == 2
    with pytest.raises(LeaseLostError):
        dead.renew()


def test_a_worker_that_was_started_again_takes_its_own_lease_at_once(plain_remote: FolderTransfer) -> None:
    killed = claim(plain_remote, "a")
    assert killed is not None
    again = claim(plain_remote, "a")
    assert again is not None
    assert again.token == 2
    with pytest.raises(LeaseLostError):
        killed.renew()


def test_a_lower_token_in_the_file_is_old_news(plain_remote: FolderTransfer) -> None:
    first = claim(plain_remote, "late")
    assert first is not None
    old = plain_remote.read_text(NAME)
    first.release()
    held = claim(plain_remote, "b")
    assert held is not None
    plain_remote.write_text(NAME, old)  # the one before has not noticed, or the remote shows an old copy
    held.renew()
    held.check()
    assert (read(plain_remote).worker_id, read(plain_remote).token) == ("b", 2)


def test_a_living_holder_whose_clock_is_wrong_keeps_its_lease(plain_remote: FolderTransfer) -> None:
    alive = claim(plain_remote, "alive")
    assert alive is not None
    desk = LeaseDesk(plain_remote, "b", QUICK)
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    for beat in range(3):
        wrong = read(plain_remote).model_copy(update={"expires_at": long_ago, "beat": beat})
        plain_remote.write_text(NAME, wrong.model_dump_json())
        assert desk.claim("status/j", "u") is None
        time.sleep(2 * QUICK.heartbeat_seconds)


def test_a_lease_that_was_taken_is_noticed_at_the_next_heartbeat(plain_remote: FolderTransfer) -> None:
    held = claim(plain_remote, "a")
    assert held is not None
    taken = read(plain_remote).model_copy(update={"worker_id": "b", "token": 2})
    plain_remote.write_text(NAME, taken.model_dump_json())
    with pytest.raises(LeaseLostError, match=r"b \(token 2\)"):
        held.renew()
    with pytest.raises(LeaseLostError):
        held.check()
    held.release()
    assert read(plain_remote) == taken  # the loser writes nothing any more


def test_a_lease_outlives_a_short_outage_but_not_a_long_one(unplugged: Unplugged) -> None:
    held = claim(unplugged, "a")
    assert held is not None
    unplugged.plugged = False
    held.renew()
    held.check()
    time.sleep(QUICK.lease_seconds)
    with pytest.raises(LeaseLostError, match="ran out"):
        held.renew()


def test_renewal_moves_beat_and_expiry(plain_remote: FolderTransfer) -> None:
    held = claim(plain_remote, "a")
    assert held is not None
    before = read(plain_remote)
    held.renew()
    after = read(plain_remote)
    assert after.beat == before.beat + 1
    assert after.expires_at > before.expires_at


def test_a_torn_lease_file_blocks_only_for_a_lease_time(plain_remote: FolderTransfer) -> None:
    plain_remote.write_text(NAME, '{"unit_id": "u", "work')
    desk = LeaseDesk(plain_remote, "a", QUICK)
    assert desk.claim("status/j", "u") is None
    time.sleep(QUICK.lease_seconds)
    held = desk.claim("status/j", "u")
    assert held is not None
    assert held.token > 1000  # above whatever token the torn file held


@pytest.mark.parametrize(("lease", "heartbeat"), [(1.0, 0.5), (1.0, 0.0), (0.0, 0.0)])
def test_times_that_cannot_work_are_refused(lease: float, heartbeat: float) -> None:
    with pytest.raises(ValueError, match="outlive"):
        LeaseTimes(lease_seconds=lease, heartbeat_seconds=heartbeat)


def test_a_lost_lease_is_a_remote_error() -> None:
    assert issubclass(LeaseLostError, RemoteError)


@pytest.fixture
def unplugged(plain_remote: FolderTransfer) -> Unplugged:
    return Unplugged(plain_remote.root)


class ByHand(SystemTiming):
    """Time that moves when a test says so; `ahead` is how wrong the clock is."""

    def __init__(self, ahead: timedelta = timedelta()) -> None:
        self.seconds, self.ahead = 0.0, ahead

    def now(self) -> datetime:
        return datetime(2026, 11, 22, tzinfo=UTC) + timedelta(seconds=self.seconds) + self.ahead

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def test_a_dead_holder_with_a_clock_hours_ahead_does_not_keep_its_unit_for_hours(plain_remote: FolderTransfer) -> None:
    assert LeaseDesk(plain_remote, "a", QUICK, ByHand(timedelta(hours=5))).claim("status/j", "u") is not None
    here = ByHand()
    desk = LeaseDesk(plain_remote, "b", QUICK, here)
    assert desk.claim("status/j", "u") is None
    here.seconds += QUICK.lease_seconds - 0.1
    assert desk.claim("status/j", "u") is None
    here.seconds += 0.2
    taken = desk.claim("status/j", "u")
    assert taken is not None
    assert taken.token == 2


def test_a_renewal_that_took_longer_than_a_lease_lives_proves_nothing(plain_remote: FolderTransfer) -> None:
    timing = ByHand()

    class Asleep(FolderTransfer):
        def write_text(self, name: str, text: str) -> None:
            super().write_text(name, text)
            timing.seconds += self.late_seconds

        late_seconds = 0.0

    remote = Asleep(plain_remote.root)
    held = LeaseDesk(remote, "a", QUICK, timing).claim("status/j", "u")
    assert held is not None
    held.renew()
    remote.late_seconds = QUICK.lease_seconds
    with pytest.raises(LeaseLostError):
        held.renew()


@pytest.mark.parametrize("payload", [b"\xff\xfe", b""])
def test_a_lease_file_that_is_no_text_is_a_torn_one(plain_remote: FolderTransfer, payload: bytes) -> None:
    plain_remote.write_text(NAME, "")
    (plain_remote.root / NAME).write_bytes(payload)
    desk = LeaseDesk(plain_remote, "a", QUICK)
    assert desk.claim("status/j", "u") is None
    time.sleep(QUICK.lease_seconds)
    held = desk.claim("status/j", "u")
    assert held is not None
    (plain_remote.root / NAME).write_bytes(payload)
    held.renew()
    assert read(plain_remote).token == held.token
