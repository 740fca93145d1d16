# SPDX-License-Identifier: Apache-2.0
"""A model that follows a directory of numbered versions, as TensorFlow Serving's do."""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, get_args

from tf_model_pool import hot_manager, version_directory
from tf_model_pool.hot_events import HotEvent
from tf_model_pool.hot_manager import Manager
from tf_model_pool.hot_types import (
    Entry,
    HotStats,
    Model,
    Options,
    Policy,
    VersionStatus,
    Warmup,
)

if TYPE_CHECKING:  # slow to import, and needed by `call_async` only
    import asyncio
    import concurrent.futures

log = logging.getLogger("tf_model_pool.hot_model")


def set_max_concurrent_loads(count: int) -> None:
    """Bounds how many versions all `HotModel`s of this process load at once; 1 unless set.

    The others wait in the order in which they came, and serve what they have meanwhile. Loads
    that have begun go on. `load` itself is not bounded.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"set_max_concurrent_loads({count}): at least 1 load must be allowed")
    hot_manager.gate.set_limit(count)


def hot_models() -> list[HotStats]:
    """The counts of every `HotModel` of this process that is not closed, by name and age."""
    managers = sorted(hot_manager.alive, key=lambda each: (each.options.name, each.serial))
    return [each.stats() for each in managers]


class HotModel:
    """Serves the newest version in a directory, and changes to newer ones under load.

        hot = tf_model_pool.HotModel("models/ctr")
        score = hot(ids=ids)["score"]

    A thread looks into `base_path`, loads the newest version beside the one that serves, switches,
    and unloads the old one once its last call has returned. Calls may come from any number of
    threads. A version is loaded when it holds `saved_model.pb` and its files have not changed
    between two looks; while nothing serves, at once.

    A version that does not load leaves the one that serves in service: it is reported to
    `on_event`, to the log and in `stats()`, and tried again, first after `poll_seconds`, then after
    pauses that double up to `retry_max_seconds`; when its files change, as soon as they rest. While
    nothing serves, older versions are tried too. A version whose directory goes away is unloaded
    once another serves; with the base directory gone or not readable, everything stays.

    The object goes away when nothing refers to it, and its versions with it, after their calls.
    What `on_event`, `warmup` and `loader` refer to lives as long.

    Args:
        base_path: the directory that holds directories with numbers as names. It need not exist
            yet. Versions with the same number as one that is loaded are not noticed: `reload`.
        poll_seconds: pause between two looks, by a clock that no one sets.
        policy: "availability" loads a version beside the one that serves. "resource" unloads
            first, so that never more than `keep` versions take memory; with `keep=1` no version
            serves meanwhile and calls wait. A version that did not load is then tried again only
            when its files change or nothing else serves, because each try is an outage.
        keep: how many versions stay loaded: the one that serves and the next newest. A second one
            makes `reload` to it immediate.
        on_event: called with each `HotEvent` on the model's thread; see `tf_model_pool.hot_events`.
        warmup: requests that a version answers before it serves. "file": those in its
            `assets.extra/tf_serving_warmup_requests`, if there is one. A sequence of dicts: inputs
            of `serving_default`. A callable: called with the loaded model. None: none. A version
            that raises on one has not loaded.
        wait_seconds: how long a call waits for a version while none serves.
        retry_max_seconds: longest pause between two tries of a version that does not load.
        name: what events, logs and metrics call it; the base path unless given.
        async_threads: how many `call_async` run at once; 4 more than there are CPUs, at most 32,
            unless given.
        tags, inter_op_threads, intra_op_threads: as `load` has them.
        loader: loads a version's directory, in place of `load`; gets the path only.

    Raises:
        TypeError, ValueError: an argument of the wrong type, or outside its range; `base_path` is
            a file or one version's directory.
    """

    def __init__(
        self,
        base_path: str | Path,
        *,
        poll_seconds: float = 1.0,
        policy: Policy = "availability",
        keep: int = 1,
        on_event: Callable[[HotEvent], object] | None = None,
        warmup: Warmup = "file",
        wait_seconds: float = 60.0,
        retry_max_seconds: float = 300.0,
        name: str | None = None,
        async_threads: int | None = None,
        tags: Sequence[str] = ("serve",),
        inter_op_threads: int | None = None,
        intra_op_threads: int | None = None,
        loader: Callable[[str], Model] | None = None,
    ) -> None:
        base = Path(base_path)
        _check(base, poll_seconds, policy, keep, wait_seconds, retry_max_seconds, async_threads)
        if isinstance(warmup, str):
            if warmup != "file":
                raise ValueError(
                    f'warmup={warmup!r}: allowed are "file", requests, a callable, None'
                )
        elif warmup is not None and not callable(warmup):
            warmup = tuple(dict(inputs) for inputs in warmup)
        if loader is None:
            loader = functools.partial(
                _load,
                tags=tuple(tags),
                inter_op_threads=inter_op_threads,
                intra_op_threads=intra_op_threads,
            )
        self._on_event = on_event
        self._async_threads = async_threads
        self._executor: concurrent.futures.ThreadPoolExecutor | None = None
        self._executor_lock = threading.Lock()
        self._manager = Manager(
            Options(
                name=str(base) if name is None else name,
                base=base,
                poll_seconds=poll_seconds,
                policy=policy,
                keep=keep,
                wait_seconds=wait_seconds,
                retry_max_seconds=retry_max_seconds,
                loader=loader,
                warmup=warmup,
            ),
            functools.partial(_deliver, weakref.ref(self)),
        )
        # The end of the interpreter is hot_manager's.
        weakref.finalize(self, self._manager.request_stop).atexit = False
        self._manager.start()

    def __call__(
        self,
        inputs: Mapping[str, Any] | None = None,
        /,
        *,
        outputs: Collection[str] | None = None,
        **named: Any,
    ) -> Any:
        """Runs `serving_default` of the version that serves, as `LoadedModel` does.

        If none serves, waits for one for `wait_seconds`: until the first is loaded, and in an
        update with policy "resource". In a coroutine, use `call_async`.

        Raises:
            NotServingError: none came; the text says why.
            HotModelClosedError: after `close`.
            HotModelForkedError: in a child of the process that made this object.
            Whatever the model raises.
        """
        manager = self._manager
        entry = manager.acquire()
        failed = True
        try:
            answer = entry.model(inputs, outputs=outputs, **named)
            failed = False
            return answer
        finally:
            manager.release(entry, failed)

    async def call_async(
        self,
        inputs: Mapping[str, Any] | None = None,
        /,
        *,
        outputs: Collection[str] | None = None,
        **named: Any,
    ) -> Any:
        """As a call, on a thread of this object's; the event loop goes on, waiting included.

        A call that has begun goes on if the task is cancelled. Raises as a call.
        """
        return await self._call_async(None, inputs, outputs, named)

    @property
    def signatures(self) -> HotSignatures:
        """The signatures by name, each to be called as the model is, and with `call_async`."""
        return HotSignatures(self)

    def use(self) -> Use:
        """One version for several calls; it stays loaded until the block ends.

            with hot.use() as model:
                first = model(ids=ids)
                second = model.signatures["rank"](ids=ids)

        Raises, when the block begins, as a call.
        """
        return Use(self)

    @property
    def name(self) -> str:
        """What events, logs and metrics call it."""
        return self._manager.options.name

    @property
    def version(self) -> int | None:
        """The version that serves, None if none does."""
        return self._manager.version

    def versions(self) -> list[VersionStatus]:
        """Every version on disk or in memory, newest first. Does not touch the disk."""
        return self._manager.versions()

    def stats(self) -> HotStats:
        """Counts since this object was made."""
        return self._manager.stats()

    def wait_for(self, version: int | None = None, timeout: float | None = None) -> int:
        """Waits until `version` or a later one serves, or any if None; returns the one that does.

        Args:
            timeout: seconds, None is for ever.

        Raises:
            HotModelTimeoutError: a TimeoutError too; the text has the state of each version.
            HotModelClosedError, HotModelForkedError: as a call.
            HotModelError: called by `on_event` or `warmup`.
        """
        return self._manager.wait_for(version, timeout)

    def reload(
        self, version: int | None, *, again: bool = False, timeout: float | None = None
    ) -> None:
        """Serves `version` and stays there: rolls back, or pins. `reload(None)` follows again.

        Waits until `version` serves. While a version is pinned, no other is loaded; those that are
        loaded stay, up to `keep`. With None it returns at once, and the newest version is loaded
        as if it had just come.

        Args:
            again: load it from its directory even if it is loaded, for files that were replaced.
            timeout: seconds to wait, None is for ever. The order stands after that, until
                another `reload` takes its place.

        Raises:
            VersionNotFoundError: there is no such directory, and what served before serves.
            VersionLoadError: it does not load, and what served before serves; with policy
                "resource" once that is loaded again. Its `__cause__` is the model's error.
            HotModelError: another thread's `reload` took the place of this one.
            HotModelTimeoutError, HotModelClosedError, HotModelForkedError, HotModelError: as
                `wait_for`.
        """
        self._manager.reload(version, again, timeout)

    def close(self, timeout: float | None = None) -> None:
        """Ends the thread and unloads every version, after the calls in flight.

        Calls that come later, and those that wait for a version, raise `HotModelClosedError`. A
        load that has begun is waited for. Called by `on_event`, or in a forked child, it does not
        wait. Closing twice is allowed.

        Args:
            timeout: seconds to wait, None is for ever.

        Raises:
            HotModelTimeoutError: calls or a load go on; their end ends the thread.
        """
        self._manager.request_stop()
        executor = self._executor
        if executor is not None:
            executor.shutdown(wait=False)
        self._manager.close(timeout)

    def __enter__(self) -> HotModel:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<HotModel {self.name!r}, version {self.version}>"

    # A pickled model would be a second one: say so before pickle names the lock.
    def __reduce__(self) -> str:
        raise TypeError("a HotModel cannot be pickled: make one in each process")

    async def _call_async(
        self,
        signature: str | None,
        inputs: Mapping[str, Any] | None,
        outputs: Collection[str] | None,
        named: Mapping[str, Any],
    ) -> Any:
        import asyncio

        manager = self._manager
        loop = asyncio.get_running_loop()
        deadline = time.monotonic() + manager.options.wait_seconds
        call = functools.partial(self._call_if_serving, signature, inputs, outputs, named)
        while True:
            manager.check_usable()
            if manager.version is not None:
                try:
                    future = loop.run_in_executor(self._threads(), call)
                except RuntimeError:  # the threads end, which is what close() begins with
                    manager.check_usable()
                    raise
                answer = await future
                if answer is not _NOBODY_SERVES:
                    return answer
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise manager.not_serving()
            await self._version_serves(loop, remaining)

    async def _version_serves(self, loop: asyncio.AbstractEventLoop, seconds: float) -> None:
        """Returns when a version may serve, or after `seconds`."""
        import asyncio

        future: asyncio.Future[None] = loop.create_future()

        def tell() -> None:
            if not future.done():
                future.set_result(None)

        def waiter() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(tell)

        self._manager.add_waiter(waiter)
        try:
            await asyncio.wait([future], timeout=seconds)
        finally:
            self._manager.remove_waiter(waiter)

    def _call_if_serving(
        self,
        signature: str | None,
        inputs: Mapping[str, Any] | None,
        outputs: Collection[str] | None,
        named: Mapping[str, Any],
    ) -> Any:
        entry = self._manager.try_acquire()
        return (
            _NOBODY_SERVES if entry is None else self._run(entry, signature, inputs, outputs, named)
        )

    def _run(
        self,
        entry: Entry,
        signature: str | None,
        inputs: Mapping[str, Any] | None,
        outputs: Collection[str] | None,
        named: Mapping[str, Any],
    ) -> Any:
        """Runs an acquired version and releases it."""
        failed = True
        try:
            function = entry.model if signature is None else entry.model.signatures[signature]
            answer = function(inputs, outputs=outputs, **named)
            failed = False
            return answer
        finally:
            self._manager.release(entry, failed)

    def _threads(self) -> concurrent.futures.ThreadPoolExecutor:
        import concurrent.futures

        with self._executor_lock:
            if self._executor is None:
                self._executor = concurrent.futures.ThreadPoolExecutor(
                    self._async_threads, thread_name_prefix="tf_model_call"
                )
            return self._executor


_NOBODY_SERVES = object()


class Use:
    """The block of `HotModel.use`; for one `with` at a time."""

    __slots__ = ("_entry", "_hot")

    def __init__(self, hot: HotModel) -> None:
        self._hot = hot
        self._entry: Entry | None = None

    def __enter__(self) -> Any:
        if self._entry is not None:
            raise RuntimeError("this use() is in use: call use() again")
        self._entry = self._hot._manager.acquire()
        return self._entry.model

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        entry, self._entry = self._entry, None
        if entry is not None:
            self._hot._manager.release(entry, kind is not None)


class HotSignatures(Mapping[str, "HotSignature"]):
    """`HotModel.signatures`. Names are those of the version that serves; any name can be asked
    for, and is looked up in each call."""

    def __init__(self, hot: HotModel) -> None:
        self._hot = hot

    def __getitem__(self, name: str) -> HotSignature:
        return HotSignature(self._hot, name)

    def __contains__(self, name: object) -> bool:
        return name in list(self)

    def __iter__(self) -> Iterator[str]:
        with self._hot.use() as model:
            names = list(model.signatures)
        return iter(names)

    def __len__(self) -> int:
        return len(list(iter(self)))


class HotSignature:
    """One signature, of whichever version serves when it is called."""

    def __init__(self, hot: HotModel, name: str) -> None:
        self._hot = hot
        self.name = name

    def __call__(
        self,
        inputs: Mapping[str, Any] | None = None,
        /,
        *,
        outputs: Collection[str] | None = None,
        **named: Any,
    ) -> Any:
        """As a call of the `HotModel`; KeyError if the version has no such signature."""
        hot = self._hot
        return hot._run(hot._manager.acquire(), self.name, inputs, outputs, named)

    async def call_async(
        self,
        inputs: Mapping[str, Any] | None = None,
        /,
        *,
        outputs: Collection[str] | None = None,
        **named: Any,
    ) -> Any:
        """As `HotModel.call_async`; KeyError if the version has no such signature."""
        return await self._hot._call_async(self.name, inputs, outputs, named)


def _load(path: str, **options: Any) -> Model:
    from tf_model_pool.load import load  # not before the first load: it imports TensorFlow

    model: Model = load(path, **options)
    return model


def _deliver(owner: weakref.ref[HotModel], event: HotEvent) -> None:
    """Calls the owner's `on_event`; a weak reference, or the thread would keep the owner alive."""
    hot = owner()
    handler = None if hot is None else hot._on_event
    if handler is None:
        return
    try:
        handler(event)
    except BaseException:  # sys.exit() would end the thread, and nobody would know
        log.exception("%s: on_event raised on %r", event.model, event)


def _check(
    base: Path,
    poll_seconds: float,
    policy: str,
    keep: int,
    wait_seconds: float,
    retry_max_seconds: float,
    async_threads: int | None,
) -> None:
    if policy not in get_args(Policy):
        raise ValueError(f"policy={policy!r}: allowed are {', '.join(get_args(Policy))}")
    if not (math.isfinite(poll_seconds) and poll_seconds > 0):
        raise ValueError(f"poll_seconds={poll_seconds!r}: must be above 0")
    for what, value in (("wait_seconds", wait_seconds), ("retry_max_seconds", retry_max_seconds)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{what}={value!r}: must be 0 or more")
    for what, count in (("keep", keep), ("async_threads", async_threads)):
        if count is not None and (isinstance(count, bool) or not isinstance(count, int)):
            raise TypeError(f"{what}={count!r}: must be an int")
        if count is not None and count < 1:
            raise ValueError(f"{what}={count!r}: must be 1 or more")
    if version_directory.is_file(base):
        raise ValueError(f"base_path={str(base)!r} is a file: give the directory of the versions")
    if any(version_directory.is_file(base / name) for name in version_directory.MODEL_FILES):
        raise ValueError(
            f"base_path={str(base)!r} is a SavedModel: give the directory that holds its versions, "
            "as models/ctr for models/ctr/1; load() takes a single SavedModel"
        )
