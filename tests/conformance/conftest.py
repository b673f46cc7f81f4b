"""What the conformance tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from lowheap.peers import Peer


@pytest.fixture(scope="module")
def peers() -> Iterator[Callable[[str], Peer]]:
    """One process for each release."""
    opened: dict[str, Peer] = {}

    def peer(version: str) -> Peer:
        if version not in opened:
            opened[version] = Peer(version, "(module)")
        return opened[version]

    yield peer
    for each in opened.values():
        each.close()
