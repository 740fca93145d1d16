# SPDX-License-Identifier: Apache-2.0
"""From records of requests to exact percentiles, steady and in updates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

#: Begin and end, nanoseconds of the monotonic clock.
Span = tuple[int, int]
_QUANTILES = (0.5, 0.99, 0.999, 1.0)
_HEAD = ("p50", "p99", "p99.9", "worst")


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One request.

    Attributes:
        due_ns: when it was to be sent, by the monotonic clock.
        end_ns: when its answer was there.
        kind: which of the prepared requests.
        before: the version that served before it ran, 0 if none did.
        after: that after it ran.
        answer: the bytes of the answer; None if it failed.
    """

    due_ns: int
    end_ns: int
    kind: int
    before: int
    after: int
    answer: bytes | None


def percentile(ordered: Sequence[float], quantile: float) -> float:
    """The smallest value that at least that share of the values do not exceed; NaN of none."""
    if not ordered:
        return math.nan
    return ordered[max(math.ceil(quantile * len(ordered) - 1e-9), 1) - 1]


def split(
    records: Iterable[Record], begin_ns: int, updates: Sequence[Span]
) -> tuple[list[float], list[float]]:
    """Latencies in ms of those due from `begin_ns`, in order of size: steady, and in updates.

    A request that was under way during any part of an update counts as one of the update.
    """
    steady: list[float] = []
    updating: list[float] = []
    for record in records:
        if record.due_ns < begin_ns:
            continue
        touched = any(begin <= record.end_ns and record.due_ns <= end for begin, end in updates)
        (updating if touched else steady).append((record.end_ns - record.due_ns) / 1e6)
    return sorted(steady), sorted(updating)


def table(steady: Sequence[float], updating: Sequence[float], warm_up: int) -> str:
    """Both as text, and the number of requests before them, so that all add up."""
    lines = [f"{'':<13} {'REQUESTS':>8}" + "".join(f"{name:>9}" for name in _HEAD) + "  ms"]
    lines.append(f"{'warm-up':<13} {warm_up:>8,}     not measured")
    for name, ordered in (("steady", steady), ("in an update", updating)):
        values = "".join(f"{percentile(ordered, quantile):>9.2f}" for quantile in _QUANTILES)
        lines.append(f"{name:<13} {len(ordered):>8,}{values}")
    return "\n".join(lines)
