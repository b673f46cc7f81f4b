"""V8 as an oracle: a node that runs a script of ours, which answers each line of JSON with one."""

from __future__ import annotations

import json
import subprocess
import tempfile
from typing import Any, Self

from toolchains import node
from toolchains.errors import ToolchainError

FIRST_WITH_STRINGS = 13
"""The first V8 that has them without a flag."""

_ANSWERING = """
const lines = require("readline").createInterface({input: process.stdin});
lines.on("line", (line) => {
  let said;
  try { said = {value: answer(JSON.parse(line))}; } catch (error) { said = {error: String(error)}; }
  process.stdout.write(JSON.stringify(said) + "\\n");
});
"""


class V8:
    """A node at work: `script` defines a function `answer(question)`. A context manager."""

    def __init__(self, script: str) -> None:
        """Start it. ToolchainError where there is no node, or one that is too old."""
        path, self.version = node.find()
        self._file = tempfile.NamedTemporaryFile("w", suffix=".cjs", encoding="utf-8")  # noqa: SIM115  # `__exit__` closes it
        self._file.write(script + _ANSWERING)
        self._file.flush()
        self._process = subprocess.Popen(
            [str(path), self._file.name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        assert self._process.stdin is not None, "it is a pipe"
        assert self._process.stdout is not None, "it is a pipe"
        self._questions, self._answers = self._process.stdin, self._process.stdout

    def ask(self, question: Any) -> Any:
        """Return the answer. RuntimeError with what the script threw."""
        self._questions.write(json.dumps(question) + "\n")
        self._questions.flush()
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"node has ended: status {self._process.wait(10)}")
        said = json.loads(line)
        if "error" in said:
            raise RuntimeError(said["error"])
        return said["value"]

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._questions.close()
        self._process.wait(30)
        self._answers.close()
        self._file.close()


def has_js_strings() -> bool:
    """Whether there is a node whose WebAssembly has the builtins of `wasm:js-string`."""
    probe = """
      const empty = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0]);
      const answer = () => new WebAssembly.Module(empty, {builtins: ["js-string"]}) && parseInt(process.versions.v8);
    """
    try:
        with V8(probe) as v8:
            return int(v8.ask(0)) >= FIRST_WITH_STRINGS
    except ToolchainError:
        return False
