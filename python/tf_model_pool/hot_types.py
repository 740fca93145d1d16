# SPDX-License-Identifier: Apache-2.0
"""What the parts of `HotModel` have in common: options, versions, and what is said of both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

Policy = Literal["availability", "resource"]
#: Signatures, each with the outputs that calls named, or None for all.
AskedFor = list[tuple[str, tuple[str, ...] | None]]
Warmup = Literal["file"] | Iterable[Mapping[str, object]] | Callable[[Any], object] | None


class Model(Protocol):
    """What a loader returns: `LoadedModel`, or anything that can stand in for one.

    One that has `asked_for`, `prepare` and `cold_requests`, as `LoadedModel` has them, is prepared
    for what the version before it was asked for.
    """

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
        cold_requests: those that made executors first, because no load had.
        requests_in_flight: those that have not returned.
        storage_failures: how often the base directory could not be listed.
        newest_version: the newest that the last look found on disk, None if it found none.
        failed_versions: how many of those on disk did not load when they were tried last.
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
    cold_requests: int
    requests_in_flight: int
    storage_failures: int
    newest_version: int | None
    failed_versions: int


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

    __slots__ = ("_cold_before", "model", "retired", "users", "version")

    def __init__(self, version: int, model: Model) -> None:
        self.version = version
        self.model = model
        self.users = 0
        self.retired = False
        self._cold_before = _cold_requests(model)  # of its warm-up

    def cold_requests(self) -> int:
        """Of the calls since it was loaded; 0 if the model does not count them."""
        return _cold_requests(self.model) - self._cold_before


def _cold_requests(model: Model) -> int:
    try:
        count = getattr(model, "cold_requests", 0)
    except Exception:  # a loader's model; only a number is lost
        return 0
    return count if isinstance(count, int) else 0
