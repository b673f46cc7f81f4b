"""What programs import: the worlds that they are compiled for, a folder each, and by name in `registry.py`."""
