# SPDX-License-Identifier: Apache-2.0
"""Request threads of the server, and the process that sends them requests."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from tf_model_pool.demo import client
from tf_model_pool.demo.client import ANSWER, FAILED, RECORD, REQUEST
from tf_model_pool.demo.latencies import Record
from tf_model_pool.errors import ModelPoolError

_END_SECONDS = 30.0


class Requests:
    """Requests to a `HotModel` from another process, from `with` to `end()`."""

    def __init__(
        self, hot: Any, inputs: Sequence[dict[str, Any]], output: str, rate: float, threads: int
    ) -> None:
        self._hot = hot
        self._inputs = inputs
        self._output = output
        self._rate = rate
        self._threads = threads
        self._client: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Requests:
        pairs = [socket.socketpair() for _ in range(self._threads)]
        theirs = [pair[1].fileno() for pair in pairs]
        command = [sys.executable, "-I", client.__file__, str(self._rate), str(len(self._inputs))]
        try:
            self._client = subprocess.Popen(
                [*command, *map(str, theirs)],
                pass_fds=theirs,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        except OSError as error:
            raise ModelPoolError(f"cannot start {sys.executable}: {error.strerror}") from error
        finally:
            for _, other in pairs:
                other.close()
        for connection, _ in pairs:
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        return self

    def end(self) -> list[Record]:
        """Ends the requests; returns what became of each.

        Raises:
            ModelPoolError: the other process did not end as it should.
        """
        assert self._client is not None
        try:
            found, _ = self._client.communicate(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise ModelPoolError(f"the requests have not ended after {_END_SECONDS:g} s") from error
        if self._client.returncode != 0:
            raise ModelPoolError(
                f"the process that sends requests ended with status {self._client.returncode}"
            )
        return read(found)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._client is not None:
            self._client.kill()
            self._client.communicate()

    def _serve(self, connection: socket.socket) -> None:
        """A request thread: answers what comes over its connection, until that is closed."""
        with connection, contextlib.suppress(ConnectionError):
            while request := connection.recv(REQUEST.size, socket.MSG_WAITALL):
                (kind,) = REQUEST.unpack(request)
                before = self._hot.version or 0
                try:
                    answer = self._hot(self._inputs[kind])[self._output].tobytes()
                except Exception as error:
                    print(f"  a request failed: {error}", file=sys.stderr)
                    connection.sendall(ANSWER.pack(before, self._hot.version or 0, FAILED))
                else:
                    head = ANSWER.pack(before, self._hot.version or 0, len(answer))
                    connection.sendall(head + answer)


def read(found: bytes) -> list[Record]:
    """The records that the other process wrote."""
    records = []
    at = 0
    while at < len(found):
        due, end, kind, before, after, size = RECORD.unpack_from(found, at)
        at += RECORD.size
        answer = None if size == FAILED else found[at : at + size]
        at += max(size, 0)
        records.append(Record(due, end, kind, before, after, answer))
    return records
