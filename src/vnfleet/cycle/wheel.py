"""vnfleet as one file that travels: its own wheel, and the lone script that installs exactly that wheel and no other.

A machine that trains for this one must run the same sources. The wheel is made from the files that run here, so no
package index has to know them, and `colab_training_setup.py` carries its SHA-256: what a shared drive holds under that
name is installed only if it is the very file.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path

import vnfleet
from vnfleet.core.atomic import write_file
from vnfleet.core.errors import UsageError

SETUP_NAME = "colab_training_setup.py"
NOTEBOOK_NAME = "colab_training.ipynb"
_TEMPLATES = "templates"
_MOMENT = (1980, 1, 1, 0, 0, 0)  # the first a zip can hold: equal sources are equal bytes
_MODE = 0o644 << 16
_TAG = "py3-none-any"
_PINS = re.compile(r'^(WHEEL_NAME|WHEEL_SHA256) = ""$', re.MULTILINE)
_WHEEL_NAME = re.compile(r"vnfleet-[A-Za-z0-9_.!+]+-py3-none-any\.whl")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Of the metadata here: what a wheel of the build tool holds too. The rest says how it was installed on this machine.
_KEPT = re.compile(r"METADATA|entry_points\.txt|top_level\.txt|licenses/[^/]+")


def build_wheel(target: Path) -> Path:
    """Write the wheel of the vnfleet that runs here into the folder `target` and return its path.

    Nothing is asked of the network and no program is run. The same sources make the same bytes on every machine.

    Raises `UsageError` when vnfleet was never installed here (its metadata are missing), `ResourceError` when the disk
    is full.
    """
    installed = _installed()
    name = f"vnfleet-{installed.version}"
    info = f"{name}.dist-info"
    members = {f"vnfleet/{path}": payload for path, payload in _package_files()}
    members |= {f"{info}/{path}": payload for path, payload in _metadata_files(installed)}
    generated = f"Wheel-Version: 1.0\nGenerator: vnfleet {vnfleet.__version__}\nRoot-Is-Purelib: true\nTag: {_TAG}\n"
    members[f"{info}/WHEEL"] = generated.encode()
    members[f"{info}/RECORD"] = _record(members, f"{info}/RECORD")

    def write(temporary: Path) -> None:
        # Not compressed: compressors differ between machines, and the whole is three megabytes.
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as wheel:
            for member, payload in members.items():
                entry = zipfile.ZipInfo(member, _MOMENT)
                entry.external_attr = _MODE
                entry.create_system = 3
                wheel.writestr(entry, payload)

    path = target / f"{name}-{_TAG}.whl"
    write_file(path, write)
    return path


def setup_script(wheel_name: str, sha256: str) -> str:
    """Return the text of ``colab_training_setup.py`` that installs the wheel of that name and SHA-256 (64 hex digits).

    Raises `UsageError` when either is not what it should be: both become part of a program.
    """
    if not _WHEEL_NAME.fullmatch(wheel_name):
        raise UsageError("this is no wheel of vnfleet", expected="vnfleet-<version>-py3-none-any.whl", found=wheel_name)
    if not _SHA256.fullmatch(sha256):
        raise UsageError("this is no SHA-256", expected="64 hex digits in small letters", found=sha256)
    pins = {"WHEEL_NAME": wheel_name, "WHEEL_SHA256": sha256}
    text, count = _PINS.subn(lambda match: f'{match[1]} = "{pins[match[1]]}"', _template(f"{SETUP_NAME}.txt"))
    assert count == len(pins), "the script has one line for each pin"
    return text


def notebook_text() -> str:
    """Return the text of ``colab_training.ipynb``."""
    return _template(NOTEBOOK_NAME)


def _template(name: str) -> str:
    return (files("vnfleet.cycle") / _TEMPLATES / name).read_text(encoding="utf-8")


def _installed() -> Distribution:
    try:
        return distribution("vnfleet")
    except PackageNotFoundError as error:
        raise UsageError(
            "vnfleet is run here without being installed, so its metadata are missing",
            fix="make install, or pip install -e . in the folder of the sources",
        ) from error


def _package_files() -> Iterator[tuple[str, bytes]]:
    """Yield (path below the package, contents) of every file of the package, by path."""
    root = Path(vnfleet.__file__).parent
    for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).as_posix()):
        inside = path.relative_to(root)
        is_ours = path.suffix != ".pyc" and not any(part.startswith((".", "__pyc")) for part in inside.parts)
        if is_ours and path.is_file():
            yield inside.as_posix(), path.read_bytes()


def _metadata_files(installed: Distribution) -> Iterator[tuple[str, bytes]]:
    for path in sorted(installed.files or (), key=lambda path: path.as_posix()):
        folder, _, inside = path.as_posix().partition("/")
        if folder.endswith(".dist-info") and _KEPT.fullmatch(inside):
            yield inside, Path(str(installed.locate_file(path))).read_bytes()


def _record(members: Mapping[str, bytes], own_name: str) -> bytes:
    """Return the wheel's list of files: path, SHA-256 and size; the list itself has neither."""
    rows = []
    for name, payload in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(payload).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(payload)}\n")
    return "".join([*rows, f"{own_name},,\n"]).encode()
