"""Which of a process's interpreters this is: lowheap works in the main one, and refuses the others at import.

At the end of a process, a subinterpreter that is left over is ended when the main interpreter has gone. A finalizer
that calls native code then does not come back: CPython ends the main thread in the middle of it, and a process that has
other threads, as wasmtime's are, never exits. Compiled code cannot be let go of without native code.
"""

from __future__ import annotations

import ctypes


def is_main_interpreter() -> bool:
    """Whether this is the interpreter that the process began with."""
    current, main = (getattr(ctypes.pythonapi, f"PyInterpreterState_{name}") for name in ("Get", "Main"))
    current.restype = main.restype = ctypes.c_void_p
    return bool(current() == main())


def check_interpreter() -> None:
    """ImportError in a subinterpreter."""
    if not is_main_interpreter():
        raise ImportError(
            "lowheap cannot be used in a subinterpreter, only in the main interpreter of a process: "
            "a process could not exit, since compiled code is let go of by native code"
        )
