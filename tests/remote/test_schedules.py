"""Random schedules of faults, kills, restarts and late joiners over the real protocol, in virtual time.

A failing schedule names its seed: `play(seed, folder)` plays it again, step for step.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.remote.schedules import Seen, play

from vnfleet.core.sealed import MANIFEST_NAME, verify
from vnfleet.remote import carrying, jobs, parcels
from vnfleet.remote.carried import Candidate
from vnfleet.remote.carrying import Carrier
from vnfleet.remote.leases import HeldLease
from vnfleet.remote.transfer import Transfer


def played(root: Path, seeds: Sequence[int], *, honest: bool | None = None, rough: bool | None = None) -> list[Seen]:
    """Play schedules, leaving nothing on the disk."""
    found = []
    for seed in seeds:
        found.append(play(seed, root / str(seed), honest=honest, rough=rough))
        shutil.rmtree(root / str(seed))
    return found


def complaints(seen: Sequence[Seen]) -> str:
    """Return what went wrong, with the seeds."""
    return "\n".join(f"seed {one.seed}: {line}" for one in seen for line in one.broken)


# 10,000 in all, in parts, so that a failure is told before the others were played.
@pytest.mark.parametrize(
    "seeds",
    [
        range(200),
        *(pytest.param(range(start, start + 500), marks=pytest.mark.prove) for start in range(0, 10_000, 500)),
    ],
    ids=lambda seeds: f"{seeds.start}-{seeds.stop}",
)
def test_whatever_happens_no_model_is_lost_doubled_or_mixed(seeds: range, tmp_path: Path) -> None:
    seen = played(tmp_path, seeds)
    assert not complaints(seen), complaints(seen)
    # The schedules are worth something: there was much to go wrong, and work was taken over in spite of it.
    assert sum(one.kills for one in seen) > len(seeds) / 3
    assert sum(one.takeovers for one in seen) > len(seeds) / 20
    assert sum(one.reason == "done" for one in seen) > 0.9 * len(seeds)
    wrong = {kind for one in seen for kind in one.wrong}
    assert wrong >= {"offline", "refused", "torn", "cut", "damaged", "double", "stale reading", "stale listing"}
    assert wrong >= {"unthanked", "silently torn", "slow"}


def test_a_seed_plays_the_same_schedule_again(tmp_path: Path) -> None:
    first, second = (play(7, tmp_path / name) for name in ("a", "b"))
    assert first == second
    assert first != play(10, tmp_path / "c")


def _no_fence(patch: pytest.MonkeyPatch) -> None:
    """A holder never looks whether it still is one."""
    patch.setattr(HeldLease, "check", lambda _: None)
    patch.setattr(HeldLease, "renew", lambda _: None)


def _manifest_first(patch: pytest.MonkeyPatch) -> None:
    """The manifest lands before what it names."""
    real = parcels.send_sealed

    class Reordered:
        def __init__(self, remote: Transfer, folder: Path, kind: str) -> None:
            self._remote, self._manifest = remote, verify(folder, kind)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._remote, name)

        def put_folder(self, source: Path, name: str, files: Sequence[str]) -> None:
            self._remote.write_text(f"{name}/{MANIFEST_NAME}", self._manifest.model_dump_json())
            self._remote.put_folder(source, name, files)

    def send(folder: Path, remote: Any, name: str, kind: str, *more: Any, **named: Any) -> bool:
        return real(folder, Reordered(remote, folder, kind), name, kind, *more, **named)

    patch.setattr(carrying, "send_sealed", send)
    patch.setattr(jobs, "send_sealed", send)


def _no_settling(patch: pytest.MonkeyPatch) -> None:
    """Who wrote a claim believes in it without reading it back."""

    real = HeldLease._renew_if_ours

    def renew(held: HeldLease) -> None:
        if held._record.beat > 0:
            real(held)
            return
        held._record = held._record.model_copy(update={"beat": 1})
        held._remote.write_text(held._name, held._record.model_dump_json())

    patch.setattr(HeldLease, "_renew_if_ours", renew)


def _any_descent(patch: pytest.MonkeyPatch) -> None:
    """The desktop does not ask what a result was built on."""
    real = jobs.Mailbox.fetch_result

    def fetch(self: jobs.Mailbox, *args: Any, built_on: Mapping[str, str] | None = None) -> Path | None:
        del built_on
        return real(self, *args)

    patch.setattr(jobs.Mailbox, "fetch_result", fetch)


def _nothing_taken_over(patch: pytest.MonkeyPatch) -> None:
    """The next holder begins at the first step."""
    patch.setattr(Carrier, "restore", lambda *_: None)


def _any_stages(patch: pytest.MonkeyPatch) -> None:
    """Stages are taken over without asking whether they stand on each other."""
    patch.setattr(carrying, "newest_contents", lambda *_, **__: {})
    patch.setattr(carrying, "newest_checkpoints", lambda _: {})

    def cuts(candidates: Sequence[Candidate]) -> list[dict[str, Candidate]]:
        by_rank = sorted(candidates, key=lambda one: (one.facts.token, one.facts.order))
        return [{one.facts.stage: one for one in by_rank}] if by_rank else []

    patch.setattr(carrying, "cuts_of", cuts)


# `seed` is where the first schedule that meets the gap was found; the search goes on from there when that changes.
@pytest.mark.parametrize(
    ("mutate", "told", "honest", "rough", "seed"),
    [
        (_no_fence, "fence:", True, True, 20_000),
        (_manifest_first, "was written before", True, True, 20_000),
        (_no_settling, "two holders", True, True, 20_000),
        (_any_descent, "mixed set", False, False, 20_077),
        (_nothing_taken_over, "lost work", True, True, 20_000),
        (_any_stages, "mixed stages", True, True, 20_003),
    ],
    ids=["no-fence", "manifest-first", "no-settling", "any-descent", "nothing-taken-over", "any-stages"],
)
def test_a_protocol_with_a_part_taken_out_is_caught(
    mutate: Callable[[pytest.MonkeyPatch], None],
    told: str,
    *,
    honest: bool,
    rough: bool,
    seed: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mutate(monkeypatch)
    for one in range(seed, seed + 200):
        if told in complaints(played(tmp_path, [one], honest=honest, rough=rough)):
            return
    pytest.fail(f"{mutate.__doc__} Nobody noticed.")
