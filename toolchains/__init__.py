"""Programs in Kotlin and MoonBit, compiled to WebAssembly: `python -m toolchains`, `make programs`.

Their sources are in `examples/kotlin` and `examples/moonbit`; `examples.py` here lists them. What a compiler makes of
them has its standard library in it, so no binary is committed: `build.py` compiles what is wanted into a folder that
git ignores, once. `packages.py` has the compilers come, by npm; Kotlin's also takes Java. `node.py` finds node, which
runs the rest of them, and
`v8.py` runs programs there.

Tests and benchmarks use the programs by `build.ensure`.
"""
