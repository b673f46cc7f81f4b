"""Compiled code on a store: what it calls, how the host calls it, and what its frames hold; barriers one by one."""
