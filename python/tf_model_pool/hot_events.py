# SPDX-License-Identifier: Apache-2.0
"""What a `HotModel` tells its `on_event`: one class for each thing that happens.

Events come one at a time, in order, on the model's own thread: what a handler does there delays
the next load, never a request. A handler that raises is logged, and the next event comes all the
same. `reload`, `wait_for` and `use` would wait for the thread that runs the handler: they raise.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class HotEvent:
    """Root of the events.

    Attributes:
        model: the `HotModel`'s name.
    """

    model: str


@dataclasses.dataclass(frozen=True, slots=True)
class LoadStarted(HotEvent):
    """A version is being loaded, for the first time or again.

    Attributes:
        version: the directory's number.
    """

    version: int


@dataclasses.dataclass(frozen=True, slots=True)
class Loaded(HotEvent):
    """A version is loaded and warmed up, and can serve.

    Attributes:
        version: the directory's number.
        seconds: duration of load and warm-up.
    """

    version: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class LoadFailed(HotEvent):
    """A version did not load. What served before serves on.

    Attributes:
        version: the directory's number.
        error: what the load raised.
        failures: how often in a row this version did not load, 1 for the first time.
        retry_seconds: pause before the next try; None if only a change of the version's files,
            or `reload`, brings one.
    """

    version: int
    error: BaseException
    failures: int
    retry_seconds: float | None


@dataclasses.dataclass(frozen=True, slots=True)
class Switched(HotEvent):
    """Calls that begin from now on go to another version.

    Attributes:
        version: the version that serves; None if none does, which policy "resource" and `close`
            bring about.
        previous: the version that served, None if none did.
    """

    version: int | None
    previous: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class Unloaded(HotEvent):
    """The last call of a version has returned, and its memory has gone back.

    Attributes:
        version: the directory's number.
        seconds: duration of the model's `close()`.
    """

    version: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class StorageFailed(HotEvent):
    """The base directory cannot be listed; what is loaded serves on. Once for each outage.

    Attributes:
        error: what listing it raised.
    """

    error: OSError


@dataclasses.dataclass(frozen=True, slots=True)
class StorageRecovered(HotEvent):
    """The base directory can be listed again."""
