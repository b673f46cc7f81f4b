"""lowheap: wasmtime's deferred reference-counting heap for WebAssembly GC, in Python, with LLVM-compiled barriers."""
