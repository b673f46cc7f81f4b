"""WASI preview 1: `wasi_snapshot_preview1`, the world of files and a console.

`config.py` is what a user says that a program gets, `context.py` what a store has of it: arguments, environment, and
descriptors. The functions are in `process.py`, `clocks.py`, `polling.py`, `files.py` and `paths.py`, a file for each
subject; `functions.py` has the list that they make, with their types, and `linking.py` gives it to linkers. `layout.py`
has every number and every structure that passes between program and host.

**What a program reaches** is what it was given: descriptors 0 to 2, and folders. A path leads nowhere but below the
folder that it starts from (`resolution.py`): it is walked name by name, with descriptors of folders; the system is
never asked to follow a symbolic link, or `..`.

**Errors.** What the system refuses is told as WASI's number for that, what leads out of a folder as EPERM. An address
that is not in the memory, or not aligned, is a trap, as the witx says. What Python code raises that was given as a
stream comes out of the outermost call as itself, but an OSError, which the program is told.
"""

MODULE = "wasi_snapshot_preview1"
"""What programs import the functions from. It is here, where asking for it loads nothing else."""
