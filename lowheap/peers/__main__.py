"""`python -m lowheap.peers [VERSION...]`: install wheels, by default all of `VERSIONS`; print where they are."""

from __future__ import annotations

import sys

from lowheap.peers import VERSIONS, PeerError, ensure


def main(versions: list[str]) -> int:
    """Install each; 1 if one cannot be."""
    try:
        for version in versions or VERSIONS:
            print(ensure(version))
    except PeerError as error:
        print(f"lowheap.peers: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
