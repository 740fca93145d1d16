# SPDX-License-Identifier: Apache-2.0
"""Second part of the demonstration: a `HotModel` serves another process through updates."""

from __future__ import annotations

import os
import queue
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tf_model_pool import api, stats
from tf_model_pool.demo import latencies, model
from tf_model_pool.demo.checks import Checks
from tf_model_pool.demo.latencies import Record, Span
from tf_model_pool.demo.requests import Requests
from tf_model_pool.errors import ModelPoolError, NotActiveError
from tf_model_pool.hot_events import HotEvent, LoadFailed, LoadStarted, Unloaded
from tf_model_pool.hot_model import HotModel
from tf_model_pool.load import load

#: What is deployed in turn, under growing numbers.
CONTENTS = (1, 2)
SIZE = model.Size(users=800_000, items=100_000)
UPDATES = 10
RATE = 400.0
THREADS = 2
CANDIDATES = 64

_KINDS = 16
_WARM_SECONDS = 0.5
_STEADY_SECONDS = 2.5
_BETWEEN_SECONDS = 0.3
_PATIENCE_SECONDS = 60.0


def run(directory: Path, checks: Checks) -> None:
    """Runs below `directory`, prints the latencies, and checks every answer.

    Raises:
        ModelPoolError: the SavedModels cannot be written, or an update did not happen.
    """
    print("\nServing through updates: a HotModel, and requests from another process")
    contents = directory / "contents"
    for content in CONTENTS:
        model.save_version(contents, content, SIZE)
    inputs = _inputs()
    try:
        expected = [_answers(contents / str(content), inputs) for content in CONTENTS]
    except NotActiveError as error:
        print(f"  left out: {error}")
        return
    print(
        f"  {stats.format_bytes(model.weight_bytes(SIZE))} of weights a version, {UPDATES} updates,"
        f" {RATE:g} requests/s of {CANDIDATES} candidates, {THREADS} threads"
    )
    served = _Serving(contents, directory / "ctr")
    records = served.run(inputs)

    steady, updating = latencies.split(records, served.begin_ns, served.updates)
    warm_up = len(records) - len(steady) - len(updating)
    for line in latencies.table(steady, updating, warm_up).splitlines():
        print(f"  {line}")
    failed = sum(record.answer is None for record in records)
    checks.that("no request failed", not failed, f"{failed} of {len(records):,} did")
    wrong = sum(not right(record, expected) for record in records) - failed
    checks.that(
        "every answer is, bit for bit, that of a version that served while it ran",
        not wrong,
        f"{wrong} of {len(records):,} are not",
    )
    if served.mappings is not None:
        before, after = served.mappings
        checks.that(
            "updates after the second made no new mapping",
            before == after,
            f"{before} before, {after} after",
        )


def right(record: Record, expected: list[list[bytes]]) -> bool:
    """True if the answer is that of a version between the two that served."""
    return record.before > 0 and any(
        record.answer == expected[(version - 1) % len(expected)][record.kind]
        for version in range(record.before, record.after + 1)
    )


class _Serving:
    """One run.

    Attributes:
        begin_ns: from when on requests count, by the monotonic clock.
        updates: from the begin of each load to the end of the unloading after it.
        mappings: how many there were after the second update, and at the end; None if memory is
            given back between updates.
    """

    def __init__(self, contents: Path, base: Path) -> None:
        self.begin_ns = 0
        self.updates: list[Span] = []
        self.mappings: tuple[int, int] | None = None
        self._contents = contents
        self._base = base
        self._events: queue.SimpleQueue[tuple[int, HotEvent]] = queue.SimpleQueue()

    def run(self, inputs: list[dict[str, Any]]) -> list[Record]:
        """Serves, updates, and returns what became of each request."""
        keeps = api.settings()["TF_MODEL_POOL_RETAIN"] not in ("release", "0")
        self._deploy(1)
        with HotModel(self._base, poll_seconds=0.1, on_event=self._note, name="ctr") as hot:
            hot.wait_for(1, _PATIENCE_SECONDS)
            self._clear_events()
            with Requests(hot, inputs, "score", RATE, THREADS) as requests:
                time.sleep(_WARM_SECONDS)
                self.begin_ns = time.monotonic_ns()
                time.sleep(_STEADY_SECONDS)
                mappings = 0
                for version in range(2, UPDATES + 2):
                    self._update(version)
                    if version == 3:
                        mappings = api.totals().num_mappings
                    time.sleep(_BETWEEN_SECONDS)
                self.mappings = (mappings, api.totals().num_mappings) if keeps else None
                return requests.end()

    def _update(self, version: int) -> None:
        self._deploy(version)
        begin_ns = self._wait_for(LoadStarted)
        end_ns = self._wait_for(Unloaded)
        self.updates.append((begin_ns, end_ns))
        shutil.rmtree(self._base / str(version - 1))

    def _deploy(self, version: int) -> None:
        """Under another name first, so that it comes whole."""
        source = self._contents / str(CONTENTS[(version - 1) % len(CONTENTS)])
        partial = self._base / "partial"
        try:
            shutil.copytree(source, partial, copy_function=_link)
            partial.rename(self._base / str(version))
        except OSError as error:
            raise ModelPoolError(f"cannot copy {source}: {error}") from error

    def _note(self, event: HotEvent) -> None:
        self._events.put((time.monotonic_ns(), event))

    def _clear_events(self) -> None:
        while not self._events.empty():
            self._events.get()

    def _wait_for(self, kind: type[HotEvent]) -> int:
        """The moment of the next event of that kind."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                at_ns, event = self._events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise ModelPoolError(
                    f"no update after {_PATIENCE_SECONDS:g} s: the HotModel has not reported "
                    f"{kind.__name__}"
                ) from None
            if isinstance(event, LoadFailed):
                raise ModelPoolError(f"version {event.version} does not load: {event.error}")
            if isinstance(event, kind):
                return at_ns


def _inputs() -> list[dict[str, Any]]:
    import numpy as np

    random = np.random.default_rng(0)
    return [
        {
            "user": random.integers(SIZE.users, size=CANDIDATES, dtype=np.int32),
            "item": random.integers(SIZE.items, size=CANDIDATES, dtype=np.int32),
        }
        for _ in range(_KINDS)
    ]


def _answers(path: Path, inputs: Iterable[dict[str, Any]]) -> list[bytes]:
    """What a version answers that is loaded alone."""
    with load(path) as alone:
        return [alone(each)["score"].tobytes() for each in inputs]


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
