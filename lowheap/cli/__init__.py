"""The `lowheap` command: run a WebAssembly program on the heap, and say what became of its objects.

Standard output holds the results of the program and nothing else, one a line. All the rest (messages, statistics, logs)
goes to standard error. Whatever goes wrong is one message there, and an exit status:

- 1: an error: a file that cannot be read, a module that cannot be compiled, no memory, ...
- 2: the command line is wrong, an export's name and arguments included;
- 3: the program trapped;
- 130: interrupted from the keyboard.
"""

from __future__ import annotations

from lowheap.cli.entry import execute, main

__all__ = ["execute", "main"]
