"""Tables of bits at an address: 64 of them a word."""

from __future__ import annotations

from lowheap.native import cell, ctz, inline, native, u32, u64

WORD_BITS = 64
_WORD_SHIFT = 6
_WORD_BYTES = 8
ALL = (1 << 64) - 1


@inline
def address_of_word(bits: u64, number: u32) -> u64:
    """Where the word is that a bit is in."""
    return bits + u64(number >> _WORD_SHIFT) * _WORD_BYTES


@inline
def mask_of(number: u32) -> u64:
    """The bit within its word."""
    return u64(1) << u64(number & (WORD_BITS - 1))


@inline
def has_bit(bits: u64, number: u32) -> bool:
    """Whether a bit is set."""
    word: u64 = cell(u64, address_of_word(bits, number)).value
    return word & mask_of(number) != 0


@inline
def set_bit(bits: u64, number: u32) -> None:
    """Set a bit."""
    cell(u64, address_of_word(bits, number)).value |= mask_of(number)


@inline
def clear_bit(bits: u64, number: u32) -> None:
    """Clear a bit."""
    cell(u64, address_of_word(bits, number)).value &= ~mask_of(number)


@inline
def mask_between(first: u64, end: u64, start: u64) -> u64:
    """Those bits of the word that begins with bit number `start` whose numbers are from `first` to before `end`.

    Some of them are in the word.
    """
    mask: u64 = ALL
    if first > start:
        mask = shifted_up(first - start)
    if end < start + WORD_BITS:
        mask &= u64(ALL) >> (start + WORD_BITS - end)
    return mask


@inline
def shifted_up(by: u64) -> u64:
    """All bits from one on; `by` is less than a word's."""
    return ~((u64(1) << by) - 1)


@native
def set_bits(bits: u64, first: u32, count: u32) -> None:
    """Set so many bits in a row."""
    place = u64(first)
    end = place + u64(count)
    while place < end:
        start = place & ~(WORD_BITS - 1)
        cell(u64, bits + start // WORD_BITS * _WORD_BYTES).value |= mask_between(place, end, start)
        place = start + WORD_BITS


@native
def next_bit(bits: u64, first: u32, end: u32) -> u32:
    """The number of the first bit that is set, from `first` on and before `end`; `end` where none is."""
    place = u64(first)
    limit = u64(end)
    while place < limit:
        start = place & ~(WORD_BITS - 1)
        word: u64 = cell(u64, bits + start // WORD_BITS * _WORD_BYTES).value
        word &= shifted_up(place - start)
        if word != 0:
            return min(u32(start + u64(ctz(word))), end)
        place = start + WORD_BITS
    return end
