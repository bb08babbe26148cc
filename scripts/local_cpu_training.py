"""The written plan's CPU script: python scripts/local_cpu_training.py --symbols FPT VCB HPG --epochs 50."""

import sys

from vnfleet.cli.plan.local_cpu import main
from vnfleet.cli.plan.preparation import LocalDataPreparation

__all__ = ["LocalDataPreparation", "main"]

if __name__ == "__main__":
    sys.exit(main())
