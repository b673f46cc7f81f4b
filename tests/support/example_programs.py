"""The example programs, what to call in them, and what must come back.

`EXAMPLES` is a table for every harness that can run WebAssembly: each row is one call of one export of one program in
`examples/`, its expected results, the host functions the program imports, and what clears its globals. The expected
results come from the models in this file: each program written again in plain Python, with lists, dictionaries and
unbounded integers, so that a harness is compared with something that shares no code with any WebAssembly engine.

Integers, arguments and results alike, are signed, as wasmtime gives them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import gcd
from pathlib import Path
from typing import Any, NamedTuple

EXAMPLES_DIRECTORY = Path(__file__).resolve().parents[2] / "examples"

Function = Callable[..., Any]
ExportLookup = Callable[[str], Function]


class HostFunction(NamedTuple):
    """A function that a program imports, in a form that no engine owns.

    `params` and `results` are value types in wat's spelling: "i32", "i64", "externref", or a reference to a type of the
    program, as in "(ref null $pair)". `call` takes one argument for each param and gives None, one value, or a tuple of
    several. Externrefs are any objects, None when null. A struct reference is an object with `ref[field name]` to read
    and write, None when null; one that `call` returns is one that it was given or read out of a field.
    """

    params: tuple[str, ...]
    results: tuple[str, ...]
    call: Function


Imports = dict[str, HostFunction]
# "module.name" to function, with state of its own for each instance. The lookup finds exports of the instance that the
# imports are for; it may be called once that instance is there, which is to say from within a host function.
ImportFactory = Callable[[ExportLookup], Imports]


@dataclass(frozen=True)
class Example:
    """One call of an example program.

    `model` takes the arguments and returns the results that the call must have, as a tuple. `reset` names the export
    that clears the program's mutable globals, None where they hold no references; afterwards `survivors` objects are
    left, which immutable globals hold. The calls of a row may be repeated on one instance and give the same results
    each time, unless the program has imports: its host has a memory. `large` marks what takes a second or so, rather
    than milliseconds, in a slow engine.
    """

    name: str
    file: str
    export: str
    args: tuple[int, ...]
    model: Callable[..., tuple[int | float, ...]]
    imports: ImportFactory | None = None
    reset: str | None = None
    survivors: int = 0
    large: bool = False

    @property
    def path(self) -> Path:
        """The program's source."""
        return EXAMPLES_DIRECTORY / self.file

    @property
    def source(self) -> str:
        """The program's text."""
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def expected(self) -> tuple[int | float, ...]:
        """What the call returns, computed by the model when first asked for."""
        return self.model(*self.args)

    def __str__(self) -> str:
        """A name for test reports."""
        return f"{self.name}.{self.export}({', '.join(map(str, self.args))})"


def wrap32(value: int) -> int:
    """The signed 32-bit integer that is congruent to a value."""
    return (value + 0x8000_0000) % 0x1_0000_0000 - 0x8000_0000


def wrap64(value: int) -> int:
    """The signed 64-bit integer that is congruent to a value."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


def fold(figures: Sequence[int] | Iterator[int], start: int = 0) -> int:
    """Horner's rule in base 31, modulo 2^64: the checksum of most programs. Wrap it to the width wanted."""
    total = start
    for figure in figures:
        total = (total * 31 + figure) % (1 << 64)
    return total


def random_words() -> Iterator[int]:
    """The generator of shuffle.wat and i31.wat, before the halves are exchanged."""
    state = 1
    while True:
        state = (state * 1664525 + 1013904223) % (1 << 32)
        yield state


def exchange_halves(word: int) -> int:
    """A 32-bit word rotated by 16."""
    return (word << 16 | word >> 16) % (1 << 32)


# --- binary_trees.wat, linked_list.wat -------------------------------------------------------------------------------


def binary_trees(depth: int, iterations: int) -> tuple[int]:
    """A complete tree of depth d has 2^(d + 1) - 1 nodes."""
    return (wrap32(max(iterations, 0) * (2 ** (max(depth, 0) + 1) - 1)),)


def linked_list(length: int, iterations: int) -> tuple[int]:
    """Sum, weight, and weight of the reversed list, of each round's list."""
    figures: list[int] = []
    for first in range(iterations):
        values = range(first + 1, first + length + 1)
        figures.append(sum(values))
        figures.append(sum(position * value for position, value in enumerate(values, 1)))
        figures.append(sum(position * value for position, value in enumerate(reversed(values), 1)))
    return (wrap32(fold(figures)),)


# --- shuffle.wat -----------------------------------------------------------------------------------------------------


def shuffle(size: int, swaps: int) -> tuple[int]:
    """The same deck in a Python list; boxes are [label, moves]."""
    if size <= 0:
        return (0,)
    words = random_words()
    deck: list[list[int] | None] = [[label, 0] for label in range(size)]
    for _ in range(swaps):
        here, there = exchange_halves(next(words)) % size, exchange_halves(next(words)) % size
        deck[here], deck[there] = deck[there], deck[here]
        for place in (here, there):
            box = deck[place]
            assert box is not None
            box[1] += 1
    half, quarter = size // 2, size // 4
    cut = deck[half:] + deck[:half]
    cut = cut[-1:] + cut[:-1]
    cut = cut[quarter:] + cut[size - quarter :]
    joker = [0x7FFF_FFFF, -1]
    spoiled = [joker] * quarter + deck[quarter : size - quarter] + [None] * quarter
    figures = (-1 if box is None else box[0] ^ box[1] << 16 for box in cut + spoiled)
    return (wrap32(fold(figures)),)


# --- hash_table.wat --------------------------------------------------------------------------------------------------


def hash_table(n: int) -> tuple[int]:
    """The same questions to a dict."""
    table: dict[int, int] = {}
    figures: list[int] = []

    def key(index: int) -> int:
        return wrap64(index * 0x5851_F42D_4C95_7F2D)

    for index in range(n):
        table[key(index)] = index
    figures.append(len(table))
    for index in range(0, n, 3):
        table[key(index)] = index * index
    figures.append(len(table))
    for index in range(0, 2 * n, 2):
        figures.append(int(table.pop(key(index), None) is not None))
    figures.append(len(table))
    for index in range(2 * n):
        figures.append(table.get(key(index), -1))
    return (wrap64(fold(figures)),)


# --- i31.wat ---------------------------------------------------------------------------------------------------------


class BoxedInteger:
    """An integer with an identity, as a boxed number has one; small ones are plain ints, which have none."""

    def __init__(self, value: int) -> None:
        """Hold a value that does not fit 31 bits."""
        self.value = value


Number = int | BoxedInteger | None


def i31(n: int) -> tuple[int]:
    """The same elements: an int stands for an i31, a `BoxedInteger` for a box."""
    edges = (0, -1, 2**30 - 1, 2**30, -(2**30), -(2**30) - 1, 2**31 - 1, -(2**31))
    words = random_words()

    def fresh() -> int:
        word = next(words)
        return wrap32(exchange_halves(word)) >> (word >> 30)

    def box(value: int) -> int | BoxedInteger:
        return value if -(2**30) <= value < 2**30 else BoxedInteger(value)

    def unbox(number: Number) -> int:
        assert number is not None
        return number.value if isinstance(number, BoxedInteger) else number

    def kind(number: Number) -> int:
        return 0 if number is None else 2 if isinstance(number, BoxedInteger) else 1

    def identical(a: Number, b: Number) -> bool:
        return a is b if isinstance(a, BoxedInteger) or isinstance(b, BoxedInteger) else a == b

    def equal(a: Number, b: Number) -> bool:
        return a is b if a is None or b is None else unbox(a) == unbox(b)

    numbers: list[Number] = []
    for index in range(n):
        # A random number is drawn for every element past the edges, used or not.
        value = edges[index] if index < len(edges) else fresh()
        match index % 16:
            case 9 | 10:
                numbers.append(None)
            case 12:
                numbers.append(numbers[-1])
            case 13 | 15:
                numbers.append(box(unbox(numbers[-1])))
            case _:
                numbers.append(box(value))

    figures: list[int] = []
    total: int | BoxedInteger = 0
    previous: Number = None
    for number in numbers:
        figures += [kind(number), identical(number, previous), equal(number, previous)]
        if isinstance(number, int):
            figures.append(number % 2**31 >> 8)
        if number is not None:
            total = box(wrap32(unbox(total) + unbox(number)))
            figures += [unbox(number), unbox(total)]
        figures.append(kind(total))
        previous = number
    return (wrap32(fold(figures)),)


# --- tree_of_arrays.wat ----------------------------------------------------------------------------------------------


@dataclass
class TreeItem:
    """$item, $counted (`visits` is there) or $wrapper (`child` is there too, in a list of one)."""

    weight: int
    tag: int
    visits: int | None = None
    child: list[Any] | None = None


def signed(value: int, bits: int) -> int:
    """The lower bits of a value, read as a signed integer."""
    value %= 1 << bits
    return value - (1 << bits) if value >> (bits - 1) else value


def tree_of_arrays(depth: int, width: int) -> tuple[int]:
    """The same tree: bytes, tuples of shorts, lists of children, items, ints and None."""

    def leaf(index: int) -> Any:
        weight, tag = index * 1_000_000_007, index + 125
        match index % (1 << 32) % 6:
            case 0:
                return None
            case 1:
                return signed(index * -7, 31)
            case 2:
                return bytes((index * 7 + k * 37) % 256 for k in range(width))
            case 3:
                return ((0x8000, *[(index * 1009 + 12345) % 0x10000] * (width - 1)) if width else (),)
            case 4:
                return TreeItem(weight, tag)
            case _:
                return TreeItem(weight, tag, 0xFFFE)

    def make(depth: int, index: int) -> Any:
        index = wrap32(index)
        if depth <= 0:
            return leaf(index)
        if index % 2:
            return TreeItem(index * 1_000_000_007, index + 125, depth, [make(depth - 1, index * 3 + 1)])
        return [make(depth - 1, index * width + k) for k in range(width)]

    def total(node: Any) -> int:
        match node:
            case None:
                return 1
            case int():
                return node
            case bytes():
                return sum(signed(byte, 8) + 256 * byte for byte in node)
            case (shorts,) if isinstance(node, tuple):
                return sum(position * (signed(short, 16) + 3 * short) for position, short in enumerate(shorts, 1))
            case list():
                return sum(position * total(child) for position, child in enumerate(node, 1))
            case TreeItem(visits=None):
                return node.weight + signed(node.tag, 8) + node.tag % 256
        node.visits = (node.visits + 1) % 0x10000
        own: int = node.weight * signed(node.visits, 16) + node.visits
        return own if node.child is None else own + 3 * total(node.child[0])

    def count(node: Any) -> int:
        match node:
            case None | int():
                return 0
            case list():
                return 1 + sum(map(count, node))
            case TreeItem(child=[child]):
                return 1 + count(child)
        return 1

    tree = make(depth, 0)
    first = total(tree)
    return (wrap64(first * 31 + total(tree) * 7 + count(tree)),)


# --- callbacks.wat ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Token:
    """A value of the host's: it has an identity, and a number."""

    number: int


def callbacks_host(export: ExportLookup) -> Imports:
    """The host of callbacks.wat. Its answers depend on all that it was told, so a wrong payload shows in the result."""
    tokens: dict[int, Token] = {}
    told = [0]

    def tell(number: int) -> None:
        told[0] = (told[0] * 17 + number) % 1_000_003

    def fetch(number: int) -> Token | None:
        return None if number % 3 == 2 else tokens.setdefault(number, Token(number))

    def log(value: object) -> None:
        if value is None:
            tell(-1)
            return
        assert isinstance(value, Token), f"log was given {value!r}, which is no token"
        assert tokens[value.number] is value, f"log was given another token of number {value.number}"
        tell(value.number)

    def next_(number: int) -> int:
        if number % 4 == 1:
            tell(export("step")(number))
        if number % 8 == 5:
            tell(export("step")(number + 2000))
        return told[0] + number

    def visit(number: int, total: int) -> None:
        tell(number)
        tell(total)

    def transform(value: int) -> int:
        return wrap64(value * 0x9E37_79B9_7F4A_7C15 + told[0])

    return {
        "host.fetch": HostFunction(("i32",), ("externref",), fetch),
        "host.log": HostFunction(("externref",), (), log),
        "host.next": HostFunction(("i32",), ("i32",), next_),
        "host.visit": HostFunction(("i32", "i32"), (), visit),
        "host.transform": HostFunction(("i64",), ("i64",), transform),
    }


def callbacks(n: int) -> tuple[int]:
    """The program's own side in Python, against the same host: a list of (number, payload) pairs, the newest last."""
    records: list[tuple[int, Token | None]] = []

    def add(number: int) -> tuple[int, Token | None]:
        record = (number, host["host.fetch"].call(number))
        records.append(record)
        return record

    def step(number: int) -> int:
        add(number + 1000)
        return len(records)

    host = callbacks_host({"step": step}.__getitem__)
    total = 0
    previous: tuple[int, Token | None] | None = None
    for index in range(n):
        record = add(index)
        total = fold([host["host.next"].call(index)], total)
        host["host.log"].call(record[1])
        total += record[1] is None
        if previous is not None:
            total = fold([previous[0]], total)
        total = fold([records[-1] is record], total)
        host["host.visit"].call(index, wrap32(total))
        previous = record
    for number, payload in reversed(records):
        host["host.log"].call(payload)
        total = fold([number], total)
    transformed = host["host.transform"].call(wrap32(total))
    return (wrap32(transformed ^ transformed >> 32),)


# --- callbacks_refs.wat ----------------------------------------------------------------------------------------------


def callbacks_refs_host(_export: ExportLookup) -> Imports:
    """The host of callbacks_refs.wat: works on anything with fields by name, a heap object or a dict."""

    def swap(pair: Any) -> Any:
        if pair is None:
            return None
        pair["first"], pair["second"] = pair["second"], pair["first"]
        return pair["link"] if pair["first"] > pair["second"] else pair

    return {"host.swap": HostFunction(("(ref null $pair)",), ("(ref null $pair)",), swap)}


# wasmtime's package cannot host a function over struct references, so another module is the host of callbacks_refs.wat.
# It differs from `callbacks_refs_host` in language only.
SWAP_IN_WASM = """
(module
  (rec (type $pair (struct
    (field $first (mut i32)) (field $second (mut i32)) (field $link (mut (ref null $pair))))))
  (func (export "swap") (param $pair (ref null $pair)) (result (ref null $pair))
    (local $first i32)
    (if (ref.is_null (local.get $pair)) (then (return (ref.null none))))
    (local.set $first (struct.get $pair $first (local.get $pair)))
    (struct.set $pair $first (local.get $pair) (struct.get $pair $second (local.get $pair)))
    (struct.set $pair $second (local.get $pair) (local.get $first))
    (select (result (ref null $pair))
      (struct.get $pair $link (local.get $pair))
      (local.get $pair)
      (i32.gt_s
        (struct.get $pair $first (local.get $pair))
        (struct.get $pair $second (local.get $pair))))))
"""


def callbacks_refs(n: int) -> tuple[int]:
    """The program's own side in Python, its pairs dicts."""
    exports: dict[str, Function] = {}
    swap = callbacks_refs_host(exports.__getitem__)["host.swap"].call
    figures: list[int] = []
    newest: dict[str, Any] | None = None

    def fold_pair(pair: dict[str, Any] | None) -> None:
        figures.extend([-1] if pair is None else [pair["first"], pair["second"]])

    for index in range(n):
        pair = {"first": index, "second": index * 5 % 7, "link": newest}
        newest = pair
        answer = swap(pair)
        figures.append(answer is pair)
        fold_pair(pair)
        fold_pair(answer)
        if answer is not None and answer is not pair:
            answer["link"] = None
    while newest is not None:
        fold_pair(newest)
        newest = newest["link"]
    fold_pair(None)
    return (wrap32(fold(figures)),)


# --- globals_and_calls.wat -------------------------------------------------------------------------------------------


def globals_and_calls(n: int) -> tuple[int, int, float]:
    """The same steps, with points as tuples. Where only identity matters, a tuple says what holds it."""
    origin = (3, -4)
    position: tuple[int, int] | None = origin
    carried: tuple[int, int] | None = None
    value, checksum, additions, idle = 0, 0, 0, 0
    function_is_null = True
    small: list[int] = []

    for index in range(n):
        operation = index % 7
        if operation == 0:
            value, additions = wrap32(value + index), additions + 1
        elif operation == 1:
            value = wrap32(value - index)
        elif operation == 2:
            value = wrap32(value * 2 * index)
        elif operation != 3:
            idle += 1
        if value % 32 < 13:
            small.append(value % 32)

        unsigned = value % 2**32
        if index % 3 == 0:
            quotient, remainder = divmod(unsigned, index % 4) if index % 4 else (0, unsigned)
            dx, dy = wrap32(quotient), wrap32(remainder)
        else:
            dx, dy = 1, gcd(unsigned, index)
        x, y = position if position is not None else origin
        position = carried = (wrap64(x + dx), wrap64(y - dy))
        if index % 11 == 0:
            position = None
            function_is_null = index % 2 == 0

        facts = 1  # the origin and its copy are one object, the twin is another
        facts += 4 * (position is None)
        facts += 8 * (carried is None)
        facts += 16 * (position is carried)
        facts += 32 * function_is_null
        facts += 64 * (index % 2)
        facts += 128 * (index % 4 == 0)
        x, y = position if position is not None else origin
        weight = (1, 10, 100)[index % 3]
        checksum = fold([facts + x * (y - weight)], checksum)
    checksum += additions * 1000 + idle
    return (value, wrap64(checksum), sum(small) / len(small) if small else -1.0)


# --- the table -------------------------------------------------------------------------------------------------------


def _rows(
    name: str,
    model: Callable[..., tuple[int | float, ...]],
    small: Sequence[tuple[int, ...]],
    large: Sequence[tuple[int, ...]],
    *,
    imports: ImportFactory | None = None,
    reset: str | None = None,
    survivors: int = 0,
) -> list[Example]:
    sizes = itertools.chain(((args, False) for args in small), ((args, True) for args in large))
    return [
        Example(name, f"{name}.wat", "run", args, model, imports, reset, survivors, is_large)
        for args, is_large in sizes
    ]


EXAMPLES: tuple[Example, ...] = (
    *_rows("binary_trees", binary_trees, [(-1, 2), (0, 0), (0, 3), (1, 1), (4, 5), (10, 4)], [(14, 20), (18, 1)]),
    *_rows("linked_list", linked_list, [(0, 0), (0, 2), (1, 1), (2, 3), (100, 7)], [(10_000, 20), (300_000, 1)]),
    *_rows("shuffle", shuffle, [(-1, 5), (0, 5), (1, 3), (3, 0), (4, 9), (37, 200)], [(20_000, 100_000)]),
    *_rows("hash_table", hash_table, [(0,), (1,), (5,), (64,), (300,)], [(30_000,)]),
    *_rows("i31", i31, [(0,), (8,), (16,), (500,)], [(50_000,)]),
    *_rows("tree_of_arrays", tree_of_arrays, [(-1, 1), (0, 4), (1, 0), (2, 1), (2, 9), (4, 5)], [(7, 6)]),
    *_rows("callbacks", callbacks, [(0,), (1,), (2,), (3,), (21,)], [(1_000,)], imports=callbacks_host, reset="reset"),
    *_rows(
        "callbacks_refs", callbacks_refs, [(0,), (1,), (20,)], [(1_000,)], imports=callbacks_refs_host, reset="reset"
    ),
    *_rows(
        "globals_and_calls", globals_and_calls, [(0,), (1,), (12,), (150,)], [(50_000,)], reset="reset", survivors=5
    ),
)

LAST_SMALL = tuple({each.name: each for each in EXAMPLES if not each.large}.values())
"""One row of each program, the small one that does most."""
