"""Legacy exception handling, told in the instructions of WebAssembly 3.0: `try` becomes `try_table`.

What follows a `catch` is code behind a block that the handler branches to: one compiler serves both. With two
clauses, of which one rethrows,

    try (result R)                      block $end (result R)
      BODY                                block $second (result exnref)
    catch $tag                              block $first (result FIELDS)
      FIRST                                   try_table (result R) (catch $tag $first) (catch_all_ref $second)
    catch_all                                   BODY
      ... rethrow 0 ...                       end
    end                                       br $end
                                            end
                                            FIRST
                                            br $end
                                          end
                                          local.set $exception
                                          ... local.get $exception  throw_ref ...
                                        end

`delegate` throws in the body of an enclosing `try`, or out of the function: what it catches goes, by a branch, to a
block around that body, behind which it is thrown again. Only bodies that a `delegate` names have such a block.

Branches keep what they mean: a label's depth is counted anew, past the blocks that are added. What a validator has
found is relied on.

Source: the legacy text of the exception-handling proposal. A `delegate` in a `catch` of the `try` that it names goes to
what is around that, whose body is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lowheap.types import EXNREF, FuncType, ValType
from lowheap.wasm.decode import BlockType, Catch, DecodedModule, FunctionBody, Instruction, TagImport

_CONSTRUCTS = ("block", "loop", "if", "try_table", "try")
_FUNCTION = -1
"""The number of a function's body, where constructs have that of the instruction that opens them."""


def translated(decoded: DecodedModule) -> DecodedModule:
    """Return a module without legacy instructions; the same one, if it has none."""
    if not any(each.name == "try" for body in decoded.bodies for each in body.instructions):
        return decoded
    types = [member.composite for group in decoded.rec_groups for member in group]
    tags = [each.desc.type_index for each in decoded.imports if isinstance(each.desc, TagImport)]
    fields = []
    for index in (*tags, *decoded.tags):
        type = types[index]
        assert isinstance(type, FuncType), "validated: a tag's type is a function type"
        fields.append(type.params)
    bodies = []
    for body, type_index in zip(decoded.bodies, decoded.functions, strict=True):
        type = types[type_index]
        assert isinstance(type, FuncType), "validated: a function's type is a function type"
        if any(each.name == "try" for each in body.instructions):
            body = _Translation(body, type, fields).body()
        bodies.append(body)
    return replace(decoded, bodies=bodies)


@dataclass(slots=True)
class _Try:
    """What becomes of a `try`: its clauses' tags, in order (None: all), or where it delegates to; who needs it whole.

    `is_rethrown`: its exception is thrown again, so it is kept. `is_target`: a `delegate` throws in its body.
    """

    clauses: list[int | None] = field(default_factory=list)
    delegates_to: int | None = None
    is_rethrown: bool = False
    is_target: bool = False


@dataclass(slots=True)
class _Open:
    """A construct of the source that is open, where code is.

    `number` is that of the instruction that opens it, `label` the place of its label among those that are emitted.
    `delegated` is the label of the block around its body whose end throws what is delegated there. `exception` is the
    local that has what it caught.
    """

    number: int
    label: int
    type: BlockType
    delegated: int | None = None
    clause: int = -1
    exception: int | None = None


class _Translation:
    """The translation of one function's body."""

    def __init__(self, body: FunctionBody, type: FuncType, tags: Sequence[tuple[ValType, ...]]) -> None:
        """Begin; `tags` are the fields of each tag's exceptions."""
        self.source, self.tags = body, tags
        self.locals: list[ValType] = list(body.locals)
        self.first_local = len(type.params)
        self.type = BlockType((), type.results)
        self.tries: dict[int, _Try] = {}
        self.out: list[Instruction] = []
        self.labels = 1  # how many are open, the function's own first
        self.open: list[_Open] = []
        self.offset = body.offset

    def body(self) -> FunctionBody:
        """Return the body, translated."""
        self._scan()
        self._begin(_Open(_FUNCTION, 0, self.type))
        for number, instruction in enumerate(self.source.instructions):
            self.offset = instruction.offset
            self._translate(number, instruction)
        return replace(self.source, locals=tuple(self.locals), instructions=tuple(self.out))

    # What a `try` becomes depends on what comes later.

    def _scan(self) -> None:
        self.tries[_FUNCTION] = _Try()
        open = [_FUNCTION]
        in_clause: set[int] = set()
        for number, instruction in enumerate(self.source.instructions):
            match instruction.name:
                case name if name in _CONSTRUCTS:
                    open.append(number)
                    if name == "try":
                        self.tries[number] = _Try()
                case "catch" | "catch_all":
                    tag = instruction.operands[0] if instruction.operands else None
                    assert tag is None or isinstance(tag, int), "decoded: a tag is an index"
                    self.tries[open[-1]].clauses.append(tag)
                    in_clause.add(open[-1])
                case "rethrow":
                    self.tries[open[-1 - _depth(instruction)]].is_rethrown = True
                case "delegate":
                    delegating = self.tries[open.pop()]
                    target = len(open) - 1 - _depth(instruction)
                    while open[target] in in_clause or open[target] not in self.tries:
                        target -= 1
                    delegating.delegates_to = open[target]
                    self.tries[open[target]].is_target = True
                case "end":
                    open.pop()

    def _translate(self, number: int, instruction: Instruction) -> None:
        name, operands = instruction.name, instruction.operands
        match name:
            case "try":
                self._begin_try(number, operands[0])
            case "catch" | "catch_all":
                self._next_clause()
            case "delegate":
                self._delegate()
            case "rethrow":
                caught = self.open[-1 - _depth(instruction)].exception
                assert caught is not None, "validated: it names a try that has caught something"
                self._emit("local.get", caught)
                self._emit("throw_ref")
            case "end":
                self._end()
            case _ if name in _CONSTRUCTS:
                type = operands[0]
                assert isinstance(type, BlockType), "decoded: a block type comes first"
                # A handler's labels are counted from outside of the construct.
                others = [self._handlers(each) for each in operands[1:]]
                self.out.append(instruction._replace(operands=(type, *others)))
                self.open.append(_Open(number, self.labels, type))
                self.labels += 1
            case "br" | "br_if" | "br_on_null" | "br_on_non_null" | "br_on_cast" | "br_on_cast_fail":
                depth, *rest = operands
                assert isinstance(depth, int), "decoded: the label comes first"
                self.out.append(instruction._replace(operands=(self._depth(depth), *rest)))
            case "br_table":
                depths, default = operands
                assert isinstance(depths, tuple), "decoded: labels"
                assert isinstance(default, int), "decoded: a label"
                moved = tuple(self._depth(each) for each in depths if isinstance(each, int))
                self.out.append(instruction._replace(operands=(moved, self._depth(default))))
            case _:
                self.out.append(instruction)

    def _handlers(self, catches: object) -> tuple[Catch, ...]:
        assert isinstance(catches, tuple), "decoded: catch clauses"
        return tuple(each._replace(label=self._depth(each.label)) for each in catches)

    def _depth(self, source: int) -> int:
        """The depth, as things are emitted, of a label that has one in the source."""
        return self._to(self.open[-1 - source].label)

    def _to(self, label: int) -> int:
        return self.labels - 1 - label

    def _emit(self, name: str, *operands: int | BlockType | tuple[Catch, ...]) -> None:
        self.out.append(Instruction(name, operands, self.offset))

    def _block(self, params: tuple[ValType, ...], results: tuple[ValType, ...]) -> int:
        """Open a block, and return the place of its label."""
        self._emit("block", BlockType(params, results))
        self.labels += 1
        return self.labels - 1

    def _close(self) -> None:
        self._emit("end")
        self.labels -= 1

    # The body of a function, or of a `try`, with a block for what is delegated there

    def _begin(self, construct: _Open) -> None:
        self.open.append(construct)
        if self.tries[construct.number].is_target:
            self._block(construct.type.params, construct.type.results)
            construct.delegated = self._block(construct.type.params, (EXNREF,))

    def _end_body(self, construct: _Open) -> None:
        if construct.delegated is not None:
            self._emit("br", self._to(construct.delegated - 1))
            self._close()
            self._emit("throw_ref")
            self._close()

    def _begin_try(self, number: int, type: object) -> None:
        assert isinstance(type, BlockType), "decoded: a block type comes first"
        this = self.tries[number]
        construct = _Open(number, self._block(type.params, type.results), type)
        if this.delegates_to is not None:
            self._block(type.params, (EXNREF,))
            catches = [Catch("catch_all_ref", None, 0)]
        else:
            if this.is_rethrown:
                construct.exception = self.first_local + len(self.locals)
                self.locals.append(EXNREF)
            catches = []
            for tag in reversed(this.clauses):
                fields = () if tag is None else self.tags[tag]
                self._block(type.params, (*fields, *((EXNREF,) if this.is_rethrown else ())))
            for depth, tag in enumerate(this.clauses):
                if tag is None:
                    catches.append(Catch("catch_all_ref" if this.is_rethrown else "catch_all", None, depth))
                else:
                    catches.append(Catch("catch_ref" if this.is_rethrown else "catch", tag, depth))
        self._emit("try_table", type, tuple(catches))
        self.labels += 1
        self._begin(construct)

    def _next_clause(self) -> None:
        """Behind a body, or a clause: its results are those of the whole, and what is caught next comes here."""
        construct = self.open[-1]
        if construct.clause < 0:
            self._end_body(construct)
            self._close()
        self._emit("br", self._to(construct.label))
        self._close()
        construct.clause += 1
        if construct.exception is not None:
            self._emit("local.set", construct.exception)

    def _delegate(self) -> None:
        construct = self.open.pop()
        self._end_body(construct)
        self._close()
        self._emit("br", self._to(construct.label))
        self._close()
        target = self.tries[construct.number].delegates_to
        place = next(each.delegated for each in self.open if each.number == target)
        assert place is not None, "scanned: there is a block for what is delegated"
        self._emit("br", self._to(place))
        self._close()

    def _end(self) -> None:
        construct = self.open.pop()
        if construct.number == _FUNCTION:
            self._end_body(construct)
            self._emit("end")
            return
        if construct.number in self.tries and construct.clause < 0:
            self._end_body(construct)
            self._close()
        self._close()


def _depth(instruction: Instruction) -> int:
    depth = instruction.operands[0]
    assert isinstance(depth, int), "decoded: a label"
    return depth
