"""Exceptions of WebAssembly, as Python has them: tags, and what is raised when nobody has caught one.

A tag is known by two words, which its exceptions have in their headers: for the instance that has made it, and for its
place there. The host's own have 0 for the instance.

What a host function raises can be caught, too. An exception of Python's is thrown as one of a tag that no program has,
`HOST_TAG`, whose one field is an externref of it; so `catch_all` catches it, and an `exnref` carries it. Where it comes
out, it is itself again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence, Sized
from typing import Any, TypeGuard

from lowheap.bound_types import new_exception
from lowheap.copying import NotCopied
from lowheap.errors import CompilerError, ExitTrap, HeapCorruptionError, LowheapError, StaleReferenceError, Trap
from lowheap.objects import ExnRef
from lowheap.operations import exclusive
from lowheap.store import Store, check_store
from lowheap.types import EXTERNREF, FuncType, SubType, TagType

_exclusive = exclusive("store.lock")

HOST_INSTANCE = 0
"""The first word of tags that the host has made."""

HOST_TAG = (HOST_INSTANCE, 0)
"""The words of the tag that exceptions of Python's are thrown under."""


class Tag(NotCopied):
    """A tag of a store: what tells exceptions apart. `Tag(store, type)` makes one, to import.

    `type` is a `TagType`, or the function type whose parameters are the fields of its exceptions. Two tags of one type
    are two tags.
    """

    NOT_COPIED_BECAUSE = "it belongs to one store"

    def __init__(self, store: Store, type: TagType | FuncType) -> None:
        """Make a tag of the host's. TypeError for a type that no tag can have, HeapError when the store was closed."""
        check_store(store)
        functype = type.functype if isinstance(type, TagType) else type
        if not isinstance(functype, FuncType):
            raise TypeError(f"type is {type!r}; it must be a TagType, or a FuncType")
        if functype.results:
            raise TypeError(f"type is {functype}; the type of a tag has no results")
        self.store = store
        self._make(functype)

    @_exclusive
    def _make(self, functype: FuncType) -> None:
        store = self.store
        store.check_open()
        types = store.engine.types
        (index,) = types.register([SubType(functype)], outer=tuple(types))
        self._bind(store, index, (HOST_INSTANCE, next(store.tag_numbers)))

    @classmethod
    def _of(cls, store: Store, type_index: int, words: tuple[int, int]) -> Tag:
        """Return a tag that an instance has made."""
        made = object.__new__(cls)
        made._bind(store, type_index, words)
        return made

    def _bind(self, store: Store, type_index: int, words: tuple[int, int]) -> None:
        self.store, self.type_index, self.words = store, type_index, words
        store.tags[words] = self

    @property
    def type(self) -> TagType:
        """The tag's type."""
        composite = self.store.engine.types[self.type_index].composite
        assert isinstance(composite, FuncType), "a tag has a function type"
        return TagType(composite)

    def __repr__(self) -> str:
        """Show the type."""
        return f"<Tag {self.type}>"


class WasmException(LowheapError):
    """An exception of WebAssembly's that nobody there has caught; or one that a host function throws, to be caught.

    `tag` is its `Tag`, and `fields` the values it carries, as results of calls come. `exnref` is the exception itself,
    as an `exnref` has it: thrown on, it is the same. Where that was released, one that is alike is thrown.

    A deep copy, and what a pickle is read as, are of no store: tag and exnref are None, and of fields that are no
    numbers there is what they look like. So is one of a subclass that has not called `__init__`. To compiled code such
    are exceptions of Python's.
    """

    tag: Tag | None = None
    exnref: ExnRef | None = None
    fields: tuple[Any, ...] = ()

    def __init__(self, tag: Tag, fields: Sequence[Any] = ()) -> None:
        """Make an exception of a tag. TypeError when the values are not those of its fields."""
        if not isinstance(tag, Tag):
            raise TypeError(f"tag is {tag!r}; it must be a Tag")
        if not isinstance(fields, Sized) or not isinstance(fields, Iterable):
            raise TypeError(f"fields is {fields!r}; it must be a sequence of values, one for each field of the tag")
        self._keep(tag, new_exception(tag.store, tag.type_index, tag.words, fields))

    @classmethod
    def _of(cls, exnref: ExnRef) -> WasmException:
        """Return an exception that compiled code has thrown."""
        made = cls.__new__(cls)
        made._keep(exnref.tag, exnref)
        return made

    def __copy__(self) -> WasmException:
        """Return one of the same tag and fields."""
        made = type(self).__new__(type(self), *self.args)
        vars(made).update(vars(self))
        made.__cause__ = self.__cause__
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave out what belongs to a store."""
        make, arguments, state = super().__reduce__()
        fields = tuple(each if isinstance(each, int | float | str | None) else repr(each) for each in self.fields)
        return make, arguments, state | {"tag": None, "exnref": None, "fields": fields}

    def _keep(self, tag: Tag, exnref: ExnRef) -> None:
        self.tag, self.exnref, self.fields = tag, exnref, exnref.fields
        super().__init__(f"an exception of {tag!r}: {self.fields!r}")


def tag_of(exnref: ExnRef) -> Tag | None:
    """Return the tag of an exception, as long as somebody has it the same one; None for one of Python's.

    An exception may outlive the instance that has made its tag: one that has failed to start.
    """
    words, store = exnref.words, exnref.store
    if words == HOST_TAG:
        return None
    found: Tag | None = store.tags.get(words)
    return Tag._of(store, exnref._bound_type.type_index, words) if found is None else found


def is_catchable(error: BaseException) -> TypeGuard[Exception]:
    """Whether compiled code may catch what a host function has raised.

    Not what ends programs, as KeyboardInterrupt and `ExitTrap` do; nor traps, which no program catches; nor what says
    that the heap or the code is broken.
    """
    return isinstance(error, Exception) and not isinstance(error, Trap | ExitTrap | HeapCorruptionError | CompilerError)


def thrown(store: Store, error: Exception) -> ExnRef:
    """Return what compiled code is thrown when a host function has raised an exception."""
    if isinstance(error, WasmException) and isinstance(error.tag, Tag) and error.tag.store is store:
        own, tag = error.exnref, error.tag
        if own is not None and own.is_valid:
            return own
        with contextlib.suppress(StaleReferenceError):  # a field's, which nobody can have again
            return new_exception(store, tag.type_index, tag.words, error.fields)
    types = store.engine.types
    (index,) = types.register([SubType(FuncType((EXTERNREF,), ()))], outer=tuple(types))
    return new_exception(store, index, HOST_TAG, (error,))


def raised(exnref: ExnRef) -> Exception:
    """Return what Python is to raise when an exception has come out of compiled code."""
    if exnref.words == HOST_TAG:
        (carried,) = exnref.fields
        error: Exception = carried.value
        return error
    return WasmException._of(exnref)
