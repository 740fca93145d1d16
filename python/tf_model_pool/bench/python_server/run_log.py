# SPDX-License-Identifier: Apache-2.0
"""What is written down besides requests: phases, updates, burns, samples, errors."""

from __future__ import annotations

import contextlib
import resource
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SAMPLE_S = 0.1

now_ns = time.monotonic_ns


def write_whole(path: Path, data: bytes) -> None:
    """Under a temporary name first: what has its name is whole."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.rename(path)


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class RunLog:
    """Phases, updates, burns, samples and errors; times are from `zero_ns`."""

    def __init__(self) -> None:
        self.zero_ns = 0
        self.found: dict[str, list[Any]] = {
            name: [] for name in ("phases", "updates", "stalls", "burns", "samples", "errors")
        }

    def clear(self) -> None:
        """Forgets what there is."""
        for entries in self.found.values():
            entries.clear()

    def now(self) -> int:
        """Nanoseconds since zero."""
        return now_ns() - self.zero_ns

    @contextlib.contextmanager
    def phase(self, model: str, version: int, name: str) -> Iterator[None]:
        begin, before = self.now(), resource.getrusage(resource.RUSAGE_SELF)
        yield
        after = resource.getrusage(resource.RUSAGE_SELF)
        self.found["phases"].append(
            {
                "model": model,
                "version": version,
                "phase": name,
                "begin_ns": begin,
                "end_ns": self.now(),
                "minor_faults": after.ru_minflt - before.ru_minflt,
                "major_faults": after.ru_majflt - before.ru_majflt,
            }
        )


class Pools:
    """What the package says of the pools; nothing where it is not installed."""

    def __init__(self) -> None:
        self._package: Any = None
        with contextlib.suppress(ModuleNotFoundError):
            import tf_model_pool

            self._package = tf_model_pool

    def active(self) -> bool:
        return bool(self._package and self._package.is_active())

    def status(self) -> str:
        if self._package is None:
            return "tf_model_pool is not installed"
        return self._package.inactive_reason() or ""

    def mappings(self) -> int:
        return self._package.totals().num_mappings if self.active() else 0

    def bytes_of(self, directory: str) -> int:
        if not self.active():
            return 0
        path = Path(directory)
        return sum(
            pool.bytes_in_use
            for pool in self._package.pools()
            if Path(pool.model_dir, pool.version) == path and pool.state != "standby"
        )


class Sampler(threading.Thread):
    """Memory and CPU time of the process, ten times a second."""

    def __init__(self, log: RunLog) -> None:
        super().__init__(daemon=True)
        self._log = log
        self._stop_now = threading.Event()
        self.peak = 0

    def run(self) -> None:
        while not self._stop_now.wait(SAMPLE_S):
            self.sample()

    def sample(self) -> None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        resident = resident_bytes()
        self.peak = max(self.peak, resident)
        self._log.found["samples"].append(
            {
                "at_ns": self._log.now(),
                "rss_bytes": resident,
                "minor_faults": usage.ru_minflt,
                "major_faults": usage.ru_majflt,
                "utime_ns": int(usage.ru_utime * 1e9),
                "stime_ns": int(usage.ru_stime * 1e9),
            }
        )

    def stop(self) -> None:
        self._stop_now.set()
        self.join()
