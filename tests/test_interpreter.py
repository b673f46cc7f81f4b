"""Interpreters: a subinterpreter refuses lowheap at import, and the process exits."""

from __future__ import annotations

import subprocess
import sys

import pytest

from lowheap.interpreter import is_main_interpreter

PROGRAM = """
import sys
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
kind = sys.argv[1]
if hasattr(interpreters, "new_config"):
    made = interpreters.create(kind)
else:
    made = interpreters.create(isolated=kind == "isolated")
interpreters.run_string(made, source)
import lowheap
print(lowheap.I31(3), flush=True)
"""


def test_the_main_interpreter_is_one() -> None:
    assert is_main_interpreter()


@pytest.mark.parametrize("kind", ["legacy", "isolated"])
def test_a_subinterpreter_refuses_lowheap_and_the_process_exits(kind: str) -> None:
    ran = subprocess.run([sys.executable, "-c", PROGRAM, kind], capture_output=True, text=True, timeout=60, check=True)
    refused, used = ran.stdout.splitlines()
    if kind == "isolated" and sys.version_info[:2] == (3, 12):
        assert refused == "module _ctypes does not support loading in subinterpreters"
    else:
        assert refused.startswith("lowheap cannot be used in a subinterpreter, only in the main interpreter")
    assert used == "I31(3)"
