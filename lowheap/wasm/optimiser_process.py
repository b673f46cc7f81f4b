"""The process that `optimiser.py` starts: it compiles what standard input asks for, and answers on standard output."""

from __future__ import annotations

import os

from lowheap.jit import cache
from lowheap.wasm import optimiser


def serve() -> None:
    """Be the process, until nobody asks any more."""
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what anybody prints is no answer
    os.nice(_NICE)
    known: dict[int, optimiser.Optimisable] = {}
    while (message := optimiser.receive(source)) is not None:
        kind, number, what = message
        if kind == optimiser.TAKE:
            made_of, described = what
            known[number] = made_of.of(described)
            continue
        if kind == optimiser.FORGET:
            del known[number]
            continue
        taken, functions, seen = what
        compiled = optimiser.compiled(known[taken], functions, seen)
        optimiser.send(target, (number, None if compiled is None else cache.encode(str(number), compiled)))


_NICE = 5
"""How much less of the processors it gets than the program."""
