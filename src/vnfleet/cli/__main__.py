"""`python -m vnfleet.cli`: the command line without its installed script."""

import sys

from vnfleet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
