"""`python -m tftp`: the command, where no entry point has been installed for it."""

import sys

from tftp.cli import main

if __name__ == "__main__":
    sys.exit(main())
