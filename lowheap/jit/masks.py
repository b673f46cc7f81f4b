"""Masks of live slots, as a statepoint's operands and the stack map have them: what reading code needs as well."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

SLOT_SIZE = 4
"""Bytes of a slot: a reference's."""

SLOTS_PER_WORD = 64
"""How many slots one word of a mask describes."""

_ALL = (1 << SLOTS_PER_WORD) - 1
"""The word of slots that are all live."""


def encoded(mask: int) -> list[int]:
    """Return a mask as it stands behind the address of its root frame: as words, signed, as LLVM writes them.

    A word of which all slots are live is followed by the number of further such words behind it. The references that
    live longest have the lowest slots; so the masks of n references over n safepoints are not n * n / 64 words.
    """
    items: list[int] = []
    while mask:
        ones = (~mask & mask + 1).bit_length() - 1
        full = ones // SLOTS_PER_WORD
        if full:
            items += (-1, full - 1)
        else:
            word = mask & _ALL
            items.append(word - (word >> SLOTS_PER_WORD - 1 << SLOTS_PER_WORD))
        mask >>= SLOTS_PER_WORD * (full or 1)
    return items


def runs(items: Iterable[int]) -> Iterator[tuple[int, int, int]]:
    """Read what `encoded` made, word by word: the number of a word with live slots, it, and how many are the same.

    ValueError for what it does not make.
    """
    number = 0
    rest = iter(items)
    for item in rest:
        word, count = item & _ALL, 1
        if word == _ALL:
            more = next(rest, -1)
            if more < 0:
                raise ValueError("a word whose slots are all live is not followed by a number of words")
            count += more
        if word:
            yield number, word, count
        number += count


def live_count(items: Iterable[int]) -> int:
    """How many slots are live."""
    return sum(word.bit_count() * count for _, word, count in runs(items))
