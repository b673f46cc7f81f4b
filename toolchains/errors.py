"""What goes wrong with compilers of other languages."""

from __future__ import annotations


class ToolchainError(Exception):
    """A program could not be compiled; `is_absence` when that is because the machine lacks something for it."""

    def __init__(self, message: str, *, is_absence: bool = False) -> None:
        """Take what is wrong."""
        super().__init__(message)
        self.is_absence = is_absence
