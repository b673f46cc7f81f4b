"""JavaScript's world: numbers, text, dates and regular expressions beside V8; glue; imports; the tag of exceptions."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.combinations import examples
from support.v8 import V8, has_js_strings

import lowheap as lh
from lowheap import cli
from lowheap.hosts.js import (
    UNDEFINED,
    BigInt,
    EventLoop,
    Function,
    GlueError,
    JsError,
    JsObject,
    JsWorld,
    js_tag,
    numbers,
)
from lowheap.hosts.js.interpreter import Interpreter, Scope
from lowheap.jit import unwinder

needs_v8 = pytest.mark.skipif(not has_js_strings(), reason="there is no node of today")
needs_unwinder = pytest.mark.skipif(not unwinder.is_available(), reason="no unwinder is written for this machine")

# What JSON has none of is told in words.
EVALUATING = """
const told = (value) => value === undefined ? "undefined"
  : typeof value === "number" ? (Object.is(value, -0) ? "number -0" : "number " + value)
  : typeof value === "bigint" ? "bigint " + value
  : value instanceof Array ? value.map(told) : value instanceof Error ? "error " + value : value;
const answer = (source) => {
  try { return told((0, eval)("(" + source + ")")); } catch (error) { return "throws " + error; }
};
"""


@pytest.fixture(scope="module")
def v8() -> Iterator[V8]:
    with V8(EVALUATING) as found:
        yield found


def told(value: Any) -> Any:
    if value is UNDEFINED:
        return "undefined"
    if isinstance(value, BigInt):
        return f"bigint {int(value)}"
    if isinstance(value, int | float) and not isinstance(value, bool):
        is_negative_zero = value == 0 and math.copysign(1, value) < 0
        return "number -0" if is_negative_zero else f"number {numbers.number_to_string(value)}"
    if isinstance(value, list):
        return [told(each) for each in value]
    return f"error {value}" if isinstance(value, JsError) else value


def evaluated(source: str) -> Any:
    world = JsWorld(out=io.StringIO())
    try:
        return told(Interpreter(world).expression(source, Scope(None)))
    except JsError as error:
        return f"throws {error}"


EXPRESSIONS = r"""
1 + 2 * 3 ** 2 % 5 - -1

[1 / 0, -1 / 0, 0 / 0, -0, 0 * -1, 5 % -3, -5 % 3, 2 ** -1, (-8) ** (1 / 3)]

['a' + 1, 1 + 'a', [] + {}, [1, [2, 3]] + '', null + 1, undefined + 1, true + true, '5' * '2', '3' - 1]

[1 == '1', null == undefined, null == 0, NaN == NaN, '' == 0, 1 === 1.0, 'a' < 'b', '10' < '9', 10 < '9', 2n > 1]

[1 << 33, -1 >>> 0, -1 >> 1, ~5, 5 & 6, 5 | 6, 5 ^ 6, 2 ** 32 | 0, 1e10 | 0]

[10n ** 20n, 7n / -2n, -7n % 3n, 1n << 70n, BigInt('123') + 1n, typeof 1n]

[typeof undefined, typeof null, typeof 'x', typeof {}, typeof [], typeof (() => 1), typeof nothing, typeof Symbol()]

((a, b = a + 1, ...rest) => [a, b, rest])(1, undefined, 3, 4)

(({x, y: [z]}) => x + z)({x: 1, y: [2]})

(function f(n) { return n < 2 ? 1 : n * f(n - 1) }, (() => { let s = 0; for (let i = 0; i < 5; i++) {
  if (i == 3) continue; s += i; } return s })())

(() => { const fs = []; for (let i = 0; i < 3; i++) fs.push(() => i); return fs.map(f => f()) })()

(() => { try { null.x } catch (e) { return [e instanceof TypeError, e.message] } finally { } })()

(() => { switch (3) { case 1: return 'a'; case 3: case 4: return 'b'; default: return 'c' } })()

(() => { var o = {a: 1, b: 2, 'c d': 3, [1 + 1]: 4}; delete o.a; return [Object.keys(o).sort(), 'b' in o,
  o['c d'], o[2]] })()

(() => { let i = 0; do { i++; if (i > 4) break } while (true); return i })()

(() => { let s = ''; for (const c of 'a😀b') s = c + s; for (const k in {x: 1}) s += k; return s })()

`a${1 + 1}b${`c${3}`}`

[null?.x, undefined?.[0], {a: {b: 1}}.a?.b, null ?? 5, 0 || 7, 0 ?? 7, '' && 1]

[...[5, 6], 1].length

(() => { let a = 5; a += 2; a **= 2; let b = a++; return [a, b, --a, a-- - a] })()

['abc'.at(-1), 'abc'[1], 'a😀'.length, '😀'.charCodeAt(0), '😀'.codePointAt(0), 'abc'.charAt(9), 'x'.charCodeAt(5)]

['abcabc'.indexOf('c', 3), 'abcabc'.lastIndexOf('b'), 'abc'.lastIndexOf('c', -5), 'abc'.substring(2, 0),
  'abc'.slice(-2), 'abcd'.substr(-3, 2)]

['a-b-c'.split('-', 2), 'abc'.split(''), 'a1b2'.split(/\d/), 'a,b'.split(/(,)/), ''.split(','), ''.split('')]

['aXbX'.replace('X', '$&$&'), 'aXbX'.replaceAll('X', (m, i) => i), 'john smith'.replace(/(\w+) (\w+)/, '$2 $1'),
  'aa'.replace(/a/g, 'b')]

[' x '.trim(), 'ab'.padStart(5, '12'), 'ab'.padEnd(4), 'ab'.repeat(3), 'ÄÖ'.toLowerCase(),
  'straße'.toUpperCase(), 'a'.concat(1, null)]

[/a(?<n>b)?c/.exec('xac').index, /(\d+)/.exec('ab12')[1], /^x$/m.test('a\nx'), /x$/.test('x\n'),
  /[^]/.test('\n'), /\//.test('/')]

(() => { const r = /a/g; return [r.test('aa'), r.lastIndex, r.test('aa'), r.test('aa'), r.lastIndex, String(r),
  r.flags] })()

[[3, 1, 10, 2].sort(), [3, 1, 10, 2].sort((a, b) => a - b), [1, 2, 3].reduce((a, b) => a + b), [1, 2,
  3].filter(x => x > 1).map(x => x * 2)]

(() => { const a = [1, 2, 3, 4]; return [a.splice(1, 2, 'x'), a, a.indexOf(4), a.includes(NaN), a.join('-'),
  a.slice(-1), a.pop(), a.shift(), a.concat(1, [2])] })()

[parseInt('12px'), parseInt('0x1f'), parseInt('z', 36), parseInt(''), parseFloat('3.5e2x'), Number(''),
  Number('0b11'), Number('1_0'), +' 12 ', Number('-Infinity'), Number(null)]

[Math.round(-0.5), Math.round(2.5), Math.max(), Math.min(1, NaN), Math.max(0, -0), Math.sign(-3),
  Math.trunc(-0.5), Math.fround(0.1), Math.imul(2 ** 31, 3), Math.clz32(1), Math.log(0), Math.hypot(3, 4),
  Math.cbrt(27)]

[Object.is(NaN, NaN), Object.is(0, -0), Array.isArray([]), Number.isInteger(5.0), Number.isSafeInteger(2 ** 53)]

[JSON.stringify({a: [1, 'x\u2028\ud800', null, undefined, 1e21], b: undefined}),
  JSON.parse('{"a": [1, 2.5]}').a, JSON.stringify('"\n'), JSON.stringify({a: [], b: {c: [1]}}, null, 2)]

(() => { const u = new Uint8Array([1, 300, -1]); const d = new DataView(u.buffer); d.setInt16(0, -2);
  return [u[0], u[1], u[2], u[7], u.length, d.getUint16(0, true), new Uint8ClampedArray([300, -5, 1.5])[0],
  new Float32Array([0.1])[0]] })()

(() => { const m = new Map([[1, 'a']]); m.set('1', 'b').set(NaN, 'c'); return [m.get(1), m.get('1'), m.get(NaN),
  m.size, m.has(2), m.delete(1), new Set([1, 1, 2]).size] })()

[new Date(0).toISOString(), Date.UTC(2024, 1, 29), Date.parse('2024-02-29T12:30:00+01:00'),
  new Date(1e15).getUTCFullYear(), new Date(NaN).getTime(), new Date(-1).getUTCMilliseconds(), Date.UTC(99, 12)]

[new Date(2024, 0, 31, 25).getDate(), (d => { d.setUTCMonth(13, 5); return d.toISOString() })(new Date(0)),
  new Date('-000001-01-01').toISOString()]

Function.prototype.call.bind(String.prototype.indexOf)('hello', 'l')

Function.prototype.call.bind(Object.getOwnPropertyDescriptor(DataView.prototype,
  'byteLength').get)(new DataView(new ArrayBuffer(3)))

'x'.repeat(-1)

(1.5).toFixed(101)

missing

undefined.x

(function () { return [this === undefined || typeof this, arguments.length] }).call('a', 1, 2)[1]

[1, 2, 3].map(parseInt)

new (function P(x) { this.x = x })(4).x
""".strip().split("\n\n")


@needs_v8
@pytest.mark.parametrize("source", EXPRESSIONS)
def test_expressions_come_to_what_v8_makes_of_them(v8: V8, source: str) -> None:
    assert evaluated(source) == v8.ask(source)


NUMBERS = st.floats() | st.integers(-(1 << 60), 1 << 60).map(float) | st.sampled_from([1e21, 1e-7, 123456789.5, 5e-324])


@needs_v8
@settings(max_examples=examples(80, many=800), deadline=None)
@given(NUMBERS, st.integers(2, 36), st.integers(0, 30))
def test_numbers_are_written_as_v8_writes_them(v8: V8, value: float, radix: int, digits: int) -> None:
    source = "NaN" if math.isnan(value) else "Infinity" if value == math.inf else repr(value).replace("inf", "Infinity")
    radix = radix if abs(value) < 1 << 53 else 10
    wanted = v8.ask(
        f"[String({source}), ({source}).toString({radix}), ({source}).toFixed({digits}), "
        f"({source}).toExponential({digits}), ({source}).toPrecision({digits + 1}), ({source}).toExponential()]"
    )
    assert [
        numbers.number_to_string(value),
        numbers.number_to_string(value, radix),
        numbers.to_fixed(value, digits),
        numbers.to_exponential(value, digits),
        numbers.to_precision(value, digits + 1),
        numbers.to_exponential(value, None),
    ] == wanted


@needs_v8
@settings(max_examples=examples(60, many=600), deadline=None)
@given(st.integers(-8_640_000_000_000_000, 8_640_000_000_000_000), st.integers(-20, 40), st.integers(-40, 70))
def test_dates_are_those_of_v8(v8: V8, moment: int, month: int, day: int) -> None:
    source = (
        f"(d => [d.toISOString(), d.getUTCDay(), d.setUTCMonth({month}, {day}), d.getUTCFullYear(), d.getUTCDate()])"
        f"(new Date({moment}))"
    )
    assert evaluated(source) == v8.ask(source)


# ----------------------------------------------------------------------------------------------------------------------
# The loop


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def world_with(clock: Clock, **options: Any) -> JsWorld:
    return JsWorld(out=io.StringIO(), clock=clock, loop=EventLoop(clock, clock.sleep), **options)


def test_timers_microtasks_and_promises_run_in_order() -> None:
    clock = Clock()
    world = world_with(clock)
    said: list[Any] = []
    world.globals["said"] = said
    Interpreter(world).run(
        """
        setTimeout(() => { said.push("later"); Promise.resolve(1).then(x => said.push("then " + x)); }, 20);
        setTimeout(() => said.push("sooner"), 10);
        const never = setTimeout(() => said.push("never"), 5);
        clearTimeout(never);
        let count = 0;
        const again = setInterval(() => { if (++count == 3) clearInterval(again); said.push("tick"); }, 50);
        new Promise((yes, no) => no("reason")).catch(e => said.push(e)).then(() => { throw new Error("x") })
          .then(() => said.push("skipped"), e => said.push(e.message));
        new Promise(yes => yes(Promise.resolve("inner"))).then(x => said.push(x));
        queueMicrotask(() => said.push("micro"));
        said.push("now");
        """,
        Scope(None),
    )
    world.run()
    assert said[0] == "now"
    assert sorted(map(str, said[1:5])) == ["inner", "micro", "reason", "x"]
    assert said[5:] == ["sooner", "later", "then 1", "tick", "tick", "tick"]
    assert clock.now == pytest.approx(100.15)


# ----------------------------------------------------------------------------------------------------------------------
# Imports

PROGRAM = """(module
  (import "glue" "shout" (func $shout (param externref) (result externref)))
  (import "glue" "box" (func $box (param i64) (result externref)))
  (import "glue" "later" (func $later (param anyref)))
  (import "Math" "pow" (func $pow (param f64 f64) (result f64)))
  (import "imports" "string.indexOf$2" (func $index (param externref externref i32) (result i32)))
  (import "imports" "get Error.message" (func $message (param externref) (result externref)))
  (import "imports" "Error" (func $error (param externref) (result externref)))
  (import "texts" "b" (global $b externref))
  (import "texts" "banana" (global $banana (ref extern)))
  (type $cell (struct (field $value i32)))
  (func (export "callback") (param $cell anyref) (result i32)
    (struct.get $cell $value (ref.cast (ref $cell) (local.get $cell))))
  (func (export "shout") (param externref) (result externref) (call $shout (local.get 0)))
  (func (export "box") (param i64) (result externref) (call $box (local.get 0)))
  (func (export "later") (param i32) (call $later (struct.new $cell (local.get 0))))
  (func (export "pow") (param f64 f64) (result f64) (call $pow (local.get 0) (local.get 1)))
  (func (export "index") (result i32) (call $index (global.get $banana) (global.get $b) (i32.const 0)))
  (func (export "message") (param externref) (result externref) (call $message (call $error (local.get 0)))))"""

GLUE = """
export async function compile(bytes) { return await WebAssembly.compile(bytes); }
class Unread { constructor() { this.x = 1; } }
const mark = "!";
const marked = (s) => s + mark;
function twice(s) { return marked(marked(s)); }
let wasmInstance;
const glue = {
  shout: s => twice(s.toUpperCase()),
  'box': (n) => [n, typeof n],
  later: (cell) =>
    setTimeout(() => said.push(wasmInstance.exports.callback(cell)), 5),
  odd: class {},
};
"""


def linked(world: JsWorld, source: str) -> Any:
    store = lh.Store(lh.Engine(opt_level=1))
    module = lh.Module(store.engine, source)
    linker = lh.Linker(store.engine)
    world.define(linker, store, module)
    instance = linker.instantiate(store, module)
    world.start(instance)
    return instance.exports


def test_a_module_gets_its_imports_from_glue_globals_and_constants() -> None:
    world = world_with(Clock(), glue=GLUE)
    said: list[Any] = []
    world.globals["said"] = said
    exports = linked(world, PROGRAM)
    assert exports.shout("abc") == "ABC!!"
    assert exports.box(-5).value == [BigInt(-5), "bigint"]
    assert exports.pow(2.0, 10.0) == 1024.0
    assert exports.index() == 0
    assert exports.message("text") == "text"
    exports.later(77)
    assert said == []
    world.run()
    assert said == [77]


def test_a_namespace_of_constants_is_one_as_a_whole() -> None:
    """With another import it is none: then nobody provides the globals."""
    store = lh.Store()
    texts = "".join(f'(import "S" "text {number}" (global externref))' for number in range(500))
    source = f'(module {texts} (import "T" "a" (global externref)) (import "T" "f" (func)) (export "e" (global 499)))'
    module = lh.Module(store.engine, source)
    assert module.string_namespaces == {"S"}
    linker = lh.Linker(store.engine)
    JsWorld().define(linker, store, module)
    assert [(each.module, each.name) for each in linker.missing(module)] == [("T", "a"), ("T", "f")]
    linker.define(store, "T", "a", None)
    linker.define_func("T", "f", lh.FuncType([], []), lambda: None)
    assert linker.instantiate(store, module).exports["e"].value == "text 499"


def test_the_global_object_is_one_by_each_of_its_names() -> None:
    world = JsWorld()
    source = """(() => {
      globalThis.window.found = 5;
      return [globalThis === window, self === window, found, globalThis.found, globalThis.missing,
        globalThis.Math === Math];
    })()"""
    assert Interpreter(world).expression(source, Scope(None)) == [True, True, 5, 5, UNDEFINED, True]
    assert world.globals["found"] == 5


def test_a_user_gives_functions_globals_and_methods_of_a_subclass() -> None:
    class World(JsWorld):
        def import_shout(self, text: str) -> str:
            return f"<{text}>"

    world = World(glue=GLUE)
    world.functions["glue", "box"] = lambda number: f"box {number}"
    world.globals["Math"].set("pow", Function(lambda _, base, exponent: base - exponent))
    exports = linked(world, PROGRAM)
    assert exports.shout("abc") == "<abc>"
    assert exports.box(3) == "box 3"
    assert exports.pow(5.0, 3.0) == 2.0


class Own:
    """A user's object."""

    def __init__(self) -> None:
        self.number = 1


def test_a_program_reads_no_more_of_pythons_objects_than_their_attributes() -> None:
    world = JsWorld()
    own = world.globals["own"] = Own()
    world.globals["helper"] = lambda: own
    world.globals["math"] = math
    read = functools.partial(Interpreter(world).expression, scope=Scope(None))
    assert read("[own.number, own.number = 5, own.other = 'x', own.missing]") == [1, 5, "x", UNDEFINED]
    assert vars(own) == {"number": 5, "other": "x"}
    for hidden in (
        "own.__class__",
        "own['__init__']",
        "own._private",
        "helper.__globals__",
        "helper.__code__",
        "math.pi",
        "console.log.body",
        "[].__class__",
        "''.__class__",
    ):
        assert read(hidden) is UNDEFINED, hidden
    read("(own.__class__ = 1, own._x = 2, helper.__code__ = 3, helper.x = 4)")
    assert vars(own) == {"number": 5, "other": "x"}


def test_what_nobody_provides_is_listed_at_once() -> None:
    store = lh.Store(lh.Engine(opt_level=1))
    module = lh.Module(store.engine, PROGRAM)
    linker = lh.Linker(store.engine)
    JsWorld().define(linker, store, module)
    missing = linker.missing(module)
    assert [(each.module, each.name) for each in missing] == [("glue", "shout"), ("glue", "box"), ("glue", "later")]
    assert str(missing[1].type) == "(func (param i64) (result externref))"


def test_glue_that_is_not_understood_says_so_when_it_is_called() -> None:
    world = JsWorld(glue=GLUE)
    odd = world.function("glue", "odd", lh.FuncType([], []))
    with pytest.raises(GlueError, match=r"odd of the glue cannot be had: line 13: this is not supported, not 'class'"):
        odd()
    with pytest.raises(GlueError, match=r"line 2: '\\\\' begins nothing"):
        JsWorld(glue="\n  \\ x")


def test_the_console_prints() -> None:
    out, err = io.StringIO(), io.StringIO()
    world = JsWorld(out=out, err=err)
    Interpreter(world).run('console.log("a", 1.5, [1, [null]], {}); console.error("b\\ud800");', Scope(None))
    assert out.getvalue() == "a 1.5 [ 1, [ null ] ] [object Object]\n"
    assert err.getvalue() == "b\ufffd\n"


# ----------------------------------------------------------------------------------------------------------------------
# The tag

CATCHING = """(module
  (import "WebAssembly" "JSTag" (tag $js (param externref)))
  (import "host" "fail" (func $fail (param externref)))
  (func (export "catch") (param externref) (result externref)
    (block $caught (result externref)
      (try_table (catch $js $caught) (call $fail (local.get 0)))
      (ref.null extern)))
  (func (export "throw") (param externref) (throw $js (local.get 0)))
  (func (export "rethrow") (param externref)
    (throw $js
      (block $caught (result externref)
        (try_table (catch $js $caught) (call $fail (local.get 0)))
        (ref.null extern)))))"""


@pytest.fixture
def catching() -> Any:
    store = lh.Store(lh.Engine(opt_level=1))
    module = lh.Module(store.engine, CATCHING)

    def fail(what: Any) -> None:
        if what is not None:
            raise what.value if isinstance(what, lh.ExternRef) else JsError(what)

    given = {"WebAssembly": {"JSTag": js_tag(store)}, "host": {"fail": fail}}
    return lh.Instance(store, module, given).exports


@needs_unwinder
def test_what_a_host_function_raises_is_caught_by_the_tag_as_itself(catching: Any) -> None:
    error = KeyError("own")
    assert catching["catch"](error).value is error
    assert catching["catch"](None) is None
    with pytest.raises(KeyError) as caught:
        catching.rethrow(error)
    assert caught.value is error


@needs_unwinder
def test_what_a_program_throws_and_nobody_catches_comes_out(catching: Any) -> None:
    error = ValueError("own")
    with pytest.raises(ValueError, match="own") as caught:
        catching.throw(error)
    assert caught.value is error
    store = catching.throw.store
    for payload in ("text", 5, None):
        with pytest.raises(lh.WasmException) as thrown:
            catching.throw(payload)
        assert thrown.value.tag is js_tag(store)
        (found,) = thrown.value.fields
        assert (found.value if isinstance(found, lh.ExternRef) else found) == payload


@needs_unwinder
def test_traps_and_interrupts_are_not_caught_by_the_tag(catching: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        catching["catch"](KeyboardInterrupt())
    with pytest.raises(RecursionError):
        catching.rethrow(RecursionError("deep"))  # an exception like others, thrown on


@needs_unwinder
def test_a_value_that_javascript_throws_is_the_payload() -> None:
    world = JsWorld(glue='const host = { fail: (x) => { if (x) throw x; throw new TypeError("nothing"); } };')
    exports = linked(world, CATCHING)
    assert exports["catch"]("text") == "text"
    found = exports["catch"](None).value
    assert isinstance(found, JsError)
    assert str(found) == "TypeError: nothing"
    assert isinstance(exports["catch"](JsObject({"a": 1})).value, JsObject)


KOTLINS = """(module
  (import "intrinsics" "tag" (tag $js (param externref)))
  (import "intrinsics" "memory" (global $memory externref))
  (import "intrinsics" "memory" (memory 0))
  (import "js_code" "throws" (func $throws (param externref)))
  (import "js_code" "closure" (func $closure (param structref funcref) (result externref)))
  (import "js_code" "call" (func $call (param externref) (result i32)))
  (import "'" "text" (global $text (ref extern)))
  (type $number (struct (field i32)))
  (func $value (param structref) (result i32) (struct.get $number 0 (ref.cast (ref $number) (local.get 0))))
  (elem declare func $value)
  (func (export "caught") (result externref)
    (block $caught (result externref)
      (try_table (catch $js $caught) (call $throws (global.get $text)))
      (ref.null extern)))
  (func (export "called") (param i32) (result i32)
    (call $call (call $closure (struct.new $number (local.get 0)) (ref.func $value)))))"""


@needs_unwinder
def test_kotlins_glue_has_the_tag_a_memory_under_two_types_and_closures() -> None:
    glue = """
    const wasmJsTag = WebAssembly.JSTag;
    const wasmTag = wasmJsTag ?? new WebAssembly.Tag({parameters: ["externref"]});
    const cached = new WeakMap();
    function once(key, value) { const found = cached.get(key); return found ?? (cached.set(key, value), value); }
    const js_code = {
      'throws' : wasmTag === wasmJsTag ? (e) => { throw new Error(e) } : () => {},
      'closure' : (f, trampoline) => once(f, () => trampoline(f, )),
      'call' : (f) => f(),
    }
    """
    exports = linked(JsWorld(glue=glue), KOTLINS)
    assert str(exports.caught().value) == "Error: text"
    assert exports.called(42) == 42


# ----------------------------------------------------------------------------------------------------------------------
# The command


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Run a program by the command, with files beside it."""

    def run(source: str, *arguments: str, **files: str) -> tuple[int, str, str]:
        program = tmp_path / "prog.wat"
        program.write_text(source, "utf-8")
        for name, text in files.items():
            (tmp_path / name.replace("_", ".")).write_text(text, "utf-8")
        capsys.readouterr()
        status = cli.execute(["run", str(program), "--no-cache", "--opt-level", "0", *arguments])
        return status, *capsys.readouterr()

    return run


Run = Callable[..., tuple[int, str, str]]

GREETER = """(module
  (import "S" "hello " (global $hello (ref extern)))
  (import "wasm:js-string" "concat" (func $concat (param externref externref) (result (ref extern))))
  (func (export "greet") (param externref) (result externref) (call $concat (global.get $hello) (local.get 0))))"""


def test_a_program_with_strings_alone_needs_no_host(run: Run) -> None:
    assert run(GREETER, "--invoke", "greet", "world") == (0, "'hello world'\n", "")


MAIN = """(module
  (import "dart2wasm" "_1" (func $print (param externref)))
  (import "dart2wasm" "_2" (func $after (param f64 anyref) (result f64)))
  (import "dart2wasm" "_3" (func $first (param externref) (result externref)))
  (type $cell (struct))
  (func (export "$invokeCallback") (param anyref) (call $print (ref.null extern)))
  (func (export "$invokeMain") (param externref)
    (drop (call $after (f64.const 1) (struct.new $cell)))
    (call $print (call $first (local.get 0)))))"""
MAIN_GLUE = """
let dartInstance;
function printToConsole(value) { console.log(`said ${value}`); }
const dart2wasm = {
  _1: s => printToConsole(s),
  _2: (ms, c) =>
    setTimeout(() => dartInstance.exports.$invokeCallback(c), ms),
  _3: x0 => x0[0],
};
"""


def test_the_glue_beside_a_program_is_found_and_timers_run(run: Run) -> None:
    assert run(MAIN, "--host", "js", "--", "argument", prog_mjs=MAIN_GLUE) == (0, "said argument\nsaid null\n", "")


def test_without_glue_what_is_missing_is_listed(run: Run) -> None:
    status, out, err = run(MAIN, "--host", "js", "--", "argument")
    assert (status, out) == (1, "")
    assert "  dart2wasm._1: (func (param externref))\n  dart2wasm._2: (func (param f64 anyref) (result f64))" in err


def test_a_world_of_ones_own_goes_with_the_option(run: Run, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from lowheap.hosts.js import JsWorld\n"
        "class World(JsWorld):\n"
        "    def import__1(self, value): self.write(f'own {value}\\n')\n"
        "def host(linker, store): return World()\n",
        "utf-8",
    )
    host = f"{tmp_path / 'own.py'}:host"
    assert run(MAIN, "--host", host, "--", "argument", prog_js=MAIN_GLUE) == (0, "own argument\nown None\n", "")


def test_glue_that_cannot_be_read_is_an_error(run: Run, tmp_path: Path) -> None:
    status, _, err = run(MAIN, "--host", "js", prog_mjs="const x = `")
    assert status == 1
    assert "prog.mjs: line 1: a template has no end" in err
