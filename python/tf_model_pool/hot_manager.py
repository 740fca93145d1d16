# SPDX-License-Identifier: Apache-2.0
"""The thread behind a `HotModel`: looks for versions, loads, switches, unloads.

    step ── scan ──> choose ──> gate ──> load, warm up ──> switch ──> retire ──> unload once idle

- Only this thread loads and unloads, so what it alone uses needs no lock. What calls use as well is
  under the lock of `Versions`: which version serves, and how many calls each version has.
- The thread refers to the manager and never to the `HotModel`, so one that is dropped goes away.
"""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable

from tf_model_pool import at_exit, version_directory
from tf_model_pool.errors import (
    HotModelClosedError,
    HotModelError,
    HotModelTimeoutError,
    VersionLoadError,
    VersionNotFoundError,
)
from tf_model_pool.hot_choice import Choice, Situation
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
from tf_model_pool.hot_load_gate import LoadGate
from tf_model_pool.hot_loading import asked_for, load_version, next_failure, prepare
from tf_model_pool.hot_types import AskedFor, Entry, Options
from tf_model_pool.hot_versions import Versions
from tf_model_pool.version_directory import Fingerprint

log = logging.getLogger("tf_model_pool.hot_model")


class _Reload:
    """What `reload` asks of the thread. Under the manager's lock."""

    def __init__(self, version: int | None, again: bool) -> None:
        self.version = version
        self.again = again
        self.done = False
        self.error: HotModelError | None = None


gate = LoadGate()
#: Every manager of this process whose thread may run.
alive: weakref.WeakSet[Manager] = weakref.WeakSet()
#: What a child inherits through fork() and must not destroy: its threads are not there.
_inherited: list[Manager] = []
_serials = itertools.count()


class Manager(Versions):
    """The versions of one base directory, and the thread that changes them."""

    def __init__(
        self,
        options: Options,
        notify: Callable[[HotEvent], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(options)
        self.serial = next(_serials)  # tells those of one name apart
        self._notify = notify
        self._clock = clock
        self._reload: _Reload | None = None  # under the lock
        self._served_last: int | None = None

        # The thread's own.
        self._choice = Choice(options)
        self._earlier: list[AskedFor] = []  # of versions that served, the last one first
        self._ending = False

    # Orders.

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
        try:
            self._thread.start()
        except KeyboardInterrupt:  # while it waited for the thread to begin: nobody can close us
            self.request_stop()
            if self._thread.is_alive():
                self._thread.join()
            raise

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
            except BaseException:
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
        version = self._chosen(now) if request is None else self._asked_for(request)
        if version is None or self._stop:  # close() empties what was just looked at
            gate.leave(self._wake)
            return 0 if request is not None else self.options.poll_seconds
        if not gate.enter(self._wake):
            return self.options.poll_seconds
        if self.options.policy == "resource" and not self._make_room(version):
            gate.leave(self._wake)  # a call may last, and others have something to load
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
        self._choice.note_look(found, self._loaded(), now)
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
                "%s: cannot list %s, %s: %s",
                self.options.name,
                self.options.base,
                "what is loaded serves on" if self._loaded() else "and nothing is loaded",
                error,
            )
            self._notify(StorageFailed(self.options.name, error))
        elif error is None and before is not None:
            log.info("%s: can list %s again", self.options.name, self.options.base)
            self._notify(StorageRecovered(self.options.name))

    def _loaded(self) -> tuple[int, ...]:
        with self._lock:
            return tuple(self._entries)

    def _situation(self) -> Situation:
        with self._lock:
            return Situation(
                self._found, tuple(self._entries), self.version, self._pinned, self._failures
            )

    def _chosen(self, now: float) -> int | None:
        if self._storage_error is not None:
            return None
        return self._choice.next_load(self._situation(), now)

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

    def _load(self, version: int) -> BaseException | None:
        directory = self._found[version]
        files = version_directory.fingerprint(directory)
        self._notify(LoadStarted(self.options.name, version))
        with self._lock:
            self._loading = version
        begun = self._clock()
        try:
            model = load_version(self.options, directory, files, self._expected, self._stopped)
        except BaseException as error:  # sys.exit() in a loader or a warm-up is one, too
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
            self._choice.note_load(version)
            self._loads += 1
            self._load_seconds += seconds
            self._last_load_seconds = seconds
        log.info("%s: version %d loaded in %.2f s", self.options.name, version, seconds)
        self._notify(Loaded(self.options.name, version, seconds))
        return None

    def _expected(self) -> AskedFor:
        """What the last two versions that served were asked for; one may have served a moment."""
        serving = self._serving
        now = [] if serving is None else [asked_for(self.options, serving.model)]
        return list(dict.fromkeys(itertools.chain(*[*now, *self._earlier][:2])))

    def _record_failure(self, version: int, files: Fingerprint, error: BaseException) -> None:
        before = self._failures.get(version)
        failure = next_failure(self.options, before, files, error, self._clock())
        with self._lock:
            self._failures[version] = failure
            self._load_failures += 1
            self._changed.notify_all()
        resource = self.options.policy == "resource"
        log.warning(
            "%s: version %d did not load (%d in a row), next try %s: %s",
            self.options.name,
            version,
            failure.count,
            "when its files change" if resource else f"in {failure.pause:g} s",
            failure.message,
        )
        pause = None if resource else failure.pause
        self._notify(LoadFailed(self.options.name, version, error, failure.count, pause))

    def _serve_best(self) -> None:
        """Switches to the version that should serve, and retires those that need not stay."""
        best = self._choice.best(self._situation())
        if best is None or self._stop:
            return
        with self._lock:
            # One that was loaded again takes the place of the one that serves.
            entry = self._entries.get(best, self._serving)
        if entry is not None and entry is not self._serving:
            # What was asked for since it was loaded.
            prepare(self.options, entry.model, self._expected())
        self._switch(entry)
        stay = self._choice.stay(best, self._loaded())
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
        if previous is not None:
            last = asked_for(self.options, previous.model)
            self._earlier = [last, *self._earlier][:2]
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

    def _unload_idle(self) -> bool:
        """Unloads retired versions that no call uses. True if others are left."""
        if self._stop and not self._ending:
            return True  # after the event that nothing serves
        with self._lock:
            idle = [
                entry for entry in self._retired if entry.users == 0 and entry is not self._serving
            ]
            self._retired = [entry for entry in self._retired if entry not in idle]
            self._cold_requests += sum(entry.cold_requests() for entry in idle)
            left = bool(self._retired)
        for entry in idle:
            begun = self._clock()
            try:
                entry.model.close()
            except BaseException:
                log.exception("%s: version %d did not close", self.options.name, entry.version)
            seconds = self._clock() - begun
            with self._lock:
                self._unloads += 1
            self._notify(Unloaded(self.options.name, entry.version, seconds))
        return left


def _close_all_at_exit() -> None:
    """Memory goes back and threads end in order, if what they wait for ends soon."""
    managers = list(alive)
    for manager in managers:
        manager.request_stop()
    for manager in managers:
        manager.join(at_exit.seconds_left())


def _after_fork_in_child() -> None:
    global gate
    gate = LoadGate(gate.limit)
    for manager in list(alive):
        _inherited.append(manager)
        manager.forked()
    alive.clear()


atexit.register(_close_all_at_exit)
os.register_at_fork(after_in_child=_after_fork_in_child)
