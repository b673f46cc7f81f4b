"""What stores and modules share: the type registry, how code is compiled, and the epoch at which it stops."""

from __future__ import annotations

from typing import Any, Unpack

from lowheap.collectors import registry
from lowheap.collectors.interface import Collector
from lowheap.config import Config, Options
from lowheap.copying import NotCopied
from lowheap.epochs import Epoch
from lowheap.errors import CompilerError, LowheapError
from lowheap.types import TypeRegistry


class Engine(NotCopied):
    """The type registry, and the options that modules are compiled with: a `Config`, or its attributes as arguments."""

    NOT_COPIED_BECAUSE = "stores and modules tell engines apart; make another one with the same options"

    def __init__(self, config: Config | None = None, **options: Unpack[Options]) -> None:
        """Make an engine with an empty type registry. TypeError or ValueError for an option that does not exist.

        What becomes of the config later does not matter to it.
        """
        if config is None:
            config = Config(**options)
        elif not isinstance(config, Config):
            raise TypeError(f"config is {config!r}; it must be a Config")
        elif options:
            raise TypeError(f"{', '.join(options)} cannot be given beside a config; set it there")
        if config.epoch_interruption and not config.interruptible:
            raise ValueError("interruptible is False, but epoch_interruption is True, which needs it")
        self.collector: Collector = _collector(config.collector, config.barriers)
        self.types = TypeRegistry()
        self.runtime = config.runtime
        self.opt_level = config.opt_level
        self.compilation = config.compilation
        self.inline = config.inline
        self.interruptible = config.interruptible
        self.consume_fuel = config.consume_fuel
        self.canonical_nans = config.cranelift_nan_canonicalization
        self.max_wasm_stack = config.max_wasm_stack
        self.proposals_off = config.proposals_off
        self.cache = config.cache_directory
        self.epoch = Epoch() if config.epoch_interruption else None
        """None where nothing stops at one."""

    def increment_epoch(self) -> None:
        """Have code stop whose store's deadline that reaches: see `Store.set_epoch_deadline`.

        Any thread may call this, and any signal's handler. LowheapError without `epoch_interruption`.
        """
        self.check_epoch().increment()

    def check_epoch(self) -> Epoch:
        """Return the epoch. LowheapError where there is none."""
        if self.epoch is None:
            raise LowheapError("this engine has no epochs; make it with epoch_interruption=True")
        return self.epoch


def _collector(collector: Any, barriers: Any) -> Collector:
    found = registry.find("drc" if collector is None else collector)
    if barriers is None:
        return found
    varied = registry.find(barriers)
    if collector is not None and not isinstance(varied, type(found)):
        raise CompilerError(f"the barriers {varied.name} are no variation of those of the collector {found.name}")
    return varied
