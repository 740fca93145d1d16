# SPDX-License-Identifier: Apache-2.0
"""The machine: what it is, and whether somebody else used it during a run."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")


def _text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _first(pattern: str, text: str | None) -> str | None:
    found = re.search(pattern, text or "", re.MULTILINE)
    return found.group(1).strip() if found else None


def describe() -> dict[str, Any]:
    """What a reader needs to know about the machine; unknown values are None."""
    cpuinfo, meminfo = _text("/proc/cpuinfo"), _text("/proc/meminfo")
    thp = _text("/sys/kernel/mm/transparent_hugepage/enabled")
    kilobytes = _first(r"^MemTotal:\s+(\d+) kB", meminfo)
    return {
        "kernel": platform.release(),
        "kernel_version": platform.version(),
        "architecture": platform.machine(),
        "libc": " ".join(platform.libc_ver()),
        "cpu_model": _first(r"^model name\s*:\s*(.+)$", cpuinfo),
        "cpu_count": os.cpu_count(),
        "usable_cpus": sorted(os.sched_getaffinity(0)),
        "hypervisor": "hypervisor" in (_first(r"^flags\s*:\s*(.+)$", cpuinfo) or "").split(),
        "memory_bytes": int(kilobytes) * 1024 if kilobytes else None,
        "swap_total_kb": _first(r"^SwapTotal:\s+(\d+)", meminfo),
        "transparent_huge_pages": _first(r"\[(\w+)\]", thp),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "overcommit_memory": _text("/proc/sys/vm/overcommit_memory"),
    }


@dataclasses.dataclass(frozen=True)
class CpuTimes:
    """Seconds since boot, summed over all CPUs."""

    busy: float
    idle: float
    steal: float

    @classmethod
    def parse(cls, stat: str) -> CpuTimes:
        """From the text of /proc/stat (proc_stat(5))."""
        fields = [int(v) / _TICKS for v in stat.splitlines()[0].split()[1:]]
        user, nice, system, idle, iowait, irq, softirq, steal = (fields + [0.0] * 8)[:8]
        return cls(user + nice + system + irq + softirq, idle + iowait, steal)

    @classmethod
    def now(cls) -> CpuTimes:
        """Reads /proc/stat."""
        return cls.parse(Path("/proc/stat").read_text(encoding="ascii"))


@dataclasses.dataclass(frozen=True)
class Limits:
    """From when on a run counts as disturbed, as shares of all CPU time."""

    steal: float = 0.01
    foreign: float = 0.04


def disturbance(
    before: CpuTimes, after: CpuTimes, own_seconds: float, limits: Limits
) -> tuple[dict[str, float], list[str]]:
    """How much others used the machine, and why the run is invalid (empty = valid).

    Args:
        own_seconds: CPU time of the driver, its burners and the orchestrator in between.
    """
    busy, idle, steal = (
        after.busy - before.busy,
        after.idle - before.idle,
        after.steal - before.steal,
    )
    total = max(busy + idle + steal, 1e-9)
    foreign = max(0.0, busy - own_seconds) / total
    seen = {
        "steal_share": steal / total,
        "foreign_share": foreign,
        "busy_share": busy / total,
        "own_cpu_seconds": own_seconds,
    }
    reasons = []
    if seen["steal_share"] > limits.steal:
        reasons.append(
            f"the hypervisor took {seen['steal_share']:.1%} of CPU time (limit {limits.steal:.1%})"
        )
    if foreign > limits.foreign:
        reasons.append(
            f"other processes used {foreign:.1%} of CPU time (limit {limits.foreign:.1%})"
        )
    return seen, reasons


def split_cpus(usable: list[int]) -> tuple[list[int] | None, list[int] | None]:
    """(generator, server) CPUs. With fewer than four nothing is pinned: the server needs them."""
    if len(usable) < 4:
        return None, None
    return [usable[-1]], usable[:-1]
