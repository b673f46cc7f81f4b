"""Interpreters: a subinterpreter refuses lowheap at import, and the process exits."""

from __future__ import annotations

import subprocess
import sys

from lowheap.interpreter import is_main_interpreter

PROGRAM = """
try:
    import _xxsubinterpreters as interpreters  # Python 3.11 and 3.12
except ImportError:
    import _interpreters as interpreters

source = '''
try:
    import lowheap.cli
except ImportError as error:
    print(error, flush=True)
else:
    import lowheap
    print(lowheap.Module(lowheap.Engine(), "(module)"), flush=True)
'''
options = () if not hasattr(interpreters, "new_config") else ("legacy",)
interpreters.run_string(interpreters.create(*options), source)
import lowheap
print(lowheap.I31(3), flush=True)
"""


def test_the_main_interpreter_is_one() -> None:
    assert is_main_interpreter()


def test_a_subinterpreter_refuses_lowheap_and_the_process_exits() -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True)
    refused, used = ran.stdout.splitlines()
    assert refused.startswith("lowheap cannot be used in a subinterpreter, only in the main interpreter of a process")
    assert used == "I31(3)"
