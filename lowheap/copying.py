"""What cannot be copied: whatever stands for something that there is one of, such as a heap, or a place in it.

Python would copy such a thing attribute by attribute, and what the copy lets go of, the original has still.
"""

from __future__ import annotations

from typing import ClassVar, NoReturn, SupportsIndex


class NotCopied:
    """`copy.copy`, `copy.deepcopy` and `pickle` are refused with a TypeError that says why.

    A class may have a `__copy__` all the same.
    """

    __slots__ = ()

    NOT_COPIED_BECAUSE: ClassVar[str]
    """Why not, and what to do instead: it goes on from "cannot be copied or pickled:"."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse: `copy` and `pickle` ask here how to make another one."""
        name = next(kind.__name__ for kind in type(self).__mro__ if not kind.__name__.startswith("_"))
        raise TypeError(f"this {name} cannot be copied or pickled: {self.NOT_COPIED_BECAUSE}")
