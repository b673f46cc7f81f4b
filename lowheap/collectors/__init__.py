"""Collectors: who frees what, and when. Each is a folder of its own behind `interface.py`."""
