"""From the text in a configuration or on a command line to a `Transfer`: a plain folder, or rclone."""

from __future__ import annotations

import os
import re
from pathlib import Path

from vnfleet.core.errors import RemoteError, UsageError
from vnfleet.remote.folder import FolderTransfer
from vnfleet.remote.progress import Told
from vnfleet.remote.transfer import RcloneTransfer, Transfer

# How long files that a manifest names are waited for on a folder: mounts of a drive show them one after the other.
LATE_SECONDS = 30.0
_WINDOWS_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_RCLONE = re.compile(r"[^/\\]*:")


def is_folder(text: str) -> bool:
    r"""Return whether `text` names a folder here: no colon before its first slash, or ``C:\`` and ``D:/``."""
    return _WINDOWS_DRIVE.match(text) is not None or _RCLONE.match(text) is None


def open_remote(text: str, *, bandwidth_limit: str = "", told: Told | None = None) -> Transfer:
    r"""Return the remote that `text` names.

    That is ``gdrive:VN-Quant-Training`` or any other rclone path, or a folder of this machine, which needs no rclone:
    ``/content/drive/MyDrive/VN-Quant-Training``, ``G:\My Drive\VN-Quant-Training``, ``~/nas/vn``.
    `bandwidth_limit` is in bytes per second as rclone writes them (``4M`` is 4 MiB/s, "" none); `told` is called about
    once a second with the progress of files on the move.

    Raises `UsageError` when the text or the limit means nothing, `RemoteError` when rclone is missing or too old or
    when the folder that should hold the remote is not there (a drive that is not mounted).
    """
    text = text.strip()
    if not text or text.startswith("-"):
        raise UsageError(
            "this is no remote", found=repr(text), expected="gdrive:VN-Quant-Training, or a folder that both sides see"
        )
    if not is_folder(text):
        return RcloneTransfer(text, bandwidth_limit=bandwidth_limit, told=told)
    if os.name != "nt" and _WINDOWS_DRIVE.match(text):
        raise UsageError(
            "this folder is written as Windows does, and this system is not Windows",
            found=text,
            fix=f"in WSL write /mnt/{text[0].lower()}/{text[3:].replace(chr(92), '/')}",
        )
    root = Path(text).expanduser().absolute()
    if root.exists() and not root.is_dir():
        raise UsageError("this is a file, and a remote is a folder", found=root, fix="name the folder it lies in")
    if not root.is_dir() and not root.parent.is_dir():
        raise RemoteError(
            "the folder of the remote is not there",
            where=root,
            fix="mount the drive first (Colab: drive.mount('/content/drive')), or correct the path",
        )
    return FolderTransfer(root, bandwidth_limit=bandwidth_limit, told=told, late_seconds=LATE_SECONDS)
