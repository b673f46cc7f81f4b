"""A world for programs that are compiled for JavaScript: what they import, found by name, on objects of Python's.

`JsWorld().define(linker, store, module)` names what a module imports. Where each import comes from, in this order:

1. `functions`: what a user has given, by module and name;
2. `glue`: the objects of the glue beside the program, by the module's name, if there is a glue;
3. global objects: `Math.pow` of the module `Math`;
4. J2CL's names in the module `imports`: `Math.sin`, `string.indexOf$2`, `get Error.stack`.

A tag of one externref is JavaScript's, `WebAssembly.JSTag`, and a memory a new one.

Globals are a dictionary that a user changes, and the world a class to extend: a method is an import of any module if it
has the import's name behind `import_`. What a program prints goes to `out` and `err`. Timers and promises wait for
`run`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from types import CodeType, FrameType, GeneratorType, ModuleType, TracebackType
from typing import Any, TextIO

from lowheap.hosts.js import j2cl
from lowheap.hosts.js.boundary import exported, imported
from lowheap.hosts.js.glue import Glue
from lowheap.hosts.js.library import (
    ARRAY_METHODS,
    BIGINT_METHODS,
    BOOLEAN_METHODS,
    FUNCTION_METHODS,
    NUMBER_METHODS,
    STRING_METHODS,
    library,
)
from lowheap.hosts.js.loop import EventLoop
from lowheap.hosts.js.objects import Matched, Promise, TypedArray
from lowheap.hosts.js.values import (
    UNDEFINED,
    BigInt,
    Function,
    Getter,
    JsError,
    JsObject,
    Symbol,
    call,
    is_callable,
    to_number,
    to_string,
    truthy,
    units,
)
from lowheap.objects import GcObject
from lowheap.runtime.exceptions import host_tag
from lowheap.store import Store
from lowheap.types import FuncType, GlobalType, ImportType, MemoryType, TagType
from lowheap.wasm.instance import Instance
from lowheap.wasm.linker import Linker
from lowheap.wasm.memories import Memory
from lowheap.wasm.module import Module

_INSTANCES = ("dartInstance", "wasmInstance", "instance", "instantiatedModule")
_EXPORTS = ("wasmExports", "exports")
"""What glue calls the program's instance, and its exports."""


class JsWorld:
    """What programs find around them in JavaScript."""

    def __init__(
        self,
        *,
        glue: str | None = None,
        out: TextIO | None = None,
        err: TextIO | None = None,
        clock: Callable[[], float] = time.time,
        loop: EventLoop | None = None,
    ) -> None:
        """Make a world. `glue` is the source beside the program; `out` and `err` are the process's without others."""
        self._out, self._err, self._clock = out, err, clock
        self.loop = EventLoop() if loop is None else loop
        self.globals: dict[str, Any] = library(clock)
        """The global objects, by name."""
        self.functions: dict[tuple[str, str], Callable[..., Any]] = {}
        """Functions for imports, by module and name. They get JavaScript's values, and return such."""
        self.exports: Mapping[str, Any] = {}
        self._started = clock()
        self._add_hosts()
        self.glue: Glue | None = None
        if glue is not None:
            self.use_glue(glue)

    # ------------------------------------------------------------------------------------------------------------------
    # What there is beside the language

    def _add_hosts(self) -> None:
        loop = self.loop

        def timer(_: Any, task: Any, milliseconds: Any = 0, *args: Any, repeats: bool = False) -> int:
            return loop.set_timer(lambda: call(task, UNDEFINED, list(args)), to_number(milliseconds), repeats=repeats)

        def clear(_: Any, number: Any = UNDEFINED) -> Any:
            loop.clear_timer(number)
            return UNDEFINED

        def microtask(_: Any, task: Any) -> Any:
            loop.queue_microtask(lambda: call(task, UNDEFINED, []))
            return UNDEFINED

        console = JsObject()
        for name in ("log", "info", "debug", "warn", "error"):
            to_err = name in ("warn", "error")
            console.set(name, Function(lambda _, *args, to_err=to_err: self._say(args, to_err=to_err), name))
        promise = Function(lambda *_: UNDEFINED, "Promise", make=lambda executor: Promise(loop, executor), kind=Promise)
        promise.set("resolve", Function(lambda _, value=UNDEFINED: self._settled(value, fulfils=True)))
        promise.set("reject", Function(lambda _, value=UNDEFINED: self._settled(value, fulfils=False)))
        self.globals |= {
            "console": console,
            "performance": JsObject({"now": Function(lambda _: (self._clock() - self._started) * 1000)}),
            "Promise": promise,
            "WebAssembly": JsObject({"JSTag": JsObject()}),
            "setTimeout": Function(timer),
            "setInterval": Function(lambda *args: timer(*args, repeats=True)),
            "clearTimeout": Function(clear),
            "clearInterval": Function(clear),
            "queueMicrotask": Function(microtask),
        }
        whole = _Global(self.globals)
        self.globals |= dict.fromkeys(("globalThis", "self", "window"), whole)

    def _settled(self, value: Any, *, fulfils: bool) -> Promise:
        if fulfils and isinstance(value, Promise):
            return value
        made = Promise(self.loop)
        made.resolve(value) if fulfils else made.reject(value)
        return made

    def _say(self, args: tuple[Any, ...], *, to_err: bool) -> Any:
        self.write(" ".join(map(self.shown, args)) + "\n", to_err=to_err)
        return UNDEFINED

    def shown(self, value: Any) -> str:
        """Return how the console shows a value."""
        if isinstance(value, list):
            return f"[ {', '.join(map(self.shown, value))} ]" if value else "[]"
        return to_string(value)

    def write(self, text: str, *, to_err: bool = False) -> None:
        """Write what a program prints."""
        stream = (self._err or sys.stderr) if to_err else (self._out or sys.stdout)
        stream.write(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
        stream.flush()

    # ------------------------------------------------------------------------------------------------------------------
    # Imports

    def define(self, linker: Linker, store: Store, module: Module) -> None:
        """Name what a module imports and a linker has not, as far as this world has it.

        String constants are among them: of a namespace in which all imports are immutable globals of externrefs.
        """
        store.use_strings()
        defined = set()
        for each in linker.missing(module):
            if (each.module, each.name) in defined:
                continue  # one thing may be imported as several
            found = self.find(store, module, each)
            if found is not None:
                linker.define(store, each.module, each.name, found)
                defined.add((each.module, each.name))

    def find(self, store: Store, module: Module, wanted: ImportType) -> Any:
        """Return what a module is to be given for an import; None where this world has nothing."""
        match wanted.type:
            case TagType(type):
                return host_tag(store) if type == host_tag(store).type.functype else None
            case MemoryType():
                return Memory(store, wanted.type)
            case GlobalType():
                return wanted.name if wanted.module in module.string_namespaces else None
            case FuncType():
                function = self.function(wanted.module, wanted.name, wanted.type)
                return None if function is None else imported(store, wanted.type, function)
        return None

    def function(self, module: str, name: str, type: FuncType) -> Any:
        """Return the function for an import, which may look at how it is declared; None where there is none."""
        if (module, name) in self.functions:
            return self.functions[module, name]
        own = getattr(self, f"import_{name}", None)
        if own is not None:
            return own
        if self.glue is not None:
            if module not in self._glue_objects:
                self._glue_objects[module] = self.glue.object(module)
            members = self._glue_objects[module]
            if members is not None and is_callable(found := members.get(name)):
                return found
        if isinstance(holder := self.globals.get(module), JsObject) and is_callable(found := holder.get(name)):
            return found
        return j2cl.function(self, name, type) if module == "imports" else None

    def start(self, instance: Instance) -> None:
        """Tell the world which instance it is around: what glue calls its exports are this one's."""
        self.exports = {name: exported(each) for name, each in instance.exports.items()}
        if self.glue is not None:
            self.glue.names |= dict.fromkeys(_INSTANCES, JsObject({"exports": self.exports}))
            self.glue.names |= dict.fromkeys(_EXPORTS, self.exports)

    def run(self) -> None:
        """Run what timers and promises have to do, until nothing is left."""
        self.loop.run()

    def use_glue(self, source: str) -> None:
        """Take functions from the glue beside a program. GlueError for what is not JavaScript."""
        self.glue = Glue(self, source)
        self.glue.names |= dict.fromkeys((*_INSTANCES, *_EXPORTS), UNDEFINED)
        self._glue_objects: dict[str, JsObject | None] = {}

    # ------------------------------------------------------------------------------------------------------------------
    # What the interpreter asks

    def has_global(self, name: str) -> bool:
        """Whether there is a global object of that name."""
        return name in self.globals

    def get_global(self, name: str) -> Any:
        """Return a global object."""
        return self.globals[name]

    def set_global(self, name: str, value: Any) -> None:
        """Set a global object."""
        self.globals[name] = value

    def new_object(self) -> JsObject:
        """Return an object without properties."""
        return JsObject()

    def key(self, key: Any) -> Any:
        """Return a key as properties have it: an int, a symbol, or a string."""
        if isinstance(key, Symbol) or (isinstance(key, int) and not isinstance(key, bool)):
            return key
        if isinstance(key, float) and key == int(key):
            return int(key)
        return to_string(key)

    def get(self, value: Any, key: Any) -> Any:
        """Return a property. A TypeError of null's and undefined's."""
        if value is None or value is UNDEFINED:
            raise JsError(f"Cannot read properties of {to_string(value)} (reading '{to_string(key)}')", "TypeError")
        if isinstance(value, TypedArray):
            return value.get(key)
        if isinstance(value, JsObject):
            return value.get(str(key) if isinstance(key, int) else key)
        if isinstance(value, str | list):
            if isinstance(key, str) and key.isdecimal():
                key = int(key)
            if isinstance(key, int):
                whole: Any = units(value) if isinstance(value, str) else value
                return whole[key] if 0 <= key < len(whole) else UNDEFINED
            if isinstance(value, Matched) and key in value.properties:
                return value.properties[key]
            return _own(STRING_METHODS if isinstance(value, str) else ARRAY_METHODS, value, key)
        if isinstance(value, bool):
            return _own(BOOLEAN_METHODS, value, key)
        if isinstance(value, BigInt):
            return _own(BIGINT_METHODS, value, key)
        if isinstance(value, int | float):
            return _own(NUMBER_METHODS, value, key)
        if isinstance(value, Mapping):
            return value.get(key, UNDEFINED)
        if is_callable(value):
            return _own(FUNCTION_METHODS, value, key)
        return getattr(value, key, UNDEFINED) if _is_attribute(value, key) else UNDEFINED

    def set(self, value: Any, key: Any, new: Any) -> None:
        """Set a property. A TypeError of null's and undefined's; of what has no properties, nothing is set."""
        if value is None or value is UNDEFINED:
            raise JsError(f"Cannot set properties of {to_string(value)} (setting '{to_string(key)}')", "TypeError")
        if isinstance(value, TypedArray):
            value.set(key, new)
        elif isinstance(value, JsObject):
            value.set(str(key) if isinstance(key, int) else key, new)
        elif isinstance(value, list):
            if key == "length":
                count = int(to_number(new))
                value[count:] = [UNDEFINED] * (count - len(value))
            elif isinstance(key, int) and key >= 0:
                value.extend([UNDEFINED] * (key + 1 - len(value)))
                value[key] = new
        elif not is_callable(value) and _is_attribute(value, key):
            setattr(value, key, new)

    def has(self, value: Any, key: Any) -> bool:
        """Whether there is a property of that name."""
        name = self.key(key)
        if isinstance(value, JsObject) and (str(name) if isinstance(name, int) else name) in value.properties:
            return True
        return self.get(value, name) is not UNDEFINED

    def delete(self, value: Any, key: Any) -> bool:
        """Delete a property."""
        if isinstance(value, JsObject):
            value.properties.pop(str(key) if isinstance(key, int) else key, None)
        return True

    def keys(self, value: Any) -> list[Any]:
        """Return the names of an object's own properties, as `for` with `in` has them."""
        found: list[Any] = call(self.get(self.globals["Object"], "keys"), UNDEFINED, [value])
        return found

    def is_instance(self, value: Any, constructor: Any) -> bool:
        """Whether a value is an instance of what a constructor makes."""
        kind = getattr(constructor, "kind", constructor)
        if isinstance(kind, type):
            return isinstance(value, kind) and kind is not str
        if kind is None or not callable(kind):
            return False
        return truthy(kind(value))

    def construct(self, constructor: Any, args: list[Any]) -> Any:
        """Return what `new` makes."""
        make = constructor.make if isinstance(constructor, Function) else constructor
        if isinstance(constructor, Function) and make is None:
            made = JsObject()
            found = constructor.body(made, *args)
            return found if isinstance(found, JsObject) else made
        if not callable(make):
            raise JsError(f"{to_string(constructor)} is not a constructor", "TypeError")
        return make(*args)


class _Global(JsObject):
    """The global object, whose properties are the globals themselves."""

    name = "global"


_HAVE_NONE = (str, int, float, Symbol, GcObject, Mapping, type, GeneratorType, FrameType, CodeType, TracebackType)


def _is_attribute(value: Any, key: Any) -> bool:
    """Whether a key is an attribute of a user's object, which a program may read and write.

    Programs choose keys. None leads to what Python has behind an object: its class, its code, its globals.
    """
    return isinstance(key, str) and not key.startswith("_") and not isinstance(value, (*_HAVE_NONE, ModuleType))


def _own(methods: Mapping[str, Any], value: Any, key: Any) -> Any:
    found = methods.get(key, UNDEFINED)
    return found(value) if isinstance(found, Getter) else found
