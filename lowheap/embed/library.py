"""The C library, built ahead of time: header, objects, archives, shared libraries, and what pkg-config wants to know.

`build` fills a prefix, so that `-Iinclude -Llib -llowheap` or the pkg-config files in it are all that a C program
needs; `lowheap-checked` is the same library with every check. LLVM makes the objects, for this machine or another, and
the archives around them are written here, so only the shared libraries need a linker: the C compiler that `CC` names,
the system's own, or the one of the `ziglang` package. Where there is none, all the rest is made, and the result says
what is missing.
"""

from __future__ import annotations

import difflib
import functools
import importlib.util
import io
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection
from llvmlite import binding

from lowheap.collectors import registry
from lowheap.collectors.interface import Collector
from lowheap.config import OPT_LEVELS
from lowheap.embed import api
from lowheap.embed.header import HEADER_NAME, header, package_version
from lowheap.errors import CompilerError, LowheapError, UnsupportedError
from lowheap.jit import engine
from lowheap.representation import short_repr

NATIVE_CPU = "native"
"""As a CPU: the one of this machine, with all that it can do."""

NAME = "lowheap"
"""What the library is called, where nobody says otherwise."""

VARIANTS = {False: "", True: "-checked"}
"""What stands behind a library's name, by whether it is checked."""

# What the generic CPU of an architecture is to have, and its calling convention, where LLVM's own idea of both is not
# what its systems' C libraries are built for.
_ARCHITECTURES = {"x86_64": ("", ""), "aarch64": ("", ""), "riscv64": ("+m,+a,+f,+d,+c", "lp64d")}
_ALIASES = {"amd64": "x86_64", "arm64": "aarch64"}
_SYSTEMS = {"linux": ("gnu", "musl"), "darwin": ("",)}
_SUPPORTED = "x86_64, aarch64 and riscv64 with linux (gnu or musl), x86_64 and aarch64 with darwin"


# ----------------------------------------------------------------------------------------------------------------------
# Targets


@dataclass(frozen=True, slots=True)
class Platform:
    """What a triple names: architecture and system in lowheap's words, and `environment`, which C library it has."""

    architecture: str
    system: str
    environment: str

    @property
    def is_elf(self) -> bool:
        """Whether its objects and libraries are ELF files, the only ones that are archived and linked here."""
        return self.system == "linux"


def parse_triple(triple: str) -> Platform:
    """Return what an LLVM triple names: `aarch64-unknown-linux-gnu`, with the second part or without.

    UnsupportedError when LLVM does not know it, or the library cannot be made for it.
    """
    try:
        engine.target_machine(0, engine.Target(triple))
    except CompilerError as error:
        raise UnsupportedError(f"{error}; the library is for {_SUPPORTED}") from error
    architecture, *rest = triple.lower().split("-")
    architecture = _ALIASES.get(architecture, architecture)
    system, environment = "", ""
    for number, part in enumerate(rest):
        if found := re.match("linux|darwin|macos", part):
            system = "linux" if found[0] == "linux" else "darwin"
            environment = "-".join(rest[number + 1 :])
            break
    if system == "linux":
        environment = environment or "gnu"
    if (
        architecture not in _ARCHITECTURES
        or environment not in _SYSTEMS.get(system, ())
        or (architecture, system) == ("riscv64", "darwin")
    ):
        raise UnsupportedError(f"there is no library for the target {triple!r}; it is for {_SUPPORTED}")
    return Platform(architecture, system, environment)


def resolve_target(triple: str | None, cpu: str | None, features: str) -> tuple[engine.Target, Platform]:
    """Return what to compile for. UnsupportedError when there is no such target, CPU or feature."""
    host = str(binding.get_process_triple())
    platform = parse_triple(triple or host)
    default_features, abi = _ARCHITECTURES[platform.architecture]
    is_chosen = bool(features) or cpu not in (None, NATIVE_CPU)
    if cpu == NATIVE_CPU:
        if platform != parse_triple(host):
            raise UnsupportedError(f"the CPU {NATIVE_CPU!r} is that of this machine, {host}, and not of {triple!r}")
        cpu = str(binding.get_host_cpu_name())
        default_features = str(binding.get_host_cpu_features().flatten())
    elif cpu:
        _check_names("CPU", [cpu], triple or host)
    if features:
        names = features.split(",")
        for name in names:
            if name[:1] not in ("+", "-"):
                raise UnsupportedError(f"{name!r} is no CPU feature: each begins with + or -, as in '+avx2,-fma'")
        _check_names("feature", [name[1:] for name in names], triple or host)
    joined = ",".join(filter(None, (default_features, features)))
    resolved = engine.Target(triple or host, cpu or "", joined, abi)
    if is_chosen:
        _check_together(resolved)
    return resolved, platform


def _check_names(kind: str, names: Sequence[str], triple: str) -> None:
    known = _known_names(triple)[kind == "feature"]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known) or known
            raise UnsupportedError(f"LLVM knows no {kind} {name!r} for {triple}; there are {', '.join(sorted(near))}")


# LLVM prints the names that it knows, and ends the process over a CPU that an architecture is too much for: an i386
# as an x86_64. So it is another process that asks.
_ASK_LLVM = """
import sys
from llvmlite import binding
binding.initialize_all_targets()
binding.initialize_all_asmprinters()
triple, cpu, features, abi = sys.argv[1:]
machine = binding.Target.from_triple(triple).create_target_machine(
    cpu=cpu, features=features, reloc="pic", codemodel="default", abiname=abi
)
if cpu != "help":
    half = "define double @half(double %x) { %y = fdiv double %x, 2.0 ret double %y }"
    machine.emit_object(binding.parse_assembly(f'target triple = "{triple}" {half}'))
"""


def _ask_llvm(target: engine.Target) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _ASK_LLVM, target.triple, target.cpu, target.features, target.abi],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def _check_together(target: engine.Target) -> None:
    """Raise UnsupportedError when LLVM cannot compile for a CPU with these features, each of which it knows."""
    ran = _ask_llvm(target)
    if ran.returncode or ran.stderr:
        what = f"the CPU {target.cpu or 'generic'!r} with the features {target.features!r}"
        raise UnsupportedError(f"LLVM does not compile {target.triple} for {what}: {ran.stderr.strip()}")


@functools.cache
def _known_names(triple: str) -> tuple[frozenset[str], frozenset[str]]:
    """The CPUs and the features that LLVM knows for a triple."""
    ran = _ask_llvm(engine.Target(triple, cpu="help"))
    cpus, separator, features = (ran.stdout + ran.stderr).partition("Available features for this target:")
    if ran.returncode or not separator:
        raise CompilerError(f"LLVM does not list the CPUs of {triple}: {ran.stderr.strip()}")
    name = re.compile(r"^  (\S+) +- ", re.MULTILINE)
    return frozenset(name.findall(cpus)), frozenset(name.findall(features))


# ----------------------------------------------------------------------------------------------------------------------
# Objects and archives


def compile_object(
    target: engine.Target,
    system: str,
    *,
    checked: bool,
    opt_level: int = 3,
    collectors: Sequence[Collector | str] = api.DEFAULT_COLLECTORS,
) -> bytes:
    """Return the library as one object file, whose global symbols are the functions of `api.FUNCTIONS`."""
    from lowheap.embed import native  # the largest part of it all, and no use to those who only want the header

    machine = parse_triple(target.triple).architecture
    modules = native.emit(registry.find_all(collectors), checked=checked, system=system, machine=machine)
    whole, target_machine = engine.optimise(modules[0], opt_level=opt_level, target=target)
    for module in modules[1:]:
        part, _ = engine.optimise(module, opt_level=opt_level, target=target)
        whole.link_in(part)
    for function in whole.functions:
        if not function.is_declaration and function.name not in api.FUNCTIONS:
            function.linkage = "internal"
    if '"deopt"(' in str(whole):
        raise CompilerError("a function of the C library has a safepoint, and nobody would read its stack map")
    image: bytes = target_machine.emit_object(whole)
    return image


def _global_symbols(image: bytes) -> list[str]:
    """The names that an ELF object defines for others."""
    table = ELFFile(io.BytesIO(image)).get_section_by_name(".symtab")
    assert isinstance(table, SymbolTableSection), "LLVM's objects have a symbol table"
    return [
        symbol.name
        for symbol in table.iter_symbols()
        if symbol["st_info"]["bind"] != "STB_LOCAL" and symbol["st_shndx"] != "SHN_UNDEF"
    ]


def archive(member: str, image: bytes) -> bytes:
    """Return an archive of one object, as `ar` writes it on ELF systems: the index of its symbols, and the object.

    `member` is the object's name in it, of at most 15 characters.
    """
    symbols = _global_symbols(image)
    names = b"".join(symbol.encode() + b"\0" for symbol in symbols)
    names += b"\0" * (len(names) % 2)
    member_offset = 8 + 60 + 4 + 4 * len(symbols) + len(names)
    index = struct.pack(f">{1 + len(symbols)}I", len(symbols), *[member_offset] * len(symbols)) + names
    return b"!<arch>\n" + _archive_member("/", 0, index) + _archive_member(f"{member}/", 0o644, image)


def _archive_member(name: str, mode: int, content: bytes) -> bytes:
    """A member behind its header; time and owner are 0, so that the same library is the same bytes."""
    assert len(name) <= 16, "longer names stand elsewhere"
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{mode:<8o}{len(content):<10}`\n"
    return head.encode() + content + b"\n" * (len(content) % 2)


# ----------------------------------------------------------------------------------------------------------------------
# Linking


def find_linker(triple: str, platform: Platform) -> list[str] | None:
    """Return the command of a C compiler that links for a target, or None when there is none.

    LowheapError when `CC` names one that is not there.
    """
    if chosen := shlex.split(os.environ.get("CC", "")):
        if shutil.which(chosen[0]) is None:
            raise LowheapError(f"CC names the C compiler {chosen[0]!r}, which is not there")
        return chosen
    if platform == parse_triple(str(binding.get_process_triple())):
        names = ["cc", "gcc", "clang"]
    else:  # with the vendor, as it was given, and without, as Debian has it
        names = [f"{triple}-gcc", f"{platform.architecture}-{platform.system}-{platform.environment}-gcc"]
    for name in names:
        if found := shutil.which(name):
            return [found]
    if importlib.util.find_spec("ziglang") is not None:
        zig_target = f"{platform.architecture}-{platform.system}-{platform.environment}"
        return [sys.executable, "-m", "ziglang", "cc", "-target", zig_target]
    return None


def symbol_version(name: str = NAME) -> str:
    """Return the version under which a shared library exports its functions, the checked one of a name, too.

    Libraries of two names may be in one process, for two others that were linked with one each: a call goes to the
    library that has the version that was linked with.
    """
    return f"{re.sub('[^A-Za-z0-9]', '_', name).upper()}_{api.VERSION}"


def check_name(name: str) -> None:
    """ValueError for what no library can be called."""
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_.+-]*", name, re.ASCII):
        raise ValueError(f"a library cannot be called {name!r}: a name is a letter, then letters, digits and _ . + -")
    if name.endswith(VARIANTS[True]):
        raise ValueError(
            f"a library cannot be called {name!r}: names with {VARIANTS[True]!r} are those of checked ones"
        )


def _link(linker: Sequence[str], image: bytes, soname: str, version: str, directory: Path) -> bytes:
    """Return a shared library of one object, that depends on the C library only, and has no code of the compiler's.

    `version` is that of the symbols that it exports.
    """
    with tempfile.TemporaryDirectory(prefix=".lowheap-", dir=directory) as name:
        work = Path(name)
        (work / "library.o").write_bytes(image)
        (work / "version.map").write_text(f"{version} {{ global: lh_*; local: *; }};\n")
        command = [
            *linker,
            "-shared",
            "-nostartfiles",  # they would bring along writable data
            f"-Wl,-soname,{soname}",
            f"-Wl,--version-script={work / 'version.map'}",
            "-Wl,-z,defs",
            "-Wl,-z,relro",
            "-Wl,-z,now",
            "-o",
            os.fspath(work / soname),
            os.fspath(work / "library.o"),
        ]
        try:
            ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
        except OSError as error:
            raise LowheapError(f"cannot run the C compiler {linker[0]!r}: {error.strerror or error}") from error
        if ran.returncode or not (work / soname).exists():
            said = (ran.stderr or ran.stdout).strip() or f"exit status {ran.returncode}"
            raise LowheapError(f"cannot link {soname}: {shlex.join(linker)} says: {said}")
        return (work / soname).read_bytes()


# ----------------------------------------------------------------------------------------------------------------------
# Building


@short_repr
@dataclass(frozen=True, slots=True)
class BuiltLibrary:
    """What `build` wrote into a prefix: `files`, in the order of writing, for the target triple `target`.

    `missing` says what could not be made, and what it takes; None when everything is there.
    """

    prefix: Path
    target: str
    files: tuple[Path, ...]
    missing: str | None

    @property
    def include(self) -> Path:
        """The directory with the header."""
        return self.prefix / "include"

    @property
    def lib(self) -> Path:
        """The directory with the libraries."""
        return self.prefix / "lib"


def header_file(name: str = NAME) -> str:
    """Return where the header of the libraries of a name is, below the prefix; each is for its own collectors."""
    return f"include/{HEADER_NAME}" if name == NAME else f"include/{name}/{HEADER_NAME}"


def library_files(*, checked: bool, name: str = NAME) -> dict[str, str]:
    """Return the files of one of the libraries, below the prefix: its `object`, `archive`, `shared`, `link`, `pc`.

    `link` is the symbolic link that `-l` finds; it leads to `shared`, which has the interface's version in its name.
    """
    name += VARIANTS[checked]
    return {
        "object": f"lib/{name}.o",
        "archive": f"lib/lib{name}.a",
        "shared": f"lib/lib{name}.so.{api.VERSION}",
        "link": f"lib/lib{name}.so",
        "pc": f"lib/pkgconfig/{name}.pc",
    }


def build(
    directory: str | os.PathLike[str],
    *,
    target: str | None = None,
    cpu: str | None = None,
    features: str = "",
    opt_level: int = 3,
    collector: Collector | str | Sequence[Collector | str] = api.DEFAULT_COLLECTORS,
    name: str = NAME,
) -> BuiltLibrary:
    """Build the library, fast and checked, into a prefix, which is made if need be.

    `collector` is that of the heaps that it makes, in an engine's words, or several, which a program chooses from when
    it makes a heap; the first is the default. The header is for these collectors, too.
    `target` is an LLVM triple, by default this machine's; `cpu` a CPU's name in LLVM's words, "native" for this
    machine's, by default the one that all of the target can stand in for; `features` what to add to it or to take away,
    as "+avx2,-fma". `name` is what the library is called, and the checked one before "-checked": libraries of several
    names can be in one prefix, and in one process. What an earlier build of the name left, and this one cannot make
    anew, is removed.

    UnsupportedError when there is no such target, CPU or feature, or no library for it; CompilerError when there is no
    such collector, or one is named twice; ValueError for a name or a level that cannot be; LowheapError when a file
    cannot be written, or a linker fails, by which time objects, archives and header are there.
    """
    if opt_level not in OPT_LEVELS:
        raise ValueError(f"there is no optimisation level {opt_level!r}; there are 0 to {OPT_LEVELS[-1]}")
    check_name(name)
    chosen = registry.find_all([collector] if isinstance(collector, Collector | str) else collector)
    resolved, platform = resolve_target(target, cpu, features)
    prefix = Path(directory)
    written: list[Path] = []
    images = {
        checked: compile_object(resolved, platform.system, checked=checked, opt_level=opt_level, collectors=chosen)
        for checked in VARIANTS
    }
    try:
        written.append(_write(prefix / header_file(name), header(*chosen).encode()))
        for checked, image in images.items():
            files = library_files(checked=checked, name=name)
            written.append(_write(prefix / files["object"], image))
            for part in ("shared", "link") if platform.is_elf else ("shared", "link", "archive", "pc"):
                (prefix / files[part]).unlink(missing_ok=True)
            if platform.is_elf:
                written.append(_write(prefix / files["archive"], archive("lowheap.o", image)))
                written.append(_write(prefix / files["pc"], _pkg_config(chosen, name, checked=checked).encode()))
        if not platform.is_elf:
            missing = (
                f"only objects and header are made for {platform.system}: a program has the library when"
                f" {name}.o is linked into it"
            )
            return BuiltLibrary(prefix, resolved.triple, tuple(written), missing)
        linker = find_linker(resolved.triple, platform)
        if linker is None:
            missing = _missing_linker(resolved.triple, platform, name)
            return BuiltLibrary(prefix, resolved.triple, tuple(written), missing)
        for checked, image in images.items():
            files = library_files(checked=checked, name=name)
            shared, link = prefix / files["shared"], prefix / files["link"]
            written.append(
                _write(shared, _link(linker, image, shared.name, symbol_version(name), shared.parent), mode=0o755)
            )
            link.symlink_to(shared.name)
            written.append(link)
    except OSError as error:
        place = error.filename or prefix
        raise LowheapError(f"cannot write {os.fspath(place)!r}: {error.strerror or error}") from error
    return BuiltLibrary(prefix, resolved.triple, tuple(written), None)


def _missing_linker(triple: str, platform: Platform, name: str) -> str:
    """What to say when there is nothing to link with."""
    shared = " and ".join(Path(library_files(checked=checked, name=name)["shared"]).name for checked in VARIANTS)
    compilers = "cc, gcc or clang"
    if platform != parse_triple(str(binding.get_process_triple())):
        compilers = f"{platform.architecture}-{platform.system}-{platform.environment}-gcc"
    return (
        f"{shared} are missing, for want of a linker for {triple}: no {compilers} is on the PATH, CC is not set, and"
        " the Python package ziglang is not installed. Install a C compiler or `lowheap[embed]`, and build again."
        " The static libraries are complete."
    )


def _pkg_config(collectors: Sequence[Collector], name: str, *, checked: bool) -> str:
    """The .pc file of a library; it finds the prefix from where it is, so that may be moved."""
    include = Path("${prefix}", header_file(name)).parent.as_posix()
    name += VARIANTS[checked]
    what = "every misuse is an error" if checked else "the fast library"
    names = " or ".join(registry.name_of(each) for each in collectors)
    kind = "deferred reference counting" if names == "drc" else f"the collector {names}"
    return f"""\
prefix=${{pcfiledir}}/../..
includedir={include}
libdir=${{prefix}}/lib

Name: {name}
Description: A heap with {kind}; {what}
Version: {package_version()}
Cflags: -I${{includedir}}
Libs: -L${{libdir}} -l{name}
"""


def _write(path: Path, content: bytes, *, mode: int = 0o644) -> Path:
    """Write a file, and put it in place when it is complete: whoever has the old one open keeps it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.chmod(mode)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
