"""An event loop: timers and microtasks, run one after the other by whoever calls `run`."""

from __future__ import annotations

import heapq
import itertools
import time
from collections import deque
from collections.abc import Callable

_Task = Callable[[], object]


class EventLoop:
    """Timers and microtasks. `clock` returns seconds, `sleep` waits for so many: a test has its own."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        """Begin with nothing to do."""
        self.clock, self.sleep = clock, sleep
        self._microtasks: deque[_Task] = deque()
        self._due: list[tuple[float, int, float | None]] = []
        self._tasks: dict[int, _Task] = {}
        self._numbers = itertools.count(1)

    def queue_microtask(self, task: _Task) -> None:
        """Have a task run as soon as what runs now is done."""
        self._microtasks.append(task)

    def set_timer(self, task: _Task, milliseconds: float, *, repeats: bool = False) -> int:
        """Have a task run after a time, once or again and again; return the timer's number."""
        number = next(self._numbers)
        self._tasks[number] = task
        seconds = max(milliseconds, 1 if repeats else 0) / 1000
        heapq.heappush(self._due, (self.clock() + seconds, number, seconds if repeats else None))
        return number

    def clear_timer(self, number: object) -> None:
        """Have a timer's task not run any more; nothing for what is no timer."""
        if isinstance(number, int | float):
            self._tasks.pop(int(number), None)

    def run_microtasks(self) -> None:
        """Run all microtasks, and those that they queue."""
        while self._microtasks:
            self._microtasks.popleft()()

    def run(self) -> None:
        """Run everything that is to be run, waiting for timers, until nothing is left. What a task raises comes out."""
        self.run_microtasks()
        while self._due:
            due, number, period = self._due[0]
            if number not in self._tasks:
                heapq.heappop(self._due)
                continue
            if (left := due - self.clock()) > 0:
                self.sleep(left)
                continue
            heapq.heappop(self._due)
            if period is None:
                task = self._tasks.pop(number)
            else:
                task = self._tasks[number]
                heapq.heappush(self._due, (self.clock() + period, number, period))
            task()
            self.run_microtasks()
