# SPDX-License-Identifier: Apache-2.0
"""Models whose versions are replaced while requests go on."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from .run_log import SAMPLE_S, Pools, RunLog, resident_bytes
from .ways import Load, Way, read_requests


class Served(Protocol):
    """A model that serves and can be updated."""

    name: str
    requests: list[dict[str, Any]]
    way: Way
    log: RunLog
    pools: Pools

    def use(self) -> contextlib.AbstractContextManager[tuple[int, Any]]:
        """Index of the version that serves, and its model, which stays while the block runs."""

    def update(self) -> None:
        """The next version in turn, and the end of the one before."""

    def close(self) -> None:
        """The end of the last version."""


class Version:
    """A loaded version and how many requests are on it."""

    def __init__(self, index: int, model: Any) -> None:
        self.index = index
        self.model = model
        self.users = 0
        self.left = False
        self.drained = threading.Event()


class Model:
    """A model whose next version a loader thread loads beside the one that serves."""

    def __init__(self, config: dict[str, Any], way: Way, log: RunLog, pools: Pools) -> None:
        self.name = config["name"]
        self.directories = config["versions"]
        self.way = way
        self.requests = read_requests(config["requests"])
        self.warmup = read_requests(config["warmup"]) if config["warmup"] else []
        self.log = log
        self.pools = pools
        self._lock = threading.Lock()
        self._serving = self._load(0)

    def _load(self, index: int) -> Version:
        with self.log.phase(self.name, index, "restore"):
            model = self.way.load(self.directories[index])
        with self.log.phase(self.name, index, "warm_up"):
            for inputs in self.warmup:
                self.way.run(model, inputs)
        return Version(index, model)

    @contextlib.contextmanager
    def use(self) -> Iterator[tuple[int, Any]]:
        with self._lock:
            version = self._serving
            version.users += 1
        try:
            yield version.index, version.model
        finally:
            with self._lock:
                version.users -= 1
                if version.left and version.users == 0:
                    version.drained.set()

    def update(self) -> None:
        """The next version in turn, and the end of the one before."""
        old = self._serving
        index = (old.index + 1) % len(self.directories)
        with _update(self, old.index, index) as record:
            new = self._load(index)
            record["pool_bytes"] = self.pools.bytes_of(self.directories[index])
            with self.log.phase(self.name, index, "switch"), self._lock:
                self._serving = new
                old.left = True
                if old.users == 0:
                    old.drained.set()
            with self.log.phase(self.name, old.index, "drain"):
                old.drained.wait()
            with self.log.phase(self.name, old.index, "unload"):
                self.way.unload(old.model)

    def close(self) -> None:
        self.way.unload(self._serving.model)


class Hot:
    """A `HotModel` on a directory into which versions are moved."""

    def __init__(self, config: dict[str, Any], log: RunLog, pools: Pools, base: Path) -> None:
        import tf_model_pool

        self.name = config["name"]
        self.directories = config["versions"]
        self.way: Way = Load(config)
        self.requests = read_requests(config["requests"])
        self.log = log
        self.pools = pools
        self._base = base
        self._number = 0
        self._indices: dict[int, int] = {}
        self._unloaded = threading.Event()
        self._closing = False
        self._phases = contextlib.ExitStack()
        self._began = threading.Event()
        warmup = read_requests(config["warmup"]) if config["warmup"] else None
        base.mkdir(parents=True)
        self._add_version()

        def load(path: str) -> Any:
            model = self.way.load(path)
            self._indices[id(model)] = self._index(int(Path(path).name))
            return model

        self._hot = tf_model_pool.HotModel(
            base,
            poll_seconds=SAMPLE_S,
            warmup=warmup,
            loader=load,
            on_event=self._note,
        )
        self._hot.wait_for(1, timeout=600)

    def _index(self, number: int) -> int:
        return (number - 1) % len(self.directories)

    def _add_version(self) -> None:
        self._number += 1
        source = self.directories[self._index(self._number)]
        partial = self._base / "partial"
        shutil.copytree(source, partial, copy_function=_link)
        partial.rename(self._base / str(self._number))

    def _note(self, event: Any) -> None:
        """What `HotModel` says of itself, as phases."""
        if self._closing:
            return
        kind = type(event).__name__
        if kind == "LoadStarted":
            self._began.set()
        follows = {"LoadStarted": "restore", "Loaded": "switch", "Switched": "unload"}
        self._phases.close()
        if kind == "Switched" and event.previous is None:
            return  # the first version: there is none to unload
        if kind == "LoadFailed":
            self.log.found["errors"].append(f"{self.name}/{event.version}: {event.error}")
        elif kind in follows:
            index = self._index(self._number - (kind == "Switched"))
            phase = self.log.phase(self.name, index, follows[kind])
            self._phases.enter_context(phase)
        elif kind == "Unloaded":
            self._unloaded.set()

    @contextlib.contextmanager
    def use(self) -> Iterator[tuple[int, Any]]:
        with self._hot.use() as model:
            yield self._indices[id(model)], model

    def update(self) -> None:
        """Moves the next version into the directory; returns when the one before is unloaded."""
        old = self._index(self._number)
        self._unloaded.clear()
        self._began.clear()
        self._add_version()
        self._began.wait(60)
        with _update(self, old, self._index(self._number)) as record:
            self._unloaded.wait(600)
            record["pool_bytes"] = self.pools.bytes_of(str(self._base / str(self._number)))
        shutil.rmtree(self._base / str(self._number - 1))

    def close(self) -> None:
        self._closing = True
        self._hot.close()


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@contextlib.contextmanager
def _update(model: Served, old: int, new: int) -> Iterator[dict[str, Any]]:
    """Writes one update down; `pool_bytes` is the block's to set."""
    log, before = model.log, resource.getrusage(resource.RUSAGE_SELF)
    record: dict[str, Any] = {
        "model": model.name,
        "from": old,
        "to": new,
        "begin_ns": log.now(),
        "rss_before": resident_bytes(),
        "pool_bytes": 0,
    }
    mappings = model.pools.mappings()
    first_sample = len(log.found["samples"])
    yield record
    after = resource.getrusage(resource.RUSAGE_SELF)
    record |= {
        "end_ns": log.now(),
        "minor_faults": after.ru_minflt - before.ru_minflt,
        "major_faults": after.ru_majflt - before.ru_majflt,
        "rss_after": resident_bytes(),
        "pool_mappings_delta": model.pools.mappings() - mappings,
    }
    seen = [sample["rss_bytes"] for sample in log.found["samples"][first_sample:]]
    record["rss_peak"] = max([*seen, record["rss_before"], record["rss_after"]])
    log.found["updates"].append(record)
