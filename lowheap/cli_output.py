"""How the commands whose report is their result print it on standard output."""

from __future__ import annotations

import contextlib
import sys

from rich.console import Console


def report_console() -> Console:
    """Return a console on standard output, which takes every character: what it cannot encode is escaped."""
    with contextlib.suppress(AttributeError):  # a stream that is closed, or replaced by one that has no encoding
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    return Console(highlight=False)
