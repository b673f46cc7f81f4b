"""Random valid WasmGC programs for tests, and their reduction.

`generate(random.Random(seed))` makes a `Program`: types, globals, functions, as a tree of nodes that prints as wat. It
imports host functions over scalars and externrefs of the host's own values only, so that any engine's Python package
can serve them (`HOST_FUNCTIONS`), and exports:

- `run (param i32) (result i64)`: a run of the program; it may trap. A checksum of what it saw comes out.
- `again (param i32) (result i32)`: what the host function `again` is to call.
- `hash (result i64)`: the checksum as it stands, also after a trap.
- `reset`: sets every mutable global that holds a reference to null.

Every program ends: calls and turns of loops use up fuel. References are kept in locals, on the operand stack, in block
parameters and results, fields, elements and globals; they pass through casts, branches on casts and nulls, selects,
conversions to extern and back, direct and indirect calls. Most of what could trap is guarded, so that programs get
somewhere; some of it is not.

With `acyclic=True`, no object can come to refer to itself: fields and elements refer to final types that were defined
before, so that counting alone frees everything.

`reduce` shrinks a program for which a predicate holds, by taking out one part after the other.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple, TypeVar

T = TypeVar("T")

NUMBERS = ("i32", "i64", "f32", "f64")
PACKED = ("i8", "i16")
FUEL = 60
REENTRIES = 3

HOST_FUNCTIONS = {
    "tick": ((), ()),
    "number": (("i32",), ("i32",)),
    "again": (("i32",), ("i32",)),
    "box": (("i32",), ("externref",)),
    "unbox": (("externref",), ("i32",)),
    "pair": (("i32", "externref"), ("externref", "externref")),
}
"""The imports: parameters and results. `box` and `pair` return host values or null, `unbox` takes one."""


class Ref(NamedTuple):
    """A reference type. The heap type is wat's; "host" is extern, known to hold host values only."""

    nullable: bool
    heap: str


Type = str | Ref


def wat(type_: Type) -> str:
    """Return a value or storage type in the text format."""
    if isinstance(type_, str):
        return type_
    return f"(ref {'null ' if type_.nullable else ''}{'extern' if type_.heap == 'host' else type_.heap})"


@dataclass
class Node:
    """An instruction with its operands in front, folded; without a head, just a sequence.

    `type` is that of the one value it leaves, None if it leaves none; `fixed` nodes stay when a program is reduced.
    """

    head: str
    children: list[Node] = field(default_factory=list)
    type: Type | None = None
    fixed: bool = False

    def __str__(self) -> str:
        inside = " ".join(map(str, self.children))
        if not self.head:
            return inside
        return f"({self.head} {inside})" if inside else f"({self.head})"

    def walk(self) -> Iterator[Node]:
        """Yield the node and all nodes below it."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass
class TypeDefinition:
    """A struct or an array type; fields are (storage, mutable), an array has one."""

    name: str
    is_struct: bool
    fields: list[tuple[Type, bool]]
    supertype: str | None
    final: bool

    def __str__(self) -> str:
        parts = [f"(mut {wat(storage)})" if mutable else wat(storage) for storage, mutable in self.fields]
        composite = (
            f"(struct {' '.join(f'(field {part})' for part in parts)})" if self.is_struct else f"(array {parts[0]})"
        )
        return f"(type {self.name} (sub {'final ' if self.final else ''}{self.supertype or ''} {composite}))"


@dataclass
class Signature:
    """A function type."""

    name: str
    params: list[Type]
    results: list[Type]

    def __str__(self) -> str:
        params = " ".join(f"(param {wat(type_)})" for type_ in self.params)
        results = " ".join(f"(result {wat(type_)})" for type_ in self.results)
        return f"(type {self.name} (func {params} {results}))"


@dataclass
class Function:
    """A function; `locals` are its parameters, then the others."""

    name: str
    signature: Signature
    locals: list[tuple[str, Type]]
    body: list[Node] = field(default_factory=list)
    export: str = ""

    def __str__(self) -> str:
        count = len(self.signature.params)
        params = " ".join(f"(param {name} {wat(type_)})" for name, type_ in self.locals[:count])
        results = " ".join(f"(result {wat(type_)})" for type_ in self.signature.results)
        locals_ = " ".join(f"(local {name} {wat(type_)})" for name, type_ in self.locals[count:])
        export = f'(export "{self.export}")' if self.export else ""
        body = "\n    ".join(map(str, self.body))
        return f"(func {self.name} {export} (type {self.signature.name}) {params} {results} {locals_}\n    {body})"


@dataclass
class Global:
    """A global with its initialiser."""

    name: str
    type: Type
    mutable: bool
    initial: Node

    def __str__(self) -> str:
        return f"(global {self.name} {f'(mut {wat(self.type)})' if self.mutable else wat(self.type)} {self.initial})"


@dataclass
class Program:
    """A module; `str()` is its text."""

    types: list[TypeDefinition]
    signatures: list[Signature]
    globals: list[Global]
    functions: list[Function]
    acyclic: bool

    def __str__(self) -> str:
        imports = "\n  ".join(
            f'(import "host" "{name}" (func $host_{name} {" ".join(f"(param {p})" for p in params)} '
            f"{' '.join(f'(result {r})' for r in results)}))"
            for name, (params, results) in HOST_FUNCTIONS.items()
        )
        types = "\n    ".join(map(str, (*self.types, *self.signatures)))
        globals_ = "\n  ".join(map(str, self.globals))
        functions = "\n  ".join(map(str, self.functions))
        names = " ".join(function.name for function in self.functions)
        resets = " ".join(
            f"(global.set {each.name} (ref.null {'extern' if each.type.heap == 'host' else each.type.heap}))"
            for each in self.globals
            if each.mutable and isinstance(each.type, Ref)
        )
        return f"""(module
  (rec
    {types})
  {imports}
  (global $fuel (mut i32) (i32.const 0))
  (global $reentries (mut i32) (i32.const 0))
  (global $hash (mut i64) (i64.const 0))
  {globals_}
  (elem declare func {names})
  (func $mix (param $value i64)
    (global.set $hash (i64.add (i64.mul (global.get $hash) (i64.const 31)) (local.get $value))))
  (func (export "hash") (result i64) (global.get $hash))
  (func (export "reset") {resets})
  {functions})
"""


class Label(NamedTuple):
    """A label that can be branched to, and what a branch carries."""

    name: str
    types: tuple[Type, ...]


_ARITHMETIC = {
    "i32": ("add", "sub", "mul", "and", "or", "xor", "shl", "shr_s", "shr_u", "rotl"),
    "i64": ("add", "sub", "mul", "and", "or", "xor", "shl", "shr_s", "shr_u", "rotr"),
    "f32": ("add", "sub", "mul", "min", "max"),
    "f64": ("add", "sub", "mul", "min", "max"),
}
_UNARY = {
    "i32": ("clz", "ctz", "popcnt", "extend8_s"),
    "i64": ("clz", "popcnt", "extend32_s"),
    "f32": ("abs", "neg"),
    "f64": ("floor", "neg"),
}
_COMPARISONS = {
    "i32": ("eq", "ne", "lt_s", "lt_u", "ge_s", "gt_u"),
    "i64": ("eq", "ne", "lt_s", "le_u"),
    "f32": ("eq", "lt", "ge"),
    "f64": ("ne", "gt", "le"),
}
_CONVERSIONS = {  # result: (instruction, operand)
    "i32": (("i32.wrap_i64", "i64"), ("i32.trunc_sat_f32_s", "f32"), ("i32.trunc_sat_f64_u", "f64")),
    "i64": (("i64.extend_i32_s", "i32"), ("i64.extend_i32_u", "i32"), ("i64.trunc_sat_f64_s", "f64")),
    "f32": (("f32.convert_i32_s", "i32"), ("f32.convert_i64_u", "i64"), ("f32.demote_f64", "f64")),
    "f64": (("f64.convert_i32_u", "i32"), ("f64.convert_i64_s", "i64"), ("f64.promote_f32", "f32")),
}
_ABSTRACT_SUPERS = {
    "any": (),
    "eq": ("any",),
    "i31": ("eq", "any"),
    "struct": ("eq", "any"),
    "array": ("eq", "any"),
    "none": ("i31", "struct", "array", "eq", "any"),
    "extern": (),
    "host": ("extern",),
    "func": (),
}


class Generator:
    """Makes one program; see the module's docstring."""

    def __init__(self, random: Random, *, acyclic: bool, size: int) -> None:
        """Take the source of all choices."""
        self.random = random
        self.acyclic = acyclic
        self.size = size
        self.types: list[TypeDefinition] = []
        self.signatures: list[Signature] = []
        self.globals: list[Global] = []
        self.functions: list[Function] = []
        self.by_name: dict[str, TypeDefinition] = {}
        self.function = Function("", Signature("", [], []), [])
        self.labels: list[Label] = []
        self.budget = 0
        self.label_count = 0

    # Choices

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def pick(self, options: Sequence[T]) -> T:
        return self.random.choice(options)

    # Subtyping

    def heap_matches(self, a: str, b: str) -> bool:
        """Whether heap type `a` is a subtype of `b`."""
        if a == b:
            return True
        if a in _ABSTRACT_SUPERS:
            if a == "none" and b.startswith("$t"):
                return True
            return b in _ABSTRACT_SUPERS[a]
        if a.startswith("$f"):
            return b == "func"
        definition = self.by_name[a]
        if definition.supertype is not None:
            return self.heap_matches(definition.supertype, b)
        return self.heap_matches("struct" if definition.is_struct else "array", b)

    def matches(self, a: Type, b: Type) -> bool:
        """Whether value type `a` is a subtype of `b`."""
        if isinstance(a, str) or isinstance(b, str):
            return a == b
        return (b.nullable or not a.nullable) and self.heap_matches(a.heap, b.heap)

    # Types

    def make_types(self) -> None:
        count = self.random.randint(3, 6)
        signature_count = self.random.randint(1, 3)
        names = [f"$t{number}" for number in range(count)]
        for number in range(count):
            open_types = [each for each in self.types if not each.final]
            supertype = self.pick(open_types) if open_types and self.chance(0.45) else None
            is_struct = supertype.is_struct if supertype else self.chance(0.7)
            if number < 2:  # so that there is something of either kind
                supertype, is_struct = None, number == 0
            if is_struct:
                fields = list(supertype.fields) if supertype else []
                fields += [
                    (self.storage(number, names, signature_count), self.chance(0.7))
                    for _ in range(self.random.randint(0 if supertype else 1, 3))
                ]
            elif supertype:
                fields = list(supertype.fields)
            else:
                fields = [(self.storage(number, names, signature_count), self.chance(0.9))]
            definition = TypeDefinition(
                names[number], is_struct, fields, supertype.name if supertype else None, self.chance(0.4)
            )
            self.types.append(definition)
            self.by_name[definition.name] = definition
        for number in range(signature_count):
            self.signatures.append(
                Signature(
                    f"$f{number}",
                    [self.value_type() for _ in range(self.random.randint(0, 3))],
                    [self.value_type() for _ in range(self.pick([0, 1, 1, 1, 2, 3]))],
                )
            )

    def storage(self, number: int, names: Sequence[str], signature_count: int) -> Type:
        """Return what a field of the type of that number holds."""
        if self.chance(0.45):
            return self.pick((*NUMBERS, *PACKED, "i32"))
        if self.acyclic:
            lower = [each.name for each in self.types if each.final]
            heap = self.pick([*lower, *lower, "i31", "host"])
            return Ref(heap == "host" or self.chance(0.7), heap)
        if self.chance(0.3) and number:
            return Ref(self.chance(0.5), self.pick(names[:number]))
        if self.chance(0.1):
            return Ref(True, self.pick(["func", f"$f{self.random.randrange(signature_count)}"]))
        heap = self.pick([*names, *names, "any", "eq", "struct", "array", "i31", "extern", "host"])
        return Ref(heap in names or heap in ("host", "struct", "array") or self.chance(0.8), heap)

    def value_type(self) -> Type:
        """Return any type that a local may have."""
        if self.chance(0.25):
            return self.pick(NUMBERS)
        return self.reference_type()

    def reference_type(self) -> Ref:
        choice = self.random.random()
        if choice < 0.55:
            return Ref(self.chance(0.7), self.pick(self.types).name)
        if choice < 0.85:
            return Ref(self.chance(0.85), self.pick(["any", "any", "eq", "struct", "array", "i31"]))
        if choice < 0.93:
            return Ref(True, self.pick(["extern", "host"]))
        if self.signatures:
            return Ref(self.chance(0.7), self.pick(self.signatures).name)
        return Ref(True, "any")

    def make_globals(self) -> None:
        for number in range(self.random.randint(2, 5)):
            type_ = self.value_type()
            name = f"$g{number}"
            if isinstance(type_, Ref) and (type_.nullable or self.chance(0.5)):
                type_ = Ref(True, type_.heap)
                self.globals.append(Global(name, type_, True, self.null(type_)))
            elif isinstance(type_, Ref):
                if type_.heap.startswith("$f"):
                    self.globals.append(
                        Global(name, type_, False, Node(f"ref.func {self.function_of(type_.heap).name}"))
                    )
                else:
                    self.globals.append(Global(name, type_, False, self.smallest(type_, constant=True)))
            else:
                self.globals.append(Global(name, type_, self.chance(0.8), self.constant(type_)))

    # Whole functions

    def make_program(self) -> Program:
        self.make_types()
        for number, signature in enumerate(self.signatures):  # one of each type at least, for ref.func
            self.add_function(f"$w{number}", signature)
        for number in range(len(self.signatures), len(self.signatures) + self.random.randint(0, 1)):
            self.add_function(f"$w{number}", self.pick(self.signatures))
        self.make_globals()
        run = self.add_function("$run", Signature("$fun_run", ["i32"], ["i64"]), export="run")
        again = self.add_function("$again", Signature("$fun_again", ["i32"], ["i32"]), export="again")
        for function in self.functions:
            self.fill(function)
        fuel = Node("global.set $fuel", [Node(f"i32.const {FUEL}")], fixed=True)
        reentries = Node("global.set $reentries", [Node(f"i32.const {REENTRIES}")], fixed=True)
        run.body[:0] = [fuel, reentries]
        signatures = [*self.signatures, run.signature, again.signature]
        return Program(self.types, signatures, self.globals, self.functions, self.acyclic)

    def add_function(self, name: str, signature: Signature, export: str = "") -> Function:
        locals_: list[tuple[str, Type]] = [(f"$p{number}", type_) for number, type_ in enumerate(signature.params)]
        for _ in range(self.random.randint(2, 5)):
            locals_.append((f"$v{len(locals_)}", self.value_type()))
        function = Function(name, signature, locals_, export=export)
        self.functions.append(function)
        return function

    def function_of(self, signature: str) -> Function:
        return self.pick([each for each in self.functions if each.signature.name == signature])

    def fill(self, function: Function) -> None:
        self.function = function
        self.labels = []
        self.budget = self.size
        params = len(function.signature.params)
        # What cannot be null must be set before it is read; until then, nothing may read it.
        every = function.locals
        function.locals = every[:params]
        defaults = [self.smallest(type_) for type_ in function.signature.results]
        empty = Node("i32.le_s", [Node("global.get $fuel"), Node("i32.const 0")])
        function.body.append(
            Node("if", [empty, Node("then", [*defaults, Node("return", fixed=True)], fixed=True)], fixed=True)
        )
        function.body.append(self.use_fuel())
        for local in every[params:]:
            if isinstance(local[1], Ref) and not local[1].nullable:
                function.body.append(Node(f"local.set {local[0]}", [self.expression(local[1], 1)], fixed=True))
            function.locals = [*function.locals, local]
        function.locals = every
        function.body += self.statements(self.random.randint(3, 6), 3)
        objects = [local for local in every if isinstance(local[1], Ref) and local[1].heap in self.by_name]
        for name, type_ in self.random.sample(objects, min(2, len(objects))):
            function.body.append(self.look_at(name, self.by_name[type_.heap]))  # type: ignore[union-attr]  # references only: see `objects`
        for type_ in function.signature.results:
            if function.export == "run":
                function.body.append(Node("global.get $hash", type="i64", fixed=True))
            else:
                function.body.append(self.expression(type_, 3))

    def use_fuel(self) -> Node:
        return Node("global.set $fuel", [Node("i32.sub", [Node("global.get $fuel"), Node("i32.const 1")])], fixed=True)

    # Smallest expressions: without calls, labels, traps

    def constant(self, type_: str) -> Node:
        if type_ in ("i32", "i64"):
            value: int | float = self.pick([0, 1, 2, 3, 5, -1, -2, 7, 100, 255, 65535, 2**31 - 1, -(2**31), 1 << 30])
            if type_ == "i64" and self.chance(0.2):
                value = self.pick([2**63 - 1, -(2**63), 2**32, -(2**33)])
        else:
            value = self.pick([0.0, 1.0, -1.5, 0.25, 1e10, -3.0, 1e-3])
        return Node(f"{type_}.const {value}", type=type_)

    def null(self, type_: Ref) -> Node:
        heap = {"host": "noextern", "extern": "noextern"}.get(
            type_.heap, "nofunc" if self.is_function(type_) else "none"
        )
        if self.chance(0.3):
            heap = "extern" if type_.heap == "host" else type_.heap
        return Node(f"ref.null {heap}", type=type_)

    @staticmethod
    def is_function(type_: Ref) -> bool:
        return type_.heap == "func" or type_.heap.startswith("$f")

    def smallest(self, type_: Type, *, constant: bool = False) -> Node:
        """Return an expression of a type without anything that could trap or recurse."""
        if isinstance(type_, str):
            return self.constant(type_)
        if not constant:
            usable = [name for name, local in self.function.locals if self.matches(local, type_)]
            if usable and self.chance(0.8):
                return Node(f"local.get {self.pick(usable)}", type=type_)
        if type_.nullable:
            return self.null(type_)
        if type_.heap in ("any", "eq", "i31"):
            return Node("ref.i31", [self.constant("i32")], type=type_)
        if type_.heap == "extern":
            return Node("extern.convert_any", [Node("ref.i31", [self.constant("i32")])], type=type_)
        if type_.heap == "func" or type_.heap.startswith("$f"):
            signature = self.pick(self.signatures).name if type_.heap == "func" else type_.heap
            return Node(f"ref.func {self.function_of(signature).name}", type=type_)
        if type_.heap in ("struct", "array"):
            definition = self.pick([each for each in self.types if each.is_struct == (type_.heap == "struct")])
        else:
            definition = self.by_name[type_.heap]
        return self.new(definition, 0, type_, constant=constant)

    def new(self, definition: TypeDefinition, depth: int, type_: Type, *, constant: bool = False) -> Node:
        """Return the allocation of an object of just that type."""

        def value(storage: Type) -> Node:
            unpacked = "i32" if storage in PACKED else storage
            if constant or depth <= 0:
                return self.smallest(unpacked, constant=constant)
            return self.expression(unpacked, depth - 1)

        defaultable = all(isinstance(storage, str) or storage.nullable for storage, _ in definition.fields)
        if definition.is_struct:
            if defaultable and self.chance(0.2):
                return Node(f"struct.new_default {definition.name}", type=type_)
            return Node(f"struct.new {definition.name}", [value(storage) for storage, _ in definition.fields], type_)
        element = definition.fields[0][0]
        choice = self.random.random()
        if choice < 0.5 or constant:
            count = self.random.randint(2, 4)
            return Node(f"array.new_fixed {definition.name} {count}", [value(element) for _ in range(count)], type_)
        length = Node(f"i32.const {self.pick([2, 3, 4, 5, 7])}")
        if self.chance(0.08):
            length = Node(f"i32.const {self.pick([0, 1, -1])}")
        if choice < 0.75 and defaultable:
            return Node(f"array.new_default {definition.name}", [length], type_)
        return Node(f"array.new {definition.name}", [value(element), length], type_)

    # Expressions

    def expression(self, type_: Type, depth: int) -> Node:
        """Return an expression that leaves one value of the type."""
        self.budget -= 1
        if depth <= 0 or self.budget <= 0:
            return self.smallest(type_)
        options = self.number_options(type_, depth) if isinstance(type_, str) else self.reference_options(type_, depth)
        options += [
            (3, lambda: self.smallest(type_)),
            (1, lambda: self.conditional(type_, depth)),
            (1, lambda: self.block(type_, depth)),
            (1, lambda: self.select(type_, depth)),
        ]
        locals_ = [name for name, local in self.function.locals if self.matches(local, type_)]
        if locals_:
            options.append((4, lambda: Node(f"local.get {self.pick(locals_)}", type=type_)))
            exact = [(name, local) for name, local in self.function.locals if local == type_]
            if exact:
                options.append((1, lambda: self.tee(self.pick(exact), depth)))
        globals_ = [each.name for each in self.globals if self.matches(each.type, type_)]
        if globals_:
            options.append((2, lambda: Node(f"global.get {self.pick(globals_)}", type=type_)))
        callable_ = [
            each
            for each in self.functions
            if not each.export and len(each.signature.results) == 1 and self.matches(each.signature.results[0], type_)
        ]
        if callable_:
            options.append((3, lambda: self.call(self.pick(callable_), depth, type_)))
        sources = self.field_sources(type_)
        if sources:
            options.append((4, lambda: self.read(*self.pick(sources), type_, depth)))
        return self.choose(options)

    def choose(self, options: Sequence[tuple[float, Callable[[], Node]]]) -> Node:
        weights = [weight for weight, _ in options]
        return self.random.choices([make for _, make in options], weights)[0]()

    def tee(self, local: tuple[str, Type], depth: int) -> Node:
        return Node(f"local.tee {local[0]}", [self.expression(local[1], depth - 1)], local[1])

    def number_options(self, type_: str, depth: int) -> list[tuple[float, Callable[[], Node]]]:
        def operation(names: Sequence[str], operand: str, count: int) -> Node:
            name = f"{operand}.{self.pick(names)}"
            return Node(name, [self.expression(operand, depth - 1) for _ in range(count)], type_)

        def conversion() -> Node:
            name, operand = self.pick(_CONVERSIONS[type_])
            return Node(name, [self.expression(operand, depth - 1)], type_)

        options: list[tuple[float, Callable[[], Node]]] = [
            (2, lambda: operation(_ARITHMETIC[type_], type_, 2)),
            (0.5, lambda: operation(_UNARY[type_], type_, 1)),
            (0.7, conversion),
        ]
        if type_ in ("i32", "i64"):
            options.append((0.1, lambda: operation(("div_s", "rem_u"), type_, 2)))
        if type_ == "i32":
            operand = self.pick(NUMBERS)
            options += [
                (0.7, lambda: operation(_COMPARISONS[operand], operand, 2)),
                (1, lambda: Node("ref.is_null", [self.expression(self.reference_type(), depth - 1)], "i32")),
                (1, lambda: self.equality(depth)),
                (1.5, lambda: self.test(depth)),
                (1, lambda: self.length(depth)),
                (
                    1,
                    lambda: Node(
                        self.pick(["i31.get_s", "i31.get_u"]), [self.expression(self.i31(), depth - 1)], "i32"
                    ),
                ),
                (0.5, lambda: Node("call $host_number", [self.expression("i32", depth - 1)], "i32")),
                (0.5, lambda: Node("call $host_unbox", [self.expression(Ref(True, "host"), depth - 1)], "i32")),
                (0.4, lambda: self.reenter(depth)),
            ]
        return options

    def i31(self) -> Ref:
        return Ref(self.chance(0.05), "i31")

    def equality(self, depth: int) -> Node:
        types = [Ref(True, "eq"), Ref(True, self.pick(self.types).name), Ref(True, "struct"), Ref(True, "i31")]
        return Node("ref.eq", [self.expression(self.pick(types), depth - 1) for _ in range(2)], "i32")

    def any_target(self) -> Ref:
        """Return a type to cast a reference of the any hierarchy to."""
        if self.chance(0.7):
            return Ref(self.chance(0.3), self.pick(self.types).name)
        return Ref(self.chance(0.3), self.pick(["eq", "i31", "struct", "array", "none", "any"]))

    def test(self, depth: int) -> Node:
        source = self.pick([Ref(True, "any"), Ref(True, "eq")])
        return Node(f"ref.test {wat(self.any_target())}", [self.expression(source, depth - 1)], "i32")

    def length(self, depth: int) -> Node:
        if self.chance(0.2):
            return Node("array.len", [self.expression(Ref(False, "array"), depth - 1)], "i32")
        arrays = [each for each in self.types if not each.is_struct]
        return Node("array.len", [self.object(self.pick(arrays), depth - 1)], "i32")

    def reenter(self, depth: int) -> Node:
        left = Node("i32.gt_s", [Node("global.get $reentries"), Node("i32.const 0")])
        count = Node("global.set $reentries", [Node("i32.sub", [Node("global.get $reentries"), Node("i32.const 1")])])
        call = Node("call $host_again", [self.expression("i32", depth - 1)], "i32")
        then = Node("then", [count, call], fixed=True)
        return Node("if (result i32)", [left, then, Node("else", [self.constant("i32")], fixed=True)], "i32")

    def reference_options(self, type_: Ref, depth: int) -> list[tuple[float, Callable[[], Node]]]:
        options: list[tuple[float, Callable[[], Node]]] = []
        nullable = Ref(True, type_.heap)
        fitting = [each for each in self.types if self.heap_matches(each.name, type_.heap)]
        if fitting:
            options.append((5, lambda: self.new(self.pick(fitting), depth, type_)))
        if not type_.nullable:
            options.append((1.5, lambda: self.or_else(type_, depth)))
            options.append((0.1, lambda: Node("ref.as_non_null", [self.expression(nullable, depth - 1)], type_)))
        if self.heap_matches(type_.heap, "any"):
            options.append((1.5, lambda: self.cast_or_else(type_, depth)))
            options.append(
                (0.1, lambda: Node(f"ref.cast {wat(type_)}", [self.expression(Ref(True, "any"), depth - 1)], type_))
            )
        if type_.heap in ("any", "eq", "i31"):
            options.append((2, lambda: Node("ref.i31", [self.expression("i32", depth - 1)], type_)))
        if type_.heap == "any":
            source = Ref(type_.nullable, "extern")
            options.append((1, lambda: Node("any.convert_extern", [self.expression(source, depth - 1)], type_)))
        if type_.heap == "extern":
            inner = Ref(type_.nullable, "any")
            options.append((3, lambda: Node("extern.convert_any", [self.expression(inner, depth - 1)], type_)))
        if type_.nullable and type_.heap in ("extern", "host", "any"):
            options.append((1.5, lambda: self.box(type_, depth)))
        if type_.heap == "any" and type_.nullable:
            options.append((1, lambda: self.failed_cast(depth)))
        return options

    def box(self, type_: Ref, depth: int) -> Node:
        if self.chance(0.3):
            number, extern = self.expression("i32", depth - 1), self.expression(Ref(True, "host"), depth - 1)
            made = Node("", [Node("call $host_pair", [number, extern]), Node("drop")], type_)
        else:
            made = Node("call $host_box", [self.expression("i32", depth - 1)], type_)
        return Node("any.convert_extern", [made], type_) if type_.heap == "any" else made

    def fresh_label(self) -> str:
        self.label_count += 1
        return f"$l{self.label_count}"

    def or_else(self, type_: Ref, depth: int) -> Node:
        """A reference if it is not null, else another one."""
        label = self.fresh_label()
        source = self.expression(Ref(True, type_.heap), depth - 1)
        if self.chance(0.5):
            branch = Node(f"br_on_non_null {label}", [source])
            inside = [branch, *self.inside(label, (type_,), 1, depth), self.expression(type_, depth - 2)]
            return Node(f"block {label} (result {wat(type_)})", inside, type_)
        outer = self.fresh_label()
        kept = Node(f"br {outer}", [Node(f"br_on_null {label}", [source])])
        inner = Node(f"block {label}", [kept])
        last = [*self.inside(outer, (type_,), 1, depth), self.expression(type_, depth - 2)]
        return Node(f"block {outer} (result {wat(type_)})", [inner, *last], type_)

    def cast_or_else(self, type_: Ref, depth: int) -> Node:
        """A reference if it can be cast, else another one."""
        label = self.fresh_label()
        source = (
            self.pick([Ref(True, "any"), Ref(True, "eq")]) if self.heap_matches(type_.heap, "eq") else Ref(True, "any")
        )
        target = type_ if self.chance(0.5) else Ref(False, type_.heap)
        operand = self.expression(source, depth - 1)
        branch = Node("drop", [Node(f"br_on_cast {label} {wat(source)} {wat(target)}", [operand])])
        inside = [branch, *self.inside(label, (type_,), 1, depth), self.expression(type_, depth - 2)]
        return Node(f"block {label} (result {wat(type_)})", inside, type_)

    def failed_cast(self, depth: int) -> Node:
        """What br_on_cast_fail leaves: the reference, whether it was of the type or not."""
        label, target = self.fresh_label(), self.any_target()
        operand = self.expression(Ref(True, "any"), depth - 1)
        branch = Node(f"br_on_cast_fail {label} (ref null any) {wat(target)}", [operand])
        locals_ = [name for name, local in self.function.locals if self.matches(target, local)]
        inside = [branch]
        if locals_:
            name = self.pick(locals_)
            inside = [Node(f"local.set {name}", [branch]), Node(f"local.get {name}")]
            inside[1:1] = self.statements(1, depth - 2)
            if not self.heap_matches(dict(self.function.locals)[name].heap, "any"):  # type: ignore[union-attr]  # `locals_` are references
                inside = [branch]
        return Node(f"block {label} (result (ref null any))", inside, Ref(True, "any"))

    def inside(self, label: str, types: tuple[Type, ...], count: int, depth: int) -> list[Node]:
        """Statements under a label."""
        self.labels.append(Label(label, types))
        made = self.statements(self.random.randint(0, count), depth - 2)
        self.labels.pop()
        return made

    def block(self, type_: Type, depth: int) -> Node:
        label = self.fresh_label()
        inside = self.inside(label, (type_,), 2, depth)
        return Node(f"block {label} (result {wat(type_)})", [*inside, self.expression(type_, depth - 1)], type_)

    def conditional(self, type_: Type, depth: int) -> Node:
        arms = [
            Node(
                name,
                [*self.statements(self.random.randint(0, 1), depth - 2), self.expression(type_, depth - 1)],
                fixed=True,
            )
            for name in ("then", "else")
        ]
        return Node(f"if (result {wat(type_)})", [self.expression("i32", depth - 1), *arms], type_)

    def select(self, type_: Type, depth: int) -> Node:
        operands = [self.expression(type_, depth - 1) for _ in range(2)]
        head = "select" if isinstance(type_, str) and self.chance(0.5) else f"select (result {wat(type_)})"
        return Node(head, [*operands, self.expression("i32", depth - 1)], type_)

    def call(self, function: Function, depth: int, type_: Type | None) -> Node:
        arguments = [self.expression(param, depth - 1) for param in function.signature.params]
        if self.chance(0.3):
            signature = function.signature.name
            callee = self.expression(Ref(self.chance(0.05), signature), depth - 1)
            return Node(f"call_ref {signature}", [*arguments, callee], type_)
        return Node(f"call {function.name}", arguments, type_)

    def object(self, definition: TypeDefinition, depth: int) -> Node:
        """Return an expression for an object of a type; null only seldom."""
        return self.expression(Ref(self.chance(0.02), definition.name), depth)

    def field_sources(self, type_: Type) -> list[tuple[TypeDefinition, int]]:
        """The fields (and elements, as field 0) that hold values of a type."""
        return [
            (definition, number)
            for definition in self.types
            for number, (storage, _) in enumerate(definition.fields)
            if self.matches("i32" if storage in PACKED else storage, type_)
        ]

    def read(self, definition: TypeDefinition, number: int, type_: Type, depth: int) -> Node:
        suffix = self.pick(["_s", "_u"]) if definition.fields[number][0] in PACKED else ""
        target = self.object(definition, depth - 1)
        if definition.is_struct:
            return Node(f"struct.get{suffix} {definition.name} {number}", [target], type_)
        return Node(f"array.get{suffix} {definition.name}", [target, self.index(depth)], type_)

    def index(self, depth: int) -> Node:
        """An index that is seldom out of bounds: arrays have mostly two elements at least."""
        index = self.expression("i32", depth - 2)
        return index if self.chance(0.03) else Node("i32.and", [index, Node("i32.const 1")], "i32")

    # Statements

    def statements(self, count: int, depth: int) -> list[Node]:
        return [self.statement(depth) for _ in range(count)] if depth > 0 and self.budget > 0 else []

    def statement(self, depth: int) -> Node:
        self.budget -= 1
        options: list[tuple[float, Callable[[], Node]]] = [
            (6, lambda: self.set_local(depth)),
            (4, lambda: self.observe(depth)),
            (1, lambda: Node("drop", [self.expression(self.value_type(), depth)])),
            (1.5, lambda: Node("call $host_tick")),
            (1.5, lambda: self.if_statement(depth)),
            (1.5, lambda: self.loop(depth)),
            (0.7, lambda: self.plain_block(depth)),
            (1.2, lambda: self.call_statement(depth)),
            (0.7, lambda: self.switch(depth)),
            (0.2, lambda: self.return_early(depth)),
        ]
        if any(each.mutable for each in self.globals):
            options.append((2.5, lambda: self.set_global(depth)))
        if any(mutable for each in self.types for _, mutable in each.fields):
            options.append((5, lambda: self.set_field(depth)))
        if any(not each.is_struct and each.fields[0][1] for each in self.types):
            options.append((1.5, lambda: self.array_statement(depth)))
        if knots := self.knots():
            options.append((1, lambda: self.tie(*self.pick(knots), depth)))
        if losses := self.losses():
            options.append((1, lambda: self.lose(*self.pick(losses), depth)))
        if self.labels:
            options.append((1.5, lambda: self.branch(depth)))
        return self.choose(options)

    def set_local(self, depth: int) -> Node:
        name, type_ = self.pick(self.function.locals)
        return Node(f"local.set {name}", [self.expression(type_, depth)])

    def set_global(self, depth: int) -> Node:
        target = self.pick([each for each in self.globals if each.mutable])
        return Node(f"global.set {target.name}", [self.expression(target.type, depth)])

    def set_field(self, depth: int) -> Node:
        definition, number = self.pick(
            [(each, n) for each in self.types for n, (_, mutable) in enumerate(each.fields) if mutable]
        )
        storage = definition.fields[number][0]
        target = self.object(definition, depth)
        value = self.expression("i32" if storage in PACKED else storage, depth)
        if definition.is_struct:
            return Node(f"struct.set {definition.name} {number}", [target, value])
        return Node(f"array.set {definition.name}", [target, self.index(depth), value])

    def knots(self) -> list[tuple[str, TypeDefinition, int]]:
        """Locals that can hold an object which is made to refer to itself: its type, and the field that does."""
        return [
            (name, definition, number)
            for definition in self.types
            for number, (storage, mutable) in enumerate(definition.fields)
            if mutable and self.matches(Ref(False, definition.name), storage)
            for name, local in self.function.locals
            if self.matches(Ref(False, definition.name), local)
        ]

    def tie(self, name: str, definition: TypeDefinition, number: int, depth: int) -> Node:
        type_ = Ref(False, definition.name)
        made = Node(f"local.set {name}", [self.new(definition, depth, type_)])
        target, value = (Node(f"ref.cast {wat(type_)}", [Node(f"local.get {name}")]) for _ in range(2))
        if definition.is_struct:
            return Node("", [made, Node(f"struct.set {definition.name} {number}", [target, value])])
        return Node("", [made, Node(f"array.set {definition.name}", [target, self.index(depth), value])])

    def losses(self) -> list[tuple[Global, str, TypeDefinition]]:
        """Globals that can be cleared, with locals that can have what is in them, and the type of that."""
        return [
            (each, name, self.by_name[each.type.heap])
            for each in self.globals
            if each.mutable and isinstance(each.type, Ref) and each.type.nullable and each.type.heap in self.by_name
            for name, local in self.function.locals
            if local == each.type
        ]

    def lose(self, source: Global, name: str, definition: TypeDefinition, depth: int) -> Node:
        """Read a global that alone holds an object, and clear it: from then on only a frame holds the object."""
        assert isinstance(source.type, Ref), "chosen so"
        made = Node(f"global.set {source.name}", [self.new(definition, depth, source.type)])
        take = Node(f"local.set {name}", [Node(f"global.get {source.name}")])
        clear = Node(f"global.set {source.name}", [self.null(source.type)])
        collect = [Node("call $host_tick") for _ in range(2)]
        return Node("", [made, collect[0], take, clear, collect[1], self.look_at(name, definition)])

    def array_statement(self, depth: int) -> Node:
        arrays = [each for each in self.types if not each.is_struct and each.fields[0][1]]
        target = self.pick(arrays)
        count = self.index(depth)
        storage = target.fields[0][0]
        if self.chance(0.5):
            value = self.expression("i32" if storage in PACKED else storage, depth)
            return Node(f"array.fill {target.name}", [self.object(target, depth), self.index(depth), value, count])
        sources = [each for each in self.types if not each.is_struct and self.matches(each.fields[0][0], storage)]
        source = self.pick(sources)
        operands = [self.object(target, depth), self.index(depth), self.object(source, depth), self.index(depth), count]
        return Node(f"array.copy {target.name} {source.name}", operands)

    def observe(self, depth: int) -> Node:
        """Put a value into the checksum."""
        type_ = self.value_type() if self.chance(0.6) else "i32"
        value = self.expression(type_, depth)
        if isinstance(type_, Ref):
            if self.heap_matches(type_.heap, "any") and self.chance(0.7):
                value = Node(f"ref.test {wat(self.any_target())}", [value])
            else:
                value = Node("ref.is_null", [value])
            type_ = "i32"
        if type_ != "i64":
            name = {"i32": "extend_i32_s", "f32": "trunc_sat_f32_s", "f64": "trunc_sat_f64_s"}[type_]
            value = Node(f"i64.{name}", [value])
        return Node("call $mix", [value])

    def look_at(self, name: str, definition: TypeDefinition) -> Node:
        """Put what a local's object holds into the checksum: a number in it, if there is one."""
        numbers = [n for n, (storage, _) in enumerate(definition.fields) if storage in ("i32", "i64", "f64", *PACKED)]
        local = Node(f"local.get {name}")
        if definition.is_struct and numbers:
            number = self.pick(numbers)
            storage = definition.fields[number][0]
            value = Node(f"struct.get{'_s' if storage in PACKED else ''} {definition.name} {number}", [local])
        elif definition.is_struct:
            storage, value = "i32", Node("ref.test (ref struct)", [local])
        else:
            storage, value = "i32", Node("array.len", [local])
        if storage != "i64":
            value = Node("i64.trunc_sat_f64_s" if storage == "f64" else "i64.extend_i32_s", [value])
        look = Node("then", [Node("call $mix", [value])], fixed=True)
        return Node("if", [Node("i32.eqz", [Node("ref.is_null", [Node(f"local.get {name}")])]), look])

    def if_statement(self, depth: int) -> Node:
        children = [self.expression("i32", depth - 1), Node("then", self.statements(2, depth - 1), fixed=True)]
        if self.chance(0.5):
            children.append(Node("else", self.statements(1, depth - 1), fixed=True))
        return Node("if", children)

    def plain_block(self, depth: int) -> Node:
        label = self.fresh_label()
        return Node(f"block {label}", self.inside(label, (), 3, depth + 1))

    def loop(self, depth: int) -> Node:
        """A loop that ends for want of fuel at the latest; some carry a value on the operand stack."""
        leave, again = self.fresh_label(), self.fresh_label()
        empty = Node("i32.le_s", [Node("global.get $fuel"), Node("i32.const 0")])
        guard = [Node(f"br_if {leave}", [empty], fixed=True), self.use_fuel()]
        self.labels.append(Label(leave, ()))
        carried = [local for local in self.function.locals if self.chance(0.5)]
        if carried and self.chance(0.4):
            name, type_ = self.pick(carried)
            first = self.expression(type_, depth - 1)
            self.labels.append(Label(again, (type_,)))
            body = self.statements(self.random.randint(1, 3), depth - 1)
            following, condition = self.expression(type_, depth - 1), self.expression("i32", depth - 1)
            self.labels.pop()
            back = Node(f"local.set {name}", [Node(f"br_if {again}", [following, condition])])
            take = Node(f"local.set {name}", fixed=True)
            inside = Node(f"loop {again} (param {wat(type_)})", [take, *guard, *body, back])
            made = Node(f"block {leave}", [Node("", [first, inside])])
        else:
            self.labels.append(Label(again, ()))
            body = self.statements(self.random.randint(1, 3), depth - 1)
            back = Node(f"br_if {again}", [self.expression("i32", depth - 1)])
            self.labels.pop()
            made = Node(f"block {leave}", [Node(f"loop {again}", [*guard, *body, back])])
        self.labels.pop()
        return made

    def call_statement(self, depth: int) -> Node:
        """Call a function and take all its results off the stack again."""
        function = self.pick([each for each in self.functions if not each.export])
        parts = [self.call(function, depth, None)]
        for result in reversed(function.signature.results):
            locals_ = [name for name, local in self.function.locals if self.matches(result, local)]
            parts.append(
                Node(f"local.set {self.pick(locals_)}" if locals_ and self.chance(0.8) else "drop", fixed=True)
            )
        return Node("", parts)

    def branch(self, depth: int) -> Node:
        label = self.pick(self.labels)
        values = [self.expression(type_, depth - 1) for type_ in label.types]
        condition = self.expression("i32", depth - 1)
        if self.chance(0.5):
            drops = [Node("drop", fixed=True) for _ in label.types]
            return Node("", [Node(f"br_if {label.name}", [*values, condition], fixed=True), *drops])
        alike = [each.name for each in self.labels if each.types == label.types]
        if self.chance(0.4):
            names = " ".join(self.pick(alike) for _ in range(self.random.randint(1, 4)))
            jump = Node(f"br_table {names}", [*values, self.expression("i32", depth - 1)])
        else:
            jump = Node(f"br {label.name}", values)
        return Node("if", [condition, Node("then", [*self.statements(1, depth - 1), jump], fixed=True)])

    def switch(self, depth: int) -> Node:
        """Arms that a br_table brings a value to."""
        names = [self.fresh_label() for _ in range(self.random.randint(2, 3))]
        leave = self.fresh_label()
        name, type_ = self.pick(self.function.locals)
        targets = " ".join(self.pick(names) for _ in range(3))
        node = Node(f"br_table {targets}", [self.expression(type_, depth - 1), self.expression("i32", depth - 1)])
        result = f"(result {wat(type_)})"
        for label in names:
            take = Node(f"local.set {name}", [Node(f"block {label} {result}", [node])], fixed=True)
            self.labels.append(Label(leave, ()))
            arm = self.statements(1, depth - 1)
            self.labels.pop()
            node = Node("", [take, *arm, Node(f"br {leave}", fixed=True)])
        return Node(f"block {leave}", [node])

    def return_early(self, depth: int) -> Node:
        condition = self.expression("i32", depth - 1)
        if self.chance(0.1):
            leave = Node("unreachable")
        else:
            leave = Node("return", [self.expression(type_, depth - 1) for type_ in self.function.signature.results])
        return Node("if", [condition, Node("then", [leave], fixed=True)])


def generate(random: Random, *, acyclic: bool | None = None, size: int | None = None) -> Program:
    """Make a program. `size` says how far each function may grow, in steps of the generator; 8 to 40 by default.

    Every other program is acyclic by default.
    """
    if acyclic is None:
        acyclic = random.random() < 0.5
    if size is None:
        size = random.choice([8, 12, 12, 20, 40])
    return Generator(random, acyclic=acyclic, size=size).make_program()


def reduce(program: Program, holds: Callable[[Program], bool], attempts: int = 1000) -> Program:
    """Return a smaller program for which `holds` still holds. `holds` must be False for what is no valid module."""
    best = program
    progress = True
    while progress and attempts > 0:
        progress = False
        for candidate in _smaller(best):
            attempts -= 1
            if holds(candidate):
                best, progress = candidate, True
                break
            if attempts <= 0:
                break
    return best


def _smaller(program: Program) -> Iterator[Program]:
    """Yield programs with a part of this one left out, large parts first."""
    total = sum(len(list(node.walk())) for function in program.functions for node in function.body)
    for number, function in enumerate(program.functions):
        length = len(function.body)
        size = length
        while size:
            for start in range(0, length, size):
                removed = function.body[start : start + size]
                if removed and not any(node.fixed or node.type is not None for node in removed):
                    candidate = copy.deepcopy(program)
                    del candidate.functions[number].body[start : start + size]
                    yield candidate
            size //= 2
    for position in range(total):
        for change in (_remove, _simplify, *(_hoist(number) for number in range(3))):
            candidate = copy.deepcopy(program)
            if change(candidate, position):
                yield candidate
    for number in reversed(range(len(program.globals))):
        candidate = copy.deepcopy(program)
        del candidate.globals[number]
        yield candidate
    for number in reversed(range(len(program.functions))):
        candidate = copy.deepcopy(program)
        del candidate.functions[number]
        yield candidate
        for local in reversed(
            range(len(program.functions[number].signature.params), len(program.functions[number].locals))
        ):
            candidate = copy.deepcopy(program)
            del candidate.functions[number].locals[local]
            yield candidate


def _place(program: Program, position: int) -> tuple[list[Node], int]:
    """Return the list that holds the node of that number, and where in it."""

    def find(nodes: list[Node]) -> tuple[list[Node], int] | None:
        nonlocal position
        for index, node in enumerate(nodes):
            if position == 0:
                return nodes, index
            position -= 1
            if found := find(node.children):
                return found
        return None

    for function in program.functions:
        if found := find(function.body):
            return found
    raise IndexError("there is no such node")


def _remove(program: Program, position: int) -> bool:
    nodes, index = _place(program, position)
    if nodes[index].fixed or nodes[index].type is not None:
        return False
    del nodes[index]
    return True


def _simplify(program: Program, position: int) -> bool:
    nodes, index = _place(program, position)
    node = nodes[index]
    if node.type is None or node.fixed:
        return False
    if isinstance(node.type, str):
        simple = f"{node.type}.const 0"
    elif node.type.nullable:
        simple = f"ref.null {'extern' if node.type.heap == 'host' else node.type.heap}"
    elif node.type.heap in ("any", "eq", "i31"):
        nodes[index] = Node("ref.i31", [Node("i32.const 0", type="i32")], node.type)
        return node.head != "ref.i31"
    else:
        return False
    if node.head.split()[0] == simple.split()[0]:
        return False
    nodes[index] = Node(simple, type=node.type)
    return True


def _hoist(number: int) -> Callable[[Program, int], bool]:
    """Put a node's child of that number in its place."""

    def change(program: Program, position: int) -> bool:
        nodes, index = _place(program, position)
        node = nodes[index]
        below = [child for child in node.children if child.type is not None or child.head in ("then", "else")]
        if node.fixed or number >= len(below):
            return False
        chosen = below[number]
        nodes[index : index + 1] = chosen.children if chosen.head in ("then", "else") else [chosen]
        return True

    return change
