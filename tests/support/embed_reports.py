"""What the C interface tells of a heap: the bytes of a dump, and the message of the call that failed last."""

from __future__ import annotations

from typing import Any, Protocol

from lowheap.embed import NativeHeap, Status, ffi

REFUSED = 7
"""What a writer returns that takes no more."""


class Pieces(list[bytes]):
    """What `lh_dump` hands to `write`, piece by piece; with `refused`, no more than so many pieces."""

    def __init__(self, *, refused: int = -1) -> None:
        super().__init__()

        @ffi().callback("lh_writer")
        def write(_: Any, data: Any, size: int) -> int:
            if len(self) == refused:
                return REFUSED
            self.append(bytes(ffi().buffer(data, size)))
            return 0

        self.write = write


def text_of(characters: Any) -> str:
    """A C string."""
    found = ffi().string(characters)
    assert isinstance(found, bytes)
    return found.decode()


class Reporting(Protocol):
    """A heap, of a store or C's own, with the functions of the C interface."""

    heap: Any
    functions: dict[str, Any]


def message_of(native: Reporting) -> str:
    """What the last call that failed said, whole."""
    said = native.functions["lh_error_message"]
    length = said(native.heap, ffi().NULL, 0)
    buffer = ffi().new("char[]", length + 1)
    assert said(native.heap, buffer, length + 1) == length
    text = text_of(buffer)
    assert len(text) == length
    return text


def dump_of(native: NativeHeap) -> bytes | list[str]:
    """What C writes of a heap, or why it does not."""
    pieces = Pieces()
    status = native.lh_dump(native.heap, pieces.write, ffi().NULL)
    if status == Status.CORRUPT:
        return [message_of(native).removeprefix("lh_dump: ")]
    assert status == Status.OK
    return b"".join(pieces)
