"""A world for programs that are compiled for JavaScript: what they import, found by name, on objects of Python's.

`JsWorld().define(linker, store, module)` names what a module imports. Where each import comes from, in this order:

1. `functions`: what a user has given, by module and name;
2. the builtins of `wasm:text-decoder` and `wasm:text-encoder`;
3. `glue`: the objects of the glue beside the program, by the module's name, if there is a glue;
4. global objects: `Math.pow` of the module `Math`;
5. J2CL's names in the module `imports`: `Math.sin`, `string.indexOf$2`, `get Error.stack`.

A tag of one externref is JavaScript's, `WebAssembly.JSTag`, and a memory a new one.

Globals are a dictionary that a user changes, and the world a class to extend: a method is an import of any module if it
has the import's name behind `import_`. What a program prints goes to `out` and `err`. Timers and promises wait for
`run`.
"""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Mapping
from types import CodeType, FrameType, GeneratorType, ModuleType, TracebackType
from typing import Any, TextIO

from lowheap.hosts.js import j2cl
from lowheap.hosts.js.boundary import exported, imported, to_wasm
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
from lowheap.hosts.js.objects import Matched, Promise, TypedArray, elements_of
from lowheap.hosts.js.text import builtin, well_formed
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
from lowheap.wasm.instance import ByType, Instance
from lowheap.wasm.linker import Linker
from lowheap.wasm.memories import Memory
from lowheap.wasm.module import Module


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
        self._indent = ""  # of what the console prints
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

        promise = Function(lambda *_: UNDEFINED, "Promise", make=lambda executor: Promise(loop, executor), kind=Promise)
        promise.set("resolve", Function(lambda _, value=UNDEFINED: self._settled(value, fulfils=True)))
        promise.set("reject", Function(lambda _, value=UNDEFINED: self._settled(value, fulfils=False)))
        for name in ("all", "allSettled", "any", "race"):
            promise.set(name, Function(functools.partial(self._together, name), name))
        self.globals |= {
            "console": self._console(),
            "performance": JsObject(
                {
                    "now": Function(lambda _: (self._clock() - self._started) * 1000),
                    "timeOrigin": self._started * 1000,
                }
            ),
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

    def _together(self, name: str, _: Any, given: Any) -> Promise:
        """Return a promise of what `Promise.all` and its kin make of several."""
        values = elements_of(given)
        made, found, left = Promise(self.loop), [UNDEFINED] * len(values), len(values)
        ends_with = {"all": False, "any": True}.get(
            name
        )  # whether one that is fulfilled settles it, or one that is not

        def settle(place: int, value: Any, *, is_fulfilled: bool) -> Any:
            nonlocal left
            if name == "race" or ends_with is is_fulfilled:
                return made.resolve(value) if is_fulfilled else made.reject(value)
            if name == "allSettled":
                status = (
                    {"status": "fulfilled", "value": value} if is_fulfilled else {"status": "rejected", "reason": value}
                )
                value = JsObject(status)
            found[place] = value
            left -= 1
            return end() if not left else UNDEFINED

        def end() -> Any:
            if name != "any":
                return made.resolve(found)
            error = JsError("All promises were rejected", "AggregateError")
            error.set("errors", found)
            return made.reject(error)

        for place, each in enumerate(values):
            self._settled(each, fulfils=True).then(
                Function(lambda _, value=UNDEFINED, place=place: settle(place, value, is_fulfilled=True)),
                Function(lambda _, value=UNDEFINED, place=place: settle(place, value, is_fulfilled=False)),
            )
        if not values and name != "race":
            end()
        return made

    def _console(self) -> JsObject:
        counts: dict[str, int] = {}
        started: dict[str, float] = {}
        made: dict[str, Callable[..., Any]] = {
            **{name: lambda *args: self._say(args) for name in ("log", "info", "debug", "dir", "table")},
            **{name: lambda *args: self._say(args, to_err=True) for name in ("warn", "error")},
            "trace": lambda *args: self._say(("Trace:", *args) if args else ("Trace",), to_err=True),
        }

        def label_of(label: Any) -> str:
            return "default" if label is UNDEFINED else to_string(label)

        def asserted(is_so: Any = False, *args: Any) -> Any:
            return (
                UNDEFINED if truthy(is_so) else self._say(("Assertion failed" + ":" * bool(args), *args), to_err=True)
            )

        def group(*args: Any) -> Any:
            if args:
                self._say(args)
            self._indent += "  "
            return UNDEFINED

        def end_group() -> Any:
            self._indent = self._indent[:-2]
            return UNDEFINED

        def count(label: Any = UNDEFINED) -> Any:
            name = label_of(label)
            counts[name] = counts.get(name, 0) + 1
            return self._say((f"{name}: {counts[name]}",))

        def count_again(label: Any = UNDEFINED) -> Any:
            counts.pop(label_of(label), None)
            return UNDEFINED

        def begin(label: Any = UNDEFINED) -> Any:
            started.setdefault(label_of(label), self._clock())
            return UNDEFINED

        def tell_time(label: Any = UNDEFINED, *args: Any, ends: bool = False) -> Any:
            name = label_of(label)
            if name not in started:
                return self._say((f"Warning: No such label '{name}' for console.time",), to_err=True)
            told = f"{name}: {(self._clock() - started[name]) * 1000:.3f}ms"
            if ends:
                del started[name]
            return self._say((told, *args))

        made |= {
            "assert": asserted,
            "group": group,
            "groupCollapsed": group,
            "groupEnd": end_group,
            "count": count,
            "countReset": count_again,
            "time": begin,
            "timeLog": tell_time,
            "timeEnd": functools.partial(tell_time, ends=True),
        }
        return JsObject({name: Function(lambda _, *args, body=body: body(*args), name) for name, body in made.items()})

    def _say(self, args: tuple[Any, ...], *, to_err: bool = False) -> Any:
        text = " ".join(map(self.shown, args))
        self.write("".join(f"{self._indent}{line}\n" for line in text.split("\n")), to_err=to_err)
        return UNDEFINED

    def shown(self, value: Any) -> str:
        """Return how the console shows a value."""
        if isinstance(value, list):
            return f"[ {', '.join(map(self.shown, value))} ]" if value else "[]"
        return to_string(value)

    def write(self, text: str, *, to_err: bool = False) -> None:
        """Write what a program prints."""
        stream = (self._err or sys.stderr) if to_err else (self._out or sys.stdout)
        stream.write(well_formed(text))
        stream.flush()

    # ------------------------------------------------------------------------------------------------------------------
    # Imports

    def define(self, linker: Linker, store: Store, module: Module) -> None:
        """Name what a module imports and a linker has not, as far as this world has it.

        String constants are among them: of a namespace in which all imports are immutable globals of externrefs.
        """
        store.use_strings()
        missing: dict[tuple[str, str], list[ImportType]] = {}
        for each in linker.missing(module):
            missing.setdefault((each.module, each.name), []).append(each)
        for (namespace, name), wanted in missing.items():
            found = [self.find(store, module, each) for each in wanted]
            if len(wanted) > 1 and all(isinstance(each.type, FuncType) for each in wanted):
                if None not in found:
                    linker.define(store, namespace, name, ByType(dict(zip(wanted, found, strict=True)).__getitem__))
            elif (one := next((each for each in found if each is not None), None)) is not None:
                linker.define(store, namespace, name, one)  # a memory may be imported as a global, too

    def find(self, store: Store, module: Module, wanted: ImportType) -> Any:
        """Return what a module is to be given for an import; None where this world has nothing."""
        match wanted.type:
            case TagType(type):
                return host_tag(store) if type == host_tag(store).type.functype else None
            case MemoryType():
                return Memory(store, wanted.type)
            case GlobalType(storage, False) if (given := self._of_glue(wanted.module, wanted.name)) is not UNDEFINED:
                return to_wasm(store, storage, given)
            case GlobalType():
                return wanted.name if wanted.module in module.string_namespaces else None
            case FuncType():
                is_given = (wanted.module, wanted.name) in self.functions
                function = None if is_given else builtin(store, wanted.module, wanted.name, wanted.type)
                function = function or self.function(wanted.module, wanted.name, wanted.type)
                return (
                    None
                    if function is None
                    else imported(store, wanted.type, function, f"{wanted.module}.{wanted.name}")
                )
        return None

    def function(self, module: str, name: str, type: FuncType) -> Any:
        """Return the function for an import, which may look at how it is declared; None where there is none."""
        if (module, name) in self.functions:
            return self.functions[module, name]
        own = getattr(self, f"import_{name}", None)
        if own is not None:
            return own
        if is_callable(found := self._of_glue(module, name)):
            return found
        if isinstance(holder := self.globals.get(module), JsObject) and is_callable(found := holder.get(name)):
            return found
        return j2cl.function(self, name, type) if module == "imports" else None

    def _of_glue(self, module: str, name: str) -> Any:
        """What the glue has for an import; undefined where it has nothing."""
        if self.glue is None:
            return UNDEFINED
        if module not in self._glue_objects:
            self._glue_objects[module] = self.glue.object(module)
        members = self._glue_objects[module]
        return UNDEFINED if members is None else members.get(name)

    def start(self, instance: Instance) -> None:
        """Tell the world which instance it is around: what glue calls its exports are this one's."""
        self.exports = {name: exported(each) for name, each in instance.exports.items()}
        if self.glue is not None:
            self.glue.start(self.exports)

    def run(self) -> None:
        """Run what timers and promises have to do, until nothing is left."""
        self.loop.run()

    def use_glue(self, source: str) -> None:
        """Take functions from the glue beside a program. GlueError for what is not JavaScript."""
        self.glue = Glue(self, source)
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
