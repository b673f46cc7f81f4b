"""The programs: which there are, and at what sizes they are run.

Each prints something when it is started, which `examples/LANGUAGE/expected/NAME.txt` holds as V8 gave it (`v8.py`
writes that), and exports `bench(n)`, a longer run without output that returns a number made of all that it did.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent.parent / "examples"

KOTLIN, MOONBIT = "kotlin", "moonbit"
LANGUAGES = (KOTLIN, MOONBIT)
_SUFFIXES = {KOTLIN: ".kt", MOONBIT: ".mbt"}


@dataclass(frozen=True, slots=True)
class Example:
    """A program. `rounds` is the size of a benchmark: about half a second on V8.

    Where `is_optimised`, wasm-opt has had what the compiler made, as Kotlin's own build has it before a release.
    """

    language: str
    name: str
    rounds: int
    is_optimised: bool = False

    @property
    def title(self) -> str:
        """Its name among all."""
        return f"{self.language}-{self.name}{'-optimised' * self.is_optimised}"

    @property
    def source(self) -> Path:
        """Where its source is."""
        return _FOLDER / self.language / f"{self.name}{_SUFFIXES[self.language]}"

    @property
    def expectation(self) -> Path:
        """Where it is written what it prints."""
        return _FOLDER / self.language / "expected" / f"{self.name}.txt"


_ROUNDS = {
    KOTLIN: {
        "hello": 30_000_000,
        "json": 700,
        "scheduler": 10_000,
        "constraints": 700,
        "adventure": 3_000,
        "life": 1_000,
        "interpreter": 1_500,
    },
    MOONBIT: {
        "hello": 300_000_000,
        "life": 7_000,
        "calculator": 20_000,
        "maps": 100_000,
        "workshop": 100_000,
    },
}

EXAMPLES = tuple(
    Example(language, name, rounds, is_optimised)
    for language, programs in _ROUNDS.items()
    for is_optimised in ((False, True) if language == KOTLIN else (False,))
    for name, rounds in programs.items()
)


def find(title: str) -> Example:
    """The program of that title."""
    return next(each for each in EXAMPLES if each.title == title)
