"""Large frames: the functions that have one, and the check in front of each that counts it.

A function checks the stack limit in its prologue, when its frame is there already. What a frame of ordinary size has
below that, and what is called from it, fits what is left beyond the limit. A large frame may not: a write to it, or the
call that traps, could be beyond the stack's end. How large it is, LLVM knows when it has made the code, and tells in
the stack map. So then, and only for the functions that have one, `with_checks` puts a function of small frame in front
of each, under its name, that counts the other's frame and calls it; and code is made once more. All that is inlined is
so by then, and a frame is what it will be.

The stack map tells the frames of functions with safepoints. Of others that may come to a large one, a record of their
own tells it, which is no code: `measure`.

Promise: no function of those that check the stack limit uses more than `LARGE_FRAME` bytes beyond it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from lowheap.errors import CompilerError, TrapCode
from lowheap.jit.signatures import TRAP_FUNCTION
from lowheap.layout import VMContext, VMStoreContext

LARGE_FRAME = 16 << 10
"""A frame of more bytes is large. What is left beyond the limit is many times as much (`runtime/store_runtime.py`)."""

FIRST_MEASURE = 1 << 62
"""The number of the first stack map record that is no statepoint's, but tells a frame's size."""

_MEASURED_FROM = 256
"""Lines of LLVM's text: no function of fewer has a large frame. A value takes at most a vector's 64 bytes, and a line
makes one."""

_TAIL_CALL = "musttail call "

_STACK_MAP = "llvm.experimental.stackmap"

DECLARATION = f"declare void @{_STACK_MAP}(i64, i32, ...)"

_BODY_SUFFIX = ".large_frame"
_LINKAGE = re.compile(r"\b(?:internal|private|dso_local|hidden) ")
_HEAD = re.compile(
    r'define (?P<returned>(?:[^@"]*? )?(?P<type>void|i32|i64|float|double|<\d+ x \w+>)) '
    r'(?P<name>@(?:"[^"]*"|[-\w$.]+))\('
)
_LOCAL = re.compile(r'%(?:"[^"]*"|[-\w$.]+)')
_DEBUG = re.compile(r" !dbg !\d+")


def body_of(name: str) -> str:
    """Return what a function with a large frame is called when it has got one in front, which has its name now."""
    return name + _BODY_SUFFIX


def may_be_large(body: Sequence[str]) -> bool:
    """Whether a function of these lines may have a large frame."""
    return len(body) >= _MEASURED_FROM


def measure(number: int) -> str:
    """Return the line that makes the stack map tell the size of the frame it is in, with this number."""
    return f"  call void (i64, i32, ...) @{_STACK_MAP}(i64 {FIRST_MEASURE + number}, i32 0)"


def with_checks(llvm_ir: str, large: Mapping[str, int], offsets: Mapping[str, int]) -> str:
    """Put a function that checks the stack limit in front of each large one, in LLVM's printed text before lowering.

    `offsets` has the functions that check the limit, and where they trap; LLVM may have made further ones of a
    function, for some of its arguments. CompilerError for another function with a large frame: nothing keeps that on
    the stack.
    """
    remaining = dict(large)
    output = []
    lines = iter(llvm_ir.split("\n"))
    for line in lines:
        head = _HEAD.match(line) if line.startswith("define ") else None
        size = remaining.pop(head["name"][1:].strip('"'), None) if head else None
        if head is None or size is None:
            output.append(line)
            continue
        name = head["name"][1:].strip('"')
        body = []
        for each in lines:
            body.append(each)
            if each == "}":
                break
        output += _checked(line, head, body, size, _offset_of(name, size, offsets))
    if remaining:
        raise CompilerError(f"the functions {', '.join(remaining)} have large frames, and no head that is understood")
    return "\n".join(output)


def _offset_of(name: str, size: int, offsets: Mapping[str, int]) -> int:
    origin = name
    while origin:
        if (offset := offsets.get(origin)) is not None:
            return offset
        origin = origin.rpartition(".")[0]
    raise CompilerError(f"function {name} has a frame of {size} bytes, and does not check the stack limit")


def _checked(line: str, head: re.Match[str], body: Sequence[str], size: int, offset: int) -> list[str]:
    """The large function under another name, and one under its own that checks the limit and calls it."""
    parameters_end = _end_of_parameters(line, head.end())
    parameters = line[head.end() : parameters_end]
    vmctx = _LOCAL.search(parameters)
    if vmctx is None or not parameters.startswith("ptr "):
        raise CompilerError(f"function {head['name']} has a large frame, and no vmctx: {line}")
    returned = _LINKAGE.sub("", head["returned"])
    own = f'@"{body_of(head["name"][1:].strip(chr(34)))}"'
    # A tail call that led here leaves no frame behind, so this may not either.
    tail = "musttail " if any(_TAIL_CALL in each for each in body) else ""
    collects = not tail and any('"deopt"(' in each for each in body)
    result = "" if head["type"] == "void" else "%lowheap.result = "
    # Attributes that only promise something about arguments and result may stand at the call, too.
    call = f"{result}{tail}call {returned} {own}({parameters})" + (' [ "deopt"() ]' if collects else "")
    return [
        f"define internal {returned} {own}({line[head.end() :]}",
        *body,
        "",
        _DEBUG.sub("", line),
        "lowheap.check:",
        "  %lowheap.frame = call ptr @llvm.frameaddress.p0(i32 0)",
        "  %lowheap.top = ptrtoint ptr %lowheap.frame to i64",
        f"  %lowheap.lowest = sub i64 %lowheap.top, {size}",
        f"  %lowheap.context.place = getelementptr i8, ptr {vmctx.group()}, i64 {VMContext.store.offset}",
        "  %lowheap.context = load ptr, ptr %lowheap.context.place",
        f"  %lowheap.limit.place = getelementptr i8, ptr %lowheap.context, i64 {VMStoreContext.stack_limit.offset}",
        "  %lowheap.limit = load i64, ptr %lowheap.limit.place",
        "  %lowheap.beyond = icmp ult i64 %lowheap.lowest, %lowheap.limit",
        "  br i1 %lowheap.beyond, label %lowheap.trap, label %lowheap.call",
        "",
        "lowheap.trap:",
        f"  call void @{TRAP_FUNCTION}(ptr {vmctx.group()}, i32 {int(TrapCode.STACK_OVERFLOW)}, i32 {offset})",
        "  unreachable",
        "",
        "lowheap.call:",
        f"  {call}",
        "  ret void" if head["type"] == "void" else f"  ret {head['type']} %lowheap.result",
        "}",
    ]


def _end_of_parameters(line: str, start: int) -> int:
    depth = 1
    for position in range(start, len(line)):
        depth += (line[position] == "(") - (line[position] == ")")
        if depth == 0:
            return position
    raise CompilerError(f"a function's head without an end: {line}")
