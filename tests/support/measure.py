# SPDX-License-Identifier: Apache-2.0
"""What a process can learn about its own memory, and how to wait for it."""

from __future__ import annotations

import dataclasses
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path

PAGE_BYTES = resource.getpagesize()
#: Long enough for a loaded machine; only a failing test waits this long.
DEADLINE_SECONDS = 60.0


@dataclasses.dataclass(frozen=True)
class Mapping:
    """One line of /proc/self/maps."""

    start: int
    end: int
    permissions: str

    def holds(self, address: int) -> bool:
        """Whether `address` lies in this mapping."""
        return self.start <= address < self.end


def mappings() -> list[Mapping]:
    """The mappings of this process."""
    found = []
    for line in Path("/proc/self/maps").read_text(encoding="ascii", errors="replace").splitlines():
        addresses, permissions = line.split()[:2]
        start, end = (int(part, 16) for part in addresses.split("-"))
        found.append(Mapping(start, end, permissions))
    return found


def resident_bytes() -> int:
    """Resident set size of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE_BYTES


def minor_faults() -> int:
    """Page faults of this process, all threads, that needed no disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def wait_until(what: str, condition: Callable[[], bool]) -> None:
    """Returns when `condition()` holds. Raises TimeoutError naming `what` after a deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    never = threading.Event()
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {DEADLINE_SECONDS:.0f} s for: {what}")
        never.wait(0.005)
