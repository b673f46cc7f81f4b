"""Random modules on lowheap and on wasmtime, compared: `python -m fuzz`, `make fuzz`.

`modules.py` makes them of a seed, `sides.py` runs them, `run.py` compares, shrinks what differs, and is the command.
"""
