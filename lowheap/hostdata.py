"""The side table behind externrefs: host values by id, so that no host pointer ever enters the heap."""

from __future__ import annotations

from collections import deque
from typing import Any

from lowheap.errors import HeapError
from lowheap.layout import U32_MAX


class ExternRefHostDataTable:
    """Host values by 32-bit id.

    `dealloc` only sets a value aside: letting go of it may run its finalizer, which may use the heap, and the heap
    calls `dealloc` from inside of its operations. `release` lets go of what was set aside, once the heap is whole.
    """

    def __init__(self) -> None:
        """Make an empty table."""
        self._values: dict[int, Any] = {}
        self._free_ids: list[int] = []
        self._set_aside: deque[Any] = deque()

    def __len__(self) -> int:
        """Return how many ids are in use."""
        return len(self._values)

    def __contains__(self, host_data_id: object) -> bool:
        """Whether the id is in use."""
        return host_data_id in self._values

    def alloc(self, value: Any) -> int:
        """Store `value` under an id that is not in use, and return the id."""
        if self._free_ids:
            host_data_id = self._free_ids.pop()
        elif len(self._values) <= U32_MAX:
            host_data_id = len(self._values)
        else:
            raise HeapError(f"no host-data id is left: all {U32_MAX + 1} are in use")
        self._values[host_data_id] = value
        return host_data_id

    def get(self, host_data_id: int) -> Any:
        """Return the value of an id. HeapError when the id is not in use."""
        try:
            return self._values[host_data_id]
        except KeyError:
            raise HeapError(f"host-data id {host_data_id} is not in use") from None

    def dealloc(self, host_data_id: int) -> None:
        """Take an id out of use, and set its value aside for `release`. HeapError when the id is not in use."""
        value = self.get(host_data_id)
        del self._values[host_data_id]
        self._free_ids.append(host_data_id)
        self._set_aside.append(value)

    def release(self) -> None:
        """Let go of the values that were set aside; their finalizers may run, and may use the heap."""
        while self._set_aside:
            self._set_aside.popleft()

    @property
    def has_dead_values(self) -> bool:
        """Whether `release` has something to let go of."""
        return bool(self._set_aside)

    def clear(self) -> None:
        """Take every id out of use, and let go of all values."""
        self._set_aside.extend(self._values.values())
        self._values.clear()
        self._free_ids.clear()
        self.release()
