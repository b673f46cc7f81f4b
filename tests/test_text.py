"""`jit/text.py`: what is printed for LLVM says what llvmlite says, with numbers in place of names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from llvmlite import binding, ir

import lowheap as lh
from lowheap.collectors import registry
from lowheap.jit import engine, runtime, safepoints
from lowheap.jit.emit import I1, I32, I64, PTR, VOID, Emitter, NativeFunction, begin_handler
from lowheap.jit.stackmaps import host_architecture
from lowheap.jit.text import print_module
from lowheap.wasm import module as wasm_module

pytestmark = pytest.mark.compiler

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("*.wat"))


def canonical(text: str) -> str:
    """A module's text as LLVM prints it, with its values named in order, whatever they were named before.

    LLVM keeps no difference between two modules beyond the names; hence each function's, by first appearance.
    """
    lines = str(engine.parse(text)).replace('"', "").splitlines()
    return "\n".join(renamed(function) for function in re.split(r"^(?=define )", "\n".join(lines), flags=re.MULTILINE))


def renamed(function: str) -> str:
    """One function of that. The label of the first block, which LLVM leaves out where it has no name, is left out."""
    text = re.sub(r"^(source_filename|; ModuleID) .*\n", "", function, flags=re.MULTILINE)
    text = re.sub(r"\s*; (preds = .*|No predecessors!)", "", text)
    text = re.sub(r"^(define .*\n)[-\w$.]+:\n", r"\1", text)
    text = re.sub(r"^([-\w$.]+):", r"%\1:", text, flags=re.MULTILINE)
    names: dict[str, str] = {}
    return re.sub(r"%([-\w$.]+)", lambda found: names.setdefault(found[0], f"%v{len(names)}"), text)


def emitted(monkeypatch: pytest.MonkeyPatch, source: str) -> ir.Module:
    """The module that is emitted for a program."""
    found: list[ir.Module] = []

    def compile(module: ir.Module, *args: object, **options: object) -> None:
        found.append(module)
        raise lh.CompilerError("that is enough")

    with monkeypatch.context() as patch:
        patch.setattr(wasm_module, "compile_ir", compile)
        with pytest.raises(lh.CompilerError, match="enough"):
            lh.Module(lh.Engine(), source)
    return found[0]


def with_target(module: ir.Module) -> ir.Module:
    """The module, told what it is for."""
    machine = engine.target_machine()
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    return module


@pytest.mark.parametrize("most_listed", [safepoints.MOST_LISTED, 0], ids=["listed", "root frames made early"])
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_programs_are_printed_as_llvmlite_does_but_for_names(
    monkeypatch: pytest.MonkeyPatch, path: Path, most_listed: int
) -> None:
    monkeypatch.setattr(safepoints, "MOST_LISTED", most_listed)
    module = with_target(emitted(monkeypatch, path.read_text()))
    text = print_module(module)
    assert canonical(text) == canonical(str(module))
    if "linked_list" in path.name:  # one of those whose references are used behind safepoints
        assert ("load volatile i32" in text) == (most_listed == 0)
    assert not re.search(r'^ .*%"\.\d+" = ', text, re.MULTILINE)


def test_the_runtime_is_printed_as_llvmlite_does_but_for_names() -> None:
    module = with_target(ir.Module("runtime"))
    collector = registry.find("drc")
    rules = runtime.frame_rules(host_architecture())
    runtime.define_all(module, collector, runtime.emitter_for(collector), rules)
    assert canonical(print_module(module)) == canonical(str(module))


def small() -> tuple[ir.Module, Emitter]:
    module = with_target(ir.Module("small"))
    return module, Emitter(NativeFunction(module, ir.FunctionType(I32, [PTR, I32, I32]), "f"))


def test_what_was_given_a_name_keeps_it() -> None:
    module, emitter = small()
    total = emitter.builder.add(emitter.function.args[1], I32(1), name="total", flags=("nuw", "nsw"))
    emitter.builder.ret(emitter.builder.mul(total, total))
    text = print_module(module)
    assert '%"total" = add nuw nsw i32 %".2", 1\n' in text
    assert '%1 = mul i32 %"total", %"total"\n' in text


def test_flags_attributes_and_metadata_are_printed() -> None:
    module, emitter = small()
    builder = emitter.builder
    function = emitter.function
    doubled = builder.fadd(ir.DoubleType()(1.5), ir.DoubleType()(2.0), flags=("nnan", "ninf"))
    is_less = builder.fcmp_ordered("<", doubled, ir.DoubleType()(3.0), flags=("nsz",))
    chosen = builder.select(is_less, function.args[1], function.args[2])
    external = ir.Function(module, ir.FunctionType(I32, [I32], var_arg=True), "external")
    called = builder.call(external, [chosen, I64(7)], tail="notail", attrs=("noinline", "nounwind"), cconv="fastcc")
    with builder.if_then(builder.icmp_signed(">", called, I32(0)), likely=False):
        place = builder.alloca(ir.ArrayType(I32, 3))
        place.align = 16
        builder.store(called, builder.gep(place, [I64(0), I64(1)], inbounds=True))
    end, other = function.append_basic_block("end"), function.append_basic_block("other")
    builder.switch(called, end).add_case(I32(5), other)
    builder.position_at_end(other)
    builder.unreachable()
    builder.position_at_end(end)
    builder.ret(called)
    assert canonical(print_module(module)) == canonical(str(module))


def test_calls_with_handlers_are_printed() -> None:
    module, emitter = small()
    builder, (vmctx, first, _) = emitter.builder, emitter.function.args
    callee = ir.Function(module, ir.FunctionType(I32, [PTR]), "callee")
    pad = emitter.function.append_basic_block("pad")
    result = safepoints.invoke(builder, callee, [vmctx], pad, places=(5, 7))
    builder.ret(result)
    begin_handler(emitter.function, pad)
    builder.position_at_end(pad)
    builder.ret(first)
    safepoints.fill_safepoints(emitter.function, [first])
    text = print_module(module)
    assert canonical(text) == canonical(str(module))
    assert 'invoke i32 @"callee"(ptr %".1") [ "deopt"(i33 5, i33 7, i32 %".2") ] to label ' in text


def test_a_function_with_an_unknown_instruction_is_printed_by_llvmlite() -> None:
    module, emitter = small()
    pair = ir.Constant(ir.LiteralStructType([I32, I1]), [I32(1), I1(0)])
    emitter.builder.ret(emitter.builder.extract_value(pair, 0))
    other = Emitter(NativeFunction(module, ir.FunctionType(VOID, [PTR]), "g"))
    other.builder.load(other.vmctx, typ=I32)
    other.builder.ret_void()
    text = print_module(module)
    assert str(emitter.function) in text
    assert "0:\n  %1 = load i32, ptr" in text
    binding.parse_assembly(text).verify()


def test_arguments_with_attributes_are_left_to_llvmlite() -> None:
    module, emitter = small()
    external = ir.Function(module, ir.FunctionType(I32, [PTR]), "external")
    result = emitter.builder.call(external, [emitter.vmctx], arg_attrs={0: ("nonnull",)})
    emitter.builder.ret(result)
    assert "ptr nonnull " in print_module(module)
