"""Text and bytes: TextDecoder and TextEncoder, URIs, base64; and what reads and makes arrays of the heap, which are the
builtins `wasm:text-decoder` and `wasm:text-encoder`, and what Guile Hoot's programs have in `rt` for their strings.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import urllib.parse
from collections.abc import Callable
from typing import Any

from lowheap.errors import Trap, TrapCode
from lowheap.hosts.js.objects import ArrayBuffer, DataView, TypedArray, method
from lowheap.hosts.js.values import UNDEFINED, Getter, JsError, JsObject, joined, to_string, truthy, units
from lowheap.objects import Array
from lowheap.store import Store
from lowheap.types import FuncType, RefType

_ENCODINGS = {
    "utf-8": ("utf-8", "utf8", "unicode-1-1-utf-8", "unicode11utf8", "unicode20utf8", "x-unicode20utf8"),
    "utf-16le": ("utf-16le", "utf-16", "ucs-2", "iso-10646-ucs-2", "csunicode", "unicode", "unicodefeff"),
    "utf-16be": ("utf-16be", "unicodefffe"),
    "windows-1252": ("windows-1252", "latin1", "iso-8859-1", "ascii", "us-ascii", "cp1252", "l1", "x-cp1252"),
}
_LABELS = {label: name for name, labels in _ENCODINGS.items() for label in labels}
_MARK = "\ufeff"


def bytes_of(source: Any) -> bytes:
    """Return the bytes of a buffer, or of a view of one. A JsError for anything else."""
    if isinstance(source, ArrayBuffer):
        return bytes(source.data)
    if isinstance(source, TypedArray | DataView):
        return bytes(source.buffer.data[source.offset : source.offset + source.length * source.size])
    raise JsError("The provided value is not of type '(ArrayBuffer or ArrayBufferView)'", "TypeError")


def well_formed(text: str) -> str:
    """Return a text with U+FFFD in place of each surrogate that stands alone."""
    return joined(text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _utf8(text: Any) -> bytes:
    return well_formed(to_string(text)).encode()


class TextDecoder(JsObject):
    """Makes text of bytes, one part after the other with `stream`."""

    name = "TextDecoder"

    def __init__(self, label: Any = "utf-8", options: Any = UNDEFINED) -> None:
        """Begin. A RangeError for an encoding that is none of UTF-8, UTF-16 and Windows-1252."""
        super().__init__()
        wanted = "utf-8" if label is UNDEFINED else to_string(label).strip().lower()
        if wanted not in _LABELS:
            raise JsError(f"The encoding label provided ('{to_string(label)}') is invalid.", "RangeError")
        self.encoding = _LABELS[wanted]
        read = options.get if isinstance(options, JsObject) else lambda _: UNDEFINED
        self.is_fatal, self.keeps_mark = truthy(read("fatal")), truthy(read("ignoreBOM"))
        self._begin()

    def _begin(self) -> None:
        errors = "strict" if self.is_fatal else "replace"
        self._decoder = codecs.getincrementaldecoder(self.encoding)(errors)
        self._is_begun = False

    def decode(self, source: Any = UNDEFINED, options: Any = UNDEFINED) -> str:
        """Return the text of bytes. A TypeError for what is not text, if that is fatal."""
        goes_on = isinstance(options, JsObject) and truthy(options.get("stream"))
        data = b"" if source is UNDEFINED else bytes_of(source)
        try:
            found = self._decoder.decode(data, not goes_on)
        except UnicodeDecodeError as error:
            self._begin()
            raise JsError(f"The encoded data was not valid for encoding {self.encoding}", "TypeError") from error
        if found and not self._is_begun:
            found = found if self.keeps_mark or self.encoding == "windows-1252" else found.removeprefix(_MARK)
            self._is_begun = True
        if not goes_on:
            self._begin()
        return found


TextDecoder.methods = {
    "decode": method(TextDecoder.decode),
    "encoding": Getter(lambda this: this.encoding),
    "fatal": Getter(lambda this: this.is_fatal),
    "ignoreBOM": Getter(lambda this: this.keeps_mark),
}


class TextEncoder(JsObject):
    """Makes UTF-8 of text."""

    name = "TextEncoder"


def _encoded(this: TextEncoder, text: Any = "") -> TypedArray:
    return TypedArray("Uint8Array", ArrayBuffer(bytearray(b"" if text is UNDEFINED else _utf8(text))))


def _encoded_into(this: TextEncoder, text: Any, target: Any) -> JsObject:
    if not isinstance(target, TypedArray) or target.name != "Uint8Array":
        raise JsError("the second argument is no Uint8Array", "TypeError")
    read, data = _fitting(to_string(text), target.length)
    target.view[: len(data)] = data
    return JsObject({"read": read, "written": len(data)})


def _fitting(text: str, room: int) -> tuple[int, bytes]:
    """So many code units of a text, and their UTF-8, as there is room for."""
    read, data = 0, bytearray()
    for each in well_formed(text):
        encoded = each.encode()
        if len(data) + len(encoded) > room:
            break
        data += encoded
        read += len(units(each))
    return read, bytes(data)


TextEncoder.methods = {
    "encode": method(_encoded),
    "encodeInto": method(_encoded_into),
    "encoding": Getter(lambda this: "utf-8"),
}

# ----------------------------------------------------------------------------------------------------------------------
# URIs, and base64

_MARKS = "-_.!~*'()"
_RESERVED = ";/?:@&=+$,#"


def encode_uri(text: Any, *, keeps: str = "") -> str:
    """Return a text with all but letters, digits and a few marks escaped. A URIError for a surrogate alone."""
    try:
        return urllib.parse.quote(joined(to_string(text)), safe=_MARKS + keeps)
    except UnicodeEncodeError as error:
        raise JsError("URI malformed", "URIError") from error


def decode_uri(text: Any, *, keeps: str = "") -> str:
    """Return a text with what is escaped in it. A URIError for what is not UTF-8, or no escape."""
    parts, whole = [], to_string(text)
    place = 0
    try:
        while place < len(whole):
            start = place
            while whole[place : place + 1] == "%":
                if len(whole) < place + 3:
                    raise ValueError("an escape has no end")
                int(whole[place + 1 : place + 3], 16)
                place += 3
            if place == start:
                parts.append(whole[place])
                place += 1
                continue
            found = bytes.fromhex(whole[start:place].replace("%", "")).decode()
            parts += [urllib.parse.quote(each, safe="") if each in keeps else each for each in found]
    except ValueError as error:
        raise JsError("URI malformed", "URIError") from error
    return "".join(parts)


def _from_base64(text: Any = UNDEFINED) -> str:
    data = "".join(to_string(text).split())
    try:
        return base64.b64decode(data + "=" * (-len(data) % 4), validate=True).decode("latin-1")
    except (binascii.Error, ValueError) as error:
        raise JsError("The string to be decoded is not correctly encoded.", "Error") from error


def _to_base64(text: Any = UNDEFINED) -> str:
    try:
        return base64.b64encode(to_string(text).encode("latin-1")).decode()
    except UnicodeEncodeError as error:
        raise JsError("Invalid character", "Error") from error


def functions() -> dict[str, Callable[..., Any]]:
    """Return the global functions, by name."""
    return {
        "encodeURIComponent": lambda _, text=UNDEFINED: encode_uri(text),
        "encodeURI": lambda _, text=UNDEFINED: encode_uri(text, keeps=_RESERVED),
        "decodeURIComponent": lambda _, text=UNDEFINED: decode_uri(text),
        "decodeURI": lambda _, text=UNDEFINED: decode_uri(text, keeps=_RESERVED),
        "atob": lambda _, text=UNDEFINED: _from_base64(text),
        "btoa": lambda _, text=UNDEFINED: _to_base64(text),
    }


# ----------------------------------------------------------------------------------------------------------------------
# The builtins


def builtin(store: Store, module: str, name: str, type: FuncType) -> Callable[..., Any] | None:
    """Return a function of these modules that works on arrays of bytes; None for another."""
    encode = _ENCODING.get((module, name))
    if encode is None:
        return _BUILTINS.get((module, name))
    array = type.results[0].heap_type if type.results and isinstance(type.results[0], RefType) else None
    return (lambda text: Array.from_buffer(store, array, encode(_text(text)))) if isinstance(array, int) else None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Trap(TrapCode.CAST_FAILURE, detail="this is no string")
    return value


def _part(array: Any, start: int, end: int) -> tuple[int, int]:
    first, last = start % (1 << 32), end % (1 << 32)
    if array is None:
        raise Trap(TrapCode.NULL_REFERENCE)
    if not first <= last <= len(array):
        raise Trap(TrapCode.ARRAY_OUT_OF_BOUNDS, detail=f"{first} to {last} of an array of {len(array)}")
    return first, last


def _decoded(array: Any, start: int, end: int) -> str:
    first, last = _part(array, start, end)
    data: bytes = array.tobytes()[first:last]
    return data.decode("utf-8", "replace")


def _encoded_into_array(text: Any, array: Any, start: int) -> int:
    data = _utf8(_text(text))
    first, last = _part(array, start, start % (1 << 32) + len(data))
    array[first:last] = data
    return len(data)


def _decoded_wtf8(array: Any) -> str:
    """A text of WTF-8: UTF-8 that has lone surrogates."""
    return joined(array.tobytes().decode("utf-8", "surrogatepass"))


_ENCODING: dict[tuple[str, str], Callable[[str], bytes]] = {
    ("wasm:text-encoder", "encodeStringToUTF8Array"): _utf8,
    ("rt", "string_to_wtf8"): lambda text: joined(text).encode("utf-8", "surrogatepass"),
}
"""What makes the bytes of a new array."""

_BUILTINS: dict[tuple[str, str], Callable[..., Any]] = {
    ("rt", "wtf8_to_string"): _decoded_wtf8,
    ("wasm:text-decoder", "decodeStringFromUTF8Array"): _decoded,
    ("wasm:text-encoder", "measureStringAsUTF8"): lambda text: len(_utf8(_text(text))),
    ("wasm:text-encoder", "encodeStringIntoUTF8Array"): _encoded_into_array,
}
