"""What is there for those who carry on: pages, workflow, templates and hooks agree with each other and the code."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
CONTRIBUTING, VERSIONS = ROOT / "CONTRIBUTING.md", ROOT / "docs" / "versions.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / ".github").rglob("*.md"))]
TEMPLATES = sorted(path for path in (ROOT / ".github/ISSUE_TEMPLATE").iterdir() if path.name != "config.yml")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def text_of(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def loaded(path: Path) -> Any:
    """A YAML file, whose `on` is a key like others."""
    found = yaml.safe_load(path.read_text(encoding="utf-8"))
    return {"on" if key is True else key: value for key, value in found.items()}


# ----------------------------------------------------------------------------------------------------------------------
# Pages


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


def dead_links(page: Path) -> Iterator[str]:
    """The links of a page that lead nowhere in the repository."""
    for target in re.findall(r"\]\(([^)\s]+)", text_of(page)):
        if re.match(r"https?:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            yield target


def lost_paths(page: Path) -> Iterator[str]:
    """The files and folders that a page names, and that are not there."""
    folders = r"lowheap|tests|examples|docs|benchmarks|\.ci|\.github"
    names = r"\.pre-commit-config\.yaml|Makefile|\w+\.md|pyproject\.toml"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*|{names})`", text_of(page)):
        if not (ROOT / path).exists() and not (page.parent / path).exists():
            yield path
    for name in re.findall(r"`(test_\w+\.py)`", text_of(page)):
        if not (ROOT / "tests" / name).exists():
            yield name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page: Path) -> None:
    assert list(dead_links(page)) == []
    if page.name != "CHANGELOG.md":  # which names what was
        assert list(lost_paths(page)) == []


def test_what_does_not_exist_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A title\n[a](page.md#a-title) [b](#b) [c](c.md) `lowheap/c.py` `lowheap/heap.py` `test_c.py`\n")
    assert list(dead_links(page)) == ["#b", "c.md"]
    assert list(lost_paths(page)) == ["lowheap/c.py", "test_c.py"]


def lost_names(text: str) -> Iterator[str]:
    """The constants and decorators of a recipe's steps that are in none of the files that a step names."""
    for step in re.split(r"^(?=\d\. |- |#|$)", text, flags=re.MULTILINE):
        files = [ROOT / path for path in re.findall(r"`((?:lowheap|tests)/[\w./]+\.(?:py|c))`", step)]
        source = "\n".join(file.read_text(encoding="utf-8") for file in files)
        for name in re.findall(r"`@?(_?[A-Z][A-Z_]{3,}|_\w+|exercise)`", step) if files else ():
            if not re.search(rf"\b{name}\b", source):
                yield name


def test_the_names_in_recipes_are_where_they_are_said_to_be() -> None:
    text = text_of(CONTRIBUTING)
    assert len(re.findall(r"^\d\. ", text, re.MULTILINE)) > 15
    assert list(lost_names(text)) == []
    assert list(lost_names("1. `lowheap/wasm/opcodes.py` has `OPCODES`,\n   and `NOTHING`.\n")) == ["NOTHING"]


def commands(page: Path) -> list[str]:
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line.partition(" #")[0].strip() for block in blocks for line in block.splitlines()]


def test_commands_for_those_who_carry_on_are_of_files_and_targets_that_there_are() -> None:
    found = commands(CONTRIBUTING)
    targets = re.findall(r"^([\w-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for command in found:
        words = command.split()
        if words[0] == "make":
            assert words[1] in targets
        for word in words[1:]:
            if re.match(r"(tests|examples|docs)/", word):
                assert (ROOT / word).exists(), word
    assert {word for command in found for word in command.split()} >= {"make", "tests/conformance"}


def rows(page: Path) -> dict[str, str]:
    """Of each row of a page's tables that has them, the attribute of lowheap's in the second cell, and the third."""
    cells = [line.split("|")[1:-1] for line in text_of(page).splitlines() if line.startswith("| ")]
    return {row[1].strip(" `"): row[2].strip() for row in cells if row[1].startswith(" `lowheap.")}


def test_each_number_is_where_it_is_said_to_be() -> None:
    found = rows(VERSIONS)
    assert len(found) == 7
    for name, said in found.items():
        module, _, attribute = name.rpartition(".")
        value = getattr(importlib.import_module(module), attribute)
        if said.startswith("computed"):
            assert 0 < value() < 1 << 64
        else:
            assert said == f"`{value!r}`", name


def test_the_changelog_has_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert versions[0].startswith("Unreleased")
    assert versions[1] == PROJECT["project"]["version"]
    unreleased = text.split("\n## ")[1]
    assert re.findall(r"^### (.*)$", unreleased, re.MULTILINE) == ["Breaking", "Added", "Changed", "Fixed"]


# ----------------------------------------------------------------------------------------------------------------------
# What others' machines run


def minor(version: str) -> int:
    return int(re.fullmatch(r"3\.(\d+)", version)[1])  # type: ignore[index]


def test_the_workflow_runs_all_on_each_python_that_is_supported() -> None:
    workflow = loaded(ROOT / ".github/workflows/ci.yml")
    job = workflow["jobs"]["ci"]
    pythons = job["strategy"]["matrix"]["python"]
    language = "Programming Language :: Python :: "
    classifiers = [each.removeprefix(language) for each in PROJECT["project"]["classifiers"] if language in each]
    assert pythons == [each for each in classifiers if re.fullmatch(r"3\.\d+", each)]
    assert PROJECT["project"]["requires-python"] == f">={pythons[0]}"
    assert [minor(each) for each in pythons] == list(range(minor(pythons[0]), minor(pythons[-1]) + 1))
    assert PROJECT["tool"]["mypy"]["python_version"] == pythons[0]
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{pythons[0].replace('.', '')}"
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_the_workflow_s_other_jobs_run_targets_on_the_newest_python() -> None:
    workflow = loaded(ROOT / ".github/workflows/ci.yml")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    newest = workflow["jobs"].pop("ci")["strategy"]["matrix"]["python"][-1]
    targets = []
    for job in workflow["jobs"].values():
        assert [step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", "")] == [
            newest
        ]
        targets += [step["run"] for step in job["steps"] if step.get("run", "").startswith("make ")]
    assert targets == ["make coverage", "make test-full"]
    for target in targets:
        assert re.search(rf"^{target.removeprefix('make ')}:", makefile, re.MULTILINE)


def test_the_workflow_may_only_read() -> None:
    workflow = loaded(ROOT / ".github/workflows/ci.yml")
    assert workflow["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in workflow["jobs"].values())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"] if "uses" in step]
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]) for step in steps)
    assert {"push", "pull_request"} <= workflow["on"].keys()


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_a_template_is_a_form(path: Path) -> None:
    form = loaded(path)
    assert form.keys() == {"name", "description", "labels", "body"}
    fields = [each for each in form["body"] if each["type"] != "markdown"]
    names = [each["id"] for each in fields]
    assert len(names) == len(set(names)) > 2
    for field in fields:
        assert field["type"] in ("textarea", "input", "dropdown", "checkboxes")
        assert field["attributes"]["label"]
        if field["type"] in ("dropdown", "checkboxes"):
            assert len(field["attributes"]["options"]) > 1
    assert any(each.get("validations", {}).get("required") for each in fields)


def test_there_are_templates() -> None:
    assert [path.name for path in TEMPLATES] == ["bug.yml", "idea.yml"]
    assert loaded(ROOT / ".github/ISSUE_TEMPLATE/config.yml") == {"blank_issues_enabled": True}


def test_hooks_are_the_commands_of_make_lint() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    made = subprocess.run(
        ["make", "--dry-run", "--assume-old", "pyproject.toml", "lint", "VENV=.venv"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=environment,
    )
    lint = [line for line in made.stdout.splitlines() if line.startswith((".venv/bin/ruff", ".venv/bin/mypy"))]
    repositories = loaded(ROOT / ".pre-commit-config.yaml")["repos"]
    (local,) = (each for each in repositories if each["repo"] == "local")
    assert [hook["entry"] for hook in local["hooks"]] == lint
    assert all(hook["language"] == "system" for hook in local["hooks"])
    for other in (each for each in repositories if each["repo"] != "local"):
        assert re.fullmatch(r"v\d+\.\d+\.\d+", other["rev"]), json.dumps(other)


def test_the_picture_of_where_to_begin_is_of_what_there_is() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (picture,) = re.findall(r"^```\nwhat you have.*?^```$", readme, re.MULTILINE | re.DOTALL)
    for file in re.findall(r"\b(?:docs/)?\w+\.md\b", picture):
        assert (ROOT / file).is_file(), file
    for place in re.findall(r"\b(?<!docs/)(\w+(?:/|\.py))", picture):
        assert any((folder / place).exists() for folder in (ROOT / "lowheap", ROOT)), place
    assert set(re.findall(r"lowheap (run|inspect)\b", picture)) == {"run", "inspect"}
