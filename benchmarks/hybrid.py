"""A hybrid week over a real rclone WebDAV remote: the same weights as at home, whatever happens to the workers.

    python benchmarks/hybrid.py --prices FILE --listings FILE --scratch FOLDER [--symbols 102] [--seeds 2] [--epochs 8]

Runs on the same prices: at home with two processes or one (`home`, `home-one`); through the remote with one worker or
two undisturbed ones (`one-worker`, `two-workers`); through the remote with one worker killed -9 twice (and started
again) and the other cut off from the network for two minutes (`disturbed`). `home-one` against `one-worker` is what
the protocol costs. Prints seconds, bytes and the identity of the trained weights of each.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from vnfleet.remote.rclone import find_rclone

RUNS = ("home", "home-one", "one-worker", "two-workers", "disturbed")
MACHINE = "[machine]\nnum_threads = 1\nprocesses = {processes}\n"


class Server:
    """`rclone serve webdav` on a folder, on a port that stays the same when it is stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.start()

    @property
    def remote(self) -> str:
        """The folder as rclone names it."""
        return f":webdav,url='http://127.0.0.1:{self.port}':VN-Quant-Training"

    def start(self) -> None:
        """Serve, and wait until it answers."""
        command = [str(find_rclone()), "serve", "webdav", str(self.folder), "--addr", f"127.0.0.1:{self.port}"]
        command.append("--dir-cache-time=2s")  # two servers on one folder: each must see what came through the other
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)

    def stop(self) -> None:
        """Be gone at once."""
        self.process.kill()
        self.process.wait()


class Worker:
    """One `vnfleet worker` process; `log` holds when it was started and killed."""

    def __init__(self, server: Server, workdir: Path) -> None:
        self.server, self.workdir, self.log = server, workdir, list[tuple[float, str]]()
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "vnfleet.toml").write_text(MACHINE.format(processes=1), encoding="utf-8")
        self.start()

    def start(self) -> None:
        """Work, in a process of its own."""
        command = ["worker", "--remote", self.server.remote, "--workdir", str(self.workdir), "--poll-seconds", "3"]
        with (self.workdir / "worker.log").open("a", encoding="utf-8") as said:
            self.process = subprocess.Popen([*vnfleet(), *command], stdout=said, stderr=said)

    def kill(self) -> None:
        """Kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def vnfleet() -> list[str]:
    return [sys.executable, "-m", "vnfleet.cli"]


def train(workdir: Path, *more: str) -> subprocess.Popen[str]:
    with (workdir / "train.log").open("w", encoding="utf-8") as said:
        command = [*vnfleet(), "train", "--json", "--as-of", "2024-12-20", "--workdir", str(workdir), *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True)


def result(name: str, process: subprocess.Popen[str], started: float, **facts: object) -> dict[str, object]:
    out, _ = process.communicate()
    seconds = time.monotonic() - started
    step = next(step for step in json.loads(out)["steps"] if step["step"] == "train")
    found = {
        "run": name,
        "train_seconds": step["seconds"],
        "wall_seconds": round(seconds, 1),
        "weights": step["facts"]["weights_sha256"],
        "summary": step["summary"],
        **facts,
    }
    print(json.dumps(found), flush=True)
    return found


def size_mib(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20, 1)


def disturb(desk: subprocess.Popen[str], victim: Worker, cut_off: Worker, seed: int) -> list[str]:
    """Kill one worker twice at random moments, take the other's network away for two minutes; return what was done."""
    moments, begun, done = random.Random(seed), time.monotonic(), list[str]()

    def told(what: str) -> None:
        done.append(f"{time.monotonic() - begun:.0f} s: {what}")

    time.sleep(moments.uniform(25, 45))
    for _ in range(2):
        victim.kill()
        told("worker 1 killed -9")
        time.sleep(5)
        victim.start()
        if len(done) == 1:
            cut_off.server.stop()
            told("worker 2 cut off")
            time.sleep(120)
            cut_off.server.start()
            told("worker 2 back")
        time.sleep(moments.uniform(15, 40))
        if desk.poll() is not None:
            break
    return done


def through_the_remote(name: str, workdir: Path) -> dict[str, object]:
    """Train with workers behind WebDAV, disturbed or not."""
    drive = workdir.with_name(f"drive-{name}")
    (drive / "VN-Quant-Training").mkdir(parents=True)
    servers = [Server(drive) for _ in range(1 if name == "one-worker" else 2)]
    workers = [Worker(server, workdir.with_name(f"{name}-{place}")) for place, server in enumerate(servers)]
    started = time.monotonic()
    desk = train(workdir, "--mode", "hybrid", "--remote", servers[0].remote)
    facts: dict[str, object] = (
        {"disturbances": disturb(desk, workers[0], workers[1], seed=1)} if name == "disturbed" else {}
    )
    found = result(name, desk, started, **facts)
    print(json.dumps({"run": name, "on_the_drive_mib": size_mib(drive)}), flush=True)
    for worker in workers:
        worker.kill()
    for server in servers:
        server.stop()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prices", required=True)
    parser.add_argument("--listings", required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--symbols", type=int, default=102)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=["home", "two-workers", "disturbed"])
    asked = parser.parse_args()
    settings = (
        f'[source]\nkind = "files"\npath = "{asked.prices}"\nlistings = "{asked.listings}"\n'
        f"[universe]\nmodels = {asked.symbols}\n[folds]\nyears = [2024]\n[training]\nnum_seeds = {asked.seeds}\n"
        f"max_epochs = {asked.epochs}\n"
        "[remote]\npoll_seconds = 3.0\n"
    )
    shutil.rmtree(asked.scratch, ignore_errors=True)
    first = asked.scratch / "prices"
    first.mkdir(parents=True)
    (first / "vnfleet.toml").write_text(settings + MACHINE.format(processes=2), encoding="utf-8")
    subprocess.run([*vnfleet(), "features", "--as-of", "2024-12-20", "--workdir", str(first)], check=True)
    weights = set[str]()
    for name in asked.runs:
        workdir = asked.scratch / name
        shutil.copytree(first, workdir)
        if name.startswith("home"):
            processes = 1 if name == "home-one" else 2
            (workdir / "vnfleet.toml").write_text(settings + MACHINE.format(processes=processes), encoding="utf-8")
            found = result(name, train(workdir), time.monotonic())
        else:
            found = through_the_remote(name, workdir)
        weights.add(str(found["weights"]))
    print("the same weights in all runs" if len(weights) == 1 else f"DIFFERENT WEIGHTS: {sorted(weights)}")
    return 0 if len(weights) == 1 else 1


if __name__ == "__main__":
    raise SystemExit(main())
