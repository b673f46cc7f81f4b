"""The house: no module imports in a circle, and each only what stands above it in the picture of `docs/design.md`.

The imports are all that the sources have: those inside of functions, and those for type checkers only, as well. No test
file imports another: what several use is in `tests/support/`.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "lowheap"
DESIGN = ROOT / "docs" / "design.md"

ROOM = re.compile(r"(?<![\w./])(?:[a-z_]+/)*[a-z_]+(?:/|\.py)(?![\w/])")
BY_NAME = ("import_module", "importlib.import_module", "__import__", "place", "later.place")
ENTRANCES = ("__init__.py", "__main__.py")
"""Files that are nobody's to import, and may import everything, where they are in no room."""


@dataclass(frozen=True)
class Import:
    """One module imports another, in a line of its file."""

    importer: str
    imported: str
    line: int

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def modules(package: Path) -> dict[str, Path]:
    """The files of a package, by their modules' dotted names."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def imports(package: Path) -> list[Import]:
    """Each import between a package's modules; files are named from the package on."""
    files = modules(package)
    names = {name: str(path.relative_to(package)) for name, path in files.items()}
    found = []
    for name, path in files.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            found += [
                Import(names[name], names[each], node.lineno)
                for each in imported(node, name if path.stem == "__init__" else name.rpartition(".")[0], files)
            ]
    return found


def imported(node: ast.AST, package: str, files: dict[str, Path]) -> Iterator[str]:
    """The modules among `files` that a statement imports, in a module of a package."""
    if isinstance(node, ast.Import):
        yield from (each.name for each in node.names if each.name in files)
    elif isinstance(node, ast.ImportFrom):
        source = node.module or ""
        if node.level:
            above = package.split(".")
            source = ".".join([*above[: len(above) - node.level + 1], *filter(None, [source])])
        for each in node.names:
            full = f"{source}.{each.name}"
            if full in files or source in files:
                yield full if full in files else source


def circle(found: list[Import]) -> list[Import]:
    """Imports that lead back to where they begin; none when there are no such."""
    graph: dict[str, list[Import]] = {}
    for each in found:
        graph.setdefault(each.importer, []).append(each)
    done: set[str] = set()

    def search(module: str, path: list[Import]) -> list[Import]:
        for each in graph.get(module, []):
            begun = [step.importer for step in path] + [module]
            if each.imported in begun:
                return [*path, each][begun.index(each.imported) :]
            if each.imported not in done and (closed := search(each.imported, [*path, each])):
                return closed
        done.add(module)
        return []

    return next((closed for module in graph if module not in done and (closed := search(module, []))), [])


def picture(text: str) -> dict[str, int]:
    """The rooms of the first picture in a text, each with the line that it stands in, from the top."""
    block = text.split("```")[1]
    rooms: dict[str, int] = {}
    for number, line in enumerate(block.splitlines()):
        for room in ROOM.findall(line):
            assert room not in rooms, f"{room} stands in two lines of the picture"
            rooms[room] = number
    return rooms


def room_of(file: str, rooms: Iterable[str]) -> str | None:
    """The smallest room that a file is, or is in; None for an entrance that is in none, itself for any other."""
    found = [room for room in rooms if file == room or (room.endswith("/") and file.startswith(room))]
    if not found and file.rpartition("/")[2] in ENTRANCES:
        return None
    return max(found, key=len, default=file)


def runs_back(found: list[Import], rooms: dict[str, int]) -> list[str]:
    """What is imported though it does not stand above, each with the reason."""
    wrong = []
    for each in found:
        importer, room = room_of(each.importer, rooms), room_of(each.imported, rooms)
        if importer is None or importer == room:
            continue
        if room is None:
            wrong.append(f"{each}, which is for those outside")
        elif rooms.get(room, -1) >= rooms.get(importer, -1):
            wrong.append(f"{each}: {room} does not stand above {importer}")
    return wrong


def test_no_module_imports_itself_through_others() -> None:
    assert not [str(each) for each in circle(imports(PACKAGE))]


def test_each_module_imports_what_stands_above_it() -> None:
    assert runs_back(imports(PACKAGE), picture(DESIGN.read_text(encoding="utf-8"))) == []


def test_only_entrances_import_by_name() -> None:
    """What is imported by a name in a string leads where it likes, unseen by the tests above."""
    importers = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in BY_NAME:
                names = [ast.unparse(each) for each in node.args]
                if any("lowheap" in each or "_places" in each for each in names):
                    importers.add(str(path.relative_to(PACKAGE)))
    assert importers == {"__init__.py", "cli/entry.py", "later.py"}


def test_the_picture_shows_every_room_and_no_other() -> None:
    rooms = picture(DESIGN.read_text(encoding="utf-8"))
    there = {room_of(str(path.relative_to(PACKAGE)), rooms) for path in modules(PACKAGE).values()} - {None}
    assert there == set(rooms)


def imports_of_tests(files: Iterable[Path]) -> list[str]:
    """Each import of a test file, by a test file or by what such files share."""
    found = []
    for path in sorted(files):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(each.name for each in node.names)]
            else:
                names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            named = {part for name in names for part in name.split(".")}
            found += [f"{path.name}:{node.lineno} imports {name}" for name in sorted(named) if name.startswith("test_")]
    return found


def test_no_test_file_imports_another() -> None:
    assert imports_of_tests((ROOT / "tests").rglob("*.py")) == []


# ----------------------------------------------------------------------------------------------------------------------
# That a fault is found


def house(folder: Path, files: dict[str, str]) -> Path:
    package = folder / "house"
    for name, text in {"__init__.py": "", **files}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return package


PICTURE = """# A house
```
ground.py                    what all stand on
hall/   cellar.py            and what is in there
hall/stairs/                 a room of its own
```
"""


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"ground.py": "import house.hall.door"}, ["ground.py:1 imports hall/door.py"]),
        ({"ground.py": "from .hall import door"}, ["ground.py:1 imports hall/door.py"]),
        ({"hall/door.py": "from .. import cellar"}, ["hall/door.py:1 imports cellar.py"]),
        ({"cellar.py": "def f():\n    from house.hall import door"}, ["cellar.py:2 imports hall/door.py"]),
        ({"cellar.py": "if TYPE_CHECKING:\n  from house.hall.door import x"}, ["cellar.py:2 imports hall/door.py"]),
        ({"hall/door.py": "from house import open"}, ["hall/door.py:1 imports __init__.py"]),
        ({"attic.py": "import house.ground"}, ["attic.py:1 imports ground.py"]),
        ({"hall/door.py": "from house import ground\nimport sys", "__init__.py": "from house.hall import door"}, []),
        ({"hall/door.py": "from house.hall import bell", "hall/bell.py": "import house.ground"}, []),
        ({"hall/door.py": "import house.hall.stairs.step"}, ["hall/door.py:1 imports hall/stairs/step.py"]),
        ({"hall/stairs/step.py": "import house.hall.door"}, []),
    ],
)
def test_what_runs_back_is_named(tmp_path: Path, files: dict[str, str], expected: list[str]) -> None:
    there = {"ground.py": "", "cellar.py": "", "hall/__init__.py": "", "hall/door.py": "", "hall/bell.py": ""}
    there["hall/stairs/step.py"] = ""
    found = runs_back(imports(house(tmp_path, there | files)), picture(PICTURE))
    assert [re.split("[:,] ", each)[0] for each in found] == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a.py": "import house.b", "b.py": "import house.c", "c.py": "import house.d", "d.py": ""}, []),
        ({"a.py": "import house.b", "b.py": "from house import a"}, ["a.py:1 imports b.py", "b.py:1 imports a.py"]),
        (
            {"a.py": "import house.b", "b.py": "\nimport house.c", "c.py": "def f(): from house.b import x"},
            ["b.py:2 imports c.py", "c.py:1 imports b.py"],
        ),
        ({"a.py": "import house.a"}, ["a.py:1 imports a.py"]),
    ],
)
def test_a_circle_is_named(tmp_path: Path, files: dict[str, str], expected: list[str]) -> None:
    assert [str(each) for each in circle(imports(house(tmp_path, files)))] == expected


def test_a_room_stands_once_in_the_picture() -> None:
    with pytest.raises(AssertionError, match="hall/ stands in two lines"):
        picture("```\nhall/\nground.py   hall/\n```")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from test_b import World", ["test_a.py:1 imports test_b"]),
        ("import pytest\nimport test_b as b, test_c", ["test_a.py:2 imports test_b", "test_a.py:2 imports test_c"]),
        ("def f():\n    from conformance.test_b import run", ["test_a.py:2 imports test_b"]),
        ("from . import test_b", ["test_a.py:1 imports test_b"]),
        ("from support.heap_world import World\nSCRIPT = 'import test_a'", []),
    ],
)
def test_a_test_file_that_imports_another_is_named(tmp_path: Path, text: str, expected: list[str]) -> None:
    (tmp_path / "test_a.py").write_text(text, encoding="utf-8")
    assert imports_of_tests(tmp_path.glob("*.py")) == expected
