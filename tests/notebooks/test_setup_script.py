"""`colab_training_setup.py` as a lone file in an empty environment, and the written plan's snippet for Colab."""

import contextlib
import hashlib
import os
import signal
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vnfleet.core.errors import UsageError
from vnfleet.cycle.wheel import build_wheel, setup_script
from vnfleet.remote.rclone import find_rclone

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "colab_training_setup.py"
SNIPPET = """\
# Copy into Colab cell
!pip install -q torch rclone

from google.colab import drive
drive.mount('{mount}')

# Download setup script
!rclone copy gdrive:VN-Quant-Training/colab_training_setup.py .

# Initialize
from colab_training_setup import ColaTrainingSetup
setup = ColaTrainingSetup()
setup.initialize()
setup.start_training(all_symbols=True)
"""


def run(python: Path, code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": "", "VNFLEET_WORKDIR": str(folder / "work"), **environment}
    return subprocess.run(
        [python, "-c", code],
        cwd=folder,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_script_in_the_repository_is_the_one_that_travels_without_its_pins() -> None:
    name, sha256 = "vnfleet-0.1.0-py3-none-any.whl", "ab" * 32
    pinned = setup_script(name, sha256)
    unpinned = pinned.replace(f'"{name}"', '""', 1).replace(f'"{sha256}"', '""', 1)
    assert unpinned == SCRIPT.read_text(encoding="utf-8")
    compile(pinned, "colab_training_setup.py", "exec")


@pytest.mark.parametrize(
    ("name", "sha256"),
    [
        ('vnfleet-1"; import os; "-py3-none-any.whl', "ab" * 32),
        ("other-0.1.0-py3-none-any.whl", "ab" * 32),
        ("vnfleet-0.1.0-py3-none-any.whl", "AB" * 32),
        ("vnfleet-0.1.0-py3-none-any.whl", ""),
    ],
)
def test_pins_cannot_smuggle_code_in(name: str, sha256: str) -> None:
    with pytest.raises(UsageError):
        setup_script(name, sha256)


def test_equal_sources_make_equal_wheels_with_a_true_record(tmp_path: Path) -> None:
    first, second = build_wheel(tmp_path / "a"), build_wheel(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as wheel:
        names = wheel.namelist()
        record = wheel.read(next(name for name in names if name.endswith("/RECORD"))).decode().splitlines()
        assert [line.split(",")[0] for line in record] == names
        assert {"vnfleet/__init__.py", "vnfleet/reporting/templates/report.html.j2"} & set(names)
        assert "vnfleet/cycle/templates/colab_training.ipynb" in names
        assert not [name for name in names if name.endswith(".pyc") or "direct_url" in name]


def test_it_installs_the_pinned_wheel_once_and_trains(published: Any, empty_python: Path, tmp_path: Path) -> None:
    folder = tmp_path / "content"
    folder.mkdir()
    (folder / "colab_training_setup.py").write_bytes((published.folder / "colab_training_setup.py").read_bytes())
    code = f"""
from colab_training_setup import ColaTrainingSetup, SetupError
setup = ColaTrainingSetup({str(published.folder)!r})
setup.initialize()
ColaTrainingSetup({str(published.folder)!r})._install()
setup.start_training(idle_exit_minutes=0, lease_seconds=6)
state = setup.recovery_mgr.load_training_state()
print("state:", state.finished_units, len(state.completed_symbols), state.config["training"]["max_epochs"])
try:
    setup.start_training(all_symbols=False)
except SetupError as error:
    print(error)
from hashlib import sha256
from pathlib import Path
from vnfleet.cycle.wheel import build_wheel
print("made again:", sha256(build_wheel(Path("again")).read_bytes()).hexdigest())
"""
    done = run(empty_python, code, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("installing vnfleet-") == 1
    assert done.stdout.count("is installed already") == 1
    assert "0 of 2 units finished" in done.stdout
    assert "state: 2 24 6" in done.stdout
    assert "choose symbols on the desktop" in done.stdout
    (wheel,) = published.folder.glob("*.whl")  # what was installed makes the same wheel again
    assert f"made again: {hashlib.sha256(wheel.read_bytes()).hexdigest()}" in done.stdout
    assert published.results() == {unit.unit_id for unit in published.units}
    assert (folder / "work" / "training_state.json").is_file()
    assert (published.folder / "status" / "training_state.json").is_file()


def test_another_file_under_the_wheels_name_is_never_installed(
    published: Any, empty_python: Path, tmp_path: Path
) -> None:
    wheel = next(published.folder.glob("*.whl"))
    wheel.write_bytes(wheel.read_bytes() + b" ")
    script = published.folder / "colab_training_setup.py"
    done = run(empty_python, f"import runpy, sys; sys.argv = ['x', {str(published.folder)!r}]; "
               f"runpy.run_path({str(script)!r}, run_name='__main__')", tmp_path)  # fmt: skip
    assert done.returncode == 1
    assert "is not the pinned file" in done.stderr
    assert not list((empty_python.parents[1]).glob("lib/python3*/site-packages/vnfleet*"))


def test_a_copy_without_pins_and_a_drive_that_is_not_mounted_say_what_to_do(empty_python: Path, tmp_path: Path) -> None:
    begin = "import sys; sys.path.insert(0, {!r}); from colab_training_setup import ColaTrainingSetup as Setup; "
    code = begin.format(str(SCRIPT.parent))
    unpinned = run(empty_python, code + f"Setup({str(tmp_path)!r}).initialize()", tmp_path)
    assert "vnfleet remote init" in unpinned.stderr
    away = run(empty_python, code + f"Setup({str(tmp_path / 'nowhere')!r}).initialize()", tmp_path)
    assert "mount the drive first" in away.stderr


def test_the_plans_colab_snippet_works_where_rclone_is_configured(
    published: Any, session: Callable[[str], Any], tmp_path: Path
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "rclone").symlink_to(find_rclone())
    (tools / "pip").write_text("#!/bin/sh\nexit 0\n", encoding="utf-8")  # torch is here, and nothing is downloaded
    (tools / "pip").chmod(0o755)
    machine = session("snippet")
    machine.environment |= {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "STANDIN_DRIVE": str(published.drive),
        "RCLONE_CONFIG": os.devnull,
        "RCLONE_CONFIG_GDRIVE_TYPE": "alias",
        "RCLONE_CONFIG_GDRIVE_REMOTE": str(published.drive),
        "VNFLEET_REMOTE": str(machine.root / "mount" / "MyDrive" / "VN-Quant-Training"),
    }
    notebook = machine.write_notebook([("code", SNIPPET.format(mount=machine.root / "mount"))])
    with machine.start(notebook) as running:
        told, _ = running.communicate(timeout=120)
    assert running.returncode == 0, told + machine.outputs(notebook)
    assert published.results() == {unit.unit_id for unit in published.units}


@pytest.fixture(autouse=True)
def _no_processes_left(tmp_path: Path) -> Any:
    yield
    for told in tmp_path.glob("*/kernel.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(told.read_text(encoding="utf-8")), signal.SIGKILL)


def test_the_hash_in_the_script_is_that_of_the_wheel_beside_it(published: Any) -> None:
    wheel = next(published.folder.glob("*.whl"))
    text = (published.folder / "colab_training_setup.py").read_text(encoding="utf-8")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() in text


def test_a_machine_with_rclone_alone_fetches_the_wheel_with_it(
    published: Any, empty_python: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "ssh"
    folder.mkdir()
    (folder / "colab_training_setup.py").write_bytes((published.folder / "colab_training_setup.py").read_bytes())
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "rclone").symlink_to(find_rclone())
    done = run(
        empty_python,
        "from colab_training_setup import ColaTrainingSetup\n"
        "ColaTrainingSetup('gdrive:VN-Quant-Training')._install()\nimport vnfleet; print(vnfleet.__file__)",
        folder,
        PATH=f"{tmp_path / 'tools'}{os.pathsep}{os.environ['PATH']}",
        RCLONE_CONFIG=os.devnull,
        RCLONE_CONFIG_GDRIVE_TYPE="alias",
        RCLONE_CONFIG_GDRIVE_REMOTE=str(published.drive),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(empty_python.parents[1]) in done.stdout.splitlines()[-1]
