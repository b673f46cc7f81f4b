"""What the functions of the C interface are emitted with: checks, failures, callbacks, and the shell around a call.

A function of `api.FUNCTIONS` that works on a heap is one of `functions.FUNCTIONS` or `examination.FUNCTIONS`, written
once; the few that are not are methods of an `ApiEmitter` of the same name. Its first argument is the `VMHeap`, which
begins as every vmctx does, so all that the runtime offers works on it. What falls off its end returns LH_OK.

Of everything two forms exist. The fast one is the body. The checked one has a shell around it, which looks at the heap
itself and keeps a second call out, and the body's `check`s in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

from llvmlite import ir

from lowheap.collectors import registry
from lowheap.collectors.shared.frames import FrameRules
from lowheap.embed import calls, examination, functions
from lowheap.embed.api import FUNCTIONS, HEAP, Function, Status, collector_number
from lowheap.embed.system import map_memory, unmap_memory
from lowheap.jit.emit import (
    I8,
    I32,
    I64,
    NO_MEMSET,
    PTR,
    REFERENCE,
    VOID,
    AttributedFunction,
    Emitter,
    NativeFunction,
)
from lowheap.jit.runtime import frame_rules
from lowheap.jit.stackmaps import Architecture
from lowheap.jit.translate import HEAP as WHOLE_HEAP
from lowheap.jit.translate import Place, View, inline_call
from lowheap.layout import (
    HEAP_ERROR_VALUES,
    VMHeap,
)
from lowheap.native import Native
from lowheap.native.check import HeapType, PlaceType, StaticType, Type, ViewType, WordType

WRITTEN_ONCE = functions.FUNCTIONS | examination.FUNCTIONS
"""The functions that are, by name."""

_PROBLEM = "lh.problem"
MESSAGE_SIZE = 256
"""How long a message is at most that an error callback is told, with the 0 at its end."""

WITHOUT_SHELL = ("lh_error_message",)
"""What an error callback may call."""
_AT_ANY_TIME = ("lh_heap_statistics", "lh_verify", "lh_walk", "lh_dump")
"""What only looks, and may do so between the trace and the sweep of a collection by Python, and at what is broken."""

_WORD = 8

_TYPES: dict[str, ir.Type] = {
    "lh_status": I32,
    "lh_ref": REFERENCE,
    "lh_type": I32,
    "int32_t": I32,
    "uint32_t": I32,
    "int64_t": I64,
    "uint64_t": I64,
    "float": ir.FloatType(),
    "double": ir.DoubleType(),
}


class ApiFunction(AttributedFunction):
    """A function of the interface. Unlike compiled code's, its frame is never walked, so it needs no frame pointer.

    Its loops are short most of the time, and a call of memset takes longer than they do.
    """

    def __init__(self, module: ir.Module, type: ir.FunctionType, name: str) -> None:
        """Declare the function in `module`."""
        super().__init__(module, type, name, NO_MEMSET)


def llvm_type_of(c_type: str) -> ir.Type:
    """Return the LLVM type of a C type of the interface; what is not a number is a pointer."""
    return _TYPES.get(c_type, PTR)


def function_type(function: Function) -> ir.FunctionType:
    """Return the LLVM type of a function of the interface."""
    return ir.FunctionType(
        llvm_type_of(function.result), [llvm_type_of(parameter.type) for parameter in function.parameters]
    )


def address_constant(known: ir.GlobalValue) -> ir.Value:
    """Return the address of a global as a plain pointer; llvmlite's own has the type of what it points to."""
    return ir.FormattedConstant(PTR, known.get_reference())


def string_constant(module: ir.Module, text: str) -> ir.Value:
    """Return the address of a C string in a module, one for each text."""
    data = bytearray(text.encode() + b"\0")
    name = f"lh.text.{text}"
    known = module.globals.get(name)
    if known is None:
        type = ir.ArrayType(I8, len(data))
        known = ir.GlobalVariable(module, type, name)
        known.initializer = ir.Constant(type, data)
        known.linkage, known.global_constant, known.unnamed_addr = "private", True, True
    return address_constant(known)


def print_into(
    emitter: Emitter, buffer: ir.Value, size: ir.Value, text: ir.Value, values: Sequence[ir.Value]
) -> ir.Value:
    """Emit a call of snprintf, which returns the whole length, as an i32."""
    snprintf = emitter.module.globals.get("snprintf")
    if snprintf is None:
        snprintf = ir.Function(emitter.module, ir.FunctionType(I32, [PTR, I64, PTR], var_arg=True), "snprintf")
    return emitter.builder.call(snprintf, [buffer, size, text, *values])


def printf_format(text: str) -> str:
    """Return a `str.format` of `{}` and `{:#x}` as printf has it, for u64 values."""
    return text.replace("%", "%%").replace("{:#x}", "0x%llx").replace("{}", "%llu")


class ApiEmitter(Emitter):
    """Emits one function of the interface; the methods here are the pieces that they are made of."""

    is_checked: ClassVar[bool] = False
    is_attached: ClassVar[bool] = False
    """Whether the functions are for heaps of Python's, in its process, which may lose their memory."""

    suffix: ClassVar[str] = ""
    """What stands behind the functions' names where a library has them for several collectors."""

    architecture: ClassVar[Architecture | None] = None
    """How frames of compiled code are linked where there can be some."""

    api: Function

    @classmethod
    def _define(
        cls,
        module: ir.Module,
        name: str,
        result: ir.Type,
        params: list[ir.Type],
        body: Callable[..., ir.Value | None],
        *,
        internal: bool = False,
    ) -> None:
        function = NativeFunction(module, ir.FunctionType(result, [PTR, *params]), name)
        if internal:
            function.linkage = "internal"
        emitter = cls(function)
        value = body(emitter, *function.args[1:])
        if not emitter.builder.block.is_terminated:
            if value is None:
                emitter.builder.ret_void()
            else:
                emitter.builder.ret(value)

    @classmethod
    def rules(cls) -> FrameRules:
        """How frames are walked where the code is for."""
        return frame_rules(cls.architecture, checks_hosts=cls.is_checked)

    # ------------------------------------------------------------------------------------------------------------------
    # Small pieces

    def _call(self, name: str, *args: ir.Value) -> ir.Value:
        return self.builder.call(self.module.globals[name], [self.vmctx, *args])

    def inline_native(self, function: Native[..., Any], *args: ir.Value) -> Any:
        """Translate a function written once where the emitter is; `args` are as in C, without the heap."""
        given = iter(args)
        arguments: list[Any] = []
        for parameter in function.checked.parameters:
            if isinstance(parameter.type, HeapType):
                arguments.append(WHOLE_HEAP)
            elif isinstance(parameter.type, StaticType):
                arguments.append(self.rules())
            else:
                arguments.append(self._as_native(next(given), parameter.type))
        return inline_call(self, function, arguments, self._sibling)

    def _as_native(self, value: ir.Value, wanted: Type) -> Any:
        """An argument of C's as a function written once has it."""
        if isinstance(wanted, ViewType):
            return View(value, wanted.structure)
        if isinstance(wanted, PlaceType):
            return Place(value, wanted.word)
        assert isinstance(wanted, WordType), "the interface has addresses and numbers"
        if isinstance(value.type, ir.PointerType):
            return self.builder.ptrtoint(value, I64)
        type = ir.IntType(wanted.bits)
        return value if value.type == type else self.builder.bitcast(value, type)

    def _sibling(self, function: ir.Function) -> ApiEmitter:
        """Emit what a function of the interface consists of besides; its messages have that one's name."""
        emitter = type(self)(function)
        if hasattr(self, "api"):
            emitter.api = self.api
        return emitter

    def _compare(self, operator: str, a: ir.Value, b: ir.Value | int) -> ir.Value:
        return self.builder.icmp_unsigned(operator, a, a.type(b) if isinstance(b, int) else b)

    # ------------------------------------------------------------------------------------------------------------------
    # Functions

    @classmethod
    def symbol(cls, function: Function) -> str:
        """Return what a function is called in the module."""
        return function.name + cls.suffix

    @classmethod
    def collector_name(cls) -> str:
        """Return the name of the collector that the functions are for."""
        return registry.name_of(cls.collector)

    @classmethod
    def define_function(cls, module: ir.Module, function: Function) -> None:
        """Give a module one function of the interface that works on a heap."""
        has_shell = cls.is_checked and function.name not in WITHOUT_SHELL
        type = function_type(function)
        native = ApiFunction(module, type, f"lh.api.{function.name}" if has_shell else cls.symbol(function))
        if has_shell:
            native.linkage = "internal"
        emitter = cls(native)
        emitter.api = function
        if cls.is_attached and not has_shell and function.name not in (*WITHOUT_SHELL, *_AT_ANY_TIME):
            emitter.return_unless_ok(inline_call(emitter, calls.look, [WHOLE_HEAP]))
        for parameter, argument in zip(function.parameters[1:], native.args[1:], strict=True):
            if isinstance(argument.type, ir.PointerType) and not parameter.may_be_null:
                text = f"the argument {parameter.name} is a null pointer"
                if cls.is_checked:
                    emitter.require(emitter.is_not_null_pointer(argument), Status.BAD_ARGUMENT, text)
        if function.name in WRITTEN_ONCE:
            result = emitter.inline_native(WRITTEN_ONCE[function.name], *native.args[1:])
        else:
            result = getattr(emitter, function.name)(*native.args[1:])
        if not emitter.builder.block.is_terminated:
            emitter.builder.ret(I32(Status.OK) if result is None else result)
        if has_shell:
            cls._define_shell(module, function, native)

    @classmethod
    def _define_shell(cls, module: ir.Module, function: Function, body: ir.Function) -> None:
        """Look at the heap's address, enter it, call the body, and leave."""
        emitter = cls(ApiFunction(module, function_type(function), cls.symbol(function)))
        builder = emitter.builder
        with builder.if_then(builder.not_(emitter.is_not_null_pointer(emitter.vmctx)), likely=False):
            builder.ret(I32(Status.BAD_ARGUMENT))
        number = collector_number(cls.collector_name())
        is_at_any_time = function.name in _AT_ANY_TIME
        emitter.return_unless_ok(inline_call(emitter, calls.enter, [WHOLE_HEAP, number, is_at_any_time]))
        status = builder.call(body, emitter.function.args)
        # A heap that was destroyed is not there any more.
        if function.name == "lh_heap_destroy":
            with builder.if_then(emitter._compare("==", status, Status.OK)):
                builder.ret(status)
        emitter.inline_native(calls.leave)
        builder.ret(status)

    @classmethod
    def define_helpers(cls, module: ir.Module) -> None:
        """Give a module what the pieces call."""
        cls._define(module, "lh.report", VOID, [I32], cls._report, internal=True)
        cls._define(module, _PROBLEM, VOID, [PTR, *[I64] * HEAP_ERROR_VALUES], cls._note_problem, internal=True)
        for name in ("lh.report", _PROBLEM):
            module.globals[name].attributes.add("cold")
            module.globals[name].attributes.add("noinline")

    # ------------------------------------------------------------------------------------------------------------------
    # Failing

    def fail(self, status: Status, text: str, *values: ir.Value) -> None:
        """Note what went wrong, tell the error callback, and return `status`. `text` is of u64 values, as functions
        written once have it.
        """
        self._keep_message(*self._message(text, values))
        self._fail_with_message(status)

    def _message(self, text: str, values: Sequence[ir.Value]) -> tuple[ir.Value, ...]:
        """A message's format, and the numbers that it tells."""
        assert len(values) <= HEAP_ERROR_VALUES, "a message tells few numbers"
        wide = [value if value.type == I64 else self.builder.zext(value, I64) for value in values]
        return string_constant(self.module, f"{self.api.name}: {printf_format(text)}"), *wide

    def _keep_message(self, message: ir.Value, *values: ir.Value) -> None:
        self.store(message, self.vmctx, VMHeap.error_format)
        for number, value in enumerate(values):
            self.store_typed(value, self.at(self.vmctx, VMHeap.error_values.offset + number * _WORD))

    def _fail_with_message(self, status: Status) -> None:
        self.store(int(status), self.vmctx, VMHeap.error_status)
        self._call("lh.report", I32(int(status)))
        self.builder.ret(I32(int(status)))

    def require(self, condition: ir.Value, status: Status, text: str, *values: ir.Value) -> None:
        """Fail unless `condition` holds, in every build."""
        with self.builder.if_then(self.builder.not_(condition), likely=False):
            self.fail(status, text, *values)

    def return_unless_ok(self, status: ir.Value) -> None:
        """Return a status other than LH_OK; there is no message."""
        with self.builder.if_then(self._compare("!=", status, Status.OK), likely=False):
            self.builder.ret(status)

    def _report(self, status: ir.Value) -> None:
        """Tell the host's error callback, if there is one."""
        callback = self.load_pointer(self.vmctx, VMHeap.on_error)
        with self.builder.if_then(self.is_not_null_pointer(callback), likely=False):
            buffer = self.stack_buffer(MESSAGE_SIZE, 1)
            self.format_message(buffer, I64(MESSAGE_SIZE))
            argument = self.load_pointer(self.vmctx, VMHeap.on_error_argument)
            self.call_pointer(callback, VOID, [PTR, I32, PTR], [argument, status, buffer])

    def lh_heap_collector(self, result: ir.Value) -> None:
        """See the table."""
        self.store_typed(string_constant(self.module, self.collector_name()), result)

    def format_message(self, buffer: ir.Value, size: ir.Value) -> ir.Value:
        """Write the last failure's message into `size` bytes; return its whole length, as an i32."""
        text = self.load_pointer(self.vmctx, VMHeap.error_format)
        values = [
            self.load_typed(self.at(self.vmctx, VMHeap.error_values.offset + number * _WORD), I64)
            for number in range(HEAP_ERROR_VALUES)
        ]
        return print_into(self, buffer, size, text, values)

    def lh_error_message(self, buffer: ir.Value, size: ir.Value) -> ir.Value:
        """See the table. Without a failure, the message is empty; without a buffer, nothing is written, and without a
        heap, there is no message.
        """
        builder = self.builder
        with builder.if_then(builder.not_(self.is_not_null_pointer(self.vmctx)), likely=False):
            builder.ret(I64(0))
        size = builder.select(self.is_not_null_pointer(buffer), size, I64(0))
        text = self.load_pointer(self.vmctx, VMHeap.error_format)
        with builder.if_then(builder.not_(self.is_not_null_pointer(text))):
            with builder.if_then(self._compare("!=", size, 0)):
                self.store_typed(I8(0), buffer)
            builder.ret(I64(0))
        return builder.zext(self.format_message(buffer, size), I64)

    # ------------------------------------------------------------------------------------------------------------------
    # Problems that are looked for: `problem`, and the heap's words about them

    def note_problem(self, text: str, values: Sequence[ir.Value]) -> None:
        """Emit what counts a problem, and keeps the first."""
        message, *wide = self._message(text, values)
        self._call(_PROBLEM, message, *wide, *[I64(0)] * (HEAP_ERROR_VALUES - len(wide)))

    def _note_problem(self, message: ir.Value, *values: ir.Value) -> None:
        count = self.problem_count()
        with self.builder.if_then(self._compare("==", count, 0)):
            self._keep_message(message, *values)
        self.store(self.builder.add(count, I64(1)), self.vmctx, VMHeap.problems)

    def problem_count(self) -> ir.Value:
        """How many problems there are."""
        return self.load(self.vmctx, VMHeap.problems)

    def forget_problems(self) -> None:
        """Emit a new beginning."""
        self.store(0, self.vmctx, VMHeap.problems)

    def require_no_problem(self) -> None:
        """Fail with the first problem, if there is one."""
        with self.builder.if_then(self._compare("!=", self.problem_count(), 0), likely=False):
            self._fail_with_message(Status.CORRUPT)

    def map_notes(self, size: ir.Value) -> ir.Value:
        """New memory; 0 when the system refuses."""
        return map_memory(self, size, self.system)

    def unmap_notes(self, notes: ir.Value, size: ir.Value) -> None:
        """The way back."""
        unmap_memory(self, notes, size)

    # ------------------------------------------------------------------------------------------------------------------
    # Calling the host

    def visit(self, visitor: ir.Value, argument: ir.Value, info: ir.Value) -> ir.Value:
        """Call the host's visitor."""
        pointers = [self.builder.inttoptr(each, PTR) for each in (visitor, argument, info)]
        return self.call_pointer(pointers[0], I32, [PTR, PTR], pointers[1:])

    def write(self, writer: ir.Value, argument: ir.Value, data: ir.Value, size: ir.Value) -> ir.Value:
        """Call the host's writer."""
        pointers = [self.builder.inttoptr(each, PTR) for each in (writer, argument, data)]
        return self.call_pointer(pointers[0], I32, [PTR, PTR, I64], [*pointers[1:], size])

    @contextmanager
    def called_back(self) -> Iterator[None]:
        """Emit a call to the host, which may use the heap meanwhile."""
        if not self.is_checked:
            yield
            return
        was_busy = self.load(self.vmctx, VMHeap.is_busy)
        self.store(0, self.vmctx, VMHeap.is_busy)
        yield
        self.store(was_busy, self.vmctx, VMHeap.is_busy)

    def ask_for_room(self, needed: ir.Value) -> ir.Value:
        """Call the host's callback for when an allocation finds no room, if it has one; whether to try once more."""
        answer = self.variable(I32(0))
        callback = self.load_pointer(self.vmctx, VMHeap.out_of_memory)
        with self.builder.if_then(self.is_not_null_pointer(callback)):
            argument = self.load_pointer(self.vmctx, VMHeap.out_of_memory_argument)
            with self.called_back():
                answer.value = self.call_pointer(callback, I32, [PTR, I64], [argument, needed])
        return self._compare("!=", answer.value, 0)

    def release_externrefs(self) -> ir.Value:
        """As in the middle of an allocation; finalizers may use the heap here, too."""
        with self.called_back():
            return super().release_externrefs()

    # ------------------------------------------------------------------------------------------------------------------
    # Conditions

    def is_not_null_pointer(self, pointer: ir.Value) -> ir.Value:
        """Whether an address is not 0, as an i1."""
        return self.builder.icmp_unsigned("!=", self.builder.ptrtoint(pointer, I64), I64(0))


def heap_functions() -> list[Function]:
    """Return the functions of the interface that work on a heap."""
    return [function for function in FUNCTIONS.values() if function.takes_heap]


assert all(function.parameters[0].type == HEAP for function in heap_functions())
