# SPDX-License-Identifier: Apache-2.0
"""How many `HotModel`s of a process load at once."""

from __future__ import annotations

import collections
import queue
import threading


class LoadGate:
    """Lets a number of managers load at once, first come, first served; none of them blocks."""

    def __init__(self, limit: int = 1) -> None:
        self._lock = threading.Lock()
        self._limit = limit
        self._inside: list[queue.SimpleQueue[None]] = []
        self._waiting: collections.deque[queue.SimpleQueue[None]] = collections.deque()

    @property
    def limit(self) -> int:
        return self._limit

    def set_limit(self, limit: int) -> None:
        with self._lock:
            self._limit = limit
            self._wake_next()

    def enter(self, wake: queue.SimpleQueue[None]) -> bool:
        """True if the owner of `wake` may load now; else `wake` gets an item when it may."""
        with self._lock:
            if wake in self._inside:
                return True
            if wake not in self._waiting:
                self._waiting.append(wake)
            if len(self._inside) >= self._limit or self._waiting[0] is not wake:
                return False
            self._inside.append(self._waiting.popleft())
            self._wake_next()
            return True

    def leave(self, wake: queue.SimpleQueue[None]) -> None:
        """Ends the owner's load, or its wait for one. Does nothing if there is neither."""
        with self._lock:
            if wake in self._inside:
                self._inside.remove(wake)
            if wake in self._waiting:
                self._waiting.remove(wake)
            self._wake_next()

    def _wake_next(self) -> None:
        if self._waiting and len(self._inside) < self._limit:
            self._waiting[0].put(None)
