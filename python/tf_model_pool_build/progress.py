# SPDX-License-Identifier: Apache-2.0
"""One line per stage on standard error; on a terminal the line also moves while the stage runs.

Elsewhere a stage that runs for long writes a further line now and then.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO


class Progress:
    """Reports stages. `update` may be called from any thread.

    Args:
        stream: where to write; standard error by default, because standard output carries
            the path of the wheel.
        quiet: report nothing.
    """

    _SECONDS_BETWEEN_UPDATES = 0.2
    _SECONDS_BETWEEN_LINES = 30.0

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._quiet = quiet
        self._moves = self._stream.isatty()
        self._between = (
            self._SECONDS_BETWEEN_UPDATES if self._moves else self._SECONDS_BETWEEN_LINES
        )
        self._lock = threading.Lock()
        self._last_update = 0.0
        self._title = ""

    @contextlib.contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Names the stage when it starts, and says how long it took when it ends well."""
        self._title = title
        started = time.monotonic()
        if not self._moves:
            self._last_update = started
        self._write(f"{title} ...", moving=True)
        yield
        self._write(f"{title} ... done in {time.monotonic() - started:.1f} s", moving=False)

    def update(self, what: str, done: int, total: int) -> None:
        """Shows `done` of `total`; on anything but a terminal, every half a minute."""
        now = time.monotonic()
        if total <= 0 or now - self._last_update < self._between:
            return
        self._last_update = now
        self._write(f"{self._title} ... {what} {100 * done // total} %", moving=True)

    def note(self, text: str) -> None:
        """A line of its own."""
        self._write(text, moving=False)

    def _write(self, text: str, *, moving: bool) -> None:
        if self._quiet:
            return
        with self._lock:
            if self._moves:
                self._stream.write(f"\r\033[K{text}" + ("" if moving else "\n"))
            else:
                self._stream.write(f"{text}\n")
            self._stream.flush()
