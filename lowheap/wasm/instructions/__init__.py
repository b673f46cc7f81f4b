"""What instructions do: a file a family. They are all in `FACTS` once this package is imported."""

from lowheap.wasm.function import FACTS
from lowheap.wasm.instructions import (
    calls,
    exceptions,
    memories,
    objects,
    references,
    tables,
    variables,
    vectors,
    wide_arithmetic,
)

__all__ = [
    "FACTS",
    "calls",
    "exceptions",
    "memories",
    "objects",
    "references",
    "tables",
    "variables",
    "vectors",
    "wide_arithmetic",
]
