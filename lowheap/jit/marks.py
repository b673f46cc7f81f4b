"""Marks on emitted code: which event each instruction was emitted for, such as a read barrier or a safepoint.

Marks are debug locations whose line numbers stand for events, in a module of their own kind: LLVM carries them through
optimisation to the assembly text and to the object's line table. A module without marks, as every module is that gets
run, has no debug information at all. `lowheap asm` is what they are for.

An event inside another, such as the count within a write barrier, has a path: `("write", "inc_ref")`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llvmlite import ir

Path = tuple[str, ...]

PLAIN: Path = ()
"""The path of what was emitted for no event: the program's own work."""

MOVED: Path = ("(moved)",)
"""The path of instructions that LLVM merged from several places, or made itself."""

_MOVED_LINE = 0
_DWARF_VERSION = 4
_DEBUG_INFO_VERSION = 3
_WARN_IF_DIFFERENT = 2  # how LLVM's linker would treat the module's flags


class MarkedModule(ir.Module):  # type: ignore[misc]  # llvmlite ships no type information
    """A module that keeps marks; an `Emitter` for one of its functions sets them."""

    def __init__(self, name: str) -> None:
        """Start an empty module with the debug information that locations need."""
        super().__init__(name)
        self.current: Path = PLAIN
        self._paths: list[Path] = [MOVED, PLAIN]  # a path's line number is its place here
        self._subprograms: dict[str, ir.DIValue] = {}
        self._file = self.add_debug_info("DIFile", {"filename": "events", "directory": ""})
        self._unit = self.add_debug_info(
            "DICompileUnit",
            {
                "language": ir.DIToken("DW_LANG_C99"),
                "file": self._file,
                "producer": "lowheap",
                "isOptimized": True,
                "runtimeVersion": 0,
                "emissionKind": ir.DIToken("LineTablesOnly"),
            },
            is_distinct=True,
        )
        self.add_named_metadata("llvm.dbg.cu", self._unit)
        number = ir.IntType(32)
        for flag, value in (("Dwarf Version", _DWARF_VERSION), ("Debug Info Version", _DEBUG_INFO_VERSION)):
            self.add_named_metadata("llvm.module.flags", [number(_WARN_IF_DIFFERENT), flag, number(value)])

    def begin(self, function: ir.Function) -> None:
        """Give a function that is about to be emitted the scope that its locations need."""
        line = self._line(PLAIN)
        type = self.add_debug_info("DISubroutineType", {"types": self.add_metadata([None])})
        scope = self.add_debug_info(
            "DISubprogram",
            {
                "name": function.name,
                "linkageName": function.name,
                "file": self._file,
                "line": line,
                "scopeLine": line,
                "type": type,
                "unit": self._unit,
                "spFlags": ir.DIToken("DISPFlagDefinition | DISPFlagOptimized"),
            },
            is_distinct=True,
        )
        self._subprograms[function.name] = scope
        function.set_metadata("dbg", scope)

    def location(self, function: ir.Function, path: Path) -> ir.DIValue:
        """Return the location of what is emitted into a function for the event with this path."""
        operands = {"line": self._line(path), "column": 1, "scope": self._subprograms[function.name]}
        return self.add_debug_info("DILocation", operands)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """While another function is emitted in the middle of an event, for which it may not be alone, leave that."""
        around, self.current = self.current, PLAIN
        try:
            yield
        finally:
            self.current = around

    def path_of(self, line: int) -> Path:
        """Return the path that a line number in LLVM's output stands for."""
        return self._paths[line] if line < len(self._paths) else MOVED

    def _line(self, path: Path) -> int:
        if path not in self._paths:
            self._paths.append(path)
        return self._paths.index(path)
