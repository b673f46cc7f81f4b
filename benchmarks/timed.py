"""What parts of a report have in common that time something of their own."""

from __future__ import annotations

import statistics


class Timed:
    """What was timed some times, or has failed."""

    __slots__ = ()
    seconds: list[float]
    failed: str | None

    @property
    def median(self) -> float | None:
        """The median's seconds; None where there are none, or it failed."""
        return statistics.median(self.seconds) if self.seconds and self.failed is None else None
