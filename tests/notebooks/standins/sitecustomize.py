"""Makes the stand-in drive slow and faulty, in every process that is started with this folder on its path.

Files take a while to open, the mount is gone for a moment now and then, renames get lost, and names with a certain
part in them are never written.
"""

import builtins
import errno
import io
import os
import random
import time
from typing import Any

_DRIVE = os.path.realpath(os.environ["STANDIN_DRIVE"]) if os.environ.get("STANDIN_DRIVE") else ""
_SECONDS = float(os.environ.get("STANDIN_SECONDS", "0"))
_GONE, _LOST = float(os.environ.get("STANDIN_GONE", "0")), float(os.environ.get("STANDIN_LOST", "0"))
_REFUSED = os.environ.get("STANDIN_REFUSED", "")
_chance = random.Random(f"{os.environ.get('STANDIN_SEED', '0')}-{os.getpid()}")
_open, _replace = io.open, os.replace


def _on_drive(path: Any) -> bool:
    try:
        return bool(_DRIVE) and os.path.realpath(os.fspath(path)).startswith(_DRIVE)
    except (TypeError, ValueError):
        return False


def _slow_open(file: Any, *args: Any, **kwargs: Any) -> Any:
    if _on_drive(file):
        time.sleep(_SECONDS)
        if _chance.random() < _GONE:
            raise OSError(errno.ENOTCONN, "Transport endpoint is not connected", str(file))
    return _open(file, *args, **kwargs)


def _faulty_replace(source: Any, target: Any, **kwargs: Any) -> None:
    if _on_drive(target):
        time.sleep(_SECONDS)
        if _REFUSED and _REFUSED in os.fspath(target):
            raise OSError(errno.EIO, "Input/output error", str(target))
        if _chance.random() < _LOST:
            return
    _replace(source, target, **kwargs)


if _DRIVE:
    builtins.open = io.open = _slow_open
    os.replace = _faulty_replace
