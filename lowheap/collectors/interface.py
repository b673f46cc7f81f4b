"""What a collector has to offer, whoever asks: the store in Python, compiled code, or a program in C.

A collector is a folder with a module `barriers.py`, of functions written once for the events in the life of a
reference. Their `shape` says what the reference may be; what it cannot be costs nothing:

    read(heap, owner, slot, shape)             load a reference into compiled code's hands, and return it
    write(heap, owner, slot, value, shape)     store over a value that the slot owns
    init(heap, owner, slot, value, shape)      store to a slot that holds nothing yet
    allocated(heap, reference)                 hand a new object, whose header is complete, to compiled code
    inc_ref(heap, reference, shape)            one owner more
    dec_ref(heap, reference, shape)            one owner less; what nobody owns any more dies
    expose(heap, reference, shape)             hand an owned reference over to compiled code

`owner` is the object that the slot is in; null for a slot that is in none, or of which that is not known.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """What a reference may be, known when code is compiled: `jit.emit.ReferenceShape` is what types say of it.

    `is_counted` is False for references that never name a counted object: i31 and functions.
    """

    is_native_static = True

    may_be_null: bool = True
    may_be_i31: bool = True
    may_be_object: bool = True
    is_counted: bool = True

    @property
    def key(self) -> str:
        """What tells code for this shape from that for others."""
        letters = "n" * self.may_be_null + "i" * self.may_be_i31 + "o" * self.may_be_object + "c" * self.is_counted
        return f"shape-{letters}"


ANY = Shape()
"""A reference of which nothing is known."""

OBJECT = Shape(may_be_null=False, may_be_i31=False)
"""A reference to an object."""
