"""What README.md and docs/ show is what happens: their Python runs, their commands too, and both print what they say.

A page's Python blocks run in order, in one namespace, in a directory of their own with `examples/` in it. A block that
begins with `# NAME.py` or `/* NAME.c` is written to that file instead. A `text` block behind a Python block is what it
prints. The commands of a page's `console` blocks run in order, in another directory: each must print, on both streams
together, what stands below it. Times and files' sizes differ, and so do they here. `make run` counts as the command
that it runs; `pip` is for people. Those of README.md run again with compiled code from the cache (in a full run, once
more), and so do the commands in its text that have all that they need.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

# Runs the blocks that standard input brings, and prints a line between the outputs of any two.
RUNNER = """
import io, json, sys
from contextlib import redirect_stdout
sys.path.insert(0, "")
namespace, outputs = {"__name__": "page"}, []
for number, source in json.load(sys.stdin):
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile("\\n" * number + source, sys.argv[1], "exec"), namespace)
    outputs.append(out.getvalue())
json.dump(outputs, sys.stdout)
"""


class Block:
    """A fenced block: the language behind the fence, the line where it begins, and its text."""

    def __init__(self, language: str, line: int, text: str) -> None:
        self.language, self.line, self.text = language, line, text

    @property
    def file(self) -> str | None:
        """The name of the file that the block is, where it is one."""
        opening = {"python": r"# (\w+\.py)\n", "c": r"/\* (\w+\.c)\b"}.get(self.language)
        found = re.match(opening, self.text) if opening else None
        return found[1] if found else None


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(found[1], text[: found.start()].count("\n") + 1, found[2])
        for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory that has the examples, and the checkout on the path of what runs in it."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8", "COLUMNS": "80"}


def write_files(page: Path, directory: Path) -> None:
    for block in blocks(page):
        if block.file:
            (directory / block.file).write_text(block.text, encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks(page: Path, directory: Path) -> None:
    write_files(page, directory)
    found = blocks(page)
    code = [block for block in found if block.language == "python" and block.file is None]
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", RUNNER, str(page)],
        input=json.dumps([(block.line, block.text) for block in code]),
        capture_output=True,
        text=True,
        cwd=directory,
        env=environment(),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    outputs = dict(zip(code, json.loads(done.stdout), strict=True))
    for block, following in zip(found, [*found[1:], None][: len(found)], strict=True):
        if block in outputs:
            expected = following.text if following is not None and following.language == "text" else ""
            assert outputs[block] == expected, f"{page.name}, line {block.line}"


def commands(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a console block, and what stands below it."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, expected = part.partition("\n")
        yield command, expected


def runnable(page: Path) -> list[tuple[str, str]]:
    """The commands of a page, and what they print."""
    consoles = [block for block in blocks(page) if block.language == "console"]
    return [found for block in consoles for found in commands(block) if not found[0].startswith("pip ")]


def in_text(page: Path) -> list[tuple[str, None]]:
    """The commands of README.md that stand in its text, of which it does not say what they print."""
    if page.name != "README.md":
        return []
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    named = re.findall(r"`(lowheap \w+ [^`]*\.wat[^`]*|lowheap run --help)`", text)
    return [(" ".join(command.split()), None) for command in named]


def same_but_for_figures(text: str) -> str:
    """The text with times and files' sizes masked, and columns not aligned any more, because figures have widths.

    Spaces at the end of a line are gone, too.
    """
    masked = re.sub(r"[0-9,]+\.[0-9] ms", "TIME", text)
    masked = re.sub(r"^(│ (?:include|lib)/\S+ *│) *[0-9,]+ │", r"\1 SIZE │", masked, flags=re.MULTILINE)
    return re.sub(r" $", "", re.sub(r"[ ─]+", " ", masked), flags=re.MULTILINE)


def recipe_of_run() -> str:
    """What `make run` runs."""
    return subprocess.run(
        ["make", "-n", "run", "VENV=.venv"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))},
    ).stdout.splitlines()[-1]


@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda page: page.name)
def test_commands(page: Path, directory: Path) -> None:
    write_files(page, directory)
    for name, module in {"lowheap": "-m lowheap", "python": ""}.items():
        tool = directory / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        tool.chmod(0o755)
    path = f"{directory / 'bin'}{os.pathsep}{os.environ['PATH']}"
    cache = directory / "cache"
    environ = {**environment(), "PATH": path, "XDG_CACHE_HOME": str(cache)}
    compiled: list[list[Path]] = []
    said: dict[str, str] = {}
    for _ in range(3 if page.name == "README.md" else 1):
        for command, expected in (*runnable(page), *in_text(page)):
            if command == "make run":
                recipe = recipe_of_run()
                assert expected is not None
                echoed, _, expected = expected.partition("\n")
                assert recipe == echoed
                command = recipe.removeprefix(".venv/bin/")
            done = subprocess.run(
                ["sh", "-c", command],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                cwd=directory,
                env=environ,
                timeout=120,
            )
            assert done.returncode == 0, f"{page.name}: $ {command}\n{done.stdout}"
            printed = same_but_for_figures(done.stdout)
            wanted = said.setdefault(command, printed) if expected is None else same_but_for_figures(expected)
            assert printed == wanted, f"{page.name}: $ {command}"
        compiled.append(sorted(each for each in cache.rglob("*") if each.is_file()))
    if page.name == "README.md":
        assert compiled[0], "the first round fills the cache"
        assert compiled[1:] == compiled[:1] * (len(compiled) - 1), "the others find all in it"


def test_there_is_something_to_run() -> None:
    assert sum(block.language == "python" for block in blocks(ROOT / "README.md")) >= 4
    assert any(command == "make run" for command, _ in runnable(ROOT / "README.md"))
    assert len(runnable(ROOT / "docs" / "embedding.md")) >= 10
    assert ("lowheap asm examples/binary_trees.wat --function check", None) in in_text(ROOT / "README.md")
