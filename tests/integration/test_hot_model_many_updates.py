# SPDX-License-Identifier: Apache-2.0
"""`HotModel` through many updates under load: no wrong answer, and nothing that grows.

`TF_MODEL_POOL_TEST_UPDATES` says how many; with 200 it takes a minute or two.
"""

from __future__ import annotations

import gc
import mmap
import os
import queue
import resource
import shutil
import statistics
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tf_model_pool
from support import models
from support.children import Places
from support.hot_models import PATIENCE
from tf_model_pool import HotModel, LoadFailed, Unloaded
from tf_model_pool.hot_events import HotEvent

UPDATES = int(os.environ.get("TF_MODEL_POOL_TEST_UPDATES", "20"))
THREADS = 2
REQUESTS = 8
BATCH = 32
#: Less than one of the tables, whatever the number of updates.
RSS_SLACK = 1 << 20
MAPPINGS_SLACK = 8


@dataclass
class Size:
    """This process, between two updates."""

    rss: int
    mappings: int
    threads: int

    @classmethod
    def now(cls) -> Size:
        gc.collect()
        return cls(
            int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize(),
            len(Path("/proc/self/maps").read_text().splitlines()),
            len(os.listdir("/proc/self/task")),  # noqa: PTH208
        )


def answers_alone(version: Path, requests: list[np.ndarray[Any, Any]]) -> list[bytes]:
    """What a version answers to each request if no other is in memory."""
    with tf_model_pool.load(version) as model:
        return [model(ids=ids)["score"].tobytes() for ids in requests]


def test_every_answer_is_right_and_nothing_grows(
    places: Places, tmp_path: Path, record_property: Any
) -> None:
    # GIVEN what each version answers when it is loaded alone
    sources = [places.models / "ctr" / str(number) for number in (1, 2, 3, 4)]
    requests = [models.request(number, BATCH) for number in range(REQUESTS)]
    alone = [answers_alone(source, requests) for source in sources]
    assert len({answers[0] for answers in alone}) == len(sources)
    base = tmp_path / "ctr"
    base.mkdir()
    events: queue.SimpleQueue[HotEvent] = queue.SimpleQueue()
    ended = threading.Event()
    answered: Counter[int] = Counter()

    def deploy(version: int) -> None:
        source = sources[(version - 1) % len(sources)]
        shutil.copytree(source, base / "partial", copy_function=os.link)
        (base / "partial").rename(base / str(version))

    def note(event: HotEvent) -> None:
        if isinstance(event, (LoadFailed, Unloaded)):
            events.put(event)

    def call(hot: HotModel, thread: int) -> int:
        calls = 0
        while not ended.is_set():
            kind = (calls + thread) % REQUESTS
            before = hot.version
            score = hot(ids=requests[kind])["score"].tobytes()
            after = hot.version
            assert before is not None
            assert after is not None
            served = [
                version
                for version in range(before, after + 1)
                if alone[(version - 1) % len(sources)][kind] == score
            ]
            assert served, f"request {kind} between versions {before} and {after}"
            answered[served[0]] += 1
            calls += 1
        return calls

    # WHEN version after version is deployed while calls never rest
    deploy(1)
    sizes: list[Size] = []
    with (
        HotModel(base, poll_seconds=0.02, on_event=note) as hot,
        ThreadPoolExecutor(THREADS) as executor,
    ):
        hot.wait_for(1, PATIENCE)
        calls = [executor.submit(call, hot, thread) for thread in range(THREADS)]
        try:
            for version in range(2, 2 + UPDATES):
                deploy(version)
                event = events.get(timeout=PATIENCE)
                assert isinstance(event, Unloaded), event
                assert event.version == version - 1
                shutil.rmtree(base / str(version - 1))
                sizes.append(Size.now())
        finally:
            ended.set()
        # THEN every answer was, bit for bit, that of a version that served while it ran
        count = sum(found.result() for found in calls)
        stats = hot.stats()
    assert (stats.requests, stats.request_errors) == (count, 0)
    assert (stats.loads, stats.load_failures) == (1 + UPDATES, 0)
    assert len(answered) >= UPDATES
    # AND nothing grew from the second quarter to the last
    quarter = max(UPDATES // 4, 1)
    early, late = sizes[quarter : 2 * quarter], sizes[-quarter:]

    def growth(what: str) -> float:
        first, last = (
            statistics.median(getattr(size, what) for size in part) for part in (early, late)
        )
        record_property(what, f"{first:g} to {last:g}")
        print(f"{what}: {first:g} to {last:g}")
        return float(last - first)

    print(f"{UPDATES} updates, {count} calls")
    assert growth("threads") <= 0
    assert growth("mappings") <= MAPPINGS_SLACK
    assert growth("rss") <= RSS_SLACK
    # AND two slots were enough
    mine = [pool for pool in tf_model_pool.pools() if pool.model_dir == str(base)]
    assert len(mine) == 2
    assert {pool.bytes_in_use for pool in mine} == {0}


def test_the_number_of_updates_is_enough_to_see_growth() -> None:
    assert UPDATES >= 8, "TF_MODEL_POOL_TEST_UPDATES is below 8"


@pytest.mark.parametrize("what", ["rss", "mappings", "threads"])
def test_a_size_shows_what_grew(what: str) -> None:
    # GIVEN memory, mappings and a thread more
    before = Size.now()
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    held = [mmap.mmap(-1, 1 << 20, prot=mmap.PROT_READ | mmap.PROT_WRITE) for _ in range(64)]
    for index, each in enumerate(held):
        each.write(b"x" * (1 << 20))
        if index % 2:  # neighbours of one kind are one mapping
            each.madvise(mmap.MADV_DONTFORK)
    try:
        after = Size.now()
    finally:
        ended.set()
        thread.join()
        for each in held:
            each.close()
    slack = {"rss": RSS_SLACK, "mappings": MAPPINGS_SLACK, "threads": 0}
    assert getattr(after, what) - getattr(before, what) > slack[what]
