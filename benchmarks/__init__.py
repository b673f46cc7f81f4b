"""Benchmarks: programs on lowheap, on several wasmtimes, on V8, and as C, side by side. `python -m benchmarks --help`.

- `programs.py`: what is run, at which sizes, and what is timed.
- `contenders.py`, `workers/`: who runs it, each in a process of its own that is asked for one repetition at a time.
- `instructions.py`: how many instructions the fast paths have.
- `generated.py`: modules by the line, of any size. `compile_time.py`: what compiling them costs.
- `pauses.py`: how long collectors stop a program whose large live heap changes all the time.
- `measure.py`: the rounds, in which all contenders of a program take turns, and what came of them.
- `goals.py`: what the figures should be. `report.py`: the table, the chart, the document. `run.py`: the command.
- `yardstick.c`: the heap's design as C. `events.c`: a driver for the barriers alone. `embed.c`: C programs that have
  lowheap's library, with one of its collectors, Boehm's collector, or malloc to manage their memory.
"""
