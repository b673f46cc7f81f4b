"""The WebAssembly GC front end: validate and decode a module, compile it, instantiate it in a store."""
