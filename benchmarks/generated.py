"""Modules that are written by the line: kinds of code, each of any size, to see what compiling them costs.

Every kind exports a function `f`, whose result is known (`Kind.expected`), so that no compiler is fast by being wrong.
The result takes all of the code, or the code is exported, so that none is fast by dropping it either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

EXPORT = "f"

_MASK = (1 << 32) - 1
_ARGUMENT = 3  # what nearly every f is called with


def _signed(value: int) -> int:
    """An i32, as the hosts return it, from what a computation without bounds gave."""
    value &= _MASK
    return value - (1 << 32) if value >> 31 else value


def _module(*lines: str | Iterable[str]) -> str:
    """A module of lines, or of runs of lines."""
    flat: list[str] = []
    for each in lines:
        flat += [each] if isinstance(each, str) else each
    return "\n".join(["(module", *flat, ")"]) + "\n"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of code. `text(n)` is a module with `n` of what the kind is about; `expected(n)` what `f(*arguments)`
    returns.

    `is_live` says that all `n` references are live over each other's allocation, so that the stack maps alone, which
    name each of them at each, grow as the square of `n`.
    """

    name: str
    description: str
    text: Callable[[int], str]
    arguments: tuple[int, ...]
    expected: Callable[[int], int]
    is_live: bool = False


# ----------------------------------------------------------------------------------------------------------------------
# Allocation and references


_NODE = "(type $node (struct (field $next (mut (ref null $node))) (field $value (mut i32))))"
_BOX = "(type $box (struct (field $value (mut i32))))"


def _chain(n: int) -> str:
    """Each new struct refers to the one before; then a loop adds up what they hold."""
    return _module(
        _NODE,
        '(func (export "f") (param $x i32) (result i32) (local $p (ref null $node)) (local $sum i32)',
        "ref.null $node",
        (f"(i32.add (local.get $x) (i32.const {i})) struct.new $node" for i in range(n)),
        "local.set $p",
        "(loop $more",
        "  (local.set $sum (i32.add (local.get $sum) (struct.get $node $value (local.get $p))))",
        "  (local.set $p (struct.get $node $next (local.get $p)))",
        "  (br_if $more (i32.eqz (ref.is_null (local.get $p)))))",
        "(local.get $sum))",
    )


def _live(n: int) -> str:
    """A local for each new struct, and all are read at the end."""
    return _module(
        _BOX,
        '(func (export "f") (param $x i32) (result i32)',
        (f"(local $p{i} (ref null $box))" for i in range(n)),
        (f"(local.set $p{i} (struct.new $box (i32.add (local.get $x) (i32.const {i}))))" for i in range(n)),
        "i32.const 0",
        (f"(struct.get $box $value (local.get $p{i})) i32.add" for i in range(n)),
        ")",
    )


def _set_get(n: int) -> str:
    """A field is read and written back, with the barriers of both."""
    return _module(
        _NODE,
        '(func (export "f") (param $x i32) (result i32) (local $p (ref null $node))',
        "(local.set $p (struct.new $node (struct.new $node (ref.null $node) (local.get $x)) (i32.const 0)))",
        "(struct.set $node $next (local.get $p) (struct.get $node $next (local.get $p)))\n" * n,
        "(struct.get $node $value (struct.get $node $next (local.get $p))))",
    )


_CALL_DEPTH = 3


def _functions(n: int) -> str:
    """Each function allocates, and calls the next two, with what it allocated live over the calls. All are exported."""
    return _module(
        _BOX,
        (
            f'(func $f{i} (export "f{i or ""}") (param $depth i32) (result i32) (local $p (ref null $box))\n'
            f"  (local.set $p (struct.new $box (i32.add (local.get $depth) (i32.const {i}))))\n"
            f"  (if (result i32) (local.get $depth)\n"
            f"    (then (i32.add\n"
            f"      (call $f{(i + 1) % n} (i32.sub (local.get $depth) (i32.const 1)))\n"
            f"      (call $f{(i + 2) % n} (i32.sub (local.get $depth) (i32.const 1)))))\n"
            f"    (else (i32.const 1)))\n"
            f"  (i32.add (struct.get $box $value (local.get $p))))"
            for i in range(n)
        ),
    )


def _functions_result(n: int) -> int:
    def call(i: int, depth: int) -> int:
        below = call((i + 1) % n, depth - 1) + call((i + 2) % n, depth - 1) if depth else 1
        return below + depth + i

    return call(0, _CALL_DEPTH)


def _fixed_numbers(n: int) -> str:
    """An array of n numbers at once; then a loop adds them up."""
    return _module(
        "(type $numbers (array (mut i32)))",
        '(func (export "f") (param $x i32) (result i32)',
        "  (local $a (ref null $numbers)) (local $i i32) (local $sum i32)",
        (f"(i32.add (local.get $x) (i32.const {i}))" for i in range(n)),
        f"(local.set $a (array.new_fixed $numbers {n}))",
        *_sum_of_elements("(array.get $numbers (local.get $a) (local.get $i))"),
    )


def _fixed_references(n: int) -> str:
    """An array of n new structs at once; then a loop adds up what they hold."""
    return _module(
        _BOX,
        "(type $boxes (array (mut (ref null $box))))",
        '(func (export "f") (param $x i32) (result i32)',
        "  (local $a (ref null $boxes)) (local $i i32) (local $sum i32)",
        (f"(struct.new $box (i32.add (local.get $x) (i32.const {i})))" for i in range(n)),
        f"(local.set $a (array.new_fixed $boxes {n}))",
        *_sum_of_elements("(struct.get $box $value (array.get $boxes (local.get $a) (local.get $i)))"),
    )


def _sum_of_elements(element: str) -> tuple[str, ...]:
    """The end of a function that has an array in $a."""
    return (
        "(loop $more",
        f"  (local.set $sum (i32.add (local.get $sum) {element}))",
        "  (local.set $i (i32.add (local.get $i) (i32.const 1)))",
        "  (br_if $more (i32.lt_u (local.get $i) (array.len (local.get $a)))))",
        "(local.get $sum))",
    )


def _sum_result(n: int) -> int:
    return _signed(sum(_ARGUMENT + i for i in range(n)))


# ----------------------------------------------------------------------------------------------------------------------
# Types, control, globals, numbers


def _casts(n: int) -> str:
    """Tests and casts in turn, of one of two objects. Which one depends on the results before, so that none is known
    from another.
    """

    def step(i: int) -> str:
        if i % 2:
            found = "(struct.get $base $value (ref.cast (ref $base) (local.get $p)))"
        else:
            found = "(ref.test (ref $leaf) (local.get $p))"
        return (
            f"(local.set $p (select (result anyref) (local.get $a) (local.get $b)\n"
            f"  (i32.and (local.get $sum) (i32.const {1 << i % 3}))))\n"
            f"(local.set $sum (i32.add (local.get $sum) {found}))"
        )

    return _module(
        "(type $base (sub (struct (field $value (mut i32)))))",
        "(type $leaf (sub final $base (struct (field $value (mut i32)) (field $more i32))))",
        '(func (export "f") (param $x i32) (result i32)',
        "  (local $a anyref) (local $b anyref) (local $p anyref) (local $sum i32)",
        "(local.set $a (struct.new $base (local.get $x)))",
        "(local.set $b (struct.new $leaf (i32.const 5) (i32.const 0)))",
        "(local.set $sum (local.get $x))",
        (step(i) for i in range(n)),
        "(local.get $sum))",
    )


def _casts_result(n: int) -> int:
    total = _ARGUMENT
    for i in range(n):
        is_base = total & (1 << i % 3)
        total += (_ARGUMENT if is_base else 5) if i % 2 else (0 if is_base else 1)
    return _signed(total)


def _odd(i: int) -> int:
    """Odd constants that nothing simple gives."""
    return (i * 2654435761 + 97) & _MASK | 1


_OPERATIONS = ("add", "xor", "mul", "sub", "rotl")
"""With an odd constant each keeps all of what it is given, so that no long run of them has the same result for all."""


def _operated(operation: str, value: int, constant: int) -> int:
    """What one of the operations gives, of unsigned numbers."""
    match operation:
        case "add":
            value += constant
        case "xor":
            value ^= constant
        case "mul":
            value *= constant
        case "sub":
            value -= constant
        case "rotl":
            by = constant & 31
            value = value << by | value >> (32 - by)
    return value & _MASK


_SWITCH_SECOND = 11


def _target(i: int) -> tuple[str, str]:
    """The two operations behind a target: not the same for all, or a compiler makes a table of the constants."""
    count = len(_OPERATIONS)
    return _OPERATIONS[i % count], _OPERATIONS[i // count % count]


def _switch(n: int) -> str:
    """One br_table that leads to the ends of n nested blocks."""

    def target(i: int) -> str:
        first, second = _target(i)
        return f"(i32.{second} (i32.{first} (local.get $y) (i32.const {_odd(i)})) (i32.const {_odd(i + n)}))"

    labels = " ".join(str(i) for i in range(n + 1))
    return _module(
        '(func (export "f") (param $x i32) (param $y i32) (result i32)',
        "block\n" * (n + 1),
        f"(br_table {labels} (local.get $x))",
        "end",
        (f"(return {target(i)})\nend" for i in range(n)),
        "(i32.const -1))",
    )


def _switch_result(n: int) -> int:
    if n <= _ARGUMENT:
        return -1
    first, second = _target(_ARGUMENT)
    return _signed(_operated(second, _operated(first, _SWITCH_SECOND, _odd(_ARGUMENT)), _odd(_ARGUMENT + n)))


def _globals(n: int) -> str:
    """Each global gets what the one before the last has: numbers, and references, in turn."""

    def step(i: int) -> str:
        if i % 2:
            before = f"(global.get $g{i - 2})" if i > 1 else "(struct.new $box (local.get $x))"
            return f"(global.set $g{i} {before})"
        before = f"(global.get $g{i - 2})" if i else "(i32.const 0)"
        return f"(global.set $g{i} (i32.add {before} (local.get $x)))"

    last_number, last_reference = (n - 1) // 2 * 2, n // 2 * 2 - 1
    return _module(
        _BOX,
        (
            f"(global $g{i} (mut (ref null $box)) (ref.null $box))"
            if i % 2
            else f"(global $g{i} (mut i32) (i32.const 0))"
            for i in range(n)
        ),
        '(func (export "f") (param $x i32) (result i32)',
        (step(i) for i in range(n)),
        f"(global.get $g{last_number})",
        f"(i32.add (struct.get $box $value (global.get $g{last_reference}))))" if n > 1 else ")",
    )


def _globals_result(n: int) -> int:
    return _signed((n + 1) // 2 * _ARGUMENT + (_ARGUMENT if n > 1 else 0))


def _operands(n: int) -> list[tuple[str, int]]:
    """The operations of straight-line code, each a constant and an instruction: so half as many as instructions."""
    return [(_OPERATIONS[i % len(_OPERATIONS)], _odd(i)) for i in range(n // 2)]


def _straight(n: int) -> str:
    """One integer operation on the result of another."""
    return _module(
        '(func (export "f") (param $x i32) (result i32)',
        "local.get $x",
        (f"i32.const {constant} i32.{operation}" for operation, constant in _operands(n)),
        ")",
    )


def _straight_result(n: int) -> int:
    value = _ARGUMENT
    for operation, constant in _operands(n):
        value = _operated(operation, value, constant)
    return _signed(value)


_X = (_ARGUMENT,)

KINDS: tuple[Kind, ...] = (
    Kind("chain", "`n` × `struct.new`, each of which holds the one before", _chain, _X, _sum_result),
    Kind("live", "`n` references live over `n` allocations", _live, _X, _sum_result, is_live=True),
    Kind("set_get", "`n` × `struct.set` of what `struct.get` read", _set_get, _X, lambda n: _ARGUMENT),
    Kind(
        "functions",
        "`n` exported functions; each allocates and calls the next two",
        _functions,
        (_CALL_DEPTH,),
        _functions_result,
    ),
    Kind("casts", "`n` × `ref.test` or `ref.cast`", _casts, _X, _casts_result),
    Kind(
        "br_table",
        "one `br_table` with `n` targets, in nested blocks",
        _switch,
        (_ARGUMENT, _SWITCH_SECOND),
        _switch_result,
    ),
    Kind("globals", "`n` globals, numbers and references, read and written", _globals, _X, _globals_result),
    Kind("fixed_numbers", "`array.new_fixed` of `n` numbers", _fixed_numbers, _X, _sum_result),
    Kind("fixed_references", "`array.new_fixed` of `n` new structs", _fixed_references, _X, _sum_result),
    Kind("straight", "straight-line integer code of `n` instructions", _straight, _X, _straight_result),
)


def find(name: str) -> Kind:
    """Return the kind of that name. KeyError if there is none."""
    return {kind.name: kind for kind in KINDS}[name]
