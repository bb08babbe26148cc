"""The written plan's workflow: python scripts/hybrid_training_orchestrator.py --mode hybrid --symbols HPG VCB FPT."""

import sys

from vnfleet.cli.plan.hybrid import ColabTrainingOrchestrator, main
from vnfleet.cli.plan.preparation import LocalDataPreparation

__all__ = ["ColabTrainingOrchestrator", "LocalDataPreparation", "main"]

if __name__ == "__main__":
    sys.exit(main())
