"""A bounded cache: what is asked for is made once and kept, and the least recently used goes first.

cache = Cache(capacity=2)
cache.get("a", lambda: compile_it())
cache.made, cache.hits, cache.evicted, len(cache)
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from engines.value import EngineError

Kept = TypeVar("Kept")


class Cache(Generic[Kept]):
    """Up to `capacity` values by key. One thread at a time looks, and makes what is not there."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise EngineError(f"cache: a capacity is at least 1, found {capacity}")
        self.capacity = capacity
        self.made = self.hits = self.evicted = 0
        self._kept: OrderedDict[Hashable, Kept] = OrderedDict()
        self._lock = threading.RLock()  # what is made may ask for more

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, make: Callable[[], Kept]) -> Kept:
        """The value of a key, made if it is not there; what `make` raises goes through, and nothing is kept."""
        with self._lock:
            if key in self._kept:
                self.hits += 1
                self._kept.move_to_end(key)
                return self._kept[key]
            found = self._kept[key] = make()
            self.made += 1
            if len(self._kept) > self.capacity:
                self._kept.popitem(last=False)
                self.evicted += 1
            return found
