"""What can go wrong with a peer."""

from __future__ import annotations

from lowheap.errors import LowheapError, Portable


class PeerError(LowheapError):
    """A peer was asked for something that it cannot do, or refused it; the message holds wasmtime's own."""


class UnsupportedPeerError(PeerError):
    """A wasmtime release whose heap is not the one that lowheap has, or a platform whose memory cannot be read so."""


class PeerInstallError(PeerError):
    """A wheel could not be installed; the message holds what pip said."""


class PeerCrashedError(PeerError):
    """The peer's process ended on its own; the message holds how, and the end of its standard error."""


class PeerTimeoutError(PeerError):
    """The peer did not answer in time, and was ended."""


class HeapNotFoundError(PeerError):
    """It is not certain where the peer's GC heap is; the message says what did not hold."""


class AmbiguousListError(PeerError):
    """The over-approximated list cannot be told from an image's bytes."""


class PeerTrap(Portable):
    """The program trapped in wasmtime.

    `message` is wasmtime's sentence for it ("cast failure"), `text` all that wasmtime said, backtrace included.
    """

    def __init__(self, message: str, text: str) -> None:
        """Keep the sentence and the text."""
        super().__init__(f"wasm trap: {message}")
        self.message = message
        self.text = text
