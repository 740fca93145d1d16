# SPDX-License-Identifier: Apache-2.0
"""The versions of a `HotModel` in memory: calls, those that wait for one, and questions.

What is here is under one lock, and none of it waits for a load. A call costs two short critical
sections. A version that is retired is unloaded when its last call has left, by the thread of
`hot_manager`, which that call wakes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from tf_model_pool.errors import (
    HotModelClosedError,
    HotModelError,
    HotModelForkedError,
    HotModelTimeoutError,
    NotServingError,
)
from tf_model_pool.hot_loading import Failure
from tf_model_pool.hot_types import Entry, HotStats, Options, VersionStatus


class Versions:
    """What calls and questions see. The thread that changes it is `Manager`'s."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self._thread: threading.Thread | None = None
        # A wake-up from a finalizer may come inside any critical section: put() is reentrant.
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._stop = False
        self._forked = False

        # Reentrant, because a signal handler may ask for a status inside a critical section.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._serving: Entry | None = None
        self._entries: dict[int, Entry] = {}
        self._retired: list[Entry] = []
        self._pinned: int | None = None
        self._loading: int | None = None
        self._found: dict[int, Path] = {}
        self._failures: dict[int, Failure] = {}
        self._waiters: list[Callable[[], None]] = []
        self._storage_error: OSError | None = None
        self._loads = self._load_failures = self._unloads = self._storage_failures = 0
        self._load_seconds = self._last_load_seconds = 0.0
        self._requests = self._request_errors = 0
        self._cold_requests = 0  # of versions that were unloaded

    # Calls.

    def acquire(self) -> Entry:
        """The version that serves, which stays loaded until `release`.

        Raises as `HotModel.__call__`.
        """
        entry = self.try_acquire()
        if entry is not None:
            return entry
        self._refuse_own_thread()
        deadline = time.monotonic() + self.options.wait_seconds
        with self._changed:
            while True:
                found = self.try_acquire()
                if found is not None:
                    return found
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise self.not_serving()
                self._changed.wait(remaining)

    def try_acquire(self) -> Entry | None:
        """As `acquire`, but returns None if no version serves."""
        with self._lock:
            entry = self._serving
            if entry is None:
                self.check_usable()
                return None
            entry.users += 1
            self._requests += 1
            return entry

    def release(self, entry: Entry, failed: bool) -> None:
        """Ends what `acquire` began."""
        with self._lock:
            entry.users -= 1
            if failed:
                self._request_errors += 1
            wake = entry.retired and entry.users == 0
        if wake:
            self._wake.put(None)

    def add_waiter(self, waiter: Callable[[], None]) -> None:
        """Calls `waiter`, which may not block or raise, once a version serves or none ever will."""
        with self._lock:
            if self._serving is None and not self._stop:
                self._waiters.append(waiter)
                return
        waiter()

    def remove_waiter(self, waiter: Callable[[], None]) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._waiters.remove(waiter)

    # Questions.

    @property
    def version(self) -> int | None:
        entry = self._serving
        return None if entry is None else entry.version

    @property
    def pinned(self) -> int | None:
        return self._pinned

    def versions(self) -> list[VersionStatus]:
        with self._lock:
            found: dict[int, VersionStatus] = {}
            for version in self._found:
                found[version] = VersionStatus(version, "found")
            for version, failure in self._failures.items():
                found[version] = VersionStatus(version, "failed", failure.count, failure.message)
            for entry in self._retired:
                found[entry.version] = VersionStatus(entry.version, "unloading")
            for version, entry in self._entries.items():
                state: Literal["serving", "loaded"] = (
                    "serving" if entry is self._serving else "loaded"
                )
                found[version] = VersionStatus(version, state)
            if self._loading is not None and self._loading not in self._entries:
                known = found.get(self._loading, VersionStatus(self._loading, "loading"))
                found[self._loading] = dataclasses.replace(known, state="loading")
            return [found[version] for version in sorted(found, reverse=True)]

    def stats(self) -> HotStats:
        with self._lock:
            entries = [*self._entries.values(), *self._retired]
            return HotStats(
                name=self.options.name,
                version=self.version,
                pinned=self._pinned,
                loads=self._loads,
                load_failures=self._load_failures,
                load_seconds=self._load_seconds,
                last_load_seconds=self._last_load_seconds,
                unloads=self._unloads,
                requests=self._requests,
                request_errors=self._request_errors,
                cold_requests=self._cold_requests + sum(e.cold_requests() for e in entries),
                requests_in_flight=sum(entry.users for entry in entries),
                storage_failures=self._storage_failures,
                newest_version=max(self._found, default=None),
                failed_versions=sum(version not in self._entries for version in self._failures),
            )

    def check_usable(self) -> None:
        """Raises `HotModelForkedError` or `HotModelClosedError` if no version will ever serve."""
        if self._forked:
            raise HotModelForkedError(
                f"{self.options.name}: this HotModel was made before fork(), and neither its "
                "thread nor TensorFlow's exist in the child: make the HotModel in each worker "
                "(gunicorn: without --preload, or in post_fork; multiprocessing: the start method "
                "spawn)"
            )
        if self._stop:
            raise HotModelClosedError(f"{self.options.name}: this HotModel is closed")

    def not_serving(self) -> NotServingError:
        """The error that says why nothing serves."""
        with self._lock:
            failed = [status for status in self.versions() if status.state == "failed"]
            if self._loading is not None:
                why = f"version {self._loading} is still being loaded"
            elif failed:
                last = failed[0]
                why = f"version {last.version} failed to load {last.failures} times: {last.error}"
            elif self._storage_error is not None:
                why = f"cannot list {self.options.base}: {self._storage_error}"
            elif self._found:
                why = f"no complete SavedModel among versions {sorted(self._found)}"
            else:
                why = f"{self.options.base} holds no directory with a number as its name"
        return NotServingError(
            f"{self.options.name}: no version serves after {self.options.wait_seconds:g} s; {why}"
        )

    def wait_for(self, version: int | None, timeout: float | None) -> int:
        self._refuse_own_thread()
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                serving = self.version
                if serving is not None and (version is None or serving >= version):
                    return serving
                self.check_usable()
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    what = "a version" if version is None else f"version {version}"
                    states = ", ".join(
                        f"{status.version} {status.state}"
                        + (f" ({status.error})" if status.error else "")
                        for status in self.versions()
                    )
                    raise HotModelTimeoutError(
                        f"{self.options.name}: {what} does not serve after {timeout:g} s; "
                        f"versions: {states or 'none'}"
                    )
                self._changed.wait(remaining)

    # Changes, with the lock.

    def _retire(self, entry: Entry) -> None:
        """With the lock. No call begins on `entry` any more; the last one wakes the thread."""
        if entry.retired:
            return
        if self._entries.get(entry.version) is entry:
            del self._entries[entry.version]
        entry.retired = True
        self._retired.append(entry)

    def _call_waiters(self) -> None:
        for waiter in self._waiters:
            waiter()
        self._waiters.clear()

    def _refuse_own_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise HotModelError(
                f"{self.options.name}: on_event and warmup run on the thread that this call waits "
                "for: call it from another thread"
            )
