# SPDX-License-Identifier: Apache-2.0
"""Requests: when they are due, and the threads and the process that send them."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .run_log import now_ns, write_whole

#: A request on its way to the server: model and number.
REQUEST = struct.Struct("<ii")


def schedule(config: dict[str, Any]) -> list[tuple[int, int, int]]:
    """(intended_ns, model, number) of every request, in order of time."""
    found: list[tuple[int, int, int]] = []
    for index, model in enumerate(config["models"]):
        rate, duration = model["rate"], config["duration_s"]
        if rate <= 0:
            continue
        if config["load"]["arrival"] == "fixed":
            due = np.arange(1, int(duration * rate) + 1) / rate
        else:
            rng = np.random.default_rng([config["seed"], index])
            gaps = rng.exponential(1 / rate, int(duration * rate * 1.2) + 100)
            due = np.cumsum(gaps)
        due = due[due <= duration]
        found += [(round(at * 1e9), index, number) for number, at in enumerate(due)]
    return sorted(found)


def record_dtype(config: dict[str, Any]) -> np.dtype[Any]:
    return np.dtype([tuple(field) for field in config["python"]["record"]])


class OpenLoop:
    """Request threads that take requests in the order in which they are due.

    A thread that is free waits for the next request's moment; one that comes late sends at once.
    Latency counts from the moment in either case.
    """

    def __init__(
        self, config: dict[str, Any], sends: Sequence[Callable[[int, int], bytes]], zero_ns: int
    ) -> None:
        self._schedule = schedule(config)
        self._zero_ns = zero_ns
        self._lock = threading.Lock()
        self._next = 0
        self.records = np.zeros(len(self._schedule), record_dtype(config))
        self._threads = [
            threading.Thread(target=self._work, args=(number, send), daemon=True)
            for number, send in enumerate(sends)
        ]
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Returns when every request was answered."""
        for thread in self._threads:
            thread.join()

    def _work(self, thread: int, send: Callable[[int, int], bytes]) -> None:
        dtype = self.records.dtype
        while True:
            with self._lock:
                index = self._next
                self._next += 1
            if index >= len(self._schedule):
                return
            intended_ns, model, number = self._schedule[index]
            wait = self._zero_ns + intended_ns - now_ns()
            if wait > 0:
                time.sleep(wait / 1e9)
            answer = send(model, number)
            end_ns = now_ns() - self._zero_ns
            record = np.frombuffer(answer, dtype)[0].copy()
            record["intended_ns"], record["end_ns"] = intended_ns, end_ns
            record["model"], record["thread"] = model, thread
            self.records[index] = record


def run_client(config: dict[str, Any], output: Path, connections: list[int], control: int) -> None:
    """The other process: one connection for each request thread of the server."""
    if cpus := config["load"].get("generator_cpus"):
        os.sched_setaffinity(0, cpus)
    size = record_dtype(config).itemsize

    def sender(descriptor: int) -> Callable[[int, int], bytes]:
        connection = socket.socket(fileno=descriptor)

        def send(model: int, number: int) -> bytes:
            connection.sendall(REQUEST.pack(model, number))
            answer = connection.recv(size, socket.MSG_WAITALL)
            if len(answer) < size:
                os._exit(1)  # the server is gone, and says why
            return answer

        return send

    sends = [sender(descriptor) for descriptor in connections]
    server = socket.socket(fileno=control)
    server.sendall(b"+")
    zero = server.recv(8, socket.MSG_WAITALL)
    if len(zero) < 8:
        return
    loop = OpenLoop(config, sends, struct.unpack("<q", zero)[0])
    loop.join()
    write_whole(output / "requests.bin", loop.records.tobytes())
