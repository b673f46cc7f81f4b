"""The process that `optimiser.py` starts: it compiles what standard input asks for, and answers on standard output."""

from __future__ import annotations

import os

from lowheap.jit import cache
from lowheap.wasm import optimiser
from lowheap.wasm.module import PieceCompiler


def serve() -> None:
    """Be the process, until nobody asks any more."""
    source, target = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what anybody prints is no answer
    os.nice(_NICE)
    known: dict[int, PieceCompiler] = {}
    while (message := optimiser.receive(source)) is not None:
        kind, number, what = message
        if kind == optimiser.MODULE:
            known[number] = PieceCompiler.of(what)
            continue
        if kind == optimiser.FORGET:
            del known[number]
            continue
        module, functions = what
        compiled = optimiser.compiled(known[module], functions)
        optimiser.send(target, (number, None if compiled is None else cache.encode(str(number), compiled)))


_NICE = 5
"""How much less of the processors it gets than the program."""
