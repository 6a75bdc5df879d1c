"""What the page keeps in memory: values up to a number of bytes, the least recently used go first."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable
from typing import Any, TypeVar

Value = TypeVar("Value")
ENTRY_BYTES = 512  # of a key and its place


class Memory:
    """Values by key, within a number of bytes; safe to use from several threads.

    Args:
        limit_bytes: bytes of all values together; a value that is larger is not kept.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._kept: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Any | None:
        """Return a value; None if it is not there."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, value: Any, size_bytes: int) -> None:
        """Keep a value, and forget those used longest ago until all fit."""
        size = size_bytes + ENTRY_BYTES
        with self._lock:
            _, before = self._kept.pop(key, (None, 0))
            self.used_bytes -= before
            if size > self.limit_bytes:
                return
            self._kept[key] = (value, size)
            self.used_bytes += size
            while self.used_bytes > self.limit_bytes:
                self.used_bytes -= self._kept.popitem(last=False)[1][1]

    def clear(self, kinds: Collection[str] | None = None) -> None:
        """Forget all values, or those whose key is a tuple that begins with one of `kinds`."""
        with self._lock:
            for key in [key for key in self._kept if kinds is None or (isinstance(key, tuple) and key[0] in kinds)]:
                self.used_bytes -= self._kept.pop(key)[1]

    def get_or_make(self, key: Hashable, make: Callable[[], Value], size_of: Callable[[Value], int]) -> Value:
        """Return a value, made by the first of the threads that ask for it at once; None is never kept."""
        with self._lock:
            making = self._making.setdefault(key, threading.Lock())
        try:
            with making:
                known: Value | None = self.get(key)
                if known is None:
                    known = make()
                    if known is not None:
                        self.put(key, known, size_of(known))
                return known
        finally:
            with self._lock:
                self._making.pop(key, None)
