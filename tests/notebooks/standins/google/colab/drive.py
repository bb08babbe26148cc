"""Mounts a folder of this machine where Colab would mount the drive."""

import os
from pathlib import Path


def mount(mountpoint: str) -> None:
    place = Path(mountpoint)
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "MyDrive").exists():
        (place / "MyDrive").symlink_to(os.environ["STANDIN_DRIVE"], target_is_directory=True)
