"""The C library as files: what is in them, how programs get at it, and what is said where one cannot be made."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from llvmlite import binding
from support.embed_library import built_library, compile_program, run

from lowheap import cli
from lowheap.collectors import registry
from lowheap.collectors.interface import Collector
from lowheap.collectors.rc_immix.collector import RcImmix
from lowheap.embed import api, library
from lowheap.embed.header import header, package_version
from lowheap.errors import LowheapError, UnsupportedError
from lowheap.jit import engine

CHECKED = [False, True]
KINDS = ["fast", "checked"]

VERSION_PROGRAM = """
#include "lowheap.h"
#include <stdio.h>
int main(void) {
    lh_config config = LH_CONFIG;
    lh_heap *heap;
    lh_status status = lh_heap_create(&config, &heap);
    printf("%s %u %d %s\\n", lh_version(), lh_is_checked(), lh_abi() == LOWHEAP_ABI, lh_status_name(status));
    return status == LH_OK ? (int)lh_heap_destroy(heap) : 0;
}
"""

AARCH64 = "aarch64-unknown-linux-gnu"


def file(part: str, *, checked: bool) -> Path:
    return built_library() / library.library_files(checked=checked)[part]


def section(elf: ELFFile, name: str) -> Any:
    found = elf.get_section_by_name(name)
    assert found is not None, name
    return found


@pytest.fixture
def no_linker(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine without any linker."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "ziglang" else find_spec(name, *rest)
    )
    return monkeypatch


@pytest.fixture
def ready_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `build` take this machine's objects from the library that is built already: compiling them takes long."""
    objects = {checked: file("object", checked=checked).read_bytes() for checked in CHECKED}

    def compile_object(
        target: engine.Target, system: str, *, checked: bool, opt_level: int, collectors: Sequence[Collector]
    ) -> bytes:
        return objects[checked]

    monkeypatch.setattr(library, "compile_object", compile_object)


# ----------------------------------------------------------------------------------------------------------------------
# What is in it


@pytest.mark.parametrize("checked", CHECKED, ids=KINDS)
def test_exports_the_interface_under_its_version_and_needs_libc_only(checked: bool) -> None:
    libc = ctypes.CDLL(None)
    with file("shared", checked=checked).open("rb") as stream:
        elf = ELFFile(stream)
        tags = list(section(elf, ".dynamic").iter_tags())
        sonames = [tag.soname for tag in tags if tag.entry.d_tag == "DT_SONAME"]
        assert sonames == [file("shared", checked=checked).name]
        assert [tag.needed for tag in tags if tag.entry.d_tag == "DT_NEEDED"] == ["libc.so.6"]
        assert not [tag for tag in tags if tag.entry.d_tag in ("DT_TEXTREL", "DT_INIT", "DT_FINI", "DT_RPATH")]
        names = {
            version["vd_ndx"]: [each.name for each in auxiliary]
            for version, auxiliary in section(elf, ".gnu.version_d").iter_versions()
        }
        versions = section(elf, ".gnu.version")
        exported = {}
        for number, symbol in enumerate(section(elf, ".dynsym").iter_symbols()):
            if symbol["st_shndx"] not in ("SHN_UNDEF", "SHN_ABS"):
                exported[symbol.name] = names[versions.get_symbol(number)["ndx"]]
            elif symbol["st_shndx"] == "SHN_UNDEF" and symbol.name:
                assert hasattr(libc, symbol.name), symbol.name
    assert exported == {name: [f"LOWHEAP_{api.VERSION}"] for name in api.FUNCTIONS}


@pytest.mark.parametrize("part", ["object", "shared"])
@pytest.mark.parametrize("checked", CHECKED, ids=KINDS)
def test_has_no_state_of_its_own(checked: bool, part: str) -> None:
    """What is writable is for the loader, which makes it read-only when it has filled in addresses."""
    for_the_loader = (".dynamic", ".got", ".got.plt", ".data.rel.ro", ".data.rel.ro.local", ".init_array")
    with file(part, checked=checked).open("rb") as stream:
        elf = ELFFile(stream)
        for section in elf.iter_sections():
            if section["sh_flags"] & 1 and section["sh_flags"] & 2 and section["sh_size"]:  # writable, and in memory
                assert section.name in for_the_loader
        if part == "shared":
            stack, relro = (
                [each for each in elf.iter_segments() if each["p_type"] == kind]
                for kind in ("PT_GNU_STACK", "PT_GNU_RELRO")
            )
            assert not stack[0]["p_flags"] & 1, "an executable stack"
            writable = [each for each in elf.iter_segments() if each["p_type"] == "PT_LOAD" and each["p_flags"] & 2]
            for segment in writable:
                assert segment["p_memsz"] <= relro[0]["p_memsz"]


@pytest.mark.parametrize("checked", CHECKED, ids=KINDS)
def test_the_archive_is_what_ar_makes(checked: bool, tmp_path: Path) -> None:
    shutil.copy(file("object", checked=checked), tmp_path / "lowheap.o")
    os.chmod(tmp_path / "lowheap.o", 0o644)
    run(["ar", "rcsD", tmp_path / "theirs.a", tmp_path / "lowheap.o"])
    assert file("archive", checked=checked).read_bytes() == (tmp_path / "theirs.a").read_bytes()


@pytest.mark.parametrize("checked", CHECKED, ids=KINDS)
def test_an_object_defines_the_interface_and_no_other_global_name(checked: bool) -> None:
    printed = run(["nm", "--extern-only", "--defined-only", "--format=posix", file("object", checked=checked)])
    assert {line.split()[0] for line in printed.splitlines()} == set(api.FUNCTIONS)


@pytest.mark.parametrize("checked", CHECKED, ids=KINDS)
def test_tells_its_version_its_kind_and_its_hash(checked: bool) -> None:
    loaded = ctypes.CDLL(str(file("link", checked=checked)))
    loaded.lh_abi.restype = ctypes.c_uint64
    loaded.lh_version.restype = ctypes.c_char_p
    assert loaded.lh_abi() == api.abi_hash()
    assert loaded.lh_version().decode() == package_version()
    assert loaded.lh_is_checked() == checked


# ----------------------------------------------------------------------------------------------------------------------
# How programs get at it


@pytest.mark.parametrize("checked", CHECKED, ids=KINDS)
def test_a_program_is_linked_by_what_pkg_config_says(checked: bool, tmp_path: Path) -> None:
    moved = tmp_path / "moved elsewhere" / "prefix"
    shutil.copytree(built_library(), moved, symlinks=True)
    (tmp_path / "program.c").write_text(VERSION_PROGRAM)
    name = library.NAME + library.VARIANTS[checked]
    flags = pkg_config(moved / "lib" / "pkgconfig", name)
    run(["cc", "-std=c11", tmp_path / "program.c", *flags, "-o", tmp_path / "program"])
    printed = run([tmp_path / "program"], LD_LIBRARY_PATH=str(moved / "lib"))
    assert printed == f"{package_version()} {int(checked)} 1 LH_OK\n"
    with (tmp_path / "program").open("rb") as stream:
        needed = [tag.needed for tag in section(ELFFile(stream), ".dynamic").iter_tags("DT_NEEDED")]
    assert f"lib{name}.so.{api.VERSION}" in needed


def pkg_config(directory: Path, name: str) -> list[str]:
    """What `pkg-config --cflags --libs` says, by reading the file as its manual says; and by itself, where there."""
    text = (directory / f"{name}.pc").read_text()
    variables = {"pcfiledir": str(directory)}

    def filled(value: str) -> str:
        return re.sub(r"\$\{(\w+)\}", lambda found: variables[found[1]], value)

    for found in re.finditer(r"^(\w+)=(.*)$", text, re.MULTILINE):
        variables[found[1]] = filled(found[2])
    fields = {found[1]: found[2] for found in re.finditer(r"^(\w+): (.*)$", text, re.MULTILINE)}
    assert fields["Name"] == name
    assert fields["Version"] == package_version()
    if shutil.which("pkg-config"):
        where = {"PKG_CONFIG_PATH": str(directory)}
        assert run(["pkg-config", "--modversion", name], **where).strip() == package_version()
        printed = run(["pkg-config", "--cflags", "--libs", name], **where)
        return [part.replace("\\", "") for part in re.findall(r"(?:\\.|\S)+", printed)]
    return [filled(part) for key in ("Cflags", "Libs") for part in fields[key].split()]


PART = """
#include <lowheap.h>
lh_status PART(const char **collector);
lh_status PART(const char **collector) {
    lh_config config = LH_CONFIG;
    lh_heap *heap;
    lh_status status = lh_heap_create(&config, &heap);
    if (status != LH_OK) return status;
    lh_heap_collector(heap, collector);
    return lh_heap_destroy(heap);
}
"""

WHOLE = """
#include <stdio.h>
int first(const char **), second(const char **);
int main(void) {
    const char *one = "none", *other = "none";
    int status = first(&one);
    printf("%d %s, ", status, one);
    status = second(&other);
    printf("%d %s\\n", status, other);
    return 0;
}
"""


def test_libraries_of_two_names_are_in_one_directory_and_in_one_process(tmp_path: Path) -> None:
    """A program has two libraries of its own, which were linked with one each; neither gets the other's functions."""
    prefix = tmp_path / "prefix"
    shutil.copytree(built_library(), prefix, symlinks=True)
    before = {path: path.read_bytes() for path in prefix.rglob("*") if path.is_file()}
    built = library.build(prefix, collector="rc-immix", name="lowheap-rc", opt_level=0)
    assert built.missing is None
    assert {path: path.read_bytes() for path in before} == before
    assert {path for path in prefix.rglob("*") if path.is_file()} == {*before, *built.files}
    (tmp_path / "part.c").write_text(PART)
    (tmp_path / "whole.c").write_text(WHOLE)
    for checked in CHECKED:
        where = tmp_path / KINDS[checked]
        where.mkdir()
        names = [name + library.VARIANTS[checked] for name in ("lowheap", "lowheap-rc")]
        for part, name in zip(("first", "second"), names, strict=True):
            flags = pkg_config(prefix / "lib" / "pkgconfig", name)
            run(
                ["cc", "-shared", "-fPIC", f"-DPART={part}", tmp_path / "part.c", *flags, "-o", where / f"lib{part}.so"]
            )
        for order in (("first", "second"), ("second", "first")):
            linked = [f"-l{part}" for part in order]
            search = f"{where}:{prefix / 'lib'}"
            command = ["cc", tmp_path / "whole.c", f"-L{where}", *linked, f"-Wl,-rpath-link,{search}"]
            run([*command, "-o", where / "program"])
            assert run([where / "program"], LD_LIBRARY_PATH=search) == "0 drc, 0 rc-immix\n"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("", "cannot be called '': a name is a letter, then"),
        ("../lowheap", r"cannot be called '\.\./lowheap'"),
        ("low heap", "cannot be called 'low heap'"),
        ("höhe", "cannot be called 'höhe'"),
        ("mine-checked", "names with '-checked' are those of checked ones"),
    ],
)
def test_what_no_library_can_be_called(
    name: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=complaint):
        library.build(tmp_path / "out", name=name)
    assert cli.execute(["build-library", "--out", str(tmp_path / "out"), "--name", name]) == 2
    assert "Invalid value for --name" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_command_says_how_a_library_of_another_name_is_called(
    ready_objects: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.execute(["build-library", "--out", str(tmp_path), "--name", "mine"]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path}: mine for " in out.replace("\n", "")
    for file in ("include/mine/lowheap.h", "lib/libmine.so.1", "lib/libmine-checked.a", "lib/pkgconfig/mine.pc"):
        assert file in out
        assert (tmp_path / file).exists()
    text = (tmp_path / "lib/pkgconfig/mine-checked.pc").read_text()
    assert "includedir=${prefix}/include/mine\n" in text
    assert "Libs: -L${libdir} -lmine-checked\n" in text
    with (tmp_path / "lib/libmine-checked.so").open("rb") as stream:
        tags = list(section(ELFFile(stream), ".dynamic").iter_tags("DT_SONAME"))
    assert [each.soname for each in tags] == [f"libmine-checked.so.{api.VERSION}"]


def test_a_header_of_another_layout_is_refused(tmp_path: Path) -> None:
    right = f"{api.abi_hash():#018x}"
    text = header()
    assert text.count(right) == 1
    (tmp_path / "include").mkdir()
    (tmp_path / "include" / "lowheap.h").write_text(text.replace(right, f"{api.abi_hash() ^ 1:#018x}"))
    for checked in CHECKED:
        program = compile_program(
            VERSION_PROGRAM, tmp_path / KINDS[checked], checked=checked, header=tmp_path / "include"
        )
        assert run([program]) == f"{package_version()} {int(checked)} 0 LH_ABI\n"


# ----------------------------------------------------------------------------------------------------------------------
# For other collectors

LIST_PROGRAM = """
#include "lowheap.h"
#include <stdio.h>
#include <stdlib.h>
static void check(lh_status status) {
    if (status != LH_OK) { puts(lh_status_name(status)); exit(0); }
}
int main(void) {
    const lh_field fields[] = {LH_I32_FIELD, LH_REF_FIELD(LH_SELF)};
    lh_config config = LH_CONFIG;
    lh_heap *heap;
    lh_type cell;
    lh_statistics statistics;
    uint32_t value, next, sum = 0;
    check(lh_heap_create(&config, &heap));
    check(lh_define_struct(heap, fields, 2, LH_NO_SUPERTYPE, LH_FINAL, &cell));
    check(lh_field_offset(heap, cell, 0, &value));
    check(lh_field_offset(heap, cell, 1, &next));
    {
        LH_FRAME(heap, list, 3);
        for (uint32_t i = 1; i <= 100000; i++) {
            check(lh_alloc_struct(heap, cell, &list[1]));
            *(uint32_t *)lh_address(heap, list[1], value) = i;
            lh_init_ref(heap, list[1], next, list[0]);
            list[0] = list[1];
        }
        for (list[1] = LH_NULL; list[0] != LH_NULL; list[0] = list[2]) {
            list[2] = lh_load_ref(heap, list[0], next);
            lh_store_ref(heap, list[0], next, list[1]);
            list[1] = list[0];
        }
        check(lh_verify(heap));
        list[0] = list[2] = LH_NULL;
        for (lh_ref each = list[1]; each != LH_NULL; each = lh_load_ref(heap, each, next)) {
            sum = sum * 31 + *(uint32_t *)lh_address(heap, each, value);
        }
        check(lh_collect(heap));
        check(lh_verify(heap));
        check(lh_heap_statistics(heap, &statistics));
        printf("%u, %u kept, ", sum, (uint32_t)(statistics.objects_allocated - statistics.objects_freed));
    }
    for (int i = 0; i < 3; i++) check(lh_collect(heap));
    check(lh_verify(heap));
    check(lh_heap_statistics(heap, &statistics));
    printf("%u left\\n", (uint32_t)(statistics.objects_allocated - statistics.objects_freed));
    return (int)lh_heap_destroy(heap);
}
"""
"""A list, made, turned round, and let go of, through what the header has in line."""

LENGTH = 100_000
EXAMPLES = Path(__file__).resolve().parent.parent / "examples" / "collectors"


@pytest.mark.parametrize(
    ("collector", "left"),
    [
        ("drc", 0),
        ("null", LENGTH),
        ("rc-immix", 0),
        (f"{EXAMPLES / 'counted_reads.py'}:CountedReads", 0),
        (f"{EXAMPLES / 'levanoni_petrank.py'}:LevanoniPetrank", 0),
    ],
    ids=lambda each: str(each).rpartition(":")[2],
)
def test_a_library_for_a_collector_goes_with_its_own_header(collector: str, left: int, tmp_path: Path) -> None:
    """Whatever is in line, and whether the collector must be told owners or not."""
    prefix = built_library()
    if collector != "drc":
        prefix = library.build(tmp_path / "prefix", collector=collector, opt_level=1).prefix
    weight = 0
    for number in range(1, LENGTH + 1):
        weight = (weight * 31 + number) % 2**32
    for checked in CHECKED:
        program = compile_program(LIST_PROGRAM, tmp_path / KINDS[checked], checked=checked, prefix=prefix)
        assert run([program]) == f"{weight}, {LENGTH} kept, {left} left\n"
        if collector != "drc":
            program = compile_program(
                LIST_PROGRAM,
                tmp_path / "mixed" / KINDS[checked],
                checked=checked,
                prefix=prefix,
                header=built_library() / "include",
            )
            assert run([program]) == "LH_ABI\n"


def test_what_a_class_has_in_line_is_not_its_subclasses() -> None:
    """They may have other events."""
    by_name = {name: registry.find(name) for name in ("drc", "outlined", "null", "rc-immix")}
    counted = registry.find(f"{EXAMPLES / 'counted_reads.py'}:CountedReads")
    assert by_name["drc"].c_references == by_name["outlined"].c_references != ""
    assert by_name["null"].c_references == counted.c_references == ""
    assert by_name["drc"].c_references in header("drc")
    assert len({header(each) for each in (*by_name.values(), counted)}) == 5
    hashes = {api.abi_hash(registry.name_of(each)) for each in (*by_name.values(), counted)}
    assert len(hashes) == 5


def test_what_c_has_in_line_of_rc_immix_knows_its_header_bit() -> None:
    (old,) = RcImmix().area().bits.values()
    assert f"header->kind_and_reserved & {old:#x}u" in RcImmix.c_references


def test_the_command_builds_for_a_collector(
    ready_objects: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.execute(["build-library", "--out", str(tmp_path), "--collector", "null"]) == 0
    assert "Description: A heap with the collector null;" in (tmp_path / "lib/pkgconfig/lowheap.pc").read_text()
    written = (tmp_path / "include" / "lowheap.h").read_text()
    capsys.readouterr()
    assert cli.execute(["header", "--collector", "null"]) == 0
    assert capsys.readouterr().out == written == header("null")
    for command in (["header"], ["build-library", "--out", str(tmp_path)]):
        assert cli.execute([*command, "--collector", "nothing"]) == 2
        assert "there is no collector 'nothing'; there are drc, " in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------------------
# Where it cannot be made


def test_without_a_linker_all_the_rest_is_made(
    no_linker: pytest.MonkeyPatch, ready_objects: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stale = tmp_path / "lib" / "liblowheap.so"
    stale.parent.mkdir()
    stale.symlink_to("liblowheap.so.1")
    assert cli.execute(["build-library", "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "liblowheap.so.1 and liblowheap-checked.so.1 are missing" in err
    assert "no cc, gcc or clang is on the PATH, CC is not set" in err
    assert "ziglang is not installed. Install a C compiler or `lowheap[embed]`" in err
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if not path.is_dir())
    assert found == [
        "include/lowheap.h",
        "lib/liblowheap-checked.a",
        "lib/liblowheap.a",
        "lib/lowheap-checked.o",
        "lib/lowheap.o",
        "lib/pkgconfig/lowheap-checked.pc",
        "lib/pkgconfig/lowheap.pc",
    ]
    assert not stale.is_symlink()
    for path in found:
        assert path in out


def test_links_with_ziglang_where_there_is_no_compiler(
    monkeypatch: pytest.MonkeyPatch, ready_objects: None, tmp_path: Path
) -> None:
    compiler = shutil.which("cc")
    (tmp_path / "ziglang").mkdir()
    (tmp_path / "ziglang" / "__init__.py").write_text("")
    (tmp_path / "ziglang" / "__main__.py").write_text(
        f"import subprocess, sys\n"
        f"command, option, target, *rest = sys.argv[1:]\n"
        f"assert (command, option, target.split('-')[1]) == ('cc', '-target', 'linux')\n"
        f"sys.exit(subprocess.call([{compiler!r}, *rest], env={{'PATH': {os.environ['PATH']!r}}}))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    built = library.build(tmp_path / "out")
    assert built.missing is None
    assert (built.lib / "liblowheap.so").resolve().read_bytes() == file("shared", checked=False).read_bytes()


def test_every_file_is_reported_once_and_there(ready_objects: None, tmp_path: Path) -> None:
    for _ in range(2):  # over an earlier build, too
        built = library.build(tmp_path)
        assert (built.prefix, built.missing) == (tmp_path, None)
        found = [path for path in tmp_path.rglob("*") if path.is_symlink() or not path.is_dir()]
        assert sorted(built.files) == sorted(found)
        assert (built.include / "lowheap.h").read_text() == header()
    for checked in CHECKED:
        assert (built.prefix / library.library_files(checked=checked)["shared"]).read_bytes() == file(
            "shared", checked=checked
        ).read_bytes()


def test_the_compiler_that_CC_names_is_the_one(
    monkeypatch: pytest.MonkeyPatch, ready_objects: None, tmp_path: Path
) -> None:
    script = tmp_path / "my-cc"
    script.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/log\nexec {shutil.which("cc")} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", f"{script} -O1")
    built = library.build(tmp_path / "out")
    assert built.missing is None
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["-O1", "-O1"]


@pytest.mark.parametrize(
    ("compiler", "complaint"),
    [
        ("no-such-cc", "CC names the C compiler 'no-such-cc', which is not there"),
        ("false", "cannot link liblowheap.so.1: false says: exit status 1"),
    ],
)
def test_a_compiler_that_fails_is_named(
    compiler: str, complaint: str, monkeypatch: pytest.MonkeyPatch, ready_objects: None, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(LowheapError, match=re.escape(complaint)):
        library.build(tmp_path)
    assert (tmp_path / "lib" / "liblowheap.a").exists()


def test_a_directory_that_cannot_be_is_named(ready_objects: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LowheapError, match=r"cannot write '.*file.*': Not a directory"):
        library.build(tmp_path / "file")


# ----------------------------------------------------------------------------------------------------------------------
# Other machines


def test_for_another_machine(no_linker: pytest.MonkeyPatch, tmp_path: Path) -> None:
    built = library.build(tmp_path, target=AARCH64, opt_level=0)
    assert built.target == AARCH64
    assert built.missing is not None
    assert (
        "for want of a linker for aarch64-unknown-linux-gnu: no aarch64-linux-gnu-gcc is on the PATH" in built.missing
    )
    for checked in CHECKED:
        with (tmp_path / library.library_files(checked=checked)["object"]).open("rb") as stream:
            elf = ELFFile(stream)
            assert (elf["e_machine"], elf["e_type"]) == ("EM_AARCH64", "ET_REL")
            symbols = [each for each in section(elf, ".symtab").iter_symbols() if each["st_shndx"] != "SHN_UNDEF"]
        defined = {each.name for each in symbols if each["st_info"]["bind"] != "STB_LOCAL"}
        assert defined == set(api.FUNCTIONS)
    assert (tmp_path / "include" / "lowheap.h").read_text() == header()


def test_a_matching_cross_compiler_is_found(no_linker: pytest.MonkeyPatch, tmp_path: Path) -> None:
    platform = library.parse_triple(AARCH64)
    assert library.find_linker(AARCH64, platform) is None
    no_linker.setenv("PATH", str(tmp_path))
    for name in ("aarch64-linux-gnu-gcc", f"{AARCH64}-gcc"):  # the triple as it was given comes first
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
        assert library.find_linker(AARCH64, platform) == [str(tmp_path / name)]
    (tmp_path / "cc").write_text("#!/bin/sh\n")
    (tmp_path / "cc").chmod(0o755)
    assert library.find_linker(AARCH64, platform) == [str(tmp_path / f"{AARCH64}-gcc")]


def test_ziglang_links_for_every_system_that_there_is_a_library_for(
    no_linker: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    no_linker.setattr(importlib.util, "find_spec", lambda name: object())
    for triple, zig in {
        AARCH64: "aarch64-linux-gnu",
        "riscv64-linux-musl": "riscv64-linux-musl",
        "x86_64-pc-linux-musl": "x86_64-linux-musl",
    }.items():
        found = library.find_linker(triple, library.parse_triple(triple))
        assert found == [sys.executable, "-m", "ziglang", "cc", "-target", zig]


def test_for_a_mac_there_are_objects_and_a_header(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    systems: list[str] = []

    def compile_object(target: engine.Target, system: str, **rest: Any) -> bytes:
        systems.append(system)
        machine = engine.target_machine(0, target)
        image: bytes = machine.emit_object(engine.parse(f'target triple = "{target.triple}"'))
        return image

    monkeypatch.setattr(library, "compile_object", compile_object)
    assert cli.execute(["build-library", "--out", str(tmp_path), "--target", "arm64-apple-macosx11.0"]) == 0
    assert "only objects and header are made for darwin" in capsys.readouterr().err
    assert systems == ["darwin", "darwin"]
    found = sorted(path.name for path in tmp_path.rglob("*") if not path.is_dir())
    assert found == ["lowheap-checked.o", "lowheap.h", "lowheap.o"]
    assert (tmp_path / "lib" / "lowheap.o").read_bytes()[:4] == bytes.fromhex("cffaedfe"), "Mach-O, 64 bits"


@pytest.mark.parametrize(
    ("triple", "platform"),
    [
        ("x86_64-unknown-linux-gnu", ("x86_64", "linux", "gnu")),
        ("x86_64-linux-musl", ("x86_64", "linux", "musl")),
        ("aarch64-linux", ("aarch64", "linux", "gnu")),
        ("riscv64-unknown-linux-gnu", ("riscv64", "linux", "gnu")),
        ("arm64-apple-darwin23.1.0", ("aarch64", "darwin", "")),
        ("x86_64-apple-macosx", ("x86_64", "darwin", "")),
    ],
)
def test_triples_are_understood(triple: str, platform: tuple[str, str, str]) -> None:
    assert library.parse_triple(triple) == library.Platform(*platform)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--target", "vax-dec-ultrix"], "LLVM does not know the target 'vax-dec-ultrix'"),
        (["--target", "i686-linux-gnu"], "there is no library for the target 'i686-linux-gnu'"),
        (["--target", "x86_64-pc-windows-msvc"], "there is no library for the target 'x86_64-pc-windows-msvc'"),
        (["--target", "x86_64-linux-gnux32"], "there is no library for the target 'x86_64-linux-gnux32'"),
        (["--target", "powerpc64-linux-gnu"], "there is no library for the target 'powerpc64-linux-gnu'"),
        (["--target", "riscv64-apple-darwin"], "there is no library for the target 'riscv64-apple-darwin'"),
        (["--target", AARCH64, "--cpu", "cortex-a5000"], f"LLVM knows no CPU 'cortex-a5000' for {AARCH64}; there are"),
        (["--target", AARCH64, "--features", "+soup"], f"LLVM knows no feature 'soup' for {AARCH64}; there are"),
        (["--features", "avx2"], "'avx2' is no CPU feature: each begins with + or -"),
        (
            ["--target", "x86_64-linux-gnu", "--cpu", "i386"],
            "LLVM does not compile x86_64-linux-gnu for the CPU 'i386'",
        ),
        (["--opt-level", "4"], "4 is not in the range 0<=x<=3"),
    ],
)
def test_what_there_is_no_library_for_is_a_wrong_command_line(
    arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.execute(["build-library", "--out", str(tmp_path / "out"), *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert complaint in err
    assert not (tmp_path / "out").exists()


def test_this_machines_own_cpu() -> None:
    target, _ = library.resolve_target(None, library.NATIVE_CPU, "")
    generic, _ = library.resolve_target(None, None, "")
    assert (generic.cpu, generic.features) == ("", "")
    assert target.cpu == binding.get_host_cpu_name()
    assert target.features
    with pytest.raises(UnsupportedError, match=r"the CPU 'native' is that of this machine, .*, and not of 'riscv64-"):
        library.resolve_target("riscv64-linux-gnu", library.NATIVE_CPU, "")


def test_a_chosen_cpu_with_a_feature() -> None:
    target, platform = library.resolve_target(AARCH64, "cortex-a76", "+sve")
    assert target == engine.Target(AARCH64, "cortex-a76", "+sve", "")
    assert platform.is_elf
    riscv, _ = library.resolve_target("riscv64-linux-gnu", None, "+v")
    assert (riscv.features, riscv.abi) == ("+m,+a,+f,+d,+c,+v", "lp64d")


def test_a_level_of_optimisation_that_is_none() -> None:
    with pytest.raises(ValueError, match="there is no optimisation level 7; there are 0 to 3"):
        library.build("never", opt_level=7)


def test_the_command_builds_what_it_says(
    ready_objects: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.execute(["build-library", "--out", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line]
    expected = {"include/lowheap.h": [f"{len(header()):,}", "header"]}
    for checked in CHECKED:
        extra = ", checked" if checked else ""
        for part, name in library.library_files(checked=checked).items():
            summary = {
                "object": "object", "archive": "static library", "shared": "shared library", "pc": "for pkg-config"
            }.get(part)  # fmt: skip
            path = tmp_path / name
            expected[name] = [f"{path.stat().st_size:,}", f"{summary}{extra}"]
            if part == "link":
                expected[name] = ["", f"link to {path.resolve().name}"]
    assert {name: rest for name, *rest in lines} == expected


def test_a_program_without_a_prefix_is_a_wrong_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.execute(["build-library"]) == 2
    assert "Missing option '--out'" in capsys.readouterr().err


def test_the_object_is_the_same_each_time() -> None:
    """Nothing of the process that compiles, an address or a hash seed, is in it."""
    source = (
        "import sys\n"
        "from lowheap.embed import library\n"
        "target, platform = library.resolve_target(None, None, '')\n"
        "sys.stdout.buffer.write(library.compile_object(target, platform.system, checked=False))\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ran = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, check=True)
    assert ran.stdout == file("object", checked=False).read_bytes()
