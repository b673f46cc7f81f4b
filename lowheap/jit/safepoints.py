"""Safepoints: which references live across a call that may collect, and how LLVM is told to keep them findable.

A front end emits each call that may collect through `call`, which inserts a `SafepointCall`. When a function is
complete, `fill_safepoints` computes by a backward liveness pass which references are live after each such call, and the
call then prints them as a `"deopt"` operand bundle. LLVM's optimiser keeps bundles intact and, when it inlines, puts
the caller's list in front of the callee's. After optimisation `lower_statepoints` rewrites each call with such a
bundle, in LLVM's printed module text, into `llvm.experimental.gc.statepoint`, and has each listed reference stored in
its function's root frame (`lowheap.jit.root_frames` chooses where). The statepoint is given that frame's address and a
mask of the slots that are live, both of which LLVM puts into the object file's stack map (`lowheap.jit.stackmaps` reads
it).

**Calls with a handler.** A call that may throw, where the function has a handler, is emitted by `invoke`: a terminator
with two ways on. What the handler uses is live across the call like what is used behind it, so it is in the list, and
in the root frame. Its result exists on the normal way only, in whose first block, which no other way leads to, a root
frame has its store.

**Where lists would be long.** The lists of n references that live across n calls are n * n entries of text, which LLVM
would carry through all of its passes. If a function's lists are that long, `fill_safepoints` itself gives it a root
frame, before LLVM sees it: each reference is stored where it is defined, and loaded again where it is used behind a
safepoint; a bundle has the frame's address and a mask, which `lower_statepoints` hands on. That costs the function a
store for each reference, wherever it is needed, so it is not for others.

Promises: a call's list holds what is live *after* it and nothing else (too much keeps garbage, too little frees live
objects); the text rewriting lowers every call with a `"deopt"` bundle or raises `CompilerError` quoting the line; its
time is linear in the text's length, but for sets, which are the bits of a number.

References are i32 heap indices in a heap that does not move, so nothing is relocated: values used after a call stay
where LLVM put them, and the slots are only read.
"""

from __future__ import annotations

import functools
import itertools
import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from llvmlite import ir

from lowheap.errors import CompilerError
from lowheap.jit import large_frames, root_frames
from lowheap.jit.copies import spread_additions
from lowheap.jit.emit import VolatileLoad
from lowheap.jit.masks import SLOT_SIZE, live_count
from lowheap.jit.statepoints import FUNCTIONS_GLOBAL, Statepoint, StatepointModule

GC_STRATEGY = "statepoint-example"
"""LLVM's garbage collection strategy whose stack map describes statepoints."""

_CALL_FRAMES = "uwtable(sync)"
"""The attribute with which LLVM describes a function's frame in the object file, as it is at the function's calls."""

_SCALABLE = "<vscale x"

MOST_LISTED = 20_000
"""So many references are listed at a function's calls together at most; with more, it has a root frame from the start.

As many as 200 references make that live across 200 calls. Below, the lists cost little, and are worth it: LLVM may move
what is listed, and each store is put where it runs least often.
"""

_ROOTS_NAME = "lowheap.roots"

_PLACE_TYPE = "i33"
"""The type of a place in a bundle: it holds any u32, and is none of a reference's, or of a mask's."""

_REFERENCE_TYPE = ir.IntType(32)
_BYTE_TYPE, _OFFSET_TYPE = ir.IntType(8), ir.IntType(64)


# --- Emitting: calls that carry their live references -----------------------------------------------------------------


class SafepointCall(ir.CallInstr):  # type: ignore[misc]  # llvmlite ships no type information
    """A call that may collect; prints its `live` references, or `slots`, as a `"deopt"` operand bundle.

    The bundle is printed even when it is empty: it is what makes the call a statepoint, without which the frame walker
    could not pass through the calling frame.
    """

    _live: tuple[ir.Value, ...] = ()
    places: tuple[int, ...] = ()
    """The byte offset, in its module, of the instruction that the call is for, where one is; and before it those of the
    calls in whose place that is, the outermost first. They go in front of the bundle's list, so that inlining leaves
    such a chain, too."""
    slots: tuple[ir.Value, int] | None = None
    """In place of `live` in a function that has a root frame: its address, and the mask of the slots that are live."""

    @property
    def live(self) -> tuple[ir.Value, ...]:
        """The references live after the call, in definition order; empty until `fill_safepoints` has run."""
        return self._live

    @live.setter
    def live(self, values: Sequence[ir.Value]) -> None:
        self._live = tuple(values)
        self._clear_string_cache()

    def replace_usage(self, old: ir.Value, new: ir.Value) -> None:
        """Replace a value among the operands and in the bundle."""
        super().replace_usage(old, new)
        if any(value is old for value in self._live):
            self.live = tuple(new if value is old else value for value in self._live)

    def descr(self, buf: list[str]) -> None:
        """Append the printed instruction: the plain call, then the bundle, then metadata, as LLVM's grammar has it."""
        parts: list[str] = []
        self._descr(parts, add_metadata=False)
        plain = "".join(parts).rstrip("\n")
        bundle = self.bundle(lambda value: value.get_reference())
        buf.append(f"{plain} {bundle}{self._stringify_metadata(leading_comma=True)}\n")

    def bundle(self, reference: Callable[[ir.Value], str]) -> str:
        """Return the operand bundle as it is printed; `reference` is how a value is written."""
        slots = root_frames.operands(reference(self.slots[0]), self.slots[1]) if self.slots else ()
        live = (f"{value.type} {reference(value)}" for value in self._live)
        places = (f"{_PLACE_TYPE} {place}" for place in self.places)
        return f'[ "deopt"({", ".join((*places, *slots, *live))}) ]'


class SafepointInvoke(SafepointCall):
    """A call that may collect and may throw: a terminator, which goes on at `normal_to`, or, thrown, at `unwind_to`.

    `normal_to` has no other predecessor, and begins without phis. `unwind_to` begins with a landing pad.
    """

    def __init__(
        self,
        parent: ir.Block,
        callee: ir.Value,
        args: Sequence[ir.Value],
        normal_to: ir.Block,
        unwind_to: ir.Block,
        name: str = "",
    ) -> None:
        """Make the instruction; `invoke` inserts it."""
        super().__init__(parent, callee, args, name=name)
        self.opname = "invoke"
        self.normal_to, self.unwind_to = normal_to, unwind_to

    def descr(self, buf: list[str]) -> None:
        """Append the printed instruction."""
        parts: list[str] = []
        self._descr(parts, add_metadata=False)
        plain = "".join(parts).rstrip("\n")
        bundle = self.bundle(lambda value: value.get_reference())
        ways = self.ways(lambda value: value.get_reference())
        buf.append(f"{plain} {bundle} {ways}{self._stringify_metadata(leading_comma=True)}\n")

    def ways(self, reference: Callable[[ir.Value], str]) -> str:
        """Return the two ways on as they are printed; `reference` is how a block is written."""
        return f"to label {reference(self.normal_to)} unwind label {reference(self.unwind_to)}"


def call(
    builder: ir.IRBuilder,
    callee: ir.Value,
    args: Sequence[ir.Value],
    name: str = "",
    *,
    places: tuple[int, ...] = (),
    tail: str = "",
) -> SafepointCall:
    """Insert a call that may collect at the builder's position, and return it.

    `callee` is an `ir.Function`, or a value whose type is a pointer to an `ir.FunctionType` (`type.as_pointer()`).
    `places` are a `SafepointCall`'s. `tail` may be
    "musttail": such a call is a safepoint only where its function is inlined and something comes after it.
    """
    instruction = SafepointCall(builder.block, callee, args, name=name, tail=tail)
    instruction.places = places
    builder._insert(instruction)
    return instruction


def invoke(
    builder: ir.IRBuilder,
    callee: ir.Value,
    args: Sequence[ir.Value],
    unwind_to: ir.Block,
    *,
    places: tuple[int, ...] = (),
) -> SafepointInvoke:
    """Insert a call that may throw, to a handler in this function; the builder goes on behind it, in a new block."""
    normal_to = builder.function.append_basic_block()
    instruction = SafepointInvoke(builder.block, callee, args, normal_to, unwind_to)
    instruction.places = places
    builder._set_terminator(instruction)
    builder.position_at_end(normal_to)
    return instruction


# --- Liveness ---------------------------------------------------------------------------------------------------------


def fill_safepoints(function: ir.Function, references: Collection[ir.Value]) -> None:
    """Set `live` of every `SafepointCall` in `function` to the members of `references` that are live after it.

    A value is live after a call if some path from just behind the call reaches a use of it before its definition. The
    call's own result is left out, and being an argument of the call is no use after it. A phi uses an incoming value at
    the end of the predecessor, and defines its result at the start of its block. A bundle is no use.

    Phis that feed, however indirectly, nothing but phis are removed from their blocks first: they would keep garbage
    alive. References are listed in definition order (arguments, then instructions block by block), without duplicates.

    If the lists have more than `MOST_LISTED` entries together, the function gets a root frame instead, and its calls
    `slots`; it is not inlined any more, for it may have a large frame, unless it is to be always.

    `references` may hold constants (null, an i31), which are never roots; every other member is an i32 argument or
    instruction of `function`. Blocks that cannot be reached are allowed; uses in them keep nothing alive elsewhere.

    Raises `CompilerError` for a foreign or wrongly typed reference, a block without a terminator, or a terminator other
    than br, switch, invoke, ret and unreachable.
    """
    fill_from(function, Liveness.of(function, references))


def fill_from(function: ir.Function, liveness: Liveness) -> None:
    """Do what `fill_safepoints` does, with what `Liveness.of` found out about the function."""
    calls = liveness.calls()
    if sum(mask.bit_count() for _, mask in calls) <= MOST_LISTED:
        for call, mask in calls:
            call.live = tuple(liveness.references[number] for number in set_bits(mask))
        return
    union = functools.reduce(operator.or_, (mask for _, mask in calls))
    _RootFrame(function, liveness.of_some(union)).emit()


def _successors(function: ir.Function, block: ir.Block) -> list[ir.Block]:
    """The blocks that control may pass to from the end of `block`."""
    terminator = block.terminator
    where = f"block {block.name!r} of function {function.name!r}"
    if terminator is None:
        raise CompilerError(f"{where} has no terminator; liveness needs complete functions")
    if isinstance(terminator, ir.Branch | ir.ConditionalBranch):
        return [operand for operand in terminator.operands if isinstance(operand, ir.Block)]
    if isinstance(terminator, ir.SwitchInstr):
        return [terminator.default, *(target for _, target in terminator.cases)]
    if isinstance(terminator, SafepointInvoke):
        return [terminator.normal_to, terminator.unwind_to]
    if isinstance(terminator, ir.Ret | ir.Unreachable):
        return []
    raise CompilerError(
        f"{where} ends in {terminator.opname!r}; liveness understands br, switch, invoke, ret and unreachable only"
    )


def _reachable(blocks: Sequence[ir.Block], successors: dict[int, list[ir.Block]]) -> set[int]:
    """The ids of the blocks that can be reached from the entry block."""
    pending = list(blocks[:1])
    reached = {id(block) for block in pending}
    while pending:
        for successor in successors[id(pending.pop())]:
            if id(successor) not in reached:
                reached.add(id(successor))
                pending.append(successor)
    return reached


def _in_definition_order(function: ir.Function, references: Collection[ir.Value]) -> list[ir.Value]:
    """The references without constants and duplicates, arguments first, then in the order of their instructions."""
    wanted = {id(value): value for value in references if not isinstance(value, ir.Constant)}
    ordered = []
    for value in (*function.args, *(instruction for block in function.blocks for instruction in block.instructions)):
        if wanted.pop(id(value), None) is not None:
            if value.type != _REFERENCE_TYPE:
                raise CompilerError(
                    f"reference {value.get_reference()} of function {function.name!r} has type {value.type}; "
                    f"references are {_REFERENCE_TYPE}"
                )
            ordered.append(value)
    if wanted:
        stranger = next(iter(wanted.values()))
        raise CompilerError(
            f"reference {stranger} is neither an argument nor an instruction of function {function.name!r}"
        )
    return ordered


def _operands(instruction: ir.Instruction) -> Sequence[ir.Value]:
    """What an instruction other than a phi uses (a `Comment` has no operand list)."""
    return instruction.operands or ()


def _prune_dead_phis(blocks: Sequence[ir.Block], reachable: set[int]) -> set[int]:
    """Remove the phis that nothing but phis uses; return the ids of those that an instruction in reachable code needs.

    The two sets differ by the phis that only unreachable code uses: those must stay for the text to be valid, but what
    flows into them is not used.
    """
    phis = {id(phi): phi for block in blocks for phi in block.instructions if isinstance(phi, ir.PhiInstr)}
    if not phis:
        return set()

    def closure(used_by: Iterator[ir.Block]) -> set[int]:
        found: set[int] = set()
        pending = [
            id(operand)
            for block in used_by
            for instruction in block.instructions
            if not isinstance(instruction, ir.PhiInstr)
            for operand in _operands(instruction)
        ]
        while pending:
            key = pending.pop()
            if key in phis and key not in found:
                found.add(key)
                pending.extend(id(value) for value, _ in phis[key].incomings)
        return found

    needed = closure(block for block in blocks if id(block) in reachable)
    kept = needed | closure(block for block in blocks if id(block) not in reachable)
    if len(kept) < len(phis):
        for block in blocks:
            block.instructions[:] = [
                instruction
                for instruction in block.instructions
                if not isinstance(instruction, ir.PhiInstr) or id(instruction) in kept
            ]
    return needed


class Liveness:
    """Backward liveness of a function's references; a set of references is the bits of a Python int."""

    @classmethod
    def of(cls, function: ir.Function, references: Collection[ir.Value]) -> Liveness:
        """Look at a complete function; phis that feed nothing but phis are removed. See `fill_safepoints`."""
        blocks: list[ir.Block] = list(function.blocks)
        successors = {id(block): _successors(function, block) for block in blocks}
        ordered = _in_definition_order(function, references)
        needed = _prune_dead_phis(blocks, _reachable(blocks, successors))
        return cls(blocks, successors, ordered, needed)

    def __init__(
        self,
        blocks: Sequence[ir.Block],
        successors: dict[int, list[ir.Block]],
        references: Sequence[ir.Value],
        needed_phis: set[int],
    ) -> None:
        """Number the references and summarise each block."""
        self._made_of = blocks, successors, needed_phis
        self.blocks = blocks
        self.references = references
        self.bits = {id(value): 1 << number for number, value in enumerate(references)}
        position = {id(block): index for index, block in enumerate(blocks)}
        self.successors = [[position[id(target)] for target in successors[id(block)]] for block in blocks]
        self.predecessors: list[list[int]] = [[] for _ in blocks]
        for index, targets in enumerate(self.successors):
            for target in targets:
                self.predecessors[target].append(index)

        # used_on_leaving[b]: what the phis of b's successors take from b. A phi that is not needed uses nothing.
        self.used_on_leaving = [0] * len(blocks)
        for block in blocks:
            for instruction in block.instructions:
                if isinstance(instruction, ir.PhiInstr) and id(instruction) in needed_phis:
                    for value, source in instruction.incomings:
                        if id(source) in position:
                            self.used_on_leaving[position[id(source)]] |= self.bits.get(id(value), 0)

        self.used_first = [0] * len(blocks)  # used before any definition in the block
        self.defined = [0] * len(blocks)
        self.with_calls: list[int] = []  # the blocks that have safepoints
        for index, block in enumerate(blocks):
            used = defined = 0
            has_call = False
            for instruction in reversed(block.instructions):
                bit = self.bits.get(id(instruction), 0)
                defined |= bit
                used = (used & ~bit) | self.uses(instruction)
                has_call = has_call or isinstance(instruction, SafepointCall)
            self.used_first[index] = used
            self.defined[index] = defined
            if has_call:
                self.with_calls.append(index)

    def of_some(self, references: int) -> Liveness:
        """The same of some of the references."""
        blocks, successors, needed_phis = self._made_of
        return Liveness(blocks, successors, [self.references[each] for each in set_bits(references)], needed_phis)

    def uses(self, instruction: ir.Instruction) -> int:
        """The references among an instruction's operands; none for a phi, which uses them in its predecessors."""
        used, bit_of = 0, self.bits.get
        if instruction.__class__ is not ir.PhiInstr:
            for operand in instruction.operands or ():
                used |= bit_of(id(operand), 0)
        return used

    @functools.cached_property
    def solution(self) -> tuple[list[int], list[int]]:
        """The references live where each block begins, and where it ends: the least solution of the equations."""
        live_in = [0] * len(self.blocks)
        live_out = list(self.used_on_leaving)
        order = root_frames.reverse_post_order(self.successors)
        reached = set(order)
        # Blocks in post-order, again and again: a loop takes one round more, where a queue may take one for each block.
        order += [number for number in range(len(self.blocks)) if number not in reached]
        waiting = set(order)
        while waiting:
            for index in reversed(order):
                if index not in waiting:
                    continue
                waiting.remove(index)
                out = self.used_on_leaving[index]
                for successor in self.successors[index]:
                    out |= live_in[successor]
                live_out[index] = out
                into = self.used_first[index] | (out & ~self.defined[index])
                if into != live_in[index]:
                    live_in[index] = into
                    waiting.update(self.predecessors[index])
        return live_in, live_out

    def calls(self) -> list[tuple[SafepointCall, int]]:
        """Each safepoint, with the set live behind it."""
        found: list[tuple[SafepointCall, int]] = []
        for index in self.with_calls:
            found += [(each, live) for each, live in self._behind(index) if isinstance(each, SafepointCall)]
        return found

    def behind(self) -> Iterator[tuple[ir.Instruction, int]]:
        """Each instruction, with the set live behind it but for its result."""
        for index in range(len(self.blocks)):
            yield from self._behind(index)

    def _behind(self, index: int) -> Iterator[tuple[ir.Instruction, int]]:
        """The same for one block, walked from its end."""
        live = self.solution[1][index]
        for instruction in reversed(self.blocks[index].instructions):
            live &= ~self.bits.get(id(instruction), 0)
            yield instruction, live
            live |= self.uses(instruction)


class _RootFrame:
    """Gives a function a root frame: each reference is in a slot, from its definition to its last use.

    It is stored there where it is defined, and loaded from there behind a safepoint. Were it kept besides, LLVM would
    spill it, for there are many: in a time that is the square of their number.
    """

    def __init__(self, function: ir.Function, liveness: Liveness) -> None:
        """Find the slots; change nothing yet."""
        self.function = function
        self.liveness = liveness
        self.arguments = [value for value in function.args if id(value) in liveness.bits]
        self.slots: dict[int, int] = {}  # by id of the reference
        self.masks: list[tuple[SafepointCall, int]] = []
        self._choose()

    def _choose(self) -> None:
        """Give each reference the first slot that is free where it is defined.

        What is alive there was defined in dominating places, so it has its slot already.
        """
        liveness = self.liveness
        live_in, live_out = liveness.solution
        taken_behind: dict[int, int] = {}  # of blocks that are done: the slots that are taken at the end
        for index in root_frames.reverse_post_order(liveness.successors):
            taken = 0
            if index:
                before = next(each for each in liveness.predecessors[index] if each in taken_behind)
                taken = taken_behind[before] & ~self._slots_of(live_out[before] & ~live_in[index])
            else:
                for argument in self.arguments:
                    if live_in[0] & liveness.bits[id(argument)]:
                        taken = self._take(argument, taken)
            instructions = liveness.blocks[index].instructions
            behind = [live_out[index]]  # what lives behind each instruction, and before the first; last first
            for instruction in reversed(instructions):
                own = liveness.bits.get(id(instruction), 0)
                behind.append(behind[-1] & ~own | liveness.uses(instruction))
            live = behind.pop()
            for instruction in instructions:
                after = behind.pop()
                taken &= ~self._slots_of(live & ~after)
                if isinstance(instruction, SafepointCall):
                    self.masks.append((instruction, taken))
                if liveness.bits.get(id(instruction), 0) & after:
                    taken = self._take(instruction, taken)
                live = after
            taken_behind[index] = taken

    def _take(self, reference: ir.Value, taken: int) -> int:
        free = ~taken & (taken + 1)
        self.slots[id(reference)] = free.bit_length() - 1
        return taken | free

    def _slots_of(self, references: int) -> int:
        found = 0
        for number in set_bits(references):
            found |= 1 << self.slots[id(self.liveness.references[number])]
        return found

    def emit(self) -> None:
        """Add the frame and the stores to the function, and tell the calls."""
        count = 1 + max(self.slots.values())
        entry = self.liveness.blocks[0]
        builder = ir.IRBuilder(entry)
        rest, entry.instructions = entry.instructions, []
        builder.position_at_end(entry)
        frame = builder.alloca(ir.ArrayType(_REFERENCE_TYPE, count), name=_ROOTS_NAME)
        frame.align = SLOT_SIZE
        frame.type = ir.PointerType()  # so that addresses are had without a cast, on which LLVM would spend n * n steps
        for argument in self.arguments:
            self._store(builder, frame, argument)
        entry.instructions += rest
        results = {
            id(block.terminator.normal_to): block.terminator
            for block in self.liveness.blocks
            if isinstance(block.terminator, SafepointInvoke) and id(block.terminator) in self.slots
        }
        for index in root_frames.reverse_post_order(self.liveness.successors):
            block = self.liveness.blocks[index]
            self._rewrite(builder, frame, block, results.get(id(block)))
        for call, mask in self.masks:
            call.slots = frame, mask
            call._clear_string_cache()
        if "alwaysinline" not in self.function.attributes:
            self.function.attributes.add("noinline")

    def _rewrite(self, builder: ir.IRBuilder, frame: ir.Value, block: ir.Block, result: ir.Value | None) -> None:
        """Store each reference behind its definition, a phi's behind the block's last phi; load it again for its uses.

        What was defined, or loaded, in the block since its last safepoint is at hand. `result` is that of the call that
        this block is the normal way on from.
        """
        pending: list[ir.Value] = [] if result is None else [result]
        at_hand = {id(each): each for each in pending}  # by id of the reference
        if block is self.liveness.blocks[0]:  # where their stores stand, which make what is loaded
            at_hand |= {id(argument): argument for argument in self.arguments}
        instructions, block.instructions = block.instructions, []
        builder.position_at_end(block)
        for instruction in instructions:
            if not isinstance(instruction, ir.PhiInstr | ir.LandingPadInstr):
                for reference in pending:
                    self._store(builder, frame, reference)
                pending.clear()
                for operand in dict.fromkeys(_operands(instruction)):
                    if id(operand) not in self.slots:
                        continue
                    if id(operand) not in at_hand:
                        at_hand[id(operand)] = self._load(builder, frame, operand)
                    if at_hand[id(operand)] is not operand:
                        instruction.replace_usage(operand, at_hand[id(operand)])
            builder._insert(instruction)
            if isinstance(instruction, SafepointCall):
                at_hand.clear()
            if id(instruction) in self.slots and instruction is not block.terminator:
                pending.append(instruction)
                at_hand[id(instruction)] = instruction

    def _store(self, builder: ir.IRBuilder, frame: ir.Value, reference: ir.Value) -> None:
        if id(reference) in self.slots:
            builder.store(reference, self._place(builder, frame, reference), align=SLOT_SIZE)

    def _load(self, builder: ir.IRBuilder, frame: ir.Value, reference: ir.Value) -> ir.Value:
        loaded = VolatileLoad(builder.block, self._place(builder, frame, reference), typ=reference.type)
        loaded.align = SLOT_SIZE
        builder._insert(loaded)
        return loaded

    def _place(self, builder: ir.IRBuilder, frame: ir.Value, reference: ir.Value) -> ir.Value:
        offset = SLOT_SIZE * self.slots[id(reference)]
        return builder.gep(frame, [_OFFSET_TYPE(offset)], source_etype=_BYTE_TYPE)


def set_bits(mask: int) -> Iterator[int]:
    """The numbers of the bits that are set, ascending."""
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


# --- Lowering: from bundles to statepoints, on LLVM's printed text ----------------------------------------------------


_STATEPOINT = "llvm.experimental.gc.statepoint"
_RESULT = "llvm.experimental.gc.result"
_TOKEN_PREFIX = root_frames.PREFIX.removeprefix("%")

# A bundle tag, as opposed to a quoted name (@"deopt"), a metadata or character string, or an attribute ("deopt"="x").
# Quotes inside LLVM's quoted strings are escaped as \22, so this cannot match inside one.
_DEOPT_TAG = re.compile(r'(?<![@%!$c\\])"deopt"(?!\s*=)')

_NAME = re.compile(r'[%@](?:"[^"]*"|[-\w$.]+)')
_NUMBER = re.compile(r"[-+]?\d[\w.+-]*")
_WORD = re.compile(r"[a-z_]\w*")
_QUOTED = re.compile(r'"[^"]*"')
_SCALAR = re.compile(r"i\d+\b|half\b|bfloat\b|float\b|double\b|ptr\b(?! addrspace)")
_VECTOR = re.compile(r"<(\d+) x (i\d+|half|bfloat|float|double|ptr)>")
_METADATA = re.compile(r"!([\w.-]+) (![\w.]+)")
_LOCAL_RESULT = re.compile(r'(%(?:"[^"]*"|[-\w$.]+)) = ')

_TAIL_MARKERS = frozenset({"tail", "notail"})
_CALLING_CONVENTIONS = frozenset({"ccc", "fastcc", "coldcc"})
_FAST_MATH_FLAGS = frozenset({"nnan", "ninf", "nsz", "arcp", "contract", "afn", "reassoc", "fast"})

# Attributes of arguments and results that only promise something to the optimiser, which has finished. What is not
# listed changes how a value is passed (signext, byval, sret, inreg, ...) or is unknown; both are refused.
_HARMLESS_VALUE_ATTRIBUTES = frozenset(
    {
        "align",
        "captures",
        "dead_on_return",
        "dead_on_unwind",
        "dereferenceable",
        "dereferenceable_or_null",
        "initializes",
        "noalias",
        "nocapture",
        "nofpclass",
        "nofree",
        "nonnull",
        "noundef",
        "range",
        "readnone",
        "readonly",
        "returned",
        "writable",
        "writeonly",
    }
)

# Attributes of the called function that change what the call instruction must do.
_REFUSED_FUNCTION_ATTRIBUTES = re.compile(r'\breturns_twice\b|"no_calle[er]_saved_registers"')

_CONSTANT_WORDS = frozenset({"true", "false", "null", "undef", "poison", "zeroinitializer", "none"})
_CONSTANT_EXPRESSIONS = frozenset(
    {
        "add",
        "addrspacecast",
        "bitcast",
        "extractelement",
        "getelementptr",
        "insertelement",
        "inttoptr",
        "ptrtoaddr",
        "ptrtoint",
        "shufflevector",
        "splat",
        "sub",
        "trunc",
        "xor",
    }
)
_CONSTANT_EXPRESSION_FLAGS = frozenset({"inbounds", "inrange", "nsw", "nusw", "nuw"})

_BRACKETS = {"(": ")", "[": "]", "{": "}", "<": ">"}
_BRACKET_ENDS = frozenset(_BRACKETS.values())
_BRACKET_OR_QUOTED = re.compile(r'[()\[\]{}<>]|"(?:[^"]*")?')


class _NotUnderstoodError(Exception):
    """A piece of text is outside the subset that the rewriting knows; the message says what."""


class _Cursor:
    """A position in one line of LLVM assembly."""

    def __init__(self, text: str, position: int = 0) -> None:
        """Start at `position`, behind any blanks."""
        self.text = text
        self.position = position
        self.skip()

    def skip(self) -> None:
        """Pass over blanks."""
        text, position = self.text, self.position
        while position < len(text) and text[position] in " \t":
            position += 1
        self.position = position

    def at(self, literal: str) -> bool:
        """Whether the text goes on with `literal`."""
        return self.text.startswith(literal, self.position)

    def done(self) -> bool:
        """Whether the line is used up."""
        return self.position >= len(self.text)

    def rest(self) -> str:
        """What is left of the line."""
        return self.text[self.position :]

    def match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """Take what `pattern` matches here, and the blanks behind it; None if it does not match."""
        found = pattern.match(self.text, self.position)
        if found:
            self.position = found.end()
            self.skip()
        return found

    def peek_word(self) -> str:
        """The keyword at this position, or the empty string."""
        found = _WORD.match(self.text, self.position)
        return found.group() if found else ""

    def accept(self, literal: str) -> bool:
        """Take `literal` if it stands here."""
        if not self.text.startswith(literal, self.position):
            return False
        self.position += len(literal)
        self.skip()
        return True

    def expect(self, literal: str) -> None:
        """Take `literal`, which must stand here."""
        if not self.accept(literal):
            raise _NotUnderstoodError(f"expected {literal!r} before {self.rest()!r}")

    def take_word(self, word: str) -> None:
        """Take a keyword that `peek_word` has seen."""
        self.position += len(word)
        self.skip()

    def balanced(self) -> str:
        """Take a bracketed text, from the bracket here to its partner; quoted strings are opaque."""
        start = self.position
        expected: list[str] = []
        for token in _BRACKET_OR_QUOTED.finditer(self.text, start):
            character = token.group()
            if character in _BRACKETS:
                expected.append(_BRACKETS[character])
            elif character in _BRACKET_ENDS:
                if not expected or character != expected.pop():
                    break
                if not expected:
                    self.position = token.end()
                    taken = self.text[start : self.position]
                    self.skip()
                    return taken
            elif character == '"':  # one without a partner
                break
        raise _NotUnderstoodError(f"unbalanced brackets in {self.text[start:]!r}")


@dataclass(frozen=True, slots=True)
class _Type:
    """A first-class type as printed, and its spelling in the name of an overloaded intrinsic."""

    text: str
    mangled: str


_MANGLED = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64", "ptr": "p0"}
_BITS = {"half": 16, "bfloat": 16, "float": 32, "double": 64, "ptr": 64}
_MAXIMUM_SCALAR_BITS = 64
_MAXIMUM_VECTOR_BITS = 128


def _parse_type(cursor: _Cursor) -> _Type:
    """Take a scalar or a fixed vector of scalars; aggregates, scalable vectors and address spaces are refused.

    So is what is wider than a register: LLVM returns it through memory, which its statepoint lowering does not survive.
    """
    start = cursor.position
    if scalar := cursor.match(_SCALAR):
        text = scalar.group().rstrip()
        count, element, limit = 1, text, _MAXIMUM_SCALAR_BITS
        mangled = _MANGLED.get(text, text)
    elif vector := cursor.match(_VECTOR):
        text, count, element, limit = vector.group(), int(vector.group(1)), vector.group(2), _MAXIMUM_VECTOR_BITS
        mangled = f"v{count}{_MANGLED.get(element, element)}"
    else:
        raise _NotUnderstoodError(f"neither a scalar nor a vector type: {cursor.text[start:]!r}")
    bits = count * (_BITS.get(element) or int(element.removeprefix("i")))
    if bits > limit:
        raise _NotUnderstoodError(f"{text} has {bits} bits; the most is {limit}")
    return _Type(text, mangled)


def _skip_value_attributes(cursor: _Cursor) -> None:
    """Pass over the attributes of an argument or a result; refuse those that matter after optimisation."""
    while word := cursor.peek_word():
        if word in _HARMLESS_VALUE_ATTRIBUTES:
            cursor.take_word(word)
            if cursor.at("("):
                cursor.balanced()
            elif word == "align" and not cursor.match(_NUMBER):
                raise _NotUnderstoodError(f"alignment expected before {cursor.rest()!r}")
        elif (
            word in _CONSTANT_WORDS
            or word in _CONSTANT_EXPRESSIONS
            or word == "void"
            or _SCALAR.match(cursor.text, cursor.position)
        ):
            return
        else:
            raise _NotUnderstoodError(f"attribute {word!r} is not known to leave the calling sequence alone")


def _parse_value(cursor: _Cursor) -> str:
    """Take an operand without its type and return it as printed."""
    start = cursor.position
    word = cursor.peek_word()
    if cursor.match(_NAME) or cursor.match(_NUMBER):
        pass
    elif word in _CONSTANT_WORDS:
        cursor.take_word(word)
    elif word in _CONSTANT_EXPRESSIONS:
        cursor.take_word(word)
        while (flag := cursor.peek_word()) in _CONSTANT_EXPRESSION_FLAGS:
            cursor.take_word(flag)
            if flag == "inrange":
                cursor.balanced()
        if not cursor.at("("):
            raise _NotUnderstoodError(f"operands of constant expression {word!r} expected before {cursor.rest()!r}")
        cursor.balanced()
    elif cursor.at("<"):
        cursor.balanced()
    else:
        raise _NotUnderstoodError(f"operand expected before {cursor.rest()!r}")
    return cursor.text[start : cursor.position].rstrip()


@dataclass(frozen=True, slots=True)
class _Call:
    """A call with a deopt bundle, taken apart."""

    indent: str
    result: str  # "%name", or "" for a void call
    calling_convention: str  # with a trailing blank, or ""
    return_type: _Type | None  # None: void
    callee: str  # as printed
    arguments: tuple[tuple[_Type, str], ...]
    function_attributes: str  # as printed
    live: tuple[str, ...]  # the names in its list as printed, without constants and duplicates; each is an i32
    places: tuple[int, ...]
    slots: tuple[tuple[str, tuple[int, ...]], ...]  # the root frames that it has already, and encoded masks
    debug_location: str  # ", !dbg !7", or ""
    normal: str = ""  # of an invoke, the block behind it; "" for a plain call
    unwind: str = ""  # and the handler's


_PLAIN_TYPE = r"(?:i(?:[1-9]|[1-5]\d|6[0-4])|float|double|ptr)"
_PLAIN_VALUE = r"(?:[%@][-\w$.]+|-?\d+)"
_PLAIN_ARGUMENT = rf"{_PLAIN_TYPE} (?:nonnull |noundef )*{_PLAIN_VALUE}"
_PLAIN_ITEM = rf"i3(?:2 %[-\w$.]+|{_PLACE_TYPE[2:]} \d+)"
_PLAIN_CALL = re.compile(
    rf"( +)(?:(%[-\w$.]+) = )?(?:tail |notail )?call (fastcc |ccc |coldcc )?(void|{_PLAIN_TYPE}) "
    rf"([%@](?!llvm\.)[-\w$.]+)\(((?:{_PLAIN_ARGUMENT}(?:, {_PLAIN_ARGUMENT})*)?)\)((?: #\d+)?) "
    rf'\[ "deopt"\(({_PLAIN_ITEM}(?:, {_PLAIN_ITEM})*)?\) \]$'
)
"""A call as nearly all are printed, which this takes apart in a tenth of the time that the cursor takes."""


def _parse_plain_call(line: str) -> _Call | None:
    """Take apart a call that is printed as nearly all are; None for any other."""
    found = _PLAIN_CALL.match(line)
    if found is None:
        return None
    indent, result, convention, returned, callee, arguments, attributes, items = found.groups("")
    if (returned == "void") != (not result):
        return None
    operands = [argument.split(" ") for argument in arguments.split(", ")] if arguments else []
    live, places = _plain_items(items)
    return _Call(
        indent,
        result,
        convention,
        None if returned == "void" else _plain_type(returned),
        callee,
        tuple((_plain_type(words[0]), words[-1]) for words in operands),
        attributes.strip(),
        live,
        places,
        (),
        "",
    )


@functools.cache
def _plain_type(text: str) -> _Type:
    return _Type(text, _MANGLED.get(text, text))


_LABEL_NAME = r'%(?:"[^"]*"|[-\w$.]+)'
_INVOKE = re.compile(
    rf"( +(?:{_LABEL_NAME} = )?)invoke (.*\]) +to label ({_LABEL_NAME}) unwind label ({_LABEL_NAME})"
    r"((?:, ![\w.-]+ ![\w.]+)*)$"
)
_CONTINUATION = re.compile(r" {10}(?:to label |catch |cleanup$|filter )")
"""The second line of an invoke, and all but the first of a landing pad, as LLVM prints them."""


def _joined(body: Sequence[str]) -> Sequence[str]:
    """The lines of a body, with each instruction on one line."""
    output: list[str] = []
    for line in body:
        if line.startswith(" " * 10) and _CONTINUATION.match(line):
            output[-1] = f"{output[-1]} {line.strip()}"
        else:
            output.append(line)
    return output


def _parse_call(line: str) -> _Call:
    """Take apart one printed call or invoke with a deopt bundle, on one line."""
    if plain := _parse_plain_call(line):
        return plain
    if found := _INVOKE.match(line):
        start, called, normal, unwind, metadata = found.groups()
        return replace(_parse_call(f"{start}call {called}{metadata}"), normal=normal, unwind=unwind)
    cursor = _Cursor(line)
    indent = line[: cursor.position]
    assigned = cursor.match(_LOCAL_RESULT)
    result = assigned.group(1) if assigned else ""

    if (marker := cursor.peek_word()) in _TAIL_MARKERS:
        cursor.take_word(marker)
    if (opcode := cursor.peek_word()) != "call":
        raise _NotUnderstoodError(f"only plain calls can become statepoints, this is {opcode or cursor.rest()!r}")
    cursor.take_word("call")
    while (flag := cursor.peek_word()) in _FAST_MATH_FLAGS:
        cursor.take_word(flag)
    calling_convention = ""
    if (convention := cursor.peek_word()) in _CALLING_CONVENTIONS:
        cursor.take_word(convention)
        calling_convention = f"{convention} "
    _skip_value_attributes(cursor)

    return_type: _Type | None = None
    if cursor.peek_word() == "void":
        cursor.take_word("void")
    else:
        return_type = _parse_type(cursor)
    if (return_type is None) != (not result):
        raise _NotUnderstoodError("a result must be assigned exactly when its type is not void")
    callee = _parse_value(cursor)
    if callee.startswith(("@llvm.", '@"llvm.')):
        raise _NotUnderstoodError("an intrinsic cannot be called at a statepoint")

    arguments: list[tuple[_Type, str]] = []
    cursor.expect("(")
    while not cursor.accept(")"):
        if arguments:
            cursor.expect(",")
        argument_type = _parse_type(cursor)
        _skip_value_attributes(cursor)
        arguments.append((argument_type, _parse_value(cursor)))

    attributes_start = cursor.position
    while not cursor.done() and not cursor.at("["):
        _skip_function_attribute(cursor)
    function_attributes = line[attributes_start : cursor.position].strip()

    cursor.expect("[")
    cursor.expect('"deopt"')
    cursor.expect("(")
    live, places, slots = _parse_list(cursor)
    cursor.expect("]")

    debug_location = ""
    while cursor.accept(","):
        metadata = cursor.match(_METADATA)
        if not metadata:
            raise _NotUnderstoodError(f"metadata expected before {cursor.rest()!r}")
        if metadata.group(1) == "dbg":
            debug_location = f", {metadata.group().rstrip()}"
    if not cursor.done():
        raise _NotUnderstoodError(f"unexpected {cursor.rest()!r}")
    return _Call(
        indent,
        result,
        calling_convention,
        return_type,
        callee,
        tuple(arguments),
        function_attributes,
        live,
        places,
        slots,
        debug_location,
    )


# Lists are long: this takes a thirtieth of the time that the cursor takes.
_SIMPLE_LIST = re.compile(rf"({_PLAIN_ITEM}(?:, {_PLAIN_ITEM})*)\)")


def _plain_items(text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The names and the places in a list that has nothing else."""
    if not text:
        return (), ()
    start = len("i32 ")
    items = text.split(", ")
    places = tuple(int(item[start:]) for item in items if item.startswith(_PLACE_TYPE))
    return tuple(dict.fromkeys(item[start:] for item in items if not item.startswith(_PLACE_TYPE))), places


def _parse_list(
    cursor: _Cursor,
) -> tuple[tuple[str, ...], tuple[int, ...], tuple[tuple[str, tuple[int, ...]], ...]]:
    """Take a bundle's list and the bracket behind it.

    Return the names in it, each once, the places, and root frames with masks.

    Constants are left out. They are null, an i31 or undefined: no compiled code can know an object, so that any other
    means that something was misread.
    """
    if simple := cursor.match(_SIMPLE_LIST):
        return *_plain_items(simple.group(1)), ()
    places: list[int] = []
    live: dict[str, None] = {}
    slots: list[tuple[str, tuple[int, ...]]] = []
    first = True
    while not cursor.accept(")"):
        if not first:
            cursor.expect(",")
        first = False
        if found := cursor.match(_SLOTS):
            slots.append((found.group(1), tuple(map(int, found.group(2).split(", i64 ")))))
            continue
        if found := cursor.match(_PLACE):
            places.append(int(found.group(1)))
            continue
        cursor.expect("i32 ")
        value = _parse_value(cursor)
        if value.startswith("%"):
            live[value] = None
        elif value not in ("undef", "poison") and not _NULL_OR_I31.fullmatch(value):
            raise _NotUnderstoodError(f"constant reference {value}; null and i31 are the only constants")
    return tuple(live), tuple(places), tuple(slots)


_PLACE = re.compile(rf"{_PLACE_TYPE} (-?\d+)")
_SLOTS = re.compile(r"ptr (%[-\w$.]+), i64 (-?\d+(?:, i64 -?\d+)*)")
_NULL_OR_I31 = re.compile(r"0|-?\d*[13579]")


_ATTRIBUTE_GROUP = re.compile(r"#\d+")
_STRING_ATTRIBUTE = re.compile(r'"[^"]*"(?:="[^"]*")?')


def _skip_function_attribute(cursor: _Cursor) -> None:
    """Pass over one attribute behind an argument list: a group, a string attribute, or a keyword with its operand."""
    if cursor.match(_ATTRIBUTE_GROUP) or cursor.match(_STRING_ATTRIBUTE):
        return
    word = cursor.peek_word()
    if not word:
        raise _NotUnderstoodError(f"function attribute expected before {cursor.rest()!r}")
    cursor.take_word(word)
    if cursor.at("("):
        cursor.balanced()


@dataclass(frozen=True, slots=True)
class _Signature:
    """The part of a `define` or `declare` line that callers depend on."""

    attributes: str  # behind the parameter list, as printed
    unusual: str  # why it cannot be called at a statepoint; "" if it can


@dataclass(frozen=True, slots=True)
class _Header:
    """A `define` or `declare` line, cut at the function's name and behind its parameter list."""

    line: str
    name: str  # as printed, with the @
    parameters_start: int
    attributes_start: int


_HEADER_START = re.compile(r'[^@"]*(@(?:"[^"]*"|[-\w$.]+))(?=\()')
"""A head up to its parameter list, where nothing before the name is quoted, as in nearly all."""


def _parse_header(line: str) -> _Header:
    """Find the name and the parameter list of a `define` or `declare` line."""
    if simple := _HEADER_START.match(line):
        cursor = _Cursor(line, simple.end())
        cursor.balanced()
        return _Header(line, simple.group(1), simple.end(), cursor.position)
    cursor = _Cursor(line)
    while not cursor.done():
        if cursor.at('"'):
            if not cursor.match(_QUOTED):
                break
        elif cursor.at("@"):
            name = cursor.match(_NAME)
            if not name or not cursor.at("("):
                break
            parameters = cursor.position
            cursor.balanced()
            return _Header(line, name.group().rstrip(), parameters, cursor.position)
        elif any(cursor.at(bracket) for bracket in _BRACKETS):
            cursor.balanced()
        else:
            cursor.position += 1
    raise _NotUnderstoodError("no function name and parameter list")


_LINKAGE_WORDS = frozenset(
    {
        "define",
        "declare",
        "private",
        "internal",
        "external",
        "weak",
        "weak_odr",
        "linkonce",
        "linkonce_odr",
        "available_externally",
        "extern_weak",
        "common",
        "appending",
        "dso_local",
        "dso_preemptable",
        "default",
        "hidden",
        "protected",
        "dllimport",
        "dllexport",
    }
)
_REPLACEABLE_LINKAGE = frozenset({"weak", "weak_odr", "linkonce", "linkonce_odr", "available_externally"})


def _signature(header: _Header) -> _Signature:
    """Judge whether a function can be called at a statepoint: its own attributes bind its callers as well."""
    attributes = header.line[header.attributes_start :]
    try:
        cursor = _Cursor(header.line)
        while (word := cursor.peek_word()) in _LINKAGE_WORDS:
            cursor.take_word(word)
            while cursor.match(_METADATA):
                pass
        if cursor.peek_word() in _CALLING_CONVENTIONS:
            cursor.take_word(cursor.peek_word())
        _skip_value_attributes(cursor)
        if cursor.peek_word() == "void":
            cursor.take_word("void")
        else:
            _parse_type(cursor)
        if not cursor.accept(header.name):
            raise _NotUnderstoodError(f"name expected before {cursor.rest()!r}")
        cursor.expect("(")
        first = True
        while not cursor.accept(")"):
            if not first:
                cursor.expect(",")
            first = False
            _parse_type(cursor)
            _skip_value_attributes(cursor)
            cursor.match(_NAME)
    except _NotUnderstoodError as reason:
        return _Signature(attributes, str(reason))
    return _Signature(attributes, "")


_HEADER_TAIL_END = frozenset({"prefix", "prologue", "personality"})


_BEFORE_ATTRIBUTES = re.compile(r"(?:(?:local_)?unnamed_addr\s*)?(?:addrspace\(\d+\)\s*)?")


def _mark_collected(header: _Header, *, with_call_frames: bool) -> str:
    """The `define` line with the garbage collection strategy in its place among the trailing clauses, and, if it is to
    have call frame information, the attribute for that.
    """
    linkage = header.line.split("@", 1)[0].split()
    if replaceable := _REPLACEABLE_LINKAGE.intersection(linkage):
        raise _NotUnderstoodError(f"linkage {', '.join(sorted(replaceable))} lets another body take this one's place")
    cursor = _Cursor(header.line, header.attributes_start)
    while not cursor.done():
        word = cursor.peek_word()
        if word == "gc":
            raise _NotUnderstoodError("the function has a garbage collection strategy already")
        if word in _HEADER_TAIL_END or cursor.at("!") or cursor.at("{"):
            if not header.line.endswith("{"):
                raise _NotUnderstoodError("the body must open at the end of the line, as LLVM prints it")
            before = header.line[: cursor.position].rstrip()
            if with_call_frames:
                place = _BEFORE_ATTRIBUTES.match(before, header.attributes_start)
                assert place is not None, "it matches the empty string"
                before = f"{before[: place.end()].rstrip()} {_CALL_FRAMES} {before[place.end() :]}".rstrip()
            return f'{before} gc "{GC_STRATEGY}" {header.line[cursor.position :]}'
        if word:
            cursor.take_word(word)
        elif cursor.at("("):
            cursor.balanced()
        elif not (cursor.match(_QUOTED) or cursor.match(_NUMBER) or cursor.match(_ATTRIBUTE_GROUP)):
            cursor.position += 1
            cursor.skip()
    raise _NotUnderstoodError("the body must open at the end of the line, as LLVM prints it")


_ESCAPE = re.compile(rb"\\(\\|[0-9A-Fa-f]{2})")


def _plain_name(printed: str) -> str:
    r"""A symbol's name from its printed form: without sigil and quotes, with the escapes \\ and \22 resolved."""
    name = printed[1:]
    if not name.startswith('"'):
        return name

    def resolve(match: re.Match[bytes]) -> bytes:
        escaped = match.group(1)
        return escaped if escaped == b"\\" else bytes([int(escaped, 16)])

    return _ESCAPE.sub(resolve, name[1:-1].encode()).decode("utf-8", "surrogateescape")


_TAIL_CALL = re.compile(r'( +(?:%[-\w$.]+ = )?musttail call [^\[]*) \[ "deopt"\(\) \](.*)')
"""A tail call that is one still: behind it there is no frame, so its bundle has nothing."""
_UNNAMED_PARAMETER = re.compile(r"%\d+(?=[,)])")
_BLOCK_LABEL = re.compile(r'([-\w$.]+|"[^"]*"):(?:\s|$)')


def _rename_in_phis(lines: list[str], first: int, blocks: Mapping[str, str]) -> None:
    """Give other names to predecessors, in the phis from a line on."""
    for number in range(first, len(lines)):
        if " = phi " not in lines[number]:
            return
        lines[number] = _INCOMING.sub(lambda found: f", {blocks.get(found.group(1), found.group(1))} ]", lines[number])


_INCOMING = re.compile(rf", ({_LABEL_NAME}) \]")


def _has_bundle(line: str) -> bool:
    return '"deopt"' in line and not line.lstrip().startswith(";") and _DEOPT_TAG.search(line) is not None


def lower_statepoints(
    llvm_ir: str, *, with_call_frames: bool = False, measure_frames: bool = False
) -> StatepointModule:
    """Rewrite every call with a `"deopt"` bundle into a statepoint, in LLVM's printed text of an optimised module.

    Each such call becomes `llvm.experimental.gc.statepoint`, followed by `llvm.experimental.gc.result` under the call's
    own name when it has a result. Ids are consecutive from 0. Functions that contain one get `gc "statepoint-example"`,
    and a root frame: the names in a call's list are in the slots that its statepoint's operands name, and in no others.
    Calling conventions are kept; `tail` and `notail` are dropped; attributes that only inform the optimiser are
    dropped, and of metadata only `!dbg` is kept. If there are any, the constant array `FUNCTIONS_GLOBAL` of the changed
    functions' addresses is appended, so that they can be read after linking even when a function is internal; else the
    text stays as it is. `with_call_frames`: the object file is to describe their frames (`lowheap.jit.call_frames`); it
    costs no instruction. `measure_frames`: the stack map is to tell the frames of functions without a bundle, too, as
    far as these may be large.

    A tail call (`musttail`) stays what it is, without the bundle: nothing lives behind it, not even a frame. Where LLVM
    has inlined its function, it has made a plain call of it, with a bundle that has the caller's references.

    An invoke becomes one of a statepoint; its result is had in a block of its own, ahead of the normal way on.

    Raises `CompilerError`, quoting the line, for a bundle it does not understand: anything but a plain call or an
    invoke (`musttail` with references), variable or aggregate arguments, aggregate results, attributes that change how
    values are passed (on the call or on the called function), an unproven calling convention, an intrinsic or inline
    assembly, references that are not i32, constants that are neither null nor an i31, other bundles beside this one;
    and, in a function with a bundle, for a terminator other than br, switch, invoke, ret and unreachable. Run LLVM's
    verifier on the text, as on any module.
    """
    return _Lowering(llvm_ir, with_call_frames=with_call_frames, measure_frames=measure_frames).run()


_HEADS = re.compile(r"^(?:attributes #|define |declare ).*", re.MULTILINE)


class _Lowering:
    """The state of one `lower_statepoints`."""

    def __init__(self, llvm_ir: str, *, with_call_frames: bool, measure_frames: bool) -> None:
        """Split the text into lines and collect what calls refer to: attribute groups and function signatures."""
        self.with_call_frames = with_call_frames
        self.measure_frames = measure_frames
        self.measured: list[str] = []  # as printed
        self.lines = llvm_ir.split("\n")
        self.has_handlers = " landingpad " in llvm_ir
        self.statepoints: list[Statepoint] = []
        self.functions: list[str] = []  # as printed
        self.result_types: dict[str, _Type] = {}
        self.attribute_groups: dict[str, str] = {}
        self.headers: dict[str, _Header] = {}
        self.defined: dict[str, _Header] = {}  # by line
        self.usual: set[tuple[str, str]] = (
            set()
        )  # callees, with attributes of calls, that can be called at a statepoint
        self.signatures: dict[str, _Signature] = {}  # of what is called at statepoints
        for line in _HEADS.findall(llvm_ir):
            if line.startswith("attributes #"):
                group, _, content = line.removeprefix("attributes ").partition(" = ")
                self.attribute_groups[group] = content
            else:
                try:
                    header = _parse_header(line)
                except _NotUnderstoodError as reason:
                    raise CompilerError(f"cannot read a function's head ({reason}): {line}") from None
                self.headers[_plain_name(header.name)] = self.defined[line] = header
        self.unlikely = root_frames.unlikely_targets(llvm_ir)
        for taken in (_STATEPOINT, _TOKEN_PREFIX, f"@{FUNCTIONS_GLOBAL} ="):
            if taken in llvm_ir:
                raise CompilerError(f"the module mentions {taken!r} already; statepoints are lowered once")

    def run(self) -> StatepointModule:
        """Rewrite function by function: slots depend on all of a function's calls."""
        output: list[str] = []
        lines = iter(self.lines)
        for line in lines:
            if _has_bundle(line):
                raise CompilerError(f"a deopt bundle outside a function's body: {line}")
            if not line.startswith("define "):
                output.append(line)
                continue
            body: Sequence[str] = list(itertools.takewhile("}".__ne__, lines))
            if self.has_handlers:
                body = _joined(body)
            body = spread_additions(body)
            output += self.rewrite(self.defined[line], body)
            output.append("}")
        output += self.appendix() if self.functions else ()
        if self.measured:
            output += (large_frames.DECLARATION, "")
        return StatepointModule(
            "\n".join(output),
            tuple(_plain_name(name) for name in self.functions),
            tuple(self.statepoints),
            tuple(_plain_name(name) for name in self.measured),
        )

    def rewrite(self, header: _Header, body: Sequence[str]) -> list[str]:
        """One function, up to its closing brace."""
        calls: dict[int, _Call] = {}
        body = list(body)
        for number, line in enumerate(body):
            if '"deopt"' in line and _has_bundle(line):
                if tail_call := _TAIL_CALL.fullmatch(line):
                    body[number] = "".join(tail_call.groups())
                    continue
                try:
                    calls[number] = _parse_call(line)
                    self.refuse_unusual(calls[number])
                except _NotUnderstoodError as reason:
                    raise CompilerError(
                        f"cannot lower this call in function {_plain_name(header.name)!r} to a statepoint "
                        f"({reason}): {line}"
                    ) from None
        if not calls:
            if not (self.measure_frames and large_frames.may_be_large(body)):
                return [header.line, *body]
            self.measured.append(header.name)
            first = root_frames.first_instruction(body)
            return [header.line, *body[:first], large_frames.measure(len(self.measured) - 1), *body[first:]]
        if self.with_call_frames and (scalable := next((line for line in body if _SCALABLE in line), None)):
            raise CompilerError(
                f"a scalable vector, whose place in a frame no call frame information tells: {scalable}"
            )
        try:
            output = [_mark_collected(header, with_call_frames=self.with_call_frames)]
        except _NotUnderstoodError as reason:
            raise CompilerError(
                f"cannot mark function {_plain_name(header.name)!r} as collected ({reason}): {header.line}"
            ) from None
        self.functions.append(header.name)
        parameters = header.line[header.parameters_start : header.attributes_start]
        frame = root_frames.plan(parameters, body, {line: call.live for line, call in calls.items()}, self.unlikely)
        # Where invokes have got a block for their results, by the normal way on: the blocks that phis there name.
        moved: dict[str, dict[str, str]] = {}
        block = f"%{len(_UNNAMED_PARAMETER.findall(parameters))}"  # what LLVM calls an entry block without a name
        starts: dict[str, int] = {}  # of blocks' lines in the output
        for number, line in enumerate(body):
            output += frame.before.get(number, ())
            after = frame.after.get(number, ())
            if call := calls.get(number):
                lines = self.lower(call, header, frame.masks[number])
                if call.normal and (len(lines) > 1 or after):
                    own = f"{_TOKEN_PREFIX}{len(self.statepoints) - 1}.normal"
                    lines[0] = f"{lines[0]} to label %{own} unwind label {call.unwind}{call.debug_location}"
                    lines[1:1] = [f"{own}:"]
                    after = (*after, f"{call.indent}br label {call.normal}")
                    moved.setdefault(call.normal, {})[block] = f"%{own}"
                elif call.normal:
                    lines[0] = f"{lines[0]} to label {call.normal} unwind label {call.unwind}{call.debug_location}"
                output += lines
            else:
                if self.has_handlers and (label := _BLOCK_LABEL.match(line)):
                    block = f"%{label.group(1)}"
                    starts[block] = len(output)
                output.append(line)
            output += after
        for normal, blocks in moved.items():
            _rename_in_phis(output, starts[normal] + 1, blocks)
        return output

    def lower(self, call: _Call, header: _Header, mask: int) -> list[str]:
        """The lines that take the place of one call, across which the slots of `mask` are live.

        The first is the statepoint, of an invoke without its ways on; the second, if there is one, the result.
        """
        number = len(self.statepoints)
        callee = _plain_name(call.callee) if call.callee.startswith("@") else call.callee
        count = mask.bit_count() + sum(live_count(items) for _, items in call.slots)
        self.statepoints.append(Statepoint(number, _plain_name(header.name), callee, count, call.places))
        returned = call.return_type.text if call.return_type else "void"
        parameters = ", ".join(kind.text for kind, _ in call.arguments)
        operands = [
            f"i64 {number}",
            "i32 0",  # bytes to reserve for patching
            f"ptr elementtype({returned} ({parameters})) {call.callee}",
            f"i32 {len(call.arguments)}",
            "i32 0",  # flags
            *(f"{kind.text} {value}" for kind, value in call.arguments),
            "i32 0",  # transition arguments, an obsolete operand list
            "i32 0",  # deopt arguments, an obsolete operand list: the bundle has taken its place
        ]
        token = f"%{_TOKEN_PREFIX}{number}"
        own = (", ".join((f"ptr {frame}", *(f"i64 {item}" for item in items))) for frame, items in call.slots)
        live = ", ".join((*own, *root_frames.operands(root_frames.FRAME, mask)))
        opcode, location = ("invoke", "") if call.normal else ("call", call.debug_location)
        lines = [
            f"{call.indent}{token} = {opcode} {call.calling_convention}token (i64, i32, ptr, i32, i32, ...) "
            f'@{_STATEPOINT}.p0({", ".join(operands)}) [ "deopt"({live}) ]{location}'
        ]
        if call.return_type:
            self.result_types[call.return_type.mangled] = call.return_type
            lines.append(
                f"{call.indent}{call.result} = call {call.return_type.text} "
                f"@{_RESULT}.{call.return_type.mangled}(token {token}){call.debug_location}"
            )
        return lines

    def refuse_unusual(self, call: _Call) -> None:
        """Refuse a call whose function attributes, or whose callee's own, change the calling sequence."""
        if (call.callee, call.function_attributes) in self.usual:
            return
        attributes = [call.function_attributes]
        if call.callee.startswith("@") and (header := self.headers.get(_plain_name(call.callee))):
            signature = self.signatures.get(header.name)
            if signature is None:
                signature = self.signatures[header.name] = _signature(header)
            if signature.unusual:
                raise _NotUnderstoodError(f"the called function's signature: {signature.unusual}")
            attributes.append(signature.attributes)
        for text in attributes:
            groups = (self.attribute_groups.get(group, "") for group in _ATTRIBUTE_GROUP.findall(text))
            if refused := _REFUSED_FUNCTION_ATTRIBUTES.search(" ".join((text, *groups))):
                raise _NotUnderstoodError(f"function attribute {refused.group()}")
        self.usual.add((call.callee, call.function_attributes))

    def appendix(self) -> list[str]:
        """The global that lists the changed functions, and the declarations that the new calls need."""
        addresses = ", ".join(f"ptr {name}" for name in self.functions)
        results = sorted(self.result_types.items())
        return [
            f"@{FUNCTIONS_GLOBAL} = constant [{len(self.functions)} x ptr] [{addresses}]",
            f"declare token @{_STATEPOINT}.p0(i64 immarg, i32 immarg, ptr, i32 immarg, i32 immarg, ...)",
            *(f"declare {kind.text} @{_RESULT}.{mangled}(token)" for mangled, kind in results),
            "",
        ]
