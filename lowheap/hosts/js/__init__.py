"""JavaScript's world, for programs that are compiled for it: `JsWorld`, JavaScript's values, and its tag."""

from lowheap.hosts.js.interpreter import GlueError as GlueError
from lowheap.hosts.js.loop import EventLoop as EventLoop
from lowheap.hosts.js.values import UNDEFINED as UNDEFINED
from lowheap.hosts.js.values import BigInt as BigInt
from lowheap.hosts.js.values import Function as Function
from lowheap.hosts.js.values import JsError as JsError
from lowheap.hosts.js.values import JsObject as JsObject
from lowheap.hosts.js.world import JsWorld as JsWorld
from lowheap.runtime.exceptions import host_tag as js_tag

__all__ = ("UNDEFINED", "BigInt", "EventLoop", "Function", "GlueError", "JsError", "JsObject", "JsWorld", "js_tag")
