# SPDX-License-Identifier: Apache-2.0
"""Servers that a test starts as programs of their own."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

#: A hang must end the run. Far above what any server takes.
PATIENCE = 300.0


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wait_until(true: Callable[[], object], server: subprocess.Popen[Any]) -> None:
    """Asks again and again; a server that does not listen yet is no failure, one that ended is."""
    end = time.monotonic() + PATIENCE
    while True:
        assert server.poll() is None, f"{server.args!r} ended with status {server.returncode}"
        try:
            if true():
                return
        except OSError:
            pass
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
