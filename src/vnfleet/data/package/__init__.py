"""The training package: judged prices as they travel, whole once and by increments every week.

It takes the place of the written plan's `training_data.pkl`. A pickle is a program: whoever can write to the shared
drive it lies on (or to the account, the sync client, the Colab session) runs code on every machine that opens it, and
no check made after opening comes in time. What travels here is Parquet and JSON: they hold values and nothing that
runs. Every file is listed with its SHA-256 in a manifest that is written last, every table has a content hash of its
own, and a file that is damaged, missing or too many is a refusal before anything is used. A pickle also cannot be
extended: one new week would send thirteen years again.

Features are not part of it: they are three times as large and are rebuilt from the same code on the other side, where
their hash is compared (`PackagedPanel.confirm_features`).

`tables` turns a panel into tables and back, `facts` is the manifest, `folder` seals and reads whole packages, `updates`
the increments.
"""

from vnfleet.data.package.facts import CubeIdentity
from vnfleet.data.package.folder import (
    Package,
    PackagedPanel,
    copy_package,
    open_package,
    packages_in,
    read_package,
    write_package,
)
from vnfleet.data.package.updates import Update, apply_update, catch_up, open_update, updates_in, write_update

__all__ = [
    "CubeIdentity",
    "Package",
    "PackagedPanel",
    "Update",
    "apply_update",
    "catch_up",
    "copy_package",
    "open_package",
    "open_update",
    "packages_in",
    "read_package",
    "updates_in",
    "write_package",
    "write_update",
]
