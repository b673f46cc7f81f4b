"""The C face of lowheap: what a host without Python, or one that comes through cffi, needs to share a heap's bytes."""
