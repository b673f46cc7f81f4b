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
from lowheap.hosts.js.values import joined
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

(() => { if (true) { var a = 1; let b = 2; } for (var i = 0; i < 3; i++) { var last = i; } var a; return [a, i, last,
  typeof b] })()

(() => { const fs = []; for (var i = 0; i < 3; i++) fs.push(() => i); for (var k in {x: 1}) ; return [fs.map(f => f()),
  k] })()

(() => { return f(2); function f(n) { return g(n) + 1 } function g(n) { return n * 2 } })()

[[1, 2, 3, 2].findIndex(x => x == 2), [1, 2, 3, 2].findLast(x => x == 2), [1, 2, 3, 2].findLastIndex(x => x == 2),
  [1, 2, 1].lastIndexOf(1), [1, 2, 1].lastIndexOf(1, -2), [1].lastIndexOf(1, -5), [1, 2].find((x, i, a) => a[i] == 2)]

[[1, [2, [3, [4]]]].flat().length, [1, [2, [3, [4]]]].flat(Infinity), [1, 2].flatMap(x => [x, [x]]).length,
  ['a', 'b', 'c'].reduceRight((a, b) => a + b), [1, 2, 3, 4, 5].copyWithin(0, 3), [1, 2, 3, 4, 5].copyWithin(1, 0, 3)]

[[3, 1, 2].toSorted(), [1, 2].toReversed(), [1, 2, 3].toSpliced(1, 1, 'x', 'y'), [1, 2, 3].with(-1, 9),
  [...['a', 'b'].entries()], [...['a', 'b'].keys()], [...['a', 'b'].values()]]

[1, 2].with(5, 1)

(() => { const u = new Uint8Array([3, 1, 2]); return [u.map(x => x * 100)[0], u.filter(x => x > 1).length, u.indexOf(2),
  u.join('-'), u.reduce((a, b) => a + b), u.includes(9), [...u.slice().sort()], [...u.slice().reverse()],
  [...u.slice().copyWithin(0, 1)], String(u), u.at(-1), u.BYTES_PER_ELEMENT, u.every(x => x), [...u.entries()][1],
  new Float64Array([1, NaN, -0, 0, -1]).sort().map(x => 1 / x)[1], u.toSorted() instanceof Uint8Array] })()

(() => { const m = new Map([[1, 'a'], ['k', 2]]); const s = new Set('aab'); const said = [];
  m.forEach((v, k) => said.push(k, v)); for (const [k, v] of m) said.push(v, k); for (const x of s) said.push(x);
  return [said, [...m.keys()], [...s.values()], Array.from(m.entries()).length, (m.clear(), m.size), [...s].length] })()

[Object.hasOwn({a: 1}, 'a'), ({a: 1}).hasOwnProperty('b'), Object.fromEntries([['a', 1], ['b', 2]]).b,
  Object.getOwnPropertyNames([1, 2]), Object.isFrozen(1), [1].hasOwnProperty ? 1 : 0,
  Object.defineProperty({}, 'x', {get() { return 7 }}).x, Object.defineProperty({}, 'y', {value: 8}).y]

[Math.LOG2E, Math.LOG10E, Math.SQRT1_2, Symbol.for('a') === Symbol.for('a'), Symbol.for('a') === Symbol('a')]

[...'a1b22'.matchAll(/[a-z](\d+)/g)].map(m => m[1] + m.index)

['a\ud800b'.isWellFormed(), 'a\ud800b'.toWellFormed(), '😀'.isWellFormed(), 'ab'.toWellFormed()]

[JSON.parse('{"a": [1, {"b": 2}], "c": 3}', (k, v) => typeof v === 'number' ? v + 1 : v).a[1].b,
  JSON.stringify(JSON.parse('{"a": 1, "b": [2]}', function (k, v) { return k === 'a' ? undefined : v }))]

[encodeURIComponent('ä b/ü?&😀~'), encodeURI('http://x/ä b?c=d#e'), decodeURIComponent('%C3%A4%20%F0%9F%98%80x'),
  decodeURI('%2F%20%C3%A4'), btoa('abc\xff'), atob('YWJj/w'), atob(' YW Jj ')]

decodeURIComponent('%')

decodeURIComponent('%ff')

encodeURIComponent('\ud800')

[...new TextEncoder().encode('aä😀\ud800')]

(() => { const u = new Uint8Array(6); const r = new TextEncoder().encodeInto('aä😀b', u); return [r.read, r.written,
  ...u] })()

[new TextDecoder().decode(new Uint8Array([0xef, 0xbb, 0xbf, 0x61, 0xff, 0xc3])), new TextDecoder('latin1').encoding,
  new TextDecoder('utf-8', {ignoreBOM: true}).decode(new Uint8Array([0xef, 0xbb, 0xbf, 0x61])).length,
  new TextDecoder('utf-16').decode(new Uint16Array([0x61, 0xd83d, 0xde00])), new TextDecoder().decode(),
  new TextDecoder('ascii').decode(new DataView(new Uint8Array([0, 0x80, 0x41]).buffer, 1))]

(() => { const d = new TextDecoder('utf-8'); const f = (...b) => d.decode(new Uint8Array(b), {stream: true});
  return [f(0xf0, 0x9f), f(0x98), f(0x80, 0x61), d.decode(), d.fatal] })()

new TextDecoder('utf-8', {fatal: true}).decode(new Uint8Array([0xff])) instanceof TypeError

[new Error('a', {cause: 5}).cause, 'cause' in new Error('a'), new URIError('x') instanceof Error,
  String(new EvalError('e'))]

(() => { const r = new FinalizationRegistry(() => 1); const t = {}; r.register({}, 1, t);
  return [r.unregister(t), r.unregister(t)] })()

(() => { const a = crypto.getRandomValues(new Uint32Array(4)); return [a.length, a.some(x => x > 0),
  crypto.randomUUID().length] })()
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


MINIFIED = """
(function(a){var b=0;a.first=b}({}));(g=>async a=>{"use strict";const{link:o,src:ad}=a,h=[Uint8Array,Int8Array],
m=new Map();let _=7;function n(a,b){return b?n(a*2,b-1):a}var D;const l=new TextDecoder("utf-8"),e=()=>e2+_,e2=1,
u={test:a=>typeof a==="string"},G={little:new Uint8Array(new Uint32Array([1]).buffer)[0],double:(a,b)=>n(a,b),
kept:(a,b)=>(m.set(a,b),m.size),sum:e,read:a=>l.decode(new Uint8Array(k,0,a)),grown:()=>I.buffer.byteLength,
back:a=>i(a,g.by),kinds:()=>h.findIndex(a=>new Int8Array(1)instanceof a),odd:a=>K.x,more:a=>({a,...b(a)}).c},
q=Object.assign({bindings:G,own:g,"wasm:x":u});function b(a){return{c:a+_}}class K{}
const W=await q.go();var{call_back:i,bytes:I,part:{x:y}={x:3}}=W.instance.exports,k=I?.buffer;await i})
(function(a){var c=a.Math;return{root:a=>c.sqrt(a),by:3}}(globalThis))
({"link":[["code",0]],"generated":(a=>{var c=a;return{"pieces":{"get":()=>c.Math.PI,"whole":()=>a===globalThis}}})
(globalThis)});
"""

MINIFIED_PROGRAM = """(module
  (import "bindings" "little" (global $little i32))
  (import "bindings" "double" (func $double (param i32 i32) (result i32)))
  (import "bindings" "kept" (func $kept (param i32 i32) (result i32)))
  (import "bindings" "kept" (func $kept_long (param i32 i64) (result externref)))
  (import "bindings" "sum" (func $sum (result i32)))
  (import "bindings" "read" (func $read (param i32) (result externref)))
  (import "bindings" "grown" (func $grown (result i32)))
  (import "bindings" "back" (func $back (param i32) (result i32)))
  (import "bindings" "kinds" (func $kinds (result i32)))
  (import "bindings" "odd" (func $odd (param i32) (result i32)))
  (import "bindings" "more" (func $more (param i32) (result i32)))
  (import "own" "root" (func $root (param f64) (result f64)))
  (import "pieces" "get" (func $get (result f64)))
  (import "pieces" "whole" (func $whole (result i32)))
  (import "wasm:x" "test" (func $test (param externref) (result i32)))
  (memory (export "bytes") 1)
  (data (i32.const 0) "h\\c3\\a9llo")
  (export "little" (global $little)) (export "double" (func $double)) (export "kept" (func $kept))
  (export "kept_long" (func $kept_long)) (export "sum" (func $sum)) (export "read" (func $read))
  (export "back" (func $back)) (export "kinds" (func $kinds)) (export "odd" (func $odd)) (export "more" (func $more))
  (export "root" (func $root)) (export "get" (func $get)) (export "whole" (func $whole)) (export "test" (func $test))
  (func (export "call_back") (param i32 i32) (result i32) (i32.mul (local.get 0) (local.get 1)))
  (func (export "grown") (result i32) (drop (memory.grow (i32.const 2))) (call $grown)))"""


def test_minified_glue_is_read_by_where_its_names_are_declared() -> None:
    """As OCaml's compiler writes it: one letter is another thing in each function, and an object has another name."""
    world = JsWorld(glue=MINIFIED)
    exports = linked(world, MINIFIED_PROGRAM)
    assert exports.little.value == 1
    assert exports.double(5, 3) == 40
    assert exports.kept(1, 2) == 1
    assert int(exports.kept_long(2, 1 << 40)) == 2, "the second type takes a bigint, and returns a reference"
    assert exports.sum() == 8
    assert exports.read(6) == "héllo"
    assert exports.grown() == 3 << 16
    assert exports.back(5) == 15
    assert exports.kinds() == 1
    assert exports.more(4) == 11
    assert exports.root(9.0) == 3.0
    assert exports["get"]() == math.pi
    assert exports.whole() == 1
    assert [exports.test("text"), exports.test(None)] == [1, 0]
    with pytest.raises(GlueError, match="line 7: classes are not supported, and K is one"):
        exports.odd(1)


def test_what_an_instance_exports_is_not_there_before_it_is() -> None:
    source = """(module (import "bindings" "back" (func $back (param i32) (result i32)))
      (func $start (drop (call $back (i32.const 1)))) (start $start))"""
    with pytest.raises(JsError, match="Cannot access 'i' before initialization"):
        linked(JsWorld(glue=MINIFIED), source)


def test_globals_and_tables_of_an_instance() -> None:
    glue = """const host = {
      cell: () => { const g = wasmExports.cell; g.value += 1; return g.value + g.valueOf(); },
      fixed: () => { wasmExports.fixed.value = 1; },
      entry: (n) => wasmExports.table.get(n)(20),
      swap: () => { const t = wasmExports.table; t.set(1, t.get(0)); t.set(0, null); return t.length; },
      size: () => { wasmExports.bytes.grow(1); return wasmExports.bytes.buffer.byteLength; },
    }"""
    source = """(module
      (import "host" "cell" (func $cell (result i32))) (import "host" "fixed" (func $fixed))
      (import "host" "entry" (func $entry (param i32) (result i32))) (import "host" "swap" (func $swap (result i32)))
      (import "host" "size" (func $size (result i32)))
      (global (export "cell") (mut i32) (i32.const 20)) (global (export "fixed") i32 (i32.const 5))
      (memory (export "bytes") 1)
      (table (export "table") 2 funcref) (elem (i32.const 0) $twice)
      (func $twice (param i32) (result i32) (i32.mul (local.get 0) (i32.const 2)))
      (export "a" (func $cell)) (export "b" (func $fixed)) (export "c" (func $entry)) (export "d" (func $swap))
      (export "e" (func $size)))"""
    exports = linked(JsWorld(glue=glue), source)
    assert exports.a() == 42
    assert exports.cell.value == 21
    with pytest.raises(JsError, match="Can't set the value of an immutable global"):
        exports.b()
    assert exports.c(0) == 40
    assert exports.d() == 2
    assert exports.c(1) == 40
    with pytest.raises(JsError, match="invalid address 2 in table of size 2"):
        exports.c(2)
    assert exports.e() == 2 << 16


UTF8 = """(module
  (type $bytes (array (mut i8)))
  (import "wasm:text-decoder" "decodeStringFromUTF8Array"
    (func $decode (param (ref null $bytes) i32 i32) (result (ref extern))))
  (import "wasm:text-encoder" "encodeStringToUTF8Array" (func $encode (param externref) (result (ref $bytes))))
  (import "wasm:text-encoder" "measureStringAsUTF8" (func $measure (param externref) (result i32)))
  (import "wasm:text-encoder" "encodeStringIntoUTF8Array"
    (func $encode_into (param externref (ref null $bytes) i32) (result i32)))
  (export "encode" (func $encode)) (export "measure" (func $measure))
  (func (export "again") (param externref i32 i32) (result externref)
    (call $decode (call $encode (local.get 0)) (local.get 1) (local.get 2)))
  (func (export "none") (result externref) (call $decode (ref.null $bytes) (i32.const 0) (i32.const 0)))
  (func (export "into") (param externref i32 i32) (result externref)
    (local $array (ref $bytes))
    (local.set $array (array.new $bytes (i32.const 0x2e) (local.get 2)))
    (drop (call $encode_into (local.get 0) (local.get $array) (local.get 1)))
    (call $decode (local.get $array) (i32.const 0) (local.get 2))))"""


def test_the_builtins_for_utf8_of_arrays() -> None:
    exports = linked(JsWorld(), UTF8)
    assert exports.encode("aä\ud800").tobytes() == "aä\ufffd".encode()
    assert exports.measure("aä😀") == 7
    assert exports.again("aä😀", 1, 7) == "ä😀"
    assert exports.again("aä😀", 2, 7) == "\ufffd😀"
    assert exports.into("äb", 2, 6) == "..äb."
    for trapping in (
        lambda: exports.again("abc", 2, 1),
        lambda: exports.again("abc", 0, 4),
        lambda: exports.again("abc", -1, 3),
        lambda: exports.into("äb", 4, 6),
        lambda: exports.measure(None),
        lambda: exports.none(),
    ):
        with pytest.raises(lh.Trap):
            trapping()


HOOTS = """(module
  (type $bytes (array (mut i8)))
  (import "rt" "string_to_wtf8" (func $to (param (ref extern)) (result (ref $bytes))))
  (import "rt" "wtf8_to_string" (func $from (param (ref $bytes)) (result (ref extern))))
  (import "rt" "bignum_add" (func $add (param (ref extern) i64) (result (ref extern))))
  (export "to" (func $to)) (export "from" (func $from)) (export "add" (func $add))
  (func (export "again") (param (ref extern)) (result (ref extern)) (call $from (call $to (local.get 0)))))"""


def test_hoots_strings_are_made_of_wtf8() -> None:
    glue = """class SchemeModule { static #rt = {
      bignum_add(a, b) { return BigInt(a) + BigInt(b) },
      wtf8_to_string(wtf8) { return wtf8_to_string(wtf8); },
    }; }"""
    exports = linked(JsWorld(glue=glue), HOOTS)
    assert exports.to("aä\ud800").tobytes() == "aä\ud800".encode("utf-8", "surrogatepass")
    for text in ("", "aä😀", "\udc00\ud800", "\ud83d\ude00"):
        assert exports.again(text) == joined(text)
    assert exports.add(lh.ExternRef(exports.add.store, BigInt(1 << 70)), -1).value == (1 << 70) - 1


def test_promises_together() -> None:
    """The answers are V8's."""
    world = JsWorld()
    said: list[Any] = []
    world.globals["said"] = said
    world.globals["show"] = Function(lambda _, value: world.get(world.globals["JSON"], "stringify").body(None, value))
    source = """
      const no = (x) => Promise.reject(x);
      for (const kind of ["all", "allSettled", "any", "race"])
        for (const each of [[1, Promise.resolve(2)], [no(3), 4], [no(5), no(6)], []])
          Promise[kind](each).then(x => said.push([kind, show(x)]), x => said.push([kind, show(x.errors ?? x)]));
      Promise.resolve(1).finally(() => said.push("end")).then(x => said.push(["finally", show(x)]));
    """
    Interpreter(world).run(source, Scope(None))
    world.run()
    assert sorted(each if isinstance(each, str) else ",".join(each) for each in said) == [
        *("all,3", "all,5", "all,[1,2]", "all,[]", "allSettled,[]"),
        'allSettled,[{"status":"fulfilled","value":1},{"status":"fulfilled","value":2}]',
        'allSettled,[{"status":"rejected","reason":3},{"status":"fulfilled","value":4}]',
        'allSettled,[{"status":"rejected","reason":5},{"status":"rejected","reason":6}]',
        *("any,1", "any,4", "any,[5,6]", "any,[]", "end", "finally,1", "race,1", "race,3", "race,5"),
    ]


def test_what_else_the_console_has() -> None:
    out, err = io.StringIO(), io.StringIO()
    world = JsWorld(out=out, err=err, clock=lambda: 5.0)
    source = r"""console.group("a"); console.log("b\nc"); console.groupEnd(); console.groupEnd(); console.dir(1);
      console.count(); console.count(); console.countReset(); console.count("x"); console.count();
      console.assert(1, "not"); console.assert(0, "x", 2); console.assert(false); console.trace("t");
      console.time("k"); console.timeEnd("k"); console.timeEnd("k");"""
    Interpreter(world).run(source, Scope(None))
    assert out.getvalue() == "a\n  b\n  c\n1\ndefault: 1\ndefault: 2\nx: 1\ndefault: 1\nk: 0.000ms\n"
    told = "Assertion failed: x 2\nAssertion failed\nTrace: t\nWarning: No such label 'k' for console.time\n"
    assert err.getvalue() == told


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
def test_what_a_program_catches_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    world = JsWorld(glue="const host = { fail: (x) => x.size.missing };")
    with caplog.at_level("DEBUG", "lowheap.hosts.js"):
        linked(world, CATCHING)["catch"](None)
    assert caplog.messages == ["host.fail threw TypeError: Cannot read properties of null (reading 'size')"]


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


def test_a_program_that_only_initialises_is_run_so(run: Run) -> None:
    """As OCaml's programs do."""
    source = """(module
      (import "console" "log" (func $log (param i32)))
      (import "later" "say" (func $say (param i32)))
      (func (export "_initialize") (call $say (i32.const 2)) (call $log (i32.const 1))))"""
    glue = "const later = {say: x => setTimeout(() => console.log(x), 1)};"
    assert run(source, "--host", "js", prog_js=glue) == (0, "1\n2\n", "")


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
