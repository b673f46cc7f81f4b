"""No collector: objects are allocated, and never freed. It shows what barriers and collections cost."""

from lowheap.collectors.null.collector import Null

__all__ = ["Null"]
