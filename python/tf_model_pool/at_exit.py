# SPDX-License-Identifier: Apache-2.0
"""How long calls and loads in flight may delay the end of the interpreter, all together."""

from __future__ import annotations

import time

#: In seconds.
LONGEST_WAIT = 10.0

_deadline: float | None = None


def seconds_left() -> float:
    """What is left of the wait, 0 if nothing is. The first call begins it."""
    global _deadline
    now = time.monotonic()
    if _deadline is None:
        _deadline = now + LONGEST_WAIT
    return max(0.0, _deadline - now)
