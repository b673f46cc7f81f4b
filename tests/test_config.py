"""The options of an engine: their names, what they may be, and proposals that are switched off."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import wasmtime

import lowheap as lh
from lowheap import config as options
from lowheap.errors import TrapCode

USING = {
    "multi_value": "(module (func (result i32 i32) (i32.const 1) (i32.const 2)))",
    "function_references": "(module (type $f (func)) (func (param (ref null $f))))",
    "gc": "(module (type (struct)))",
    "bulk_memory": '(module (memory 1) (data "a") (func (data.drop 0)))',
    "simd": "(module (func (param v128)))",
    "relaxed_simd": "(module (func (param v128 v128) (drop (i8x16.relaxed_swizzle (local.get 0) (local.get 1)))))",
    "threads": "(module (memory 1 1 shared))",
    "tail_call": "(module (func $f (return_call $f)))",
    "multi_memory": "(module (memory 1) (memory 1))",
    "memory64": "(module (memory i64 1))",
    "exceptions": "(module (tag))",
    "wide_arithmetic": "(module (func (i64.mul_wide_s (i64.const 1) (i64.const 1)) (drop) (drop)))",
    "custom_page_sizes": "(module (memory 1 (pagesize 1)))",
}

PLAIN = "(module (func (param i32) (result i32) (local.get 0)))"


@pytest.mark.parametrize("proposal", options.PROPOSALS)
def test_a_proposal_that_is_off_is_refused(proposal: str) -> None:
    config = lh.Config()
    setattr(config, f"wasm_{proposal}", False)
    engine, binary = lh.Engine(config), lh.wat2wasm(USING[proposal])
    for use in (lh.Module, lh.Module.validate):
        with pytest.raises(lh.MalformedModuleError):
            use(engine, binary)
    lh.Module.validate(lh.Engine(), binary)
    lh.Module(engine, PLAIN)


def test_every_proposal_is_one_of_wasmtimes() -> None:
    assert set(USING) == set(options.PROPOSALS)
    for name in options.PROPOSALS:
        assert hasattr(wasmtime.Config, f"wasm_{name}")


def test_what_needs_a_proposal_goes_with_it() -> None:
    for proposal, gone in {
        "function_references": {"function_references", "gc"},
        "simd": {"simd", "relaxed_simd"},
        "gc": {"gc"},
    }.items():
        engine = lh.Engine(**{f"wasm_{proposal}": False})  # type: ignore[arg-type]
        assert engine.proposals_off == gone
        for each in gone:
            with pytest.raises(lh.MalformedModuleError):
                lh.Module(engine, USING[each])


def test_code_is_cached_and_serialised_with_what_is_off(tmp_path: Path) -> None:
    text = USING["gc"]
    module = lh.Module(lh.Engine(cache=tmp_path), text)
    engine = lh.Engine(cache=tmp_path, wasm_gc=False)
    with pytest.raises(lh.MalformedModuleError):
        lh.Module(engine, text)
    with pytest.raises(lh.ModuleError, match=r"what differs here: the proposals that are switched off$"):
        lh.Module.deserialize(engine, module.serialize())


def test_an_engine_has_what_its_config_says() -> None:
    config = lh.Config(collector="null", opt_level=1)
    config.consume_fuel = True
    config.epoch_interruption = True
    config.cranelift_nan_canonicalization = True
    config.max_wasm_stack = 1 << 16
    config.inline = "never"
    config.runtime = "python"
    config.cache = False
    config.wasm_threads = False
    engine = lh.Engine(config)
    config.opt_level = 3
    assert (engine.collector.name, engine.opt_level, engine.inline, engine.runtime) == ("null", 1, "never", "python")
    assert (engine.consume_fuel, engine.max_wasm_stack, engine.cache) == (True, 1 << 16, None)
    assert engine.canonical_nans
    assert engine.proposals_off == {"threads"}
    engine.increment_epoch()
    assert lh.Engine(config).opt_level == 3
    assert lh.Engine(opt_level=0).opt_level == 0


def test_type_checkers_see_the_options_that_there_are() -> None:
    """As attributes, and as arguments: mypy takes arguments' types from a `TypedDict` alone, so there are two lists."""
    arguments, attributes = get_type_hints(options.Options), get_type_hints(lh.Config)
    assert arguments == attributes
    assert list(arguments) == list(attributes)
    assert set(arguments) == set(options._NAMES)


def test_options_are_given_once() -> None:
    with pytest.raises(TypeError, match=r"^opt_level, inline cannot be given beside a config"):
        lh.Engine(lh.Config(), opt_level=1, inline="auto")
    with pytest.raises(TypeError, match=r"^config is 3; it must be a Config"):
        lh.Engine(3)  # type: ignore[arg-type]


def test_there_is_no_other_option() -> None:
    config = lh.Config()
    for name in (
        "profiler",
        "parallel_compilation",
        "wasm_stack_switching",
        "wasm_reference_types",
        "cranelift_flag_set",
    ):
        for use in (lambda name=name: setattr(config, name, True), lambda name=name: getattr(config, name)):  # type: ignore[misc]
            with pytest.raises(
                AttributeError, match=rf"^there is no option '{name}'; there are collector, .*consume_fuel"
            ):
                use()
        with pytest.raises(TypeError, match=f"^there is no option '{name}'; there are collector, "):
            lh.Engine(**{name: True})  # type: ignore[arg-type]


WRONG: list[tuple[str, Any, type[Exception], str]] = [
    ("consume_fuel", 1, TypeError, "consume_fuel is 1; it must be a bool"),
    ("wasm_gc", None, TypeError, "wasm_gc is None; it must be a bool"),
    ("cranelift_nan_canonicalization", 0, TypeError, "cranelift_nan_canonicalization is 0; it must be a bool"),
    ("epoch_interruption", "yes", TypeError, "epoch_interruption is 'yes'; it must be a bool"),
    ("max_wasm_stack", 1.5, TypeError, "max_wasm_stack is 1.5; it must be an int"),
    ("max_wasm_stack", 0, ValueError, "max_wasm_stack is 0; it must be positive"),
    ("max_wasm_stack", 1 << 63, ValueError, "it must be positive, and less than"),
    ("opt_level", 4, ValueError, "there is no optimisation level 4; there are 0 to 3"),
    (
        "cranelift_opt_level",
        "speed_and_size",
        ValueError,
        "cranelift_opt_level is 'speed_and_size'; it must be none or",
    ),
    ("runtime", "c", ValueError, "there is no runtime 'c'; there are native, python"),
    ("inline", [], ValueError, "there is no inline"),
    ("collector", 3, TypeError, "collector is 3; it must be a collector's name"),
    ("cache", 3, TypeError, "cache is 3; it must be a directory's path"),
]


@pytest.mark.parametrize(("name", "value", "kind", "message"), WRONG)
def test_a_wrong_value_is_refused_when_it_is_given(name: str, value: Any, kind: type[Exception], message: str) -> None:
    config = lh.Config()
    for use in (lambda: setattr(config, name, value), lambda: lh.Engine(**{name: value})):
        with pytest.raises(kind, match=message):
            use()
    assert repr(config) == "Config()"


def test_a_level_in_wasmtimes_words() -> None:
    config = lh.Config(cranelift_opt_level="none")
    assert (config.opt_level, config.cranelift_opt_level) == (0, "none")
    config.cranelift_opt_level = "speed"
    assert config.opt_level == 2
    config.opt_level = 3
    with pytest.raises(AttributeError, match="no name for the opt_level 3"):
        _ = config.cranelift_opt_level


def test_a_config_is_a_value_that_can_be_copied() -> None:
    config = lh.Config(consume_fuel=True, wasm_gc=False)
    assert repr(config) == "Config(consume_fuel=True, wasm_gc=False)"
    for again in (copy.copy(config), copy.deepcopy(config), pickle.loads(pickle.dumps(config))):
        again.opt_level = 0
        assert again.consume_fuel
        assert not again.wasm_gc
    assert config.opt_level == 2


def test_how_much_stack_code_may_use() -> None:
    text = """(module (func $f (export "f") (param i32)
      (if (local.get 0) (then (call $f (i32.sub (local.get 0) (i32.const 1)))))))"""

    def overflows(f: lh.Func, depth: int) -> bool:
        try:
            f(depth)
        except lh.Trap as trap:
            return trap.code is TrapCode.STACK_OVERFLOW
        return False

    depths = []
    for size in (1 << 14, 1 << 17):
        engine = lh.Engine(max_wasm_stack=size, opt_level=0)
        with lh.Store(engine) as store:
            f = lh.Instance(store, lh.Module(engine, text)).exports.f
            low, high = 0, 1 << 20
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (low, middle) if overflows(f, middle) else (middle, high)
            depths.append(low)
    assert 6 * depths[0] < depths[1] < 10 * depths[0]
