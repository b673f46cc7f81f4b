"""What systems call by different numbers, for the functions that get memory from them: one table, and who reads it.

Emitted code is for one system, which need not be the one that emits it; whoever emits says which.
"""

from __future__ import annotations

from llvmlite import ir

from lowheap.jit.emit import I32, I64, PTR, Emitter

PROT_NONE = 0
PROT_READ = 1 << 0
PROT_WRITE = 1 << 1

SYSTEMS = ("linux", "darwin")
"""The systems that code can be emitted for."""

MMAP_FLAGS: dict[str, int] = {"linux": 0x4022, "darwin": 0x1042}
"""MAP_PRIVATE, MAP_ANONYMOUS and MAP_NORESERVE together, by system: memory of one's own that costs nothing until it is
touched."""

MAP_FAILED = -1
"""What mmap returns when the system refuses."""

MADV_HUGEPAGE: dict[str, int] = {"linux": 14}
"""The advice to use huge pages, where a system takes it."""

IMPORTED_SYMBOLS = ("mmap", "munmap", "mprotect", "madvise", "clock_gettime", "snprintf", "memset", "memcpy")
"""libc's functions that the interface's code calls, or LLVM on its behalf."""


def map_memory(emitter: Emitter, size: ir.Value, system: str) -> ir.Value:
    """Emit a request for `size` (i64) bytes of zeroed memory, above 0. Returns the address as an i64, 0 on failure."""
    mmap = emitter.declare("mmap", PTR, [PTR, I64, I32, I32, I32, I64])
    no_file = I32(-1)
    flags = I32(MMAP_FLAGS[system])
    mapped = emitter.builder.call(mmap, [PTR(None), size, I32(PROT_READ | PROT_WRITE), flags, no_file, I64(0)])
    address = emitter.builder.ptrtoint(mapped, I64)
    has_failed = emitter.builder.icmp_unsigned("==", address, I64(MAP_FAILED))
    return emitter.builder.select(has_failed, I64(0), address)


def unmap_memory(emitter: Emitter, address: ir.Value, size: ir.Value) -> None:
    """Emit the way back: `address` and `size` (i64 both) as for `map_memory`."""
    munmap = emitter.declare("munmap", I32, [PTR, I64])
    emitter.builder.call(munmap, [emitter.builder.inttoptr(address, PTR), size])


def protect_memory(emitter: Emitter, address: ir.Value, size: ir.Value) -> ir.Value:
    """Emit a request to have memory fault from now on. Returns whether the system does so, as an i1."""
    mprotect = emitter.declare("mprotect", I32, [PTR, I64, I32])
    status = emitter.builder.call(mprotect, [emitter.builder.inttoptr(address, PTR), size, I32(PROT_NONE)])
    return emitter.builder.icmp_unsigned("==", status, I32(0))


def advise_huge_pages(emitter: Emitter, address: ir.Value, size: ir.Value, system: str) -> None:
    """Emit the advice to use huge pages; nothing for a system that has none to give. It may be ignored."""
    if system in MADV_HUGEPAGE:
        madvise = emitter.declare("madvise", I32, [PTR, I64, I32])
        args = [emitter.builder.inttoptr(address, PTR), size, I32(MADV_HUGEPAGE[system])]
        emitter.builder.call(madvise, args)
