"""Every word, statement, operator and type of the subset: what Python does, machine code does, optimised or not.

Each function below is run by Python and compiled, on the same numbers and on copies of the same memory. Where Python
refuses a number (it is out of range, or divides by 0), machine code may do anything, and is not asked.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.native_sides import Compiled, words

from lowheap.native import (
    Native,
    OutOfRange,
    Slot,
    address_of,
    as_signed,
    at,
    bit_length,
    cell,
    cold,
    compare_exchange,
    copy_memory,
    ctz,
    i32,
    i64,
    inline,
    likely,
    local_array,
    native,
    note,
    place,
    popcount,
    prefetch,
    record,
    rotate_right,
    sizeof,
    sound,
    u8,
    u16,
    u32,
    u64,
    unlikely,
    wrapping_add,
    wrapping_mul,
    wrapping_sub,
    wrapping_u8,
    wrapping_u16,
    wrapping_u32,
    wrapping_u64,
    zero_memory,
)
from lowheap.native.check import PlaceType, StaticType, ViewType

LIMIT = 40
MASK = 0xFFFF_FFFF_0000_0000
PRIMES = (2, 3, 5, 7, 11, 13)
IS_BIG = True


class Pair(ctypes.Structure):
    _fields_ = (("low", ctypes.c_uint32), ("high", ctypes.c_uint32))
    low: int
    high: int


class Outer(ctypes.Structure):
    """One field of each width, and what may be in a structure beside these."""

    _anonymous_ = ("pair",)
    _fields_ = (
        ("a", ctypes.c_uint8),
        ("b", ctypes.c_uint16),
        ("c", ctypes.c_uint32),
        ("d", ctypes.c_uint64),
        ("e", ctypes.c_int32),
        ("f", ctypes.c_int64),
        ("pair", Pair),
        ("x", ctypes.c_uint32),
        ("y", ctypes.c_uint32),
        ("values", ctypes.c_uint32 * 8),
        ("pairs", Pair * 3),
        ("table", (ctypes.c_uint16 * 4) * 2),
        ("inner", Pair),
    )
    a: int
    b: int
    c: int
    d: int
    e: int
    f: int
    pair: Pair
    low: int
    high: int
    x: int
    y: int
    values: Any
    pairs: Any
    table: Any
    inner: Pair


@record
class Sums:
    """Two sums, and whether there were any."""

    total: u64 = 0
    count: u32 = 0
    any: bool = False
    least: i32 = -5


@dataclass(frozen=True)
class Rules:
    """What the functions are compiled for."""

    is_native_static = True
    doubles: bool
    adds: u32 = 3
    shift: u64 = 5

    @property
    def key(self) -> str:
        return f"{self.doubles}{self.adds}{self.shift}"


# ----------------------------------------------------------------------------------------------------------------------
# Arithmetic


@native
def add_u32(a: u32, b: u32) -> u32:
    return a + b


@native
def arithmetic_u64(a: u64, b: u64) -> u64:
    return (a // b) * 3 + a % b - (a // 7) + (b % 9)


@native
def arithmetic_u8(a: u8, b: u8) -> u8:
    return (a // 3) + (b & 15) * 2 - (a % 5 & b)


@native
def arithmetic_u16(a: u16, b: u16) -> u16:
    return (a ^ b) | (a >> 3) & ~b


@native
def arithmetic_i64(a: i64, b: i64) -> i64:
    return -(a >> 5) + b - 17 + (a & b) - (a | b) + (a ^ -3)


@native
def arithmetic_i32(a: i32, b: i32) -> i32:
    return a * b - (-a) + (b >> 1)


@native
def wraps_u32(a: u32, b: u32) -> u32:
    return wrapping_mul(wrapping_add(a, b), wrapping_sub(b, 7))


@native
def wraps_u64(a: u64, b: u64) -> u64:
    return wrapping_mul(wrapping_add(a, 0xFFFF_FFFF_FFFF_FFFF), wrapping_sub(b, a))


@native
def wraps_i32(a: i32, b: i32) -> i32:
    return wrapping_mul(wrapping_add(a, b), wrapping_sub(b, a))


@native
def wraps_i64(a: i64, b: i64) -> i64:
    return wrapping_sub(wrapping_mul(a, b), wrapping_add(a, -1))


@native
def wraps_u8(a: u8, b: u8) -> u8:
    return wrapping_mul(wrapping_add(a, b), wrapping_sub(a, b))


@native
def lowest_bits(a: u64, b: i64) -> u64:
    narrow = u64(wrapping_u8(a)) + u64(wrapping_u16(a)) + u64(wrapping_u32(a)) % 1000
    return wrapping_add(wrapping_u64(b), wrapping_add(narrow, u64(wrapping_u32(b)))) ^ wrapping_u64(a)


@native
def shifts_u32(a: u32, n: u32) -> u32:
    return (a >> n) ^ (a >> 31) ^ ((a & 1) << n) ^ (1 << n)


@native
def shifts_u64(a: u64, n: u64) -> u64:
    return (a >> n) ^ ((a & 1) << 63) ^ (u64(1) << n)


@native
def shifts_i64(a: i64, n: i64) -> i64:
    return (a >> n) + (a >> 63) + ((a & 1) << n)


@native
def augmented_shifts(a: u32, n: u32) -> u32:
    a >>= n
    a &= 0xFFFF
    a <<= 3
    a ^= 5
    a |= 1
    a //= 2
    a %= 1000
    a *= 3
    a += 1
    a -= 1
    return a


@native
def complement(a: u32, b: u64, c: u8) -> u64:
    return u64(~a) ^ ~b ^ u64(~c) ^ (b & ~15) ^ (MASK & b)


@native
def large_constants(a: u64) -> u64:
    return (a ^ 0xFFFF_FFFF_FFFF_FFFF) & 0x8000_0000_0000_0001 | (1 << 63) >> 2


@native
def negative_constants(a: i32) -> bool:
    b: i32 = -7
    return (a > -5) | (a == b) | (a < -2147483647)


@native
def converts(a: u8, b: u16, c: i32, d: bool) -> i64:
    return i64(a) * i64(b) + i64(c) + i64(d) + i64(u32(a)) - i64(u8(d))


@native
def converts_down(a: u64) -> u8:
    return u8(u16(u32(a)))


@native
def converts_signs(a: i32, b: u32) -> i64:
    return i64(u64(a)) + i64(i32(b)) + i64(u32(a))


@native
def bits_of(a: u32, b: u64, c: u8) -> u32:
    ones = popcount(a) + popcount(b) * 100 + popcount(c)
    return ones + bit_length(a) * 10_000 + bit_length(b) + bit_length(c) * 7 + bit_length(LIMIT) + LIMIT.bit_length()


@native
def trailing(a: u32, b: u64, c: u16) -> u32:
    return ctz(a) + ctz(b) * 100 + ctz(c) * 10_000


@native
def turned(a: u32) -> bool:
    return as_signed(rotate_right(a, 1)) > as_signed(rotate_right(a, 31))


@native
def signed(a: u32) -> i32:
    return as_signed(a)


@native
def extremes(a: u32, b: u32, c: i64, d: i64) -> i64:
    return max(min(c, d), -4) ^ i64(min(max(a, b), LIMIT)) ^ min(c, -3) ^ i64(max(7, b))


@native
def constants_fold(a: u32) -> u32:
    return a % (LIMIT * 2 + len(PRIMES) - sizeof(Pair)) + (u32(LIMIT) if IS_BIG else 1) + 2**3


# ----------------------------------------------------------------------------------------------------------------------
# Conditions


@native
def compares(a: u32, b: u32) -> u32:
    result: u32 = 0
    if a < b:
        result |= 1
    if a <= b:
        result |= 2
    if a > b:
        result |= 4
    if a >= b:
        result |= 8
    if a == b:
        result |= 16
    if a != b:
        result |= 32
    return result


@native
def compares_signed(a: i32, b: i32) -> bool:
    return (a < b) ^ (a <= b - 1) ^ (a > 3) ^ (b <= -3) ^ (a == b)


@native
def chains(a: u32, b: u32, c: u32) -> u32:
    result: u32 = 0
    if a < b < c:
        result |= 1
    if 3 <= a <= LIMIT:
        result |= 2
    if a == b != c:
        result |= 4
    if a < b + 0 >= c < 100:
        result |= 8
    return result


@native
def short_circuits(a: u32, b: u32, c: bool) -> u32:
    result: u32 = 0
    if a and b:
        result |= 1
    if a or (b and c):
        result |= 2
    if not a and not (b or c):
        result |= 4
    if likely(a > 3 and b) or unlikely(c):
        result |= 8
    if not unlikely(a) and a == 0:
        result |= 16
    if b != 0 and a // b > 2:
        result |= 32
    if b == 0 or a % b < 2:
        result |= 64
    return result


@native
def bools_are_values(a: u32, b: u32, c: bool) -> bool:
    d: bool = a < b and c
    e = (a > b or d) != c
    f = not a
    g = not (d and e)
    h = True if c else d
    return (d ^ e) | f & g ^ (h == True)  # noqa: E712


@native
def chooses(a: u32, b: u32) -> u32:
    c = a if a > b else b
    d: u32 = 1 if a else 0
    return (a // b if b else 7) ^ (a % b if b != 0 else 9) ^ c ^ (d if a < 5 else c // 2)


@native
def is_member(a: u32, b: i64) -> bool:
    return ((a in PRIMES) ^ (b in (-1, 0, 1))) | (a not in PRIMES and b not in (5, LIMIT))


@native
def constants_decide(a: u32) -> u32:
    while False:
        a = 3
    while 0:
        a = 4
    if IS_BIG and a > 2:
        a = a // 2
    if not IS_BIG or a == 1:
        return 17
    return a


# ----------------------------------------------------------------------------------------------------------------------
# Loops


@native
def collatz(a: u32) -> u32:
    n = u64(a % 1000) + 1
    steps: u32 = 0
    while n != 1:
        steps += 1
        if n & 1 == 0:
            n >>= 1
            continue
        n = n * 3 + 1
    return steps


@native
def leaves_loops(a: u32, b: u32) -> u32:
    total: u32 = 0
    for i in range(a % 20):
        for j in range(i, b % 20):
            if j == 7:
                continue
            if i * j > 50:
                break
            total += j
        else_ = total % 3
        if else_ == 2 and i > 15:
            return total
    while True:
        total += 1
        if total % 7 == 0:
            break
    return total


@native
def ranges(a: u32, b: i32) -> i64:
    total: i64 = 0
    end = a % 30
    for i in range(end):
        end = 3  # the range has its end already
        total += i64(i) + i64(end)
    for j in range(b, 5):
        total += i64(j)
        if total > 100 or total < -100:
            break
    for k in range(5, 3):
        total += 1000 + i64(k)
    for i in range(3):
        total += i64(i)
    return total


@native
def swaps(a: u32, b: u32) -> u32:
    for _ in range(3):
        c = a
        a = b
        b = c
    return wrapping_sub(a, b)


# ----------------------------------------------------------------------------------------------------------------------
# Generators


@native
def halves(n: u32) -> Iterator[u32]:
    while n != 0:
        yield n
        n //= 2


@inline
def several(n: u32, sums: Sums) -> Iterator[u32]:
    yield n
    if n % 3 == 0:
        yield n + 1
        sums.total += 1
    for i in range(n % 5):
        if i == 3:
            return
        yield i
        sums.count += 1
    yield 1000


@inline
def nested(n: u32, sums: Sums) -> Iterator[u32]:
    for outer in halves(n % 50):
        if outer == 6:
            continue
        for inner in several(outer, sums):
            if inner == 2:
                break
            yield inner * 2
        if outer == 5:
            return
    yield 1


@native
def generates(n: u32, stop: u32) -> u64:
    sums = Sums()
    total: u64 = 0
    for each in nested(n, sums):
        double = each * 2
        if double == stop:
            break
        if each % 4 == 0:
            continue
        kept: u32 = 0
        for other in halves(double):
            kept = other
            if other < stop:
                break
        if total > 5000:
            return total
        total += u64(double + kept)
    return total * 1000 + sums.total * 10 + u64(sums.count)


@inline
def first_beyond(n: u32, bound: u32) -> u32:
    for each in several(n, Sums()):
        if each > bound:
            return each
    return 0


@native
def returns_out_of_a_generator(n: u32, bound: u32) -> u32:
    n %= 100
    return first_beyond(n, bound) * 3 + first_beyond(n // 2, 1)


@inline
def slots_of(outer: Outer) -> Iterator[Slot]:
    yield place(outer, "c")
    yield place(outer, "x")
    for number in range(8):
        yield cell(u32, address_of(outer.values) + u64(number) * 4)


@native
def through_slots(outer: Outer, a: u32) -> u32:
    total: u32 = 0
    for slot in slots_of(outer):
        outer.c = a % 100
        total = wrapping_add(total, slot.value)
        slot.value = total
    return total


# ----------------------------------------------------------------------------------------------------------------------
# Calls, records, tuples


@cold
def divided(a: u32, b: u32) -> tuple[u32, u32]:
    if b == 0:
        return 0, a
    return a // b, a % b


@inline
def both(outer: Outer, a: u32) -> tuple[Slot, bool]:
    if a & 1:
        return place(outer, "c"), True
    return place(outer, "x"), False


@native
def view_and_slot(outer: Outer, a: u32) -> tuple[Pair, Slot, u8]:
    return outer.pairs[a % 3], place(outer, "y"), 5


@native
def unpacks(outer: Outer, a: u32, b: u32) -> u32:
    quotient, rest = divided(a, b)
    slot, flag = both(outer, quotient)
    slot.value = rest
    pair, other, five = view_and_slot(outer, a)
    pair.high = rest
    other.value = quotient
    rest, quotient = divided(b, a)
    return wrapping_add(quotient, rest) ^ u32(flag) ^ u32(five)


@inline
def gather(sums: Sums, value: u32) -> None:
    sums.total += u64(value)
    sums.count += 1
    sums.any |= value > 9
    if value == 5:
        sums.any = False
        return
    sums.least = min(sums.least, i32(value % 100) - 50)


@native
def records(a: u32, b: u32) -> u64:
    sums = Sums()
    again = sums
    for i in range(a % 9):
        fresh = Sums()
        gather(sums, i)
        gather(fresh, b % 50)
        again.total += fresh.total
    gather(again, b)
    return sums.total * 100 + u64(sums.count) + u64(sums.any) * 7 + u64(sums.least + 60)


@inline
def three_ways(a: u32) -> u32:
    if a < 10:
        return 1
    if a < 100:
        a -= 5
        return a
    return 3


@native
def calls(a: u32, b: u32) -> u32:
    return three_ways(a) * 1000 + three_ways(b % 120) + three_ways(three_ways(b))


@native
def compiled_for(rules: Rules, a: u32, b: u64) -> u64:
    result = u64(a % 1000)
    if rules.doubles:
        result *= 2
    elif rules.adds == 3:
        result += 1
    if a > 5 and not rules.doubles:
        result += 7
    if rules.doubles or a == 3:
        result += 9
    result += u64(rules.adds) << rules.shift
    for i in range(rules.adds):
        result += u64(i)
    return result ^ (b >> rules.shift) ^ u64(~rules.adds) ^ u64(popcount(rules.adds)) ^ u64(wrapping_u8(rules.adds))


@native
def passes_rules(rules: Rules, a: u32) -> u64:
    return compiled_for(rules, a, 77) + (u64(a) if likely(rules.doubles) else 3)


# ----------------------------------------------------------------------------------------------------------------------
# Memory


@native
def fields(outer: Outer, a: u32) -> u64:
    outer.a = wrapping_u8(a)
    outer.b = wrapping_u16(a)
    outer.c = a
    outer.d = u64(a) * 5
    outer.e = as_signed(a)
    outer.f = -i64(a)
    outer.low = a
    outer.high = a // 3
    outer.inner.high = a // 5
    return u64(outer.a) + u64(outer.b) + u64(outer.c) + outer.d % 77 + u64(outer.inner.high) + u64(outer.pair.low)


@native
def loads_signed(outer: Outer) -> i64:
    return (i64(outer.e) >> 3) + (outer.f >> 3) + i64(place(outer, "e").value >> 3)


@native
def neighbours(outer: Outer, a: u32, b: u32) -> u32:
    outer.x = outer.y
    outer.y = b
    pair = outer.inner
    pair.low = pair.high
    pair.high = a
    first = outer.pairs[1]
    first.low = a + 1
    first.high = 7
    return pair.low


@native
def augments(outer: Outer, n: u32) -> None:
    outer.c ^= 0xFF
    outer.d >>= u64(n % 64)
    outer.a &= 0x1F
    outer.a += 1
    outer.values[n % 8] //= 3
    outer.values[u64(2)] |= n
    outer.pairs[n % 3].low ^= outer.pairs[2].high
    outer.f -= i64(-5) if outer.f < 0 else 5
    place(outer, "x").value ^= 3


@native
def elements(outer: Outer, n: u32) -> u32:
    numbers = outer.values
    numbers[n % 8] = n
    outer.table[n % 2][3] = wrapping_u16(n)
    for i in range(7):
        numbers[i + 1] ^= numbers[i]
    return wrapping_add(numbers[7], u32(outer.table[1][n % 4]))


@native
def local_arrays(a: u32, b: u64) -> u64:
    numbers = local_array(u64, 5)
    small = local_array(u8, 3)
    for i in range(5):
        numbers[i] = u64(i) * u64(a)
    small[2] = wrapping_u8(a)
    numbers[a % 5] = b
    cell(u64, address_of(numbers) + 8).value ^= 1
    return numbers[1] ^ numbers[u64(3)] ^ u64(small[2])


@native
def places_move(outer: Outer, n: u32) -> u32:
    """A place that is set again may be any place."""
    link = place(outer, "c")
    view = outer.pairs[0]
    for i in range(n % 12):
        link.value = i
        if i == 3:
            link = place(outer, "x")
        elif i == 5:
            link = place(view, "high")
            view = outer.inner
        elif i == 8:
            link = cell(u32, address_of(outer.values))
        view.low = i
    outer.c ^= link.value
    return outer.c


@native
def at_addresses(outer: Outer, n: u32) -> u32:
    address = address_of(outer)
    other = at(Outer, address)
    other.c = n
    byte = cell(u8, address + u64(n % 4))
    byte.value = 3
    prefetch(other)
    prefetch(byte)
    return outer.c


@native
def moves(outer: Outer, n: u32) -> None:
    start = address_of(outer.values)
    copy_memory(start + 4, start, u64(n % 28))
    zero_memory(start + u64(n % 3), u64(n % 5))
    zero_memory(address_of(place(outer, "d")), sizeof(Pair))


@native
def exchanges(outer: Outer, n: u32) -> u32:
    """Of each width; some are what is expected."""
    done: u32 = u32(compare_exchange(place(outer, "a"), u8(n % 2), 7))
    done += u32(compare_exchange(place(outer, "b"), outer.b, 0)) * 2
    if compare_exchange(place(outer, "c"), n, n ^ 1):
        done += 4
    done += u32(not compare_exchange(place(outer, "d"), u64(n) & outer.d, 1 << 40)) * 8
    return done + u32(compare_exchange(place(outer, "e"), -1, -2)) * 16


@native
def counted(outer: Outer) -> u32:
    outer.c = (outer.c & 0xFFFF) + 1
    return outer.c


@native
def in_order(outer: Outer, n: u32) -> u32:
    """What is on the left comes first; what is stored comes before where."""
    first = (counted(outer) - outer.c) + (outer.c ^ counted(outer))
    if counted(outer) < counted(outer):
        first ^= 1
    outer.values[counted(outer) % 8] = counted(outer)
    outer.pairs[counted(outer) % 3].low ^= counted(outer)
    outer.values[counted(outer) % 8] += counted(outer) % 2
    if n > 5 and counted(outer) > 3 and IS_BIG:
        first ^= 2
    if counted(outer) == 0 and not IS_BIG:
        first ^= 4
    if not IS_BIG and counted(outer) == 0:
        first ^= 8
    return first ^ min(counted(outer), counted(outer)) ^ three_ways(counted(outer))


@native
def says(outer: Outer, a: u32) -> u32:
    """A docstring."""
    "A string by itself."
    note("%#x and %d", a, 5)
    sound(a >= 0, "it is {} and {:#x}", a, outer.c)
    assert a >= 0, "words are"
    pass  # noqa: PIE790
    return a


FUNCTIONS = [each for each in list(globals().values()) if isinstance(each, Native)]
RULES = [Rules(True), Rules(False), Rules(False, 0, 63), Rules(True, 9, 0)]


def is_callable(function: Native[..., Any]) -> bool:
    """Whether it can be called by itself, from C: it is no generator, takes no record, and returns no tuple."""
    checked = function.checked
    return (
        checked.yields is None
        and not any("record" in str(each.type) for each in checked.parameters)
        and (not str(checked.result).startswith("a tuple"))
    )


@functools.cache
def compiled(opt_level: int, rules: Rules) -> Compiled:
    natives = [each for each in FUNCTIONS if is_callable(each)]
    return Compiled(natives, opt_level, {"rules": rules})


@pytest.mark.parametrize("function", [each for each in FUNCTIONS if is_callable(each)], ids=lambda each: each.name)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_both_do_the_same(function: Native[..., Any], data: st.DataObject) -> None:
    size = ctypes.sizeof(Outer)
    image = data.draw(st.binary(min_size=size, max_size=size)) if "outer" in _names(function) else bytes(size)
    rules = data.draw(st.sampled_from(RULES)) if "rules" in _names(function) else RULES[0]
    sides = [Outer.from_buffer_copy(image) for _ in range(3)]
    numbers = [
        data.draw(words(each.type), each.name)
        for each in function.checked.parameters
        if not isinstance(each.type, ViewType | StaticType | PlaceType)
    ]
    takes_outer = "outer" in _names(function)
    python_args = [*([rules] if "rules" in _names(function) else []), *([sides[0]] if takes_outer else []), *numbers]
    try:
        expected = function(*python_args)
    except (OutOfRange, ZeroDivisionError):
        assume(False)
    for opt_level, side in zip((0, 2), sides[1:], strict=True):
        address = [ctypes.addressof(side)] if takes_outer else []
        assert compiled(opt_level, rules).call(function, *address, *numbers) == expected
        assert bytes(side) == bytes(sides[0])


def _names(function: Native[..., Any]) -> list[str]:
    return [each.name for each in function.checked.parameters]


@native
def same_name(a: u32) -> u32:
    return a + 1


class OfAClass:
    @native
    def same_name(a: u32) -> u32:
        return same_name(a) + 10


def test_a_function_of_a_class_calls_another_of_its_name() -> None:
    assert OfAClass.same_name(5) == 16
    assert Compiled([OfAClass.same_name]).call(OfAClass.same_name, 5) == 16
    assert OfAClass.same_name.checked.native.name == "OfAClass.same_name"
