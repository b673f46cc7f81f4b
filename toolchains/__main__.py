"""`python -m toolchains`: compile all programs, unless they are; print where they are.

A language whose compiler cannot be had is told of, and left out; with CI in the environment that is an error.
"""

from __future__ import annotations

import os
import sys

from toolchains import build, examples
from toolchains.errors import ToolchainError


def main() -> int:
    """Compile; 1 if something went wrong."""
    status = 0
    for language in examples.LANGUAGES:
        programs = [each for each in examples.EXAMPLES if each.language == language]
        try:
            for path in build.ensure(programs).values():
                print(path)
        except ToolchainError as error:
            print(f"toolchains: {language}: {error}", file=sys.stderr)
            if os.environ.get("CI") or not error.is_absence:
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
