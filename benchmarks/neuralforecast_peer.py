"""Nixtla's neuralforecast on the frame of a benchmark, in an environment of its own: the project's gains nothing.

    vnfleet bench train --job peers --exchange FOLDER ...              # writes FOLDER/frame.parquet and fold.json
    python benchmarks/neuralforecast_peer.py --exchange FOLDER         # makes a venv once, trains, leaves its forecasts
    vnfleet bench train --job peers --exchange FOLDER ...              # the same table, now with these rows

See benchmarks/neuralforecast_inside.py for what is trained.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

REQUIREMENTS = ("neuralforecast==3.3.0", "polars")
DEFAULT_VENV = Path("work") / "neuralforecast-venv"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exchange", type=Path, required=True, help="folder of vnfleet bench train --job peers")
    parser.add_argument("--venv", type=Path, default=DEFAULT_VENV, help="environment to make or to use")
    parser.add_argument("--torch", default="torch==2.13.0", help="the torch to install there")
    options, rest = parser.parse_known_args()
    python = options.venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(options.venv)], check=True)
        for requirement in (options.torch, *REQUIREMENTS):
            subprocess.run([str(python), "-m", "pip", "install", "-q", requirement], check=True)
    inside = Path(__file__).with_name("neuralforecast_inside.py")
    done = subprocess.run(
        [str(python), str(inside), "--exchange", str(options.exchange), *rest],
        check=False,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main())
