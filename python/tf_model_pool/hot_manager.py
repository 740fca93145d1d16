# SPDX-License-Identifier: Apache-2.0
"""The thread behind a `HotModel`: looks for versions, loads, switches, unloads.

    step ── scan ──> choose ──> gate ──> load, warm up ──> switch ──> retire ──> unload once idle

- Only this thread loads and unloads, so what it alone uses needs no lock. What calls use as well is
  under `_lock`: which version serves, and how many calls each version has.
- A call costs two short critical sections. A version that is retired is unloaded when its last
  call has left, by this thread, which that call wakes.
- The thread refers to the manager and never to the `HotModel`, so one that is dropped goes away.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import dataclasses
import itertools
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from tf_model_pool import version_directory
from tf_model_pool.errors import (
    HotModelClosedError,
    HotModelError,
    HotModelForkedError,
    HotModelTimeoutError,
    NotServingError,
    VersionLoadError,
    VersionNotFoundError,
)
from tf_model_pool.hot_events import (
    HotEvent,
    Loaded,
    LoadFailed,
    LoadStarted,
    StorageFailed,
    StorageRecovered,
    Switched,
    Unloaded,
)
from tf_model_pool.version_directory import Fingerprint
from tf_model_pool.warmup import WARMUP_FILE, read_requests

log = logging.getLogger("tf_model_pool.hot_model")

Policy = Literal["availability", "resource"]
Warmup = Literal["file"] | Iterable[Mapping[str, object]] | Callable[[Any], object] | None

#: How long the end of the interpreter waits for loads and calls in flight, in seconds.
_EXIT_SECONDS = 10.0


class Model(Protocol):
    """What a loader returns: `LoadedModel`, or anything that can stand in for one."""

    @property
    def signatures(self) -> Any: ...

    def __call__(
        self,
        inputs: Mapping[str, Any] | None = None,
        /,
        *,
        outputs: Collection[str] | None = None,
        **named: Any,
    ) -> Any: ...

    def close(self) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version that is on disk or in memory.

    Attributes:
        version: the directory's number.
        state: `serving`; `loaded` beside the one that serves; `loading`; `unloading` until its
            last call has returned; `failed` and to be tried again; `found` and not loaded,
            because newer ones are or because its files are still being written.
        failures: how often in a row it did not load.
        error: what the last failed load said, "" if there was none.
    """

    version: int
    state: Literal["serving", "loaded", "loading", "unloading", "failed", "found"]
    failures: int = 0
    error: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class HotStats:
    """Counts since the `HotModel` was made.

    Attributes:
        name: the `HotModel`'s name.
        version: the version that serves, None if none does.
        pinned: the version that `reload` pinned, None if the newest is followed.
        loads: versions that were loaded.
        load_failures: loads that failed.
        load_seconds: duration of all successful loads together, warm-up included.
        last_load_seconds: that of the last one, 0 before the first.
        unloads: versions that were unloaded.
        requests: calls, those of signatures included; `use` counts once.
        request_errors: those that raised.
        requests_in_flight: those that have not returned.
        storage_failures: how often the base directory could not be listed.
    """

    name: str
    version: int | None
    pinned: int | None
    loads: int
    load_failures: int
    load_seconds: float
    last_load_seconds: float
    unloads: int
    requests: int
    request_errors: int
    requests_in_flight: int
    storage_failures: int


@dataclasses.dataclass(frozen=True)
class Options:
    """A `HotModel`'s arguments, checked."""

    name: str
    base: Path
    poll_seconds: float
    policy: Policy
    keep: int
    wait_seconds: float
    retry_max_seconds: float
    loader: Callable[[str], Model]
    warmup: Warmup


class Entry:
    """A loaded version and the calls that use it."""

    __slots__ = ("model", "retired", "users", "version")

    def __init__(self, version: int, model: Model) -> None:
        self.version = version
        self.model = model
        self.users = 0
        self.retired = False


@dataclasses.dataclass(frozen=True)
class _Failure:
    count: int
    message: str
    #: The files that were tried; with others the pauses begin anew.
    files: Fingerprint | None
    pause: float
    retry_at: float


class _Reload:
    """What `reload` asks of the thread. Under the manager's lock."""

    def __init__(self, version: int | None, again: bool) -> None:
        self.version = version
        self.again = again
        self.done = False
        self.error: HotModelError | None = None


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


gate = LoadGate()
#: Every manager of this process whose thread may run.
alive: weakref.WeakSet[Manager] = weakref.WeakSet()
#: What a child inherits through fork() and must not destroy: its threads are not there.
_inherited: list[Manager] = []
_serials = itertools.count()


class Manager:
    """The versions of one base directory. See the module's text for threads and locks."""

    def __init__(
        self,
        options: Options,
        notify: Callable[[HotEvent], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.serial = next(_serials)  # tells those of one name apart
        self._notify = notify
        self._clock = clock
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
        self._failures: dict[int, _Failure] = {}
        self._reload: _Reload | None = None
        self._waiters: list[Callable[[], None]] = []
        self._storage_error: OSError | None = None
        self._loads = self._load_failures = self._unloads = self._storage_failures = 0
        self._load_seconds = self._last_load_seconds = 0.0
        self._requests = self._request_errors = 0
        self._served_last: int | None = None

        # The thread's own.
        self._ending = False
        self._missing_since: dict[int, float] = {}
        self._gone: set[int] = set()  # loaded, and two looks a poll apart did not find them
        self._files: dict[int, tuple[Fingerprint, float]] = {}

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
                requests_in_flight=sum(entry.users for entry in entries),
                storage_failures=self._storage_failures,
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

    # Orders.

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

    def reload(self, version: int | None, again: bool, timeout: float | None) -> None:
        self._refuse_own_thread()
        deadline = None if timeout is None else time.monotonic() + timeout
        request = _Reload(version, again)
        with self._changed:
            self.check_usable()
            if self._reload is not None:
                self._reload.error = HotModelError(
                    f"{self.options.name}: reload({self._reload.version}) was overtaken by "
                    f"reload({version})"
                )
                self._reload.done = True
                self._changed.notify_all()
            self._reload = request
            self._wake.put(None)
            while not request.done:
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    raise HotModelTimeoutError(
                        f"{self.options.name}: version {version} does not serve after {timeout:g} "
                        "s; the order stands, reload(None) takes its place"
                    )
                self._changed.wait(remaining)
        if request.error is not None:
            raise request.error

    def start(self) -> None:
        alive.add(self)
        self._thread = threading.Thread(target=self.run, name="tf_hot_model", daemon=True)
        self._thread.start()

    def request_stop(self) -> None:
        """Tells the thread to unload everything and end. Takes no lock: finalizers call it."""
        self._stop = True
        self._wake.put(None)

    def close(self, timeout: float | None) -> None:
        if self._forked:
            return
        self.request_stop()
        with self._lock:
            self._retire_all()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        thread.join(timeout)
        if thread.is_alive():
            raise HotModelTimeoutError(
                f"{self.options.name}: {self.stats().requests_in_flight} calls or a load have not "
                f"ended after {timeout:g} s; the thread unloads when they have"
            )

    def join(self, timeout: float) -> None:
        if self._thread is not None:
            self._thread.join(timeout)

    def forked(self) -> None:
        """In a child: nothing of this serves any more, and nothing of it is touched."""
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._forked = True
        self._serving = None
        self._thread = None

    # The thread.

    def run(self) -> None:
        """Steps until `request_stop`, then unloads everything."""
        while not self._stop:
            try:
                delay = self.step()
            except Exception:
                # A defect of ours; what is loaded serves on, and the next step may succeed.
                log.exception("%s: a step failed", self.options.name)
                delay = self.options.poll_seconds
            if delay > 0:
                self._sleep(delay)
        gate.leave(self._wake)
        self._ending = True
        with self._lock:
            self._retire_all()
        if self._served_last is not None:
            self._notify(Switched(self.options.name, None, self._served_last))
        while self._unload_idle():
            self._sleep(None)
        alive.discard(self)

    def _sleep(self, seconds: float | None) -> None:
        with contextlib.suppress(queue.Empty):
            self._wake.get(timeout=seconds)
            while True:
                self._wake.get_nowait()

    def step(self) -> float:
        """Does what there is to do now; returns the pause in seconds before the next step."""
        now = self._clock()
        self._unload_idle()
        self._scan(now)
        self._serve_best()
        request = self._reload
        version = self._choose(now) if request is None else self._asked_for(request)
        if version is None or self._stop:  # close() empties what was just looked at
            gate.leave(self._wake)
            return 0 if request is not None else self.options.poll_seconds
        if not gate.enter(self._wake):
            return self.options.poll_seconds
        if self.options.policy == "resource" and not self._make_room(version):
            return self.options.poll_seconds  # the last call wakes this thread
        try:
            error = self._load(version)
        finally:
            gate.leave(self._wake)
        if self._stopped():
            return 0
        if request is not None and error is not None:
            failed = VersionLoadError(
                f"{self.options.name}: version {version} does not load: {error}"
            )
            failed.__cause__ = error
            self._answer(request, failed)
        elif request is not None and not request.done:
            self._pinned = version
        self._serve_best()
        if request is not None:
            self._answer(request, None)
        return 0

    def _stopped(self) -> bool:
        return self._stop

    def _scan(self, now: float) -> None:
        try:
            found = version_directory.list_versions(self.options.base)
        except OSError as error:
            self._report_storage(error)
            return
        self._report_storage(None)
        missing = [v for v in self._entries if v not in found]
        self._missing_since = {v: self._missing_since.get(v, now) for v in missing}
        pause = self.options.poll_seconds
        self._gone = {v for v, since in self._missing_since.items() if now - since >= pause}
        self._files = {v: files for v, files in self._files.items() if v in found}
        with self._lock:
            self._found = found
            self._failures = {v: each for v, each in self._failures.items() if v in found}

    def _report_storage(self, error: OSError | None) -> None:
        before = self._storage_error
        with self._lock:
            self._storage_error = error
            if error is not None:
                self._storage_failures += 1
        if error is not None and before is None:
            log.warning(
                "%s: cannot list %s, what is loaded serves on: %s",
                self.options.name,
                self.options.base,
                error,
            )
            self._notify(StorageFailed(self.options.name, error))
        elif error is None and before is not None:
            log.info("%s: can list %s again", self.options.name, self.options.base)
            self._notify(StorageRecovered(self.options.name))

    def _choose(self, now: float) -> int | None:
        """The version to load now: the newest that is ready, if it is among the newest `keep`."""
        if self._storage_error is not None:
            return None
        if self._pinned is not None:
            if self._pinned in self._entries:
                return None
            if self._pinned in self._found and self._is_ready(self._pinned, now):
                return self._pinned
            if self._serving is not None:
                return None
        counted = 0
        there = {*self._found, *(v for v in self._entries if v not in self._gone)}
        for version in sorted(there, reverse=True):
            if counted == self.options.keep:
                return None
            if version in self._entries:
                counted += 1
                continue
            ready = self._is_ready(version, now)
            if ready:
                return version
            if ready is None and self._serving is not None:
                return None  # its turn comes before that of older ones
        return None

    def _is_ready(self, version: int, now: float) -> bool | None:
        """True if a version can be tried now, None if it will be soon."""
        directory = self._found[version]
        if not version_directory.is_saved_model(directory):
            return False
        files = version_directory.fingerprint(directory)
        if files is None:
            self._files.pop(version, None)
            return None
        if version not in self._files or self._files[version][0] != files:
            self._files[version] = (files, now)
        failure = self._failures.get(version)
        if failure is not None and failure.files == files:
            if self.options.policy == "resource" and self._serving is not None:
                return False  # each try would be an outage
            return now >= failure.retry_at
        if now - self._files[version][1] >= self.options.poll_seconds:
            return True
        if self._serving is None and (failure is None or now >= failure.retry_at):
            return True  # it may be complete, and nothing is lost if not
        return None

    def _asked_for(self, request: _Reload) -> int | None:
        """The version to load for a `reload`; None if the request has been answered."""
        version = request.version
        if version is None:
            self._pinned = None
            self._answer(request, None)
            return None
        if version in self._entries and not request.again:
            self._pinned = version
            self._serve_best()
            self._answer(request, None)
            return None
        if version not in self._found or self._storage_error is not None:
            why = f": {self._storage_error}" if self._storage_error is not None else ""
            self._answer(
                request,
                VersionNotFoundError(
                    f"{self.options.name}: {self.options.base} has no version {version}{why}; "
                    f"there are {sorted(self._found) or 'none'}"
                ),
            )
            return None
        return version

    def _answer(self, request: _Reload, error: HotModelError | None) -> None:
        with self._changed:
            if request.done:
                return
            self._reload = None
            request.error = error
            request.done = True
            self._changed.notify_all()

    def _load(self, version: int) -> Exception | None:
        directory = self._found[version]
        files = version_directory.fingerprint(directory)
        self._notify(LoadStarted(self.options.name, version))
        with self._lock:
            self._loading = version
        begun = self._clock()
        try:
            model = self.options.loader(str(directory))
            try:
                self._warm_up(model, directory)
            except BaseException:
                model.close()
                raise
        except Exception as error:
            self._record_failure(version, files, error)
            return error
        finally:
            self._loading = None
        seconds = self._clock() - begun
        with self._lock:
            replaced = self._entries.pop(version, None)
            if replaced is not None:
                self._retire(replaced)  # serves on until _serve_best has switched
            self._entries[version] = Entry(version, model)
            self._failures.pop(version, None)
            self._gone.discard(version)
            self._loads += 1
            self._load_seconds += seconds
            self._last_load_seconds = seconds
        log.info("%s: version %d loaded in %.2f s", self.options.name, version, seconds)
        self._notify(Loaded(self.options.name, version, seconds))
        return None

    def _record_failure(self, version: int, files: Fingerprint | None, error: Exception) -> None:
        before = self._failures.get(version)
        same = before is not None and before.files == files
        pause = self.options.poll_seconds
        if before is not None and same:
            pause = min(2 * before.pause, max(pause, self.options.retry_max_seconds))
        count = 1 if before is None else before.count + 1
        message = f"{type(error).__name__}: {error}"
        with self._lock:
            self._failures[version] = _Failure(count, message, files, pause, self._clock() + pause)
            self._load_failures += 1
            self._changed.notify_all()
        resource = self.options.policy == "resource"
        log.warning(
            "%s: version %d did not load (%d in a row), next try %s: %s",
            self.options.name,
            version,
            count,
            "when its files change" if resource else f"in {pause:g} s",
            message,
        )
        self._notify(
            LoadFailed(self.options.name, version, error, count, None if resource else pause)
        )

    def _warm_up(self, model: Model, directory: Path) -> None:
        warmup = self.options.warmup
        if warmup is None:
            return
        if callable(warmup):
            warmup(model)
            return
        if isinstance(warmup, str):
            path = directory / WARMUP_FILE
            skipped = 0
            for request in read_requests(path) if path.is_file() else ():
                if self._stop:
                    return
                if request is None:
                    skipped += 1
                else:
                    model.signatures[request.signature](request.arguments(model))
            if skipped:
                log.info(
                    "%s: %d records of %s are of a kind that is not replayed",
                    self.options.name,
                    skipped,
                    path,
                )
            return
        for inputs in warmup:
            if self._stop:
                return
            model(inputs)

    def _serve_best(self) -> None:
        """Switches to the version that should serve, and retires those that need not stay."""
        here = {v: entry for v, entry in self._entries.items() if v not in self._gone}
        if self._pinned in self._entries:
            best: Entry | None = self._entries[self._pinned]
        elif here:
            best = here[max(here)]
        elif self._serving is not None:
            best = self._serving
        else:
            best = self._entries[max(self._entries)] if self._entries else None
        if best is None or self._stop:
            return
        self._switch(best)
        others = sorted((v for v in here if here[v] is not best), reverse=True)
        stay = {best.version, *others[: self.options.keep - 1]}
        with self._lock:
            for version in [v for v in self._entries if v not in stay]:
                self._retire(self._entries[version])
        self._unload_idle()

    def _switch(self, entry: Entry | None) -> None:
        with self._lock:
            previous = self._serving
            if previous is entry or self._stop:
                return
            self._serving = entry
            self._changed.notify_all()
            self._call_waiters()
        before = None if previous is None else previous.version
        after = None if entry is None else entry.version
        log.info("%s: version %s serves, %s did before", self.options.name, after, before)
        self._notify(Switched(self.options.name, after, before))

    def _make_room(self, version: int) -> bool:
        """Policy "resource": unloads until one more makes `keep`. False while calls still run."""
        while not self._stop:
            with self._lock:
                last = self._entries.get(version)
                if last is None:
                    if len(self._entries) < self.options.keep:
                        break
                    last = self._entries[
                        min(self._entries, key=lambda v: (self._entries[v] is self._serving, v))
                    ]
            if last is self._serving:
                self._switch(None)
            with self._lock:
                self._retire(last)
        return not self._unload_idle()

    def _retire(self, entry: Entry) -> None:
        """With the lock. No call begins on `entry` any more; the last one wakes the thread."""
        if entry.retired:
            return
        if self._entries.get(entry.version) is entry:
            del self._entries[entry.version]
        entry.retired = True
        self._retired.append(entry)

    def _retire_all(self) -> None:
        """With the lock, when stopping."""
        if self._serving is not None:
            self._served_last = self._serving.version
        self._serving = None
        for entry in list(self._entries.values()):
            self._retire(entry)
        if self._reload is not None:
            self._reload.error = HotModelClosedError(
                f"{self.options.name}: this HotModel is closed"
            )
            self._reload.done = True
            self._reload = None
        self._changed.notify_all()
        self._call_waiters()

    def _call_waiters(self) -> None:
        for waiter in self._waiters:
            waiter()
        self._waiters.clear()

    def _unload_idle(self) -> bool:
        """Unloads retired versions that no call uses. True if others are left."""
        if self._stop and not self._ending:
            return True  # after the event that nothing serves
        with self._lock:
            idle = [
                entry for entry in self._retired if entry.users == 0 and entry is not self._serving
            ]
            self._retired = [entry for entry in self._retired if entry not in idle]
            left = bool(self._retired)
        for entry in idle:
            begun = self._clock()
            try:
                entry.model.close()
            except Exception:
                log.exception("%s: version %d did not close", self.options.name, entry.version)
            seconds = self._clock() - begun
            with self._lock:
                self._unloads += 1
            self._notify(Unloaded(self.options.name, entry.version, seconds))
        return left

    def _refuse_own_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise HotModelError(
                f"{self.options.name}: on_event and warmup run on the thread that this call waits "
                "for: call it from another thread"
            )


def _close_all_at_exit() -> None:
    """Memory goes back and threads end in order, if what they wait for ends soon."""
    managers = list(alive)
    for manager in managers:
        manager.request_stop()
    deadline = time.monotonic() + _EXIT_SECONDS
    for manager in managers:
        manager.join(max(0.0, deadline - time.monotonic()))


def _after_fork_in_child() -> None:
    global gate
    gate = LoadGate(gate.limit)
    for manager in list(alive):
        _inherited.append(manager)
        manager.forked()
    alive.clear()


atexit.register(_close_all_at_exit)
os.register_at_fork(after_in_child=_after_fork_in_child)
