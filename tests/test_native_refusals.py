"""What is not in the subset is refused, each by a message with the file and the line; nothing is miscompiled silently.

A case is a module's text. The line that is to be named ends in `# here`; `f` is what is checked.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from lowheap.native import Native, NativeError, native
from lowheap.native.check import _EXPRESSIONS, _STATEMENTS, COMPARISONS, OPERATORS

HEADER = """\
from __future__ import annotations
import ctypes
import enum
from collections.abc import Iterator
from lowheap.layout import *
from lowheap.native import *


class Pair(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint32), ("high", ctypes.c_int32), ("items", ctypes.c_uint32 * 4),
                ("inner", FreeBlock), ("real", ctypes.c_double), ("bits", ctypes.c_uint32, 3)]


class Packed(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = [("byte", ctypes.c_uint8), ("word", ctypes.c_uint32)]


@record
class Sums:
    total: u64 = 0
    flag: bool = False


class Rules:
    is_native_static = True
    flag: bool
    number: u32 = 1
    text: str = ""
    key = "rules"


class Keyless:
    is_native_static = True


class Thing:
    number = 3


THING = Thing()
STATE = Pair()
N, NEGATIVE, NAME, REAL, SEQUENCE = 5, -1, "name", 1.5, (1, 2, 300)


@native
def number(a: u32) -> u32:
    return a


@native
def changes(pair: Pair) -> bool:
    pair.low = 1
    return True


@native
def numbers(a: u32) -> Iterator[u32]:
    yield a


@inline
def takes(sums: Sums) -> None:
    sums.total += 1


@native
def pair_of(a: u32) -> tuple[u32, bool]:
    return a, True


@native
def needs(rules: Rules) -> bool:
    return rules.flag


def plain(a):
    return a


"""


def function(body: str, parameters: str = "a: u32", result: str = "u32", decorator: str = "native") -> str:
    """The text of `f`, whose body is one line or several."""
    lines = "\n".join(f"    {line}" for line in body.strip("\n").split("\n"))
    return f"@{decorator}\ndef f({parameters}) -> {result}:\n{lines}\n"


def refuses(body: str, message: str, parameters: str = "a: u32", result: str = "u32") -> tuple[str, str]:
    """A case: if no line is marked, the body's first is."""
    if "# here" not in body:
        first, newline, rest = body.partition("\n")
        body = f"{first}  # here{newline}{rest}"
    return function(body, parameters, result), message


SIGNATURES = [
    ("@native\ndef f(a) -> u32:  # here\n    return 1\n", "the parameter a is not annotated"),
    ("@native\ndef f(a: u32):  # here\n    return 1\n", "what f returns is not annotated"),
    ("@native\ndef f(a: u32 = 1) -> u32:  # here\n    return a\n", "parameters are plain ones"),
    ("@native\ndef f(*a: u32) -> u32:  # here\n    return 1\n", "parameters are plain ones"),
    ("@native\ndef f(**a: u32) -> u32:  # here\n    return 1\n", "parameters are plain ones"),
    ("@native\ndef f(*, a: u32) -> u32:  # here\n    return a\n", "parameters are plain ones"),
    ("@native\ndef f(a: u32, /) -> u32:  # here\n    return a\n", "parameters are plain ones"),
    ("@native\ndef f(a: int) -> u32:  # here\n    return 1\n", "int is no type of the subset"),
    ("@native\ndef f(a: float) -> u32:  # here\n    return 1\n", "float is no type of the subset"),
    ("@native\ndef f(a: unknown) -> u32:  # here\n    return 1\n", "the name unknown is not known"),
    ("@native\ndef f(a: enum.Nothing) -> u32:  # here\n    return 1\n", "enum has no attribute Nothing"),
    ("@native\ndef f(a: 5) -> u32:  # here\n    return 1\n", "5 is not a name"),
    ("@native\ndef f(a: '5 +') -> u32:  # here\n    return 1\n", "'5 +' is no type of the subset"),
    ("@native\ndef f(a: 'nix') -> u32:  # here\n    return 1\n", "the name nix is not known"),
    ("@native\ndef f(a: list[u32]) -> u32:  # here\n    return 1\n", "list[u32] is no type of the subset"),
    ("@native\ndef f(a: u32 | None) -> u32:  # here\n    return 1\n", "u32 | None is not a name"),
    ("@native\ndef f(a: None) -> u32:  # here\n    return 1\n", "the parameter a cannot be nothing"),
    ("@native\ndef f(a: tuple[u32, u32]) -> u32:  # here\n    return 1\n", "the parameter a cannot be a tuple"),
    ("@native\ndef f(a: Sums) -> u32:  # here\n    return 1\n", "only a function that is inlined takes records"),
    ("@cold\ndef f(a: Sums) -> u32:  # here\n    return 1\n", "only a function that is inlined takes records"),
    ("@native\ndef f(a: Keyless) -> u32:  # here\n    return 1\n", "Keyless has no key"),
    ("@native\ndef f(a: Heap, b: Heap) -> u32:  # here\n    return 1\n", "there is one heap"),
    ("@inline\ndef f(a: Sums) -> Sums:  # here\n    return a\n", "a record Sums is neither returned nor yielded"),
    ("@native\ndef f(a: Heap) -> Heap:  # here\n    return a\n", "the heap is neither returned nor yielded"),
    ("@native\ndef f(a: Rules) -> Rules:  # here\n    return a\n", "a static Rules is neither returned nor"),
    ("@native\ndef f(a: u32) -> tuple[u32, None]:  # here\n    return a\n", "nothing is neither returned"),
    ("@native\ndef f(a: u32) -> Iterator[Sums]:  # here\n    yield Sums()\n", "a record Sums is neither"),
    ("@native\ndef f(a: u32) -> Iterator[tuple[u32, u32]]:  # here\n    yield a, a\n", "a tuple (u32, u32) is neither"),
    ("@native\ndef f(a: u32) -> Iterator[u32]:  # here\n    a += 1\n", "annotated as an Iterator, but yields nothing"),
    ("@native\nasync def f(a: u32) -> u32:  # here\n    return a\n", "f is not defined by `def`"),
    ("f = native(lambda a: a)  # here\n", "<lambda> is not defined by `def`"),
    ("@native\ndef f(a: u32, _lowheap_u32: u32) -> u32:  # here\n    return a\n", "are not for variables"),
    (
        "@native\ndef f(a: u32) -> u32:  # here\n    if a > 3:\n        return a\n",
        "f does not return u32 on every path",
    ),
    ("@native\ndef f(a: u32) -> u32:  # here\n    while a > 3:\n        return a\n", "f does not return u32 on every"),
    ("@native\ndef f(a: u32) -> u32:  # here\n    while True:\n        break\n", "f does not return u32 on every"),
    ("@native\ndef f(a: u32) -> u32:  # here\n    return f(a)\n", "f calls itself, by itself or through others"),
    (
        "@native\ndef f(a: u32) -> u32:  # here\n    return g(a)\n@native\ndef g(a: u32) -> u32:\n    return f(a)\n",
        "f calls itself, by itself or through others",
    ),
    (
        "class Bad(ctypes.Structure):\n    pass\n@record\nclass Wrong:\n    field: Bad\n"
        "@inline\ndef f(a: Wrong) -> u32:  # here\n    return 1\n",
        "the field field of Wrong is 'Bad'; it must be a word or a bool",
    ),
    (
        "@record\nclass Wrong:\n    field: u8 = 256\n@inline\ndef f() -> u32:\n    a = Wrong()  # here\n    return 1\n",
        "the field field of Wrong is u8, which 256 is not",
    ),
]
STATEMENTS = [
    refuses("import os", "the subset has no Import statement"),
    refuses("from os import path", "the subset has no ImportFrom statement"),
    refuses("global N", "the subset has no Global statement"),
    refuses("del a", "the subset has no Delete statement"),
    refuses("raise ValueError", "the subset has no Raise statement"),
    refuses("with a: pass", "the subset has no With statement"),
    refuses("try:\n    return 1\nfinally:\n    pass", "the subset has no Try statement"),
    refuses("try:\n    return 1\nexcept* ValueError:\n    pass", "the subset has no TryStar statement"),
    refuses("match a:\n    case 1:\n        return 1", "the subset has no Match statement"),
    refuses("def g(): pass", "the subset has no FunctionDef statement"),
    refuses("async def g(): pass", "the subset has no AsyncFunctionDef statement"),
    refuses("class G: pass", "the subset has no ClassDef statement"),
    refuses("a", "an expression by itself must be a call"),
    refuses("a + 1", "an expression by itself must be a call"),
    refuses("...", "an expression by itself must be a call"),
    refuses("yield a", "f yields, but is not annotated as an Iterator"),
    refuses("yield", "it must yield u32", result="Iterator[u32]"),
    refuses("yield True", "what is yielded is u32, and was given bool", result="Iterator[u32]"),
    refuses("yield from numbers(a)", "an expression by itself must be a call", result="Iterator[u32]"),
    refuses("b = c = a", "one assignment has one target"),
    refuses("b = 5", "say what type b has: b: u32 = …"),
    refuses("b = N", "say what type b has"),
    refuses("b = 'x'", "say what type b has"),
    refuses("b: u32", "b is annotated, but not set"),
    refuses("b: int = 5", "int is no type of the subset"),
    refuses("b: u8 = 256", "b is u8; 256 is not from 0 to 255"),
    refuses("b: u32 = -1", "b is u32; -1 is not from 0 to 4294967295"),
    refuses("b: u32 = NEGATIVE", "b is u32; -1 is not from 0 to 4294967295"),
    refuses("b: i32 = 1 << 31", "b is i32; 2147483648 is not from"),
    refuses("b: u64 = a", "b is u64, and was given u32"),
    refuses("b: u32 = True", "b is u32, and was given bool"),
    refuses("b: u32 = NAME", "b is u32, and was given the constant 'name'"),
    refuses("b: bool = 1", "b is bool, and was given the constant 1"),
    refuses("pair.low: u32 = 5", "only a variable is annotated", "pair: Pair"),
    refuses("b, c = a", "2 targets are given u32"),
    refuses("b, c, d = pair_of(a)", "3 targets are given a tuple (u32, bool)"),
    refuses("b, *c = pair_of(a)", "the targets of several values are variables"),
    refuses("pair.low, b = pair_of(1)", "the targets of several values are variables", "pair: Pair"),
    refuses("[b, c] = pair_of(a)", "cannot store to [b, c]"),
    refuses("b = pair_of(a)", "b cannot be a tuple (u32, bool): give each of its items a variable"),
    refuses("b = takes(Sums())", "b cannot be nothing"),
    refuses("b = plain", "say what type b has"),
    refuses("b = Sums()\nb = Sums()  # here", "b is a record Sums, which is assigned once"),
    refuses("b = a\nb = u64(a)  # here", "the variable b changes its type from u32 to u64"),
    refuses("a = u64(a)", "the variable a changes its type from u32 to u64"),
    refuses("a = True", "the variable a changes its type from u32 to bool"),
    refuses("b = pair\nb = at(FreeBlock, 16)  # here", "changes its type from a view of Pair to", "pair: Pair"),
    refuses("a += u64(1)", "u32 and u64 are mixed: convert one of them"),
    refuses("a += -1", "-1 is no u32; these are from 0 to"),
    refuses("a -= 1 << 32", "4294967296 is no u32"),
    refuses("a /= 2", "the subset has no operator Div"),
    refuses("a **= 2", "the subset has no operator Pow"),
    refuses("a @= 2", "the subset has no operator MatMult"),
    refuses("b += 1", "the variable b is not set on every path to here"),
    refuses("N += 1", "the variable N is not set on every path to here"),
    refuses("flag &= 1", "bool and the constant 1 are no numbers", "flag: bool"),
    refuses("pair.low = u64(1)", "pair.low is u32, and was given u64", "pair: Pair"),
    refuses("pair.low = True", "pair.low is u32, and was given bool", "pair: Pair"),
    refuses("pair.low = 1 << 32", "pair.low is u32; 4294967296 is not from", "pair: Pair"),
    refuses("pair.high = -(1 << 31) - 1", "pair.high is i32; -2147483649 is not from", "pair: Pair"),
    refuses("pair.nothing = 1", "a view of Pair has no nothing", "pair: Pair"),
    refuses("pair.items = 1", "cannot store to pair.items", "pair: Pair"),
    refuses("pair.inner = pair.inner", "cannot store to pair.inner", "pair: Pair"),
    refuses("pair.items[4] = 1", "pair.items has elements from 0 to 3", "pair: Pair"),
    refuses("pair.items[NEGATIVE] = 1", "pair.items has elements from 0 to 3", "pair: Pair"),
    refuses("pair.items[True] = 1", "an element's number is u32 or u64, not bool", "pair: Pair"),
    refuses("pair.items[i64(1)] = 1", "an element's number is u32 or u64, not i64", "pair: Pair"),
    refuses("pair.items[0:2] = 1", "the subset has no Slice expression", "pair: Pair"),
    refuses("pair[0] = 1", "a view of Pair has no elements", "pair: Pair"),
    refuses("a.value = 1", "cannot store to a.value"),
    refuses("THING.number = 1", "cannot store to THING.number", "a: u32"),
    refuses("N.value = 1", "cannot store to N.value"),
    refuses("a, = pair_of(a)", "1 targets are given a tuple (u32, bool)"),
    refuses("heap.control = 1", "cannot store to heap.control", "heap: Heap"),
    refuses("rules.number = 1", "cannot store to rules.number", "rules: Rules"),
    refuses("heap.type_info(1).kind = 1", "VMTypeInfo.kind does not change while code runs", "heap: Heap"),
    refuses("heap.control.type_table = 1", "VMHeapControl.type_table does not change while", "heap: Heap"),
    refuses("heap.control.heap_base += 1", "VMHeapControl.heap_base does not change while", "heap: Heap"),
    refuses("b = place(heap.control, 'handles')", "VMHeapControl.handles does not change", "heap: Heap"),
    refuses("sums = Sums()\nsums.nothing = 1  # here", "a record Sums has no nothing"),
    refuses("sums = Sums()\nsums.total = a  # here", "sums.total is u64, and was given u32"),
    refuses("sums = Sums()\nsums.flag = 1  # here", "sums.flag is bool, and was given the constant 1"),
    refuses("return", "f returns u32"),
    refuses("return a", "f returns nothing", result="None"),
    refuses("return a", "what f returns is bool, and was given u32", result="bool"),
    refuses("return True", "what f returns is u32, and was given bool"),
    refuses("return -1", "what f returns is u32; -1 is not from"),
    refuses("return a, a", "the subset has tuples as results only"),
    refuses("return a", "what f returns is a tuple (u32, bool), and was given u32", result="tuple[u32, bool]"),
    refuses("return a, a, a", "the subset has tuples as results only", result="tuple[u32, u32]"),
    refuses("return a, a", "a is bool, and was given u32", result="tuple[u32, bool]"),
    refuses("return 1\na += 1  # here", "no path leads to this statement"),
    refuses("while True:\n    a += 1\nreturn a  # here", "no path leads to this statement"),
    refuses("while a:\n    break\n    a += 1  # here\nreturn a", "no path leads to this statement"),
    refuses("while a:\n    continue\n    a += 1  # here\nreturn a", "no path leads to this statement"),
    refuses("if a:\n    return 1\nelse:\n    return 2\nreturn a  # here", "no path leads to this statement"),
    refuses("while a:\n    a -= 1\nelse:\n    a = 1", "the subset has no else of a loop"),
    refuses("for i in range(3):\n    a -= 1\nelse:\n    a = 1", "the subset has no else of a loop"),
    refuses("for i, j in range(3): pass", "a loop has one variable"),
    refuses("for pair.low in range(3): pass", "a loop has one variable", "pair: Pair"),
    refuses("for i in SEQUENCE: pass", "a loop is over a range, or over what a generator of the subset yields"),
    refuses("for i in (1, 2): pass", "a loop is over a range, or over what a generator of the subset yields"),
    refuses("for i in number(a): pass", "number is no generator of the subset"),
    refuses("for i in u32(a): pass", "u32 is no generator of the subset"),
    refuses("for i in plain(a): pass", "plain is no function of the subset"),
    refuses("for i in enumerate(a): pass", "enumerate is no function of the subset"),
    refuses("for i in range(1, 5, 2): pass", "range has one or two arguments"),
    refuses("for i in range(): pass", "range has one or two arguments"),
    refuses("for i in range(True): pass", "an end of the range is u32, and was given bool"),
    refuses("for i in range(a, u64(5)): pass", "an end of the range is u32, and was given u64"),
    refuses("for i in range(a, -5): pass", "an end of the range is u32; -5 is not from"),
    refuses("for a in range(3): pass", "a is a variable already, and cannot be a loop's"),
    refuses("for i in range(3):\n    i = 5  # here", "i is the variable of a loop"),
    refuses("for i in range(3):\n    i += 1  # here", "i is the variable of a loop"),
    refuses("for i in range(3):\n    for i in range(2):  # here\n        pass", "i is a variable already"),
    refuses("for i in range(3):\n    pass\nreturn i  # here", "the variable i is not set on every path to here"),
    refuses("for i in range(3):\n    if a:\n        break\nreturn i  # here", "the variable i is not set on every"),
    refuses("for i in range(3):\n    pass\nfor i in range(u64(3)): pass  # here", "i changes its type from u32 to u64"),
    refuses("for i in range(3):\n    b = i\nreturn b  # here", "the variable b is not set on every path to here"),
    refuses("for i in range(3):\n    if i: a = b  # here\n    b = i", "the variable b is not set on every path"),
    refuses("while a:\n    b = a\n    a -= 1\nreturn b  # here", "the variable b is not set on every path to here"),
    refuses("if a:\n    b = a\nreturn b  # here", "the variable b is not set on every path to here"),
    refuses("assert a, number(a)", "the message of an assert is a constant"),
    refuses("assert changes(pair)", "changes(pair) has effects, and machine code leaves out an assert", "pair: Pair"),
    refuses("assert 'x'", "the constant 'x' is no condition"),
    refuses("if pair: pass", "a view of Pair is no condition", "pair: Pair"),
    refuses("while heap: pass", "the heap is no condition", "heap: Heap"),
    refuses("numbers(a)", "numbers is a generator: loop over it"),
]
EXPRESSIONS = [
    refuses(f"b = {text}", message, parameters)
    for text, message, *more in (
        ("lambda: 1", "the subset has no Lambda expression"),
        ("[1, 2]", "the subset has no List expression"),
        ("{1, 2}", "the subset has no Set expression"),
        ("{1: 2}", "the subset has no Dict expression"),
        ("[i for i in a]", "the subset has no ListComp expression"),
        ("{i for i in a}", "the subset has no SetComp expression"),
        ("{i: i for i in a}", "the subset has no DictComp expression"),
        ("u32(i for i in a)", "the subset has no GeneratorExp expression"),
        ("f'{a}'", "the subset has no JoinedStr expression"),
        ("(c := a)", "the subset has no NamedExpr expression"),
        ("(yield a)", "the subset has no Yield expression"),
        ("(yield from a)", "the subset has no YieldFrom expression"),
        ("(a, a)", "the subset has tuples as results only"),
        ("None", "the subset has no constant None"),
        ("1.5", "the subset has no constant 1.5"),
        ("1j", "the subset has no constant 1j"),
        ("b'x'", "the subset has no constant b'x'"),
        ("a + 1.5", "the subset has no constant 1.5"),
        ("a + REAL", "u32 and the constant 1.5 are mixed"),
        ("a is a", "the subset has no comparison Is"),
        ("a is not None", "the subset has no comparison IsNot"),
        ("a ** 2", "the subset has no operator Pow"),
        ("a / 2", "the subset has no operator Div"),
        ("a @ 2", "the subset has no operator MatMult"),
        ("a + 5 / 2", "the subset has no operator Div of constants"),
        ("a + 5 // 0", "5 // 0: integer division or modulo by zero"),
        ("a + (1 << -1)", "1 << -1: negative shift count"),
        ("a + (1 @ 2)", "1 @ 2: unsupported operand"),
        ("-a", "the subset has no USub of u32"),
        ("+a", "the subset has no UAdd of u32"),
        ("~i64(a)", "the subset has no Invert of i64"),
        ("~True", "the subset has no Invert of bool"),
        ("-True", "the subset has no USub of bool"),
        ("a + True", "u32 and bool are mixed: convert one of them"),
        ("True + True", "bool and bool are no numbers of one type"),
        ("(a < 1) + 1", "bool and the constant 1 are no numbers of one type"),
        ("(a < 1) & 1", "bool and the constant 1 are no numbers of one type"),
        ("(a < 1) << 1", "bool and the constant 1 are no numbers of one type"),
        ("a + u64(1)", "u32 and u64 are mixed: convert one of them"),
        ("a + i32(1)", "u32 and i32 are mixed: convert one of them"),
        ("a + (1 << 32)", "4294967296 is no u32; these are from 0 to 4294967295"),
        ("a - NEGATIVE", "-1 is no u32"),
        ("a | -1", "-1 is no u32"),
        ("a ^ ~0", "-1 is no u32"),
        ("a & -(1 << 33)", "-8589934592 is no u32"),
        ("a + NAME", "u32 and the constant 'name' are mixed"),
        ("a + u32", "u32 and the constant u32 are mixed"),
        ("a // 0", "division by 0"),
        ("a % 0", "division by 0"),
        ("i64(a) // 2", "signed numbers are not divided"),
        ("i64(a) % 2", "signed numbers are not divided"),
        ("a << 32", "u32 cannot be shifted by 32"),
        ("a >> -1", "u32 cannot be shifted by -1"),
        ("a >> u64(1)", "u32 is shifted by u64; both must be of one type"),
        ("u64(a) << a", "u64 is shifted by u32; both must be of one type"),
        ("a << (a < 1)", "u32 is shifted by bool; both must be of one type"),
        ("a == u64(1)", "u32 and u64 are mixed: convert one of them"),
        ("a == -1", "-1 is u32; -1 is not from"),
        ("a < (1 << 32)", "1 << 32 is u32; 4294967296 is not from 0 to 4294967295"),
        ("a == True", "u32 and bool are mixed"),
        ("a == 'x'", "'x' is u32, and was given the constant 'x'"),
        ("(a < 1) < True", "bool and bool cannot be compared"),
        ("(a < 1) == 1", "bool and the constant 1 cannot be compared"),
        ("1 < 2", "the constant 1 and the constant 2 cannot be compared"),
        ("heap == heap", "the heap and the heap cannot be compared", "heap: Heap"),
        ("pair == pair", "a view of Pair and a view of Pair cannot be compared", "pair: Pair"),
        ("a < number(a) < 3", "in a chain of comparisons, what follows the first is plain numbers"),
        ("1 < a < number(a)", "in a chain of comparisons, what follows the first is plain numbers"),
        ("1 < a < 10 // a", "in a chain of comparisons, what follows the first is plain numbers"),
        ("1 < a < pair.low", "in a chain of comparisons, what follows the first is plain", "a: u32, pair: Pair"),
        ("a in a", "a is no tuple of constants"),
        ("a in ()", "() is no tuple of constants"),
        ("a in {1, 2}", "{1, 2} is no tuple of constants"),
        ("a in [1, 2]", "[1, 2] is no tuple of constants"),
        ("a in (1, a)", "(1, a) is no tuple of constants"),
        ("a in (1, 'x')", "(1, 'x') is no tuple of constants"),
        ("a in NAME", "NAME is no tuple of constants"),
        ("a in (1, -1)", "-1 in (1, -1) is no u32"),
        ("u8(a) in SEQUENCE", "300 in SEQUENCE is no u8"),
        ("(a < 1) in SEQUENCE", "bool cannot be in SEQUENCE"),
        ("1 < a in SEQUENCE", "`in` is not chained"),
        ("a and True", "u32 is no bool: `and` and `or` of numbers are for conditions"),
        ("a or a", "u32 is no bool"),
        ("True and 5", "the constant 5 is no bool"),
        ("u32(a and a)", "u32 is no bool"),
        ("not pair", "a view of Pair is no condition", "pair: Pair"),
        ("not NAME", "the constant 'name' is no condition"),
        ("1 if a else 2", "say what type 1 if a else 2 has: convert one of its constants"),
        ("a if a else True", "True is u32, and was given bool"),
        ("a if a else u64(1)", "u64(1) is u32, and was given u64"),
        ("a if a else -1", "-1 is u32; -1 is not from"),
        ("pair if True else pair", "a choice is between numbers, not a view of Pair", "pair: Pair"),
        ("a if pair else a", "a view of Pair is no condition", "a: u32, pair: Pair"),
        ("unknown", "the name unknown is not known"),
        ("b + a", "the variable b is not set on every path to here"),
        ("unknown(a)", "unknown is no function of the subset"),
        ("a.value", "u32 has no value"),
        ("a.bit_length()", "a.bit_length is no function of the subset"),
        ("pair.nothing", "a view of Pair has no nothing", "pair: Pair"),
        ("pair.real", "a view of Pair has no real", "pair: Pair"),
        ("pair.bits", "a view of Pair has no bits", "pair: Pair"),
        ("packed.word", "a view of Packed has no word", "packed: Packed"),
        ("slot.nothing", "a place of u32 has no nothing", "slot: Slot"),
        ("heap.nothing", "the heap has no nothing", "heap: Heap"),
        ("heap.memory", "the heap has no memory", "heap: Heap"),
        ("enum.Nothing", "enum has no attribute Nothing"),
        ("THING.number + a", "whose attributes may change"),
        ("STATE.low + a", "whose attributes may change"),
        ("rules.text", "Rules.text is 'str'; only bools and words can be used", "rules: Rules"),
        ("rules.nothing", "Rules has no nothing", "rules: Rules"),
        ("a[0]", "u32 has no elements"),
        ("pair.items[a:a]", "the subset has no Slice expression", "a: u32, pair: Pair"),
        ("pair.items[0, 1]", "the subset has tuples as results only", "pair: Pair"),
        ("plain(a)", "plain is no function of the subset"),
        ("print(a)", "print is no function of the subset"),
        ("len(a)", "len is no function of the subset"),
        ("int(a)", "int is no function of the subset"),
        ("abs(i64(a))", "abs is no function of the subset"),
        ("(number)(a)(a)", "number(a) is no function of the subset"),
        ("N(a)", "N is no function of the subset"),
        ("Pair(a)", "Pair is no function of the subset"),
        ("number()", "number has 1 arguments, and was given 0"),
        ("number(a, a)", "number has 1 arguments, and was given 2"),
        ("number(a=a)", "arguments are given by position"),
        ("number(*a)", "arguments are given by position"),
        ("number(**a)", "arguments are given by position"),
        ("number(u64(a))", "a is u32, and was given u64"),
        ("number(-1)", "a is u32; -1 is not from"),
        ("number(True)", "a is u32, and was given bool"),
        ("number(pair)", "a is u32, and was given a view of Pair", "pair: Pair"),
        ("number(numbers(a))", "numbers is a generator: loop over it"),
        ("numbers(a)", "numbers is a generator: loop over it"),
        ("needs(a)", "rules is a static Rules, and was given u32"),
        ("needs(N)", "rules is a static Rules, and was given the constant 5"),
        ("Sums(1)", "a new record has no arguments"),
        ("u8(256)", "256 is u8; 256 is not from 0 to 255"),
        ("u32()", "u32 has 1 arguments, and was given 0"),
        ("u32(pair)", "a view of Pair cannot be made u32", "pair: Pair"),
        ("u32(NAME)", "NAME is u32, and was given the constant 'name'"),
        ("min(a)", "min has 2 arguments, and was given 1"),
        ("min(a, a, a)", "min has 2 arguments, and was given 3"),
        ("min(a, u64(1))", "u32 and u64 are mixed"),
        ("min(a, -1)", "-1 is no u32"),
        ("max(1, 2)", "the constant 1 and the constant 2 are no numbers of one type"),
        ("max(True, False)", "bool and bool are no numbers of one type"),
        ("wrapping_add(a, True)", "u32 and bool are mixed"),
        ("wrapping_add(a < 1, a < 2)", "bool and bool are no numbers of one type"),
        ("wrapping_sub(a, u64(1))", "u32 and u64 are mixed"),
        ("wrapping_mul(a)", "wrapping_mul has 2 arguments, and was given 1"),
        ("wrapping_u64(a)", "wrapping_u64 takes a number of at least 64 bits, not u32"),
        ("wrapping_u8(5)", "wrapping_u8 takes a number of at least 8 bits, not the constant 5"),
        ("ctz(i32(1))", "ctz takes an unsigned number, not i32"),
        ("popcount(True)", "popcount takes an unsigned number, not bool"),
        ("bit_length('x')", "bit_length('x'): 'str' object has no attribute 'bit_length'"),
        ("rotate_right(a, a)", "a number is turned by a constant from 1 to 31"),
        ("rotate_right(a, 32)", "a number is turned by a constant from 1 to 31"),
        ("rotate_right(u64(a), 1)", "what is turned is u32, and was given u64"),
        ("as_signed(u64(a))", "an argument of as_signed is u32, and was given u64"),
        ("likely()", "likely has 1 arguments, and was given 0"),
        ("likely(NAME)", "the constant 'name' is no condition"),
        ("prefetch(a)", "prefetch takes a view or a place, not u32"),
        ("at(u32, u64(a))", "at takes a structure and an address"),
        ("at(Pair, a)", "an address is u64, and was given u32"),
        ("at(a, u64(a))", "at takes a structure and an address"),
        ("at(plain, u64(a))", "plain is neither a structure nor a type of numbers"),
        ("cell(Pair, u64(a))", "cell takes a type of numbers and an address"),
        ("cell(u32, a)", "an address is u64, and was given u32"),
        ("cell(bool, u64(a))", "cell takes a type of numbers and an address"),
        ("place(pair, 'items')", "a view of Pair has no number items", "pair: Pair"),
        ("place(pair, 'bits')", "a view of Pair has no number bits", "pair: Pair"),
        ("place(pair, a)", "place takes a view and the name of a field", "a: u32, pair: Pair"),
        ("place(a, 'low')", "place takes a view and the name of a field"),
        ("address_of(a)", "u32 has no address"),
        ("address_of(Pair)", "has no address"),
        ("sizeof(a)", "sizeof takes a structure"),
        ("sizeof(N)", "sizeof(N): this type has no size"),
        ("local_array(u32, a)", "local_array takes a type of numbers and a constant"),
        ("local_array(Pair, 3)", "local_array takes a type of numbers and a constant"),
        ("local_array(u32, 0)", "a local array has from 1 to 65536 bytes, not 0"),
        ("local_array(u64, 1 << 20)", "a local array has from 1 to 65536 bytes"),
        ("address_of(local_array(u32, 3))", "a local array is given to a variable, outside of loops"),
        ("heap.nothing(1)", "the heap has no nothing", "heap: Heap"),
        ("heap.view(Pair, 1)", "the heap has no view", "heap: Heap"),
        ("heap.header(u64(1))", "an argument of header is u32, and was given u64", "heap: Heap"),
        ("heap.header()", "heap.header has 1 arguments, and was given 0", "heap: Heap"),
        ("heap.cell(Pair, 16, 0)", "cell takes a type of numbers here", "heap: Heap"),
        ("heap.cell(heap, 16, 0)", "cell takes a type of numbers here", "heap: Heap"),
        ("heap.slot(16)", "heap.slot has 2 arguments, and was given 1", "heap: Heap"),
        ("heap.write(u64(1), u64(1), u64(1))", "heap.write has 4 arguments, and was given 3", "heap: Heap"),
        ("heap.write(u64(1), 0, u64(1), heap.control.bump)", "write is u64, and was given u32", "heap: Heap"),
        ("heap.forget_problems(1)", "heap.forget_problems has 0 arguments, and was given 1", "heap: Heap"),
        ("heap.require_no_problem() == 0", "nothing and the constant 0 cannot be compared", "heap: Heap"),
    )
    for parameters in ((more or ["a: u32"])[0],)
]
CALLS = [
    refuses("copy_memory(u64(a), u64(a), a)", "an argument of copy_memory is u64, and was given u32"),
    refuses("zero_memory(pair, 1)", "an argument of zero_memory is u64, and was given a view of Pair", "pair: Pair"),
    refuses("compare_exchange(a, 0, 1)", "compare_exchange takes a place, not u32"),
    refuses(
        "compare_exchange(place(pair, 'low'), 0)", "compare_exchange has 3 arguments, and was given 2", "pair: Pair"
    ),
    refuses(
        "compare_exchange(place(pair, 'low'), 0, u64(1))",
        "a number of compare_exchange is u32, and was given u64",
        "pair: Pair",
    ),
    refuses(
        "assert compare_exchange(place(pair, 'low'), 0, 1)", "has effects, and machine code leaves out", "pair: Pair"
    ),
    refuses("compare_exchange(place(heap.control, 'type_table'), 0, 1)", "does not change", "heap: Heap"),
    refuses("note()", "note takes a text"),
    refuses("note(a)", "the text is a constant"),
    refuses("note('%d')", "the text does not go with 0 numbers"),
    refuses("note('%d', a, a)", "the text does not go with 2 numbers"),
    refuses("note('%d', True)", "a message tells numbers, not bool"),
    refuses("note('%s', NAME)", "a message tells numbers, not the constant 'name'"),
    refuses("note('%d', u32(changes(pair)))", "has effects, and machine code leaves out a message", "pair: Pair"),
    refuses("sound(True)", "sound takes a condition and a text"),
    refuses("sound(a, '{}')", "the text does not go with 0 numbers"),
    refuses("sound(a, '{x}', a)", "the text does not go with 1 numbers"),
    refuses("sound(changes(pair), 'x')", "machine code leaves out what must be sound", "pair: Pair"),
    refuses("sound(heap.release_externrefs() == 0, 'x')", "has effects", "heap: Heap"),
    refuses("assert heap.write(1, 1, 1, 1) == 0", "has effects, and machine code leaves out an assert", "heap: Heap"),
    refuses("while a:\n    b = local_array(u32, 3)  # here", "a local array is given to a variable, outside of loops"),
    refuses("for i in range(3):\n    b = local_array(u32, 3)  # here", "outside of loops"),
    refuses("b = local_array(u32, 3)\nreturn b[3]  # here", "b has elements from 0 to 2"),
    refuses("b = local_array(u32, 3)\nb = local_array(u32, 3)  # here", "which is assigned once"),
]
SHADOWS = [
    refuses("return min(a, 3)", "min is no function of the subset", "a: u32, min: u32"),
    refuses("for i in range(a): pass", "range is no function of the subset", "a: u32, range: u32"),
    refuses("return number(a)", "number is no function of the subset", "a: u32, number: u32"),
    refuses("b = N + a  # here\nN: u32 = 3\nreturn N + b", "the variable N is not set on every path to here"),
    refuses("b = number(a)  # here\nnumber: u32 = 3\nreturn b", "number is no function of the subset"),
]
CASES = [*SIGNATURES, *STATEMENTS, *EXPRESSIONS, *CALLS, *SHADOWS]


def define(text: str, path: Path) -> tuple[Native[..., Any], int]:
    """Run a module's text as a file, and return its `f`, and the line that is marked."""
    whole = HEADER + text
    path.write_text(whole, encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "case"}
    exec(compile(whole, str(path), "exec"), namespace)
    line = next((n for n, line in enumerate(whole.splitlines(), 1) if line.endswith("# here")), 0)
    return namespace["f"], line


@pytest.mark.parametrize(("text", "message"), CASES, ids=[re.sub(r"\W+", "-", case[1])[:50] for case in CASES])
@pytest.mark.filterwarnings("ignore::SyntaxWarning", "ignore::DeprecationWarning")
def test_it_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "case.py"
    function, line = define(text, path)
    with pytest.raises(NativeError) as caught:
        _ = function.checked
    assert message in caught.value.reason
    code = function.function.__code__
    decorated = code.co_firstlineno if text.startswith(("@native\ndef f", "@native\nasync")) else 0
    assert caught.value.line in (line, decorated if "itself" in message or "by `def`" in message else line)
    assert caught.value.path == str(path)
    assert str(caught.value) == f"{path}:{caught.value.line}: {caught.value.reason}"
    with pytest.raises(NativeError, match=re.escape(caught.value.reason)):  # again, and when it is called
        function(1)


def test_every_kind_of_node_is_in_the_subset_or_in_a_case() -> None:
    """So that a new one of Python's is refused, too: what is not in the tables is, and each kind is tried here."""
    tried = {type(node) for text, _ in CASES for node in ast.walk(ast.parse(text))}
    known = {*_STATEMENTS, *_EXPRESSIONS, *OPERATORS, *COMPARISONS, ast.In, ast.NotIn}
    kinds = {
        kind
        for base in (ast.stmt, ast.expr, ast.operator, ast.cmpop, ast.unaryop, ast.boolop)
        for kind in base.__subclasses__()
    }
    inside = {ast.FormattedValue, ast.Await, ast.AsyncFor, ast.AsyncWith, ast.Nonlocal}  # refused by what they are in
    older = {"Num", "Str", "Bytes", "NameConstant", "Ellipsis"}  # what Python had before constants were one kind
    newer = {"TypeAlias", "TemplateStr", "Interpolation"}
    missing = {kind.__name__ for kind in kinds - tried - known - inside if kind.__module__ == "ast"}
    assert missing <= older | newer


def test_what_has_no_source_is_refused() -> None:
    namespace: dict[str, Any] = {"native": native}
    exec("from lowheap.native import u32\n@native\ndef f(a: u32) -> u32:\n    return a\n", namespace)
    with pytest.raises(NativeError, match=r"<string>:\d+: the source of f cannot be read"):
        namespace["f"](1)


def test_a_source_that_has_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "case.py"
    function, _ = define("@native\ndef f(a: u32) -> u32:\n    return a\n", path)
    path.write_text(HEADER + "@native\ndef g(a: u32, b: u32) -> u32:\n    return b\n")
    with pytest.raises(NativeError, match="the source of f is not what was loaded: it has changed"):
        function(1)


def test_only_functions_are_native() -> None:
    for wrong in (staticmethod(len), len, Native, 5):
        with pytest.raises(TypeError, match="is no function of Python's"):
            native(wrong)  # type: ignore[arg-type]
