"""Run a notebook in a process of its own: path, kernel name, folder to run in, file for the kernel's process id.

Writes the notebook with its outputs back. Exit code 3: the kernel died.
"""

import json
import sys
from pathlib import Path
from typing import Any

from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from nbformat.notebooknode import from_dict


def main(path: Path, kernel: str, folder: Path, told: Path) -> int:
    notebook: Any = from_dict(json.loads(path.read_text(encoding="utf-8")))  # type: ignore[no-untyped-call]
    client = NotebookClient(notebook, timeout=300, kernel_name=kernel, resources={"metadata": {"path": str(folder)}})
    manager: Any = client.create_kernel_manager()

    def started(**_: Any) -> None:
        told.write_text(str(manager.provisioner.pid), encoding="utf-8")

    client.on_cell_execute = started
    try:
        client.execute()
    except DeadKernelError:
        return 3
    finally:
        path.write_text(json.dumps(notebook), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])))
