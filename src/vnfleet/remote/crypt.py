"""An encrypted remote (rclone's crypt) whose password is not the one its folder was written with.

No name there can be decrypted then. rclone only remarks that and shows an empty folder, as if nothing had been sent.
"""

from __future__ import annotations

import re

from vnfleet.core.errors import RemoteError
from vnfleet.remote.rclone import WRONG_KEY_FIX, RemoteAbsentError, with_name, without_secrets
from vnfleet.remote.running import Rclone

# A name that is no ciphertext at all (a desktop.ini) is told in other words, and is nobody's fault.
_OTHER_KEY = re.compile(r"undecryptable \w+ name: bad PKCS#7 padding", re.IGNORECASE)
_REMOTE_NAME = re.compile(r""":?(?:"[^"]*"|'[^']*'|[^:"'])*:""")


def must_decrypt(rclone: Rclone, remote: str) -> None:
    """Refuse an encrypted `remote` that looks empty because it was written with another key; raises `RemoteError`.

    The top of the remote is looked at: a folder below it has another name with another key, and so is not there.
    """
    top = without_path(remote)
    if not _is_crypt(rclone, top):
        return
    try:
        answer, notices = rclone.answer_and_notices(["lsjson", "--no-mimetype", "--no-modtime", top])
    except RemoteAbsentError:
        return
    if answer.strip(b"[] \n") or not any(_OTHER_KEY.search(notice) for notice in notices):
        return
    place = without_secrets(top)
    raise RemoteError(
        "the crypt password or salt in `rclone config` is not the one this folder was written with",
        where=place,
        found="names that do not decrypt, and none that does",
        fix=with_name(WRONG_KEY_FIX, place),
    )


def without_path(remote: str) -> str:
    """Return the remote without the path after its colon: ``secret:`` of ``secret:VN-Quant-Training``."""
    match = _REMOTE_NAME.match(remote)
    return match[0] if match else remote


def _is_crypt(rclone: Rclone, top: str) -> bool:
    """Return whether the remote encrypts, by rclone's configuration (no network)."""
    if not top.endswith(":") or top.startswith(":"):
        return top.startswith((":crypt:", ":crypt,"))
    known = rclone.answer(["listremotes", "--long"]).decode(errors="replace").splitlines()
    return any(line.split()[:2] == [top, "crypt"] for line in known)
