"""Programs on V8, which is the judge of what they print: `python -m toolchains.v8` writes what is expected of each."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from toolchains import build, examples, node
from toolchains.errors import ToolchainError

_SCRIPT = Path(__file__).resolve().parent / "run_v8.mjs"


@dataclass(frozen=True, slots=True)
class Run:
    """What a program printed when it was started, and what `bench` returned for each size."""

    printed: str
    results: list[int]


def run(binary: Path, *sizes: int) -> Run:
    """Run a program. ToolchainError if there is no V8, or if the program fails there."""
    command = [str(node.provide()), str(_SCRIPT), str(binary), *map(str, sizes)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise ToolchainError(f"{binary.name} fails on V8: {done.stderr.strip()}")
    return Run(**json.loads(done.stdout))


def main() -> int:
    """Write what each program prints to where it is expected."""
    plain = [each for each in examples.EXAMPLES if not each.is_optimised]
    for title, binary in build.ensure(plain).items():
        path = examples.find(title).expectation
        path.parent.mkdir(exist_ok=True)
        path.write_text(run(binary).printed, encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
