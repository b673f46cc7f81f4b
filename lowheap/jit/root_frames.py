"""Root frames: which slot of its function's frame holds each reference that lives across a safepoint, stored where.

A compiled function's root frame is one `alloca` of i32s (the host has root frames of its own, `VMRootFrame`). `plan`
reads the body of an optimised function as LLVM prints it, with the references that each safepoint lists, and says which
lines are to be added and which slots are live at each safepoint. Each instruction is on one line. So a safepoint needs
the frame's address and a mask, however many references live across it, and a reference that lives across many
safepoints is stored once.

A reference lives from its definition to the last safepoint that lists it: what becomes of it afterwards, or on the way
to safepoints that do not list it, does not matter. References that are never alive together share a slot. The number of
slots is the least possible, since in SSA form the lives are subtrees of the dominator tree.

What is defined by an invoke, which ends its block, is to be stored on the normal way on: `RootFrame.after`, there.
A reference is stored where it is defined, or, when that is expected to run less often, ahead of each of the (few)
safepoints that list it: a safepoint behind an unlikely branch, such as that of an allocation without room, then costs
the loop around it nothing.

Promises: at each safepoint that control can reach, each listed reference is in a slot of its own, and the mask has
these slots and no others. What is not understood (a terminator other than br, switch, invoke, ret and unreachable, a
line that is neither an instruction nor a label) raises `CompilerError` quoting the line. Takes time linear in the text,
but for sets of references, which are the bits of a number.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from lowheap.errors import CompilerError
from lowheap.jit.masks import SLOT_SIZE, encoded
from lowheap.representation import short_repr

FRAME = "%lowheap.statepoint.frame"
"""A function's root frame."""

PREFIX = "%lowheap.statepoint."
"""What the names of all values that are added begin with; the function must have none such."""

_SITES = 4
"""Ahead of how many safepoints, at most, a reference is stored: more would be much code, however cold."""
_UNLIKELY = 64
"""A branch that is taken this many times less often than its other way is unlikely, and what is behind it cold."""
_LOOP_RUNS = 8
"""How often a loop is expected to run."""
_DEEPEST_LOOP = 4
"""Loops within so many others count as these; finding the depth stays linear."""

_NAME = r'%(?:"[^"]*"|[-\w$.]+)'
_NAMES = re.compile(_NAME)
_INSTRUCTION = re.compile(rf"[ \t]+(?:({_NAME}) = )?([a-z_]+)")
_IGNORED = re.compile(r"[ \t]*(?:[;#].*)?$")  # blank, a comment, a debug record
_LABEL = re.compile(r'([-\w$.]+|"[^"]*"):(?:\s|$)')
_TARGET = re.compile(rf'label ({_NAME})|"[^"]*"')  # the second so that nothing is found within quotes
_SWITCH_CASE = re.compile(rf"[ \t]+i\d+ [-\w]+, label ({_NAME})$")
_SWITCH_END = re.compile(r"[ \t]+\]")
_PROFILE = re.compile(r"!prof (!\d+)")
_WEIGHTS = re.compile(r'^(!\d+) = !\{!"branch_weights", (?:!"expected", )?i32 (-?\d+), i32 (-?\d+)\}', re.MULTILINE)
_ENDS = frozenset({"br", "switch", "ret", "unreachable", "invoke"})
_WAYS_OF_INVOKE = 2
_OTHER_ENDS = frozenset({"callbr", "indirectbr", "resume", "catchswitch", "catchret", "cleanupret"})


def reverse_post_order(successors: Sequence[Sequence[int]]) -> list[int]:
    """Return the blocks that can be reached from block 0, each behind those that dominate it."""
    seen = {0}
    order: list[int] = []
    stack = [(0, iter(successors[0]))]
    while stack:
        number, targets = stack[-1]
        for target in targets:
            if target not in seen:
                seen.add(target)
                stack.append((target, iter(successors[target])))
                break
        else:
            order.append(number)
            stack.pop()
    order.reverse()
    return order


@short_repr
@dataclass(slots=True)
class RootFrame:
    """What a function's root frame is: `slot_count` slots, the `masks` of those live at each safepoint, by line.

    `before` and `after` are the lines to add around those of the body, by the number of the line.
    """

    slot_count: int = 0
    masks: dict[int, int] = field(default_factory=dict)
    before: dict[int, list[str]] = field(default_factory=dict)
    after: dict[int, list[str]] = field(default_factory=dict)


def operands(frame: str, mask: int) -> list[str]:
    """What a statepoint has to be given for the slots of `mask` in a root frame: its address, and the mask."""
    return [f"ptr {frame}", *(f"i64 {item}" for item in encoded(mask))] if mask else []


def unlikely_targets(llvm_ir: str) -> dict[str, int]:
    """Read a module's branch weights: by the metadata's name, which of a branch's two targets is unlikely."""
    found = {}
    for weights in _WEIGHTS.finditer(llvm_ir):
        first, second = (int(weight) & 0xFFFFFFFF for weight in weights.group(2, 3))
        if min(first, second) * _UNLIKELY <= max(first, second):
            found[weights.group(1)] = int(second < first)
    return found


def plan(
    parameters: str, body: Sequence[str], lists: Mapping[int, Sequence[str]], unlikely: Mapping[str, int]
) -> RootFrame:
    """Find the root frame for a function.

    `parameters` is its printed parameter list, `body` its lines behind the head and before the closing brace. `lists`
    has for each safepoint, by its line's number, the references that live across it: names, as printed, of parameters
    and results of instructions. `unlikely` is what `unlikely_targets` says of the module.
    """
    names = list(dict.fromkeys(name for listed in lists.values() for name in listed))
    numbers = {name: number for number, name in enumerate(names)}
    blocks = _read_blocks(body, lists, numbers, unlikely)
    flow = _Flow(blocks)
    flow.find_lives()
    arguments = _bits(flow.entry.live_in)
    parameter_names = set(_NAMES.findall(parameters))
    for number in arguments:
        if names[number] not in parameter_names:
            raise CompilerError(f"a safepoint lists {names[number]}, which is not defined on every way to it")
    flow.entry.events[:0] = [_Event(_ENTRY, number, 0) for number in arguments]
    flow.entry.live_in = 0
    slots = _choose_slots(flow)
    frame = RootFrame(slot_count=max(slots.values(), default=-1) + 1)
    slot_bits = {names[number]: 1 << slot for number, slot in slots.items()}
    reached = {event.line for number in flow.order for event in blocks[number].events if event.listed}
    for line, listed in lists.items():
        frame.masks[line] = _union(slot_bits[name] for name in listed) if line in reached else 0
    _add_lines(frame, first_instruction(body), names, slots, _choose_stores(flow, len(names)))
    return frame


def _bits(mask: int) -> list[int]:
    """The numbers of the bits that are set, ascending."""
    return list(_each_bit(mask))


def _each_bit(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest


def _union(masks: Iterable[int]) -> int:
    return functools.reduce(operator.or_, masks, 0)


# --- Reading ----------------------------------------------------------------------------------------------------------

_ENTRY = -1
"""In place of a line: arguments are defined before the first."""


@dataclass(slots=True)
class _Event:
    """Something in a block that matters: a reference is defined (`number`, or -1), a safepoint lists some (`listed`).

    `line` is where it happens; for a phi, the line that stands behind the block's last phi.
    """

    line: int
    number: int
    listed: int
    is_phi: bool = False

    @property
    def defined(self) -> int:
        """The reference defined, as a set."""
        return 1 << self.number if self.number >= 0 else 0


@dataclass(slots=True)
class _Block:
    """A basic block. `unlikely` is the one of its successors that control hardly ever passes to."""

    name: str
    events: list[_Event] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    unlikely: str = ""
    live_in: int = 0
    live_out: int = 0


def _read_blocks(
    body: Sequence[str],
    lists: Mapping[int, Sequence[str]],
    numbers: Mapping[str, int],
    unlikely: Mapping[str, int],
) -> list[_Block]:
    """Cut a body into blocks; the first is the entry."""
    single = {name: 1 << number for name, number in numbers.items()}
    blocks: list[_Block] = []
    block: _Block | None = None
    phis: list[_Event] = []
    before_phis_end = in_switch = False
    last = ""  # instruction
    for line_number, line in enumerate(body):
        if in_switch:
            assert block is not None, "a switch is in a block"
            if case := _SWITCH_CASE.match(line):
                block.targets.append(case.group(1))
            elif _SWITCH_END.match(line):
                in_switch, block = False, None
            else:
                raise CompilerError(f"not a case of a switch: {line}")
            continue
        instruction = _INSTRUCTION.match(line)
        if instruction is None:
            if _IGNORED.match(line):
                continue
            label = _LABEL.match(line)
            if label is None:
                raise CompilerError(f"neither an instruction nor a label: {line}")
            if block is not None:
                raise CompilerError(
                    f"root frames understand br, switch, invoke, ret and unreachable; this ends a block: {last}"
                )
            block, phis, before_phis_end = _Block(f"%{label.group(1)}"), [], True
            blocks.append(block)
            last = line
            continue
        if block is None:
            if blocks:
                raise CompilerError(f"an instruction behind the end of a block: {line}")
            block, phis = _Block(""), []
            blocks.append(block)
        last = line
        name, opcode = instruction.groups()
        number = numbers.get(name, -1) if name else -1
        if before_phis_end:
            if opcode == "phi":
                if number >= 0:
                    phis.append(_Event(0, number, 0, is_phi=True))
                continue
            if opcode == "landingpad":  # nothing may stand between it and the phis
                continue
            before_phis_end = False
            for event in phis:
                event.line = line_number
            block.events += phis
        if number >= 0 or line_number in lists:
            listed = _union(map(single.__getitem__, lists.get(line_number, ())))
            block.events.append(_Event(line_number, number, listed))
        if opcode in _ENDS:
            block.targets += filter(None, _TARGET.findall(line))
            if opcode == "invoke":
                if len(block.targets) != _WAYS_OF_INVOKE:
                    raise CompilerError(f"an invoke whose two ways on do not stand behind it: {line}")
                block.unlikely = block.targets[-1]
            if opcode == "br" and len(block.targets) > 1 and (profile := _PROFILE.search(line)):
                position = unlikely.get(profile.group(1), -1)
                block.unlikely = block.targets[position] if position >= 0 else ""
            in_switch = opcode == "switch" and line.endswith("[")  # the cases are on lines of their own
            if not in_switch:
                block = None
        elif opcode in _OTHER_ENDS:
            raise CompilerError(
                f"root frames understand br, switch, invoke, ret and unreachable only, not {opcode}: {line}"
            )
    if block is not None or not blocks:
        raise CompilerError(
            f"root frames understand br, switch, invoke, ret and unreachable; this ends a block: {last}"
        )
    return blocks


def first_instruction(body: Sequence[str]) -> int:
    """The line of a function's first instruction, in its body."""
    return next(number for number, line in enumerate(body) if _INSTRUCTION.match(line))


# --- The control flow, and what lives where ---------------------------------------------------------------------------


class _Flow:
    """The blocks of a function that control can reach, and how it passes from one to another."""

    def __init__(self, blocks: Sequence[_Block]) -> None:
        """Find the order of blocks, and what is cold."""
        self.blocks = blocks
        self.entry = blocks[0]
        index = {block.name: number for number, block in enumerate(blocks)}
        try:
            self.successors = [list(dict.fromkeys(index[name] for name in block.targets)) for block in blocks]
        except KeyError as error:
            raise CompilerError(f"a branch leads to {error.args[0]}, which is no block of the function") from None
        self.order = reverse_post_order(self.successors)
        self.predecessors: list[list[int]] = [[] for _ in blocks]
        for number in self.order:
            for target in self.successors[number]:
                self.predecessors[target].append(number)

    def find_lives(self) -> None:
        """Set what lives where blocks begin and end: the least solution of the data-flow equations."""
        blocks = self.blocks
        used_first, defined = [0] * len(blocks), [0] * len(blocks)
        for number in self.order:
            used = own = 0
            for event in reversed(blocks[number].events):
                used = used & ~event.defined | event.listed  # a safepoint's own result is not in its list
                own |= event.defined
            used_first[number], defined[number] = used, own
        # Blocks in post-order, again and again: a loop takes one round more, where a queue may take one for each block.
        waiting = set(self.order)
        while waiting:
            for number in reversed(self.order):
                if number not in waiting:
                    continue
                waiting.remove(number)
                block = blocks[number]
                block.live_out = _union(blocks[target].live_in for target in self.successors[number])
                live_in = used_first[number] | block.live_out & ~defined[number]
                if live_in != block.live_in:
                    block.live_in = live_in
                    waiting.update(self.predecessors[number])

    def frequencies(self) -> list[int]:
        """How often each block is expected to run: `_UNLIKELY` is once. A guess by loops and unlikely branches."""
        depths = self._loop_depths()
        warm = {0}
        pending = [0]
        while pending:
            block = self.blocks[number := pending.pop()]
            for target in self.successors[number]:
                if target not in warm and (
                    self.blocks[target].name != block.unlikely or block.targets.count(block.unlikely) > 1
                ):
                    warm.add(target)
                    pending.append(target)
        return [
            _LOOP_RUNS ** min(depth, _DEEPEST_LOOP) * (_UNLIKELY if number in warm else 1)
            for number, depth in enumerate(depths)
        ]

    def _loop_depths(self) -> list[int]:
        """In how many loops each block is: up to `_DEEPEST_LOOP`, so that each is looked at no more often."""
        rank = {number: position for position, number in enumerate(self.order)}
        depths = [0] * len(self.blocks)
        for header in self.order:
            pending = [latch for latch in self.predecessors[header] if rank[latch] >= rank[header]]
            if not pending or depths[header] >= _DEEPEST_LOOP:
                continue
            loop = {header}
            while pending:
                number = pending.pop()
                if number not in loop and rank[number] > rank[header]:
                    loop.add(number)
                    pending += self.predecessors[number]
            for number in loop:
                depths[number] += 1
        return depths


# --- Choosing ---------------------------------------------------------------------------------------------------------


def _choose_slots(flow: _Flow) -> dict[int, int]:
    """Give each reference that lives anywhere a slot: the first that is free where it is defined.

    What is alive there was defined in dominating places, so it has its slot already.
    """
    slots: dict[int, int] = {}
    taken_behind: dict[int, int] = {}  # of blocks that are done: the slots that are taken at the end
    for number in flow.order:
        block = flow.blocks[number]
        taken = 0
        if number:
            before = next(each for each in flow.predecessors[number] if each in taken_behind)
            taken = taken_behind[before]
            for dead in _each_bit(flow.blocks[before].live_out & ~block.live_in):
                taken &= ~(1 << slots[dead])
        behind = [block.live_out]  # what lives behind each event, and before the first; last first
        for event in reversed(block.events):
            behind.append(behind[-1] & ~event.defined | event.listed)
        live = behind.pop()
        for event in block.events:
            after = behind.pop()
            for dead in _each_bit(live & ~after):
                taken &= ~(1 << slots[dead])
            if event.defined & after:
                free = ~taken & (taken + 1)
                taken |= free
                slots[event.number] = free.bit_length() - 1
            live = after
        taken_behind[number] = taken
    return slots


@dataclass(frozen=True, slots=True)
class _Store:
    """A store of a reference: before or behind a line, or where the function begins."""

    number: int
    line: int
    is_behind: bool = False


def _choose_stores(flow: _Flow, count: int) -> list[_Store]:
    """Say where each of `count` references is stored: at its definition, or ahead of each safepoint that lists it."""
    frequencies = flow.frequencies()
    sites: list[list[int]] = [[] for _ in range(count)]  # the first few lines of safepoints
    costs = [0] * count
    many = 0  # the references for which there are too many
    for block_number in flow.order:
        for event in flow.blocks[block_number].events:
            for number in _each_bit(event.listed & ~many):
                sites[number].append(event.line)
                costs[number] += frequencies[block_number]
                if len(sites[number]) > _SITES:
                    many |= 1 << number
    stores = []
    for block_number in flow.order:
        for event in flow.blocks[block_number].events:
            number = event.number
            if number < 0 or not sites[number]:
                continue
            if not many >> number & 1 and costs[number] < frequencies[block_number]:
                stores += [_Store(number, line) for line in sites[number]]
            else:
                stores.append(_Store(number, event.line, is_behind=not event.is_phi and event.line != _ENTRY))
    return stores


def _add_lines(
    frame: RootFrame, first: int, names: Sequence[str], slots: Mapping[int, int], stores: Sequence[_Store]
) -> None:
    """Print the frame and the stores into it; `first` is the line of the function's first instruction."""
    if not frame.slot_count:
        return
    entry = frame.before.setdefault(first, [])
    entry.append(f"  {FRAME} = alloca [{frame.slot_count} x i32], align {SLOT_SIZE}")
    # Arguments come first among the stores, so that nothing stands between the frame and its lines.
    for number, store in enumerate(stores):
        slot, place = slots[store.number], FRAME
        lines = (frame.after if store.is_behind else frame.before).setdefault(max(store.line, first), [])
        if slot:
            lines.append(f"  {PREFIX}slot.{number} = getelementptr inbounds i8, ptr {place}, i64 {SLOT_SIZE * slot}")
            place = f"{PREFIX}slot.{number}"
        lines.append(f"  store i32 {names[store.number]}, ptr {place}, align {SLOT_SIZE}")
