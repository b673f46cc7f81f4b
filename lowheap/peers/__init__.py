"""A live wasmtime as oracle: run a module in a given wasmtime release, step by step, and read its GC heap's bytes.

    with Peer("43.0.0", source) as peer:
        peer.call("make", 3)
        peer.collect()
        image = peer.image()            # a HeapImage: the bytes, where they lay, the list's head

Linux only. Releases 37 to 45, whose collector is the deferred reference-counting one; 46 brought another collector and
another header, and is refused. Nothing else in lowheap depends on this package.

**The wheels** (`wheels.py`). Several releases of the `wasmtime` package cannot live in one environment, so each is
installed with pip into a folder of its own: `ensure("43.0.0")` does so once, `python -m lowheap.peers` (which `make
peers` runs) for all of `VERSIONS`. They go to `$LOWHEAP_PEERS` if that is set, to `.peers` in a checkout of lowheap,
and to the user's cache folder otherwise.

**The process** (`peer.py`, `driver.py`). A `Peer` is a Python process that sees that folder and nothing else, and runs
`driver.py`, which imports neither lowheap nor anything that lowheap needs. Requests and answers are lines of JSON on
its standard input and output; images go through a file. Host functions run here: while wasm waits for one, it may call
exports, collect and take images, so that the heap can be seen with wasm frames on the stack. A wheel of 37 to 45 cannot
tell Python a type of the any hierarchy (asking aborts the process), so functions' types are read off the module's
binary (`signatures.py`), and a function that takes or gives such a reference cannot be called or supplied from Python;
give a wasm module (`companions`) for such imports.

**The probe.** Before anything else a store instantiates `PROBE_WAT` and runs `PROBE_STEPS`, so that it allocates the
first two objects of the heap: two structs, each with a 64-bit mark drawn at random, held by globals; the second also
refers to the first. Then the companions are instantiated, in the order given, and then the program. What the probe
leaves is always the same but for the marks (`Peer.marks`): two live objects of 40 bytes, at 16 and 64, with counts 2
and 1, an empty list. So that another heap has the same objects at the same indices, run the same probe there first:
`run_probe`.

**Finding the heap.** The driver searches the process's private, anonymous, read-write mappings for the two marks. A
mapping is the heap's when both are in it behind sound headers: kind word, size, counts, one and the same type index,
indices that are multiples of 16; and when the second object's reference to the first, an index that wasmtime itself
wrote, equals the distance of the first from the mapping's start: so index 0 is the start. Exactly one mapping must do.
All of that is checked again for every image, and `HeapNotFoundError` says what did not hold.

**Finding the list's head.** It is outside of the heap, in malloc'd memory. The probe's last steps take it through known
values (first object, empty, second object, empty); the one word of the process's memory that held each in its turn is
the head, and is read with every image: `HeapImage.list_head`. Should several words do, or none, it is None, and
`HeapImage.list_order` derives the list from the headers.
"""

from lowheap.peers.driver import PROBE_STEPS, PROBE_WAT
from lowheap.peers.errors import (
    AmbiguousListError,
    HeapNotFoundError,
    PeerCrashedError,
    PeerError,
    PeerInstallError,
    PeerTimeoutError,
    PeerTrap,
    UnsupportedPeerError,
)
from lowheap.peers.image import HeapImage
from lowheap.peers.peer import Peer, run_probe
from lowheap.peers.wheels import VERSIONS, ensure, folder

__all__ = [
    "PROBE_STEPS",
    "PROBE_WAT",
    "VERSIONS",
    "AmbiguousListError",
    "HeapImage",
    "HeapNotFoundError",
    "Peer",
    "PeerCrashedError",
    "PeerError",
    "PeerInstallError",
    "PeerTimeoutError",
    "PeerTrap",
    "UnsupportedPeerError",
    "ensure",
    "folder",
    "run_probe",
]
