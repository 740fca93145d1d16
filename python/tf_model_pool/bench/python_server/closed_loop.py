# SPDX-License-Identifier: Apache-2.0
"""Requests that follow each other without a pause."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from .open_loop import record_dtype
from .run_log import now_ns
from .versions import Served


class ClosedLoop:
    """Request threads that each send their next request when they have the answer to the last."""

    def __init__(self, config: dict[str, Any], model: Served, threads: int) -> None:
        self._model = model
        self._calls: list[tuple[int, int]] = []
        begin = now_ns()
        end = begin + int(config["duration_s"] * 1e9)
        workers = [
            threading.Thread(target=self._work, args=(number, threads, end))
            for number in range(threads)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        self.records = np.zeros(len(self._calls), record_dtype(config))
        times = np.array(sorted(self._calls), np.int64).reshape(-1, 2) - begin
        self.records["intended_ns"] = self.records["start_ns"] = times[:, 0]
        self.records["end_ns"] = times[:, 1]

    def _work(self, thread: int, threads: int, end: int) -> None:
        requests, run, use = self._model.requests, self._model.way.run, self._model.use
        calls: list[tuple[int, int]] = []
        number = thread
        while (start := now_ns()) < end:
            with use() as (_, loaded):
                run(loaded, requests[number % len(requests)])
            calls.append((start, now_ns()))
            number += threads
        self._calls += calls
