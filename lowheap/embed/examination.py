"""The C interface's part that looks at a heap: its figures, a walk, a dump, and the check of every invariant.

The methods of `ExaminationEmitter` are the functions of `api.FUNCTIONS` of the same names. What walks and verifies is
the collector's (`collectors/shared/walking.py`, `collectors/drc/verify.py`), compiled; Python runs the same. Here is
what they ask for: memory for notes, a call of the host's visitor, and a place for problems. The first one is the
message of the function that found it, `VMHeap.problems` counts them all.

Nothing here trusts the heap's bytes: see there. What a control block points to is looked at before it is followed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from lowheap.collectors.shared import verify, walking
from lowheap.collectors.shared.verify import BYTES_PER_NOTE_SHIFT, verify_places
from lowheap.embed.api import Status, abi_hash
from lowheap.embed.emitter import ApiEmitter, printf_format, string_constant
from lowheap.embed.system import map_memory, unmap_memory
from lowheap.jit.emit import I32, I64, PTR, REFERENCE, VOID
from lowheap.jit.translate import HEAP, inline_call
from lowheap.layout import (
    DUMP_MAGIC,
    HEAP_ERROR_VALUES,
    REFERENCE_SIZE,
    VMDump,
    VMDumpRoot,
    VMHeap,
    VMHeapControl,
    VMHostData,
    VMRootFrame,
    VMRootKind,
    VMStoreContext,
    VMTypeInfo,
)
from lowheap.native import Native

_PROBLEM = "lh.problem"

_WORD = ctypes.sizeof(ctypes.c_uint64)

_ROOTS_AT_ONCE = 64
"""So many roots a dump writes at a time."""


class ExaminationEmitter(ApiEmitter):
    """See the module's docstring."""

    @classmethod
    def define_examination_helpers(cls, module: ir.Module) -> None:
        """Give a module what the functions here call, besides `define_helpers`."""
        cls._define(module, _PROBLEM, VOID, [PTR, *[I64] * HEAP_ERROR_VALUES], cls._note_problem, internal=True)
        module.globals[_PROBLEM].attributes.add("cold")
        module.globals[_PROBLEM].attributes.add("noinline")

    # ------------------------------------------------------------------------------------------------------------------
    # What the functions of `collectors/` that look at a heap ask for

    def examine(self, function: Native[..., Any], *args: ir.Value | int) -> Any:
        """Have the body of a function of the collector's stand here; its problems are this function's."""
        return inline_call(self, function, [HEAP, *args], self._sibling)

    def note_problem(self, text: str, values: Sequence[ir.Value]) -> None:
        """Emit what counts a problem, and keeps the first."""
        assert len(values) <= HEAP_ERROR_VALUES, "a message tells few numbers"
        message = string_constant(self.module, f"{self.api.name}: {printf_format(text)}")
        wide = [value if value.type == I64 else self.builder.zext(value, I64) for value in values]
        wide += [I64(0)] * (HEAP_ERROR_VALUES - len(wide))
        self._call(_PROBLEM, message, *wide)

    def _note_problem(self, message: ir.Value, *values: ir.Value) -> None:
        count = self.problem_count()
        with self.builder.if_then(self._compare("==", count, 0)):
            self.store(message, self.vmctx, VMHeap.error_format)
            for number, value in enumerate(values):
                self.store_typed(value, self.at(self.vmctx, VMHeap.error_values.offset + number * _WORD))
        self.store(self.builder.add(count, I64(1)), self.vmctx, VMHeap.problems)

    def problem_count(self) -> ir.Value:
        """How many problems there are."""
        return self.load(self.vmctx, VMHeap.problems)

    def map_notes(self, size: ir.Value) -> ir.Value:
        """New memory; 0 when the system refuses."""
        return map_memory(self, size, self.system)

    def unmap_notes(self, notes: ir.Value, size: ir.Value) -> None:
        """The way back."""
        unmap_memory(self, notes, size)

    def visit(self, visitor: ir.Value, argument: ir.Value, info: ir.Value) -> ir.Value:
        """Call the host's visitor."""
        pointers = [self.builder.inttoptr(each, PTR) for each in (visitor, argument, info)]
        return self.call_pointer(pointers[0], I32, [PTR, PTR], pointers[1:])

    def _begin(self) -> None:
        self.store(0, self.vmctx, VMHeap.problems)

    def _fail_if_corrupt(self) -> None:
        """Fail with the first problem, if there is one."""
        status = I32(int(Status.CORRUPT))
        with self.builder.if_then(self._compare("!=", self.problem_count(), 0), likely=False):
            self.store(status, self.vmctx, VMHeap.error_status)
            self._call("lh.report", status)
            self.builder.ret(status)

    # ------------------------------------------------------------------------------------------------------------------
    # Walking and verifying

    def lh_walk(self, visitor: ir.Value, argument: ir.Value) -> None:
        """See the table."""
        self._begin()
        pointers = (self.builder.ptrtoint(each, I64) for each in (visitor, argument))
        returned, reference = self.examine(walking.walk, *pointers)
        self._fail_if_corrupt()
        text = "the visitor returned {} at object {:#x}"
        self.require(self._compare("==", returned, 0), Status.CALLBACK, text, returned, reference)

    def lh_verify(self) -> None:
        """See the table."""
        self._begin()
        notes = self.examine(verify.verify, 1)
        has_notes = self._compare("!=", notes, 0)
        with self.builder.if_then(has_notes):
            with self.builder.if_then(self._compare("==", self.problem_count(), 0)):
                self.examine(verify.verify_frames, notes)
            self.examine(verify.forget_notes, notes)
        self._fail_if_corrupt()
        size = self.builder.lshr(self._control(VMHeapControl.bump), I32(BYTES_PER_NOTE_SHIFT))
        self.require(has_notes, Status.SYSTEM, "the system refused {} bytes to take notes in", size)

    # ------------------------------------------------------------------------------------------------------------------
    # Roots

    def _each_root(self, visit: Callable[[VMRootKind, ir.Value, ir.Value], None]) -> None:
        """Emit a look at every root that names an object: `visit(kind, place (i64), reference)` emits what is done."""
        builder = self.builder
        handles = self.load_pointer(self.control, VMHeapControl.handles)
        with self._each(self._control(VMHeapControl.handle_count)) as number:
            wide = builder.zext(number, I64)
            reference = self.load_typed(self.at(handles, builder.mul(wide, I64(REFERENCE_SIZE))), REFERENCE)
            with builder.if_then(self.is_object(reference)):
                visit(VMRootKind.HANDLE, wide, reference)

        slots = self.load_pointer(self.control, VMHeapControl.root_slots)
        with self._each(self._control(VMHeapControl.root_slot_count)) as number:
            address = self.load_typed(self.at(slots, builder.mul(builder.zext(number, I64), I64(_WORD))), I64)
            with builder.if_then(self._compare("!=", address, 0)):
                self._visit_slot(VMRootKind.SLOT, address, visit)

        frame = self.variable(self.load(self.store_context, VMStoreContext.root_frames))
        with self.loop() as frames:
            frames.leave_if(self._compare("==", frame.value, 0))
            record = builder.inttoptr(frame.value, PTR)
            first = self.load(record, VMRootFrame.slots)
            with self._each(self.load(record, VMRootFrame.slot_count)) as number:
                place = builder.add(first, builder.mul(builder.zext(number, I64), I64(REFERENCE_SIZE)))
                self._visit_slot(VMRootKind.FRAME, place, visit)
            frame.value = self.load(record, VMRootFrame.previous)

    def _visit_slot(
        self, kind: VMRootKind, address: ir.Value, visit: Callable[[VMRootKind, ir.Value, ir.Value], None]
    ) -> None:
        reference = self.load_typed(self.builder.inttoptr(address, PTR), REFERENCE)
        with self.builder.if_then(self.is_object(reference)):
            visit(kind, address, reference)

    # ------------------------------------------------------------------------------------------------------------------
    # Dumping: what `snapshot/dump.py` reads

    def lh_dump(self, writer: ir.Value, argument: ir.Value) -> None:
        """See the table."""
        builder = self.builder
        self._begin()
        self.examine(verify_places)
        self._fail_if_corrupt()
        bump = builder.zext(self._control(VMHeapControl.bump), I64)

        def write(data: ir.Value, size: ir.Value) -> None:
            with builder.if_then(self._compare("!=", size, 0)):
                returned = self.call_pointer(writer, I32, [PTR, PTR, I64], [argument, data, size])
                text = "the writer returned {}"
                self.require(self._compare("==", returned, 0), Status.CALLBACK, text, returned)

        counts = {
            name: builder.zext(self._control(getattr(VMHeapControl, name)), I64)
            for name in ("type_count", "type_data_length", "handle_count", "host_data_count")
        }
        header = self.stack_buffer(ctypes.sizeof(VMDump), ctypes.alignment(VMDump))
        self.store(DUMP_MAGIC, header, VMDump.magic)
        self.store(abi_hash(), header, VMDump.abi)
        self.store(ctypes.sizeof(VMHeapControl), header, VMDump.control_size)
        for name, count in counts.items():
            self.store(count, header, getattr(VMDump, name))
        self.store(self._count_roots(), header, VMDump.root_count)
        self.store(bump, header, VMDump.heap_size)
        write(header, I64(ctypes.sizeof(VMDump)))
        write(self.control, I64(ctypes.sizeof(VMHeapControl)))
        for table, name, size in (
            (VMHeapControl.type_table, "type_count", ctypes.sizeof(VMTypeInfo)),
            (VMHeapControl.type_data, "type_data_length", ctypes.sizeof(ctypes.c_uint32)),
            (VMHeapControl.handles, "handle_count", REFERENCE_SIZE),
            (VMHeapControl.host_data, "host_data_count", ctypes.sizeof(VMHostData)),
        ):
            write(self.load_pointer(self.control, table), builder.mul(counts[name], I64(size)))
        self._write_roots(write)
        write(self.heap_base, bump)

    def _count_roots(self) -> ir.Value:
        count = self.variable(I64(0))

        def add(_kind: VMRootKind, _place: ir.Value, _reference: ir.Value) -> None:
            count.value = self.builder.add(count.value, I64(1))

        self._each_root(add)
        return count.value

    def _write_roots(self, write: Callable[[ir.Value, ir.Value], None]) -> None:
        """Write all roots, a bufferful at a time."""
        builder, size = self.builder, ctypes.sizeof(VMDumpRoot)
        capacity = _ROOTS_AT_ONCE * size
        buffer = self.stack_buffer(capacity, ctypes.alignment(VMDumpRoot))
        used = self.variable(I64(0))

        def add(kind: VMRootKind, place: ir.Value, reference: ir.Value) -> None:
            record = self.at(buffer, used.value)
            self.store(place, record, VMDumpRoot.place)
            self.store(int(kind), record, VMDumpRoot.kind)
            self.store(reference, record, VMDumpRoot.reference)
            used.value = builder.add(used.value, I64(size))
            with builder.if_then(self._compare("==", used.value, capacity)):
                write(buffer, used.value)
                used.value = I64(0)

        self._each_root(add)
        write(buffer, used.value)
