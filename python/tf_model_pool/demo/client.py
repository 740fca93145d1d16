# SPDX-License-Identifier: Apache-2.0
"""The load generator of the demonstration: a program of its own, without TensorFlow.

Open loop: each request has a moment at which it is due, whatever became of those before it, and its
latency counts from that moment. Runs until standard input ends, then writes a record for each
request to standard output. One connection, inherited, for each request thread of the server.
"""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Sequence

#: A request: which of the prepared ones.
REQUEST = struct.Struct("<i")
#: An answer's head: the versions that served before and after, and the length of what follows.
ANSWER = struct.Struct("<iii")
#: Due and answered, nanoseconds of the monotonic clock; number; versions before and after; bytes.
RECORD = struct.Struct("<qqiiii")
#: The status of an answer that is an error.
FAILED = -1


def receive(connection: socket.socket, count: int) -> bytes:
    """That many bytes. Raises ConnectionError if the other end is gone."""
    data = connection.recv(count, socket.MSG_WAITALL)
    if len(data) < count:
        raise ConnectionError("the server is gone")
    return data


class OpenLoop:
    """Threads that take requests in the order in which they are due.

    A thread that is free waits for the next one's moment; one that comes late sends at once. Gaps
    are exponential, as of requests that do not know of each other.
    """

    def __init__(self, connections: Sequence[socket.socket], rate: float, kinds: int) -> None:
        self._rate = rate
        self._kinds = kinds
        self._gaps = random.Random(1)
        self._lock = threading.Lock()
        self._due = time.monotonic()
        self._count = 0
        self._ended = False
        self._answers: list[list[tuple[bytes, bytes]]] = [[] for _ in connections]
        self._threads = [
            threading.Thread(target=self._work, args=each, daemon=True)
            for each in zip(connections, self._answers, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> list[tuple[bytes, bytes]]:
        """Sends no more; returns a record and the answer's bytes for each request."""
        self._ended = True
        for thread in self._threads:
            thread.join()
        return [each for answers in self._answers for each in answers]

    def _work(self, connection: socket.socket, answers: list[tuple[bytes, bytes]]) -> None:
        # The server may be gone, and says why.
        with contextlib.suppress(ConnectionError):
            self._send(connection, answers)

    def _send(self, connection: socket.socket, answers: list[tuple[bytes, bytes]]) -> None:
        while not self._ended:
            with self._lock:
                self._due += self._gaps.expovariate(self._rate)
                due, number = self._due, self._count
                self._count += 1
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            connection.sendall(REQUEST.pack(number % self._kinds))
            before, after, size = ANSWER.unpack(receive(connection, ANSWER.size))
            answer = receive(connection, size) if size > 0 else b""
            ended = time.monotonic_ns()
            record = RECORD.pack(round(due * 1e9), ended, number % self._kinds, before, after, size)
            answers.append((record, answer))


def main(arguments: Sequence[str]) -> int:
    """`RATE KINDS DESCRIPTOR...`."""
    # Ctrl-C goes to the terminal's whole process group: the server ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rate, kinds, *descriptors = arguments
    loop = OpenLoop(
        [socket.socket(fileno=int(each)) for each in descriptors], float(rate), int(kinds)
    )
    sys.stdin.buffer.read()
    found = b"".join(record + answer for record, answer in loop.end())
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.buffer.write(found)
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
