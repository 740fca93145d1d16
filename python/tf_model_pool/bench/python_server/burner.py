# SPDX-License-Identifier: Apache-2.0
"""The controls: the native driver's burner."""

from __future__ import annotations

import mmap
import os
import struct
import subprocess
import time
from typing import Any

from .run_log import RunLog


class Burner:
    """The native driver's burner: a process of the idle scheduling class that keeps a core busy.

    Parent and child share five integers: ready, burning, duration_ns, bytes, written.
    """

    _READY, _BURNING, _DURATION, _BYTES, _WRITTEN = range(0, 40, 8)

    def __init__(self, program: str) -> None:
        memory = os.memfd_create("burner", 0)
        os.ftruncate(memory, 40)
        self._shared = mmap.mmap(memory, 40)
        end, self._wake = os.pipe()
        os.set_inheritable(self._wake, False)
        self._child = subprocess.Popen(
            [program, "--burn", str(memory), str(end), str(os.getpid())], pass_fds=(memory, end)
        )
        os.close(memory)
        os.close(end)
        while not self._get(self._READY):
            if self._child.poll() is not None:
                raise RuntimeError(f"{program} --burn ended with status {self._child.returncode}")
            time.sleep(0.001)

    def _get(self, offset: int) -> int:
        return int(struct.unpack_from("<q", self._shared, offset)[0])

    def _set(self, offset: int, value: int) -> None:
        struct.pack_into("<q", self._shared, offset, value)

    def burn(self, entry: dict[str, Any], log: RunLog) -> None:
        """Burns for `entry`'s duration."""
        stream = entry["action"] == "burn_stream"
        begin = log.now()
        self._set(self._DURATION, int(entry["duration_s"] * 1e9))
        self._set(self._BYTES, entry["bytes"] if stream else 0)
        self._set(self._WRITTEN, 0)
        self._set(self._BURNING, 1)
        os.write(self._wake, b"+")
        time.sleep(entry["duration_s"])
        self._set(self._BURNING, 0)
        log.found["burns"].append(
            {
                "kind": entry["action"],
                "policy": "idle",
                "pid": self._child.pid,
                "begin_ns": begin,
                "end_ns": log.now(),
                "bytes": self._get(self._WRITTEN),
            }
        )

    def close(self) -> None:
        self._child.kill()
        self._child.wait()
