"""`DrcHeap` against a plain Python model of counts, list and liveness, by random sequences of operations."""

from __future__ import annotations

from hypothesis import settings
from support.heap_model import HeapMachine

TestHeap = HeapMachine.TestCase
TestHeap.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
