"""`python -m lowheap`: the command, without the script."""

import sys

from lowheap.cli import main

if __name__ == "__main__":
    sys.exit(main())
