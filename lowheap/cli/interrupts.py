"""What Ctrl-C does: it ends the process, but for a program that can be stopped: that it stops.

Python's own handler waits for LLVM, and for compiled code that is not interruptible. So a thread of its own waits for
SIGINT. While a program runs that can be stopped, it has KeyboardInterrupt raised in the main thread; a second SIGINT
ends the process, whatever the first one has come to.

A program may be waiting, in a call of the system's: for input, or for a time. Another signal, which does nothing else,
ends that call. It may come just before the call begins, and so is sent until the program has stopped.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import threading
from collections.abc import Iterator

from lowheap.cli.output import EXIT_INTERRUPTED, INTERRUPTED

_WAKING = signal.SIGURG
"""The signal that ends calls of the system's; nothing comes of it where nobody minds it."""

_WAKING_PERIOD = 0.05
"""Seconds from one to the next."""


class _Target:
    """Whether a program is to be stopped by the next SIGINT, and whether one is being stopped."""

    is_program = False
    is_stopping = False


def exit_on_interrupt() -> None:
    """Have SIGINT end the process, from now on. Call it in the main thread, before there is another."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return  # whoever started this process wants SIGINT ignored

    main = threading.get_ident()

    def stop() -> bool:
        """Wait until the program has stopped; return False where SIGINT comes first."""
        while _Target.is_stopping:
            signal.pthread_kill(main, _WAKING)
            if signal.sigtimedwait({signal.SIGINT}, _WAKING_PERIOD) is not None:
                return False
        return True

    def wait() -> None:
        while True:
            signal.sigwait({signal.SIGINT})
            if not _Target.is_program:
                break
            _Target.is_program, _Target.is_stopping = False, True
            _thread.interrupt_main()
            if not stop():
                break
        with contextlib.suppress(OSError):
            os.write(2, f"{INTERRUPTED}\n".encode())
        os._exit(EXIT_INTERRUPTED)

    signal.signal(_WAKING, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    threading.Thread(target=wait, name="lowheap.interrupt", daemon=True).start()


@contextlib.contextmanager
def stopping_the_program() -> Iterator[None]:
    """Have the first SIGINT raise KeyboardInterrupt in the body."""
    _Target.is_program = True
    try:
        yield
    finally:
        _Target.is_program = _Target.is_stopping = False
