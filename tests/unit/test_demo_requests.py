# SPDX-License-Identifier: Apache-2.0
"""The demonstration's load generator, as a process, and the threads that answer it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from tf_model_pool.demo import client
from tf_model_pool.demo.requests import Requests
from tf_model_pool.errors import ModelPoolError

ENOUGH = 100


class FakeHot:
    """Answers request n with n, as version 7; every tenth call fails."""

    def __init__(self) -> None:
        self.version = 7
        self.calls = 0
        self.lock = threading.Lock()
        self.enough = threading.Event()

    def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.calls += 1
            if self.calls == ENOUGH:
                self.enough.set()
            if self.calls % 10 == 0:
                raise ValueError("every tenth")
        return {"score": inputs["n"]}


def inputs(count: int = 3) -> list[dict[str, Any]]:
    return [{"n": np.array([number], np.int64)} for number in range(count)]


def test_each_request_has_a_record_with_its_answer(capfd: pytest.CaptureFixture[str]) -> None:
    # GIVEN requests from another process, on two connections
    hot = FakeHot()
    with Requests(hot, inputs(), "score", rate=2000, threads=2) as requests:
        assert hot.enough.wait(60)
        # WHEN
        records = requests.end()
    # THEN
    assert len(records) == hot.calls
    failed = [each for each in records if each.answer is None]
    assert len(failed) == hot.calls // 10
    assert "a request failed: every tenth" in capfd.readouterr().err
    for each in records:
        assert each.due_ns < each.end_ns
        assert (each.before, each.after) == (7, 7)
        assert each.answer in (None, np.int64(each.kind).tobytes())
    # AND no two were due at once, however many threads send
    assert len({each.due_ns for each in records}) == len(records)


def test_a_load_generator_that_dies_is_an_error() -> None:
    hot = FakeHot()
    with Requests(hot, inputs(), "score", rate=2000, threads=1) as requests:
        assert hot.enough.wait(60)
        assert requests._client is not None
        os.kill(requests._client.pid, signal.SIGKILL)
        with pytest.raises(ModelPoolError, match="ended with status -9"):
            requests.end()


def test_an_error_of_the_server_ends_the_load_generator() -> None:
    hot = FakeHot()
    requests = Requests(hot, inputs(), "score", rate=2000, threads=1)
    with pytest.raises(KeyboardInterrupt), requests:
        interrupt_after_enough(hot)
    assert requests._client is not None
    assert requests._client.returncode == -signal.SIGKILL


def interrupt_after_enough(hot: FakeHot) -> None:
    assert hot.enough.wait(60)
    raise KeyboardInterrupt


def test_the_load_generator_imports_the_standard_library_alone() -> None:
    program = (
        "import runpy, sys\n"
        "runpy.run_path(sys.argv[1])\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, client.__file__],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert "socket" in found
    assert {"numpy", "tensorflow", "tf_model_pool"} & set(found) == set()
