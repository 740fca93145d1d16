# SPDX-License-Identifier: Apache-2.0
"""Which version of a `HotModel` is loaded next, serves, and stays."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path

from tf_model_pool import version_directory
from tf_model_pool.hot_loading import Failure
from tf_model_pool.hot_types import Options
from tf_model_pool.version_directory import Fingerprint


@dataclasses.dataclass(frozen=True, slots=True)
class Situation:
    """What a choice depends on, beside the files.

    Attributes:
        found: directories by version.
        loaded: versions in memory that may serve.
        serving: the one that does, None if none does.
        pinned: the one that `reload` asked for last.
        failures: of versions that did not load.
    """

    found: Mapping[int, Path]
    loaded: Collection[int]
    serving: int | None
    pinned: int | None
    failures: Mapping[int, Failure]


class Choice:
    """Remembers what the thread has seen of the directory. For one thread."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._missing_since: dict[int, float] = {}
        self._gone: set[int] = set()  # loaded, and two looks a poll apart did not find them
        self._files: dict[int, tuple[Fingerprint, float]] = {}

    def note_look(self, found: Collection[int], loaded: Collection[int], now: float) -> None:
        """After the directory was listed."""
        missing = [version for version in loaded if version not in found]
        self._missing_since = {v: self._missing_since.get(v, now) for v in missing}
        pause = self._options.poll_seconds
        self._gone = {v for v, since in self._missing_since.items() if now - since >= pause}
        self._files = {v: files for v, files in self._files.items() if v in found}

    def note_load(self, version: int) -> None:
        """After a version was loaded from its directory."""
        self._gone.discard(version)

    def next_load(self, seen: Situation, now: float) -> int | None:
        """The version to load now: the newest that is ready, if it is among the newest `keep`."""
        if seen.pinned is not None:
            if seen.pinned in seen.loaded:
                return None
            if seen.pinned in seen.found and self._is_ready(seen.pinned, seen, now):
                return seen.pinned
            if seen.serving is not None:
                return None
        counted = 0
        for version in sorted({*seen.found, *self._here(seen.loaded)}, reverse=True):
            if counted == self._options.keep:
                return None
            if version in seen.loaded:
                counted += 1
                continue
            ready = self._is_ready(version, seen, now)
            if ready:
                return version
            if ready is None and seen.serving is not None:
                return None  # its turn comes before that of older ones
        return None

    def best(self, seen: Situation) -> int | None:
        """The version that should serve; None if none is loaded."""
        if seen.pinned in seen.loaded:
            return seen.pinned
        here = self._here(seen.loaded)
        if here:
            return max(here)
        return max(seen.loaded, default=None) if seen.serving is None else seen.serving

    def stay(self, best: int, loaded: Collection[int]) -> set[int]:
        """Those that need not be unloaded while `best` serves."""
        others = sorted((v for v in self._here(loaded) if v != best), reverse=True)
        return {best, *others[: self._options.keep - 1]}

    def _here(self, loaded: Collection[int]) -> list[int]:
        return [version for version in loaded if version not in self._gone]

    def _is_ready(self, version: int, seen: Situation, now: float) -> bool | None:
        """True if a version can be tried now, None if it will be soon."""
        directory = seen.found[version]
        if not version_directory.is_saved_model(directory):
            return False
        files = version_directory.fingerprint(directory)
        if version not in self._files or self._files[version][0] != files:
            self._files[version] = (files, now)
        failure = seen.failures.get(version)
        if failure is not None and failure.files == files:
            if self._options.policy == "resource" and seen.serving is not None:
                return False  # each try would be an outage
            return now >= failure.retry_at
        if now - self._files[version][1] >= self._options.poll_seconds:
            return True
        if seen.serving is None and (failure is None or now >= failure.retry_at):
            return True  # it may be complete, and nothing is lost if not
        return None
