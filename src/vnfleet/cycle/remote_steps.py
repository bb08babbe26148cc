"""How to connect a drive, step by step, for a person who has never used rclone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vnfleet.core.errors import RemoteError
from vnfleet.remote.rclone import find_rclone


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupStep:
    """One step: a title, and what to do in lines."""

    title: str
    lines: tuple[str, ...]


def setup_steps(find: Callable[[], object] = find_rclone) -> tuple[SetupStep, ...]:
    """Return the steps for Google Drive, the other ways, and what comes after.

    The order of Google's pages is https://rclone.org/drive/#making-your-own-client-id. `find` looks for rclone.
    """
    try:
        binary = str(find())
        rclone = (
            f"It is here: {binary}",
            "Where the commands below say rclone, write this if your shell does not know it.",
        )
    except RemoteError as error:
        rclone = (error.what, f"Do: {error.fix}")
    return (
        SetupStep(title="rclone, which moves the files", lines=rclone),
        SetupStep(
            title="A client id of your own at Google (once, free, about ten minutes)",
            lines=(
                "rclone's shared one is being retired, and everybody's requests count together on it until then.",
                "Open https://console.cloud.google.com with the account whose Drive you use; create a project.",
                "APIs & Services > Library: enable the Google Drive API.",
                "OAuth consent screen: External; any app name, your address twice.",
                "Add the scope https://www.googleapis.com/auth/drive, and your own address as a test user.",
                "Publish the app (In production). In the state Testing Google ends every login after 7 days,",
                "and the weekly job would stop. It need not be verified for your own use; Google warns at the login.",
                "Credentials > Create credentials > OAuth client ID > Desktop app: note the id and the secret.",
            ),
        ),
        SetupStep(
            title="Tell rclone",
            lines=(
                "rclone config create gdrive drive scope=drive client_id=YOUR_ID client_secret=YOUR_SECRET",
                "A browser opens: sign in, and go past the warning (Advanced). scope=drive lets rclone see the files",
                "that a Colab session writes through its mount; drive.file would hide them.",
                "A machine without a browser: run `rclone authorize drive YOUR_ID YOUR_SECRET` on one that has one.",
                "Already have a remote with the shared id:",
                "rclone config update gdrive client_id=YOUR_ID client_secret=YOUR_SECRET",
                "then: rclone config reconnect gdrive:",
                "Test it: rclone lsd gdrive:",
            ),
        ),
        SetupStep(
            title="The plan's folder",
            lines=(
                "vnfleet remote init --remote gdrive:VN-Quant-Training",
                "vnfleet remote check --remote gdrive:VN-Quant-Training",
                "and in vnfleet.toml, two lines:",
                "[remote]",
                'remote = "gdrive:VN-Quant-Training"',
            ),
        ),
        SetupStep(
            title="Without Google, or without rclone",
            lines=(
                "S3, WebDAV, SFTP and others: `rclone config`, then --remote NAME:FOLDER as above.",
                "A folder that both sides see needs no rclone: --remote /mnt/nas/VN-Quant-Training, the folder of",
                r"Drive for desktop (G:\My Drive\VN-Quant-Training), or Colab's mount",
                "(/content/drive/MyDrive/VN-Quant-Training).",
                "Encrypted: an rclone crypt remote over any of these; see docs/remote.md.",
            ),
        ),
    )
