"""Turn a Colab session (or any machine with Python 3.11 to 3.13) into a trainer of vnfleet. This file works alone.

`vnfleet remote init` puts it into the shared folder beside the vnfleet wheel, with the wheel's SHA-256 written into the
two lines below; it installs that wheel and no other. Run it again after any interruption: work goes on from the last
checkpoint. In a notebook:

    from colab_training_setup import ColaTrainingSetup
    setup = ColaTrainingSetup()
    setup.initialize()
    setup.start_training(all_symbols=True)

On a command line: python colab_training_setup.py FOLDER_OR_RCLONE_REMOTE
"""

from __future__ import annotations

import codecs
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vnfleet.cycle.training_state import RecoveryManager

WHEEL_NAME = ""
WHEEL_SHA256 = ""

MOUNTED = "/content/drive/MyDrive/VN-Quant-Training"  # where Colab mounts the plan's folder
REMOTE_VARIABLE = "VNFLEET_REMOTE"
WORKDIR_VARIABLE = "VNFLEET_WORKDIR"
IDLE_VARIABLE = "VNFLEET_IDLE_EXIT_MINUTES"
IDLE_MINUTES = "30"
PYTHONS = ((3, 11), (3, 14))  # from the first on, before the second
_PIP = (sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
_DRIVE_OF_WINDOWS = re.compile(r"[A-Za-z]:[\\/]")


class SetupError(Exception):
    """What keeps this machine from training, and what to do about it."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{what}\n  next: {fix}")


class ColaTrainingSetup:
    """The written plan's setup class, under the plan's own name.

    folder : the shared folder, or an rclone remote such as ``gdrive:VN-Quant-Training`` (rclone must know it). By
        default what the environment variable VNFLEET_REMOTE names, else the Drive mounted at its usual place, else the
        folder this file lies in.
    workdir : a folder on this machine's own disk, never on the drive; by default VNFLEET_WORKDIR or ``vnfleet-work``.
    """

    def __init__(self, folder: str | Path | None = None, workdir: str | Path | None = None) -> None:
        self.remote = str(folder or os.environ.get(REMOTE_VARIABLE) or _usual_folder())
        self.workdir = Path(workdir or os.environ.get(WORKDIR_VARIABLE) or "vnfleet-work")
        self._recovery: RecoveryManager | None = None

    @property
    def recovery_mgr(self) -> RecoveryManager:
        """Where the work stands: ``load_training_state()`` reads it from the shared folder."""
        if self._recovery is None:
            from vnfleet.cycle.training_state import RecoveryManager  # noqa: PLC0415 - installed by `initialize`
            from vnfleet.remote.opening import open_remote  # noqa: PLC0415

            self._recovery = RecoveryManager(open_remote(self.remote), self.workdir)
        return self._recovery

    def initialize(self) -> None:
        """Install the pinned vnfleet if need be, have its doctor look around, and say where the work stands.

        Raises `SetupError` when the wheel is missing or another file than the pinned one, or the doctor finds a
        problem. Safe to run again.
        """
        if not PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]:
            raise SetupError(f"Python {sys.version.split()[0]} is too old or too new", "use Python 3.11, 3.12 or 3.13")
        if _is_folder(self.remote) and not Path(self.remote).expanduser().is_dir():
            raise SetupError(
                f"the shared folder {self.remote} is not there",
                "mount the drive first: from google.colab import drive; drive.mount('/content/drive')",
            )
        self._install()
        if _run([sys.executable, "-m", "vnfleet.cli", "doctor", "--workdir", str(self.workdir)]) != 0:
            raise SetupError("this machine is not fit for training yet", "do what the doctor says, then run this again")
        from vnfleet.core.errors import RemoteError  # noqa: PLC0415 - installed just now

        try:
            print(self.recovery_mgr.load_training_state().sentence)
        except RemoteError as error:  # drives stutter; training itself waits for them
            print(f"where the work stands cannot be read right now: {error}")

    def start_training(
        self, *, all_symbols: bool = True, idle_exit_minutes: float | None = None, lease_seconds: float = 300.0
    ) -> None:
        """Train what the desktop has published until there has been nothing to do for `idle_exit_minutes`.

        None: what the environment variable VNFLEET_IDLE_EXIT_MINUTES says, else half an hour (a GPU costs while it
        waits). lease_seconds : when this machine vanishes, others take its unit over after so long.

        Which symbols are trained is decided where the job is published, so `all_symbols` can only be true.

        Raises `SetupError` when the worker stopped on an error.
        """
        if not all_symbols:
            raise SetupError(
                "a worker trains what the published job asks for, it cannot leave symbols out",
                "choose symbols on the desktop: vnfleet train --mode hybrid --symbols FPT VCB HPG",
            )
        command = [sys.executable, "-m", "vnfleet.cycle.session", "--remote", self.remote]
        usual = os.environ.get(IDLE_VARIABLE) or IDLE_MINUTES
        idle = usual if idle_exit_minutes is None else idle_exit_minutes
        command += ["--workdir", str(self.workdir), "--idle-exit-minutes", str(idle)]
        code = _run([*command, "--lease-seconds", str(lease_seconds)])
        if code != 0:
            raise SetupError(f"training stopped early (exit code {code})", "read the lines above, then run this again")

    def _install(self) -> None:
        if not WHEEL_SHA256:
            if _installed_sha256() is None and importlib.util.find_spec("vnfleet") is None:
                raise SetupError(
                    "this copy of the script has no wheel pinned in it",
                    "take the one that `vnfleet remote init` puts into the shared folder",
                )
            print("vnfleet is installed here already; this script pins no wheel")
            return
        if _installed_sha256() == WHEEL_SHA256:
            print(f"{WHEEL_NAME} is installed already")
            return
        with tempfile.TemporaryDirectory(prefix="vnfleet-") as scratch:
            wheel = Path(scratch) / WHEEL_NAME
            self._fetch(wheel)
            # The copy is hashed and the copy is installed: what lies on the drive may change in between.
            found = _sha256(wheel)
            if found != WHEEL_SHA256:
                raise SetupError(
                    f"{WHEEL_NAME} is not the pinned file: SHA-256 {found[:16]}... instead of {WHEEL_SHA256[:16]}...",
                    "wait until the drive has synced, or run `vnfleet remote init` again; nothing was installed",
                )
            print(f"installing {WHEEL_NAME} and what it needs (minutes the first time)")
            # Versions do not tell two builds apart, so the wheel itself goes in by force, what it needs only if absent.
            for command in ([*_PIP, "--force-reinstall", "--no-deps", str(wheel)], [*_PIP, str(wheel)]):
                if _run(command) != 0:
                    raise SetupError("pip could not install vnfleet", "read what pip says above, then run this again")
        for name in [name for name in sys.modules if name.split(".")[0] == "vnfleet"]:
            del sys.modules[name]  # an older one, imported before
        importlib.invalidate_caches()
        if _installed_sha256() != WHEEL_SHA256:
            raise SetupError("another vnfleet hides the installed one", "restart the session, then run this again")

    def _fetch(self, target: Path) -> None:
        """Copy the wheel here, from the shared folder, from beside this script, or with rclone."""
        places = [Path(__file__).resolve().parent]
        if _is_folder(self.remote):
            places.insert(0, Path(self.remote).expanduser())
        for place in places:
            for pause_seconds in (1.0, 5.0, 0.0):  # mounts of a drive stutter
                try:
                    shutil.copyfile(place / WHEEL_NAME, target)
                except FileNotFoundError:
                    break
                except OSError as error:
                    print(f"{place / WHEEL_NAME} could not be read: {error}")
                    time.sleep(pause_seconds)
                else:
                    return
        source, rclone = f"{self.remote}/{WHEEL_NAME}", shutil.which("rclone")
        if not _is_folder(self.remote) and rclone and _run([rclone, "copyto", source, str(target)]) == 0:
            return
        raise SetupError(
            f"{WHEEL_NAME} is not in {' or '.join(map(str, places))}",
            "run `vnfleet remote init` on the desktop, or put the wheel beside this script"
            + ("" if _is_folder(self.remote) else f": rclone copy {source} ."),
        )


def _usual_folder() -> str:
    return MOUNTED if Path(MOUNTED).is_dir() else str(Path(__file__).resolve().parent)


def _is_folder(remote: str) -> bool:
    """Return whether `remote` is a folder here: no colon before its first slash, or a drive of Windows."""
    return _DRIVE_OF_WINDOWS.match(remote) is not None or ":" not in re.split(r"[/\\]", remote)[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _installed_sha256() -> str | None:
    """Return the SHA-256 of the wheel that the installed vnfleet came from; None when it came from elsewhere."""
    try:
        text = importlib.metadata.distribution("vnfleet").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return None
    found = json.loads(text or "{}").get("archive_info", {}).get("hashes", {}).get("sha256")
    return found if isinstance(found, str) else None


def _run(command: list[str]) -> int:
    """Run a program, show what it writes as it comes, and return its exit code.

    Its standard input stays open while this process lives: that is how a worker knows when to stop.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1"}
    with subprocess.Popen(  # noqa: S603 - our own interpreter with our own arguments
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _show(process)
        except KeyboardInterrupt:  # the notebook's stop button
            process.stdin.close()
            _show(process)
        process.stdin.close()
        return process.wait()


def _show(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    while payload := os.read(process.stdout.fileno(), 4096):
        print(decoder.decode(payload), end="", flush=True)


if __name__ == "__main__":
    try:
        setup = ColaTrainingSetup(*sys.argv[1:2])
        setup.initialize()
        setup.start_training(all_symbols=True)
    except SetupError as error:
        sys.exit(f"error: {error}")
