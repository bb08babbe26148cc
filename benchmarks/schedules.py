"""Random schedules of faults over the remote protocol, counted: what happened in them, and whether a rule was broken.

    python benchmarks/schedules.py [--seeds 10000] [--first 0] [--processes 2] [--scratch FOLDER]

Each seed is one schedule of `tests/remote/schedules.py`: the real desktop, workers, leases and checkpoint carrier in
virtual time, over a remote that lies. A broken rule is printed with its seed, which plays the same schedule again;
then the exit code is 1. Results are dated in benchmarks/schedules_20261123.md.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.remote.schedules import Seen, play

COUNTED = ("kills", "restarts", "takeovers", "steps", "steps_again", "published", "withdrawn", "seconds")


def played(scratch: Path, seed: int) -> Seen:
    """Play one schedule and leave nothing on the disk."""
    folder = scratch / str(seed)
    seen = play(seed, folder)
    shutil.rmtree(folder)
    return seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10_000, help="how many schedules")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    begin, most_lost = time.perf_counter(), 0
    totals: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    broken: list[str] = []
    with (
        tempfile.TemporaryDirectory(dir=given.scratch, prefix="schedules-") as folder,
        ProcessPoolExecutor(given.processes) as pool,
    ):
        play_one = partial(played, Path(folder))
        for number, seen in enumerate(
            pool.map(play_one, range(given.first, given.first + given.seeds), chunksize=20), 1
        ):
            totals.update({name: getattr(seen, name) for name in COUNTED})
            wrong.update(seen.wrong)
            reasons[seen.reason or "no desktop was left to say"] += 1
            most_lost = max(most_lost, seen.most_lost_steps)
            for line in seen.broken:
                broken.append(f"seed {seen.seed}: {line}")
                print("BROKEN", broken[-1], flush=True)
            if number % 500 == 0:
                print(f"{number} played, {len(broken)} broken, {time.perf_counter() - begin:.0f} s", flush=True)
    print(f"seeds {given.first} to {given.first + given.seeds - 1} in {time.perf_counter() - begin:.0f} s")
    for name in COUNTED:
        print(f"{name}: {totals[name]:,.0f}")
    print(f"most steps lost by one kill: {most_lost}")
    for title, counts in (("ended", reasons), ("went wrong on the way", wrong)):
        print(title)
        for name, count in counts.most_common():
            print(f"  {name}: {count:,}")
    print(f"broken rules: {len(broken)}")
    return 1 if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
